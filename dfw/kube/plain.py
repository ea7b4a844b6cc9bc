# SPDX-License-Identifier: Apache-2.0
"""The quick half of reading decoded objects: what is plainly right, told by few steps; the readers of manifests decide
about everything else (see dfw/kube/decoded.py)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from dfw.documents import document_of
from dfw.fields import Cursor, Read
from dfw.kube.metadata import (
    DEFAULT_NAMESPACE,
    METADATA,
    is_label_value,
    is_object_name,
    label_key_problem,
    namespace_name,
)

_MANY = 100_000  # of each kind of thing that is remembered
_USUAL_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,251}[a-z0-9])?", re.ASCII).fullmatch  # an object name without a dot
_NO_LABELS: Mapping[str, str] = {}


class NotPlain(Exception):
    """The quick way does not apply; the readers decide."""


class Plain:
    """Remembers which names and labels are right: most are seen again."""

    def __init__(self) -> None:
        self._namespaces: dict[str, str] = {}  # each as one object, which all that names it refers to
        self._label_keys: set[str] = set()
        self._label_values: set[str] = set()
        self._scalar = cursor_of("")

    def meta(self, metadata: Mapping[str, Any], namespaced: bool = True) -> tuple[str, str]:
        """Name and namespace. Raises NotPlain, or TypeError for what is no text."""
        name, namespace = metadata["name"], metadata.get("namespace")
        if len(metadata) != 1 + ("namespace" in metadata) + ("labels" in metadata) and not (
            metadata.keys() <= METADATA.keys()
        ):
            raise NotPlain
        if not _USUAL_NAME(name) and not is_object_name(name):
            raise NotPlain
        if not namespaced:
            if namespace is not None:
                raise NotPlain
            return name, ""
        if namespace is None:
            return name, DEFAULT_NAMESPACE
        known = self._namespaces.get(namespace)
        if known is None:
            known = remember(self._namespaces, self.clean(namespace_name, namespace), namespace)
        return name, known

    def metas(self, metadata: Sequence[Mapping[str, Any]], namespaced: bool = True) -> tuple[list[str], list[str]]:
        """`meta` of many objects of a kind."""
        names = [meta["name"] for meta in metadata]
        if not all(meta.keys() <= METADATA.keys() for meta in metadata):
            raise NotPlain
        if not all(map(_USUAL_NAME, names)) and not all(map(is_object_name, names)):
            raise NotPlain
        if not namespaced:
            if any("namespace" in meta for meta in metadata):
                raise NotPlain
            return names, [""] * len(names)
        namespaces = [meta.get("namespace", DEFAULT_NAMESPACE) for meta in metadata]
        known = self._namespaces
        for namespace in {*namespaces}.difference(known):  # of what is known nothing is walked through
            remember(known, self.clean(namespace_name, namespace), namespace)
        return names, list(map(known.setdefault, namespaces, namespaces))

    def labels_of(self, labels: Sequence[Mapping[str, str] | None]) -> Sequence[Mapping[str, str]]:
        """The labels of many objects. Raises NotPlain, or TypeError for what is no text."""
        if None in labels:
            labels = [_NO_LABELS if item is None else item for item in labels]
        new: set[str] = {*chain.from_iterable(map(dict.values, labels))} - self._label_values  # type: ignore[arg-type]
        keys = {*chain.from_iterable(labels)} - self._label_keys  # type: ignore[arg-type]
        if any(map(label_key_problem, keys)) or not all(map(is_label_value, new)):
            raise NotPlain
        _learnt(self._label_keys, keys)
        _learnt(self._label_values, new)
        return labels  # type: ignore[return-value]

    def labels(self, labels: Mapping[str, str] | None) -> Mapping[str, str]:
        """Labels as they are. Raises NotPlain, or TypeError for what is no text."""
        if labels is None:
            return _NO_LABELS
        keys, values = self._label_keys, self._label_values
        if not keys.issuperset(labels):
            if any(map(label_key_problem, labels)):
                raise NotPlain
            _learnt(keys, labels)
        if not values.issuperset(labels.values()):
            if not all(map(is_label_value, labels.values())):
                raise NotPlain
            _learnt(values, labels.values())
        return labels

    def clean(self, read: Read, value: Any) -> Any:
        """What a reader makes of a value that nothing is wrong with. Raises NotPlain."""
        if type(value) is str:
            cursor = self._scalar  # the same one for every text: readers keep none
            cursor.node.value = value
        else:
            cursor = cursor_of(value)
        found = read(cursor)
        if cursor.problems or found is None:
            cursor.problems.clear()
            raise NotPlain
        return found


def cursor_of(value: Any) -> Cursor:
    """A decoded value as a document of its own."""
    document = document_of(value, "")
    return Cursor(document, document.root, "", [])


def _learnt(known: set[str], new: Iterable[str]) -> None:
    if len(known) >= _MANY:
        known.clear()
    known.update(new)


def remember(known: dict[Any, Any], key: Any, value: Any) -> Any:
    """The value, known from now on; what is known is forgotten before it becomes too much."""
    if len(known) >= _MANY:
        known.clear()
    known[key] = value
    return value
