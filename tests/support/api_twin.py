# SPDX-License-Identifier: Apache-2.0
"""An API server in memory, as plainly as its meanings: revisions, conflicts, finalizers, subresources, watches.

Garbage collection and the contents of Namespaces are controllers' business, as they are a real server's.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from supervisor_glue.api.client import Listed, Resource, WatchEvent
from supervisor_glue.api.status import (
    CHANGED_MEANWHILE,
    ApiError,
    Object,
    error_conflict,
    error_exists,
    error_forbidden,
    error_gone,
    error_method,
    error_not_found,
)
from supervisor_glue.controllers.objects import time_text
from supervisor_glue.controllers.resources import IN_NAMESPACES, NAMESPACES, PODS

Key = tuple[Resource, str, str]


class Happened(NamedTuple):
    revision: int
    type: str
    key: Key
    before: Object | None
    object: Object


class ApiTwin:
    """A server, and a client of it. `fail`: asked before every request; what it returns is raised."""

    def __init__(self) -> None:
        self.objects: dict[Key, Object] = {}
        self.revision = 0
        self.forgotten = 0
        self.log: list[Happened] = []
        self.writes = 0
        self.watches = 0  # that are open
        self.fail: Callable[[str, Resource], Exception | None] = lambda verb, resource: None
        self._uids = 0
        self._changed = asyncio.Condition()

    # Verbs.

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        await self._asked("get", resource)
        return copy.deepcopy(self._there(resource, namespace, name))

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed:
        await self._asked("list", resource)
        found = [
            copy.deepcopy(item)
            for (of, within, _), item in sorted(self.objects.items())
            if of == resource and namespace in ("", within) and _selected(item, labels, fields)
        ]
        return Listed(found, str(self.revision))

    async def watch(
        self, resource: Resource, revision: str, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        await self._asked("watch", resource)
        at = int(revision)
        if at < self.forgotten:
            raise error_gone("too old resource version")
        position = next((n for n, happened in enumerate(self.log) if happened.revision > at), len(self.log))
        self.watches += 1
        try:
            while True:
                while position < len(self.log):
                    happened = self.log[position]
                    position += 1
                    of, within, _ = happened.key
                    if of != resource or namespace not in ("", within):
                        continue
                    was = happened.before is not None and _selected(happened.before, labels, fields)
                    is_now = happened.type != "DELETED" and _selected(happened.object, labels, fields)
                    kind = {(False, True): "ADDED", (True, True): "MODIFIED", (True, False): "DELETED"}.get(
                        (was, is_now)
                    )
                    if kind is not None:
                        yield WatchEvent(kind, copy.deepcopy(happened.object))
                failure = self.fail("watching", resource)
                if failure is not None:
                    raise failure
                async with self._changed:
                    if position >= len(self.log):
                        await self._changed.wait()
        finally:
            self.watches -= 1

    async def create(
        self, resource: Resource, item: Object, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Object:
        await self._asked("create", resource)
        if subresource == "binding":
            return await self._bind(name, namespace, item)
        item = copy.deepcopy(item)
        meta = item["metadata"]
        if resource in IN_NAMESPACES:
            meta["namespace"] = namespace
            within = self.objects.get((NAMESPACES, "", namespace))
            if within is None:
                raise error_not_found("namespaces", "", namespace)
            if within["metadata"].get("deletionTimestamp"):
                why = f"unable to create new content in namespace {namespace} because it is being terminated"
                raise error_forbidden(resource.plural, resource.group, meta.get("name", ""), why)
        if not meta.get("name"):
            self._uids += 1
            meta["name"] = f"{meta['generateName']}{self._uids:05x}"
        key = (resource, meta.get("namespace", ""), meta["name"])
        if key in self.objects:
            raise error_exists(resource.plural, resource.group, meta["name"])
        self._uids += 1
        meta["uid"] = f"uid-{self._uids}"
        meta["creationTimestamp"] = time_text(time.time())
        meta["generation"] = 1
        if resource == NAMESPACES:
            meta["labels"] = {**meta.get("labels", {}), "kubernetes.io/metadata.name": meta["name"]}
            item.setdefault("spec", {})["finalizers"] = ["kubernetes"]
            item["status"] = {"phase": "Active"}
        if resource == PODS:
            item["status"] = {"phase": "Pending", **(item.get("status") or {})}
        return await self._put("ADDED", key, item)

    async def update(self, resource: Resource, item: Object, subresource: str = "") -> Object:
        await self._asked(f"update {subresource}".strip(), resource)
        meta = item["metadata"]
        key = (resource, meta.get("namespace", ""), meta["name"])
        now = self._there(*key)
        if meta.get("resourceVersion") not in (None, now["metadata"]["resourceVersion"]):
            raise error_conflict(resource.plural, resource.group, meta["name"], CHANGED_MEANWHILE)
        if meta.get("uid") not in (None, now["metadata"]["uid"]):
            raise error_conflict(resource.plural, resource.group, meta["name"], "Precondition failed: UID")
        new = copy.deepcopy(item)
        for fixed in ("uid", "creationTimestamp", "generation", "deletionTimestamp"):
            if fixed in now["metadata"]:
                new["metadata"][fixed] = now["metadata"][fixed]
        if subresource == "status":
            new = {**copy.deepcopy(now), "status": new.get("status")}
        elif subresource == "finalize":
            new = {**copy.deepcopy(now), "spec": new.get("spec")}
        else:
            if "status" in now:
                new["status"] = copy.deepcopy(now["status"])
            if resource == PODS and new["spec"].get("nodeName") != now["spec"].get("nodeName"):
                raise ApiError(422, "Invalid", "spec.nodeName: field is immutable")
        return await self._replaced(key, now, new)

    async def patch(
        self, resource: Resource, name: str, patch: Mapping[str, object], namespace: str = "", subresource: str = ""
    ) -> Object:
        await self._asked("patch", resource)
        key = (resource, namespace, name)
        now = self._there(*key)
        new: Any = _merged(copy.deepcopy(now), patch)
        if any(new["metadata"].get(key) != now["metadata"][key] for key in ("resourceVersion", "uid")):
            raise error_conflict(resource.plural, resource.group, name, CHANGED_MEANWHILE)
        if subresource == "status":
            new = {**copy.deepcopy(now), "status": new.get("status")}
        elif "status" in now:
            new["status"] = copy.deepcopy(now["status"])
        return await self._replaced(key, now, new)

    async def apply(
        self, resource: Resource, item: Object, manager: str, *, force: bool = True, subresource: str = ""
    ) -> Object:
        raise error_method("apply")  # no controller asks for it

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace: int | None = None
    ) -> Object:
        await self._asked("delete", resource)
        key = (resource, namespace, name)
        now = self._there(*key)
        if uid and now["metadata"]["uid"] != uid:
            raise error_conflict(resource.plural, resource.group, name, "Precondition failed: UID in precondition")
        held = now["metadata"].get("finalizers") or (resource == NAMESPACES and now["spec"].get("finalizers"))
        if not held:
            return await self._put("DELETED", key, copy.deepcopy(now))
        if now["metadata"].get("deletionTimestamp"):
            return copy.deepcopy(now)
        new = copy.deepcopy(now)
        new["metadata"]["deletionTimestamp"] = time_text(time.time())
        if resource == NAMESPACES:
            new["status"]["phase"] = "Terminating"
        return await self._put("MODIFIED", key, new)

    # Beneath.

    async def _asked(self, verb: str, resource: Resource) -> None:
        failure = self.fail(verb, resource)
        if failure is not None:
            raise failure
        await asyncio.sleep(0)

    def _there(self, resource: Resource, namespace: str, name: str) -> Object:
        found = self.objects.get((resource, namespace, name))
        if found is None:
            raise error_not_found(resource.plural, resource.group, name)
        return found

    async def _bind(self, name: str, namespace: str, binding: Object) -> Object:
        now = self._there(PODS, namespace, name)
        uid = binding["metadata"].get("uid")
        if now["spec"].get("nodeName") or now["metadata"].get("deletionTimestamp"):
            raise error_conflict("pods/binding", "", name, f"pod {name} is already assigned to a node or being deleted")
        if uid not in (None, now["metadata"]["uid"]):
            raise error_conflict("pods/binding", "", name, "Precondition failed: UID in precondition")
        new = copy.deepcopy(now)
        new["spec"]["nodeName"] = binding["target"]["name"]
        await self._replaced((PODS, namespace, name), now, new)
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}

    async def _replaced(self, key: Key, now: Object, new: Object) -> Object:
        meta = new["metadata"]
        meta["resourceVersion"] = now["metadata"]["resourceVersion"]
        if new == now:
            return copy.deepcopy(now)
        if new.get("spec") != now.get("spec"):
            meta["generation"] = now["metadata"].get("generation", 1) + 1
        finalizers = meta.get("finalizers") or (key[0] == NAMESPACES and new["spec"].get("finalizers"))
        if meta.get("deletionTimestamp") and not finalizers:
            return await self._put("DELETED", key, new)
        return await self._put("MODIFIED", key, new)

    async def _put(self, kind: str, key: Key, new: Object) -> Object:
        self.revision += 1
        self.writes += 1
        before = self.objects.get(key)
        new["metadata"]["resourceVersion"] = str(self.revision)
        if kind == "DELETED":
            del self.objects[key]
        else:
            self.objects[key] = new
        self.log.append(Happened(self.revision, kind, key, before, new))
        async with self._changed:
            self._changed.notify_all()
        return copy.deepcopy(new)

    async def wake(self) -> None:
        """Watches look whether they fail."""
        async with self._changed:
            self._changed.notify_all()


def _merged(value: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    target = value if isinstance(value, dict) else {}
    for key, part in patch.items():
        if part is None:
            target.pop(key, None)
        else:
            target[key] = _merged(target.get(key), part)
    return target


def _selected(item: Object, labels: str, fields: str) -> bool:
    has = item["metadata"].get("labels") or {}
    for requirement in filter(None, labels.split(",")):
        key, _, value = requirement.partition("=")
        if has.get(key) != value:
            return False
    for requirement in filter(None, fields.split(",")):
        path, _, value = requirement.partition("=")
        found: Any = item
        for part in path.split("."):
            found = (found or {}).get(part)
        if (found or "") != value:
            return False
    return True
