# SPDX-License-Identifier: Apache-2.0
"""Structural schemas of the kinds that are served: which fields an object has, and how lists and maps are merged.

They lie in schemas/kinds.json (written by scripts/kube_schemas.py) as OpenAPI v2 with Kubernetes' extensions
(https://kubernetes.io/docs/reference/using-api/server-side-apply/#merge-strategy). Loaded when first asked for; a
`Node` resolves what is below it when first asked for that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum, auto
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

Schema: TypeAlias = Mapping[str, Any]


class Sort(Enum):
    """What a value is, in JSON and in Go."""

    STRUCT = auto()
    MAP = auto()
    LIST = auto()
    STRING = auto()
    INTEGER = auto()
    NUMBER = auto()
    BOOLEAN = auto()
    BYTES = auto()
    """Text in base64."""
    TIME = auto()
    """RFC 3339."""
    QUANTITY = auto()
    INT_OR_STRING = auto()
    ANY = auto()
    """Whatever it is, it is kept and its insides are nobody's business."""


class ListType(Enum):
    """How two versions of a list are merged by server-side apply."""

    ATOMIC = "atomic"
    SET = "set"
    MAP = "map"


_ALWAYS_WRITTEN = {"io.k8s.api.rbac.v1.Role": ("rules",), "io.k8s.api.rbac.v1.ClusterRole": ("rules",)}
"""Lists that may be left out, and which Go writes all the same when they are empty."""
_FORMATS = {
    "byte": Sort.BYTES,
    "date-time": Sort.TIME,
    "micro-time": Sort.TIME,
    "quantity": Sort.QUANTITY,
    "int-or-string": Sort.INT_OR_STRING,
}
_SCALARS = {
    "string": Sort.STRING,
    "integer": Sort.INTEGER,
    "number": Sort.NUMBER,
    "boolean": Sort.BOOLEAN,
}
_BUILT_IN = ("io.k8s.api.", "io.k8s.apimachinery.")


class Node:
    """The schema of one value.

    `name`: the definition's, "" where the schema stands inside another. `fields`: of a STRUCT; `values`: what a MAP has
    under any key, a LIST at any place. `list_type`, `keys`: of a LIST, as server-side apply merges it. `atomic`: a
    STRUCT or MAP that is owned and replaced as a whole. `patch_strategies`, `patch_key`: for strategic merge patches.
    `required`: Go writes these also when they are empty. `open`: a STRUCT that keeps fields which it does not name.
    `built_in`: a type of Kubernetes' own, which an API server decodes into Go's types; others keep what the schema
    allows as it was sent.
    """

    __slots__ = (
        *("_definitions", "_fields", "_values", "atomic", "built_in", "default", "go_format", "keys", "list_type"),
        *("name", "open", "patch_key", "patch_strategies", "raw", "required", "sort"),
    )

    def __init__(self, raw: Schema, definitions: Mapping[str, Schema], built_in: bool) -> None:
        reference = raw.get("$ref")
        target = definitions[reference] if reference is not None else raw
        self.name: str = reference or ""
        self.raw = target
        self.built_in = self.name.startswith(_BUILT_IN) if reference is not None else built_in
        self._definitions = definitions
        self._fields: dict[str, Node] | None = None
        self._values: Node | None = None
        self.go_format: str = target.get("format", "")
        self.default: Any = raw.get("default")
        self.required = frozenset[str]((*target.get("required", ()), *_ALWAYS_WRITTEN.get(self.name, ())))
        self.open: bool = bool(target.get("x-kubernetes-preserve-unknown-fields"))
        self.sort = self._sort_of(target)
        self.patch_strategies = frozenset[str](
            item for item in raw.get("x-kubernetes-patch-strategy", "").split(",") if item
        )
        self.patch_key: str = raw.get("x-kubernetes-patch-merge-key", "")
        map_type = raw.get("x-kubernetes-map-type") or target.get("x-kubernetes-map-type")
        self.atomic: bool = map_type == "atomic"
        self.list_type, self.keys = self._list_of(raw)

    @staticmethod
    def _sort_of(target: Schema) -> Sort:
        kind = target.get("type")
        if kind == "array":
            return Sort.LIST
        if "properties" in target:
            return Sort.STRUCT
        if "additionalProperties" in target:
            return Sort.MAP
        if kind in _SCALARS:
            return _FORMATS.get(target.get("format", ""), _SCALARS[kind])
        return Sort.ANY

    def _list_of(self, raw: Schema) -> tuple[ListType, tuple[str, ...]]:
        """As kube-openapi's schemaconv reads it: without a list type, the patch strategy says it."""
        if self.sort is not Sort.LIST:
            return ListType.ATOMIC, ()
        written = raw.get("x-kubernetes-list-type")
        if written is not None:
            return ListType(written), tuple(raw.get("x-kubernetes-list-map-keys", ()))
        if "merge" not in self.patch_strategies:
            return ListType.ATOMIC, ()
        return (ListType.MAP, (self.patch_key,)) if self.patch_key else (ListType.SET, ())

    @property
    def fields(self) -> Mapping[str, Node]:
        """Of a STRUCT, by name; of another sort, none."""
        if self._fields is None:
            inside = self.raw.get("properties", {})
            self._fields = {key: _node(raw, self._definitions, self.built_in) for key, raw in inside.items()}
        return self._fields

    @property
    def values(self) -> Node:
        """What a LIST or MAP consists of. Of another sort: anything."""
        if self._values is None:
            inside = self.raw.get("items" if self.sort is Sort.LIST else "additionalProperties")
            known = isinstance(inside, dict)
            self._values = _node(inside, self._definitions, self.built_in) if known and inside else ANYTHING
        return self._values

    def below(self, key: str) -> Node:
        """Of a STRUCT's field or a MAP's value; anything where the schema names none."""
        if self.sort is Sort.STRUCT:
            return self.fields.get(key, ANYTHING)
        return self.values if self.sort is Sort.MAP else ANYTHING

    @property
    def description(self) -> str:
        return str(self.raw.get("description", ""))

    def go_type(self) -> str:
        """As Go's messages name it."""
        if self.sort is Sort.LIST:
            return "[]" + self.values.go_type()
        if self.sort is Sort.MAP:
            return "map[string]" + self.values.go_type()
        if self.name:
            return ".".join(self.name.rsplit(".", 2)[-2:])
        if self.sort is Sort.BYTES:
            return "[]uint8"
        plain = {Sort.STRING: "string", Sort.BOOLEAN: "bool", Sort.INTEGER: self.go_format or "int64"}
        return plain.get(self.sort, "float64" if self.sort is Sort.NUMBER else "interface {}")


ANYTHING = Node({}, {}, False)
"""Where the schema says nothing."""
_PLAIN: dict[tuple[int, str, bool], Node] = {}


def _node(raw: Schema, definitions: Mapping[str, Schema], built_in: bool) -> Node:
    """One node for all places that only refer to the same definition: an object's schema is a graph, not a tree."""
    reference = raw.get("$ref")
    if reference is None or any(key.startswith("x-kubernetes") or key == "default" for key in raw):
        return Node(raw, definitions, built_in)
    place = (id(definitions), reference, built_in)
    found = _PLAIN.get(place)
    if found is None:
        found = _PLAIN[place] = Node({"$ref": reference}, definitions, built_in)
    return found


@cache
def schemas_loaded() -> dict[str, Any]:
    """The file: `definitions` by name, `kinds` (group/version/Kind -> name), `kubernetes` (their version)."""
    text = (files("supervisor_glue.api") / "schemas" / "kinds.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


@cache
def schema_of(group: str, version: str, kind: str) -> Node:
    """Of a kind. Raises KeyError where it has none."""
    loaded = schemas_loaded()
    name = loaded["kinds"][f"{group}/{version}/{kind}"]
    return _node({"$ref": name}, loaded["definitions"], False)
