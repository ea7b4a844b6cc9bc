# SPDX-License-Identifier: Apache-2.0
"""Clients that write and watch while processes are killed, and know afterwards what has to be there.

What is acknowledged is what a client has read a 2xx of. Of a write without an answer nobody knows whether it is done:
it may be seen or not, until the client has asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from random import Random
from typing import Any

from supervisor_glue.api.client import Resource
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.objects import object_key, object_made
from supervisor_glue.controllers.resources import CONFIG_MAPS

GONE = ""  # the value of what is not there
_AWAY = (OSError, TimeoutError)
_PASSING = (408, 409, 429, 500, 503, 504)


async def persistent(work: Any) -> Any:
    """What a request says, once somebody answers. `work()` makes it anew each time. Raises ApiError."""
    while True:
        try:
            return await work()
        except ApiError as error:
            if error.code not in (429, 500, 503, 504):
                raise
        except _AWAY:
            pass
        await asyncio.sleep(0.05)


async def asked(work: Callable[[], Awaitable[Any]], *done: int) -> None:
    """Until it is done: who asks again is told that it is, by one of these statuses. Raises ApiError."""
    try:
        await persistent(work)
    except ApiError as error:
        if error.code not in done:
            raise


@dataclass(slots=True)
class Write:
    """A key's value as of a revision."""

    key: str
    value: str
    revision: int


@dataclass(slots=True)
class Writer:
    """Changes its own ConfigMaps, one after the other."""

    client: HttpClient
    namespace: str
    random: Random
    keys: tuple[str, ...]
    acknowledged: list[Write] = field(default_factory=list)
    attempted: set[tuple[str, str]] = field(default_factory=set)
    count: int = 0
    known: dict[str, Object | None] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)

    async def run(self, ended: asyncio.Event) -> None:
        while not ended.is_set():
            key = self.random.choice(self.keys)
            await (self._look(key) if key in self.unsure else self._write(key))
            await asyncio.sleep(self.random.uniform(0, 0.02))
        for key in self.keys:
            await self._look(key)

    async def _look(self, key: str) -> None:
        """What is there is what was acknowledged last, or what has been tried since."""

        async def ask() -> Object | None:
            try:
                return await self.client.get(CONFIG_MAPS, key, self.namespace)
            except ApiError as error:
                if error.code != 404:
                    raise
                return None

        found = await persistent(ask)
        before = self.known.get(key)
        if _value(found) != _value(before) or _revision(found) != _revision(before):
            assert key in self.unsure, f"{key}: {_value(before)} was acknowledged, and {_value(found)} is there"
            assert (key, _value(found)) in self.attempted, f"{key}: {_value(found)} was never written"
            assert found is None or _revision(found) > _revision(before), f"{key}: it went back"
        self.known[key] = found
        self.unsure.discard(key)

    async def _write(self, key: str) -> None:
        self.count += 1
        before = self.known.get(key)
        value = GONE if before is not None and self.random.random() < 0.15 else f"{key} {self.count}"
        self.attempted.add((key, value))
        try:
            after, revision = await self._done(key, before, value)
        except _AWAY:
            self.unsure.add(key)
        except ApiError as error:
            # A connection that broke: the request was made a second time, and met what the first has done.
            assert error.code in (*_PASSING, 404), error
            self.unsure.add(key)
        else:
            self.known[key] = after
            self.acknowledged.append(Write(key, value, revision))

    async def _done(self, key: str, before: Object | None, value: str) -> tuple[Object | None, int]:
        if before is None:
            made = {**object_made(CONFIG_MAPS, key, self.namespace), "data": {"value": value}}
            made = await self.client.create(CONFIG_MAPS, made, self.namespace)
            return made, _revision(made)
        if value == GONE:
            await self.client.delete(CONFIG_MAPS, key, self.namespace, uid=before["metadata"]["uid"])
            return None, 0
        made = await self.client.update(CONFIG_MAPS, {**before, "data": {"value": value}})
        return made, _revision(made)


@dataclass(slots=True)
class Watcher:
    """Follows a collection from one revision on, across all that breaks; now and then it breaks off itself."""

    client: HttpClient
    resource: Resource
    namespace: str
    random: Random
    begun: int = 0
    revision: int = 0
    broken: int = 0
    seen: list[tuple[str, Write]] = field(default_factory=list)

    async def run(self) -> None:
        """Until cancelled."""
        listed = await persistent(lambda: self.client.list(self.resource, self.namespace))
        self.begun = self.revision = int(listed.revision)
        while True:
            try:
                events = self.client.watch(self.resource, str(self.revision), self.namespace)
                async with aclosing(events) as following:  # type: ignore[type-var]
                    async for event in following:
                        self._take(event.type, event.object)
                        if self.random.random() < 0.1:
                            break
            except ApiError as error:
                assert error.code in _PASSING, error  # 410 would be a gap
            except _AWAY:
                pass
            self.broken += 1
            await asyncio.sleep(0.02)

    def _take(self, kind: str, item: Object) -> None:
        revision = _revision(item)
        if kind == "BOOKMARK":
            self.revision = max(self.revision, revision)
            return
        assert revision > self.revision, f"{kind} {object_key(item)}: {revision} after {self.revision}"
        self.revision = revision
        if "value" not in item["data"]:
            return  # what controllers put into every Namespace
        value = GONE if kind == "DELETED" else _value(item)
        self.seen.append((kind, Write(item["metadata"]["name"], value, revision)))


def history_check(watcher: Watcher, writers: list[Writer]) -> None:
    """Each acknowledged write was seen once, with its value, at its revision; nothing was seen that nobody wrote, and
    what happened to a key is in order."""
    seen = {write.revision: write for _, write in watcher.seen}
    assert len(seen) == len(watcher.seen)
    attempted = {pair for writer in writers for pair in writer.attempted}
    assert {(write.key, write.value) for _, write in watcher.seen} <= attempted
    for writer in writers:
        for write in writer.acknowledged:
            if write.revision > watcher.begun:  # 0: a deletion, which says none
                assert seen.get(write.revision) == write, f"{write} was acknowledged, {seen.get(write.revision)} seen"
    there: dict[str, bool] = {}
    for kind, write in watcher.seen:
        assert there.get(write.key, False) is (kind != "ADDED"), f"{kind} {write}"
        there[write.key] = kind != "DELETED"
    for writer in writers:
        for key, item in writer.known.items():
            assert there.get(key, False) is (item is not None), key


def _value(item: Object | None) -> str:
    return GONE if item is None else str(item["data"]["value"])


def _revision(item: Object | None) -> int:
    return 0 if item is None else int(item["metadata"]["resourceVersion"])
