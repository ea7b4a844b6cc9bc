# SPDX-License-Identifier: Apache-2.0
"""Namespace documents. The API server labels each with its name; a manifest need not."""

from __future__ import annotations

from dfw.fields import Cursor
from dfw.kube.metadata import envelope, meta_read
from dfw.model import NAMESPACE_NAME_LABEL, Namespace


def namespace_read(cursor: Cursor) -> Namespace | None:
    """A namespace; None after reporting what is wrong with it."""
    parts = envelope(cursor)
    meta = None if parts is None else meta_read(cursor, parts, namespaced=False)
    if meta is None:
        return None
    written = meta.labels.get(NAMESPACE_NAME_LABEL, meta.name)
    if written != meta.name:
        cursor.problem(f"the label {NAMESPACE_NAME_LABEL} is {written!r}, but the namespace is {meta.name!r}")
    return Namespace(meta.name, {**meta.labels, NAMESPACE_NAME_LABEL: meta.name}, cursor.place)
