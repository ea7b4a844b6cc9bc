# SPDX-License-Identifier: Apache-2.0
"""A host's state into its kernel: rules, who the ends are, bridges, cards, routes. What has changed is changed.

Rules first, so that a card passes nothing before its rules are there. What was made is kept in a file: the next agent
takes away what is too much, and rules keep their counters.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from dfw.compile import Compiled
from dfw.errors import EnvironmentLacksError
from dfw.logs import get_logger
from dfw.nftables import Names, Rendered, Ruleset, plan_update, render_ruleset, ruleset_sorted
from dfw.nftables.conntrack import ConntrackSocket
from dfw.nftables.load import LoadError, RulesetLink, nft_needed
from dfw.nftables.render import TABLE
from overlay.hoststate import HostState, file_replace
from overlay.kernel_connections import connections_refused, vnic_owners
from overlay.kernel_ends import TABLE as ENDS_TABLE
from overlay.kernel_ends import render_ends
from overlay.kernel_fabric import apply_fabric, plan_fabric, segment_zones
from overlay.kernel_staged import connections_would
from overlay.kernel_tables import host_tables, staged_tables, unenforced_vnics
from overlay.kernel_tunnels import FabricStep, geneve_lack, speaks_geneve
from overlay.sysctl_keep import keep_sysctls
from overlay.uplink import UplinkStep, apply_uplink, plan_uplink, remove_uplink
from overlay.vnic import VnicSetup, apply_vnic, vnic_setup

UPLINK = "uplink"
BRIDGED = tuple(Path(f"/proc/sys/net/bridge/bridge-nf-call-{tool}") for tool in ("iptables", "ip6tables"))
"""What hands bridged packets to the rules. Of the namespace of whoever reads."""


class KernelMemory(msgspec.Struct):
    """What the next process must know of this one: numbers in the rules, and what was made."""

    names: Names = msgspec.field(default_factory=Names)
    steps: list[FabricStep] = []


def kernel_needed() -> None:
    """Raises EnvironmentLacksError: what a host whose kernel enforces needs is not there."""
    nft_needed()
    for tool in ("ip", "bridge"):
        if shutil.which(tool) is None:
            raise EnvironmentLacksError(f"no command {tool}", "apt-get install iproute2")
    if not BRIDGED[0].exists():
        raise EnvironmentLacksError("no br_netfilter in this kernel", "modprobe br_netfilter")


class KernelHost:
    """One host's. Its own thread lives in the host's namespace when this is made. Raises EnvironmentLacksError,
    OSError."""

    def __init__(self, underlay: str, memory: Path, before: Path) -> None:
        self.underlay, self._file, self._before = underlay, memory, before
        kernel_needed()
        self.link = RulesetLink(TABLE)
        self.conntrack = ConntrackSocket()
        self.log = get_logger("kernel")
        self.memory = _memory_read(memory)
        self.state: HostState | None = None
        self.rendered: Rendered | None = None
        self.ends = ""
        self.problems: dict[str, str] = {}
        self.attached: dict[str, str] = {}
        self.generation = -1
        self.mended, self.mended_at = 0, 0.0  # how often something was put right, and when last
        self._fresh = True
        self._settled: dict[str, tuple[VnicSetup, str]] = {}
        self._wires: tuple[UplinkStep, ...] = ()

    def apply(self, state: HostState) -> None:
        """Put a state in force. Raises StateError, LoadError, OSError: then the rules are as they were. What cannot be
        done for one vNIC or the underlay stands in `problems`."""
        compiled, staged = host_tables(state), staged_tables(state)
        rendered = render_ruleset(
            compiled,
            [vnic.name for vnic in state.vnics],
            zones=segment_zones(state),
            names=self.memory.names,
            before=self.rendered,
            staged=staged,
        )
        numbers = rendered.names.vnics
        attached = {vnic.name: _pod(vnic.netns) for vnic in state.vnics if vnic.netns is not None}
        attached = {name: pod for name, pod in attached.items() if pod}
        steps = plan_fabric(state, numbers, attached)
        ends = render_ends(state, numbers, unenforced_vnics(state))
        self._check_ends(ends)
        self.mark_staged(state, staged)
        self._rules(rendered.ruleset)
        before, self.rendered = self.rendered, rendered
        try:
            self._put_ends(ends)
        except LoadError:
            self._back_to(before)
            raise
        self.memory.names, self.state = rendered.names, state
        self.generation = self.link.generation()
        self.end_refused(compiled)
        self.mark_staged(state, staged)
        self.problems = {
            vnic.name: f"{vnic.interface} in {vnic.netns}: there is no such namespace"
            for vnic in state.vnics
            if vnic.netns is not None and vnic.name not in attached
        } | unenforced_vnics(state)
        said = apply_fabric(self.memory.steps, steps, anew=self._fresh)
        self.memory.steps = list(steps)
        lack = geneve_lack() if speaks_geneve(state) else None
        if lack:
            told = (
                f"this kernel has no Geneve ({lack}), which is to be spoken with {', '.join(speaks_geneve(state)[:3])}"
            )
            self.problems["fabric"] = f"{told}: give its Host encapsulation: vxlan"
        elif said:
            self.problems["fabric"] = "; ".join(said[:3])
        self.attached = attached
        file_replace(self._file, msgspec.json.encode(self.memory), durable=False)
        self._uplink(state)
        self._interfaces(state)
        self._fresh = bool(self.problems)

    def end_refused(self, compiled: Compiled) -> None:
        """End what the rules would not let begin any more. What comes between the rules and this is of a connection
        that was allowed."""
        assert self.state is not None
        found = self.conntrack.connections()
        refused = connections_refused(found, vnic_owners(self.state), compiled)
        if refused:
            self.log.info("connections ended by the rules", ended=self.conntrack.end(refused), of=len(found))

    def mark_staged(self, state: HostState, staged: Compiled | None) -> None:
        """Say in the marks of open connections what staged rules would have said of them: before these rules are there,
        so that none counts as cut meanwhile, and after it, of those that have come."""
        if staged is not None:
            self.conntrack.mark(connections_would(self.conntrack.connections(), vnic_owners(state), staged))

    def _rules(self, wanted: Ruleset) -> None:
        """From what is in force, as far as anybody knows; else as a whole."""
        self._exchange(self._read() if self.rendered is None else self.rendered.ruleset, wanted)

    def _exchange(self, known: Ruleset | None, wanted: Ruleset) -> None:
        """The one for the other, as a whole where it must be. Raises LoadError."""
        if known is not None:
            try:
                self.link.update(plan_update(known, wanted))
                return
            except (LoadError, ValueError) as error:
                self.log.warning("rules are put there as a whole", reason=str(error))
        self.link.apply(wanted)

    def _read(self) -> Ruleset | None:
        try:
            return self.link.read()
        except (LoadError, ValueError):
            return None

    def mend(self) -> bool:
        """Put rules and ends right again, if somebody else has changed them. Returns whether that was so."""
        for path in BRIDGED:
            if path.read_text(encoding="ascii").strip() != "1":
                path.write_text("1", encoding="ascii")
                self._mended("bridged packets were not judged any more; put right again", setting=path.name)
        if self.rendered is None or self.state is None or self.link.generation() == self.generation:
            return False
        is_other = self._mend_rules(self.rendered.ruleset)
        ends, self.ends = self.ends, ""
        before = self._ends_read()
        try:
            self._put_ends(ends)
        except LoadError:
            self.ends = ends
            raise
        if self._ends_read() != before:
            is_other = True
            self._mended("who the ends are was changed by somebody else; put right again")
        self.generation = self.link.generation()
        return is_other

    def _mend_rules(self, wanted: Ruleset) -> bool:
        """Returns whether they were others. What an update would leave, such as another policy of a base chain or an
        interval set as one that is empty, goes with the whole table, and its counters with it."""
        found = self._read()
        if found is not None and ruleset_sorted(found) == ruleset_sorted(wanted):
            return False
        self._exchange(found, wanted)
        found = self._read()
        if found is None or ruleset_sorted(found) != ruleset_sorted(wanted):
            self.link.apply(wanted)
        self._mended("the rules were changed by somebody else; put right again")
        return True

    def _ends_read(self) -> list[str | None]:
        return [self.link.other_read(family, ENDS_TABLE) for family in ("bridge", "inet")]

    def _mended(self, what: str, **more: str) -> None:
        self.log.warning(what, **more)
        self.mended += 1
        self.mended_at = time.time()

    def _back_to(self, before: Rendered | None) -> None:
        """The rules as they were: those that came do not go with who the ends are. At an agent's first state there is
        none before; then the new ones stay, which refuse whom they do not know."""
        if before is None or self.rendered is None:
            return
        try:
            self.link.update(plan_update(self.rendered.ruleset, before.ruleset))
            self.rendered = before
        except (LoadError, ValueError) as error:
            self.log.error("the rules before cannot be put back", reason=str(error))

    def _check_ends(self, text: str) -> None:
        """Would nftables take who the ends are? Asked before anything is changed. Raises LoadError."""
        if text != self.ends:
            _of_ends(self.link.check, text)

    def _put_ends(self, text: str) -> None:
        if text != self.ends:
            _of_ends(self.link.run, text)
            self.ends = text

    def _uplink(self, state: HostState) -> None:
        wires = plan_uplink("B", self.underlay, state.tep, [tep.ip for tep in state.teps], state.underlay_mtu)
        try:
            if wires != self._wires:
                remove_uplink(step for step in self._wires if step not in wires)
                keep_sysctls(self._before, wires)
                apply_uplink(wires)
                self._wires = wires
        except OSError as error:
            self.problems[UPLINK] = str(error)

    def _interfaces(self, state: HostState) -> None:
        """The pods' ends of the cards."""
        for vnic in state.vnics:
            pod = self.attached.get(vnic.name)
            if pod is None or self._settled.get(vnic.name) == (vnic_setup(vnic), pod):
                continue
            try:
                apply_vnic(vnic.netns, vnic)
                self._settled[vnic.name] = (vnic_setup(vnic), pod)
            except OSError as error:
                self.problems[vnic.name] = f"{vnic.interface} in {vnic.netns}: {error}"

    def close(self) -> None:
        """All stays in force."""
        self.link.close()
        self.conntrack.close()


def _of_ends(does: Callable[[str], None], text: str) -> None:
    try:
        does(text)
    except LoadError as error:
        raise LoadError(f"who the ends are: {error}") from error


def _pod(netns: str) -> str:
    """What tells a namespace from the next one at its path; empty where there is none."""
    try:
        found = os.stat(netns)
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"


def _memory_read(path: Path) -> KernelMemory:
    try:
        return msgspec.json.decode(path.read_bytes(), type=KernelMemory)
    except (OSError, msgspec.DecodeError):
        return KernelMemory()
