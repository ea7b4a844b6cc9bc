# SPDX-License-Identifier: Apache-2.0
"""The store in etcd (supervisor_glue/store/etcd.py): what becomes of it when etcd does not answer, ends, or is full."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import ExitStack, aclosing
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import pytest
from aetcd import rpc

from supervisor_glue.auth.pki import authority_open, client_issue, server_open
from supervisor_glue.store import (
    CompactedError,
    Condition,
    Delete,
    Event,
    FullError,
    LeaseError,
    Put,
    Store,
    StoreError,
    UnavailableError,
    etcd_client,
)
from supervisor_glue.store.choice import EtcdTls, StoreChoice, choice_read, store_open
from supervisor_glue.store.etcd import EtcdStore
from tests.conftest import LONG
from tests.support.etcd_server import EtcdServer
from tests.support.patience import PATIENCE
from tests.support.store_seen import seen

pytestmark = pytest.mark.needs_tool("etcd")


@pytest.fixture
def etcd() -> Iterator[EtcdServer]:
    with EtcdServer() as server:
        yield server


def run(server: EtcdServer, work: Callable[[EtcdStore], Awaitable[Any]]) -> Any:
    async def body() -> Any:
        store = await EtcdStore.open([server.endpoint])
        try:
            return await asyncio.wait_for(work(store), PATIENCE)
        finally:
            await store.close()

    return asyncio.run(body())


async def until_there(store: Store) -> int:
    """Where the store is, once it answers."""
    while True:
        try:
            return await store.revision()
        except UnavailableError:
            await asyncio.sleep(0.02)


class Writer:
    """Writes numbers, two keys at a time, and notes what was acknowledged."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.number = self.lost = 0
        self.acknowledged: list[tuple[int, int]] = []

    async def work(self) -> None:
        while True:
            self.number += 1
            value = b"%d" % self.number
            puts = [Put(f"/{self.name}/{self.number}", value), Put(f"/last/{self.name}", value)]
            try:
                done = await self.store.commit([], puts)
                self.acknowledged.append((self.number, done.revision))
            except UnavailableError:
                self.lost += 1
                await asyncio.sleep(0.01)


async def collect(store: Store, prefix: str, after: int, into: list[Event]) -> None:
    async with aclosing(store.watch(prefix, after, progress=True)) as batches:  # type: ignore[type-var]
        async for batch in batches:
            into += batch.events


async def held_while(store: EtcdStore, trouble: Callable[[], Awaitable[None]]) -> None:
    """What was acknowledged while there was trouble is there, both keys or neither, and watches have gone on without
    gap or duplicate."""
    first = await store.revision()
    writers = [Writer(store, name) for name in "abc"]
    watched: dict[str, list[Event]] = {"/": [], "/a/": [], "/last/": []}
    tasks = [asyncio.create_task(writer.work()) for writer in writers]
    watches = [asyncio.create_task(collect(store, prefix, first, into)) for prefix, into in watched.items()]
    await trouble()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    end = await until_there(store)  # a write that nobody waits for any more may come later
    whole = [event for event in await seen(store, "/", first, end) if event.revision <= end]
    for prefix, found in watched.items():
        expected = [event for event in whole if event.key.startswith(prefix)]
        while len(found) < len(expected):
            assert not any(watch.done() for watch in watches)
            await asyncio.sleep(0.01)
        assert [event for event in found if event.revision <= end] == expected
    for watch in watches:
        watch.cancel()
    assert any(writer.lost for writer in writers)  # else nothing was cut off
    there = {(event.key, event.revision): event for event in whole}
    for writer in writers:
        for number, revision in writer.acknowledged:
            for key in (f"/{writer.name}/{number}", f"/last/{writer.name}"):
                record = there[key, revision].record
                assert record is not None and int(record.value) == number
    together: dict[int, set[str]] = {}
    for event in whole:
        together.setdefault(event.revision, set()).add(event.key.split("/")[1])
    assert all("last" in names and len(names) == 2 for names in together.values())


async def written_on(store: EtcdStore, more: int) -> None:
    """Until so much more is written."""
    goal = await until_there(store) + more
    while await until_there(store) < goal:
        await asyncio.sleep(0.005)


def test_etcd_killed_while_tasks_write(etcd: EtcdServer) -> None:
    random = Random(4)

    async def work(store: EtcdStore) -> None:
        async def trouble() -> None:
            for _ in range(20 if LONG else 2):
                await written_on(store, random.randint(20, 120))
                await asyncio.to_thread(etcd.kill)
                await asyncio.sleep(random.random() / 10)
                await asyncio.to_thread(etcd.start)

        await held_while(store, trouble)

    run(etcd, work)


@pytest.mark.long
def test_a_member_of_three_killed_or_halted() -> None:
    """The others go on, and whoever asked it goes on with them."""
    random = Random(5)
    addresses = [f"127.93.{os.getpid() // 250 % 250}.{os.getpid() % 80 * 3 + number}" for number in (1, 2, 3)]
    options = ("--heartbeat-interval=50", "--election-timeout=500")

    async def body(members: list[EtcdServer]) -> None:
        for member in members:
            member.begin()
        store = await EtcdStore.open([member.endpoint for member in members])

        async def trouble() -> None:
            for number in range(6):
                await written_on(store, 50)
                await asyncio.to_thread(members[number % 3].kill)
                await written_on(store, random.randint(20, 50))
                members[number % 3].begin()
            await written_on(store, 50)
            members[0].halt(going=False)  # calls that go there last until they are given up
            await written_on(store, 10)
            members[0].halt(going=True)

        try:
            await asyncio.wait_for(held_while(store, trouble), 3 * PATIENCE)
        finally:
            await store.close()

    with ExitStack() as stack:
        members = []
        for number in range(3):
            of = addresses[number:] + addresses[:number]
            members.append(EtcdServer(*options, scheme="http", addresses=of))
            stack.callback(members[-1].end)
        asyncio.run(body(members))


def test_etcd_that_does_not_answer(etcd: EtcdServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call ends, and says so; afterwards all goes on."""
    monkeypatch.setattr(etcd_client, "SECONDS", 0.2)

    async def work(store: EtcdStore) -> None:
        lease = await store.lease(1e6)
        etcd.halt(going=False)
        asked = (
            store.revision(),
            store.get("/a"),
            store.range("/"),
            store.commit([], [Put("/a", b"")]),
            store.compact(1),
            store.lease(5),
            store.lease_renew(lease),
            store.lease_end(lease),
        )
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, UnavailableError) and "did not answer" in str(error)
        etcd.halt(going=True)
        monkeypatch.setattr(etcd_client, "SECONDS", PATIENCE)
        assert (await store.commit([], [Put("/b", b"")])).succeeded

    run(etcd, work)


def test_no_etcd_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(etcd_client, "SECONDS", 0.2)
    with pytest.raises(UnavailableError, match="cannot be reached"):
        asyncio.run(store_open(StoreChoice((f"unix:{tmp_path}/none",)), tmp_path / "s.db"))


def test_another_etcd_in_its_place(etcd: EtcdServer) -> None:
    """One that has lost what it had told is not gone on with."""

    async def work(store: EtcdStore) -> None:
        for number in range(3):
            await store.commit([], [Put("/a", b"%d" % number)])
        first: list[Event] = []
        watch = asyncio.create_task(collect(store, "/", 1, first))
        while len(first) < 3:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(etcd.kill)
        etcd.forget()
        await asyncio.to_thread(etcd.start)
        with pytest.raises(StoreError, match="was at revision 4, and is at 1 now"):
            await watch

    run(etcd, work)


def test_a_watch_that_was_away_while_its_past_was_compacted(etcd: EtcdServer) -> None:
    async def work(store: EtcdStore) -> None:
        other = await EtcdStore.open([etcd.endpoint])
        await store.commit([], [Put("/a", b"")])
        found: list[Event] = []
        watch = asyncio.create_task(collect(store, "/", 1, found))
        while not found:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(etcd.kill)
        # It asks for the connection anew; what comes before it does is compacted.
        store._client.ending, kept = asyncio.Event(), store._client.ending
        held = asyncio.Lock()
        await held.acquire()
        behind = store._behind_check

        async def check(known: int) -> None:
            async with held:
                await behind(known)

        store._behind_check = check  # type: ignore[method-assign]
        await asyncio.to_thread(etcd.start)
        await until_there(other)
        await other.commit([], [Put("/a", b"2")])
        await other.commit([], [Put("/a", b"3")])
        await other.compact(await other.revision())
        held.release()
        with pytest.raises(CompactedError) as error:
            await watch
        assert error.value.compacted == 4
        store._client.ending = kept
        await other.close()

    run(etcd, work)


def test_more_changes_than_etcd_tells_at_a_time(etcd: EtcdServer) -> None:
    async def work(store: EtcdStore) -> None:
        first = await store.revision()
        for _ in range(12):
            await asyncio.gather(*(store.commit([], [Put("/a", b"")]) for _ in range(100)))
        events = await seen(store, "/", first, first + 1200)
        assert [event.revision for event in events] == list(range(first + 1, first + 1201))

    run(etcd, work)


@pytest.mark.parametrize("kind", ["put", "delete"])
def test_a_previous_value_that_is_forgotten_when_etcd_tells_of_it(etcd: EtcdServer, kind: str) -> None:
    """It reads them when it sends, and leaves out, without a word, what was compacted since."""

    async def work(store: EtcdStore) -> None:
        await store.commit([], [Put("/a", b"1")])
        last = (await store.commit([], [Put("/a", b"2") if kind == "put" else Delete("/a")])).revision
        asked = store._client.watch

        async def watch(**given: Any) -> AsyncGenerator[Any, None]:
            async with aclosing(asked(**given)) as answers:
                async for answer in answers:
                    for change in answer.events:
                        change.ClearField("prev_kv")
                    if answer.events:
                        await store.compact(last)
                        store._client.watch = asked  # type: ignore[method-assign]
                    yield answer

        store._client.watch = watch  # type: ignore[method-assign]
        with pytest.raises(CompactedError) as error:
            await anext(store.watch("/", 1))
        assert error.value.compacted == last

    run(etcd, work)


def test_a_lease_that_is_renewed(etcd: EtcdServer) -> None:
    async def work(store: EtcdStore) -> None:
        async def left() -> int:
            asked = rpc.LeaseTimeToLiveRequest(ID=lease)
            return int((await store._client.call(store._client.lease.LeaseTimeToLive, asked)).TTL)

        lease = await store.lease(99.5)
        assert await left() <= 100
        while (before := await left()) > 98:
            await asyncio.sleep(0.05)
        while await left() <= before:
            await store.lease_renew(lease)
        await store.lease_end(lease)
        with pytest.raises(LeaseError):
            await store.lease_renew(lease)

    run(etcd, work)


def test_a_full_etcd() -> None:
    """What does not fit is refused; what is there can be read; it goes on when there is room."""
    quota = 1 << 20

    async def work(store: EtcdStore) -> None:
        await store.commit([], [Put("/a", b"1")])
        with pytest.raises(FullError, match="etcd has no room"):
            for _ in range(100):
                await store.commit([], [Put("/big", bytes(100_000))])
        assert (await store.get("/a")) is not None
        with pytest.raises(FullError):
            await store.commit([Condition("/a", 2)], [Put("/a", b"2")])
        client = store._client
        await client.call(client.kv.Compact, rpc.CompactionRequest(revision=await store.revision(), physical=True))
        keeper = rpc.MaintenanceStub(client._channel)
        await client.call(keeper.Defragment, rpc.DefragmentRequest())
        member = (await store._header()).member_id
        alarm = rpc.AlarmRequest(action=rpc.AlarmRequest.DEACTIVATE, memberID=member, alarm=rpc.NOSPACE)
        await client.call(keeper.Alarm, alarm)
        assert (await store.commit([Condition("/a", 2)], [Put("/a", b"2")])).succeeded

    with EtcdServer(f"--quota-backend-bytes={quota}") as server:
        run(server, work)


def test_a_store_that_is_closed(etcd: EtcdServer) -> None:
    async def work(store: EtcdStore) -> None:
        watch = store.watch("/", 1)
        writing = asyncio.ensure_future(store.commit([], [Put("/b", b"")]))
        assert [event.key for event in (await anext(watch)).events] == ["/b"]
        waiting = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        last = asyncio.ensure_future(store.commit([], [Put("/a", b"")]))
        await asyncio.sleep(0)
        await store.close()
        assert (await writing).succeeded and (await last).succeeded
        with pytest.raises(StopAsyncIteration):
            while (await waiting).events:
                waiting = asyncio.ensure_future(anext(watch))
        with pytest.raises(StoreError, match="closed"):
            await store.commit([], [Put("/b", b"")])
        with pytest.raises(StopAsyncIteration):
            await anext(store.watch("/", 1))

    run(etcd, work)


def test_with_certificates_of_both(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority = authority_open(tmp_path / "pki", now)
    chain = server_open(authority, tmp_path / "pki", ["localhost"], now)
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    identity = client_issue(authority, "palisade", (), now=now)
    (tmp_path / "client.pem").write_bytes(identity.certificate)
    (tmp_path / "client.key").write_bytes(identity.key)
    tls = EtcdTls(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")
    options = [f"--cert-file={chain}", f"--key-file={chain}", f"--trusted-ca-file={tmp_path}/ca.pem"]

    async def work(choice: StoreChoice) -> None:
        store = await store_open(choice, tmp_path / "none")
        try:
            assert (await store.commit([], [Put("/a", b"")])).succeeded
        finally:
            await store.close()

    with EtcdServer(*options, "--client-cert-auth", scheme="unixs") as server:
        asyncio.run(work(StoreChoice((server.endpoint,), tls)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(etcd_client, "SECONDS", 0.5)
            with pytest.raises(UnavailableError):
                asyncio.run(work(StoreChoice((server.endpoint,), EtcdTls(tmp_path / "ca.pem"))))


@pytest.mark.parametrize(
    ("text", "endpoints", "target"),
    [
        ("etcd=10.0.0.1:2379", ("10.0.0.1:2379",), "ipv4:10.0.0.1:2379"),
        ("etcd=http://10.0.0.1:1,http://10.0.0.2:1/", ("10.0.0.1:1", "10.0.0.2:1"), "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("etcd=[fd00::1]:2379,[fd00::2]:2379", None, "ipv6:[fd00::1]:2379,[fd00::2]:2379"),
        ("etcd=etcd.example:2379", None, "dns:///etcd.example:2379"),
        ("etcd=unix:/run/etcd", None, "unix:/run/etcd"),
    ],
)
def test_how_endpoints_are_written(text: str, endpoints: tuple[str, ...] | None, target: str) -> None:
    choice = choice_read(text)
    assert endpoints is None or choice.endpoints == endpoints
    assert etcd_client.target_of(choice.endpoints) == target and choice.tls is None
    assert choice_read("etcd=https://a:1").tls == EtcdTls()


@pytest.mark.parametrize(
    ("text", "tls", "wrong"),
    [
        ("mysql", None, "neither sqlite nor etcd"),
        ("etcd=", None, "neither sqlite nor etcd"),
        ("sqlite", EtcdTls(Path("a")), "for a store in etcd"),
        ("etcd=http://a:1", EtcdTls(Path("a")), "for https"),
        ("etcd=https://a:1,b:1", None, "all members"),
        ("etcd=a:1", EtcdTls(None, Path("a")), "go together"),
        ("etcd=a", None, "'a' is no ADDRESS:PORT"),
        ("etcd=a:1,b:2", None, "addresses of one family"),
        ("etcd=1.2.3.4:99999", None, "no ADDRESS:PORT"),
    ],
)
def test_how_they_are_not(text: str, tls: EtcdTls | None, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        etcd_client.target_of(choice_read(text, tls).endpoints)
