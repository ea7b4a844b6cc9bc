# SPDX-License-Identifier: Apache-2.0
"""Objects go when their owners have gone (https://kubernetes.io/docs/concepts/architecture/garbage-collection/).

Background: an object none of whose owners is there is deleted. Foreground: an owner that waits goes when those that
block it have gone. Orphan: an owner that leaves its dependents is taken out of their references first.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from supervisor_glue.api.client import Client, Resource
from supervisor_glue.api.kinds import BY_KIND, STORED
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.controller import Controller, NotThereError, Now, Triggers, there
from supervisor_glue.controllers.informer import Index, Views
from supervisor_glue.controllers.objects import (
    is_deleted,
    key_split,
    name_of,
    namespace_of,
    object_key,
    owner_uids,
    uid_of,
    without_finalizer,
)
from supervisor_glue.controllers.resources import EVENTS, LEASES

FOREGROUND: Final = "foregroundDeletion"
ORPHAN: Final = "orphan"
COLLECTED: Final = tuple(kind.resource for kind in STORED if kind.resource not in (EVENTS, LEASES))
_BY_PATH: Final = {resource.path(): resource for resource in COLLECTED}


class CollectorController(Controller):
    """Keys are a collection's path and an object's key, with a bar between them."""

    name: ClassVar[str] = "collector"

    def __init__(self, client: Client, views: Views, now: Now = time.time) -> None:
        super().__init__(client, views, now)
        self._dependents = {resource: Index(views[resource], owner_uids) for resource in COLLECTED}

    def triggers(self) -> Triggers:
        return {resource: self._keys(resource) for resource in COLLECTED}

    def _keys(self, resource: Resource) -> Any:
        def keys(item: Object) -> list[str]:
            found = [f"{resource.path()}|{object_key(item)}"] if _concerns(item) else []
            uid = uid_of(item)
            gone = self.views[resource].get(name_of(item), namespace_of(item))
            if is_deleted(item) or gone is None or uid_of(gone) != uid:
                found += [f"{of.path()}|{object_key(one)}" for of, one in self._of(uid)]
            for owner in item["metadata"].get("ownerReferences") or ():  # one that waits for this to go
                of_owner = _resource(owner)
                if of_owner is not None:
                    namespace = f"{namespace_of(item)}/" if BY_KIND[_kind_key(owner)].namespaced else ""
                    found.append(f"{of_owner.path()}|{namespace}{owner.get('name')}")
            return found

        return keys

    def _of(self, uid: str) -> list[tuple[Resource, Object]]:
        return [(resource, item) for resource, index in self._dependents.items() for item in index[uid]]

    async def reconcile(self, key: str) -> float | None:
        path, _, item_key = key.partition("|")
        resource, (namespace, name) = _BY_PATH[path], key_split(item_key)
        item = self.views[resource].get(name, namespace)
        if item is None:
            return None
        finalizers = item["metadata"].get("finalizers") or ()
        if is_deleted(item):
            if ORPHAN in finalizers:
                await self._orphan(resource, item)
            elif FOREGROUND in finalizers:
                await self._foreground(resource, item)
            return None
        owners = item["metadata"].get("ownerReferences") or ()
        if not owners:
            return None
        for owner in owners:
            if await self._is_there(owner, namespace):
                return None
        self.log.info("collected", resource=resource.plural, object=item_key)
        await self.deleted(resource, item)
        return None

    async def _is_there(self, owner: Mapping[str, Any], namespace: str) -> bool:
        """The view may be behind; the server is asked before anything is deleted. An owner of a kind that we don't
        know may be there."""
        resource = _resource(owner)
        if resource is None:
            return True
        within = namespace if BY_KIND[_kind_key(owner)].namespaced else ""
        seen = self.views[resource].get(str(owner.get("name")), within)
        if seen is not None and uid_of(seen) == owner.get("uid"):
            return True
        try:
            found = await there(self.client.get(resource, str(owner.get("name")), within))
        except NotThereError:
            return False
        return uid_of(found) == owner.get("uid")

    async def _foreground(self, resource: Resource, item: Object) -> None:
        blocking = False
        for of, dependent in self._of(uid_of(item)):
            await self.deleted(of, dependent)
            blocking |= any(
                owner.get("blockOwnerDeletion")
                for owner in dependent["metadata"].get("ownerReferences") or ()
                if owner.get("uid") == uid_of(item)
            )
        if not blocking:
            await self.client.update(resource, without_finalizer(item, FOREGROUND))

    async def _orphan(self, resource: Resource, item: Object) -> None:
        for of, dependent in self._of(uid_of(item)):
            kept = [
                owner
                for owner in dependent["metadata"].get("ownerReferences") or ()
                if owner.get("uid") != uid_of(item)
            ]
            await self.client.update(of, {**dependent, "metadata": {**dependent["metadata"], "ownerReferences": kept}})
        await self.client.update(resource, without_finalizer(item, ORPHAN))


def _concerns(item: Object) -> bool:
    meta = item["metadata"]
    return bool(meta.get("ownerReferences")) or bool(meta.get("deletionTimestamp") and meta.get("finalizers"))


def _kind_key(owner: Mapping[str, Any]) -> tuple[str, str, str]:
    group, _, version = str(owner.get("apiVersion", "")).rpartition("/")
    return group, version, str(owner.get("kind"))


def _resource(owner: Mapping[str, Any]) -> Resource | None:
    kind = BY_KIND.get(_kind_key(owner))
    return None if kind is None or kind.resource not in COLLECTED else kind.resource
