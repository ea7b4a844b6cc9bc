# SPDX-License-Identifier: Apache-2.0
"""Hosts far away as if their agents' sockets were here: what verbs with `--kubeconfig` ask.

For each Host of the API there is a socket in a folder of this process. A request on it becomes a WebSocket to
`…/hosts/NAME/agent` (asking.py), and what comes back is passed on: `show`, `trace` and `capture` see no difference.
"""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import aiohttp

from overlay.which_agents import SOCKET
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.kinds import HOSTS
from supervisor_glue.api.status import ApiError
from supervisor_glue.api.streams import PROTOCOLS
from supervisor_glue.asking import LINE_BYTES
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.calling import calling, config_of
from supervisor_glue.tunnel import END, HEARTBEAT, STDIN, STDOUT

_MANAGER: Final = "palisade"
_ENDING_SECONDS: Final = 5.0
_LONGEST_PLACE: Final = 60  # a socket's whole path has at most 107 bytes
_Taker = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def hosts_relayed(kubeconfig: Path) -> Iterator[dict[str, Path]]:
    """Sockets of all hosts' agents, by host, while the `with` lasts. Raises click.UsageError, click.ClickException
    where the server refuses, EnvironmentLacksError where it does not answer."""
    config = config_of(kubeconfig)
    place = tempfile.gettempdir()
    place = place if len(place) <= _LONGEST_PLACE else "/tmp"
    folder = tempfile.TemporaryDirectory(prefix=f"palisade-{os.getpid()}-", dir=place, ignore_cleanup_errors=True)
    with folder as name, calling():
        relay = _Relay(config, Path(name))
        thread = threading.Thread(target=relay.run, name="relay", daemon=True)
        thread.start()
        try:
            yield relay.sockets()
        finally:
            relay.end()
            thread.join(_ENDING_SECONDS)


class _Relay:
    """The sockets, served by a thread with an event loop of its own: verbs wait for their answers."""

    def __init__(self, config: Kubeconfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._ready = threading.Event()
        self._found: dict[str, Path] = {}
        self._error: Exception | None = None
        self._busy: set[asyncio.Task[None]] = set()

    def run(self) -> None:
        """Until `end`."""
        try:
            self._loop.run_until_complete(self._serve())
        except Exception as error:  # told where the sockets are waited for
            self._error = error
        finally:
            self._ready.set()
            self._loop.close()

    def sockets(self) -> dict[str, Path]:
        """Once they are there. Raises what their making raised."""
        self._ready.wait()
        if self._error is not None:
            raise self._error
        return self._found

    def end(self) -> None:
        with suppress(RuntimeError):  # it has ended
            self._loop.call_soon_threadsafe(self._ended.set)

    async def _serve(self) -> None:
        async with HttpClient(self.config, _MANAGER) as client:
            hosts = (await client.list(HOSTS.resource)).items
            servers = []
            for number, name in enumerate(sorted(str(host["metadata"]["name"]) for host in hosts)):
                path = self.folder / str(number) / SOCKET
                path.parent.mkdir()
                servers.append(await asyncio.start_unix_server(self._taker(client, name), path, limit=LINE_BYTES))
                self._found[name] = path
            self._ready.set()
            await self._ended.wait()
            for server in servers:
                server.close()
            for task in self._busy:
                task.cancel()
            await asyncio.gather(*self._busy, return_exceptions=True)

    def _taker(self, client: HttpClient, host: str) -> _Taker:
        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._busy.add(task)
            try:
                await _pass_on(client, host, reader, writer)
            except asyncio.CancelledError:
                pass  # at the end; the stream's own callback would print it
            except (OSError, ValueError, aiohttp.ClientError) as error:
                await _refuse(writer, str(error) or type(error).__name__)
            finally:
                self._busy.discard(task)
                writer.close()

        return take


async def _pass_on(client: HttpClient, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request, and its answer as it comes."""
    line = (await reader.readline()).decode().strip()
    path, query = HOSTS.resource.path("", host, "agent"), {"request": line}
    try:
        async with client.websocket(path, heartbeat=HEARTBEAT, protocols=PROTOCOLS, query=query) as socket:
            feeding = asyncio.create_task(_feed(reader, socket))
            try:
                await _answer(socket, writer)
            finally:
                feeding.cancel()
    except aiohttp.WSServerHandshakeError as error:
        await _refuse(writer, await _sentence(client, path, query) or f"the server answers {error.status}")


async def _answer(socket: aiohttp.ClientWebSocketResponse, writer: asyncio.StreamWriter) -> None:
    said = False
    async for message in socket:
        if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
            continue
        channel, data = message.data[0], message.data[1:]
        if channel == STDOUT:
            said = True
            writer.write(data)
            await writer.drain()
        elif channel == END:
            status = json.loads(data)
            if status.get("status") == "Failure" and not said:
                await _refuse(writer, str(status.get("message")))
            return
    if not said:
        await _refuse(writer, "the connection to the host was lost")


async def _feed(reader: asyncio.StreamReader, socket: aiohttp.ClientWebSocketResponse) -> None:
    while data := await reader.read(LINE_BYTES):
        await socket.send_bytes(bytes([STDIN]) + data)
    await socket.close()  # whoever asked has gone


async def _sentence(client: HttpClient, path: str, query: dict[str, str]) -> str:
    """Why a WebSocket was refused: its answer's body is not to be had, but without one the server refuses the same."""
    try:
        await client.request("GET", path, query=query)
    except ApiError as error:
        return error.message
    except ConnectionError as error:
        return str(error)
    return ""


async def _refuse(writer: asyncio.StreamWriter, sentence: str) -> None:
    with suppress(ConnectionError):
        writer.write(json.dumps({"error": sentence}).encode() + b"\n")
        await writer.drain()
