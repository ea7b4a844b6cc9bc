# SPDX-License-Identifier: Apache-2.0
"""Objects over a store of a test's own, without HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from supervisor_glue.api.kinds import BY_NAME, NAMESPACES, Kind
from supervisor_glue.api.objects import Objects
from supervisor_glue.api.status import Object
from supervisor_glue.api.watch_cache import WatchCache
from supervisor_glue.store import SqliteStore

CONFIG_MAPS: Kind = BY_NAME["", "v1", "configmaps"]
Result = TypeVar("Result")


def unchanged(old: Object | None, new: Object) -> Object:
    return new


@asynccontextmanager
async def objects_open(folder: Path) -> AsyncIterator[Objects]:
    store = await SqliteStore.open(folder / "store.db")
    cache = WatchCache(store)
    await cache.start()
    try:
        yield Objects(store, cache)
    finally:
        await cache.close()
        await store.close()


def run(folder: Path, work: Callable[[Objects], Awaitable[Result]]) -> Result:
    """Do something with objects of which one Namespace `x` is there."""

    async def whole() -> Result:
        async with objects_open(folder) as objects:
            if objects.cache.get(NAMESPACES, "", "x") is None:
                await objects.create(NAMESPACES, "", made("Namespace", "x"), unchanged)
            return await work(objects)

    return asyncio.run(whole())


def made(kind: str, name: str, **rest: Any) -> Object:
    metadata = {"name": name, **rest.pop("metadata", {})}
    return {"kind": kind, "apiVersion": "v1", "metadata": metadata, **rest}


def config_map(name: str, **labels: str) -> Object:
    return made("ConfigMap", name, metadata={"labels": labels} if labels else {}, data={"n": "0"})
