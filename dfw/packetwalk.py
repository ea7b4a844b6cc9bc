# SPDX-License-Identifier: Apache-2.0
"""Which rules decide about which packets: first match over boxes, with the rules that leave their tier. Pure and exact.

Everything rests on one question, whether some boxes cover another (dfw/packetset.py). Rules that leave their tier make
others be skipped, so a box is first cut along them: in each piece one list of rules is in force, and the first match
decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from dfw.packetrules import NO_RULE, Outcome, Row, Space
from dfw.packetset import AXES, Box, Work, box_meet, box_minus, find_uncovered, mask_bits, mask_of

_FEW_CLASSES = 256


class RowIndex:
    """The rows of one list, found by what they have in common with a box: for each mask of an axis a set of rows, as
    the bits of a number, so that a box costs four look-ups. Equal masks are compared once."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self._boxes: list[int] = []  # the row of each box, ascending
        self._having: list[dict[int, int]] = [{} for _ in range(AXES)]
        self._meeting: list[dict[int, int]] = [{} for _ in range(AXES)]
        self._narrow: list[dict[int, int]] = [{} for _ in range(AXES)]  # boxes by class, of masks with few classes
        self._wide: list[dict[int, int]] = [{} for _ in range(AXES)]  # boxes by mask, of the others
        having: list[dict[int, list[int]]] = [{} for _ in range(AXES)]
        for at, row in enumerate(rows):
            for box in row.boxes:
                for axis, mask in enumerate(box):
                    having[axis].setdefault(mask, []).append(len(self._boxes))
                self._boxes.append(at)
        for axis, masks in enumerate(having):
            self._having[axis] = {mask: mask_of(places, len(self._boxes)) for mask, places in masks.items()}
            for mask, boxes in self._having[axis].items():
                if mask.bit_count() > _FEW_CLASSES:
                    self._wide[axis][mask] = boxes
                    continue
                narrow = self._narrow[axis]
                for number in mask_bits(mask):
                    narrow[number] = narrow.get(number, 0) | boxes

    def _meet(self, axis: int, mask: int, work: Work) -> int:
        """The boxes that have something in common with this mask on an axis."""
        found = self._meeting[axis].get(mask)
        if found is None:
            found = 0
            masks = self._having[axis]
            if mask.bit_count() <= _FEW_CLASSES:
                masks, narrow = self._wide[axis], self._narrow[axis]
                for number in mask_bits(mask):
                    found |= narrow.get(number, 0)
            work.spend(len(masks) // 2 + _FEW_CLASSES // 8)
            for other, boxes in masks.items():
                if other & mask:
                    found |= boxes
            self._meeting[axis][mask] = found
        return found

    def meeting(self, box: Box, work: Work) -> list[Row]:
        """The rows with a packet in common with the box, in order."""
        vnics, sources, destinations, services = (self._meet(axis, box[axis], work) for axis in range(AXES))
        found = dict.fromkeys(self._boxes[at] for at in mask_bits(vnics & sources & destinations & services))
        work.spend(len(found) // (2 * work.weight) + 1)
        return [self.rows[at] for at in found]


class Piece(NamedTuple):
    """Part of a box that lies inside or outside of each row that leaves its tier; `inside`: the places of those."""

    box: Box
    inside: frozenset[int]


def pieces(box: Box, rows: Sequence[Row], work: Work) -> Iterator[Piece]:
    """Cut a box along the rows that leave their tier. `rows`: in order of judgement."""
    leaving = [at for at, row in enumerate(rows) if row.resume]
    stack: list[tuple[Box, int, frozenset[int]]] = [(box, 0, frozenset())]
    while stack:
        piece, at, inside = stack.pop()
        work.spend(1)
        if at == len(leaving):
            yield Piece(piece, inside)
            continue
        place = leaving[at]
        rest = [piece]
        for cover in rows[place].boxes:
            outside: list[Box] = []
            for one in rest:
                both = box_meet(one, cover)
                if both is None:
                    outside.append(one)
                else:
                    stack.append((both, at + 1, inside | {place}))
                    outside += box_minus(one, cover)
            rest = outside
            work.spend(len(rest))
        stack += [(one, at + 1, inside) for one in rest]


def in_force(rows: Sequence[Row], inside: frozenset[int], without: int | None = None) -> list[Row]:
    """The rows that are asked about the packets of a piece, as if rule `without` were not there: those that an earlier
    one makes skipped are left out, and those that leave their tier are there only if they match."""
    resume = 0
    found: list[Row] = []
    for at, row in enumerate(rows):
        if row.tier < resume or row.number == without:
            continue
        if not row.resume:
            found.append(row)
        elif at in inside:
            found.append(row)
            resume = row.resume
    return found


def deciding(rows: Iterable[Row]) -> list[Row]:
    """Those that end the search."""
    return [row for row in rows if not row.resume]


def takers(rows: Iterable[Row], number: int, tier: int) -> list[Row]:
    """Of rows in force in a piece, those above rule `number` that keep packets from it."""
    found: list[Row] = []
    for row in rows:
        if row.number >= number:
            break
        if not row.resume:
            found.append(row)
        elif row.resume > tier:
            found.append(row)
            break
    return found


def boxes_of(rows: Iterable[Row]) -> list[Box]:
    """All boxes of some rows."""
    return [box for row in rows for box in row.boxes]


def first_row(rows: Iterable[Row], point: Box, without: int | None = None) -> Row | None:
    """The row that decides about a packet, as if rule `without` were not there."""
    resume = 0
    for row in rows:
        if row.number == without or row.tier < resume or all(box_meet(box, point) is None for box in row.boxes):
            continue
        if not row.resume:
            return row
        resume = row.resume
    return None


def point_of(box: Box) -> Box:
    """One packet of a box: the lowest class of each axis."""
    return Box._make(mask & -mask for mask in box)


def services_differing(space: Space, one: Outcome, other: Outcome) -> int:
    """The services for which two outcomes differ. TCP strict is about segments that are no SYN, and about no more."""
    if one == other:
        return 0
    if one._replace(tcp_strict=other.tcp_strict) == other:
        return space.services.later_tcp
    return space.services.full


class Difference(NamedTuple):
    """Packets about which two lists decide differently, by these rows (None: no rule)."""

    box: Box
    old: Row | None
    new: Row | None


Cut: TypeAlias = Callable[[Box, Sequence[Box], Work], Iterable[Box]]
"""What covers leave of a box: all of it, or some."""


def find_first(box: Box, covers: Sequence[Box], work: Work) -> Iterable[Box]:
    """A `Cut` that is content with some packets."""
    found = find_uncovered(box, covers, work)
    return () if found is None else (found,)


class NotBothIn:
    """Is one of a pair none of these rows (by identity)?"""

    def __init__(self, rows: set[int]) -> None:
        self.rows = rows

    def __call__(self, old: Row | None, new: Row | None) -> bool:
        return any(row is not None and id(row) not in self.rows for row in (old, new))


def differences(
    space: Space,
    piece: Box,
    old: Sequence[Row],
    new: Sequence[Row],
    wanted: Callable[[Row | None, Row | None], bool],
    work: Work,
    cut: Cut = find_first,
    only: Row | None = None,
) -> Iterator[Difference]:
    """Where two lists of deciding rows differ inside a box: packets whose first matches are one row of each list.

    `wanted`: which pairs of first matches are looked at (None: no rule). Where both rows stand in both lists, in one
    order, they need not be: the same is first in both. `only`: of all these, the pairs with this row.
    """
    nothing = Row(-1, 0, 0, NO_RULE, (piece,), True, None)
    olds, news = [*old, nothing], [*new, nothing]
    every = list(enumerate(news))
    with_it = every if only is None else [item for item in every if item[1] is only]
    for before, mine in enumerate(olds):
        for after, theirs in every if mine is only else with_it:
            if not wanted(None if mine is nothing else mine, None if theirs is nothing else theirs):
                continue
            services = services_differing(space, mine.outcome, theirs.outcome)
            work.spend(1)
            for box in _meets(piece, mine, theirs, services):
                above = [*olds[:before], *news[:after]]
                for left in cut(box, list(dict.fromkeys(boxes_of(above))), work):
                    yield Difference(left, *(None if row is nothing else row for row in (mine, theirs)))


def _meets(piece: Box, one: Row, other: Row, services: int) -> Iterator[Box]:
    """What two rows match, of these services, inside a box."""
    if not piece.services & services:
        return
    inside = piece._replace(services=piece.services & services)
    for first in one.boxes:
        both = box_meet(inside, first)
        if both is None:
            continue
        for second in other.boxes:
            found = box_meet(both, second)
            if found is not None:
                yield found
