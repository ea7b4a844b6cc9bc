# SPDX-License-Identifier: Apache-2.0
"""Server-side apply: what a manager wants of an object, merged into what is there.

Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/, sigs.k8s.io/structured-merge-diff/v6, merge.
Beyond it, as an API server does for kubectl: what `kubectl apply` wrote from the client's side (the annotation with the
last applied configuration) is no conflict when the same user goes over to server-side apply.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from supervisor_glue.api.body import Body
from supervisor_glue.api.decode import IGNORE, STRICT, Decoded, object_shape, strict_errors, warnings_told
from supervisor_glue.api.fieldset import (
    Difference,
    FieldSet,
    FieldSetError,
    associative,
    difference,
    granular,
    intersection,
    member_keys,
    object_difference,
    object_set,
    path_shown,
    paths,
    union,
    with_named,
    without,
)
from supervisor_glue.api.managed_fields import (
    APPLY,
    BEFORE_FIRST_APPLY,
    STRIPPED,
    UPDATE,
    Managed,
    Manager,
    Owned,
    changes_owned,
    managed_of,
    unmanaged,
    with_managed,
    zero_object,
)
from supervisor_glue.api.schema import Node
from supervisor_glue.api.status import ApiError, Object, error_bad_request

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
KUBECTL = "kubectl"


Default: TypeAlias = Callable[[Object], object]
"""Fills in, in place, what an object of the kind has where nothing is said."""


def apply_merge(
    schema: Node,
    live: Object | None,
    applied: Object,
    manager: str,
    force: bool,
    now: str,
    subresource: str = "",
    default: Default = lambda item: None,
) -> Object:
    """The object after `manager` applied `applied`, as it is stored, with managedFields; `live` None: there was none.

    `default`: the kind's defaults, with which what kubectl once applied from the client's side is compared with what is
    there. `now`: RFC 3339, kept for an apply that changes something. `applied` is as `applied_decode` has it. Raises
    ApiError: 409 where others own what would change (unless `force`), 400 for another version, equal elements of a list
    and managedFields in what is applied.
    """
    _check(schema, live, applied)
    wanted = _of_subresource(applied, subresource)
    try:
        wanted_set = object_set(schema, wanted)
    except FieldSetError as error:
        raise _untyped("patch", applied, str(error)) from None
    try:
        return _applied(schema, live, wanted, wanted_set, manager, force, now, subresource, default)
    except FieldSetError as error:
        raise _untyped("live", live or {}, str(error)) from None


def applied_decode(schema: Node, body: Body, validation: str) -> Decoded:
    """What is to be applied, as it was written: what a manager names it owns, also where a server would drop it. Raises
    ApiError 400 for wrong types and unknown fields (whatever `fieldValidation` says), and for keys that stand twice."""
    shaped = object_shape(schema, body.value)
    wrong = [f".{error.path}: {error.said}" for error in shaped.errors]
    wrong += [f".{path}: field not declared in schema" for path in shaped.unknown]
    if wrong:
        raise _untyped("patch", body.value, wrong[0])
    twice = strict_errors((), body.duplicates)
    if twice and validation == STRICT:
        raise error_bad_request(f"error strict decoding YAML: {', '.join(twice)}")
    return Decoded(body.value, warnings_told(twice) if validation != IGNORE else ())


def _check(schema: Node, live: Object | None, applied: Object) -> None:
    version = applied.get("apiVersion")
    expected = live["apiVersion"] if live is not None else version
    if version != expected:
        raise error_bad_request(
            f"Incorrect version specified in apply patch. Specified patch version: {version}, expected: {expected}"
        )
    if (applied.get("metadata") or {}).get("managedFields") is not None:
        raise error_bad_request("metadata.managedFields must be nil")


def _untyped(which: str, item: Object, why: str) -> ApiError:
    """An API server answers 500 with these words; but it is the client's error."""
    metadata = item.get("metadata")
    metadata = metadata if isinstance(metadata, Mapping) else {}
    name = "/".join(str(metadata[key]) for key in ("namespace", "name") if metadata.get(key))
    gvk = f"{item.get('apiVersion')}, Kind={item.get('kind')}"
    return error_bad_request(f"failed to create typed {which} object ({name}; {gvk}): {why}")


def _of_subresource(applied: Object, subresource: str) -> Object:
    """A status is applied through its own subresource, and nothing else is through that."""
    hidden = "status" if not subresource else "spec" if subresource == "status" else ""
    return {key: value for key, value in applied.items() if key != hidden}


def _applied(
    schema: Node,
    live: Object | None,
    wanted: Object,
    wanted_set: FieldSet,
    manager: str,
    force: bool,
    now: str,
    subresource: str,
    default: Default,
) -> Object:
    before = unmanaged(live) if live is not None else {}
    version = str(wanted.get("apiVersion", ""))
    managed = managed_of(live) if live is not None else {}
    if live is not None and not managed:
        managed = changes_owned(schema, zero_object(schema), live, {}, BEFORE_FIRST_APPLY, now, subresource)
    own = Manager(manager, APPLY, "", subresource)
    last = managed.get(own)
    managed[own] = Owned(wanted_set, version, last.time if last else "")
    merged = merged_value(schema, before, wanted)
    if last is not None:
        merged = _without_given_up(schema, merged, managed, last.fields)
    stored: Object = object_shape(schema, merged).value
    changes = object_difference(schema, before, merged)
    if stored != merged:  # what is stored as it was before has not changed: an empty list, `1000m` for `1`
        real = object_difference(schema, before, stored)
        every = union(real.changed(), real.removed)
        changes = Difference(*(intersection(part, every) for part in changes))
    managed[own] = Owned(difference(wanted_set, STRIPPED), version, last.time if last else "")
    managed = _ownership(schema, before, changes, managed, own, force, default)
    unchanged = (
        last is not None
        and own in managed
        and last.fields == managed[own].fields
        and live is not None
        and stored == unmanaged(live)
    )
    if not unchanged and own in managed:
        managed[own] = managed[own]._replace(time=now)
    if manager == KUBECTL and LAST_APPLIED in _annotations(stored):
        stored = _with_last_applied(stored, wanted)
    return with_managed(stored, managed)


def merged_value(schema: Node, live: Any, wanted: Any) -> Any:
    """`wanted` over `live`; associative lists element by element, in an order that suits both."""
    if live == wanted:
        return live
    if granular(schema, wanted) and (type(live) is dict or live is None):
        merged = dict(live or {})
        for name, value in wanted.items():
            merged[name] = merged_value(schema.below(name), merged[name], value) if name in merged else value
        return merged
    if associative(schema) and type(wanted) is list and type(live) is list and live:
        return _merged_list(schema, live, wanted)
    return wanted


def _merged_list(schema: Node, live: list[Any], wanted: list[Any]) -> list[Any]:
    """structured-merge-diff's order: that of `wanted` for what it names, and around it that of `live`."""
    live_keys, wanted_keys = member_keys(schema, live), member_keys(schema, wanted)
    first_live = dict(zip(reversed(live_keys), reversed(live), strict=True))
    named = dict(zip(wanted_keys, wanted, strict=True))
    shared = iter([key for key in wanted_keys if key in first_live])
    next_shared = next(shared, None)
    merged: list[Any] = []
    done: set[str] = set()
    left, right = 0, 0

    def take(key: str) -> None:
        done.add(key)
        value = named[key]
        merged.append(merged_value(schema.values, first_live[key], value) if key in first_live else value)

    while left < len(live) or right < len(wanted):
        if left < len(live) and right < len(wanted):
            key = live_keys[left]
            if key == wanted_keys[right]:
                take(key)
                left, right = left + 1, right + 1
                next_shared = next(shared, None)
                continue
            if key in named and next_shared is not None and next_shared != key:
                left += 1
                continue
        if left < len(live):
            key = live_keys[left]
            if key not in named:
                merged.append(live[left])
                left += 1
                continue
            if key in done:
                left += 1
        if right < len(wanted):
            key = wanted_keys[right]
            take(key)
            right += 1
            if next_shared == key:
                next_shared = next(shared, None)
    return merged


def _without_given_up(schema: Node, merged: Any, managed: Managed, last: FieldSet) -> Any:
    """Without what the manager named last time, names no more, and nobody else owns."""
    owned: FieldSet = {}
    for other in managed.values():
        owned = union(owned, other.fields)
    if not difference(last, owned):
        return merged
    named_last = with_named(schema, last)
    merged_set = with_named(schema, object_set_of_live(schema, merged))
    pruned = without(schema, merged, named_last)
    pruned_set = with_named(schema, object_set_of_live(schema, pruned))
    kept = union(pruned_set, with_named(schema, owned))
    pruned = without(schema, merged, difference(merged_set, kept))
    # What stands under a field that was given up, and nobody owns, was not the manager's to remove.
    pruned_set = with_named(schema, object_set_of_live(schema, pruned))
    return without(schema, merged, intersection(difference(merged_set, pruned_set), named_last))


def object_set_of_live(schema: Node, value: Any) -> FieldSet:
    """All fields of what is stored; nothing where nothing is left of it."""
    return object_set(schema, value) if value is not None else {}


def _ownership(
    schema: Node, before: Object, changes: Difference, managed: Managed, own: Manager, force: bool, default: Default
) -> Managed:
    """Who owns what after the merge. Raises ApiError 409 where others own what it changes."""
    changed = changes.changed()
    conflicts = {}
    for key, owned in managed.items():
        if key != own and (conflict := intersection(owned.fields, changed)):
            conflicts[key] = conflict
    if conflicts and not force:
        if own.name == KUBECTL:
            allowed = _written_by_kubectl(schema, before, default)
            conflicts = {key: left for key, fields in conflicts.items() if (left := difference(fields, allowed))}
        if conflicts:
            raise error_apply_conflict(conflicts)
    lost = union(changed, changes.removed)
    found = {
        key: owned if key == own else owned._replace(fields=difference(owned.fields, lost))
        for key, owned in managed.items()
    }
    return {key: owned for key, owned in found.items() if owned.fields}


def error_apply_conflict(conflicts: Mapping[Manager, FieldSet]) -> ApiError:
    """In kube-apiserver's words, which kubectl shows."""
    told = [
        (_manager_shown(key), path_shown(path))
        for key in sorted(conflicts, key=_manager_shown)
        for path in paths(conflicts[key])
    ]
    if len(told) == 1:
        message = f"Apply failed with 1 conflict: conflict with {told[0][0]}: {told[0][1]}"
    else:
        lines: list[str] = []
        for who in dict.fromkeys(who for who, _ in told):
            lines.append(f"conflicts with {who}:")
            lines += [f"- {path}" for other, path in told if other == who]
        message = f"Apply failed with {len(told)} conflicts: " + "\n".join(lines)
    causes = [
        {"reason": "FieldManagerConflict", "message": f"conflict with {who}", "field": path} for who, path in told
    ]
    return ApiError(409, "Conflict", message, details={"causes": causes})


def _manager_shown(key: Manager) -> str:
    shown = json.dumps(key.name, ensure_ascii=False)
    if key.subresource:
        shown += f" with subresource {json.dumps(key.subresource)}"
    return f"{shown} using {key.api_version}" if key.operation == UPDATE else shown


def _annotations(item: Object) -> Mapping[str, Any]:
    found = (item.get("metadata") or {}).get("annotations")
    return found if isinstance(found, Mapping) else {}


def _written_by_kubectl(schema: Node, live: Object, default: Default) -> FieldSet:
    """What the live object still has as `kubectl apply` last applied it from the client's side."""
    text = _annotations(live).get(LAST_APPLIED)
    if not isinstance(text, str):
        return {}
    try:
        applied = json.loads(text)
        shaped = object_shape(schema, applied)
        if not isinstance(applied, dict) or shaped.errors:
            return {}
        applied = shaped.value
        default(applied)
        found = object_set(schema, applied)
        changes = object_difference(schema, live, applied)
    except (ValueError, RecursionError):
        return {}
    return difference(difference(found, changes.changed()), changes.removed)


def _with_last_applied(stored: Object, wanted: Object) -> Object:
    """An annotation of client-side apply follows `kubectl apply --server-side`, so that the way back stays open."""
    metadata = dict(wanted.get("metadata") or {})
    own = {key: value for key, value in (metadata.get("annotations") or {}).items() if key != LAST_APPLIED}
    if own or "annotations" in metadata:
        metadata["annotations"] = own
    text = json.dumps({**wanted, "metadata": metadata}, separators=(",", ":"), sort_keys=True) + "\n"
    annotations = {**_annotations(stored), LAST_APPLIED: text}
    return {**stored, "metadata": {**stored["metadata"], "annotations": annotations}}
