# SPDX-License-Identifier: Apache-2.0
"""Address sets of a compiled policy as sets of a ruleset. Pure.

A set of a hundred thousand is not made anew for one member: what stands before and behind the change stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final

import numpy as np
import numpy.typing as npt

from dfw.compile import AddressSet
from dfw.layout import RANGE_DTYPE, RangeArray
from dfw.model import Family
from dfw.nftables.names import Numbering, occurrences
from dfw.nftables.rows import TableRows
from dfw.nftables.ruleset import ElementSet, RangesKnown, ranges_wide

_RANGES: Final = "-ranges"
_Rows = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class AddressElements:
    """An address set as sets of a ruleset: one for each family of which it has addresses. `key`: what it is known by;
    `code`: a number that is another one where a name of `sets` is; `rows`, by family: what `sets` was made from."""

    key: str
    code: int
    rows: Mapping[Family, _Rows]
    sets: tuple[ElementSet, ...]


def address_sets(
    sets: Sequence[AddressSet],
    rows: TableRows,
    numbers: Numbering,
    before: Mapping[str, AddressElements],
    shared: Mapping[str, AddressElements] | None = None,
) -> dict[int, AddressElements]:
    """Those that rules refer to, by number. `shared`: of the rules in force, where these are of staged ones: what holds
    the same is the same set.

    A group is known by its name, raw addresses by what they are. A set that is no hash any more is another set.
    """
    used = np.zeros(len(sets), dtype=np.bool_)
    for refs in rows.refs.values():
        used[refs] = True
    keys = [item.name or sha256(item.ranges.tobytes()).hexdigest() for item in sets]
    times = occurrences(keys)
    found = {}
    for at in np.flatnonzero(used).tolist():
        key = f"{keys[at]}#{times[at]}" if times[at] else keys[at]
        other = shared.get(key) if shared is not None else None
        if other is not None and _holds(other, sets[at].ranges):
            found[at] = other
            continue
        key = key if shared is None else f"staged {key}"
        found[at] = _elements(key, numbers.number(key), sets[at].ranges, before.get(key))
    return found


def _holds(item: AddressElements, ranges: RangeArray) -> bool:
    """Are these its elements?"""
    return all(np.array_equal(item.rows[family], rows) for family, rows in _rows_of(ranges).items())


def set_codes(count: int, sets: Mapping[int, AddressElements]) -> npt.NDArray[np.int64]:
    """By number of an address set, its code; -1 for those that nobody uses."""
    found = np.full(count, -1, dtype=np.int64)
    for at, item in sets.items():
        found[at] = item.code
    return found


def _elements(key: str, number: int, ranges: RangeArray, before: AddressElements | None) -> AddressElements:
    known = {} if before is None else {item.family: item for item in before.sets}
    rows = _rows_of(ranges)
    made: list[ElementSet] = []
    for family, own in rows.items():
        old = known.get(family)
        if before is not None and old is not None and len(own):
            made.append(_changed(old, family, before.rows[family], own))
        elif len(own):
            name = f"set{number}-v{4 if family is Family.IPV4 else 6}"
            pairs = tuple(_pairs(own, family))
            made.append(_named(ElementSet(name, family, pairs, RangesKnown(pairs, ranges_wide(pairs)))))
    if before is not None and [id(item) for item in made] == [id(item) for item in before.sets]:
        return before
    kinds = sum((2 if item.is_interval else 1) * (3 if item.family is Family.IPV6 else 1) for item in made)
    return AddressElements(key, number * 9 + kinds, rows, tuple(made))


def _rows_of(ranges: RangeArray) -> dict[Family, _Rows]:
    return {family: _octets(ranges[ranges["family"] == int(family)]) for family in Family}


def _octets(ranges: RangeArray) -> _Rows:
    """Rows as octets: they compare faster."""
    return np.ascontiguousarray(ranges).view(np.uint8).reshape(len(ranges), RANGE_DTYPE.itemsize)


def _named(item: ElementSet) -> ElementSet:
    return replace(item, name=f"{item.name}{_RANGES}") if item.is_interval else item


def _changed(old: ElementSet, family: Family, before: _Rows, rows: _Rows) -> ElementSet:
    """The set with these rows: only those between the first and the last that differ are read."""
    if np.array_equal(before, rows):
        return old
    shorter = min(len(before), len(rows))
    first = _alike(before[:shorter], rows[:shorter])
    last = min(_alike(before[::-1][:shorter], rows[::-1][:shorter]), shorter - first)
    end = len(old.ranges) - last
    gone, between = old.ranges[first:end], tuple(_pairs(rows[first : len(rows) - last], family))
    ranges = old.ranges[:first] + between + old.ranges[end:]
    wide = (old.known.wide if old.known else ranges_wide(old.ranges)) - ranges_wide(gone) + ranges_wide(between)
    known = RangesKnown(ranges, wide, old.ranges, first, last)
    return _named(ElementSet(old.name.removesuffix(_RANGES), family, ranges, known))


def _alike(one: _Rows, other: _Rows) -> int:
    """How many rows at the beginning are the same."""
    differ = np.flatnonzero((one != other).any(axis=1))
    return int(differ[0]) if len(differ) else len(one)


def _pairs(rows: _Rows, family: Family) -> Iterator[tuple[int, int]]:
    size = family.bits // 8
    for row in map(bytes, rows):
        yield int.from_bytes(row[:size], "big"), int.from_bytes(row[16 : 16 + size], "big")
