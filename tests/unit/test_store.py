# SPDX-License-Identifier: Apache-2.0
"""What every store does (supervisor_glue/store/protocol.py), said in tests: in a file, and in an etcd of the module's
own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from supervisor_glue.store import (
    CompactedError,
    Condition,
    Delete,
    FutureError,
    LeaseError,
    Operation,
    Put,
    SqliteStore,
    Store,
    sqlite_file,
)
from supervisor_glue.store import etcd as etcd_store
from supervisor_glue.store import sqlite as sqlite_store
from tests.conftest import LONG
from tests.support.etcd_server import EtcdServer, emptied
from tests.support.patience import PATIENCE
from tests.support.store_clock import CLOCK
from tests.support.store_seen import seen
from tests.support.store_twin import StoreTwin

Opened = Callable[[Callable[[Store], Awaitable[Any]]], Any]


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


NEEDS_ETCD = pytest.mark.needs_tool("etcd")


@pytest.fixture(params=["sqlite", pytest.param("etcd", marks=NEEDS_ETCD)])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    """Runs a test's coroutine with an empty store."""
    server: EtcdServer | None = request.getfixturevalue("etcd") if request.param == "etcd" else None

    def run(work: Callable[[Store], Awaitable[Any]]) -> Any:
        async def body() -> Any:
            store: Store
            if server is None:
                store = await SqliteStore.open(tmp_path / "store.db", CLOCK)
            else:
                store = await emptied(server)
            try:
                return await asyncio.wait_for(work(store), PATIENCE)
            finally:
                await store.close()

        return asyncio.run(body())

    return run


def test_one_key(opened: Opened) -> None:
    async def work(store: Store) -> None:
        one = await store.revision() + 1
        assert await store.get("/a") is None
        made = await store.commit([Condition("/a", 0)], [Put("/a", b"1")])
        assert made.succeeded and made.revision == one and made.records == (await store.get("/a"),)
        again = await store.commit([Condition("/a", 0)], [Put("/a", b"2")])
        assert (again.succeeded, again.revision, again.records) == (False, one, made.records)
        put = await store.commit([Condition("/a", one)], [Put("/a", b"2"), Put("/b", b"")])
        assert [item[2:] for item in put.records if item] == [(one, one + 1, 2, 0), (one + 1, one + 1, 1, 0)]
        gone = await store.commit([Condition("/a", one + 1)], [Delete("/a")])
        assert gone == (True, one + 2, (None,)) and await store.get("/a") is None
        assert (await store.commit([], [Delete("/a")])).revision == one + 2  # nothing changed
        new = await store.commit([Condition("/a", 0)], [Put("/a", b"3")])
        assert new.records[0] is not None and new.records[0][2:5] == (one + 3, one + 3, 1)
        old = [await store.get("/a", revision=revision) for revision in (one, one + 1, one + 2)]
        assert [None if item is None else item.value for item in old] == [b"1", b"2", None]

    opened(work)


def test_a_list_in_pages_is_of_one_moment(opened: Opened) -> None:
    async def work(store: Store) -> None:
        await store.commit([], [Put(f"/x/{number}", b"%d" % number) for number in range(10)])
        at = (await store.commit([], [Put("/xx", b""), Put("/y", b"")])).revision
        page = await store.range("/x/", limit=4)
        assert (len(page.records), page.remaining, page.revision) == (4, 6, at)
        await store.commit([], [Delete("/x/5"), Put("/x/4", b"new"), Put("/x/41", b"")])
        rest = await store.range("/x/", after=page.records[-1].key, revision=page.revision)
        assert [record.value for record in rest.records] == [b"%d" % number for number in range(4, 10)]
        assert (rest.revision, rest.remaining) == (at, 0)
        assert len((await store.range("/x/")).records) == 10
        with pytest.raises(FutureError) as error:
            await store.range("/x/", revision=at + 2)
        assert error.value.revision == at + 1

    opened(work)


def test_a_watch_begins_anywhere_and_goes_on(opened: Opened) -> None:
    async def work(store: Store) -> None:
        one = (await store.commit([], [Put("/p/a", b"1"), Put("/q/a", b"1")])).revision
        await store.commit([], [Put("/q/a", b"2")])
        async with aclosing(store.watch("/p/", one - 1)) as batches:  # type: ignore[type-var]
            first = await anext(batches)
            assert [(event.revision, event.key) for event in first.events] == [(one, "/p/a")]
            waiting = asyncio.ensure_future(anext(batches))
            await store.commit([], [Put("/q/b", b"")])
            await asyncio.sleep(0.01)
            assert not waiting.done()  # nothing of its own has happened
            await store.commit([], [Delete("/p/a"), Put("/p/b", b"")])
            (gone, new) = (await waiting).events
        assert gone.record is None and gone.before is not None and gone.before.value == b"1"
        assert new.before is None and new.record is not None and new.record.created == one + 3
        assert [event.key for event in await seen(store, "/q/", one, one + 3)] == ["/q/a", "/q/b"]
        later = asyncio.ensure_future(seen(store, "/q/", one + 4, one + 5))  # from a revision that is not there yet
        await store.commit([], [Put("/q/five", b"")])
        await store.commit([], [Put("/q/six", b"")])
        assert [event.key for event in await later] == ["/q/six"]

    opened(work)


def test_what_is_compacted_is_forgotten(opened: Opened) -> None:
    async def work(store: Store) -> None:
        three = await store.revision() + 3
        for value in (b"1", b"2", b"3"):
            await store.commit([], [Put("/a", value), Put(f"/{value.decode()}", value)])
        await store.commit([], [Delete("/a")])
        await store.compact(three)
        early = (
            store.get("/a", revision=three - 1),
            store.range("/", revision=three - 2),
            anext(store.watch("/", three - 1)),
            anext(store.watch("/a", three - 1)),
        )
        for asked in early:
            with pytest.raises(CompactedError) as error:
                await asked
            assert error.value.compacted == three
        record = await store.get("/a", revision=three)
        assert record is not None and record.value == b"3"
        assert [event.key for event in await seen(store, "/", three, three + 1)] == ["/a"]
        assert len((await store.range("/")).records) == 3
        with pytest.raises(FutureError):
            await store.compact(three + 2)
        await store.compact(three - 2)  # long ago
        await store.compact(three + 1)
        with pytest.raises(CompactedError):  # its deletion is forgotten
            await anext(store.watch("/a", three))
        assert await store.get("/a") is None and await store.revision() == three + 1

    opened(work)


@pytest.mark.parametrize(
    ("conditions", "operations", "said"),
    [
        ([], [Put("/a", b""), Delete("/a")], "changes a key once"),
        ([], [Put("", b"")], "no key"),
        ([], [Put("/ä", b"")], "no key"),
        ([Condition("/\0", 0)], [], "no key"),
        ([], [Put("/a", b"x" * 1_499_999)], "at most 1500000 bytes, and this one 1500001"),
        ([], [Put(f"/{number}", b"x" * 20_000) for number in range(100)], "at most 1500000 bytes"),
        ([], [Put(f"/{number}", b"") for number in range(129)], "at most 128"),
    ],
)
def test_what_no_transaction_is(
    opened: Opened, conditions: list[Condition], operations: list[Operation], said: str
) -> None:
    async def work(store: Store) -> None:
        before = await store.revision()
        with pytest.raises(ValueError, match=said):
            await store.commit(conditions, operations)
        assert await store.revision() == before

    opened(work)


def test_the_largest_transactions(opened: Opened) -> None:
    """What is not refused beforehand is not refused by the store."""

    async def work(store: Store) -> None:
        at = (await store.commit([], [Put("/a", b"x" * 1_499_998)])).revision
        many = [f"/{number:03}/{'k' * 200}" for number in range(128)]
        wide = await store.commit([Condition(key, 0) for key in many], [Put(key, b"x" * 11_000) for key in many])
        assert wide.succeeded and wide.revision == at + 1
        refused = await store.commit([Condition(key, 0) for key in many], [Delete(key) for key in many])
        assert not refused.succeeded and refused.records == wide.records
        assert len((await store.range("/")).records) == 129
        events = await seen(store, "/", at - 1, at + 1)
        assert [event.key for event in events] == ["/a", *many]

    opened(work)


def test_leases(opened: Opened) -> None:
    async def work(store: Store) -> None:
        one, two = await store.lease(1000), await store.lease(1000)
        puts = [Put("/e/1", b"", one), Put("/e/2", b"", one), Put("/e/3", b"", two), Put("/e/4", b"", one)]
        at = (await store.commit([], puts)).revision
        assert (await store.commit([], [Put("/e/4", b"")])).revision == at + 1  # it stays now
        await store.lease_renew(one)
        await store.lease_end(one)
        events = await seen(store, "/e/", at + 1, at + 2)
        assert [(event.key, event.record) for event in events] == [("/e/1", None), ("/e/2", None)]
        for lease in (one, 99):
            for ask in (
                store.lease_renew,
                store.lease_end,
                lambda lease: store.commit([], [Put("/x", b"", two), Put("/y", b"", lease)]),
            ):
                with pytest.raises(LeaseError, match=f"no lease {lease}"):
                    await ask(lease)
        await store.lease_end(two)
        assert [record.key for record in (await store.range("/e/")).records] == ["/e/4"]
        with pytest.raises(ValueError, match="a lease of 0"):
            await store.lease(0)

    opened(work)


def test_a_lease_ends_by_itself(opened: Opened) -> None:
    async def work(store: Store) -> None:
        at = 0
        while not at:
            lease = await store.lease(1)
            with suppress(LeaseError):  # on a machine that had no time for us
                at = (await store.commit([], [Put("/e/1", b"", lease), Put("/e/2", b"", lease)])).revision
        CLOCK.now += 2
        events = await seen(store, "/e/", at, at + 1)
        assert [(event.key, event.record) for event in events] == [("/e/1", None), ("/e/2", None)]

    opened(work)


def drawn(random: Random, twin: StoreTwin, leases: list[int]) -> tuple[list[Condition], list[Operation]]:
    """A transaction on a few keys; its conditions hold mostly."""
    keys = random.sample([f"/{kind}/{name}" for kind in "pq" for name in "abcdef"], random.randint(1, 4))
    now = twin.states[-1]
    conditions = []
    for key in random.sample(keys, random.randint(0, len(keys))):
        revision = now[key].revision if key in now else 0
        other = random.randint(twin.first, twin.revision)
        conditions.append(Condition(key, revision if random.random() < 0.8 else other))
    operations: list[Operation] = []
    for key in keys:
        value = random.randbytes(random.choice((0, 3, 300)))
        lease = random.choice(leases) if leases and random.random() < 0.3 else 0
        operations.append(Delete(key) if random.random() < 0.3 else Put(key, value, lease))
    return conditions, operations


async def as_the_twin_says(store: Store, random: Random, steps: int) -> None:
    """Any transactions, pages, old states, watches, compactions and leases."""
    twin = StoreTwin(await store.revision())
    compacted, leases = twin.first, [await store.lease(1e6) for _ in range(2)]
    for _ in range(steps):
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
            assert await store.get("/p/a", revision=at) == twin.state(at).get("/p/a")
        else:
            at = random.randint(compacted, twin.revision)
            assert await seen(store, "/p/", at, twin.revision) == twin.seen("/p/", at)
        assert await store.revision() == twin.revision


@pytest.mark.parametrize(
    ("opened", "seed", "steps"),
    [
        *(("sqlite", seed, 300) for seed in range(100 if LONG else 6)),
        *(pytest.param("etcd", seed, 300 if LONG else 60, marks=NEEDS_ETCD) for seed in range(20 if LONG else 2)),
    ],
    indirect=["opened"],
)
def test_as_the_twin_says(opened: Opened, seed: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_store, "_RECENT_REVISIONS", 20)  # watches read the file, too
    monkeypatch.setattr(sqlite_file, "_HISTORY", 7)
    monkeypatch.setattr(etcd_store, "_PAGE", 3)

    opened(lambda store: as_the_twin_says(store, Random(seed), steps))


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
        at = await store.revision()
        watches = [asyncio.ensure_future(seen(store, "/n", at, at + 160)) for _ in range(3)]
        await asyncio.gather(*(count(store, 20) for _ in range(8)))
        for watch in watches:
            values = [int(event.record.value) for event in await watch if event.record is not None]
            assert values == list(range(1, 161))

    opened(work)
