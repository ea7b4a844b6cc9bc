# SPDX-License-Identifier: Apache-2.0
"""Connections that say nothing: closed when they have not sent a whole request's headers in time, so that nobody holds
the server's descriptors for nothing. A connection that has asked once is aiohttp's to time out (keepalive)."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from supervisor_glue.auth.limits import CONNECTIONS, HEADER_SECONDS

LOOK_SECONDS: Final = 2.0
_MOST_DESCRIPTORS: Final = 1 << 20  # the kernel's own bound (fs.nr_open)


def apply_descriptors() -> int:
    """Let this process open as many descriptors as it ever may, as Go's programs do; how many those are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, _MOST_DESCRIPTORS)


def connections_most(descriptors: int) -> int:
    """How many connections an API server holds: a tenth of its descriptors stays free for all else."""
    return min(CONNECTIONS, descriptors - descriptors // 10)


class Connection(Protocol):
    """What aiohttp.web_protocol.RequestHandler is here."""

    @property
    def transport(self) -> asyncio.Transport | None: ...

    def force_close(self) -> None: ...


class IdleWatch:
    """Which connections have asked for something yet. Time is an argument."""

    def __init__(self, most: int = CONNECTIONS, seconds: float = HEADER_SECONDS) -> None:
        self._most, self._seconds = most, seconds
        self._asked: set[Connection] = set()
        self._since: dict[Connection, float] = {}

    def asked(self, connection: Connection) -> None:
        """It has sent a request."""
        self._asked.add(connection)

    def late(self, connections: Iterable[Connection], now: float) -> list[Connection]:
        """Those to close: silent for too long, and the oldest silent ones where there are too many in all."""
        known = list(connections)
        self._asked.intersection_update(known)
        silent = [item for item in known if item not in self._asked]
        self._since = {item: self._since.get(item, now) for item in silent}
        late = [item for item in silent if now - self._since[item] >= self._seconds]
        left = sorted((item for item in silent if item not in late), key=lambda item: self._since[item])
        return late + left[: max(0, len(known) - len(late) - self._most)]


async def idle_close(watch: IdleWatch, connections: Callable[[], Iterable[Connection]]) -> None:
    """Look now and then, until cancelled. `connections`: those that are open."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        for connection in watch.late(connections(), loop.time()):
            connection.force_close()
            if connection.transport is not None:
                connection.transport.abort()
