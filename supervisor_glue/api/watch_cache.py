# SPDX-License-Identifier: Apache-2.0
"""All objects, with what changed lately: reads and watches are answered from here.

Fed by one watch of the store, so that it is the same whoever writes there. What a request must see, it waits for: a
write's answer comes when the cache has it, and a read's when the cache is where the store was when it came.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, NamedTuple

import msgspec

from dfw.logs import get_logger
from supervisor_glue.api.kinds import STORED, Kind
from supervisor_glue.api.selectors import EVERYTHING, Selector, selectable
from supervisor_glue.api.status import ApiError, Object, error_gone, error_too_large, error_too_many
from supervisor_glue.store import CompactedError, Event, Store, StoreError, UnavailableError

PREFIX = "/kubernetes/"
KEPT = 20_000
"""Changes of a kind that a watch can begin after, at most;"""
KEPT_BYTES = 32 << 20
"""and of how much JSON."""
MOST_WAITING = 50_000
"""Events that a watch may be behind before it is ended."""

MOST_SECONDS = 15.0
"""For which a request waits for what the store has acknowledged."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Entry:
    """An object as it is at a revision. In memory it is its JSON, and what selectors see of it: decoded it takes four
    times the room. `rest`: its JSON after kind and apiVersion."""

    __slots__ = ("_item", "_seen", "kind", "name", "namespace", "rest", "revision")

    def __init__(self, kind: Kind, namespace: str, name: str, revision: int, item: Object, rest: bytes) -> None:
        self.kind, self.namespace, self.name = kind, namespace, name
        self.revision, self.rest = revision, rest
        self._item: Object | None = item
        self._seen = item

    @property
    def item(self) -> Object:
        """The object, which nobody changes; decoded now, unless this is new."""
        return self.copy() if self._item is None else self._item

    @property
    def body(self) -> bytes:
        """Its JSON."""
        return self.kind.head + self.rest

    def copy(self) -> Object:
        """The object, to be changed."""
        found: Object = _decode(self.body)
        return found

    def matches(self, selector: Selector) -> bool:
        return selector.matches(self._seen)

    def settle(self) -> None:
        """Everybody who is told at once has seen it."""
        if self._item is not None:
            self._seen, self._item = selectable(self.kind, self._item), None


class Change(NamedTuple):
    """What became of an object: at least one of both is there."""

    revision: int
    before: Entry | None
    after: Entry | None

    @property
    def size(self) -> int:
        """Of the JSON that came with it."""
        known = self.after or self.before
        return 0 if known is None else len(known.rest)


@dataclass(slots=True, eq=False)
class _Watcher:
    namespace: str
    selector: Selector
    waiting: deque[Change] = field(default_factory=deque)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    ended: ApiError | None = None

    def offer(self, change: Change) -> None:
        known = change.after or change.before
        assert known is not None
        if self.namespace and known.namespace != self.namespace:
            return
        if len(self.waiting) >= MOST_WAITING:
            self.ended = error_too_many("the watch is too far behind: list again")
        else:
            self.waiting.append(change)
        self.wake.set()


@dataclass(slots=True)
class _Collection:
    """Of a kind. `horizon`: changes after this revision are all in `changes`, whose JSON is of this
    `size`."""

    entries: dict[str, dict[str, Entry]] = field(default_factory=dict)
    changes: deque[Change] = field(default_factory=deque)
    size: int = 0
    horizon: int = 0
    watchers: set[_Watcher] = field(default_factory=set)
    count: int = 0


class WatchEvent(NamedTuple):
    """As it goes to a client: `entry` None for a bookmark."""

    type: str
    entry: Entry | None
    revision: int


class WatchCache:
    """The objects of a store. Use: `await start()`, … `await close()`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.revision = 0
        self.failed: StoreError | None = None
        self._of = {kind: _Collection() for kind in STORED}
        self._kinds = {kind.prefix: kind for kind in STORED}
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None
        self._heard: list[Callable[[Change], None]] = []

    def listen(self, heard: Callable[[Change], None]) -> None:
        """Call `heard` for each change, from the first object on, in order and before anybody else sees it."""
        self._heard.append(heard)

    async def start(self) -> None:
        """Read all objects; from then on the cache follows the store."""
        revision = await self.store.revision()
        asked = max(min(1, revision), revision - KEPT)
        while True:
            try:
                found = await self.store.range(PREFIX, revision=asked)
                break
            except CompactedError as error:
                asked = error.compacted
        for record in found.records:
            entry = entry_of(self._kinds, record.key, record.value, record.revision)
            if entry is not None:
                self._set(entry.kind, entry.namespace, entry.name, entry)
                for heard in self._heard:
                    heard(Change(record.revision, None, entry))
                entry.settle()
        self.revision = asked
        for collection in self._of.values():
            collection.horizon = asked
        self._task = asyncio.create_task(self._follow(asked))
        await self.wait(await self.store.revision())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for collection in self._of.values():
            for watcher in collection.watchers:
                watcher.ended = ApiError(503, "ServiceUnavailable", "the server ends")
                watcher.wake.set()

    async def wait(self, revision: int) -> None:
        """Until the cache has seen this revision. Raises StoreError where the store has failed, or does not tell."""
        if self.failed is not None:
            raise self.failed
        if self.revision < revision:
            future = asyncio.get_running_loop().create_future()
            self._waiters.append((revision, future))
            seen = -1
            try:
                while seen < self.revision:  # a large store takes its time; one that says nothing more has failed
                    seen = self.revision
                    await asyncio.wait((future,), timeout=MOST_SECONDS)
                    if future.done():
                        future.result()
                        return
            finally:
                future.cancel()
            raise UnavailableError(f"it has reached revision {revision}, and does not tell of it")

    async def wait_bounded(self, revision: int, seconds: float = 3.0) -> None:
        """Until the cache has seen a revision that a client names. Raises ApiError 504 where that does not come."""
        try:
            await asyncio.wait_for(self.wait(revision), seconds)
        except TimeoutError:
            raise error_too_large(revision, self.revision) from None

    async def fresh(self) -> None:
        """Until the cache is where the store is now."""
        await self.wait(await self.store.revision())

    def get(self, kind: Kind, namespace: str, name: str) -> Entry | None:
        return self._of[kind].entries.get(namespace, {}).get(name)

    def list(self, kind: Kind, namespace: str = "", selector: Selector = EVERYTHING) -> list[Entry]:
        """In the order of their keys; no namespace: of all."""
        names = [namespace] if namespace or not kind.namespaced else sorted(self._of[kind].entries)
        found = [entry for space in names for _, entry in sorted(self._of[kind].entries.get(space, {}).items())]
        return [entry for entry in found if entry.matches(selector)] if selector else found

    def count(self, kind: Kind) -> int:
        return self._of[kind].count

    def watch(
        self,
        kind: Kind,
        namespace: str,
        selector: Selector,
        after: int | None,
        *,
        initial: bool = False,
        progress: float = 60.0,
        seconds: float = 3600.0,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after a revision (None: what is there now as ADDED, then changes) for so many seconds, a bookmark
        every `progress` seconds. `initial`: as None, with a bookmark after what is there. Raises ApiError 410 where
        they are forgotten."""
        horizon = self._of[kind].horizon
        if after is not None and not initial and after < horizon:
            raise error_gone(f"too old resource version: {after} ({horizon})")
        return self._watch(kind, _Watcher(namespace, selector), None if initial else after, initial, progress, seconds)

    async def _watch(
        self, kind: Kind, watcher: _Watcher, after: int | None, initial: bool, progress: float, seconds: float
    ) -> AsyncGenerator[WatchEvent, None]:
        collection = self._of[kind]
        first: list[WatchEvent] = []
        if after is None:
            entries = self.list(kind, watcher.namespace, watcher.selector)
            first = [WatchEvent("ADDED", entry, entry.revision) for entry in entries]
            if initial:
                first.append(WatchEvent("INITIAL", None, self.revision))
        else:
            later = takewhile(lambda change: change.revision > after, reversed(collection.changes))
            for change in reversed(list(later)):
                watcher.offer(change)
        collection.watchers.add(watcher)
        try:
            for event in first:
                yield event
            async for event in self._watched(watcher, progress, seconds):
                yield event
        finally:
            collection.watchers.discard(watcher)

    async def _watched(self, watcher: _Watcher, progress: float, seconds: float) -> AsyncGenerator[WatchEvent, None]:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while True:
            while watcher.waiting:
                change = watcher.waiting.popleft()
                event = event_of(change, watcher.selector)
                if event is not None:
                    yield event
            if watcher.ended is not None:
                raise watcher.ended
            left = end - loop.time()
            if left <= 0:
                return
            watcher.wake.clear()
            try:
                await asyncio.wait_for(watcher.wake.wait(), min(progress, left))
            except TimeoutError:
                if not watcher.waiting and left > progress:  # then everything up to here has been told
                    yield WatchEvent("BOOKMARK", None, self.revision)

    async def _follow(self, after: int) -> None:
        try:
            async for batch in self.store.watch(PREFIX, after, progress=True):
                for event in batch.events:
                    self._apply(event)
                self.revision = batch.revision
                self._wake()
        except StoreError as error:
            get_logger("api").error("store.failed", error=str(error))
            self.failed = error
            self._wake()
            for collection in self._of.values():
                for watcher in collection.watchers:
                    watcher.ended = ApiError(503, "ServiceUnavailable", "the store has failed")
                    watcher.wake.set()

    async def follow(self) -> StoreError | None:
        """Until the cache follows its store no more: why, where it is not that it was closed."""
        if self._task is not None:
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.result()  # never anything but None
        return self.failed

    def _wake(self) -> None:
        left = []
        for revision, future in self._waiters:
            if future.done():
                continue
            if self.failed is not None:
                future.set_exception(self.failed)
            elif revision <= self.revision:
                future.set_result(None)
            else:
                left.append((revision, future))
        self._waiters = left

    def _apply(self, event: Event) -> None:
        place = key_split(self._kinds, event.key)
        if place is None:
            return
        kind, namespace, name = place
        collection = self._of[kind]
        before = collection.entries.get(namespace, {}).get(name)
        after = None
        if event.record is not None:
            after = entry_of(self._kinds, event.key, event.record.value, event.revision)
        elif before is not None:  # its last state, at the revision where it went
            before = entry_of(self._kinds, event.key, before.body, event.revision) or before
        self._set(kind, namespace, name, after)
        change = Change(event.revision, before, after)
        if before is None and after is None:
            return
        collection.changes.append(change)
        collection.size += change.size
        while len(collection.changes) > KEPT or collection.size > KEPT_BYTES:
            forgotten = collection.changes.popleft()
            collection.size -= forgotten.size
            collection.horizon = forgotten.revision
        for heard in self._heard:
            heard(change)
        for watcher in collection.watchers:
            watcher.offer(change)
        for entry in (before, after):
            if entry is not None:
                entry.settle()

    def _set(self, kind: Kind, namespace: str, name: str, entry: Entry | None) -> None:
        collection = self._of[kind]
        space = collection.entries.setdefault(namespace, {})
        collection.count -= name in space
        if entry is None:
            space.pop(name, None)
            if not space:
                del collection.entries[namespace]
        else:
            space[name] = entry
            collection.count += 1


def event_of(change: Change, selector: Selector) -> WatchEvent | None:
    """What somebody who watches with a selector is told; None: it does not concern them."""
    before = change.before is not None and change.before.matches(selector)
    after = change.after is not None and change.after.matches(selector)
    if after:
        return WatchEvent("MODIFIED" if before else "ADDED", change.after, change.revision)
    if before:
        return WatchEvent("DELETED", change.after or change.before, change.revision)
    return None


def key_split(kinds: dict[str, Kind], key: str) -> tuple[Kind, str, str] | None:
    """What lies at a key of the store: None for what this version does not know."""
    parts = key.split("/", 5)
    if len(parts) < 5:
        return None
    kind = kinds.get("/".join(parts[:4]) + "/")
    if kind is None:
        return None
    if kind.namespaced:
        return (kind, parts[4], parts[5]) if len(parts) == 6 else None
    return kind, "", parts[4]


def entry_of(kinds: dict[str, Kind], key: str, value: bytes, revision: int) -> Entry | None:
    """An object as it lies in the store, with its revision."""
    place = key_split(kinds, key)
    if place is None:
        return None
    kind, namespace, name = place
    item: dict[str, Any] = _decode(value)
    item.pop("kind", None)
    item.pop("apiVersion", None)
    item["metadata"]["resourceVersion"] = str(revision)
    rest = _encode(item)[1:]
    return Entry(kind, namespace, name, revision, {"kind": kind.kind, "apiVersion": kind.group_version, **item}, rest)


def entry_unread(kind: Kind, namespace: str, name: str, item: Object) -> Entry:
    """Of an object that is not in the store."""
    rest = _encode({key: value for key, value in item.items() if key not in ("kind", "apiVersion")})[1:]
    return Entry(kind, namespace, name, 0, item, rest)


def value_of(item: Object) -> bytes:
    """An object as it is put into the store: without its revision, which the store knows."""
    metadata = {key: value for key, value in item["metadata"].items() if key != "resourceVersion"}
    return _encode({**item, "metadata": metadata})
