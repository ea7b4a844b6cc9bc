# SPDX-License-Identifier: Apache-2.0
"""Sets of packets as boxes over four axes, and exact arithmetic on them in bounded work. Pure, on plain integers.

An axis is a field of packets, cut into classes that no rule tells apart (dfw/packetspace.py); a mask has a bit for each
class. A box is a mask for each of: vNIC and direction, source, destination, service. It holds every packet whose four
classes are all in it. A rule is one box or a few; what several rules cover together is found by cutting the box
in question along theirs, and never by looking at packets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

AXES = 4


class Box(NamedTuple):
    """All packets with one of these classes on each axis. No mask of a box is 0."""

    vnics: int
    sources: int
    destinations: int
    services: int


class BudgetError(Exception):
    """The work allowed is spent: the question is not decided."""


class Work:
    """What may be spent, in comparisons of boxes; `weight` says how much wider than a machine word the masks are."""

    def __init__(self, most: int, weight: int = 1, parent: Work | None = None) -> None:
        self.left = most
        self.weight = weight
        self.parent = parent

    def spend(self, comparisons: int) -> None:
        """Raises BudgetError where that is more than is left."""
        cost = comparisons * self.weight
        self.left -= cost
        if self.parent is not None:
            self.parent.left -= cost
        if self.left < 0 or (self.parent is not None and self.parent.left < 0):
            raise BudgetError


def box_meet(one: Box, other: Box) -> Box | None:
    """The packets in both; None for none."""
    vnics = one[0] & other[0]
    if not vnics:
        return None
    sources = one[1] & other[1]
    if not sources:
        return None
    destinations = one[2] & other[2]
    services = one[3] & other[3]
    return Box(vnics, sources, destinations, services) if destinations and services else None


def box_minus(box: Box, other: Box) -> list[Box]:
    """The packets of `box` that are not in `other`, as at most four disjoint boxes."""
    if box_meet(box, other) is None:
        return [box]
    parts: list[Box] = []
    left = list(box)
    for axis in range(AXES):
        outside = left[axis] & ~other[axis]
        if outside:
            parts.append(Box._make((*left[:axis], outside, *left[axis + 1 :])))
            left[axis] &= other[axis]
    return parts


def boxes_meeting(box: Box, covers: Iterable[Box]) -> list[Box]:
    """Those of the covers that have a packet in common with the box."""
    vnics, sources, destinations, services = box
    return [
        cover
        for cover in covers
        if cover[1] & sources and cover[2] & destinations and cover[3] & services and cover[0] & vnics
    ]


def find_uncovered(box: Box, covers: Sequence[Box], work: Work) -> Box | None:
    """Some packets of `box` that are in none of the covers (a box of them); None where all are. Raises BudgetError."""
    return next(_uncovered(box, covers, work), None)


def boxes_subtract(box: Box, covers: Sequence[Box], work: Work) -> list[Box]:
    """All packets of `box` that are in none of the covers, as disjoint boxes. Raises BudgetError."""
    return list(_uncovered(box, covers, work))


def _uncovered(box: Box, covers: Sequence[Box], work: Work) -> Iterator[Box]:
    """Disjoint boxes of what the covers leave. Cuts along the cover that leaves the fewest pieces.

    What no cover has on some axis is left for sure, and given at once: so one packet is found quickly where many are
    left. A cover that is open on one axis only shrinks the box without cutting it.
    """
    work.spend(len(covers))
    stack = [(box, boxes_meeting(box, covers))]
    while stack:
        piece, near = stack.pop()
        while True:
            work.spend(len(near) + 1)
            best, fewest = None, AXES + 1
            seen = [0, 0, 0, 0]
            vnics, sources, destinations, services = piece
            for cover in near:
                seen[0] |= cover[0]
                seen[1] |= cover[1]
                seen[2] |= cover[2]
                seen[3] |= cover[3]
                pieces = (
                    (cover[0] & vnics != vnics)
                    + (cover[1] & sources != sources)
                    + (cover[2] & destinations != destinations)
                    + (cover[3] & services != services)
                )
                if pieces < fewest:
                    best, fewest = cover, pieces
                    if not pieces:
                        break
            if best is None:
                yield piece
                break
            if not fewest:
                break
            rest = list(piece)
            for axis in range(AXES):
                free = rest[axis] & ~seen[axis]
                if free:
                    yield Box._make((*rest[:axis], free, *rest[axis + 1 :]))
                    rest[axis] &= seen[axis]
            if not all(rest):
                break
            parts = [(part, boxes_meeting(part, near)) for part in box_minus(Box._make(rest), best)]
            work.spend(len(near) * len(parts))
            if not parts:
                break
            if len(parts) > 1:
                parts.sort(key=lambda item: -len(item[1]))  # what meets the fewest covers is looked at first
                stack += parts[:-1]
            piece, near = parts[-1]


def boxes_join(boxes: Iterable[Box]) -> list[Box]:
    """The same packets in fewer boxes: those that differ on one axis only become one, until none do."""
    found = list(dict.fromkeys(boxes))
    joined = True
    while joined:
        joined = False
        for axis in range(AXES):
            groups: dict[tuple[int, ...], int] = {}
            for box in found:
                key = (*box[:axis], *box[axis + 1 :])
                groups[key] = groups.get(key, 0) | box[axis]
            if len(groups) < len(found):
                joined = True
                found = [Box._make((*key[:axis], mask, *key[axis:])) for key, mask in groups.items()]
    return found


def mask_of(classes: Iterable[int], size: int) -> int:
    """The mask with these bits, all below `size`."""
    octets = bytearray((size >> 3) + 1)
    for number in classes:
        octets[number >> 3] |= 1 << (number & 7)
    return int.from_bytes(octets, "little")


def mask_bits(mask: int) -> Iterator[int]:
    """The numbers of a mask's bits, ascending."""
    if mask.bit_count() << 6 < mask.bit_length():  # few: step from one to the next
        while mask:
            low = mask & -mask
            yield low.bit_length() - 1
            mask ^= low
        return
    base = 0
    for octet in mask.to_bytes((mask.bit_length() + 7) >> 3, "little"):
        while octet:
            low = octet & -octet
            yield base + low.bit_length() - 1
            octet ^= low
        base += 8


def lowest_bit(mask: int) -> int:
    """The number of the lowest bit of a mask that is not 0."""
    return (mask & -mask).bit_length() - 1
