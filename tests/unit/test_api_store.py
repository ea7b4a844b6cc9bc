# SPDX-License-Identifier: Apache-2.0
"""What an API server's clients are told when its store is etcd, is away, or is full."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from supervisor_glue.api.client import WatchEvent
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.resources import CONFIG_MAPS, NAMESPACES
from supervisor_glue.store import SqliteStore
from supervisor_glue.store.choice import StoreChoice
from tests.support.api_objects import config_map
from tests.support.api_process import served
from tests.support.etcd_server import EtcdServer
from tests.support.patience import PATIENCE


async def refusal(asked: Callable[[], object]) -> ApiError:
    with pytest.raises(ApiError) as error:
        await asked()  # type: ignore[misc]
    return error.value


async def until_done(asked: Callable[[], object]) -> Object:
    """The answer, once there is one."""
    while True:
        try:
            return await asked()  # type: ignore[misc,no-any-return]
        except ApiError as error:
            assert error.code == 503, error
            await asyncio.sleep(0.05)


@pytest.mark.needs_tool("etcd")
def test_two_servers_of_one_etcd(tmp_path: Path) -> None:
    """What one has acknowledged the other shows; without etcd both say 503, and then go on, their watches too."""

    async def body(etcd: EtcdServer) -> None:
        async with AsyncExitStack() as stack:
            choice = StoreChoice((etcd.endpoint,))
            started = [stack.enter_async_context(served(tmp_path, choice)) for _ in range(2)]
            (_, one), (_, two) = await asyncio.gather(*started)
            begun = (await two.list(CONFIG_MAPS, "default")).revision
            seen: list[WatchEvent] = []

            async def watch() -> None:
                async for event in two.watch(CONFIG_MAPS, begun, "default"):
                    if event.type != "BOOKMARK":
                        seen.append(event)

            watching = asyncio.create_task(watch())
            made = await one.create(CONFIG_MAPS, config_map("a"), "default")
            assert [item["data"] for item in (await two.list(CONFIG_MAPS, "default")).items] == [made["data"]]
            changed = await two.update(CONFIG_MAPS, {**made, "data": {"n": "1"}})
            assert int(changed["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])
            conflict = await refusal(lambda: one.update(CONFIG_MAPS, {**made, "data": {"n": "2"}}))
            assert (conflict.code, conflict.reason) == (409, "Conflict")
            twice = await refusal(lambda: two.create(CONFIG_MAPS, config_map("a"), "default"))
            assert twice.reason == "AlreadyExists"
            await asyncio.to_thread(etcd.kill)
            for client in (one, two):
                for asked in (
                    lambda client=client: client.get(CONFIG_MAPS, "a", "default"),  # type: ignore[misc]
                    lambda client=client: client.create(CONFIG_MAPS, config_map("b"), "default"),  # type: ignore[misc]
                ):
                    away = await refusal(asked)
                    assert (away.code, away.reason) == (503, "ServiceUnavailable")
                    assert "etcd cannot be reached" in away.message and away.details["retryAfterSeconds"] == 1
            await asyncio.to_thread(etcd.start)
            await until_done(lambda: one.create(CONFIG_MAPS, config_map("b"), "default"))
            await one.delete(CONFIG_MAPS, "a", "default")
            gone = await refusal(lambda: two.get(CONFIG_MAPS, "a", "default"))
            assert gone.code == 404
            while len(seen) < 4:
                assert not watching.done()
                await asyncio.sleep(0.01)
            told = [(event.type, event.object["metadata"]["name"]) for event in seen]
            assert told == [("ADDED", "a"), ("MODIFIED", "a"), ("ADDED", "b"), ("DELETED", "a")]
            watching.cancel()

    with EtcdServer() as etcd:
        asyncio.run(asyncio.wait_for(body(etcd), PATIENCE))


def test_a_full_disk_and_an_object_that_no_store_takes(tmp_path: Path) -> None:
    """507 and 413, and a sentence; what is there is read and taken away; it goes on when there is room."""

    async def body() -> None:
        async with served(tmp_path) as (process, client):
            assert isinstance(process.store, SqliteStore)
            writer = process.store._file.writer
            first = await client.create(CONFIG_MAPS, config_map("a"), "default")
            large = await refusal(lambda: client.create(NAMESPACES, namespace(1_600_000)))
            assert (large.code, large.reason) == (413, "RequestEntityTooLarge") and "1500000 bytes" in large.message
            (pages,) = writer.execute("PRAGMA page_count").fetchone()
            writer.execute(f"PRAGMA max_page_count = {pages + 20}")
            big = {**config_map("big"), "data": {"n": "x" * 500_000}}
            full = await refusal(lambda: client.create(CONFIG_MAPS, big, "default"))
            assert (full.code, full.reason) == (507, "InsufficientStorage")
            assert full.message.startswith("the control plane's store is full, nothing was changed")
            assert await client.get(CONFIG_MAPS, "a", "default") == first
            assert (await refusal(lambda: client.get(CONFIG_MAPS, "big", "default"))).code == 404
            await client.delete(CONFIG_MAPS, "a", "default")
            writer.execute(f"PRAGMA max_page_count = {pages + 1000}")
            await client.create(CONFIG_MAPS, big, "default")

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


def namespace(size: int) -> Object:
    """Of about so many bytes."""
    finalizers = [f"palisade.internal/{number:0>50}" for number in range(size // 70)]
    return {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "x", "finalizers": finalizers}}
