# SPDX-License-Identifier: Apache-2.0
"""The axes of packet sets: every value of a field in classes that no rule tells apart, and back to values. Pure.

Two values are in one class when the same sets of the rules contain them: the classes are exact, and as few as can be.
Sets that cannot be resolved (a group by tags, without an inventory) are symbols: a class for every way in which a value
may be a member of some and not of others, as far as that can matter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

from dfw.model import (
    AddressRange,
    Direction,
    Family,
)
from dfw.packetset import BudgetError, lowest_bit, mask_bits, mask_of

# Bounds: beyond them the question is not decided (BudgetError).
MAXIMUM_CLASSES = 200_000
MAXIMUM_BOUNDS = 2_000_000
MAXIMUM_MEMBERSHIPS = 20_000_000
MAXIMUM_EXCEPTIONS = 6
EXAMPLE_NETWORK = 0x0A000000  # where an example reads like one: 10.0.0.0, and 2001:db8::
EXAMPLE_NETWORK6 = 0x20010DB8 << 96


@dataclass(frozen=True, slots=True, eq=False)
class Ranges:
    """Sorted, disjoint addresses of one family. Compared by identity: equal ones are one object (`RangePool`)."""

    firsts: tuple[int, ...]
    lasts: tuple[int, ...]


class RangePool:
    """Makes ranges, equal ones once."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[int, ...], tuple[int, ...]], Ranges] = {}

    def ranges(self, items: Iterable[AddressRange], family: Family) -> Ranges:
        """Those of one family; the items are sorted and disjoint."""
        own = [item for item in items if item.family is family]
        key = tuple(item.first for item in own), tuple(item.last for item in own)
        return self._known.setdefault(key, Ranges(*key))


class Side(NamedTuple):
    """One side of a rule in one family: members of some sets, and of unresolved ones (`symbols`); or all but them."""

    sets: tuple[Ranges, ...] = ()
    symbols: frozenset[str] = frozenset()
    excluded: bool = False

    @property
    def is_nothing(self) -> bool:
        """No address at all."""
        return not (self.symbols or self.excluded or any(item.firsts for item in self.sets))


EVERY_ADDRESS = Side(excluded=True)


class Symbols:
    """The ways in which something may be a member of unresolved sets.

    Every subset of those that rules exclude or leave their tier by; of the others at most two at once. That is enough:
    being in more sets only makes more rules match, and a packet that shows something needs to be in those of two rules.
    """

    def __init__(self, names: Iterable[str], free: Iterable[str]) -> None:
        exceptions = sorted(set(free))
        others = sorted(set(names) - set(exceptions))
        count = (1 + len(others) + len(others) * (len(others) - 1) // 2) << len(exceptions)
        if len(exceptions) > MAXIMUM_EXCEPTIONS or count > MAXIMUM_CLASSES:
            raise BudgetError
        chosen = [frozenset(some) for size in range(3) for some in combinations(others, size)]
        either = [frozenset(some) for size in range(len(exceptions) + 1) for some in combinations(exceptions, size)]
        # The first one: a member of none.
        self.ways: list[frozenset[str]] = [one | other for other in either for one in chosen]

    def numbers(self, names: frozenset[str]) -> list[int]:
        """Of the ways in which something is a member of one of these."""
        return [number for number, way in enumerate(self.ways) if way & names]


class AddressAxis:
    """Addresses of one family. `sides`: all that will be asked for. `usual`: an example's number in its network, where
    any would do. Raises BudgetError."""

    def __init__(self, family: Family, sides: Iterable[Side], symbols: Symbols, usual: int = 1) -> None:
        self.family = family
        self._usual = (EXAMPLE_NETWORK if family is Family.IPV4 else EXAMPLE_NETWORK6) + usual
        self.symbols = symbols
        distinct = list(dict.fromkeys(item for side in sides for item in side.sets if item.firsts))
        self._sets = {item: number for number, item in enumerate(distinct)}
        self._intervals: list[tuple[int, int]] = []  # first address, class; in order, up to the next one
        signatures = self._sweep(distinct)
        self.known = len(signatures)
        self.size = self.known * len(symbols.ways)
        if self.size > MAXIMUM_CLASSES:
            raise BudgetError
        self.full = (1 << self.size) - 1
        self._members: list[list[int]] = [[] for _ in distinct]
        left = MAXIMUM_MEMBERSHIPS
        for number, signature in enumerate(signatures):
            left -= signature.bit_count()
            if left < 0:
                raise BudgetError
            for at in mask_bits(signature):
                self._members[at].append(number)
        self._masks: dict[Side, int] = {EVERY_ADDRESS: self.full}
        self._set_masks: dict[Ranges, int] = {}

    def _sweep(self, distinct: Sequence[Ranges]) -> list[int]:
        """The intervals that no set divides; for each class which sets hold it."""
        bounds = sum(len(item.firsts) for item in distinct)
        if bounds > MAXIMUM_BOUNDS or bounds * len(distinct) > 400 * MAXIMUM_BOUNDS:
            raise BudgetError
        changes: dict[int, int] = {0: 0}
        for number, item in enumerate(distinct):
            bit = 1 << number
            for first, last in zip(item.firsts, item.lasts, strict=True):
                changes[first] = changes.get(first, 0) ^ bit
                changes[last + 1] = changes.get(last + 1, 0) ^ bit
        changes.pop(1 << self.family.bits, None)
        classes: dict[int, int] = {}
        signature = 0
        for at in sorted(changes):
            signature ^= changes[at]
            self._intervals.append((at, classes.setdefault(signature, len(classes))))
        return list(classes)

    def mask(self, side: Side) -> int:
        """The classes of one of the sides."""
        found = self._masks.get(side)
        if found is None:
            found = 0
            for item in side.sets:
                found |= self._set_mask(item)
            if side.symbols:
                ways, inside = len(self.symbols.ways), self.symbols.numbers(side.symbols)
                found |= mask_of((number * ways + way for number in range(self.known) for way in inside), self.size)
            if side.excluded:
                found = self.full & ~found
            self._masks[side] = found
        return found

    def _set_mask(self, item: Ranges) -> int:
        if not item.firsts:
            return 0
        if item not in self._set_masks:
            ways, known = len(self.symbols.ways), self._members[self._sets[item]]
            self._set_masks[item] = mask_of((number * ways + way for number in known for way in range(ways)), self.size)
        return self._set_masks[item]

    def example(self, mask: int) -> tuple[int, frozenset[str]]:
        """An address of the classes, and the unresolved sets that it must be a member of besides."""
        number, way = divmod(lowest_bit(mask), len(self.symbols.ways))
        return self._examples[number], self.symbols.ways[way]

    def has(self, mask: int, address: int) -> bool:
        """Is the address in one of the classes, without being a member of any unresolved set?"""
        at = bisect_right(self._firsts, address) - 1
        return bool(mask >> self._intervals[at][1] * len(self.symbols.ways) & 1)

    @cached_property
    def _firsts(self) -> list[int]:
        return [first for first, _ in self._intervals]

    @cached_property
    def _examples(self) -> list[int]:
        """Of each class an address that reads like one."""
        usual = self._usual
        found: dict[int, int] = {}
        for at, (first, number) in enumerate(self._intervals):
            last = self._last(at)
            if first <= usual <= last and last - first > 1 << 16:
                found[number] = usual
            elif found.get(number, 0) == 0:
                found[number] = first + 1 if last - first > 1 else first
        return [found[number] for number in range(self.known)]

    def _last(self, at: int) -> int:
        return self._intervals[at + 1][0] - 1 if at + 1 < len(self._intervals) else (1 << self.family.bits) - 1

    def ranges(self, mask: int) -> list[AddressRange]:
        """The addresses of the classes, as sorted, disjoint ranges."""
        ways = len(self.symbols.ways)
        wanted = {number // ways for number in mask_bits(mask)}
        found: list[AddressRange] = []
        for at, (first, number) in enumerate(self._intervals):
            if number in wanted:
                last = self._last(at)
                if found and found[-1].last + 1 == first:
                    first = found.pop().first
                found.append(AddressRange(self.family, first, last))
        return found


class VnicAxis:
    """vNICs by what is programmed on them, each with both directions. One filter on a wire has neither.

    `scopes`: distinct Applied-To lists, as sets of the vNICs' numbers. Without an inventory there is one vNIC that is
    whatever the symbols make it.
    """

    def __init__(
        self, count: int | None, scopes: Iterable[frozenset[int]], symbols: Symbols, tap: bool = False
    ) -> None:
        self.symbols, self.tap = symbols, tap
        self._scopes: dict[frozenset[int], list[int]] = {}
        self.members: list[list[int]] = []
        """The vNICs of each class, by number."""
        if tap or count is None:
            self.examples: list[int | None] = [None]
        else:
            of_vnic: list[list[int]] = [[] for _ in range(count)]
            distinct = list(dict.fromkeys(scopes))
            if sum(map(len, distinct)) > MAXIMUM_MEMBERSHIPS:
                raise BudgetError
            for at, scope in enumerate(distinct):
                for number in scope:
                    of_vnic[number].append(at)
            classes: dict[tuple[int, ...], int] = {}
            self.examples = []
            self._scopes = {scope: [] for scope in distinct}
            for number, own in enumerate(of_vnic):
                key = tuple(own)
                if key not in classes:
                    classes[key] = len(classes)
                    self.examples.append(number)
                    self.members.append([])
                    for at in own:
                        self._scopes[distinct[at]].append(classes[key])
                self.members[classes[key]].append(number)
        self.size = 1 if tap else 2 * len(self.examples) * len(symbols.ways)
        if self.size > MAXIMUM_CLASSES:
            raise BudgetError
        self.full = (1 << self.size) - 1
        self._ways = 1 if tap else 2 * len(symbols.ways)
        self._masks: dict[tuple[frozenset[int] | None, frozenset[str], int], int] = {}

    def mask(self, scope: frozenset[int] | None, symbols: frozenset[str], direction: Direction) -> int:
        """Where a rule with this Applied-To (None: everywhere) and direction is."""
        if self.tap:
            return 1
        key = (scope, symbols, int(direction))
        found = self._masks.get(key)
        if found is None:
            sides = [bit for bit, way in enumerate((Direction.IN, Direction.OUT)) if direction & way]
            if scope is None:
                vnics: Iterable[int] = range(len(self.examples) * len(self.symbols.ways))
            else:
                ways = len(self.symbols.ways)
                inside = self.symbols.numbers(symbols)
                vnics = [number * ways + way for number in self._scopes.get(scope, ()) for way in range(ways)]
                vnics += [number * ways + way for number in range(len(self.examples)) for way in inside]
            found = self._masks[key] = mask_of((2 * number + side for number in vnics for side in sides), self.size)
        return found

    def places(self, mask: int) -> list[tuple[Direction, list[int]]]:
        """The vNICs of the classes, by the directions in which they are there. Not for a filter on a wire."""
        found: dict[Direction, list[int]] = {}
        for number, members in enumerate(self.members):
            direction = Direction(mask >> 2 * number & 3)
            if direction:
                found.setdefault(direction, []).extend(members)
        return [(direction, sorted(numbers)) for direction, numbers in sorted(found.items())]

    def has(self, mask: int, vnic: int, direction: Direction) -> bool:
        """Is a vNIC there, in this direction? Not for a filter on a wire, nor where there is no inventory."""
        side = 1 if direction is Direction.OUT else 0
        return bool(mask >> (2 * self._class_of[vnic] * len(self.symbols.ways) + side) & 1)

    @cached_property
    def _class_of(self) -> dict[int, int]:
        return {vnic: number for number, members in enumerate(self.members) for vnic in members}

    def example(self, mask: int) -> tuple[int | None, Direction]:
        """A vNIC's number, where there are any, and a direction; OUT where both are there."""
        if self.tap:
            return None, Direction.IN_OUT
        lowest = lowest_bit(mask)
        number = lowest >> 1
        is_out = mask >> (2 * number + 1) & 1
        return self.examples[number // len(self.symbols.ways)], Direction.OUT if is_out else Direction.IN
