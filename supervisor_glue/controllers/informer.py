# SPDX-License-Identifier: Apache-2.0
"""A collection as a local view: listed once, then kept by a watch; listed anew where the server forgot the revision.

What handlers are told is the difference between two states of the view; a change that came and went between them is
not told. They must not wait for anything.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast

from dfw.logs import get_logger
from supervisor_glue.api.client import Client, Resource, WatchEvent
from supervisor_glue.api.managed_fields import unmanaged
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.objects import object_key

Handler: TypeAlias = Callable[[Object | None, Object | None], None]
"""Called with an object as it was and as it is; None: it is not there."""
Sleep: TypeAlias = Callable[[float], Awaitable[None]]

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 10.0
GONE: Final = 410


class Informer:
    """The view of one collection (or of a Namespace's part), without managedFields: more than half of an object, and a
    write without them leaves them as they are. `revision`: as of which it is. `every`: it is not watched but listed
    again so often (seconds)."""

    def __init__(
        self,
        client: Client,
        resource: Resource,
        *,
        namespace: str = "",
        fields: str = "",
        sleep: Sleep = asyncio.sleep,
        every: float | None = None,
    ) -> None:
        self.resource, self.every = resource, every
        self.revision = ""
        self.synced = asyncio.Event()
        self._client, self._namespace, self._fields, self._sleep = client, namespace, fields, sleep
        self._items: dict[str, Object] = {}
        self._handlers: list[Handler] = []

    @property
    def items(self) -> Mapping[str, Object]:
        """By key (`object_key`). Nobody changes what is in it."""
        return self._items

    def get(self, name: str, namespace: str = "") -> Object | None:
        """An object of the view."""
        return self._items.get(f"{namespace}/{name}" if namespace else name)

    def is_at(self, item: Object) -> bool:
        """Whether the view is as of this version of an object, or later: what it has, or has not, is newer."""
        return int(self.revision or 0) >= int(item["metadata"]["resourceVersion"])

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self._items.values()))

    def handle(self, handler: Handler) -> None:
        """Tell of all that is there now, and of every change from now on."""
        self._handlers.append(handler)
        for item in self:
            handler(None, item)

    async def run(self) -> None:
        """Keep the view until cancelled. A server that does not answer is asked again, in longer and longer pauses."""
        pause = FIRST_PAUSE
        log = get_logger("informer").bind(resource=self.resource.plural)
        while True:
            try:
                if not self.revision or self.every is not None:
                    await self._list()
                    log.debug("listed", objects=len(self._items), revision=self.revision)
                if self.every is not None:
                    pause = FIRST_PAUSE
                    await self._sleep(self.every * random.uniform(0.5, 1.0))
                    continue
                async with aclosing(cast(Any, self._watch())) as events:
                    async for event in events:
                        pause = FIRST_PAUSE
                        self._take(event)
                # The server ended it: normal, but never so fast that this loop does nothing else.
            except ApiError as error:
                if error.code == GONE:
                    self.revision = ""
                    log.info("revision-forgotten")
                    continue
                log.warning("refused", code=error.code, error=error.message)
            except (OSError, TimeoutError) as error:
                log.warning("unreachable", error=str(error))
            await self._sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    def _watch(self) -> Any:
        return self._client.watch(self.resource, self.revision, self._namespace, fields=self._fields)

    async def _list(self) -> None:
        listed = await self._client.list(self.resource, self._namespace, fields=self._fields)
        found = {object_key(item): unmanaged(item) for item in listed.items}
        before, self._items = self._items, found
        self.revision = listed.revision
        for key, old in before.items():
            if key not in found:
                self._tell(old, None)
        for key, item in found.items():
            was = before.get(key)
            if was is None or was["metadata"].get("resourceVersion") != item["metadata"].get("resourceVersion"):
                self._tell(was, item)
        self.synced.set()

    def _take(self, event: WatchEvent) -> None:
        item = unmanaged(event.object)
        self.revision = str(item["metadata"]["resourceVersion"])
        if event.type == "BOOKMARK":
            return
        key = object_key(item)
        old = self._items.pop(key, None)
        if event.type == "DELETED":
            if old is not None:
                self._tell(old, None)
            return
        self._items[key] = item
        self._tell(old, item)

    def _tell(self, old: Object | None, new: Object | None) -> None:
        for handler in self._handlers:
            handler(old, new)


class Index:
    """The objects of a view by something that each has (its namespace, its owner): made once, kept with the view."""

    def __init__(self, view: Informer, values: Callable[[Object], Iterable[str]]) -> None:
        self._values = values
        self._by: dict[str, dict[str, Object]] = {}
        view.handle(self._changed)

    def __getitem__(self, value: str) -> list[Object]:
        """Those that have it."""
        return list(self._by.get(value, {}).values())

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if old is not None:
            key = object_key(old)
            for value in self._values(old):
                having = self._by[value]
                having.pop(key, None)
                if not having:
                    del self._by[value]
        if new is not None:
            key = object_key(new)
            for value in self._values(new):
                self._by.setdefault(value, {})[key] = new


@dataclass(slots=True)
class Views:
    """One informer a collection, shared by all controllers of a process."""

    client: Client
    of: dict[Resource, Informer] = field(default_factory=dict)

    def __getitem__(self, resource: Resource) -> Informer:
        found = self.of.get(resource)
        if found is None:
            found = self.of[resource] = Informer(self.client, resource)
        return found

    async def synced(self) -> None:
        """All have listed once."""
        for informer in list(self.of.values()):
            await informer.synced.wait()
