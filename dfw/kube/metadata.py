# SPDX-License-Identifier: Apache-2.0
"""What all Kubernetes objects have in common: apiVersion, kind, metadata; names and labels by the API's own rules.

Kubernetes documentation, "Object Names and IDs" and "Labels and Selectors": names are DNS subdomains (RFC 1123), a
label is `[prefix/]name: value` with at most 63 characters for name and value, 253 for the prefix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dfw.fields import Cursor, Field, choice, ignored, mapping, shown_value, text

DEFAULT_NAMESPACE = "default"
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*", re.ASCII)
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", re.ASCII)
_name_text, _label_text, _value_text = text(253), text(63), text(63, empty=True)
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?", re.ASCII)


class Meta(NamedTuple):
    """Identity and labels of an object; `namespace` is empty for kinds that live in none."""

    name: str
    namespace: str
    labels: Mapping[str, str]


def is_object_name(value: object) -> bool:
    """Is this a DNS subdomain of at most 253 characters?"""
    return isinstance(value, str) and len(value) <= 253 and _SUBDOMAIN.fullmatch(value) is not None


def object_name(cursor: Cursor) -> str | None:
    """A DNS subdomain of at most 253 characters."""
    if is_object_name(cursor.node.value):
        return cursor.node.value  # type: ignore[return-value]
    found = _name_text(cursor)
    if found is not None and not _SUBDOMAIN.fullmatch(found):
        cursor.problem(f"{found!r} is not a name: lower-case letters, digits, '-' and '.', such as web-1")
        return None
    return None if found is None else str(found)


def namespace_name(cursor: Cursor) -> str | None:
    """A DNS label of at most 63 characters."""
    found = _label_text(cursor)
    if found is not None and not _LABEL.fullmatch(found):
        cursor.problem(f"{found!r} is not a namespace's name: lower-case letters, digits and '-'")
        return None
    return None if found is None else str(found)


def label_key_problem(key: str) -> str | None:
    """What is wrong with a label's key, or None."""
    prefix, slash, name = key.rpartition("/")
    if slash and (len(prefix) > 253 or not _SUBDOMAIN.fullmatch(prefix)):
        return f"{prefix!r} is not a label's prefix: a DNS name such as example.com"
    if len(name) > 63 or not _QUALIFIED.fullmatch(name):
        return f"{name!r} is not a label's name: at most 63 letters, digits, '-', '_' and '.'"
    return None


def label_key(cursor: Cursor) -> str | None:
    """A label's key, with or without a prefix."""
    found = text(317)(cursor)
    if found is None:
        return None
    wrong = label_key_problem(found)
    if wrong is not None:
        cursor.problem(wrong)
        return None
    return str(found)


def is_label_value(value: object) -> bool:
    """Is this text of at most 63 letters, digits, `-`, `_` and `.`, or empty?"""
    return isinstance(value, str) and len(value) <= 63 and (not value or _QUALIFIED.fullmatch(value) is not None)


def label_value(cursor: Cursor) -> str | None:
    """A label's value; it may be empty."""
    if is_label_value(cursor.node.value):
        return cursor.node.value  # type: ignore[return-value]
    found = _value_text(cursor)
    if found and not _QUALIFIED.fullmatch(found):
        cursor.problem(f"{found!r} is not a label's value: letters, digits, '-', '_' and '.'")
        return None
    return None if found is None else str(found)


def labels(cursor: Cursor) -> Mapping[str, str] | None:
    """Labels, or a selector's matchLabels."""
    if not isinstance(cursor.value, dict):
        cursor.problem(f"{shown_value(cursor.value)} is not a mapping of labels, such as {{app: web}}")
        return None
    found: dict[str, str] = {}
    for key, node in cursor.value.items():
        wrong = label_key_problem(key)
        if wrong is not None:
            cursor.key(key).problem(wrong)
        value = "" if node.value is None else label_value(cursor.member(key))
        if value is not None:
            found[key] = value
    return found


_SERVERS = (
    *("annotations", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp", "selfLink"),
    *("deletionGracePeriodSeconds", "finalizers", "ownerReferences", "managedFields", "generateName"),
)
METADATA: Mapping[str, Field] = {
    "name": Field(object_name, required=True),
    "namespace": Field(namespace_name),
    "labels": Field(labels, default={}),
    **{key: Field(ignored) for key in _SERVERS},
}

STAGED = "palisade.internal/staged"
DELETE = "delete"


def staging_read(cursor: Cursor) -> str | None:
    """What a policy's annotation STAGED says: "true", DELETE (its removal is staged), or None: it is enforced.

    Annotations are otherwise not looked at; their values are strings (Kubernetes documentation, "Annotations").
    """
    metadata = cursor.node.get("metadata")
    annotations = metadata.get("annotations") if metadata is not None else None
    node = annotations.get(STAGED) if annotations is not None else None
    if node is None:
        return None
    at = cursor.member("metadata").member("annotations").member(STAGED)
    found = choice({"true": "true", DELETE: DELETE, "false": None})(at)
    return None if found is None else str(found)


def _node(cursor: Cursor) -> Cursor:
    return cursor


def envelope(cursor: Cursor, *also: str) -> dict[str, Any] | None:
    """The parts of an object: cursors of `metadata`, `spec`, `status` and `also`; None where it is no mapping."""
    table = {key: Field(_node) for key in ("metadata", "spec", "status", *also)}
    table |= {key: Field(text()) for key in ("apiVersion", "kind")}
    return mapping(cursor, table)


def meta_read(cursor: Cursor, parts: Mapping[str, Any], *, namespaced: bool) -> Meta | None:
    """An object's identity. None after a problem with it; its other fields are still worth reading."""
    if parts["metadata"] is None:
        cursor.problem("the field metadata is missing")
        return None
    values = mapping(parts["metadata"], METADATA)
    if values is None or values["name"] is None:
        return None
    if not namespaced:
        if values["namespace"] is not None:
            parts["metadata"].member("namespace").problem("this kind lives in no namespace; leave it out")
        return Meta(values["name"], "", values["labels"])
    return Meta(values["name"], values["namespace"] or DEFAULT_NAMESPACE, values["labels"])


def whole_read(cursor: Cursor, table: Mapping[str, Field], *, namespaced: bool) -> tuple[Meta, dict[str, Any]] | None:
    """Identity and spec of an object that must have one; None after reporting what is wrong."""
    before = len(cursor.problems)
    parts = envelope(cursor)
    if parts is None:
        return None
    meta = meta_read(cursor, parts, namespaced=namespaced)
    if parts["spec"] is None:
        cursor.problem("the field spec is missing")
        return None
    spec = mapping(parts["spec"], table)
    return None if meta is None or spec is None or len(cursor.problems) > before else (meta, spec)


def only_one(cursor: Cursor, given: Iterable[str], choices: Iterable[str], what: str) -> str | None:
    """The one member of a union that is given; None after reporting that none or several are."""
    present = [key for key in given if key in set(choices)]
    if len(present) == 1:
        return present[0]
    listed = ", ".join(choices)
    if present:
        cursor.problem(f"{' and '.join(present)} exclude each other: {what} is one of {listed}")
    else:
        cursor.problem(f"{what} is one of {listed}; none is given")
    return None
