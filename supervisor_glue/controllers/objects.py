# SPDX-License-Identifier: Apache-2.0
"""Looking at objects, and making them: keys, owners, finalizers, conditions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from supervisor_glue.api import conditions
from supervisor_glue.api.client import Resource
from supervisor_glue.api.conditions import condition_in, condition_made
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.resources import KIND_OF, api_version

FINALIZER: Final = "palisade.internal/network"
"""Holds a Namespace until all that it made is gone."""


def object_key(item: Object) -> str:
    """`namespace/name`, or the name of what has no namespace."""
    meta = item["metadata"]
    namespace = meta.get("namespace")
    return f"{namespace}/{meta['name']}" if namespace else str(meta["name"])


def key_split(key: str) -> tuple[str, str]:
    """Namespace (or nothing) and name."""
    namespace, _, name = key.rpartition("/")
    return namespace, name


def name_of(item: Object) -> str:
    return str(item["metadata"]["name"])


def namespace_of(item: Object) -> str:
    return str(item["metadata"].get("namespace", ""))


def uid_of(item: Object) -> str:
    return str(item["metadata"].get("uid", ""))


def spec_of(item: Object) -> Mapping[str, Any]:
    return item.get("spec") or {}


def status_of(item: Object) -> Mapping[str, Any]:
    return item.get("status") or {}


def annotations_of(item: Object) -> Mapping[str, str]:
    return item["metadata"].get("annotations") or {}


def labels_of(item: Object) -> Mapping[str, str]:
    return item["metadata"].get("labels") or {}


def is_deleted(item: Object) -> bool:
    """Somebody wants it gone; it is there because of its finalizers."""
    return bool(item["metadata"].get("deletionTimestamp"))


def object_made(
    resource: Resource,
    name: str,
    namespace: str = "",
    *,
    spec: Mapping[str, Any] | None = None,
    owner: Mapping[str, Any] | None = None,
    labels: Mapping[str, str] | None = None,
) -> Object:
    """An object to create."""
    meta: dict[str, Any] = {"name": name}
    if namespace:
        meta["namespace"] = namespace
    if labels:
        meta["labels"] = dict(labels)
    if owner:
        meta["ownerReferences"] = [dict(owner)]
    made: Object = {"apiVersion": api_version(resource), "kind": KIND_OF[resource], "metadata": meta}
    if spec is not None:
        made["spec"] = dict(spec)
    return made


def owner_reference(resource: Resource, item: Object) -> Object:
    """What an object that belongs to this one says of it."""
    return {
        "apiVersion": api_version(resource),
        "kind": KIND_OF[resource],
        "name": name_of(item),
        "uid": uid_of(item),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owner_uids(item: Object) -> list[str]:
    return [str(owner.get("uid", "")) for owner in item["metadata"].get("ownerReferences") or ()]


def without_finalizer(item: Object, finalizer: str) -> Object:
    """The object as it is to be updated; itself where it has no such finalizer."""
    meta = item["metadata"]
    if finalizer not in (meta.get("finalizers") or ()):
        return item
    kept = [value for value in meta["finalizers"] if value != finalizer]
    return {**item, "metadata": {**meta, "finalizers": kept}}


def with_finalizer(item: Object, finalizer: str) -> Object:
    """The object as it is to be updated; itself where it has it already."""
    meta = item["metadata"]
    found = meta.get("finalizers") or []
    if finalizer in found:
        return item
    return {**item, "metadata": {**meta, "finalizers": [*found, finalizer]}}


def time_text(seconds: float) -> str:
    """RFC 3339, to the second, as metav1.Time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_time_text(seconds: float) -> str:
    """RFC 3339 with microseconds, as metav1.MicroTime."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def condition_of(item: Object, kind: str) -> Mapping[str, Any] | None:
    """The condition of a type, if there is one."""
    return condition_in(status_of(item).get("conditions") or (), kind)


def conditions_with(item: Object, kind: str, status: str, reason: str, message: str, now: float) -> list[Object]:
    """The object's conditions with this one; its time of transition changes with its status only."""
    held = status_of(item).get("conditions") or ()
    made = condition_made(held, kind, status, now, reason, message)
    return conditions.conditions_with(held, {**(condition_in(held, kind) or {}), **made})
