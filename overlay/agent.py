# SPDX-License-Identifier: Apache-2.0
"""The host agent: desired state in, realized state out; the packets themselves run in the packet core's threads.

It takes its state from a file (overlay/desired.py), puts it in force, keeps the
last state that was good, and answers questions on a Unix socket. When it dies, its successor maps the same connection
tables, takes the TAPs from the holder and goes on (DESIGN section 4).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from typing import Any, Final

import msgspec

from dfw.core import CoreError, Engine, EngineOptions, Host
from dfw.core.live import Live
from dfw.errors import EnvironmentLacksError
from overlay import realized
from overlay.agent_base import LAST_GOOD, MEMORY, PIDS, POLL_SECONDS, TABLE, TEPS, AgentBase, AgentOptions
from overlay.attachment import ATTACHED, AttachError, Attachments
from overlay.cards import Cards
from overlay.desired import Desired
from overlay.enforce import HostEnforcer, Memory
from overlay.holder import HOLDER_SOCKET, HolderClient, HolderError, holder_open
from overlay.host_log import HostLog
from overlay.hoststate import HostState, StateError, file_replace
from overlay.limits import live_limits
from overlay.linux import boot_id, process_start
from overlay.metrics import HostCounters, render_metrics
from overlay.move import Moves
from overlay.path_mtu import AskedError, AskedTeps, paths_answer
from overlay.sysctl_keep import BEFORE
from overlay.teps import TepWatch
from overlay.watch import HostWatch

MEND_SECONDS: Final = 2.0


class Agent(AgentBase):
    """One host's agent, with the packet core."""

    def __init__(self, options: AgentOptions, desired: Desired | None = None) -> None:
        super().__init__(options, desired)
        self.told: HostState | None = None  # what is in force, without what is attached here
        self.asked = AskedTeps()
        self._mended = 0.0

    def start(self) -> None:
        """Open tables and cards and put the last good state in force.

        Raises EnvironmentLacksError: another agent runs here, or the machine lacks something.
        """
        options = self.options
        for folder in (options.run, options.kept):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._alone()
        memory = self._memory()
        self.engine = Engine(
            EngineOptions(
                capacity4=options.connections,
                capacity6=options.connections // 4,
                filters=options.filters,
                workers=options.workers,
                sanity="drop",
                name_rules=False,  # a capture asks for them while it runs
                path=str(options.run / TABLE),
                limits=options.limits or live_limits(options.connections),
            )
        )
        self.host = Host(self.engine)
        self.live = Live(self.host, options.workers)
        self.holder = self._holder()
        self.holder_pid = self.holder.pid()
        self._say_pids()
        self.enforcer = HostEnforcer(self.engine, self.host, memory, self._remember)
        self.teps = TepWatch(self.live, options.run / TEPS, memory.boot, self._leave_out)
        self.enforcer.dead = self.teps.dead()
        log = HostLog(self.live, options.log_dir or options.run, options.firewall_log)
        self.watch = HostWatch(self.live, self.enforcer, self.holder_pid, log)
        self.cards = Cards(self.live, self.holder, options.underlay, options.workers, options.kept / BEFORE)
        self.attachments = Attachments(options.kept / ATTACHED)
        self.moves = Moves(self.live, self.enforcer, self.cards)
        self.cards.restore()
        self.live.start()  # a port carries packets as soon as it is added
        with contextlib.suppress(FileNotFoundError):
            self._take((options.kept / LAST_GOOD).read_bytes(), keep=False)
        self.log.info("started", realized=self.realized, cards=len(self.cards.cards))
        self._say_missing()

    def _say_missing(self) -> None:
        """What may still come, and is waited for, is said once."""
        if not self.options.desired.exists():
            self.log.warning("no state yet", waiting_for=str(self.options.desired), in_force=self.realized)
        there = [name for _, name in socket.if_nameindex()]
        if self.options.underlay not in there:
            self.log.warning("no underlay interface yet", waiting_for=self.options.underlay, there=there)

    def _memory(self) -> Memory:
        """What the agent before this one knew. Its connections' deadlines count by the clock of one boot."""
        boot = boot_id()
        try:
            memory = msgspec.json.decode((self.options.run / MEMORY).read_bytes(), type=Memory)
        except (OSError, msgspec.DecodeError):
            memory = Memory()
        if memory.boot != boot:
            for path in self.options.run.glob(f"{TABLE}*"):
                path.unlink()
            memory = Memory(epoch=memory.epoch, boot=boot)
        return memory

    def _remember(self, memory: Memory) -> None:
        # Another boot throws it away, so that waiting for the disk (10 ms before each commit) would keep nothing.
        file_replace(self.options.run / MEMORY, msgspec.json.encode(memory), durable=False)

    def _holder(self) -> HolderClient:
        try:
            return holder_open(str(self.options.run / HOLDER_SOCKET))
        except HolderError as error:
            raise EnvironmentLacksError("a process that holds the TAPs", str(error)) from error

    def _say_pids(self) -> None:
        """Who belongs to this host, for whoever has to end it when nobody answers any more."""
        pids = {"agent": os.getpid(), "holder": self.holder_pid}
        started = {name: [pid, process_start(pid)] for name, pid in pids.items()}
        file_replace(self.options.run / PIDS, json.dumps(started).encode())

    def _apply(self, state: HostState) -> None:
        """Rules first, then the cards that they protect: a vNIC passes nothing before its rules are there. What packets
        need comes before what is only looked at, or made once."""
        begun = time.monotonic()
        told, state = state, self.asked.over(self.attachments.over(state))
        epoch = self.enforcer.commit(state)
        self.told = told
        self.cards.apply(state, self.enforcer.number)
        self.cards.apply_uplink(state, self.options.uplink)
        self.cards.apply_interfaces(state.vnics)
        self._tried()
        spent = time.monotonic() - begun
        self.log.info("realized", revision=state.revision, epoch=epoch, seconds=round(spent, 4))

    def _tried(self) -> None:
        """What could not be done for a vNIC or the uplink is tried again, whether or not the state changes."""
        if self.cards.problems:
            self.retry.failed()
            self.log.warning("problems", again_in=self.retry.pause, problems=self.cards.problems)
        else:
            self.retry.done()

    def _try_again(self) -> None:
        state = self.enforcer.state
        if state is not None and self.retry.left() == 0:
            self.cards.retry(state, self.enforcer.number, self.options.uplink)
            self._tried()

    async def _attach(self, request: dict[str, Any]) -> dict[str, Any]:
        """Attach or detach a vNIC of this host's own (overlay/attachment.py)."""
        async with self.lock:
            told = self.told

            def again() -> None:
                if told is not None:
                    self._apply(told)

            try:
                answer = await asyncio.to_thread(self.attachments.change, request, told, again)
            except AttachError as error:
                return {"error": str(error)}
            return answer | {"problem": self.cards.problems.get(answer["attachment"]["name"])}

    async def look(self) -> None:
        """Take the desired state, if it has changed; else try again what could not be done, when its time has come."""
        async with self.lock:
            self.moves.thaw_forgotten()
            data = self.desired.read()
            if data is not None:
                await asyncio.to_thread(self._take, data)  # netlink's sockets don't like a running loop
                self._follow()
            elif self.retry.left() == 0:
                await asyncio.to_thread(self._try_again)

    def _follow(self) -> None:
        if self.enforcer.state is not None:
            self.teps.follow(self.enforcer.state)

    async def _leave_out(self, dead: frozenset[str]) -> None:
        """Dead TEPs get no copies of frames for many."""
        async with self.lock:
            await asyncio.to_thread(self.enforcer.set_dead, dead)

    def _begin(self) -> None:
        self.teps.begin()
        self._follow()

    def _end(self) -> None:
        self.teps.end()

    async def _tick(self) -> None:
        self.watch.look(POLL_SECONDS)
        await self._mend()
        if self.asked.is_over():
            self.asked.forget()
            try:
                await self._again()
            except (StateError, CoreError, OSError) as error:
                self.log.error("TEPs that were measured stay known until the next state", error=str(error))

    async def _again(self) -> None:
        """Put what was told in force once more: what lies over it is another. Raises StateError, CoreError, OSError."""
        async with self.lock:
            if self.told is not None:
                await asyncio.to_thread(self._apply, self.told)
                self._follow()

    async def _paths(self, request: dict[str, Any]) -> dict[str, Any]:
        """Measure the ways to other TEPs; some may be known only for that (overlay/path_mtu.py)."""
        try:
            self.asked.take(request)
            if request.get("teps"):
                await self._again()
        except (AskedError, StateError, CoreError, OSError) as error:
            self.asked.forget()
            return {"error": str(error)}
        return await paths_answer(self.teps, self.enforcer.state, request)

    async def _stream(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        return await self.watch.stream(line, reader, writer)

    async def _mend(self) -> None:
        """While another TEP is dead, the reason may be here."""
        if self.teps.dead() and time.monotonic() > self._mended + MEND_SECONDS:
            async with self.lock:
                await asyncio.to_thread(self.cards.rewire)
            self._mended = time.monotonic()

    async def answer(self, line: bytes) -> dict[str, Any]:
        """What is asked in one line of JSON, answered; `error` where it cannot be."""
        try:
            request = json.loads(line)
            what = request["do"]
        except (ValueError, TypeError, KeyError):
            return {"error": "a request is one line of JSON: an object with the member do"}
        if what == "status":
            return self.status()
        if (seen := await self.watch.answer(request)) is not None:
            return seen
        if what == "show":
            rows = self.show(str(request.get("what")))
            return {"error": f"an agent has no {request.get('what')!r} to show"} if rows is None else {"rows": rows}
        if what == "metrics":
            return {"text": render_metrics(self.counters())}
        if what == "apply":
            await self.look()
            return self.status()
        if what == "places":
            return await self._places()
        if what == "paths":
            return await self._paths(request)
        if what == "move":
            async with self.lock:
                return await asyncio.to_thread(self.moves.answer, request)
        if what in ("attach", "detach"):
            return await self._attach(request)
        if what == "end":
            self.ended.set()
            if request.get("holder"):
                self.holder.end()
            return {}
        return {"error": f"{what!r} is nothing that an agent does"}

    def status(self) -> dict[str, Any]:
        """What `lab status` and `show hosts` say of this host."""
        stats = self.engine.stats()
        return {
            "host": self.options.host,
            "pid": os.getpid(),
            "holder_pid": self.holder_pid,
            "tep": None if self.enforcer.state is None else self.enforcer.state.tep,
            "underlay": self.options.underlay,
            "tier": self.cards.tier,
            "revision_wanted": self.wanted,
            "revision_realized": self.realized,
            "error": self.error,
            "problems": self.cards.problems,
            "vnics": sum(card.number is not None for card in self.cards.cards.values()),
            "connections": stats.connections4 + stats.connections6,
            "drops": sum(self.host.stats().dropped.values()),
        }

    def counters(self) -> HostCounters:
        """Everything that is counted here, now."""
        vnics = {number: name for name, number in self.cards.attached().items()}
        stats, live = self.engine.stats(), self.live.stats()
        teps = self.teps.counts(self.enforcer.state)
        missing = self.watch.log.missing
        return HostCounters(self.options.host, stats, live, vnics, self.wanted, self.realized, teps, missing)

    def show(self, what: str) -> realized.Rows | None:
        """The rows of `palisade show` that this host has; None for a word that it does not know."""
        state = self.enforcer.state
        if what == "hosts":
            return [self.status()]
        if what == "stats":
            return realized.show_stats(self.engine.stats(), self.host.stats()) + self.teps.show_dropped()
        if what == "health":
            rows = self.watch.health(self.wanted, self.realized, self.error, self.cards.problems)
            return rows + self.teps.show_health(state)
        if what not in (*realized.STATE_SHOWS, "vnics", "rules", "counters", "tep-table"):
            return None
        if state is None:
            return []
        if what == "tep-table":
            return realized.show_tep_table(state, self.teps.report())
        if what == "vnics":
            return realized.show_vnics(state, self.cards.attached(), self.cards.problems)
        if what == "rules":
            return realized.show_rules(state, self.watch.rule_counts())
        if what == "counters":
            return self.watch.counters(state)
        return realized.STATE_SHOWS[what](state)

    def close(self) -> None:
        """Stop the workers and close everything; the holder keeps the cards."""
        self.live.stop()
        self.watch.drain()
        self.watch.log.close()
        self.cards.close()
        self.holder.close()
        for close in reversed(self._closing):
            close()
