# SPDX-License-Identifier: Apache-2.0
"""Values against a schema: what has the wrong type, what no field of the kind is, and the object as it is stored.

An API server decodes Kubernetes' own kinds into Go's types, which drops unknown fields, nulls and (where a field may be
left out) empty lists and maps; of kinds that a CustomResourceDefinition would define it drops unknown fields.
`fieldValidation` says what is done about those: https://kubernetes.io/docs/reference/using-api/api-concepts/#field-validation.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from supervisor_glue.api.body import Body
from supervisor_glue.api.quantity import quantity_canonical
from supervisor_glue.api.schema import Node, Sort
from supervisor_glue.api.status import ApiError, Cause, Object, error_bad_request, error_invalid

STRICT, WARN, IGNORE = "Strict", "Warn", "Ignore"
MOST_STRICT = 100
"""Unknown and duplicate fields that are named."""
MOST_WARNING, MOST_WARNED = 256, 4096
"""Characters of a warning, and of all in one answer."""
_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d([.,]\d+)?([Zz]|[+-]\d\d:\d\d)\Z", re.ASCII)
_CONTROL = re.compile("[\x7f-\x9f\u2028\u2029]")
_ZERO: dict[Sort, Any] = {Sort.STRING: "", Sort.INTEGER: 0, Sort.NUMBER: 0, Sort.BOOLEAN: False, Sort.STRUCT: {}}
_LIMITS = {"int32": 1 << 31}
_CONTAINERS = (Sort.LIST, Sort.MAP)
_GO_SORTS = {bool: "bool", int: "number", float: "number", str: "string", list: "array", dict: "object"}
_JSON_SORTS = {Sort.STRUCT: "object", Sort.MAP: "object", Sort.LIST: "array", Sort.STRING: "string"} | {
    Sort.INTEGER: "integer",
    Sort.NUMBER: "number",
    Sort.BOOLEAN: "boolean",
    Sort.INT_OR_STRING: "integer,string",
}


class WrongType(NamedTuple):
    """A value that its field can't have. `path`: `spec.containers[0].ports`; `said`: Go's words about it."""

    path: str
    said: str
    node: Node
    value: Any


class Shaped(NamedTuple):
    """The object as it is stored, what is wrong with it, and the paths of fields that its kind does not have."""

    value: Any
    errors: tuple[WrongType, ...]
    unknown: tuple[str, ...]


def object_shape(schema: Node, value: Any) -> Shaped:
    """One walk for all three."""
    shaper = _Shaper()
    return Shaped(shaper.shape(schema, value, "", schema.go_type(), ""), tuple(shaper.errors), tuple(shaper.unknown))


class Decoded(NamedTuple):
    """An object, and what goes into `Warning: 299` headers."""

    object: Object
    warnings: tuple[str, ...]


def object_decode(schema: Node, kind: str, version: str, body: Body, validation: str = STRICT) -> Decoded:
    """A body as an object of a kind. Raises ApiError: 400 for wrong types of Kubernetes' own kinds and for what
    `fieldValidation=Strict` forbids, 422 for wrong types of others."""
    if not isinstance(body.value, dict):
        raise error_bad_request(
            f'{kind} in version "{version}" cannot be handled as a {kind}: json: cannot unmarshal '
            f"{go_sort(body.value)} into Go value of type {schema.go_type()}"
        )
    shaped = object_shape(schema, body.value)
    if shaped.errors:
        refuse_types(schema, kind, version, body.value, shaped.errors)
    strict = strict_errors(shaped.unknown, body.duplicates)
    if strict and validation == STRICT:
        raise error_bad_request(
            f'{kind} in version "{version}" cannot be handled as a {kind}: strict decoding error: {", ".join(strict)}'
        )
    return Decoded(shaped.value, warnings_told(strict) if validation == WARN else ())


def refuse_types(schema: Node, kind: str, version: str, value: Any, errors: Sequence[WrongType]) -> NoReturn:
    """For errors of which there is one."""
    if schema.built_in:
        raise error_bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {errors[0].said}')
    raise types_invalid(schema, value, errors)


def types_invalid(schema: Node, value: Any, errors: Sequence[WrongType]) -> ApiError:
    """As the validation of a custom resource says it."""
    gvk: dict[str, str] = next(iter(schema.raw.get("x-kubernetes-group-version-kind", ())), {})
    metadata = value.get("metadata")
    name = metadata.get("name", "") if isinstance(metadata, dict) else ""
    causes = []
    for error in errors:
        text = json.dumps(go_sort(error.value))
        sort = _JSON_SORTS.get(error.node.sort, "string")
        told = f'{error.path} in body must be of type {sort}: "{go_sort(error.value)}"'
        causes.append(Cause("FieldValueTypeInvalid", f"Invalid value: {text}: {told}", error.path))
    return error_invalid(gvk.get("kind", ""), gvk.get("group", ""), name if isinstance(name, str) else "", causes)


def strict_errors(unknown: Sequence[str], duplicates: Sequence[str]) -> tuple[str, ...]:
    """In Go's words, as warnings have them one by one; at most MOST_STRICT of them."""
    told = [("unknown", path) for path in unknown] + [("duplicate", path) for path in duplicates]
    return tuple(f"{word} field {go_quoted(path)}" for word, path in told[:MOST_STRICT])


def warnings_told(strict: Sequence[str]) -> tuple[str, ...]:
    """What of it goes into headers: shortened one by one, and together bounded, as an API server does it."""
    found: list[str] = []
    left = MOST_WARNED
    for text in strict:
        text = text if len(text) <= MOST_WARNING else text[: MOST_WARNING - 1] + "…"
        left -= len(text)
        if left < 0:
            break
        found.append(text)
    return tuple(found)


def go_quoted(text: str) -> str:
    """As Go's %q: in quotes, on one line, control characters as escapes."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", json.dumps(text, ensure_ascii=False))


def go_sort(value: Any) -> str:
    """As Go's decoder names what it found."""
    return "null" if value is None else _GO_SORTS[type(value)]


class _Shaper:
    def __init__(self) -> None:
        self.errors: list[WrongType] = []
        self.unknown: list[str] = []

    def shape(self, node: Node, value: Any, path: str, struct: str, field: str) -> Any:
        """`struct`, `field`: Go's name of the type that the value stands in, and its path without numbers."""
        sort = node.sort
        if sort is Sort.STRUCT:
            if type(value) is dict:
                return self._struct(node, value, path, field)
        elif sort is Sort.LIST:
            if type(value) is list:
                return self._list(node, value, path, struct, field)
        elif sort is Sort.STRING:
            if type(value) is str:
                return value
        elif sort is Sort.MAP:
            if type(value) is dict:
                return self._map(node, value, path, struct, field)
        else:
            return self._scalar(node, sort, value, path, struct, field)
        return self._wrong(node, value, path, struct, field)

    def _struct(self, node: Node, value: dict[str, Any], path: str, field: str) -> dict[str, Any]:
        fields, found = node.fields, {}
        prefix, dotted = (path + ".", field + ".") if path else ("", "")
        for key, inside in value.items():
            below = fields.get(key)
            if below is None:
                if node.open:
                    found[key] = inside
                else:
                    self.unknown.append(prefix + key)
                continue
            if type(inside) is str and below.sort is Sort.STRING:
                found[key] = inside
                continue
            if inside is None:
                continue
            shaped = self.shape(below, inside, prefix + key, node.name, dotted + key)
            if not shaped and node.built_in and below.sort in _CONTAINERS and key not in node.required:
                continue
            found[key] = shaped
        return found

    def _list(self, node: Node, value: list[Any], path: str, struct: str, field: str) -> list[Any]:
        below = node.values
        if below.sort is Sort.STRING and all(type(item) is str for item in value):
            return list(value)
        return [
            self.shape(below, _ZERO.get(below.sort) if item is None else item, f"{path}[{number}]", struct, field)
            for number, item in enumerate(value)
        ]

    def _map(self, node: Node, value: dict[str, Any], path: str, struct: str, field: str) -> dict[str, Any]:
        below = node.values
        if below.sort is Sort.STRING and all(type(item) is str for item in value.values()):
            return dict(value)
        return {
            key: self.shape(below, _ZERO.get(below.sort, "") if item is None else item, f"{path}.{key}", struct, field)
            for key, item in value.items()
        }

    def _scalar(self, node: Node, sort: Sort, value: Any, path: str, struct: str, field: str) -> Any:
        kind = type(value)
        if sort is Sort.ANY:
            return value
        if sort is Sort.BOOLEAN:
            if kind is bool:
                return value
        elif sort is Sort.INTEGER:
            limit = _LIMITS.get(node.go_format, 1 << 63)
            if kind is int and -limit <= value < limit:
                return value
        elif sort is Sort.NUMBER:
            if kind is int or kind is float:
                return value
        elif sort is Sort.INT_OR_STRING:
            if kind is str or (kind is int and -(1 << 31) <= value < 1 << 31):
                return value
            if node.built_in:
                self._add(path, f"json: cannot unmarshal {self._got(value, 'int32')} of type int32", node, value)
                return value
        elif sort is Sort.QUANTITY:
            if kind in (str, int, float):
                try:
                    return quantity_canonical(str(value))
                except ValueError as error:
                    self._add(path, str(error), node, value)
                    return value
        elif kind is str:  # base64 or a time
            said = _bytes_wrong(value) if sort is Sort.BYTES else _time_wrong(value)
            if said:
                self._add(path, said, node, value)
            return value
        return self._wrong(node, value, path, struct, field)

    def _got(self, value: Any, of: str) -> str:
        return f"{_got_word(value, of)} into Go value"

    def _wrong(self, node: Node, value: Any, path: str, struct: str, field: str) -> Any:
        go_type = node.go_type()
        where = f"Go struct field {struct.rpartition('.')[2]}.{field}" if field else "Go value"
        self._add(
            path, f"json: cannot unmarshal {_got_word(value, go_type)} into {where} of type {go_type}", node, value
        )
        return value

    def _add(self, path: str, said: str, node: Node, value: Any) -> None:
        self.errors.append(WrongType(path, said, node, value))


def _got_word(value: Any, go_type: str) -> str:
    """`number 1.5` where a number is the wrong number, else its sort."""
    word = go_sort(value)
    if word == "number" and go_type.startswith(("int", "float")):
        return f"number {json.dumps(value)}"
    return word


def _bytes_wrong(value: str) -> str:
    try:
        base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        legal = re.match(r"[A-Za-z0-9+/]*={0,2}", value)
        return f"illegal base64 data at input byte {legal.end() if legal else 0}"
    return ""


def _time_wrong(value: str) -> str:
    if _TIME.match(value):
        return ""
    layout = "2006-01-02T15:04:05Z07:00"
    return f'parsing time {json.dumps(value)} as "{layout}": cannot parse {json.dumps(value)} as "2006"'
