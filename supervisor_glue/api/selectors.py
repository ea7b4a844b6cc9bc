# SPDX-License-Identifier: Apache-2.0
"""Label and field selectors as a query gives them.

Source: https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#api and …/field-selectors/.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import error_bad_request

_TOKEN = re.compile(r"\s*(?:(!=|==|=|!|,|\(|\)|>|<)|([^\s=!,()<>]+))")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?\Z")
_PREFIX = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")


class Requirement(NamedTuple):
    """One term. `operator`: in, notin, exists, !, gt, lt."""

    key: str
    operator: str
    values: frozenset[str]

    def matches(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "!":
                return value is None
        (bound,) = self.values
        try:
            number = int(value or "")
        except ValueError:
            return False
        return number > int(bound) if self.operator == "gt" else number < int(bound)


class Selector(NamedTuple):
    """Which objects of a kind are meant: every term of both lists holds."""

    labels: tuple[Requirement, ...] = ()
    fields: tuple[tuple[str, bool, str], ...] = ()  # path, equal (or not), value

    def matches(self, item: Mapping[str, Any]) -> bool:
        """Of an object, or of what is `selectable` of it."""
        if self.labels:
            labels = item["metadata"].get("labels") or {}
            if not all(term.matches(labels) for term in self.labels):
                return False
        return all((field_value(item, path) == value) is equal for path, equal, value in self.fields)

    def __bool__(self) -> bool:
        return bool(self.labels or self.fields)


EVERYTHING = Selector()

FIELDS: dict[tuple[str, str], tuple[str, ...]] = {
    ("", "Pod"): (
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "spec.hostNetwork",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ),
    ("", "Namespace"): ("status.phase",),
    ("", "Node"): ("spec.unschedulable",),
    ("", "Secret"): ("type",),
    ("", "Event"): (
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ),
    ("certificates.k8s.io", "CertificateSigningRequest"): ("spec.signerName",),
}
_COMMON = ("metadata.name", "metadata.namespace")
_FALSE = ("spec.hostNetwork", "spec.unschedulable")


def field_value(item: Mapping[str, Any], path: str) -> str:
    """A field's value as text; the empty text where it is not there."""
    if path == "source":
        return str((item.get("source") or {}).get("component") or item.get("reportingComponent") or "")
    value: Any = item
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or path in _FALSE:
        return "true" if value else "false"
    return "" if value is None else str(value)


def selectable(kind: Kind, item: Mapping[str, Any]) -> dict[str, Any]:
    """As much of an object as any selector can see."""
    metadata = item["metadata"]
    found: dict[str, Any] = {
        "metadata": {key: metadata[key] for key in ("name", "namespace", "labels") if key in metadata}
    }
    for path in FIELDS.get((kind.group, kind.kind), ()):
        head, _, leaf = path.partition(".")
        value = item.get(head)
        if not leaf or not isinstance(value, Mapping):
            found[head] = value
        elif leaf in value:
            found.setdefault(head, {})[leaf] = value[leaf]
    return found


def selector_parse(kind: Kind, labels: str, fields: str) -> Selector:
    """Raises ApiError 400 with what is wrong."""
    return Selector(_labels_parse(labels) if labels else (), _fields_parse(kind, fields) if fields else ())


def _fields_parse(kind: Kind, text: str) -> tuple[tuple[str, bool, str], ...]:
    known = _COMMON + FIELDS.get((kind.group, kind.kind), ())
    found = []
    for term in re.split(r"(?<!\\),", text):
        if not term:
            continue
        match = re.fullmatch(r"([^=!]+)(!=|==|=)(.*)", term)
        if match is None:
            raise error_bad_request(f"invalid selector: '{text}'; can't understand '{term}'")
        path, operator, value = match.groups()
        if path not in known or (path == "metadata.namespace" and not kind.namespaced):
            raise error_bad_request(f"field label not supported: {path}")
        found.append((path, operator != "!=", re.sub(r"\\(.)", r"\1", value)))
    return tuple(found)


def _labels_parse(text: str) -> tuple[Requirement, ...]:
    return _LabelParser(text).parse()


class _LabelParser:
    """The grammar of k8s.io/apimachinery/pkg/labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        place = 0
        rest = text.rstrip()
        while place < len(rest):
            match = _TOKEN.match(rest, place)
            if match is None:
                raise self._error(f"unexpected '{rest[place:]}'")
            self.tokens.append(match.group(1) or match.group(2))
            place = match.end()
        self.at = 0

    def _error(self, why: str) -> Exception:
        return error_bad_request(f"unable to parse requirement: {why} in the selector {self.text!r}")

    def _next(self) -> str:
        token = self.tokens[self.at] if self.at < len(self.tokens) else ""
        self.at += 1
        return token

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def parse(self) -> tuple[Requirement, ...]:
        found = []
        while self.at < len(self.tokens):
            found.append(self._requirement())
            if self._peek():
                if self._next() != ",":
                    raise self._error("found '" + self.tokens[self.at - 1] + "', expected: ',' or 'end of string'")
                if not self._peek():
                    raise self._error("found '', expected: identifier after ','")
        return tuple(found)

    def _requirement(self) -> Requirement:
        if self._peek() == "!":
            self._next()
            return Requirement(self._key(), "!", frozenset())
        key = self._key()
        operator = self._peek()
        if operator in ("", ","):
            return Requirement(key, "exists", frozenset())
        self._next()
        if operator in ("=", "==", "!="):
            value = "" if self._peek() in ("", ",") else self._value()
            return Requirement(key, "notin" if operator == "!=" else "in", frozenset({value}))
        if operator in ("in", "notin"):
            return Requirement(key, operator, self._values())
        if operator in (">", "<"):
            value = self._value()
            if not re.fullmatch(r"-?\d+", value):
                raise self._error(f"for 'Gt', 'Lt' operators, the value must be an integer: {value!r}")
            return Requirement(key, "gt" if operator == ">" else "lt", frozenset({value}))
        raise self._error(f"found '{operator}', expected: in, notin, =, ==, !=, gt, lt")

    def _key(self) -> str:
        key = self._next()
        prefix, slash, name = key.rpartition("/")
        if not _NAME.match(name) or (slash and not _PREFIX.match(prefix)):
            raise self._error(f"{key!r} is no label key")
        return key

    def _value(self) -> str:
        value = self._next()
        if not _NAME.match(value):
            raise self._error(f"{value!r} is no label value")
        return value

    def _values(self) -> frozenset[str]:
        if self._next() != "(":
            raise self._error("expected: '('")
        values: set[str] = set()
        while True:
            if self._peek() in (",", ")"):
                values.add("")
            else:
                values.add(self._value())
            token = self._next()
            if token == ")":
                return frozenset(values)
            if token != ",":
                raise self._error(f"found '{token}', expected: ',' or ')'")
