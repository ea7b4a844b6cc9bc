# SPDX-License-Identifier: Apache-2.0
"""The host agent where the kernel enforces (`enforcer: nftables`): the same state in, the same questions answered.

It can be ended and started at any time: everything that packets need is the kernel's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from dfw.core import CoreError
from dfw.errors import EnvironmentLacksError
from dfw.model import VXLAN
from dfw.nftables.load import LoadError
from overlay import realized
from overlay.agent_base import LAST_GOOD, PIDS, AgentBase
from overlay.flow_filter import FlowFilterError, flow_filter_parse
from overlay.health import Health, show_health
from overlay.hoststate import HostState, StateError, file_replace
from overlay.kernel_connections import connections_meant, show_flows, vnic_owners
from overlay.kernel_fabric import card_name
from overlay.kernel_host import KernelHost
from overlay.kernel_log import KernelLog
from overlay.kernel_show import (
    KernelCounters,
    judgements,
    mended_sentence,
    read_cards,
    refusals,
    render_metrics,
    show_stats,
    unable_sentence,
)
from overlay.kernel_staged import show_staged, staged_counts, staged_sums
from overlay.linux import process_start
from overlay.rule_counts import RuleCounts
from overlay.sysctl_keep import BEFORE
from overlay.watch import FLOW_ROWS

MEMORY: Final = "kernel.json"
MEND_SECONDS: Final = 0.5  # what somebody takes away is away as long
_Answer = TypeVar("_Answer")
CANNOT_NOW: Final = (LoadError, CoreError, EnvironmentLacksError, OSError, subprocess.SubprocessError)
"""What a kernel or a tool that cannot do it now raises."""
_CONNTRACK: Final = Path("/proc/sys/net/netfilter")


class KernelAgent(AgentBase):
    """One host's agent, with the kernel's bridges and nftables. `_refused`: a state that is to be tried again."""

    _refused: bytes | None = None
    _is_worth_another = False

    def start(self) -> None:
        """Put the last good state in force. Raises EnvironmentLacksError: another agent runs here, or the machine lacks
        something."""
        options = self.options
        for folder in (options.run, options.kept):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._alone()
        file_replace(options.run / PIDS, json.dumps({"agent": [os.getpid(), process_start(os.getpid())]}).encode())
        self.kernel = KernelHost(options.underlay, options.run / MEMORY, options.kept / BEFORE)
        self.since_reset = RuleCounts()
        self.firewall_log = KernelLog(options.log_dir or options.run, options.firewall_log)
        self._mended = 0.0
        self.unmended: str | None = None
        with contextlib.suppress(FileNotFoundError):
            self._take((options.kept / LAST_GOOD).read_bytes(), keep=False)
        self.log.info("started", realized=self.realized, enforcer="nftables")

    def _take(self, data: bytes, *, keep: bool = True) -> None:
        self._refused = None
        super()._take(data, keep=keep)
        # A state that is wrong stays wrong; a kernel or a tool that could not do it may be able to later.
        if self._is_worth_another:
            self._is_worth_another = False
            self._refused = data
            self.retry.failed()

    def _apply(self, state: HostState) -> None:
        begun = time.monotonic()
        try:
            self.kernel.apply(state)
            self.since_reset.keep(self.rule_counts())
        except StateError:
            raise
        except CANNOT_NOW as error:
            self._is_worth_another = True
            raise StateError(f"it cannot be put in force: {error}") from error
        except ValueError as error:  # more vNICs than a packet's mark can tell apart, an address that is none
            raise StateError(str(error)) from error
        except Exception as error:
            self.log.debug("a state that does not fit together", revision=state.revision, exc_info=True)
            raise StateError(f"this state does not fit together: {type(error).__name__} {error}") from error
        self._tried()
        self.log.info("realized", revision=state.revision, seconds=round(time.monotonic() - begun, 4))

    def _tried(self) -> None:
        if self.kernel.problems:
            self.retry.failed()
            self.log.warning("problems", again_in=self.retry.pause, problems=self.kernel.problems)
        else:
            self.retry.done()

    def _try_again(self) -> None:
        if self._refused is not None:
            self._take(self._refused)
        elif self.kernel.state is not None:
            with contextlib.suppress(StateError):
                self._apply(self.kernel.state)

    async def look(self) -> None:
        async with self.lock:
            data = self.desired.read()
            if data is not None:
                await asyncio.to_thread(self._take, data)
            elif self.retry.left() == 0:
                await asyncio.to_thread(self._try_again)

    def _begin(self) -> None:
        pass

    def _end(self) -> None:
        pass

    async def _tick(self) -> None:
        try:
            await asyncio.to_thread(self.firewall_log.drain, self.kernel.rendered)
        except (OSError, ValueError) as error:
            self.log.error("the firewall log cannot be read", error=str(error))
        if time.monotonic() > self._mended + MEND_SECONDS:
            self._mended = time.monotonic()
            async with self.lock:
                try:
                    await asyncio.to_thread(self.kernel.mend)
                    self.unmended = None
                except (*CANNOT_NOW, ValueError) as error:
                    self.unmended = f"changed by somebody else, and cannot be put right: {error}"
                    self.log.error("the rules cannot be put right", error=str(error))

    async def answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            what = request["do"]
        except (ValueError, TypeError, KeyError):
            return {"error": "a request is one line of JSON: an object with the member do"}
        if what == "status":
            return await self._asked(self.status)
        if what == "show":
            rows = await self._asked(lambda: self.show(str(request.get("what"))))
            return {"error": f"an agent has no {request.get('what')!r} to show"} if rows is None else {"rows": rows}
        if what == "apply":
            await self.look()
            return await self._asked(self.status)
        if what == "reset":
            return {"rows": await self._asked(self.reset_counts)}
        if what == "metrics":
            return {"text": await self._asked(lambda: render_metrics(self.counters()))}
        if what in ("flows", "kill"):
            return await self._asked(lambda: self.flows(request))
        if what == "places":
            return await self._places()
        if what == "end":
            self.ended.set()
            return {}
        return {"error": unable_sentence(what)}

    async def _asked(self, question: Callable[[], _Answer]) -> _Answer:
        """One at a time asks the kernel."""
        async with self.lock:
            return await asyncio.to_thread(question)

    def status(self) -> dict[str, Any]:
        """What `lab status` and `show hosts` say of this host."""
        state = self.kernel.state
        return {
            "host": self.options.host,
            "pid": os.getpid(),
            "holder_pid": None,
            "tep": None if state is None else state.tep,
            "underlay": self.options.underlay,
            "tier": self._tier(),
            "revision_wanted": self.wanted,
            "revision_realized": self.realized,
            "error": self.error,
            "problems": self.kernel.problems,
            "vnics": len(self.kernel.attached),
            "connections": _number("nf_conntrack_count"),
            "drops": refusals({} if state is None else self._judged()),
        }

    def flows(self, request: dict[str, Any]) -> dict[str, Any]:
        """Rows of `show flows`; or the connections that are meant are ended, for both of their vNICs."""
        try:
            asked = flow_filter_parse(str(request.get("match")))
        except FlowFilterError as error:
            return {"error": str(error)}
        if asked.rule is not None:
            return {"error": "rule= is nothing that connections of a kernel know"}
        state, conntrack = self.kernel.state, self.kernel.conntrack
        found = [] if state is None else connections_meant(asked, conntrack.connections(), vnic_owners(state))
        if request["do"] == "kill":
            return {"ended": conntrack.end({item.key: item for item, _, _ in found}.values())}
        most = int(request.get("limit") or FLOW_ROWS)
        return {"rows": show_flows(found[:most]), "total": len(found)}

    def _counts(self) -> dict[str, tuple[int, int]]:
        try:
            return self.kernel.link.counters()
        except OSError:
            return {}

    def _tier(self) -> str:
        state = self.kernel.state
        return "/".join(sorted({tep.encap.upper() for tep in state.teps} if state else ())) or VXLAN.upper()

    def _judged(self) -> dict[tuple[str, str], int]:
        rendered = self.kernel.rendered
        return {} if rendered is None else judgements(rendered, self._counts())

    def _staged(self) -> dict[str, int] | None:
        rendered = self.kernel.rendered
        return None if rendered is None or not rendered.staged_of else staged_sums(self._counts())

    def counters(self) -> KernelCounters:
        """Everything that is counted here, now. Raises OSError."""
        found, rendered = read_cards(), self.kernel.rendered
        names = {} if rendered is None else rendered.names.vnics
        cards = {name: found.get(card_name(names[name])) for name in self.kernel.attached}
        cards["uplink"] = found.get(self.options.underlay)
        held, room = _number("nf_conntrack_count"), _number("nf_conntrack_max")
        there = {name: card for name, card in cards.items() if card is not None}
        judged, staged = self._judged(), self._staged()
        revisions = self.wanted, self.realized
        return KernelCounters(self.options.host, judged, held, room, there, *revisions, staged, self.kernel.mended)

    def reset_counts(self) -> realized.Rows:
        """Rule counters begin at 0 again; the rows as they were."""
        rows = self.show("counters") or []
        self.since_reset.reset(rows, self.rule_counts())
        return rows

    def rule_counts(self) -> dict[str, tuple[int, int, int]]:
        """Hits, packets and bytes by the rule's path: packets that the rule was asked about."""
        rendered = self.kernel.rendered
        if rendered is None:
            return {}
        found = self._counts()
        rules = ((rule.path, found.get(name, (0, 0))) for name, rule in rendered.rule_of.items())
        mine = {path: (packets, packets, octets) for path, (packets, octets) in rules}
        return mine | staged_counts(rendered, found)

    def show(self, what: str) -> realized.Rows | None:
        """The rows of `palisade show` that this host has; None for a word that it does not know."""
        state = self.kernel.state
        if what == "hosts":
            return [self.status()]
        if what == "health":
            room = _number("nf_conntrack_max")
            tables = {"IPv4 and IPv6": (_number("nf_conntrack_count"), room)}
            says, problems = self.firewall_log.says(), self.kernel.problems
            facts = Health(
                self.wanted,
                self.realized,
                self.error,
                tables,
                problems=problems,
                log=says,
                has_workers=False,
                mended=mended_sentence(self.kernel.mended, self.kernel.mended_at),
                unmended=self.unmended,
            )
            return show_health(facts)
        if what == "stats":
            return show_stats(self._judged(), self._staged())
        if what not in (*realized.STATE_SHOWS, "vnics", "rules", "counters", "tep-table"):
            return None
        if state is None:
            return []
        if what == "tep-table":
            return realized.show_tep_table(state, {})
        if what == "vnics":
            assert self.kernel.rendered is not None
            numbers = self.kernel.rendered.names.vnics
            attached = {name: numbers[name] for name in self.kernel.attached}
            return realized.show_vnics(state, attached, self.kernel.problems)
        if what == "rules":
            return realized.show_rules(state, self.since_reset.shown(self.rule_counts()))
        if what == "counters":
            counts = self.since_reset.shown(self.rule_counts())
            since = self.since_reset.since
            return realized.show_counters(state, counts, since) + show_staged(state, counts, since)
        return realized.STATE_SHOWS[what](state)

    def close(self) -> None:
        """Everything stays in force."""
        with contextlib.suppress(OSError, ValueError):
            self.firewall_log.drain(self.kernel.rendered)
        self.firewall_log.close()
        self.kernel.close()
        for close in reversed(self._closing):
            close()


def _number(name: str) -> int:
    try:
        return int((_CONNTRACK / name).read_text(encoding="ascii"))
    except OSError:
        return 0
