# SPDX-License-Identifier: Apache-2.0
"""Which other hosts' TEPs are alive: BFD sessions over the packet core's control socket, in the agent's loop.

A session's state is in a file: an agent that was killed goes on where it was, and the others notice nothing as long as
it is back within their detection time.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from dfw import model
from dfw.core import CoreError
from dfw.core.live import ControlPacket
from dfw.logs import get_logger
from overlay import bfd
from overlay.bfd_packet import GENEVE, BfdError, BfdPacket, Diagnostic, Ip, State, frame_decode, frame_encode
from overlay.hoststate import HostState, StateError, file_replace

MALFORMED: Final = "control-malformed"
NO_SESSION: Final = "control-session"
QUEUE_FULL: Final = "queue-full"
READS: Final = 256  # packets at a time, so that others have their turn
SECOND: Final = 1_000_000_000
SOURCE_PORT: Final = 49152  # RFC 5881 section 4: 49152 to 65535


class ControlSocket(Protocol):
    """Where control packets come and go: `dfw.core.live.Live`."""

    def control_fd(self) -> int: ...
    def read_control(self) -> ControlPacket | None: ...
    def send_control(self, packet: ControlPacket) -> None: ...


class Saved(msgspec.Struct):
    """The file. Times count by the clock of one boot."""

    boot: str = ""
    sessions: dict[str, bfd.Session] = {}


@dataclass(frozen=True, slots=True)
class TepCounts:
    """By the other host's name, the state of the session with it and how often that has changed; control packets
    received, sent, and dropped by reason."""

    sessions: dict[str, tuple[State, int]]
    received: int
    sent: int
    dropped: dict[str, int]


class TepWatch:
    """The sessions, by the other TEP's address.

    `path`: the file; `boot`: of the machine; `enforce`: is awaited with the TEPs that are dead whenever these have
    changed.
    """

    def __init__(
        self, control: ControlSocket, path: Path, boot: str, enforce: Callable[[frozenset[str]], Awaitable[None]]
    ) -> None:
        self.control, self.path, self.boot, self.enforce = control, path, boot, enforce
        self.log = get_logger("teps")
        self.sessions: dict[str, bfd.Session] = {}
        self.dropped: Counter[str] = Counter()  # by reason
        self.received = self.sent = 0
        self.changes: Counter[str] = Counter()  # of states, by TEP
        self._vni: dict[str, int] = {}
        self._own: Ip | None = None
        self._enforced = frozenset[str]()
        self._enforcing: asyncio.Task[None] | None = None
        self._saving: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0  # when it goes off
        self._is_calm: bool | None = None  # every session is Up or switched off
        self._pause = SECOND // 4  # between two looks then
        self._polled: dict[str, asyncio.Future[None]] = {}  # who waits for a Final, by TEP
        with contextlib.suppress(OSError, msgspec.DecodeError):
            saved = msgspec.json.decode(path.read_bytes(), type=Saved)
            if saved.boot == boot:
                self.sessions = {tep: bfd.session_resume(item, _now()) for tep, item in saved.sessions.items()}
        self._enforced = self.dead()

    def dead(self) -> frozenset[str]:
        """TEPs that were there and are gone."""
        return frozenset(tep for tep, session in self.sessions.items() if bfd.is_dead(session))

    def begin(self) -> None:
        """Listen, from inside the running loop."""
        self._listen(is_calm=False)

    def _listen(self, *, is_calm: bool) -> None:
        """While all is well, packets may wait for the next look at the clock: waking costs more than they do."""
        if is_calm is not self._is_calm:
            loop, self._is_calm = asyncio.get_running_loop(), is_calm
            if is_calm:
                loop.remove_reader(self.control.control_fd())
            else:
                loop.add_reader(self.control.control_fd(), self._read)

    def end(self) -> None:
        """Fall silent. The others will say after their detection time that we are gone, unless somebody goes on."""
        self._listen(is_calm=True)
        for handle in (self._timer, self._saving):
            if handle is not None:
                handle.cancel()
        if self._enforcing is not None:
            self._enforcing.cancel()
        self._save()

    def follow(self, state: HostState) -> None:
        """Sessions with the TEPs of this state that speak BFD, with its timers, and with no others."""
        own = self._own = ip_address(state.tep)
        wanted = [
            tep.ip
            for tep in state.teps
            if ip_address(tep.ip).version == own.version and tep.encap == model.GENEVE and tep.bfd
        ]
        lowest = min((item.vni for item in state.segments), default=0)
        self._vni = {
            tep.ip: min((item.vni for item in state.segments if number in item.replicas), default=lowest)
            for number, tep in enumerate(state.teps)
        }
        now, is_off = _now(), state.bfd.interval == 0
        interval = (state.bfd.interval or 1000) * 1000
        timers = bfd.Timers(interval, interval, state.bfd.multiplier)
        for tep in [tep for tep in self.sessions if tep not in wanted]:
            self._forget(tep)
        for tep in wanted:
            before = self.sessions.get(tep)
            session = before or bfd.session_new(self._discriminator(), timers, now)
            session = bfd.session_configure(session, timers, now)
            self._take(tep, before, bfd.session_admin(session, is_down=is_off, now=now))
        self._pause = interval * 1000 // 4

    def _forget(self, tep: str) -> None:
        """The other end is told that nobody watches it any more, so that it does not take us for dead."""
        session = bfd.session_admin(self.sessions.pop(tep), is_down=True, now=_now())
        self._send(tep, bfd.session_packet(session))
        self.changes.pop(tep, None)
        self._changed()

    def _discriminator(self) -> int:
        taken = {session.own for session in self.sessions.values()}
        while (found := secrets.randbits(32)) == 0 or found in taken:
            pass
        return found

    def _read(self) -> None:
        """What has come."""
        for _ in range(READS):
            packet = self.control.read_control()
            if packet is None:
                break
            self._receive(packet)

    def _receive(self, packet: ControlPacket) -> None:
        if self._own is None:
            return
        before = self.sessions.get(packet.tep)
        try:
            found = frame_decode(packet.data, packet.header, self._own)
        except BfdError as error:
            self._drop(MALFORMED, packet.tep, error)
            return
        try:
            if before is None:
                raise BfdError("no session with this TEP")
            session, answer = bfd.session_receive(before, found, _now())
        except BfdError as error:
            self._drop(NO_SESSION, packet.tep, error)
            return
        self.received += 1
        waiting = self._polled.get(packet.tep)
        if found.is_final and waiting is not None and not waiting.done():
            waiting.set_result(None)
        self._take(packet.tep, before, session)
        if answer is not None:
            self._send(packet.tep, answer)

    def _drop(self, reason: str, tep: str, error: BfdError) -> None:
        self.dropped[reason] += 1
        self.log.debug("control packet refused", tep=tep, reason=reason, error=str(error))

    def _tick(self) -> None:
        """What has come by now was not late, however late we are. What may go out goes out together."""
        self._read()
        if self._timer is not None:
            self._timer.cancel()
        self._timer, now, roll = None, _now(), random.random()
        pause = int(self._pause * (0.75 + roll / 4))
        for tep, before in list(self.sessions.items()):
            session, packet = bfd.session_tick(before, now, roll, pause)
            if session is not before:
                self._take(tep, before, session)
            if packet is not None:
                self._send(tep, packet)
        if self.sessions:
            due = min(map(bfd.session_due, self.sessions.values()))
            self._schedule(min(due, now + pause) if self._is_calm else due)

    def _schedule(self, due: int) -> None:
        """Look again then, if not earlier."""
        if self._timer is not None:
            if due >= self._due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_later(max(due - _now(), 0) / 1e9, self._tick)

    def _take(self, tep: str, before: bfd.Session | None, session: bfd.Session) -> None:
        self.sessions[tep] = session
        self._schedule(bfd.session_due(session))
        if before is not None and session.state is before.state and session.remote == before.remote:
            return
        if before is not None and session.state is not before.state:
            self.changes[tep] += 1
            tell = self.log.warning if before.state is State.UP else self.log.info
            tell(
                "bfd", tep=tep, state=session.state.name, before=before.state.name, diagnostic=_said(session.diagnostic)
            )
        self._changed()

    def _changed(self) -> None:
        loop = asyncio.get_running_loop()
        self._listen(is_calm=all(item.state in (State.UP, State.ADMIN_DOWN) for item in self.sessions.values()))
        if self._saving is None:
            self._saving = loop.call_soon(self._save)
        if self.dead() != self._enforced and self._enforcing is None:
            self._enforcing = loop.create_task(self._enforce())

    def _save(self) -> None:
        self._saving = None
        file_replace(self.path, msgspec.json.encode(Saved(self.boot, self.sessions)))

    async def _enforce(self) -> None:
        """One change at a time, until what is in force is what is so."""
        try:
            while (dead := self.dead()) != self._enforced:
                await self.enforce(dead)
                self._enforced = dead
                self.log.info("replication", without=sorted(dead))
        except (CoreError, StateError, OSError) as error:
            self.log.error("dead TEPs not taken out of replication", error=str(error))
        finally:
            self._enforcing = None

    @property
    def pause(self) -> float:
        """Seconds between two looks at what has come, while all is well."""
        return self._pause / SECOND

    def poll(self, tep: str, padding: int) -> asyncio.Future[None]:
        """Ask the other end of a session for an answer (RFC 5880 section 6.5) to a packet with so much padding. Who
        asks again waits for the new answer only."""
        answered = self._polled[tep] = asyncio.get_running_loop().create_future()
        session = self.sessions.get(tep)
        if session is not None:
            self._send(tep, replace(bfd.session_packet(session), is_poll=True), padding)
        return answered

    def _send(self, tep: str, packet: BfdPacket, padding: int = 0) -> None:
        if self._own is None:
            return
        data = frame_encode(packet, self._own, ip_address(tep), self._vni.get(tep, 0), SOURCE_PORT, padding)
        try:
            self.control.send_control(ControlPacket(tep, data, GENEVE))
            self.sent += 1
        except OSError:
            self.dropped[QUEUE_FULL] += 1

    def counts(self, state: HostState | None) -> TepCounts:
        """For metrics."""
        sessions = {tep: (session.state, self.changes[tep]) for tep, session in self.sessions.items()}
        names = {} if state is None else {tep.ip: tep.host for tep in state.teps}
        rows = {names.get(tep, tep): found for tep, found in sessions.items()}
        return TepCounts(rows, self.received, self.sent, dict(self.dropped))

    def show_dropped(self) -> list[dict[str, Any]]:
        """Control packets that were refused: rows for `show stats`."""
        found = sorted(self.dropped.items(), key=lambda item: -item[1])
        return [{"frames": "control dropped", "reason": reason, "count": count} for reason, count in found]

    def show_health(self, state: HostState | None) -> list[dict[str, Any]]:
        """A row of `show health`: who does not answer, and why. A new session has some time to come up."""
        names = {} if state is None else {tep.ip: tep.host for tep in state.teps}
        now = _now()
        down = [
            f"{names.get(tep, tep)} ({session.state.name}, {_said(session.diagnostic)})"
            for tep, session in self.sessions.items()
            if session.state not in (State.UP, State.ADMIN_DOWN) and (session.has_been_up or bfd.is_late(session, now))
        ]
        says = f"not up: {', '.join(down)}" if down else f"{len(self.sessions)} sessions, none down"
        return [{"check": "teps", "ok": not down, "says": says}]

    def report(self) -> dict[str, dict[str, Any]]:
        """By TEP: the session's state, since when, why, what the other end says, and after what silence it is gone."""
        wall, now = time.time_ns(), _now()
        return {
            tep: {
                "bfd": session.state.name,
                "since": datetime.fromtimestamp((wall - (now - session.since)) / 1e9, UTC).isoformat("T", "seconds"),
                "diagnostic": _said(session.diagnostic),
                "remote_state": None if session.heard is None else session.remote.state.name,
                "remote_diagnostic": None if session.heard is None else _said(session.remote.diagnostic),
                "interval_ms": bfd.interval(session) // 1000,
                "detection_ms": bfd.detection(session) // 1000,
                "changes": self.changes[tep],
                "dead": bfd.is_dead(session),
            }
            for tep, session in self.sessions.items()
        }


def _now() -> int:
    """Nanoseconds since the machine was started."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _said(number: int) -> str:
    """RFC 5880 section 4.1."""
    try:
        return Diagnostic(number).name.lower().replace("_", " ")
    except ValueError:
        return str(number)
