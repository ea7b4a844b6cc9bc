# SPDX-License-Identifier: Apache-2.0
"""The store in a file (supervisor_glue/store/sqlite.py): what only that one can."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from supervisor_glue.store import Condition, Delete, FullError, Put, SqliteStore, StoreError
from tests.conftest import LONG, ROOT
from tests.support.store_clock import CLOCK
from tests.support.store_seen import seen


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


def test_leases_by_the_clock(tmp_path: Path) -> None:
    async def work() -> None:
        store = await SqliteStore.open(tmp_path / "s.db", CLOCK)
        lease = await store.lease(10)
        await store.commit([], [Put("/e/1", b"", lease), Put("/e/2", b"", lease)])
        CLOCK.now += 9
        await store.lease_renew(lease)
        CLOCK.now += 9
        await asyncio.sleep(0.6)
        assert len((await store.range("/e/")).records) == 2
        CLOCK.now += 2
        assert [event.record for event in await seen(store, "/e/", 1, 2)] == [None, None]
        await store.close()

    asyncio.run(work())


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


def test_a_full_disk(tmp_path: Path) -> None:
    """What does not fit is said to have failed; the rest stands, and goes on when there is room."""

    async def work() -> None:
        store = await SqliteStore.open(tmp_path / "s.db")
        await store.commit([], [Put("/a", b"1")])
        store._file.writer.execute("PRAGMA max_page_count = 40")
        with pytest.raises(FullError, match="full"):
            await store.commit([], [Put("/big", bytes(400_000))])
        assert await store.revision() == 1 and len((await store.range("/")).records) == 1
        store._file.writer.execute("PRAGMA max_page_count = 100000")
        assert (await store.commit([Condition("/a", 1)], [Put("/a", b"2")])).revision == 2
        await store.close()

    asyncio.run(work())


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
