# SPDX-License-Identifier: Apache-2.0
"""What differs between two policies: for all packets, exactly, or the first packet that shows it. Pure.

Both policies are resolved each by its own inventory, and their rules compared over common classes. Only rules that are
new, gone or moved are looked at: where both first matches of a packet stand in both policies, in one order, they are
the same rule.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from dfw.model import Action, EffectiveRule, Family, PolicySet
from dfw.packetrules import ReadRule, Row, RuleReader, Space, packet_spaces
from dfw.packetset import Box, BudgetError, Work, boxes_join, boxes_subtract
from dfw.packetspace import RangePool
from dfw.packetwalk import Cut, Difference, NotBothIn, RowIndex, deciding, differences, find_first, in_force, pieces
from dfw.witness import Witness, witness_of

MAXIMUM_SETS = 1000  # shown of one change
DIFF_WORK = 20_000_000  # comparisons of boxes, some three million a second

__all__ = ["BudgetError", "Change", "Comparison", "policies_compare", "policies_differ"]


class Change(NamedTuple):
    """Packets judged otherwise. `kind`: passes, refused, refusal (DROP for REJECT or the reverse), state (both allow,
    with another state, TCP strict or ALG). `boxes`: disjoint, in `space`. `old`, `new`: the rules that decide, None
    for none."""

    kind: str
    space: Space
    boxes: tuple[Box, ...]
    old: EffectiveRule | None
    new: EffectiveRule | None
    samples: tuple[Witness, ...]


class Comparison(NamedTuple):
    """`vnics`: those that both inventories have, by number; `complete`: False where the work allowed did not do, or a
    change has more sets than are listed."""

    changes: list[Change]
    vnics: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    complete: bool


def policies_differ(old: PolicySet, new: PolicySet, *, tap: bool = False, most: int = DIFF_WORK) -> Witness | None:
    """A packet that two policies judge differently (action, state, TCP strict, ALG); None: they are equivalent.

    At every vNIC that both inventories have, or at a filter on a wire (`tap`). Raises BudgetError: not decided.
    """
    pair = _Pair(old, new, tap)
    work = Work(DIFF_WORK, pair.weight)
    for space, found in pair.differences(work, find_first):
        return witness_of(space, found.box, pair.ports)
    return None


def policies_compare(old: PolicySet, new: PolicySet, *, tap: bool = False) -> Comparison:
    """All packets that two policies judge differently, in as few boxes as joining them gives, with a sample of each.

    By what the deciding rules say. That TCP strict refuses what begins no connection, whatever an ALLOW says, counts
    only where a rule becomes strict or no longer is: a change of state, for segments that are no SYN.
    """
    added = tuple(port.name for port in new.inventory if port.name not in old.inventory.ports)
    removed = tuple(port.name for port in old.inventory if port.name not in new.inventory.ports)
    try:
        pair = _Pair(old, new, tap)
    except BudgetError:
        return Comparison([], (), added, removed, complete=False)
    work = Work(DIFF_WORK, pair.weight)
    found: dict[tuple[Family, str, int, int], list[Box]] = {}
    complete = True
    try:
        for space, item in pair.differences(work, boxes_subtract):
            before, after = (-1 if row is None else row.number for row in (item.old, item.new))
            found.setdefault((space.family, _kind(item), before, after), []).append(item.box)
    except BudgetError:
        complete = False
    changes: list[Change] = []
    for key, boxes in sorted(found.items()):
        try:
            change = pair.change(*key, boxes, Work(DIFF_WORK, pair.weight))
        except BudgetError:
            complete = False
            continue
        if len(change.boxes) > MAXIMUM_SETS:
            complete = False
            change = change._replace(boxes=change.boxes[:MAXIMUM_SETS])
        samples = tuple(witness_of(change.space, box, pair.ports) for box in change.boxes)
        changes.append(change._replace(samples=samples))
    return Comparison(changes, pair.vnics, added, removed, complete)


def _kind(found: Difference) -> str:
    was, now = (row is not None and row.outcome.action is Action.ALLOW for row in (found.old, found.new))
    if was is not now:
        return "passes" if now else "refused"
    return "state" if now else "refusal"


class _Pair:
    """Two policies over common axes."""

    def __init__(self, old: PolicySet, new: PolicySet, tap: bool) -> None:
        names = [port.name for port in new.inventory if port.name in old.inventory.ports]
        self.vnics = () if tap else tuple(names)
        self.ports = [new.inventory.ports[name] for name in self.vnics]
        numbers = None if tap else {name: number for number, name in enumerate(names)}
        pool = RangePool()
        self.readers = [RuleReader(world, not tap, tap, numbers, pool) for world in (old, new)]
        self.rules: list[list[ReadRule]] = [reader.rules() for reader in self.readers]
        self.spaces = packet_spaces(list(zip(self.readers, self.rules, strict=True)))
        self.weight = max(space.weight for space in self.spaces.values())

    def differences(self, work: Work, cut: Cut) -> Iterator[tuple[Space, Difference]]:
        """Of both families; packets of different differences are different, but for boxes of one rule that overlap."""
        for space in self.spaces.values():
            if space.vnics.size:
                old, new = (space.rows(rules) for rules in self.rules)
                yield from ((space, found) for found in _differences(space, old, new, work, cut))

    def change(self, family: Family, kind: str, old: int, new: int, boxes: Sequence[Box], work: Work) -> Change:
        """One change, without samples, with its boxes made disjoint and joined. Raises BudgetError."""
        items = [None if at < 0 else rules[at] for rules, at in zip(self.rules, (old, new), strict=True)]
        if any(item is not None and len(item.parts) > 1 for item in items):  # boxes of one rule may overlap
            apart: list[Box] = []
            for box in boxes:
                apart += boxes_subtract(box, apart, work)
            boxes = apart
        rules = [None if item is None else item.item for item in items]
        return Change(kind, self.spaces[family], tuple(boxes_join(boxes)), rules[0], rules[1], ())


def _differences(space: Space, old: Sequence[Row], new: Sequence[Row], work: Work, cut: Cut) -> Iterator[Difference]:
    kept = _kept(old, new)
    gone = [row for at, row in enumerate(old) if at not in kept]
    stays = set(kept.values())
    come = [row for at, row in enumerate(new) if at not in stays]
    if not gone and not come:
        return
    indexes = RowIndex(old), RowIndex(new)
    if any(row.resume for row in (*old, *new)):
        same = {id(old[at]): id(new[other]) for at, other in kept.items()}
        yield from _in_pieces(space, indexes, [*gone, *come], same, work, cut)
        return
    old_of = {id(new[other]): at for at, other in kept.items()}
    new_of = {id(old[at]): other for at, other in kept.items()}
    for at, row in enumerate(old):
        for box in () if at in kept else row.boxes:
            near, later = (index.meeting(box, work) for index in indexes)
            yield from differences(space, box, near, later, _IsOld(row, at, old_of), work, cut, row)
    for at, row in enumerate(new):
        for box in () if at in stays else row.boxes:
            near, later = (index.meeting(box, work) for index in indexes)
            yield from differences(space, box, near, later, _IsNew(row, at, new_of), work, cut, row)


class _IsOld:
    """Pairs of this old row, which is gone, and new ones but for those that stood above it: they decide still.

    `places`: of the rows that stay, by identity, where they stood.
    """

    def __init__(self, row: Row, at: int, places: Mapping[int, int]) -> None:
        self.row, self.at, self.places = row, at, places

    def __call__(self, old: Row | None, new: Row | None) -> bool:
        return old is self.row and self.places.get(id(new), self.at + 1) > self.at


class _IsNew:
    """Pairs of this new row, and old ones that stay, below it.

    `places`: of the rows that stay, by identity, where they stand now.
    """

    def __init__(self, row: Row, at: int, places: Mapping[int, int]) -> None:
        self.row, self.at, self.places = row, at, places

    def __call__(self, old: Row | None, new: Row | None) -> bool:
        return new is self.row and (old is None or self.places.get(id(old), -1) > self.at)


def _in_pieces(
    space: Space,
    indexes: tuple[RowIndex, RowIndex],
    changed: Sequence[Row],
    same: Mapping[int, int],
    work: Work,
    cut: Cut,
) -> Iterator[Difference]:
    """With rules that leave their tier: what changed rows match, cut along all that leave theirs. `same`: of each old
    row that stays the new one, by identity."""
    done: list[Box] = []
    for box in (box for row in changed for box in row.boxes):
        for part in boxes_subtract(box, done, work):
            old, new = (index.meeting(part, work) for index in indexes)
            for piece, inside in pieces(part, [*old, *new], work):
                mine = deciding(in_force(old, inside))
                theirs = deciding(in_force(new, frozenset(at - len(old) for at in inside)))
                here = {id(row) for row in theirs}
                both = {id(row) for row in mine if same.get(id(row)) in here}
                wanted = NotBothIn(both | {same[row] for row in both})
                yield from differences(space, piece, mine, theirs, wanted, work, cut)
        done.append(box)


def _kept(old: Sequence[Row], new: Sequence[Row]) -> dict[int, int]:
    """Of as many rows as can be, their places in both lists: equal rows, in one order."""
    places: dict[tuple[object, ...], list[int]] = {}
    for at in range(len(new) - 1, -1, -1):
        places.setdefault(_content(new[at]), []).append(at)
    pairs: list[tuple[int, int]] = []
    for at, row in enumerate(old):
        left = places.get(_content(row))
        if left:
            pairs.append((at, left.pop()))
    return dict(_longest(pairs))


def _content(row: Row) -> tuple[object, ...]:
    return row.tier, row.resume, row.outcome, row.boxes


def _longest(pairs: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """A longest part of the pairs in which the second numbers ascend, as the first do."""
    tails: list[int] = []
    ends: list[int] = []
    before: list[int] = []
    for number, (_, at) in enumerate(pairs):
        place = bisect_left(tails, at)
        before.append(ends[place - 1] if place else -1)
        tails[place : place + 1] = [at]
        ends[place : place + 1] = [number]
    found: list[tuple[int, int]] = []
    at = ends[-1] if ends else -1
    while at >= 0:
        found.append(pairs[at])
        at = before[at]
    return found[::-1]
