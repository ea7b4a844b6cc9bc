# SPDX-License-Identifier: Apache-2.0
"""Power is lost at random moments while tasks write: nothing that was acknowledged is lost, no transaction is half
there."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from supervisor_glue.store import Put, SqliteStore, sqlite_file
from tests.conftest import LONG
from tests.support.patience import PATIENCE
from tests.support.power import Cut, Disk
from tests.support.store_seen import seen

WRITERS = "abc"
Acknowledged = dict[str, tuple[int, int]]
"""The last number of each writer, and its revision."""


async def write(path: Path, acknowledged: Acknowledged, each: int, random: Random) -> None:
    store = await SqliteStore.open(path)

    async def work(name: str) -> None:
        for number in range(each):
            value = b"%d " % number + random.randbytes(random.choice((0, 100, 9000)))
            done = await store.commit([], [Put(f"/{name}/{number % 5}", value), Put(f"/last/{name}", value)])
            acknowledged[name] = (number, done.revision)
            if random.random() < 0.05:
                await store.compact(done.revision - random.randrange(10))

    try:
        await asyncio.wait_for(asyncio.gather(*map(work, WRITERS)), PATIENCE)
    finally:
        await store.close()


def cuts_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seed: int, most: int, synchronous: str = "FULL"
) -> list[Cut]:
    """Some of the moments at which power may be lost."""
    acknowledged: Acknowledged = {}
    random = Random(seed)
    disk = Disk(random, lambda: dict(acknowledged), one_in=40)
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_file, "_connection", lambda path: disk.connection(path, synchronous))
        asyncio.run(write(folder / "s.db", acknowledged, 40, Random(seed)))
    cuts = [cut for cut in disk.cuts if cut.note]
    return random.sample(cuts, min(most, len(cuts)))


async def loss(folder: Path, said: Acknowledged) -> str:
    """What is wrong with what is left, with SQLite as it is; nothing: empty."""
    store = await SqliteStore.open(folder / "s.db")
    try:
        (whole,) = store._file.reader.execute("PRAGMA integrity_check").fetchone()
        if whole != "ok":
            return f"SQLite: {whole}"
        revision = await store.revision()
        for name, (number, at) in said.items():
            last = await store.get(f"/last/{name}")
            if last is None or int(last.value.split()[0]) < number or revision < at:
                return f"{name}: {number} was acknowledged at {at}"
            both = await store.get(f"/{name}/{int(last.value.split()[0]) % 5}")
            if both is None or (both.value, both.revision) != (last.value, last.revision):
                return f"{name}: half a transaction at {last.revision}"
        compacted = store._compacted
        events = await seen(store, "/", compacted, revision)
        if [event.revision for event in events[::2]] != list(range(compacted + 1, revision + 1)):
            return "history has a gap"
        if not (await store.commit([], [Put("/more", b"")])).succeeded:
            return "it does not go on"
    finally:
        await store.close()
    return ""


def losses(folder: Path, cuts: list[Cut]) -> Iterator[str]:
    for number, cut in enumerate(cuts):
        place = folder / f"cut-{number}"
        cut.write(place)
        try:
            found = asyncio.run(asyncio.wait_for(loss(place, cut.note), PATIENCE))
        except (sqlite3.Error, sqlite_file.StoreError) as error:
            found = str(error)
        if found:
            yield found


@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_nothing_acknowledged_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    cuts = cuts_made(tmp_path, monkeypatch, seed, 12)
    assert len(cuts) == 12
    assert list(losses(tmp_path, cuts)) == []


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_the_check_finds_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synchronous: str) -> None:
    """Of a store that does not wait for the disk."""
    cuts = cuts_made(tmp_path, monkeypatch, 1, 100, synchronous)
    assert next(losses(tmp_path, cuts), "")
