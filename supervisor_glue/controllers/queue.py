# SPDX-License-Identifier: Apache-2.0
"""Names of what has to be looked at: each once, however often it changed, and never by two at once. What failed comes
again later, in longer and longer intervals. The meanings are those of client-go's workqueue."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

FIRST_RETRY: Final = 0.02
LONGEST_RETRY: Final = 30.0


class WorkQueue:
    """Of keys; for the tasks of one event loop."""

    def __init__(self, first_retry: float = FIRST_RETRY, longest_retry: float = LONGEST_RETRY) -> None:
        self._first, self._longest = first_retry, longest_retry
        self._ready: deque[str] = deque()
        self._dirty: set[str] = set()
        self._running: set[str] = set()
        self._failures: dict[str, int] = {}
        self._later: dict[str, tuple[float, asyncio.TimerHandle]] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._dirty)

    @property
    def is_idle(self) -> bool:
        """Nothing waits, nothing is being looked at, nothing comes again."""
        return not (self._dirty or self._running or self._later)

    @property
    def is_quiet(self) -> bool:
        """Nothing waits and nothing is being looked at."""
        return not (self._dirty or self._running)

    def add(self, key: str) -> None:
        """Look at it, soon; once more where that is being done right now."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._running:
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: str, seconds: float) -> None:
        """Look at it in so many seconds, or sooner where that was asked for before."""
        if seconds <= 0:
            self.add(key)
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        known = self._later.get(key)
        if known is not None:
            if known[0] <= at:
                return
            known[1].cancel()
        self._later[key] = (at, loop.call_at(at, self._due, key))

    def add_failed(self, key: str) -> float:
        """Look at it again: the pause, which is twice as long each time."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        pause: float = min(self._first * 2 ** min(failures, 32), self._longest)
        self.add_after(key, pause)
        return pause

    def forget(self, key: str) -> None:
        """It succeeded: the next failure is a first one."""
        self._failures.pop(key, None)

    async def get(self) -> str:
        """The next one; `done` has to follow."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._running.add(key)
        return key

    def done(self, key: str) -> None:
        """It has been looked at."""
        self._running.discard(key)
        if key in self._dirty:
            self._ready.append(key)
            self._wake.set()

    def close(self) -> None:
        """Nothing comes later any more."""
        for _, timer in self._later.values():
            timer.cancel()
        self._later.clear()

    def _due(self, key: str) -> None:
        self._later.pop(key, None)
        self.add(key)
