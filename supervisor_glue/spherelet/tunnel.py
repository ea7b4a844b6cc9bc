# SPDX-License-Identifier: Apache-2.0
"""The host's end of its tunnel (supervisor_glue/tunnel.py): what the API server asks about its pods, done."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import struct
import termios
import time
from contextlib import suppress
from typing import Final

import aiohttp

from dfw.logs import get_logger
from overlay.agent_base import SOCKET
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.asking import asked_read
from supervisor_glue.spherelet.execute import NotRunningError, join_command, join_environment, join_wait
from supervisor_glue.spherelet.logs import log_read, wanted_of
from supervisor_glue.spherelet.pods import Pods
from supervisor_glue.spherelet.worker import PodWorker
from supervisor_glue.tunnel import (
    CANCEL,
    CHUNK,
    END,
    HEARTBEAT,
    OPEN,
    RESIZE,
    SHUT,
    STDERR,
    STDIN,
    STDOUT,
    SUCCESS,
    TAKEN,
    WINDOW,
    failure,
    frame_read,
    frame_write,
)

PATH: Final = f"/apis/{SPAN}/v1alpha1/tunnel"
_PAUSES: Final = (0.1, 0.5, 2.0, 5.0)
NO_INPUT: Final = (
    b"A container here has no standard input: nothing typed reaches it. "
    b"kubectl exec -it runs a command that has one.\r\n"
)


class _Session:
    """One question. Output waits while too much of it has not been taken."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, number: int) -> None:
        self.socket, self.number = socket, number
        self.left = WINDOW
        self.room = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.typed: asyncio.Queue[bytes | None] = asyncio.Queue()  # at most WINDOW
        self.terminal = -1
        self._due = 0  # bytes of input that were given out last

    async def send(self, channel: int, data: bytes) -> None:
        while self.left < len(data):
            self.room.clear()
            await self.room.wait()
        self.left -= len(data)
        await self.socket.send_bytes(frame_write(self.number, channel, data))

    def taken(self, count: int) -> None:
        self.left += count
        self.room.set()

    async def input_ready(self, count: int = 0) -> None:
        """Say that so much input was passed on: the API server sends no more than WINDOW beyond."""
        with suppress(ConnectionError, aiohttp.ClientError):
            await self.socket.send_bytes(frame_write(self.number, TAKEN, count.to_bytes(4, "big")))

    async def input(self) -> bytes | None:
        """What comes next, once that before it has been passed on; None: there is no more."""
        if self._due:
            await self.input_ready(self._due)
        data = await self.typed.get()
        self._due = len(data or b"")
        return data

    def resize(self, data: bytes) -> None:
        with suppress(ValueError, KeyError, TypeError, OSError, struct.error):
            size = json.loads(data)
            if self.terminal >= 0:
                packed = struct.pack("HHHH", int(size["Height"]), int(size["Width"]), 0, 0)
                fcntl.ioctl(self.terminal, termios.TIOCSWINSZ, packed)


class TunnelEnd:
    """`run` keeps a connection to the API server open, and answers through it."""

    def __init__(self, client: HttpClient, pods: Pods) -> None:
        self.client, self.pods, self.agent = client, pods, pods.settings.agent
        self.log = get_logger("tunnel")

    async def run(self) -> None:
        """Until cancelled."""
        failed = 0
        while True:
            try:
                async with self.client.websocket(PATH, heartbeat=HEARTBEAT) as socket:
                    failed = 0
                    self.log.info("tunnel.open")
                    await self._serve(socket)
            except (ApiError, ConnectionError, aiohttp.ClientError, TimeoutError) as error:
                self.log.info("tunnel.away", error=str(error) or type(error).__name__)
            await asyncio.sleep(_PAUSES[min(failed, len(_PAUSES) - 1)])
            failed += 1

    async def _serve(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        sessions: dict[int, _Session] = {}
        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    continue
                number, channel, data = frame_read(message.data)
                session = sessions.get(number)
                if channel == OPEN:
                    session = sessions[number] = _Session(socket, number)
                    await session.input_ready()
                    session.task = asyncio.create_task(self._answer(session, json.loads(data)))
                    session.task.add_done_callback(lambda _, number=number: sessions.pop(number, None))  # type: ignore[misc]
                elif session is None:
                    continue
                elif channel == STDIN:
                    session.typed.put_nowait(data)
                elif channel == SHUT:
                    session.typed.put_nowait(None)
                elif channel == TAKEN:
                    session.taken(int.from_bytes(data, "big"))
                elif channel == RESIZE:
                    session.resize(data)
                elif channel == CANCEL and session.task is not None:
                    session.task.cancel()
        finally:
            tasks = [session.task for session in sessions.values() if session.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, session: _Session, asked: Object) -> None:
        try:
            status = await self._done(session, asked)
        except NotRunningError as error:
            status = failure(str(error), "BadRequest")
        except (OSError, ValueError, KeyError) as error:
            self.log.warning("tunnel.failed", asked=asked.get("do"), error=f"{type(error).__name__}: {error}")
            status = failure(str(error))
        with suppress(ConnectionError, aiohttp.ClientError):
            await session.socket.send_bytes(frame_write(session.number, END, json.dumps(status).encode()))

    async def _done(self, session: _Session, asked: Object) -> Object:
        if asked["do"] == "agent":
            return await self._agent(session, asked["request"])
        worker = self.pods.by_name(asked["namespace"], asked["pod"], asked["uid"])
        if worker is None:
            return failure(f"pod {asked['pod']} is not on this host", "NotFound")
        if asked["do"] == "log":
            return await self._log(session, worker, asked)
        if asked["do"] == "exec":
            return await self._execute(session, worker, asked)
        # What a container says goes to its log: who attaches hears that from now on.
        if asked.get("stdin"):  # with a terminal there is one stream
            await session.send(STDOUT if asked.get("tty") else STDERR, NO_INPUT)
        return await self._log(session, worker, asked | {"follow": True, "tailLines": 0})

    async def _agent(self, session: _Session, request: Object) -> Object:
        """The packet agent beside us, asked; what a capture is told follows as input."""
        if self.agent is None:
            return failure("this host has no packet agent that is known here", "NotFound")
        asked_read(json.dumps(request))
        try:
            reader, writer = await asyncio.open_unix_connection(self.agent / SOCKET)
        except OSError as error:
            return failure(f"the host's packet agent does not answer: {error.strerror or error}", "ServiceUnavailable")
        try:
            writer.write(json.dumps(request).encode() + b"\n")
            feeding = asyncio.create_task(_feed(writer, session))
            try:
                await _copy(reader, session, STDOUT)
            finally:
                feeding.cancel()
        finally:
            writer.close()
        return SUCCESS

    async def _log(self, session: _Session, worker: PodWorker, asked: Object) -> Object:
        name = asked["container"]
        container = worker.containers.get(name)
        number = 0 if container is None else container.state.starts
        if asked.get("previous"):
            number -= 1
        place = worker.runtime.container(name)
        if number < 1 or not place.log(number).exists():
            what = "previous terminated container" if asked.get("previous") else "container"
            return failure(f'{what} "{name}" in pod "{asked["pod"]}" has no log yet: it has not started', "BadRequest")

        def writes() -> bool:
            """Whether this start of the container may still say something, or what it said is on its way."""
            known = worker.containers.get(name)
            is_running = known is not None and known.state.starts == number and known.state.running
            return is_running or place.file(number, "fifo").exists()

        wanted = wanted_of(asked, time.time())
        async for data in log_read(place.log(number), wanted, writes if asked.get("follow") else None):
            for at in range(0, len(data), CHUNK):
                await session.send(STDOUT, data[at : at + CHUNK])
        return SUCCESS

    async def _execute(self, session: _Session, worker: PodWorker, asked: Object) -> Object:
        container = worker.containers.get(asked["container"])
        if container is None:
            raise NotRunningError(f"container {asked['container']} is not running")
        await join_wait(container.state)
        terminal = bool(asked.get("tty"))
        command = join_command(worker.runtime, asked["container"], container.state, asked["command"], terminal=terminal)
        if terminal:
            return await self._on_terminal(session, command)
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE if asked.get("stdin") else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=join_environment(),
            start_new_session=True,
        )
        assert process.stdout is not None and process.stderr is not None
        copying = [
            asyncio.create_task(_copy(process.stdout, session, STDOUT)),
            asyncio.create_task(_copy(process.stderr, session, STDERR)),
        ]
        feeding = asyncio.create_task(_feed(process.stdin, session))
        try:
            await asyncio.gather(*copying)
            return exit_status(await process.wait())
        finally:
            for task in (*copying, feeding):
                task.cancel()
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _on_terminal(self, session: _Session, command: list[str]) -> Object:
        ours, theirs = os.openpty()
        session.terminal = ours
        process = await asyncio.create_subprocess_exec(
            *command, stdin=theirs, stdout=theirs, stderr=theirs, env=join_environment(), start_new_session=True
        )
        os.close(theirs)
        said, typed, hearing = await _terminal_open(ours)

        async def read() -> None:
            with suppress(OSError):  # the other side is closed
                await _copy(said, session, STDOUT)

        async def write() -> None:
            with suppress(OSError):
                while True:
                    data = await session.input()
                    typed.write(b"\x04" if data is None else data)  # end of transmission
                    await typed.drain()

        reading, writing = asyncio.create_task(read()), asyncio.create_task(write())
        try:
            code = await process.wait()
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(reading), 1.0)
            return exit_status(code)
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
            writing.cancel()
            session.terminal = -1
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(reading), 1.0)
            reading.cancel()
            typed.transport.abort()
            hearing.close()
            os.close(ours)


async def _terminal_open(
    terminal: int,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, asyncio.ReadTransport]:
    """Both ways of a terminal's outer end, which stays open beside them. No thread waits for it: a person may be silent
    for hours, and a process has few threads for all that takes a while."""
    loop = asyncio.get_running_loop()
    said = asyncio.StreamReader()
    inward, outward = (os.fdopen(os.dup(terminal), mode, 0) for mode in ("rb", "wb"))
    hearing, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(said), inward)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, outward)
    return said, asyncio.StreamWriter(transport, protocol, None, loop), hearing


async def _copy(stream: asyncio.StreamReader, session: _Session, channel: int) -> None:
    while data := await stream.read(CHUNK):
        await session.send(channel, data)


async def _feed(stream: asyncio.StreamWriter | None, session: _Session) -> None:
    while stream is not None:
        data = await session.input()
        with suppress(ConnectionError):
            if data is None:
                stream.close()
                return
            stream.write(data)
            await stream.drain()


def exit_status(code: int) -> Object:
    """How a command ended, as kubectl reads it."""
    if code == 0:
        return SUCCESS
    shown = 128 - code if code < 0 else code
    told = f"command terminated with non-zero exit code: exit status {shown}"
    return failure(told, "NonZeroExitCode", causes=[{"reason": "ExitCode", "message": str(shown)}])
