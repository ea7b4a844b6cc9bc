# SPDX-License-Identifier: Apache-2.0
"""One question to this host through its tunnel, as the host has it: what is said and typed, and how much of it."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from contextlib import suppress

import aiohttp

from supervisor_glue.tunnel import TAKEN, WINDOW, frame_write


class Session:
    """One question. Output waits while too much of it has not been taken."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, number: int) -> None:
        self.socket, self.number = socket, number
        self.left = WINDOW
        self.room = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.typed: asyncio.Queue[bytes | None] = asyncio.Queue()  # at most WINDOW
        self._size: tuple[int, int] | None = None
        self._told: Callable[[int, int], None] | None = None
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

    def sized(self, told: Callable[[int, int], None] | None) -> None:
        """Who is told rows and columns of the terminal, now and whenever they change; the first come before there is
        one."""
        self._told = told
        self._tell()

    def resize(self, data: bytes) -> None:
        """The client's terminal has another size (JSON, as remotecommand has it)."""
        with suppress(ValueError, KeyError, TypeError):
            found = json.loads(data)
            self._size = (int(found["Height"]), int(found["Width"]))
            self._tell()

    def _tell(self) -> None:
        if self._told is not None and self._size is not None:
            with suppress(OSError, struct.error):
                self._told(*self._size)
