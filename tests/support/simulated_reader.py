# SPDX-License-Identifier: Apache-2.0
"""What simulated hosts know. All that share a routing domain know the same of it: in one process it is unpacked once,
and in memory once. What is said on the wire, and what comes of it, is as with SpanReader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

from overlay.span_parts import MARK_BYTES, SetChange, marks_sum, part_is_shared, sum_with
from supervisor_glue.span_reader import SpanReader
from supervisor_glue.span_wire import Known

KEPT = 8  # packed parts that are remembered
KEPT_SETS = 64  # sets' changes that are


class Base(dict[str, bytes]):
    """Parts that came packed, which nobody changes. `marks` by name; `sum` of those that hosts share."""

    def __init__(self, parts: Mapping[str, bytes], marks: Mapping[str, bytes]) -> None:
        super().__init__(parts)
        self.marks = marks
        self.sum = marks_sum(mark for key, mark in marks.items() if part_is_shared(key))


class Layers(MutableMapping[str, bytes]):
    """Parts of one host: `over` a base, with None for those that are gone."""

    def __init__(self) -> None:
        self.base = Base({}, {})
        self.over: dict[str, bytes | None] = {}

    def __getitem__(self, key: str) -> bytes:
        found = self.over[key] if key in self.over else self.base[key]
        if found is None:
            raise KeyError(key)
        return found

    def __setitem__(self, key: str, value: bytes) -> None:
        self.over[key] = value

    def __delitem__(self, key: str) -> None:
        self[key]
        if key in self.base:
            self.over[key] = None
        else:
            del self.over[key]

    def __iter__(self) -> Iterator[str]:
        yield from (key for key in self.base if key not in self.over)
        yield from self.own()

    def own(self) -> Iterator[str]:
        """Keys of what is not the base's."""
        yield from (key for key, value in self.over.items() if value is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def update(self, other: Any = (), /, **more: bytes) -> None:
        if not isinstance(other, Base):
            super().update(other, **more)
            return
        self.over = {key: self.get(key) for key in self._left(other)}
        self.base = other

    def _left(self, base: Base) -> Iterable[str]:
        return [key for key in (*self.base, *self.over) if key not in base and key in self]


class Shared:
    """What the hosts of this process have in common."""

    def __init__(self) -> None:
        self.unpacked: dict[bytes, Base] = {}
        self.marks: dict[tuple[str, bytes], bytes] = {}
        self.sets: dict[tuple[bytes, tuple[SetChange, ...]], bytes] = {}


class SharingReader(SpanReader):
    """A host's, in a process of many."""

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self._shared = shared
        self.parts: Layers = Layers()

    def mark(self, key: str, data: bytes) -> bytes:
        found = self._shared.marks.get((key, data))
        if found is None:
            found = self._shared.marks[key, data] = super().mark(key, data)
        return found

    def unpacked(self, data: bytes) -> dict[str, bytes]:
        found = self._shared.unpacked.get(data)
        if found is None:
            while len(self._shared.unpacked) >= KEPT:
                del self._shared.unpacked[next(iter(self._shared.unpacked))]
            parts = super().unpacked(data)
            marks = {key: self.mark(key, part) for key, part in parts.items()}
            found = self._shared.unpacked[data] = Base(parts, marks)
        return found

    def set_changed(self, before: bytes, changes: tuple[SetChange, ...]) -> bytes:
        found = self._shared.sets.get((before, changes))
        if found is None:
            while len(self._shared.sets) >= KEPT_SETS:
                del self._shared.sets[next(iter(self._shared.sets))]
            found = self._shared.sets[before, changes] = super().set_changed(before, changes)
        return found

    def known(self) -> Known:
        """As SpanReader, from the base's sum."""
        base, own, shared = self.parts.base, [], self.parts.base.sum
        for key, part in self.parts.over.items():
            mark = None if part is None else self.mark(key, part)
            if part_is_shared(key):
                shared = sum_with(shared, base.marks.get(key), mark)
            elif mark is not None:
                own.append(mark)
        return Known(b"".join(own), shared.to_bytes(MARK_BYTES, "big") if shared else b"")
