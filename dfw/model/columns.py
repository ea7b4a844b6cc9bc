# SPDX-License-Identifier: Apache-2.0
"""Many values of one class, made of columns: what a frozen dataclass's own constructor does field by field and object
by object is done here a field at a time for all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import MISSING, fields
from itertools import repeat
from typing import Any, TypeVar

Row = TypeVar("Row")


def rows_of_columns(kind: type[Row], count: int, **columns: Iterable[Any]) -> list[Row]:
    """`count` objects of a slotted dataclass without a `__post_init__`, as its constructor makes them; fields that no
    column names have their defaults, which must be plain values. Raises TypeError for a field without a value, for one
    that is unknown, and for a column that is too short."""
    made = [object.__new__(kind) for _ in range(count)]
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    for unknown in columns.keys() - known.keys():
        raise TypeError(f"{kind.__name__} has no field {unknown}")
    for name, field in known.items():
        column = columns.get(name)
        if column is None:
            if field.default is MISSING:
                raise TypeError(f"{kind.__name__}.{name} has no column and no default")
            column = repeat(field.default)
        place = getattr(kind, name).__set__  # of the slot: assignment itself is refused by a frozen class
        deque(map(place, made, column), maxlen=0)
        if made and not hasattr(made[-1], name):
            raise TypeError(f"the column {name} is too short")
    return made
