# SPDX-License-Identifier: Apache-2.0
"""Tables: what `kubectl get` prints is made here (https://kubernetes.io/docs/reference/using-api/api-concepts/,
"Receiving resources as Tables")."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from supervisor_glue.api.columns import CELLS, COLUMNS, Column, age_column, name_column
from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.metadata import time_of
from supervisor_glue.api.status import Object


class Printer(NamedTuple):
    """How a kind is printed."""

    columns: tuple[Column, ...]
    cells: Callable[[Object, float], Sequence[Any]]


def printer_of(kind: Kind) -> Printer:
    """A kind without columns of its own has its name and its age."""
    key = (kind.group, kind.kind)
    if key in COLUMNS:
        return Printer(COLUMNS[key], CELLS[key])
    return Printer((name_column(), age_column()), lambda item, now: (item["metadata"]["name"], age(item, now)))


def table_document(
    kind: Kind, items: Iterable[Object], metadata: Object, now: float, *, include: str = "", headers: bool = True
) -> Object:
    """Objects as a Table. `include`: None, Metadata or Object (of the whole of each row's object). `now`: seconds since
    the epoch, for ages."""
    printer = printer_of(kind)
    rows = [
        {"cells": list(printer.cells(item, now)), "object": row_object(item, include or "Metadata")} for item in items
    ]
    document: Object = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    document["columnDefinitions"] = [column.document() for column in printer.columns] if headers else None
    document["rows"] = rows
    return document


def row_object(item: Object, include: str) -> Object | None:
    if include == "None":
        return None
    return item if include == "Object" else partial(item)


def partial(item: Object) -> Object:
    """An object's metadata only."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}


def age(item: Object, now: float) -> str:
    """How long an object has been there, as kubectl words it."""
    made = item["metadata"].get("creationTimestamp")
    return "<unknown>" if not made else duration_text(now - time_of(made))


def duration_text(seconds: float) -> str:
    """k8s.io/apimachinery's HumanDuration: two units where it is short of ten of the larger one."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 0:
        return "0s"
    if whole < 120:
        return f"{whole}s"
    minutes, rest = divmod(whole, 60)
    if minutes < 10:
        return f"{minutes}m{rest}s" if rest else f"{minutes}m"
    if minutes < 180:
        return f"{minutes}m"
    hours, rest = divmod(minutes, 60)
    if hours < 8:
        return f"{hours}h{rest}m" if rest else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    days, rest = divmod(hours, 24)
    if days < 8:
        return f"{days}d{rest}h" if rest else f"{days}d"
    if days < 730:
        return f"{days}d"
    years, rest = divmod(days, 365)
    return f"{years}y{rest}d" if years < 8 and rest else f"{years}y"
