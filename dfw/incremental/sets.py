# SPDX-License-Identifier: Apache-2.0
"""The address sets that rules refer to, as records, and the runs of set numbers that entries point into.

A set belongs to a Selection and keeps its number while that is in use: when members come and go only the set changes,
not the tables that refer to it. A number or a place in `set_refs` that became free is not given to others before the
next apply, so that equal bytes of a table mean the same before and after one.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from dfw.incremental.changes import SetChange
from dfw.incremental.packed import packed_of, packed_ranges, packed_with, packed_without, range_flat
from dfw.incremental.ports import Ports
from dfw.incremental.selections import Derived, Resolver, Selection, SharedSet, Shift
from dfw.model import ranges_intersect, ranges_subtract

_FEW = 64  # so many addresses are put into a large set one by one


class Sets:
    """All address sets by number."""

    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.of: dict[int, SharedSet] = {}
        self._fresh: dict[SharedSet, None] = {}
        self._gone: dict[int, SetChange] = {}
        self._next = 0
        self._references = array("I")
        self._array: npt.NDArray[np.uint32] | None = None
        self._runs: dict[tuple[int, ...], list[int]] = {}
        self._free: dict[int, list[int]] = {}
        self._resting: list[tuple[int, int]] = []
        self._derived: dict[tuple[Selection, tuple[Selection, ...], bool], Derived] = {}

    def set_refs(self) -> npt.NDArray[np.uint32]:
        """What src_off and dst_off of all tables point into, as of now."""
        if self._array is None:
            self._array = np.array(self._references, dtype=np.uint32)
            self._array.flags.writeable = False
        return self._array

    def set_of(self, source: Selection | Derived) -> SharedSet:
        """The set of a source; made where there is none."""
        if source.set is None:
            name = source.meaning.name if isinstance(source, Selection) else ""
            source.set = self.of[self._next] = SharedSet(self._next, name, source)
            self._next += 1
            self._fresh[source.set] = None
        return source.set

    def single(self, found: SharedSet) -> tuple[int, int]:
        """The run of one set: it lives as long as the set."""
        if found.reference < 0:
            found.reference = self._place((found.number,))
        return found.reference, 1

    def run(self, numbers: tuple[int, ...]) -> tuple[int, int]:
        """The run of several sets, used once more."""
        known = self._runs.get(numbers)
        if known is None:
            known = self._runs[numbers] = [self._place(numbers), 0]
        known[1] += 1
        return known[0], len(numbers)

    def release(self, numbers: tuple[int, ...]) -> None:
        """A run is used once less."""
        known = self._runs[numbers]
        known[1] -= 1
        if not known[1]:
            del self._runs[numbers]
            self._resting.append((known[0], len(numbers)))

    def _place(self, numbers: tuple[int, ...]) -> int:
        self._array = None
        free = self._free.get(len(numbers))
        if free:
            at = free.pop()
            self._references[at : at + len(numbers)] = array("I", numbers)
            return at
        self._references.extend(numbers)
        return len(self._references) - len(numbers)

    def derived(self, holders: Selection, destinations: tuple[Selection, ...], is_excluded: bool) -> Derived:
        """The destinations of a rule for a named port, used once more."""
        key = (holders, destinations, is_excluded)
        found = self._derived.get(key)
        if found is None:
            found = self._derived[key] = Derived(holders, destinations, is_excluded)
            for selection in (holders, *destinations):
                selection.derived = [*(selection.derived or ()), found]
        found.uses += 1
        return found

    def release_derived(self, found: Derived) -> None:
        """Used once less."""
        found.uses -= 1
        if not found.uses:
            del self._derived[found.holders, found.destinations, found.is_excluded]
            for selection in (found.holders, *found.destinations):
                selection.derived = [item for item in selection.derived or () if item is not found]
            self.drop(found)

    def drop(self, source: Selection | Derived) -> None:
        """A source is gone, and its set with it."""
        found = source.set
        if found is None:
            return
        source.set = None
        del self.of[found.number]
        if found.reference >= 0:
            self._resting.append((found.reference, 1))
        if self._fresh.pop(found, self) is self:
            self._gone[found.number] = SetChange(found.number, found.name, found.packed, None)

    def refresh(self, shifts: Mapping[Selection, Shift]) -> dict[int, SetChange]:
        """Bring all sets up to date with their sources; what changed, by number."""
        changed: dict[int, SetChange] = {}
        again: dict[Derived, None] = {}
        for selection, shift in shifts.items():
            again.update(dict.fromkeys(selection.derived or ()))
            found = selection.set
            if found is None or found in self._fresh:
                continue
            before, touched = found.packed, None
            found.packed = self._shifted(selection, shift, before)
            if found.packed != before:
                if not shift.is_refilled:
                    touched = frozenset((*shift.came, *shift.went))
                changed[found.number] = SetChange(found.number, found.name, before, found.packed, touched)
        for derived in again:
            found = derived.set
            if found is not None and found not in self._fresh:
                before, found.packed = found.packed, self._packed(found)
                if found.packed != before:
                    changed[found.number] = SetChange(found.number, found.name, before, found.packed)
        for found in self._fresh:
            found.packed = self._packed(found)
            changed[found.number] = SetChange(found.number, found.name, None, found.packed)
        self._fresh.clear()
        return changed

    def without_dropped(self, changed: dict[int, SetChange]) -> dict[int, SetChange]:
        """The changes as they are when the sets that nobody uses any more are gone."""
        for number, gone in self._gone.items():
            known = changed.pop(number, None)
            if known is None or known.before is not None:
                changed[number] = gone if known is None else gone._replace(before=known.before)
        return changed

    def rest(self) -> None:
        """After an apply: what became free in it may be used again."""
        for at, length in self._resting:
            self._free.setdefault(length, []).append(at)
        self._resting.clear()
        self._gone.clear()

    def _values(self, members: Iterable[int]) -> list[int]:
        flat = self.ports.flat
        return [value for slot in members for value in flat[slot]]

    def _packed(self, found: SharedSet) -> bytes:
        source = found.source
        if isinstance(source, Selection):
            return packed_of(self._values(source.members), source.fixed)
        holding = packed_ranges(packed_of(self._values(source.holders.members)))
        members = set().union(*(item.members for item in source.destinations))
        fixed = [item for selection in source.destinations for item in selection.fixed]
        own = packed_ranges(packed_of(self._values(members), fixed))
        left = ranges_subtract(holding, own) if source.is_excluded else ranges_intersect(holding, own)
        return packed_of((), map(range_flat, left))

    def _shifted(self, selection: Selection, shift: Shift, packed: bytes) -> bytes:
        if shift.is_refilled or len(shift.came) + len(shift.went) > _FEW or len(selection.members) <= _FEW:
            return packed_of(self._values(selection.members), selection.fixed)
        owners, members = self.ports.owners, selection.members
        for value in shift.went:
            if any(slot in members for slot in owners.get(value, ())):
                continue
            if not any(first <= value <= last for first, last in selection.fixed):
                packed = packed_without(packed, value)
        for value in shift.came:
            if any(slot in members for slot in owners.get(value, ())):
                packed = packed_with(packed, value)
        return packed


def refilled(selection: Selection, members: set[int], resolver: Resolver) -> Shift:
    """Give a Selection its members as found from nothing; how they differ from those it had."""
    shift = Shift()
    shift.is_refilled = True
    shift.joined, shift.left = list(members - selection.members), list(selection.members - members)
    selection.members = members
    selection.fixed = resolver.fixed(selection.meaning.term)
    return shift
