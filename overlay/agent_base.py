# SPDX-License-Identifier: Apache-2.0
"""What all host agents have in common, whatever enforces: the desired state's way in, the socket, and the loop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dfw.core import CoreError
from dfw.errors import EnvironmentLacksError
from dfw.logs import get_logger
from dfw.model import Limits
from overlay.backoff import Backoff
from overlay.desired import Desired, DesiredFile
from overlay.host_log import FILES
from overlay.hoststate import HostState, StateError, file_replace, state_decode
from overlay.pod import importing
from overlay.timer import pending_read, timer_lives
from overlay.uplink import read_mtu

POLL_SECONDS: Final = 0.5  # how often the file is looked at, when nobody says that it has changed
REQUEST_BYTES: Final = 1 << 20
CONNECTIONS: Final = 1 << 18
LAST_GOOD: Final = "state.json"
MEMORY: Final = "memory.json"
SOCKET: Final = "agent.sock"
PIDS: Final = "pids.json"
TABLE: Final = "connections"
TEPS: Final = "teps.json"


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent is run. `connections`: of IPv4, each worker; a quarter of it for IPv6. `uplink`: a tier, or auto.
    `firewall_log`: the formats that it is written in, to `log_dir`, or else to `run`. `state`: for what outlives the
    machine's next start, else `run` too. `enforcer`: what judges packets, `native` or `nftables`."""

    host: str
    desired: Path
    run: Path
    underlay: str
    netns: str | None = None
    uplink: str = "auto"
    workers: int = 1
    connections: int = CONNECTIONS
    filters: int = 1024
    limits: Limits | None = None  # None: those of a table of so many connections
    firewall_log: tuple[str, ...] = tuple(FILES)
    log_dir: Path | None = None
    state: Path | None = None
    enforcer: str = "native"

    @property
    def kept(self) -> Path:
        """The directory of what outlives the machine's next start."""
        return self.state or self.run


class AgentBase(ABC):
    """One host's agent. `start`, then `serve` until it is told to end, then `close`."""

    def __init__(self, options: AgentOptions, desired: Desired | None = None) -> None:
        self.options = options
        self.desired = desired or DesiredFile(options.desired)
        self.log = get_logger("agent").bind(host=options.host)
        self.wanted = 0
        self.realized = 0
        self.error: str | None = None
        self.retry = Backoff()
        self.ended = asyncio.Event()
        self.lock = asyncio.Lock()
        self._closing: list[Callable[[], None]] = []

    @abstractmethod
    def _apply(self, state: HostState) -> None:
        """Put it in force. Raises StateError, CoreError, OSError: then what was in force still is."""

    @abstractmethod
    def _begin(self) -> None:
        """The loop begins."""

    @abstractmethod
    def _end(self) -> None:
        """The loop has ended."""

    @abstractmethod
    async def look(self) -> None:
        """Take the desired state, if it has changed; else try again what could not be done, when its time has come."""

    @abstractmethod
    async def _tick(self) -> None:
        """What there is to do now and then."""

    @abstractmethod
    async def answer(self, line: bytes) -> dict[str, Any]:
        """What is asked in one line of JSON, answered; `error` where it cannot be."""

    async def _stream(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request whose answer takes long, if it is one, until that ends."""
        return False

    def _alone(self) -> None:
        """One agent a host and one a run directory. Names of abstract sockets belong to the network namespace."""
        name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        lock = os.open(self.options.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._closing += [name.close, lambda: os.close(lock)]
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            name.bind("\0palisade-agent")
        except OSError as error:
            remedy = f"end the other one first ({self.options.run / PIDS} has its number)"
            raise EnvironmentLacksError("a host without an agent: one runs here already", remedy) from error

    def _take(self, data: bytes, *, keep: bool = True) -> None:
        """Put a state in force. What cannot be taken leaves the old one in force, and stands in `error`."""
        try:
            state = state_decode(data)
            self.wanted = state.revision
            if state.host != self.options.host:
                raise StateError(f"this is the state of host {state.host!r}")
            if state.enforcer != self.options.enforcer:
                raise StateError(f"this host is to be enforced by {state.enforcer}: start its agent with --enforcer")
            self._apply(state)
        except (StateError, CoreError, OSError) as error:
            self.error = str(error)
            self.log.error("refused", revision=self.wanted, error=self.error)
            return
        self.error = None
        self.realized = state.revision
        if keep:
            file_replace(self.options.kept / LAST_GOOD, data)

    async def serve(self) -> None:
        """Answer, and look for changes, until told to end."""
        path = self.options.run / SOCKET
        path.unlink(missing_ok=True)
        old = os.umask(0o177)
        server = await asyncio.start_unix_server(self._client, str(path), limit=REQUEST_BYTES)
        os.umask(old)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.ended.set)
        self._begin()
        timer = await self._timer()
        async with server:
            while not self.ended.is_set():
                await self.look()
                await self._tick()
                with contextlib.suppress(TimeoutError):
                    left = self.retry.left()
                    pause = POLL_SECONDS if left is None else min(left, POLL_SECONDS)
                    await asyncio.wait_for(self.ended.wait(), pause)
        self._end()
        path.unlink(missing_ok=True)
        if timer is not None and timer.returncode is None:
            self.log.info("a change still waits to be confirmed", timer=timer.pid)

    async def _timer(self) -> asyncio.subprocess.Process | None:
        """A change that nobody has confirmed goes back although its timer was killed, or the machine started anew: the
        process that sees to it; None where none is needed."""
        pending = pending_read(self.options.kept)
        if pending is None or timer_lives(pending):
            return None
        self.log.warning("a change waits to be confirmed, without a timer", back_to=pending.base)
        with (self.options.kept / "timer.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "overlay.host_timer", str(self.options.run / SOCKET)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=importing(os.environ),
                start_new_session=True,  # it outlives this agent, too
                cwd="/",
            )

    async def _client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ValueError, asyncio.IncompleteReadError):
            while line := await reader.readline():
                if await self._stream(line, reader, writer):
                    break
                writer.write(json.dumps(await self.answer(line)).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def _places(self) -> dict[str, Any]:
        """What `palisade apply` has to know of this host."""
        mtu = await asyncio.to_thread(read_mtu, self.options.underlay)
        return {"desired": str(self.options.desired.absolute()), "state": str(self.options.kept.absolute()), "mtu": mtu}
