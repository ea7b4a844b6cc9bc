# SPDX-License-Identifier: Apache-2.0
"""Which ports have which value of one label.

Made when a selector over several namespaces first asks for the label's key, out of all ports there are; that must take
milliseconds with 100,000 of them, so every step is one that the interpreter does for all ports in one call.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from itertools import count, repeat

import numpy as np

_SINGLY = 32
"""So many values are looked for one by one, each in all ports; from then on all ports are sorted by their values."""


class LabelColumn:
    """A label's values by port. `labels`: of all ports by number, empty where a port is in no namespace or gone."""

    def __init__(self, key: str, labels: Sequence[Mapping[str, str]]) -> None:
        self.key = key
        self._number: dict[str | None, int] = {}
        values = list(map(dict.get, labels, repeat(key)))  # type: ignore[arg-type]
        self._numbers = array("i", map(self._number.setdefault, values, count()))
        self._next = len(values)
        self._absent = self._number_of(None)
        self._found: dict[str, set[int]] = {}
        self._is_sorted = False

    def _number_of(self, value: str | None) -> int:
        found = self._number.get(value)
        if found is None:
            found = self._number[value] = self._next
            self._next += 1
        return found

    def put(self, slot: int, value: str | None) -> None:
        """A port that is new, or was taken out before, has this value."""
        if slot >= len(self._numbers):
            self._numbers.extend(repeat(self._absent, slot + 1 - len(self._numbers)))
        self._numbers[slot] = self._number_of(value)
        if value is not None and (value in self._found or self._is_sorted):
            self._found.setdefault(value, set()).add(slot)

    def remove(self, slot: int, value: str | None) -> None:
        """A port with this value is gone."""
        self._numbers[slot] = self._absent
        if value is not None and value in self._found:
            self._found[value].discard(slot)

    def having(self, value: str) -> set[int]:
        """The ports with this value; not the caller's to change."""
        found = self._found.get(value)
        if found is None:
            if self._is_sorted or value not in self._number:
                return set()
            if len(self._found) >= _SINGLY:
                self._sort()
                return self.having(value)
            found = self._found[value] = self._where(self._array() == self._number[value])
        return found

    def having_any(self, values: Iterable[str]) -> set[int]:
        """The ports with one of these values."""
        return set().union(*map(self.having, values))

    def present(self) -> set[int]:
        """The ports that have the label."""
        return self._where(self._array() != self._absent)

    def _array(self) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        return np.frombuffer(self._numbers, dtype=np.int32)

    @staticmethod
    def _where(chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> set[int]:
        return set(np.flatnonzero(chosen).tolist())

    def _sort(self) -> None:
        """All values at once: from now on `_found` has all of them."""
        numbers = self._array()
        order = np.argsort(numbers, kind="stable")
        names = {number: value for value, number in self._number.items()}
        found, starts = np.unique(numbers[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        for number, start, end in zip(found.tolist(), starts.tolist(), ends, strict=True):
            value = names[number]
            if value is not None and value not in self._found:
                self._found[value] = set(order[start:end].tolist())
        self._is_sorted = True
