# SPDX-License-Identifier: Apache-2.0
"""The host's end of its tunnel (supervisor_glue/tunnel.py): what the API server asks about its pods, done."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import aiohttp

from dfw.logs import get_logger
from overlay.agent_base import SOCKET
from overlay.console import terminal_size
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.asking import asked_read
from supervisor_glue.spherelet.console import console_connect, console_feed, console_resize
from supervisor_glue.spherelet.containers import Container
from supervisor_glue.spherelet.execute import NotRunningError, join_command, join_environment, join_wait
from supervisor_glue.spherelet.logs import log_read, wanted_of
from supervisor_glue.spherelet.pods import Pods
from supervisor_glue.spherelet.runtime import container_process
from supervisor_glue.spherelet.session import Session
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
    failure,
    frame_read,
    frame_write,
)

PATH: Final = f"/apis/{SPAN}/v1alpha1/tunnel"
_PAUSES: Final = (0.1, 0.5, 2.0, 5.0)
NO_INPUT: Final = b"This container has no standard input (its field stdin): nothing typed reaches it.\r\n"


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
        sessions: dict[int, Session] = {}
        try:
            async for message in socket:
                if message.type is not aiohttp.WSMsgType.BINARY:
                    continue
                number, channel, data = frame_read(message.data)
                session = sessions.get(number)
                if channel == OPEN:
                    session = sessions[number] = Session(socket, number)
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

    async def _answer(self, session: Session, asked: Object) -> None:
        try:
            status = await self._done(session, asked)
        except NotRunningError as error:
            status = failure(str(error), "BadRequest")
        except (OSError, ValueError, KeyError) as error:
            self.log.warning("tunnel.failed", asked=asked.get("do"), error=f"{type(error).__name__}: {error}")
            status = failure(str(error))
        with suppress(ConnectionError, aiohttp.ClientError):
            await session.socket.send_bytes(frame_write(session.number, END, json.dumps(status).encode()))

    async def _done(self, session: Session, asked: Object) -> Object:
        if asked["do"] == "agent":
            return await self._agent(session, asked["request"])
        worker = self.pods.by_name(asked["namespace"], asked["pod"], asked["uid"])
        if worker is None:
            return failure(f"pod {asked['pod']} is not on this host", "NotFound")
        if asked["do"] == "log":
            return await self._log(session, worker, asked)
        if asked["do"] == "exec":
            return await self._execute(session, worker, asked)
        return await self._attach(session, worker, asked)

    async def _agent(self, session: Session, request: Object) -> Object:
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

    async def _log(
        self, session: Session, worker: PodWorker, asked: Object, begins: Callable[[bool], None] | None = None
    ) -> Object:
        name = asked["container"]
        container = worker.containers.get(name)
        number = 0 if container is None else container.state.starts
        if asked.get("previous"):
            number -= 1
        place = worker.runtime.container(name)
        if number < 1 or not place.log(number).exists():
            if asked.get("previous"):
                return failure(
                    f'previous terminated container "{name}" in pod "{asked["pod"]}" not found', "BadRequest"
                )
            return failure(f'container "{name}" in pod "{asked["pod"]}" has not started yet', "BadRequest")

        def writes() -> bool:
            """Whether this start of the container may still say something, or what it said is on its way."""
            known = worker.containers.get(name)
            is_running = known is not None and known.state.starts == number and known.state.running
            return is_running or place.file(number, "fifo").exists()

        wanted = wanted_of(asked, time.time())
        async for data in log_read(place.log(number), wanted, writes if asked.get("follow") else None, begins):
            for at in range(0, len(data), CHUNK):
                await session.send(STDOUT, data[at : at + CHUNK])
        return SUCCESS

    async def _attach(self, session: Session, worker: PodWorker, asked: Object) -> Object:
        """What a container says goes to its log: who attaches hears that from now on, until the container ends; or,
        unless that ends the container's own, until there is no more input (as container runtimes have it)."""
        name = asked["container"]
        container = worker.containers.get(name)
        if container is None or not container.state.running:
            raise NotRunningError(f"container {name} is not running")
        begun, all_heard = asyncio.Event(), False

        def begins(is_all: bool) -> None:
            nonlocal all_heard
            all_heard = is_all
            begun.set()

        wanted = asked | {"follow": True, "tailLines": 0}
        hearing = asyncio.create_task(self._log(session, worker, wanted, begins))
        hearing.add_done_callback(lambda _: begun.set())
        try:
            await begun.wait()  # what is typed may be answered at once
            waiter = container.state.process
            if not all_heard and (waiter is None or container_process(waiter) is None):
                raise NotRunningError(f"container {name} is not running")  # kubectl run shows its log then
            return await self._attached(session, worker, container, asked, hearing)
        finally:
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def _attached(
        self, session: Session, worker: PodWorker, container: Container, asked: Object, hearing: asyncio.Task[Object]
    ) -> Object:
        """The same, once what it says is heard."""
        spec, place = container.spec, worker.runtime.container(container.name).console(container.state.starts)
        feeding = None
        if spec.get("stdin") or spec.get("tty"):
            await join_wait(container.state)
        if asked.get("stdin") and spec.get("stdin"):
            with suppress(FileNotFoundError, ConnectionRefusedError):  # it has ended, or an earlier release began it
                feeding = asyncio.create_task(console_feed(console_connect(place), session))
        elif asked.get("stdin"):  # with a terminal there is one stream
            await session.send(STDOUT if spec.get("tty") else STDERR, NO_INPUT)
        try:
            if spec.get("tty"):
                session.sized(lambda rows, columns: console_resize(place, rows, columns))
            ends = feeding is not None and (spec.get("tty") or not spec.get("stdinOnce"))
            waited: set[asyncio.Task[Any]] = {hearing, feeding} if ends and feeding is not None else {hearing}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            return await hearing if hearing.done() else SUCCESS
        finally:
            session.sized(None)
            if feeding is not None:
                feeding.cancel()
                await asyncio.gather(feeding, return_exceptions=True)

    async def _execute(self, session: Session, worker: PodWorker, asked: Object) -> Object:
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

    async def _on_terminal(self, session: Session, command: list[str]) -> Object:
        ours, theirs = os.openpty()
        session.sized(lambda rows, columns: terminal_size(ours, rows, columns))
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
            session.sized(None)
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


async def _copy(stream: asyncio.StreamReader, session: Session, channel: int) -> None:
    while data := await stream.read(CHUNK):
        await session.send(channel, data)


async def _feed(stream: asyncio.StreamWriter | None, session: Session) -> None:
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
