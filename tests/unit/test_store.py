# SPDX-License-Identifier: Apache-2.0
"""What every store does (supervisor_glue/store/protocol.py), said in tests; and what only the one in a file can."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from random import Random
from typing import Any

import pytest

from supervisor_glue.store import (
    CompactedError,
    Condition,
    Delete,
    Event,
    FutureError,
    LeaseError,
    Operation,
    Put,
    SqliteStore,
    Store,
    StoreError,
    sqlite_file,
)
from supervisor_glue.store import sqlite as sqlite_store
from tests.conftest import LONG, ROOT
from tests.support.patience import PATIENCE
from tests.support.store_twin import StoreTwin

Opened = Callable[[Callable[[Store], Awaitable[Any]]], Any]


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture
def opened(tmp_path: Path) -> Opened:
    """Runs a test's coroutine with an empty store."""

    def run(work: Callable[[Store], Awaitable[Any]]) -> Any:
        async def body() -> Any:
            store = await SqliteStore.open(tmp_path / "store.db", CLOCK)
            try:
                return await asyncio.wait_for(work(store), PATIENCE)
            finally:
                await store.close()

        return asyncio.run(body())

    return run


async def seen(store: Store, prefix: str, after: int, until: int) -> list[Event]:
    """All that a watch sees up to a revision; it is never ahead of itself."""
    found: list[Event] = []
    async with aclosing(store.watch(prefix, after, progress=True)) as batches:  # type: ignore[type-var]
        at = after
        while at < until:
            batch = await anext(batches)
            assert batch.revision > at and all(at < event.revision <= batch.revision for event in batch.events)
            found += batch.events
            at = batch.revision
    return found


def test_one_key(opened: Opened) -> None:
    async def work(store: Store) -> None:
        assert await store.revision() == 0 and await store.get("/a") is None
        made = await store.commit([Condition("/a", 0)], [Put("/a", b"1")])
        assert made.succeeded and made.revision == 1 and made.records == (await store.get("/a"),)
        again = await store.commit([Condition("/a", 0)], [Put("/a", b"2")])
        assert (again.succeeded, again.revision, again.records) == (False, 1, made.records)
        put = await store.commit([Condition("/a", 1)], [Put("/a", b"2"), Put("/b", b"")])
        assert [(item.created, item.revision, item.version) for item in put.records if item] == [(1, 2, 2), (2, 2, 1)]
        gone = await store.commit([Condition("/a", 2)], [Delete("/a")])
        assert gone == (True, 3, (None,)) and await store.get("/a") is None
        assert (await store.commit([], [Delete("/a")])).revision == 3  # nothing changed
        new = await store.commit([Condition("/a", 0)], [Put("/a", b"3")])
        assert new.records[0] is not None and new.records[0][2:5] == (4, 4, 1)
        old = [await store.get("/a", revision=revision) for revision in (1, 2, 3)]
        assert [None if item is None else item.value for item in old] == [b"1", b"2", None]

    opened(work)


def test_a_list_in_pages_is_of_one_moment(opened: Opened) -> None:
    async def work(store: Store) -> None:
        for number in range(10):
            await store.commit([], [Put(f"/x/{number}", b"%d" % number)])
        await store.commit([], [Put("/xx", b""), Put("/y", b"")])
        page = await store.range("/x/", limit=4)
        assert (len(page.records), page.remaining, page.revision) == (4, 6, 11)
        await store.commit([], [Delete("/x/5"), Put("/x/4", b"new"), Put("/x/41", b"")])
        rest = await store.range("/x/", after=page.records[-1].key, revision=page.revision)
        assert [record.value for record in rest.records] == [b"%d" % number for number in range(4, 10)]
        assert (rest.revision, rest.remaining) == (11, 0)
        assert len((await store.range("/x/")).records) == 10
        with pytest.raises(FutureError):
            await store.range("/x/", revision=13)

    opened(work)


def test_a_watch_begins_anywhere_and_goes_on(opened: Opened) -> None:
    async def work(store: Store) -> None:
        await store.commit([], [Put("/p/a", b"1"), Put("/q/a", b"1")])
        await store.commit([], [Put("/q/a", b"2")])
        async with aclosing(store.watch("/p/", 0)) as batches:  # type: ignore[type-var]
            first = await anext(batches)
            assert [(event.revision, event.key) for event in first.events] == [(1, "/p/a")]
            waiting = asyncio.ensure_future(anext(batches))
            await store.commit([], [Put("/q/b", b"")])
            await asyncio.sleep(0.01)
            assert not waiting.done()  # nothing of its own has happened
            await store.commit([], [Delete("/p/a"), Put("/p/b", b"")])
            (gone, new) = (await waiting).events
        assert gone.record is None and gone.before is not None and gone.before.value == b"1"
        assert new.before is None and new.record is not None and new.record.created == 4
        assert [event.key for event in await seen(store, "/q/", 1, 4)] == ["/q/a", "/q/b"]
        later = asyncio.ensure_future(seen(store, "/q/", 5, 6))  # from a revision that is not there yet
        await store.commit([], [Put("/q/five", b"")])
        await store.commit([], [Put("/q/six", b"")])
        assert [event.key for event in await later] == ["/q/six"]

    opened(work)


def test_what_is_compacted_is_forgotten(opened: Opened) -> None:
    async def work(store: Store) -> None:
        for value in (b"1", b"2", b"3"):
            await store.commit([], [Put("/a", value), Put(f"/{value.decode()}", value)])
        await store.commit([], [Delete("/a")])
        await store.compact(3)
        for asked in (store.get("/a", revision=2), store.range("/", revision=1), anext(store.watch("/", 2))):
            with pytest.raises(CompactedError) as error:
                await asked
            assert error.value.compacted == 3
        record = await store.get("/a", revision=3)
        assert record is not None and record.value == b"3"
        assert [event.key for event in await seen(store, "/", 3, 4)] == ["/a"]
        assert len((await store.range("/")).records) == 3
        with pytest.raises(FutureError):
            await store.compact(5)
        await store.compact(1)  # long ago
        await store.compact(4)
        assert await store.get("/a") is None and await store.revision() == 4

    opened(work)


def test_leases(opened: Opened) -> None:
    async def work(store: Store) -> None:
        one, two = await store.lease(10), await store.lease(1000)
        await store.commit(
            [], [Put("/e/1", b"", one), Put("/e/2", b"", one), Put("/e/3", b"", two), Put("/e/4", b"", one)]
        )
        await store.commit([], [Put("/e/4", b"")])  # it stays now
        CLOCK.now += 9
        await store.lease_renew(one)
        CLOCK.now += 9
        await asyncio.sleep(0.6)
        assert len((await store.range("/e/")).records) == 4
        CLOCK.now += 2
        events = await seen(store, "/e/", 2, 3)
        assert [(event.key, event.record) for event in events] == [("/e/1", None), ("/e/2", None)]
        for lease in (one, 99):
            for ask in (store.lease_renew, store.lease_end, lambda lease: store.commit([], [Put("/x", b"", lease)])):
                with pytest.raises(LeaseError):
                    await ask(lease)
        await store.lease_end(two)
        assert [record.key for record in (await store.range("/e/")).records] == ["/e/4"]

    opened(work)


@pytest.mark.parametrize(
    ("conditions", "operations", "said"),
    [
        ([], [Put("/a", b""), Delete("/a")], "changes a key once"),
        ([], [Put("", b"")], "no key"),
        ([], [Put("/ä", b"")], "no key"),
        ([Condition("/\0", 0)], [], "no key"),
        ([], [Put("/a", b"x" * 1_500_001)], "1500001 bytes"),
        ([], [Put(f"/{number}", b"") for number in range(129)], "at most 128"),
    ],
)
def test_what_no_transaction_is(
    opened: Opened, conditions: list[Condition], operations: list[Operation], said: str
) -> None:
    async def work(store: Store) -> None:
        with pytest.raises(ValueError, match=said):
            await store.commit(conditions, operations)
        assert await store.revision() == 0

    opened(work)


def drawn(random: Random, twin: StoreTwin, leases: list[int]) -> tuple[list[Condition], list[Operation]]:
    """A transaction on a few keys; its conditions hold mostly."""
    keys = random.sample([f"/{kind}/{name}" for kind in "pq" for name in "abcdef"], random.randint(1, 4))
    now = twin.states[-1]
    conditions = []
    for key in random.sample(keys, random.randint(0, len(keys))):
        revision = now[key].revision if key in now else 0
        conditions.append(Condition(key, revision if random.random() < 0.8 else random.randint(0, twin.revision)))
    operations: list[Operation] = []
    for key in keys:
        value = random.randbytes(random.choice((0, 3, 300)))
        lease = random.choice(leases) if leases and random.random() < 0.3 else 0
        operations.append(Delete(key) if random.random() < 0.3 else Put(key, value, lease))
    return conditions, operations


@pytest.mark.parametrize("seed", range(200 if LONG else 12))
def test_as_the_twin_says(opened: Opened, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any transactions, pages, old states, watches and leases."""
    monkeypatch.setattr(sqlite_store, "_RECENT_REVISIONS", 20)  # watches read the file, too
    monkeypatch.setattr(sqlite_file, "_HISTORY", 7)
    random, twin = Random(seed), StoreTwin()

    async def work(store: Store) -> None:
        compacted, leases = 0, [await store.lease(1e6) for _ in range(2)]
        for _ in range(150):
            step = random.random()
            if step < 0.6:
                conditions, operations = drawn(random, twin, leases)
                assert await store.commit(conditions, operations) == twin.commit(conditions, operations)
            elif step < 0.62 and leases:
                lease = leases.pop()
                await store.lease_end(lease)
                twin.lease_end(lease)
                leases.append(await store.lease(1e6))
            elif step < 0.65:
                compacted = random.randint(compacted, twin.revision)
                await store.compact(compacted)
            elif step < 0.85:
                at = random.randint(compacted, twin.revision)
                prefix, after = random.choice(("/", "/p/", "/q/", "/p/c")), random.choice(("", "/p/b", "/q/a"))
                limit = random.randint(0, 5)
                asked = await store.range(prefix, after=after, limit=limit, revision=at)
                assert asked == twin.range(prefix, after, limit, at)
                assert await store.get("/p/a", revision=at) == twin.states[at or -1].get("/p/a")
            else:
                at = random.randint(compacted, twin.revision)
                assert await seen(store, "/p/", at, twin.revision) == twin.seen("/p/", at)
            assert await store.revision() == twin.revision

    opened(work)


def test_many_at_once(opened: Opened) -> None:
    """Tasks count up one number by comparing; watches see every step once."""

    async def count(store: Store, times: int) -> None:
        for _ in range(times):
            while True:
                now = await store.get("/n")
                value = 0 if now is None else int(now.value)
                condition = Condition("/n", 0 if now is None else now.revision)
                if (await store.commit([condition], [Put("/n", b"%d" % (value + 1))])).succeeded:
                    break

    async def work(store: Store) -> None:
        watches = [asyncio.ensure_future(seen(store, "/n", 0, 160)) for _ in range(3)]
        await asyncio.gather(*(count(store, 20) for _ in range(8)))
        for watch in watches:
            values = [int(event.record.value) for event in await watch if event.record is not None]
            assert values == list(range(1, 161))

    opened(work)


# The store in a file.


def test_it_is_there_again(tmp_path: Path) -> None:
    async def first() -> int:
        store = await SqliteStore.open(tmp_path / "s.db", CLOCK)
        lease = await store.lease(50)
        await store.commit([], [Put("/a", b"1"), Put("/l", b"", lease)])
        await store.commit([], [Delete("/a")])
        with pytest.raises(StoreError, match="in use by another process"):
            await SqliteStore.open(tmp_path / "s.db")
        await store.close()
        await store.close()
        with pytest.raises(StoreError, match="closed"):
            await store.commit([], [Put("/b", b"")])
        return lease

    async def second(lease: int) -> None:
        CLOCK.now += 100
        store = await SqliteStore.open(tmp_path / "s.db", CLOCK)
        assert await store.revision() == 2
        assert [event.key for event in await seen(store, "/", 0, 2)] == ["/a", "/l", "/a"]
        await store.lease_renew(lease)  # its whole time begins when the store does
        assert await store.lease(1) > lease
        watch = asyncio.ensure_future(anext(store.watch("/", 2)))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StopAsyncIteration):
            await watch

    asyncio.run(second(asyncio.run(first())))
    assert stat.S_IMODE((tmp_path / "s.db").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(os.urandom(5000)), "file is not a database"),
        (lambda path: sqlite3.connect(path).execute("PRAGMA user_version = 99"), "its schema is 99"),
        (lambda path: path.mkdir(), "unable to open database file"),
    ],
)
def test_what_is_no_store_of_ours(tmp_path: Path, spoil: Callable[[Path], object], said: str) -> None:
    path = tmp_path / "s.db"
    spoil(path)
    with pytest.raises(StoreError, match=said):
        asyncio.run(SqliteStore.open(path))


def test_a_full_disk(opened: Opened) -> None:
    """What does not fit is said to have failed; the rest stands, and goes on when there is room."""

    async def work(store: Store) -> None:
        assert isinstance(store, SqliteStore)
        await store.commit([], [Put("/a", b"1")])
        store._file.writer.execute("PRAGMA max_page_count = 40")
        with pytest.raises(StoreError, match="full"):
            await store.commit([], [Put("/big", bytes(400_000))])
        assert await store.revision() == 1 and len((await store.range("/")).records) == 1
        store._file.writer.execute("PRAGMA max_page_count = 100000")
        assert (await store.commit([Condition("/a", 1)], [Put("/a", b"2")])).revision == 2

    opened(work)


_WRITES = """
import asyncio, sys
from supervisor_glue.store import Put, SqliteStore

async def main():
    store = await SqliteStore.open(sys.argv[1])
    async def write(which):
        number = 0
        while True:
            value = b"%d" % number
            done = await store.commit([], [Put(f"/{which}/{number % 7}", value), Put(f"/last/{which}", value)])
            print(which, number, done.revision, flush=True)
            number += 1
    await asyncio.gather(*map(write, "abcd"))

asyncio.run(main())
"""


def test_what_was_acknowledged_is_there_after_kill(tmp_path: Path) -> None:
    random, path = Random(5), tmp_path / "s.db"

    async def look(said: dict[str, tuple[int, int]]) -> None:
        store = await SqliteStore.open(path)
        try:
            for which, (number, revision) in said.items():
                last = await store.get(f"/last/{which}")
                assert last is not None and int(last.value) >= number  # one more may be there that was not said yet
                both = await store.get(f"/{which}/{int(last.value) % 7}")
                assert both is not None and (both.value, both.revision) == (last.value, last.revision)
                assert await store.revision() >= revision
            events = await seen(store, "/", 0, await store.revision())
            assert sorted({event.revision for event in events}) == list(range(1, await store.revision() + 1))
        finally:
            await store.close()

    for _ in range(20 if LONG else 3):
        command = [sys.executable, "-c", _WRITES, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None
            said: dict[str, tuple[int, int]] = {}
            for _ in range(random.randint(20, 120)):
                which, number, revision = process.stdout.readline().split()
                said[which] = (int(number), int(revision))
            os.kill(process.pid, signal.SIGKILL)
        asyncio.run(look(said))
