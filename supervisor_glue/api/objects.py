# SPDX-License-Identifier: Apache-2.0
"""The verbs that change objects: one transaction of the store each, tried again where somebody else was faster.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/ (verbs, dry run, deletion with finalizers).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from supervisor_glue.api.kinds import NAMESPACES, STORED, Kind
from supervisor_glue.api.metadata import (
    generation_update,
    is_gone,
    metadata_new,
    metadata_update,
    name_generated,
    time_text,
)
from supervisor_glue.api.status import (
    CHANGED_MEANWHILE,
    Cause,
    Object,
    error_conflict,
    error_exists,
    error_forbidden,
    error_invalid,
    error_not_found,
)
from supervisor_glue.api.strategy import strategy_of
from supervisor_glue.api.watch_cache import Entry, WatchCache, entry_of, entry_unread, value_of
from supervisor_glue.store import Condition, Delete, Operation, Put, Store

TRIES: Final = 32
"""Of a change that names no resourceVersion."""

Change = Callable[[Object | None], Object]
"""From the object that is there (None: none) to what it is to be; may change and return its argument."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a DELETE's body and query say. `grace`: seconds; None: the kind's."""

    grace: int | None = None
    propagation: str = ""
    uid: str = ""
    revision: str = ""
    dry_run: bool = False


class Objects:
    """Changes objects in a store; `clock` gives seconds since the epoch."""

    def __init__(self, store: Store, cache: WatchCache, clock: Callable[[], float] = time.time) -> None:
        self.store, self.cache, self.clock = store, cache, clock
        self._kinds = {kind.prefix: kind for kind in STORED}

    async def create(
        self,
        kind: Kind,
        namespace: str,
        item: Object,
        finish: Callable[[Object | None, Object], Object],
        *,
        dry_run: bool = False,
    ) -> Entry:
        """Put a new object. `finish`: a last word on what is to be stored (managed fields). Raises ApiError."""
        strategy = strategy_of(kind)
        base = item["metadata"].get("generateName", "") if not item["metadata"].get("name") else ""
        metadata_new(kind, item, namespace, self.clock())
        strategy.prepare_new(item)
        item = finish(None, item)
        strategy.admit(item)
        self._validate(kind, item, strategy.validate(item))
        for _ in range(TRIES):
            name = item["metadata"]["name"]
            conditions = [Condition(kind.key(namespace, name), 0), *self._namespace_condition(kind, namespace)]
            if self.cache.get(kind, namespace, name) is None:
                entry = await self._commit(kind, namespace, name, conditions, item, dry_run)
                if entry is not None:
                    return entry
                await self.cache.fresh()
            if self.cache.get(kind, namespace, name) is not None:
                if not base:
                    raise error_exists(kind.plural, kind.group, name)
                item["metadata"]["name"] = name_generated(base)
        raise error_conflict(kind.plural, kind.group, name, CHANGED_MEANWHILE)

    async def change(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        change: Change,
        finish: Callable[[Object | None, Object], Object],
        *,
        subresource: str = "",
        dry_run: bool = False,
        create: bool = False,
        validate: bool = True,
    ) -> tuple[Entry, bool]:
        """Change an object that is there, or with `create` make it; whether it is new. Raises ApiError: NotFound,
        Conflict where the change names a resourceVersion that has passed, Invalid."""
        strategy = strategy_of(kind)
        for attempt in range(TRIES):
            if attempt:
                await self.cache.fresh()
            entry = self.cache.get(kind, namespace, name)
            if entry is None:
                if not create:
                    raise error_not_found(kind.plural, kind.group, name)
                return await self.create(kind, namespace, change(None), finish, dry_run=dry_run), True
            old, new = entry.item, change(entry.copy())
            named = self._named(kind, entry, new)
            metadata_update(kind, old, new)
            new = strategy.prepare_change(old, new, subresource)
            generation_update(kind, old, new)
            if validate:
                self._validate(kind, new, strategy.validate_change(old, new, subresource))
            new = finish(old, new)
            new["metadata"]["resourceVersion"] = str(entry.revision)
            if is_gone(kind, new):
                gone = await self._remove(entry, [Condition(kind.key(namespace, name), entry.revision)], dry_run)
                if gone:
                    return Entry(kind, namespace, name, entry.revision, new, entry.rest), False
            elif _same(old, new):
                return entry, False
            else:
                conditions = [Condition(kind.key(namespace, name), entry.revision)]
                changed = await self._commit(kind, namespace, name, conditions, new, dry_run)
                if changed is not None:
                    return changed, False
            if named:
                break
        raise error_conflict(kind.plural, kind.group, name, CHANGED_MEANWHILE)

    async def delete(self, kind: Kind, namespace: str, name: str, options: Deletion) -> tuple[Object, bool]:
        """The object as it was last, and whether it has gone: it stays while it has finalizers or a time of grace.
        Raises ApiError: NotFound, Conflict for a precondition."""
        strategy = strategy_of(kind)
        for attempt in range(TRIES):
            if attempt:
                await self.cache.fresh()
            entry = self.cache.get(kind, namespace, name)
            if entry is None:
                raise error_not_found(kind.plural, kind.group, name)
            self._preconditions(kind, entry, options)
            item = entry.copy()
            metadata = item["metadata"]
            grace = strategy.grace(item, options.grace)
            _propagation(metadata, options.propagation)
            if "deletionTimestamp" not in metadata:
                metadata["deletionTimestamp"] = time_text(self.clock() + grace)
                metadata["deletionGracePeriodSeconds"] = grace
                if kind.generation and "generation" in metadata:
                    metadata["generation"] += 1
            elif grace < metadata.get("deletionGracePeriodSeconds", 0):
                metadata["deletionTimestamp"] = time_text(self.clock() + grace)
                metadata["deletionGracePeriodSeconds"] = grace
            strategy.prepare_deletion(item)
            conditions = [Condition(kind.key(namespace, name), entry.revision)]
            if is_gone(kind, item):
                if await self._remove(entry, conditions, options.dry_run):
                    return item, True
            elif _same(entry.item, item):
                return item, False
            else:
                changed = await self._commit(kind, namespace, name, conditions, item, options.dry_run)
                if changed is not None:
                    return changed.item, False
        raise error_conflict(kind.plural, kind.group, name, CHANGED_MEANWHILE)

    def _preconditions(self, kind: Kind, entry: Entry, options: Deletion) -> None:
        uid = entry.item["metadata"]["uid"]
        if options.uid and options.uid != uid:
            why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {uid}"
            raise error_conflict(kind.plural, kind.group, entry.name, why)
        if options.revision and options.revision != str(entry.revision):
            why = (
                f"Precondition failed: ResourceVersion in precondition: {options.revision},"
                f" ResourceVersion in object meta: {entry.revision}"
            )
            raise error_conflict(kind.plural, kind.group, entry.name, why)

    def _named(self, kind: Kind, entry: Entry, new: Object) -> bool:
        """Whether the change is meant for one revision only. Raises Conflict where that has passed."""
        given = new["metadata"].get("resourceVersion")
        if not given or given == str(entry.revision):
            return False
        raise error_conflict(kind.plural, kind.group, entry.name, CHANGED_MEANWHILE)

    def _validate(self, kind: Kind, item: Object, causes: Sequence[Cause]) -> None:
        if causes:
            raise error_invalid(kind.kind, kind.group, str(item["metadata"].get("name") or ""), causes)

    def _namespace_condition(self, kind: Kind, namespace: str) -> list[Condition]:
        """A new object needs its Namespace, as it is now: one that ends meanwhile gets no new object."""
        if not kind.namespaced:
            return []
        entry = self.cache.get(NAMESPACES, "", namespace)
        if entry is None:
            raise error_not_found("namespaces", "", namespace)
        if "deletionTimestamp" in entry.item["metadata"]:
            why = f"unable to create new content in namespace {namespace} because it is being terminated"
            error = error_forbidden(kind.plural, kind.group, "", why)
            told = f"namespace {namespace} is being terminated"
            error.details["causes"] = [
                {"reason": "NamespaceTerminating", "message": told, "field": "metadata.namespace"}
            ]
            raise error
        return [Condition(NAMESPACES.key("", namespace), entry.revision)]

    async def _commit(
        self, kind: Kind, namespace: str, name: str, conditions: Sequence[Condition], item: Object, dry_run: bool
    ) -> Entry | None:
        """The object as it is in the store now; None: a condition did not hold."""
        key, value = kind.key(namespace, name), value_of(item)
        if dry_run:
            return self._imagined(kind, namespace, name, value)
        operations: list[Operation] = [Put(key, value)]
        outcome = await self.store.commit(conditions, operations)
        if not outcome.succeeded:
            return None
        await self.cache.wait(outcome.revision)
        return entry_of(self._kinds, key, value, outcome.revision)

    def _imagined(self, kind: Kind, namespace: str, name: str, value: bytes) -> Entry:
        """What would be there: with the revision of what is there now, or none."""
        before = self.cache.get(kind, namespace, name)
        entry = entry_of(self._kinds, kind.key(namespace, name), value, 0 if before is None else before.revision)
        assert entry is not None
        if before is not None:
            return entry
        del entry.item["metadata"]["resourceVersion"]
        return entry_unread(kind, namespace, name, entry.item)

    async def _remove(self, entry: Entry, conditions: Sequence[Condition], dry_run: bool) -> bool:
        if dry_run:
            return True
        outcome = await self.store.commit(conditions, [Delete(entry.kind.key(entry.namespace, entry.name))])
        if outcome.succeeded:
            await self.cache.wait(outcome.revision)
        return outcome.succeeded


def _propagation(metadata: dict[str, Any], policy: str) -> None:
    """Finalizers by which the garbage collector is asked."""
    wanted = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}.get(policy)
    if not policy:
        return
    kept = [name for name in metadata.get("finalizers", ()) if name not in ("foregroundDeletion", "orphan")]
    if wanted is not None:
        kept.append(wanted)
    metadata.pop("finalizers", None)
    if kept:
        metadata["finalizers"] = kept


def _same(old: Object, new: Object) -> bool:
    """Nothing has changed but for when somebody said so."""
    return _without_times(old) == _without_times(new)


def _without_times(item: Object) -> Object:
    managed = item["metadata"].get("managedFields")
    if not managed:
        return item
    timeless = [{key: value for key, value in entry.items() if key != "time"} for entry in managed]
    return {**item, "metadata": {**item["metadata"], "managedFields": timeless}}
