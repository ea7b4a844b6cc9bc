# SPDX-License-Identifier: Apache-2.0
"""The store in a SQLite file (sqlite_file.py), for the tasks of one event loop.

One thread writes and one reads. Transactions that wait at the same moment are written together, each at a revision of
its own, so that many writers share one wait for the disk. A watch has no queue that could overflow: it knows where it
is, and reads on from the latest events in memory, or from the file where it has fallen behind those.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar

from dfw.logs import get_logger
from supervisor_glue.store.records import (
    Batch,
    CompactedError,
    Condition,
    Event,
    FullError,
    LeaseError,
    Operation,
    Outcome,
    Range,
    Record,
    StoreError,
    key_check,
    transaction_check,
)
from supervisor_glue.store.sqlite_file import LeaseEnd, Request, StoreFile, Transaction

_TOGETHER: Final = 256  # transactions in one wait for the disk
_RECENT_REVISIONS: Final = 4096  # whose events are kept in memory
_RECENT_BYTES: Final = 64 << 20  # of their values
_LEASE_LOOK: Final = 0.25
T = TypeVar("T")


class SqliteStore:
    """See protocol.py. `clock`: seconds, by which leases end."""

    def __init__(self, file: StoreFile, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._reader = ThreadPoolExecutor(1, "store-reader")
        self._revision = file.revision
        self._recent: deque[tuple[int, tuple[Event, ...]]] = deque()
        self._recent_bytes = 0
        self._known_after = file.revision  # `_recent` has everything after this revision
        self._compacted = file.state(file.reader).compacted
        self._went_on = asyncio.Event()
        self._waiting: asyncio.Queue[tuple[Request, asyncio.Future[Outcome]] | None] = asyncio.Queue()
        self._closed = False
        # Nobody could renew a lease while no store was there: each has its whole time from now on, as etcd has it.
        self._leases = {lease: (seconds, clock() + seconds) for lease, seconds in file.leases().items()}
        self._writing = asyncio.create_task(self._write())
        self._ending = asyncio.create_task(self._end_leases())

    @classmethod
    async def open(cls, path: str | Path, clock: Callable[[], float] = time.monotonic) -> SqliteStore:
        """The store in this file, which is made where it is not there. Raises StoreError."""
        return cls(await asyncio.to_thread(StoreFile, Path(path)), clock)

    async def close(self) -> None:
        """See protocol.py."""
        if self._closed:
            return
        self._closed = True
        self._waiting.put_nowait(None)
        self._ending.cancel()
        await asyncio.gather(self._writing, self._ending, return_exceptions=True)
        self._went_on.set()
        for pool in (self._writer, self._reader):
            await asyncio.to_thread(pool.shutdown)
        self._file.close()

    async def revision(self) -> int:
        """See protocol.py."""
        return self._revision

    async def get(self, key: str, *, revision: int = 0) -> Record | None:
        """See protocol.py."""
        key_check(key)
        return await self._run(self._reader, lambda: self._file.get(key, revision))

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> Range:
        """See protocol.py."""
        key_check(prefix)
        return await self._run(self._reader, lambda: self._file.range(prefix, after, limit, revision))

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> Outcome:
        """See protocol.py."""
        transaction_check(conditions, operations)
        return await self._asked(Transaction(tuple(conditions), tuple(operations)))

    async def _asked(self, request: Request) -> Outcome:
        """What becomes of a request, once the writer has had its turn with it."""
        if self._closed:
            raise StoreError("the store is closed")
        answer: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((request, answer))
        return await answer

    async def watch(self, prefix: str, after: int, *, progress: bool = False) -> AsyncIterator[Batch]:
        """See protocol.py."""
        key_check(prefix)
        at = after
        while not self._closed:
            went_on, until = self._went_on, self._revision  # together: what comes later sets this very event
            if at < self._compacted:
                raise CompactedError(self._compacted)
            if at >= until:
                await went_on.wait()
                continue
            if at >= self._known_after:
                events, at = self._from_memory(prefix, at, until), until
            else:
                try:
                    events, at = await self._run(self._reader, partial(self._file.history, prefix, at, until))
                except StoreError:
                    if self._writing.done():  # it was closed meanwhile
                        return
                    raise
            if events or progress:
                yield Batch(events, at)

    def _from_memory(self, prefix: str, at: int, until: int) -> tuple[Event, ...]:
        found: list[tuple[Event, ...]] = []
        for revision, events in reversed(self._recent):  # most watches are near the end
            if revision <= at:
                break
            if revision <= until:
                found.append(tuple(event for event in events if event.key.startswith(prefix)))
        return tuple(chain.from_iterable(reversed(found)))

    async def compact(self, revision: int) -> None:
        """See protocol.py."""
        await self._run(self._writer, lambda: self._file.compact(revision))
        self._compacted = max(self._compacted, revision)
        while not await self._run(self._writer, self._file.forget):
            pass  # writers have their turn in between

    async def lease(self, seconds: float) -> int:
        """See protocol.py."""
        if not 0 < seconds < 1e9:
            raise ValueError(f"a lease of {seconds} s")
        made = await self._run(self._writer, lambda: self._file.lease_new(seconds))
        self._leases[made] = (seconds, self._clock() + seconds)
        return made

    async def lease_renew(self, lease: int) -> None:
        """See protocol.py."""
        if lease not in self._leases:
            raise LeaseError(lease)
        seconds, _ = self._leases[lease]
        self._leases[lease] = (seconds, self._clock() + seconds)

    async def lease_end(self, lease: int) -> None:
        """See protocol.py."""
        kept = self._leases.pop(lease, None)  # from now on nobody renews it
        try:
            await self._asked(LeaseEnd(lease))
        except LeaseError:
            raise
        except StoreError:
            if kept is not None:
                self._leases[lease] = kept
            raise

    # What goes on beside.

    async def _run(self, pool: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        if self._closed:
            raise StoreError("the store is closed")
        try:
            return await asyncio.get_running_loop().run_in_executor(pool, work)
        except sqlite3.Error as error:
            raise _failed(error) from error

    async def _write(self) -> None:
        """Writes what waits; acknowledges what is on disk, after the watches know of it."""
        is_last = False
        while not is_last:
            taken = []
            item = await self._waiting.get()
            while item is not None:
                taken.append(item)
                if len(taken) == _TOGETHER or self._waiting.empty():
                    break
                item = self._waiting.get_nowait()
            is_last = item is None
            requests = [request for request, _ in taken]
            try:
                done = await asyncio.get_running_loop().run_in_executor(self._writer, self._file.apply, requests)
            except sqlite3.Error as error:
                get_logger("store").error("not written", transactions=len(taken), error=str(error))
                done = [_failed(error)] * len(taken)
            for found in done:
                if not isinstance(found, StoreError):
                    self._publish(found[1])
            for (_, answer), found in zip(taken, done, strict=True):
                if answer.done():  # whoever asked has gone
                    continue
                if isinstance(found, StoreError):
                    answer.set_exception(found)
                else:
                    answer.set_result(found[0])

    def _publish(self, events: tuple[Event, ...]) -> None:
        if not events:
            return
        self._revision = events[0].revision
        self._recent.append((self._revision, events))
        self._recent_bytes += _size(events)
        while len(self._recent) > _RECENT_REVISIONS or self._recent_bytes > _RECENT_BYTES:
            self._known_after, forgotten = self._recent.popleft()
            self._recent_bytes -= _size(forgotten)
        self._went_on.set()
        self._went_on = asyncio.Event()

    async def _end_leases(self) -> None:
        while True:
            await asyncio.sleep(_LEASE_LOOK)
            now = self._clock()
            for lease in [lease for lease, (_, end) in self._leases.items() if end <= now]:
                try:
                    await self.lease_end(lease)
                except LeaseError:  # somebody else has ended it
                    continue
                except StoreError as error:  # it ends at a later look
                    get_logger("store").error("lease not ended", lease=lease, error=str(error))


def _failed(error: sqlite3.Error) -> StoreError:
    kind = FullError if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL else StoreError
    return kind(f"the store's file: {error}")


def _size(events: tuple[Event, ...]) -> int:
    """Bytes of an event's values; the one before is held by the event before it, where that is still known."""
    return sum(len(event.record.value) for event in events if event.record is not None)
