# SPDX-License-Identifier: Apache-2.0
"""Strategic merge patches: merge patches that know from the schema which lists are merged, and by which key.

Source: k8s.io/apimachinery/pkg/util/strategicpatch and
https://github.com/kubernetes/community/blob/master/contributors/devel/sig-api-machinery/strategic-merge-patch.md
Directives: `$patch: replace|delete|merge`, `$retainKeys`, `$setElementOrder/LIST`, `$deleteFromPrimitiveList/LIST`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from supervisor_glue.api.schema import Node

PATCH, RETAIN_KEYS = "$patch", "$retainKeys"
ORDER, DELETE = "$setElementOrder/", "$deleteFromPrimitiveList/"
Map: TypeAlias = dict[str, Any]


class StrategicError(Exception):
    """The patch contradicts itself or the schema: a sentence."""


def strategic_merge(schema: Node, current: Map, patch: Map) -> Map:
    """The patched object; neither argument is changed. Raises StrategicError."""
    return _merge_map(schema, dict(current), dict(patch))


def _merge_map(schema: Node, original: Map, patch: Map) -> Map:
    """Both are this function's own, at this level."""
    if PATCH in patch:
        directive = patch.pop(PATCH)
        if directive == "replace":
            return patch
        if directive == "delete":
            return {}
        if directive != "merge":
            raise StrategicError(f"invalid patch type: {directive!r} in {PATCH}")
    _retain_keys(original, patch)
    _merge_ordered(schema, original, patch)
    for key, value in patch.items():
        deletion = key.startswith(DELETE)
        if deletion:
            if not isinstance(value, list):
                raise StrategicError(f"invalid patch format of {DELETE} list: {key} is not a list")
            key = key.removeprefix(DELETE)
        if value is None:
            original.pop(key, None)
            continue
        before = original.get(key)
        if before is None or type(before) is not type(value):
            if not deletion:
                original[key] = _without_directives(value)
            continue
        below = schema.below(key)
        if isinstance(value, dict):
            replaced = "replace" in below.patch_strategies
            original[key] = value if replaced else _merge_map(below, dict(before), dict(value))
        elif isinstance(value, list):
            original[key] = _merge_list(below, before, value, deletion)
        else:
            original[key] = value
    return original


def _retain_keys(original: Map, patch: Map) -> None:
    """`$retainKeys: [a, b]`: what is in neither goes, and the patch sets nothing else."""
    if RETAIN_KEYS not in patch:
        return
    retained = patch.pop(RETAIN_KEYS)
    if not isinstance(retained, list) or not all(isinstance(item, str) for item in retained):
        raise StrategicError(f"invalid patch format of {RETAIN_KEYS}")
    kept = set(retained)
    for key in patch:
        if not key.startswith("$") and key not in kept:
            raise StrategicError(f"invalid patch format of {RETAIN_KEYS}: {key} is not in it")
    for key in [key for key in original if key not in kept]:
        del original[key]


def _merge_ordered(schema: Node, original: Map, patch: Map) -> None:
    """`$setElementOrder/LIST`, together with LIST itself; takes both from the patch."""
    for directive in [key for key in patch if key.startswith(ORDER)]:
        order = patch.pop(directive)
        key = directive.removeprefix(ORDER)
        before, change = original.get(key), patch.get(key)
        for given in (order, before, change):
            if given is not None and not isinstance(given, list):
                raise StrategicError(f"invalid patch format of {ORDER} list: {key} is not a list")
        if order is None or (before is None and change is None):
            continue
        below = schema.below(key)
        if change is not None:
            _check_order(below, order, change)
        if change is None:
            merged = list(before or ())
        elif before is None:
            merged = _list_without_directives(change)
        else:
            merged = _merge_list(below, before, change, False)
        identity = _identity(below, [*merged, *order])
        original[key] = _ordered(merged, order, before or [], identity)
        patch.pop(key, None)


def _check_order(schema: Node, order: list[Any], change: list[Any]) -> None:
    """Whatever the patch adds or changes is in the order that it wants, and comes in that order."""
    identity = _identity(schema, [*order, *(item for item in change if not _special(item))])
    places = {identity(item): number for number, item in enumerate(order)}
    last = -1
    for item in change:
        if _special(item):
            continue
        place = places.get(identity(item), -1)
        if place < last or place < 0:
            raise StrategicError(
                f"The order in patch list:\n{change}\n doesn't match {ORDER.removesuffix('/')} list:\n{order}\n"
            )
        last = place


def _special(item: Any) -> bool:
    return isinstance(item, dict) and PATCH in item


def _merge_list(schema: Node, original: list[Any], patch: list[Any], deletion: bool) -> list[Any]:
    if not deletion and "merge" not in schema.patch_strategies:
        return _list_without_directives(patch)
    if not original and not patch:
        return original
    elements = {type(item) for item in (*original, *patch)}
    if list in elements:
        raise StrategicError("lists of lists are not supported")
    if dict not in elements:
        if deletion:
            return [item for item in original if item not in patch]
        merged = _unique([*original, *patch])
        return _ordered(merged, patch, original, _scalar)
    if elements != {dict}:
        raise StrategicError("all elements of a list must have the same type")
    if not schema.patch_key:
        raise StrategicError(f"cannot merge lists without merge key for {schema.values.go_type()}")
    return _merge_maps(schema, original, patch)


def _merge_maps(schema: Node, original: list[Map], patch: list[Map]) -> list[Any]:
    key = schema.patch_key
    merged, plain, replaced = list(original), [], False
    for item in patch:
        directive = item.get(PATCH)
        if PATCH not in item:
            plain.append(item)
        elif directive == "delete":
            if key not in item:
                raise StrategicError(f"map: {item} does not contain declared merge key: {key}")
            merged = [other for other in merged if not _same(other.get(key), item[key])]
        elif directive == "replace":
            replaced = True
        elif directive == "merge":
            raise StrategicError("merging lists cannot yet be specified in the patch")
        else:
            raise StrategicError(f"invalid patch type: {directive!r} in {item}")
    if replaced:
        return _list_without_directives(plain)
    identity = _identity(schema, [*merged, *plain])
    places = {identity(item): number for number, item in reversed(list(enumerate(merged)))}
    for item in plain:
        place = places.get(identity(item))
        if place is None:
            places[identity(item)] = len(merged)
            merged.append(_without_directives(item))
        else:
            merged[place] = _merge_map(schema.values, dict(merged[place]), dict(item))
    return _ordered([item for item in merged if key in item], plain, original, identity)


def _identity(schema: Node, items: list[Any]) -> Callable[[Any], Any]:
    """What makes an element the same as another: the value of its merge key, or itself."""
    key = schema.patch_key
    if not any(isinstance(item, dict) for item in items):
        if any(isinstance(item, list) for item in items):
            raise StrategicError("lists of lists are not supported")
        return _scalar
    for item in items:
        if not isinstance(item, dict) or key not in item:
            raise StrategicError(f"map: {item} does not contain declared merge key: {key}")
        if isinstance(item[key], (dict, list)):
            raise StrategicError(f"the merge key {key} must be a scalar")
    return lambda item: _scalar(item[key])


def _scalar(value: Any) -> Any:
    return (isinstance(value, bool), value)


def _same(one: Any, other: Any) -> bool:
    return bool(_scalar(one) == _scalar(other))


def _unique(items: list[Any]) -> list[Any]:
    return list({_scalar(item): item for item in reversed(items)}.values())[::-1] if items else []


def _ordered(merged: list[Any], order: list[Any], server: list[Any], identity: Callable[[Any], Any]) -> list[Any]:
    """What `order` names comes in its order, the rest in the server's; the two interleave as the server has them."""
    wanted = {identity(item): number for number, item in enumerate(order)}
    places: dict[Any, int] = {}
    for number, item in enumerate(server):
        try:
            places.setdefault(identity(item), number)
        except KeyError:
            continue
    named = sorted((item for item in merged if identity(item) in wanted), key=lambda item: wanted[identity(item)])
    others = [item for item in merged if identity(item) not in wanted]
    others.sort(key=lambda item: places.get(identity(item), len(places)))
    found: list[Any] = []
    left, right = 0, 0
    while left < len(others) and right < len(named):
        one, other = places.get(identity(others[left])), places.get(identity(named[right]))
        if one is not None and other is not None and one < other:
            found.append(others[left])
            left += 1
        else:
            found.append(named[right])
            right += 1
    return [*found, *named[right:], *others[left:]]


def _list_without_directives(items: list[Any]) -> list[Any]:
    return [
        _without_directives(item)
        for item in items
        if not (isinstance(item, dict) and item.get(PATCH) in ("delete", "replace"))
    ]


def _without_directives(value: Any) -> Any:
    """What a patch says about something that is not there: without nulls and directives."""
    if isinstance(value, dict):
        return {
            key: _without_directives(item)
            for key, item in value.items()
            if item is not None and key not in (PATCH, RETAIN_KEYS) and not key.startswith((ORDER, DELETE))
        }
    return _list_without_directives(value) if isinstance(value, list) else value
