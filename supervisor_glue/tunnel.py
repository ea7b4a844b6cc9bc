# SPDX-License-Identifier: Apache-2.0
"""The connection that a host opens, through which the API server asks it: logs, and commands in containers.

Messages are binary: a session's number (4 bytes), a channel (1 byte), data. To the host: OPEN (JSON: what is asked),
the channels STDIN and RESIZE of `channel.k8s.io`, SHUT (no more input), TAKEN (4 bytes: so much output was passed on)
and CANCEL. From the host: STDOUT, STDERR, TAKEN (so much input was passed on; the first one at once) and END (JSON: a
Status). Either side sends at most WINDOW bytes that nobody has taken, so that one slow reader holds up its own session
only, and nobody's memory fills.
"""

from __future__ import annotations

import asyncio
import json
import struct
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import aiohttp
from aiohttp import web

from supervisor_glue.api.status import ApiError, Object

STDIN, STDOUT, STDERR, END, RESIZE = 0, 1, 2, 3, 4
OPEN, SHUT, TAKEN, CANCEL = 128, 129, 130, 131
WINDOW: Final = 1 << 20
CHUNK: Final = 32 * 1024
HEARTBEAT: Final = 20.0
MOST_SESSIONS: Final = 1000
_MOST_HELD: Final = 2 * WINDOW  # an END, or what it says of a lost connection, comes beside the window
_HEAD: Final = struct.Struct(">IB")
_COUNT: Final = struct.Struct(">I")


class Frame(NamedTuple):
    session: int
    channel: int
    data: bytes


def frame_write(session: int, channel: int, data: bytes = b"") -> bytes:
    return _HEAD.pack(session, channel) + data


def frame_read(message: bytes) -> Frame:
    """Raises ValueError."""
    if len(message) < _HEAD.size:
        raise ValueError("a message of the tunnel is too short")
    session, channel = _HEAD.unpack_from(message)
    return Frame(session, channel, message[_HEAD.size :])


class Session:
    """One question to a host, as the API server has it. Iterated, it gives output; then `status` is there."""

    def __init__(self, tunnel: Tunnel, number: int) -> None:
        self.tunnel, self.number = tunnel, number
        self.status: Object = {}
        self._frames: deque[Frame] = deque()
        self._held = 0  # bytes in them
        self._wake = asyncio.Event()
        self._ended = False
        self._given, self._taken = 0, 0  # bytes of input
        self._bounded = False  # an earlier host does not say what it has taken
        self._room = asyncio.Event()

    def take(self, frame: Frame) -> None:
        """What the host sent. Raises ValueError where it sends more than may be under way."""
        if frame.channel == TAKEN:
            self._taken += int.from_bytes(frame.data[:4], "big")
            self._bounded = True
            self._room.set()
            return
        self._held += len(frame.data)
        if self._held > _MOST_HELD:
            raise ValueError("a host sends more than was taken")
        self._frames.append(frame)
        self._wake.set()
        if frame.channel == END:
            self._bounded = False
            self._room.set()

    def lost(self, why: str) -> None:
        """The host's connection is gone."""
        self.take(Frame(self.number, END, json.dumps(failure(why)).encode()))

    async def send(self, channel: int, data: bytes = b"") -> None:
        await self.tunnel.socket.send_bytes(frame_write(self.number, channel, data))

    async def feed(self, data: bytes) -> None:
        """Input for what the host does; waits while it has not taken what there was."""
        for at in range(0, len(data), CHUNK):
            piece = data[at : at + CHUNK]
            while self._bounded and self._given + len(piece) - self._taken > WINDOW:
                self._room.clear()
                await self._room.wait()
            self._given += len(piece)
            await self.send(STDIN, piece)

    async def __aiter__(self) -> AsyncIterator[Frame]:
        while True:
            while not self._frames:
                self._wake.clear()
                await self._wake.wait()
            frame = self._frames.popleft()
            self._held -= len(frame.data)
            if frame.channel == END:
                self._ended = True
                self.status = _status_read(frame.data)
                return
            yield frame
            await self.send(TAKEN, _COUNT.pack(len(frame.data)))

    async def close(self) -> None:
        self.tunnel.sessions.pop(self.number, None)
        if not self._ended and not self.tunnel.socket.closed:
            await self.send(CANCEL)


def _status_read(data: bytes) -> Object:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        found = None
    return found if isinstance(found, dict) else failure("the host's answer could not be read")


class Tunnel:
    """One host's connection, as the API server has it."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket = socket
        self.sessions: dict[int, Session] = {}
        self._last = 0

    async def open(self, asked: Object) -> Session:
        """Raises ApiError 429."""
        if len(self.sessions) >= MOST_SESSIONS:
            raise ApiError(429, "TooManyRequests", "the host has too many open logs and commands", retry_after=1)
        self._last = (self._last + 1) & 0xFFFFFFFF
        session = self.sessions[self._last] = Session(self, self._last)
        await session.send(OPEN, json.dumps(asked).encode())
        return session

    async def read(self) -> None:
        """Until the host closes."""
        async for message in self.socket:
            if message.type is aiohttp.WSMsgType.BINARY:
                frame = frame_read(message.data)
                session = self.sessions.get(frame.session)
                if session is not None:
                    session.take(frame)


class Tunnels:
    """Of all hosts that have one here."""

    def __init__(self) -> None:
        self._of: dict[str, Tunnel] = {}

    async def serve(self, request: web.Request, host: str) -> web.WebSocketResponse:
        """A host's request becomes its tunnel; a newer one takes its place."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=4 * CHUNK)
        await socket.prepare(request)
        tunnel = Tunnel(socket)
        old, self._of[host] = self._of.get(host), tunnel
        if old is not None:
            await old.socket.close()
        try:
            await tunnel.read()
        except ValueError:
            await socket.close(code=aiohttp.WSCloseCode.PROTOCOL_ERROR)
        finally:
            if self._of.get(host) is tunnel:
                del self._of[host]
            for session in list(tunnel.sessions.values()):
                session.lost(f"the connection of host {host} was lost")
        return socket

    async def open(self, host: str, asked: Object) -> Session:
        """Raises ApiError: 503 where the host has no tunnel here."""
        return await self.of(host).open(asked)

    def of(self, host: str) -> Tunnel:
        """Raises ApiError: 503 where the host has no tunnel here."""
        tunnel = self._of.get(host)
        if tunnel is None:
            raise ApiError(503, "ServiceUnavailable", f"host {host} is not connected", retry_after=2)
        return tunnel


def failure(message: str, reason: str = "InternalError", **details: Any) -> Object:
    """A Status as the error channel of `channel.k8s.io` has it."""
    found: Object = {"metadata": {}, "status": "Failure", "message": message, "reason": reason}
    return found | ({"details": details} if details else {})


SUCCESS: Final[Object] = {"metadata": {}, "status": "Success"}
