# SPDX-License-Identifier: Apache-2.0
"""`metadata.managedFields`: who owns which fields of an object, and how a write that is no apply changes that.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management and
k8s.io/apimachinery/pkg/util/managedfields.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, TypeAlias

from supervisor_glue.api.fieldset import (
    SELF,
    FieldSet,
    FieldSetError,
    difference,
    object_difference,
    paths_set,
    set_read,
    set_write,
    union,
)
from supervisor_glue.api.schema import Node, Sort
from supervisor_glue.api.status import Object

APPLY, UPDATE = "Apply", "Update"
BEFORE_FIRST_APPLY = "before-first-apply"
ANCIENT = "ancient-changes"
MOST_UPDATERS = 10
"""Entries of managers that do not apply; the oldest are thrown together above that."""
MOST_MANAGER_LENGTH = 128
_IDENTITY = ("name", "namespace", "creationTimestamp", "selfLink", "uid", "clusterName", "generation")
STRIPPED = paths_set(
    [
        ("f:apiVersion",),
        ("f:kind",),
        ("f:metadata",),
        *(("f:metadata", "f:" + name) for name in (*_IDENTITY, "managedFields", "resourceVersion")),
    ]
)
"""Nobody owns these."""


class Manager(NamedTuple):
    """Who owns. Of one that applies, `api_version` is empty: it is the same whatever version it applies with."""

    name: str
    operation: str
    api_version: str
    subresource: str


class Owned(NamedTuple):
    """What it owns, in which version's fields, since when (RFC 3339, "" unknown)."""

    fields: FieldSet
    api_version: str
    time: str


Managed: TypeAlias = dict[Manager, Owned]


def manager_name(field_manager: str, user_agent: str) -> str:
    """A write's manager: as the request names it, else the first word of its User-Agent."""
    if field_manager:
        return field_manager
    word = user_agent.partition("/")[0]
    return "".join(letter for letter in word if letter.isprintable())[:MOST_MANAGER_LENGTH] or "unknown"


def managed_read(entries: Any, api_version: str) -> Managed:
    """Of metadata.managedFields; entries of other versions are dropped: nothing converts them. Raises FieldSetError."""
    found: Managed = {}
    for entry in entries or ():
        if not isinstance(entry, Mapping):
            raise FieldSetError("an entry of managedFields is no mapping")
        operation, version = entry.get("operation"), entry.get("apiVersion")
        if operation not in (APPLY, UPDATE):
            raise FieldSetError("managedFields: operation must be `Apply` or `Update`")
        if entry.get("fieldsType", "FieldsV1") not in ("", "FieldsV1"):
            raise FieldSetError("managedFields: fieldsType must be `FieldsV1`")
        name, time, subresource = (entry.get(key) or "" for key in ("manager", "time", "subresource"))
        if not all(isinstance(text, str) for text in (name, time, subresource, version)):
            raise FieldSetError("managedFields: manager, time, subresource and apiVersion are text")
        if version != api_version:
            continue
        fields = difference(set_read(entry.get("fieldsV1") or {}), {SELF: {}})
        key = Manager(name, operation, "" if operation == APPLY else api_version, subresource)
        before = found.get(key)
        found[key] = Owned(union(before.fields, fields) if before else fields, api_version, time)
    return found


def managed_write(managed: Managed) -> list[Object]:
    """As metadata.managedFields: appliers first, then by time and name; without those who own nothing."""
    entries = []
    for key, owned in sorted(managed.items(), key=lambda item: (item[0].operation, item[1].time, *item[0])):
        if not owned.fields:
            continue
        entry: Object = {"manager": key.name, "operation": key.operation, "apiVersion": owned.api_version}
        if owned.time:
            entry["time"] = owned.time
        entry |= {"fieldsType": "FieldsV1", "fieldsV1": set_write(owned.fields)}
        if key.subresource:
            entry["subresource"] = key.subresource
        entries.append(entry)
    return entries


def with_managed(item: Object, managed: Managed) -> Object:
    """The object with these managedFields (none: without)."""
    entries = managed_write(managed)
    metadata = {key: value for key, value in (item.get("metadata") or {}).items() if key != "managedFields"}
    if entries:
        metadata["managedFields"] = entries
    return {**item, "metadata": metadata}


def unmanaged(item: Object) -> Object:
    """Without managedFields."""
    metadata = item.get("metadata") or {}
    if "managedFields" not in metadata:
        return item
    return {**item, "metadata": {key: value for key, value in metadata.items() if key != "managedFields"}}


def managed_of(item: Object) -> Managed:
    """An object's own; nothing where they can't be read."""
    try:
        return managed_read((item.get("metadata") or {}).get("managedFields"), str(item.get("apiVersion", "")))
    except FieldSetError:
        return {}


def managed_update(
    schema: Node, old: Object | None, new: Object, manager: str, now: str, subresource: str = ""
) -> Object:
    """`new` with the managedFields that a create, update or patch by `manager` leaves; `old` None: it is created.

    The manager owns what it changed, and nobody else does any more. What `new` says in managedFields counts (a client
    may hand fields over), `[{}]` clears them, none or an empty list leaves them as they are. Never raises: fields that
    can't be compared leave managedFields as they were.
    """
    before = zero_object(schema) if old is None else old
    managed, skipped = _managed_before(old, new, subresource)
    if skipped:
        return with_managed(new, managed)
    try:
        managed = changes_owned(schema, before, new, managed, manager, now, subresource)
    except FieldSetError:
        return with_managed(new, managed)
    return with_managed(new, managed)


def _managed_before(old: Object | None, new: Object, subresource: str) -> tuple[Managed, bool]:
    """What stood there as this write begins, and whether nothing is tracked: for an object whose fields were cleared,
    nothing is until somebody applies."""
    sent = (new.get("metadata") or {}).get("managedFields")
    live = managed_of(old) if old is not None else {}
    version = str(new.get("apiVersion", ""))
    if subresource or not sent:
        found = live
    elif sent == [{}]:
        return {}, old is not None
    else:
        try:
            found = managed_read(sent, version) or live
        except FieldSetError:
            found = live
    return found, old is not None and not found


def changes_owned(
    schema: Node, before: Object, after: Object, managed: Managed, manager: str, now: str, subresource: str
) -> Managed:
    """Ownership after `manager` made `after` of `before` without applying. Raises FieldSetError."""
    changes = object_difference(schema, unmanaged(before), unmanaged(after))
    taken = difference(_seen(changes.changed(), subresource), STRIPPED)
    lost = union(changes.changed(), changes.removed)
    if not lost:
        return managed
    found = {key: owned._replace(fields=difference(owned.fields, lost)) for key, owned in managed.items()}
    if taken:
        version = str(after.get("apiVersion", ""))
        key = Manager(manager, UPDATE, version, subresource)
        own = found.get(key)
        found[key] = Owned(union(own.fields, taken) if own else taken, version, now)
    return _capped({key: owned for key, owned in found.items() if owned.fields})


def _seen(fields: FieldSet, subresource: str) -> FieldSet:
    """What a write can change where: the object itself not its status, and the status nothing of the spec."""
    hidden = "f:status" if not subresource else "f:spec" if subresource == "status" else ""
    return {key: inside for key, inside in fields.items() if key != hidden} if hidden in fields else fields


def _capped(managed: Managed) -> Managed:
    updaters = sorted((key for key in managed if key.operation == UPDATE), key=lambda key: (managed[key].time, *key))
    surplus = len(updaters) - MOST_UPDATERS
    if surplus <= 0:
        return managed
    found = dict(managed)
    for key in updaters:
        ancient = key._replace(name=ANCIENT)
        if surplus <= 0:
            break
        if key == ancient:
            continue
        owned, kept = found.pop(key), found.get(ancient)
        surplus -= 1 if kept else 0
        fields = union(owned.fields, kept.fields) if kept else owned.fields
        found[ancient] = Owned(fields, owned.api_version, max(owned.time, kept.time if kept else ""))
    return found


_VALUES = {("v1.NetworkPolicySpec", "podSelector"), ("v1.Event", "source")}
"""Fields that may be left out and are no pointers in Go."""


@cache
def zero_object(schema: Node) -> Object:
    """What Go has for a new object of a kind, as JSON: what is equal to it, nobody set. Not to be changed."""
    return _zero(schema, 0) if schema.built_in else {}


def _zero(schema: Node, depth: int) -> Object:
    found: Object = {}
    for name, field in schema.fields.items():
        embedded = depth == 0 and name in ("metadata", "spec", "status")
        if field.sort is Sort.STRUCT and (embedded or name in schema.required or (schema.go_type(), name) in _VALUES):
            found[name] = {} if field.atomic else _zero(field, depth + 1)
        elif name in schema.required and field.sort in (Sort.LIST, Sort.MAP):
            found[name] = None
    return found
