# SPDX-License-Identifier: Apache-2.0
"""Sets of fields, as `metadata.managedFields` has them (FieldsV1), and how two objects differ in such sets.

Source: sigs.k8s.io/structured-merge-diff/v6, fieldpath and typed. A set is nested dicts by path element: `f:NAME` a
field, `k:{"name":"c"}` the element of an associative list with these keys, `v:"x"` the element of a set, `i:0` a place.
A dict with the key `.` is itself in the set. In FieldsV1 a set of which only itself is a member is `{}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

from supervisor_glue.api.schema import ListType, Node, Sort

FieldSet: TypeAlias = dict[str, Any]
SELF = "."
_HERE: FieldSet = {}
_LEAF: FieldSet = {SELF: _HERE}
"""Sets share their parts: none is changed once it is made."""
_SCALARS = frozenset(Sort) - {Sort.STRUCT, Sort.MAP, Sort.LIST, Sort.ANY}
_MOST_LEVELS = 100


class FieldSetError(ValueError):
    """It is no field set, or an object does not fit its schema: a sentence."""


def set_read(fields: Any, depth: int = 0) -> FieldSet:
    """Of FieldsV1. Raises FieldSetError."""
    if not isinstance(fields, dict) or depth > _MOST_LEVELS:
        raise FieldSetError("fieldsV1 is not a set of fields")
    if not fields:
        return {SELF: _HERE}
    found: FieldSet = {}
    for key, inside in fields.items():
        if key == SELF:
            found[SELF] = _HERE
        elif key[:2] == "f:":
            found[key] = set_read(inside, depth + 1)
        else:
            found[_element(key)] = set_read(inside, depth + 1)
    return found


def set_write(fields: FieldSet) -> dict[str, Any]:
    """As FieldsV1, elements in order."""
    if len(fields) == 1 and SELF in fields:
        return {}
    return {key: {} if key == SELF else set_write(fields[key]) for key in sorted(fields)}


@lru_cache(maxsize=4096)
def _element(key: str) -> str:
    """In the one form of it. Raises FieldSetError."""
    try:
        value = json.loads(key[2:])
    except (ValueError, RecursionError):
        raise FieldSetError(f"{key!r} is no path element") from None
    if key[:2] == "k:" and isinstance(value, dict):
        return "k:" + _compact(value)
    if key[:2] == "v:":
        return "v:" + _compact(value)
    if key[:2] == "i:" and type(value) is int:
        return f"i:{value}"
    raise FieldSetError(f"{key!r} is no path element")


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def union(one: FieldSet, other: FieldSet) -> FieldSet:
    if not one or not other or one is other:
        return one or other
    found = dict(one)
    for key, inside in other.items():
        found[key] = union(found[key], inside) if key in found else inside
    return found


def difference(one: FieldSet, other: FieldSet) -> FieldSet:
    """What is in `one` and not in `other`."""
    if not other:
        return one
    found = {}
    for key, inside in one.items():
        if key not in other:
            found[key] = inside
        elif key != SELF and (left := difference(inside, other[key])):
            found[key] = left
    return found


def intersection(one: FieldSet, other: FieldSet) -> FieldSet:
    found = {}
    for key, inside in one.items():
        if key in other:
            if key == SELF:
                found[SELF] = _HERE
            elif both := intersection(inside, other[key]):
                found[key] = both
    return found


def paths(fields: FieldSet, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The members, in order."""
    for key in sorted(fields):
        if key == SELF:
            yield above
        else:
            yield from paths(fields[key], (*above, key))


def path_shown(path: Iterable[str]) -> str:
    """`.spec.containers[name="c"].ports[containerPort=80,protocol="TCP"]`."""
    shown = ""
    for element in path:
        kind, rest = element[:2], element[2:]
        if kind == "f:":
            shown += "." + rest
        elif kind == "k:":
            keys = json.loads(rest)
            shown += "[" + ",".join(f"{key}={_compact(keys[key])}" for key in sorted(keys)) + "]"
        else:
            shown += f"[={rest}]" if kind == "v:" else f"[{rest}]"
    return shown


def paths_set(members: Iterable[tuple[str, ...]]) -> FieldSet:
    """A set of these members."""
    found: FieldSet = {}
    for path in members:
        at = found
        for element in path:
            at = at.setdefault(element, {})
        at[SELF] = _HERE
    return found


def member_keys(schema: Node, items: list[Any]) -> list[str]:
    """The path element of each element of an associative list. Raises FieldSetError."""
    if schema.list_type is ListType.SET:
        return ["v:" + _compact(item) for item in items]
    if len(schema.keys) == 1:  # nearly all
        (name,) = schema.keys
        return [
            _key_text(schema.keys, item[name])
            if type(item) is dict and type(item.get(name)) is str
            else _map_key(schema, item)
            for item in items
        ]
    return [_map_key(schema, item) for item in items]


def _map_key(schema: Node, item: Any) -> str:
    if not isinstance(item, dict):
        raise FieldSetError(": associative list with keys may not have non-map elements")
    names, values = [], []
    for key in schema.keys:
        value = item.get(key)
        if value is None:
            field = schema.values.fields.get(key)
            value = field.default if field is not None else None
        if isinstance(value, (dict, list)):
            raise FieldSetError(f": the key {json.dumps(key)} of an associative list must be a scalar")
        if value is not None:
            names.append(key)
            values.append(value)
    if not names:
        missing = schema.keys[0] if schema.keys else ""
        raise FieldSetError(
            f": associative list with keys has an element that omits key field {json.dumps(missing)} "
            "(and doesn't have default value)"
        )
    return _key_text(tuple(names), *values)


@lru_cache(maxsize=8192, typed=True)
def _key_text(names: tuple[str, ...], *values: Any) -> str:
    return "k:" + _compact(dict(zip(names, values, strict=True)))


def associative(schema: Node) -> bool:
    """A list whose elements are owned one by one."""
    return schema.sort is Sort.LIST and schema.list_type is not ListType.ATOMIC


def granular(schema: Node, value: Any) -> bool:
    """A mapping whose fields are owned one by one."""
    return type(value) is dict and not schema.atomic and schema.sort in (Sort.STRUCT, Sort.MAP, Sort.ANY)


def object_set(schema: Node, value: Any) -> FieldSet:
    """All fields of an object. Raises FieldSetError (the path, a colon, why) for what the schema does not have, and for
    equal elements of a list."""
    if type(value) is list and associative(schema):
        return _list_set(schema, value)
    if not granular(schema, value):
        return _LEAF
    struct, fields = schema.sort is Sort.STRUCT, schema.fields
    found: FieldSet = {}
    for name, inside in value.items():
        named = struct and name in fields
        if struct and not named and not schema.open:
            raise FieldSetError(f".{name}: field not declared in schema")
        below = fields[name] if named else schema.below(name)
        if inside is None or below.sort in _SCALARS:
            found["f:" + name] = _LEAF
            continue
        try:
            members = object_set(below, inside)
        except FieldSetError as error:
            raise FieldSetError(f".{name}{error}") from None
        if members is not _LEAF and (not named or inside == {}):
            members = {**members, SELF: _HERE}
        if members:
            found["f:" + name] = members
    return found


def _list_set(schema: Node, items: list[Any]) -> FieldSet:
    found: FieldSet = {}
    values, scalars = schema.values, schema.list_type is ListType.SET
    for key, item in zip(member_keys(schema, items), items, strict=True):
        if key in found:
            raise FieldSetError(f": duplicate entries for key {path_shown((key,))}")
        try:
            found[key] = _LEAF if scalars else {**object_set(values, item), SELF: _HERE}
        except FieldSetError as error:
            raise FieldSetError(f"{path_shown((key,))}{error}") from None
    return found


def with_named(schema: Node, fields: FieldSet) -> FieldSet:
    """The same, and each named field above a member too (structured-merge-diff's EnsureNamedFieldsAreMembers)."""
    found = {}
    for key, inside in fields.items():
        if key == SELF:
            found[SELF] = _HERE
        elif key[:2] == "f:":
            below = with_named(schema.below(key[2:]), inside)
            if schema.sort is Sort.STRUCT and key[2:] in schema.fields:
                below[SELF] = _HERE
            found[key] = below
        else:
            found[key] = with_named(schema.values if schema.sort is Sort.LIST else schema, inside)
    return found


class Difference(NamedTuple):
    """How one object differs from another."""

    added: FieldSet
    modified: FieldSet
    removed: FieldSet

    def changed(self) -> FieldSet:
        return union(self.added, self.modified)


_MISSING: Any = object()


def object_difference(schema: Node, before: Any, after: Any) -> Difference:
    """From `before` to `after`. Equal elements of an associative list count as the first of them."""
    return Difference(*_differ(schema, before, after))


_SAME: tuple[FieldSet, FieldSet, FieldSet] = ({}, {}, {})


def _differ(schema: Node, before: Any, after: Any) -> tuple[FieldSet, FieldSet, FieldSet]:
    if before is after or (before == after and type(before) is type(after)):
        return _SAME
    if before is _MISSING:
        return _whole(schema, after), {}, {}
    if after is _MISSING:
        return {}, {}, _whole(schema, before)
    some = before if after is None else after
    pairs: Iterable[tuple[str, Node, Any, Any]]
    if granular(schema, some):
        pairs = _map_pairs(schema, before, after)
    elif associative(schema) and type(some) is list:
        pairs = _list_pairs(schema, before, after)
    else:
        pairs = ()
    found: tuple[FieldSet, FieldSet, FieldSet] = ({}, {}, {})
    any_pair = False
    for key, below, inner_before, inner_after in pairs:
        any_pair = True
        inside = _differ(below, inner_before, inner_after)
        if inside is not _SAME:
            for whole, part in zip(found, inside, strict=True):
                if part:
                    whole[key] = part
    if not any_pair:
        found[1][SELF] = _HERE
    return found


def _whole(schema: Node, value: Any) -> FieldSet:
    """Everything in it, and itself."""
    if granular(schema, value):
        found: FieldSet = {
            "f:" + name: _LEAF if (below := schema.below(name)).sort in _SCALARS else _whole(below, inside)
            for name, inside in value.items()
        }
    elif type(value) is list and associative(schema):
        found = {key: _whole(schema.values, item) for key, item in _indexed(schema, value).items()}
    else:
        return _LEAF
    found[SELF] = _HERE
    return found


def _map_pairs(schema: Node, before: Any, after: Any) -> Iterator[tuple[str, Node, Any, Any]]:
    old: Mapping[str, Any] = before if type(before) is dict else {}
    new: Mapping[str, Any] = after if type(after) is dict else {}
    for name, value in old.items():
        yield "f:" + name, schema.below(name), value, new.get(name, _MISSING)
    for name, value in new.items():
        if name not in old:
            yield "f:" + name, schema.below(name), _MISSING, value


def _list_pairs(schema: Node, before: Any, after: Any) -> Iterator[tuple[str, Node, Any, Any]]:
    old = _indexed(schema, before if type(before) is list else [])
    new = _indexed(schema, after if type(after) is list else [])
    for key, value in old.items():
        yield key, schema.values, value, new.get(key, _MISSING)
    for key, value in new.items():
        if key not in old:
            yield key, schema.values, _MISSING, value


def _indexed(schema: Node, items: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in zip(member_keys(schema, items), items, strict=True):
        found.setdefault(key, item)
    return found


def without(schema: Node, value: Any, fields: FieldSet) -> Any:
    """The object without these fields; what is left of a list or mapping may be empty."""
    if type(value) is list and associative(schema):
        kept = []
        for key, item in zip(member_keys(schema, value), value, strict=True):
            gone = fields.get(key, _HERE)
            if SELF not in gone:
                kept.append(without(schema.values, item, gone) if gone else item)
        return kept
    if granular(schema, value):
        left = {}
        for name, inside in value.items():
            gone = fields.get("f:" + name, _HERE)
            if SELF not in gone:
                left[name] = without(schema.below(name), inside, gone) if gone else inside
        return left
    return value
