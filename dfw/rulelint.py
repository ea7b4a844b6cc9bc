# SPDX-License-Identifier: Apache-2.0
"""Rules that decide nothing, decided exactly: shadowed, redundant, contradicting, unreachable. Pure.

"The rules above" are all of them together, at the vNICs where they are programmed, over all fields of a packet:

- unreachable: no packet can match the rule at all; or whatever packet its vNICs see is decided in an earlier tier;
- shadowed: each packet that it matches is kept from it by rules above, at least one of which has another action;
- redundant: it never decides, as a shadowed one, but all that keep packets from it have its action; or it decides, and
  without it every packet is judged the same (action, state, TCP strict, ALG), because of rules below: whether the rules
  that never decide stay or go. The default section is not one of those where no document says what it does;
- contradicting: a rule above matches exactly the same packets, and one of the two is ALLOW, the other DROP or REJECT.

Each with a packet that shows it. Work is bounded: what would take more is named as not decided, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple

from dfw.model import Action, EffectiveRule, Family, PolicyKind, Schedule
from dfw.packetrules import ReadRule, Row, RuleReader, Space, packet_spaces
from dfw.packetset import AXES, Box, BudgetError, Work, box_meet, boxes_join, find_uncovered
from dfw.packetwalk import (
    NotBothIn,
    RowIndex,
    boxes_of,
    deciding,
    differences,
    first_row,
    in_force,
    pieces,
    point_of,
    services_differing,
    takers,
)
from dfw.witness import Witness, witness_of

# In comparisons of boxes, some three million a second. Of one rule, and of all together.
RULE_WORK = 1_000_000
WHOLE_WORK = 40_000_000
MAXIMUM_RULES = 20_000
MAXIMUM_NAMED = 64


class RuleFinding(NamedTuple):
    """`by`: the rules that decide instead, in their order. `witness` None: there is no packet."""

    kind: str
    item: EffectiveRule
    by: tuple[EffectiveRule, ...] = ()
    witness: Witness | None = None


class Found(NamedTuple):
    """What was found, in order of the rules, and the rules that were not decided."""

    findings: list[RuleFinding]
    undecided: list[EffectiveRule]


def rules_judge(reader: RuleReader, rule_work: int = RULE_WORK, whole_work: int = WHOLE_WORK) -> Found:
    """All findings about the rules that somebody wrote: not the default section's, nor a NetworkPolicy's isolation."""
    rules = reader.rules()
    subjects = [number for number, rule in enumerate(rules) if _is_subject(rule.item)]
    if not subjects:
        return Found([], [])
    try:
        if len(rules) > MAXIMUM_RULES:
            raise BudgetError
        judge = _Judge(reader, rules)
    except BudgetError:
        return Found([], [rules[number].item for number in subjects])
    whole = Work(whole_work)
    findings: dict[int, list[RuleFinding]] = {}
    undecided: dict[int, EffectiveRule] = {}
    for step in (judge.dead, judge.repeated, judge.contradicting):
        for number in subjects:
            if number in undecided:
                continue
            try:
                findings.setdefault(number, []).extend(step(number, Work(rule_work, judge.weight, whole)))
            except BudgetError:
                undecided[number] = rules[number].item
    ordered = [finding for number in subjects for finding in findings.get(number, ())]
    return Found(ordered, [undecided[number] for number in sorted(undecided)])


def _is_subject(item: EffectiveRule) -> bool:
    kind = item.policy.kind
    if kind is PolicyKind.NETWORK_POLICY:
        return not item.rule.id.startswith("isolation-")  # it belongs to the policy, and nobody can leave it out
    return kind not in (PolicyKind.DEFAULT, PolicyKind.SYSTEM)


class _Here(NamedTuple):
    """One box of the rule in question. `above`, `below`: rows that meet it and stand for sure; `maybe`: rows below that
    may not, or match less."""

    space: Space
    row: Row
    box: Box
    above: list[Row]
    below: list[Row]
    maybe: list[Row]


class _Packets(NamedTuple):
    space: Space
    box: Box


class _Judge:
    def __init__(self, reader: RuleReader, rules: Sequence[ReadRule]) -> None:
        self.rules = rules
        self.spaces = packet_spaces([(reader, rules)])
        self.ports = reader.membership.ports
        # Where no document says what the default section does, it may do anything.
        is_known = reader.world.default.place is not None
        rows = {
            family: [row if is_known else _unknown(row, rules[row.number]) for row in space.rows(rules)]
            for family, space in self.spaces.items()
        }
        self.indexes = {family: RowIndex(some) for family, some in rows.items()}
        self.weight = max(space.weight for space in self.spaces.values())
        self.own: dict[int, list[tuple[Family, Row]]] = {}
        for family, some in rows.items():
            for row in some:
                self.own.setdefault(row.number, []).append((family, row))
        self.never: set[int] = set()
        """Rules that never decide, as far as they are known."""
        self.reached: dict[int, _Packets] = {}
        """Of each rule that decides, packets that come as far."""
        self._outlines: dict[object, list[int]] = {}
        self._behind: dict[tuple[Family, int, int, Schedule | None], bool] = {}

    def dead(self, number: int, work: Work) -> Iterator[RuleFinding]:
        """Does the rule never decide? Raises BudgetError."""
        rule, own = self.rules[number], self.own.get(number, [])
        if not own:
            self.never.add(number)
            if rule.scope != (frozenset(), frozenset()):
                yield RuleFinding("unreachable", rule.item)
            return
        if all(row.is_exact for _, row in own):
            here = self._here(number, work)
            reached = self._find_reaching(here, work)
            if reached is None:
                self.never.add(number)
                yield self._dead(number, here, work)
            else:
                self.reached[number] = reached

    def repeated(self, number: int, work: Work) -> Iterator[RuleFinding]:
        """It decides: would anything else do the same? To be asked when all rules that never decide are known."""
        if number not in self.reached:
            return
        reached = self.reached[number]
        by = self._repeated(number, self._here(number, work), reached, work)
        if by is not None and self.never:
            every = self._here(number, work, frozenset())
            by = None if self._repeated(number, every, reached, work) is None else by
        if by is not None:
            yield self._finding("redundant", number, by, reached)

    def contradicting(self, number: int, work: Work) -> Iterator[RuleFinding]:
        """Does a rule above say the opposite of the same packets? Rules must be asked about in their order."""
        own = self.own.get(number, [])
        if not own or not all(row.is_exact for _, row in own):
            return
        boxes = [(family, box) for family, row in own for box in row.boxes]
        outline = tuple(
            (family, *(_union([box[axis] for other, box in boxes if other is family]) for axis in range(AXES)))
            for family in sorted({family for family, _ in boxes})
        )
        same = self._outlines.setdefault(outline, [])
        family, first = own[0]
        for other in reversed(same):
            theirs = self.own[other]
            if theirs[0][1].schedule != first.schedule:
                continue
            if _are_opposite(first.outcome.action, theirs[0][1].outcome.action) and self._are_equal(own, theirs, work):
                yield self._finding("contradicting", number, [other], _Packets(self.spaces[family], first.boxes[0]))
                break
        same.append(number)

    def _finding(self, kind: str, number: int, by: Sequence[int], packets: _Packets) -> RuleFinding:
        witness = witness_of(packets.space, packets.box, self.ports)
        return RuleFinding(kind, self.rules[number].item, tuple(self.rules[at].item for at in by), witness)

    def _here(self, number: int, work: Work, without: AbstractSet[int] | None = None) -> list[_Here]:
        """`without`: rules that are left out: those that never decide."""
        absent = self.never if without is None else without
        return [self._at(family, row, box, absent, work) for family, row in self.own[number] for box in row.boxes]

    def _at(self, family: Family, row: Row, box: Box, absent: AbstractSet[int], work: Work) -> _Here:
        above: list[Row] = []
        below: list[Row] = []
        maybe: list[Row] = []
        for other in self.indexes[family].meeting(box, work):
            if other.number == row.number or other.number in absent:
                continue
            if other.is_exact and other.schedule in (None, row.schedule):
                (above if other.number < row.number else below).append(other)
            elif other.resume:
                raise BudgetError  # what it makes skipped, sometimes or in part, is not followed
            elif other.number > row.number:
                maybe.append(other)
        return _Here(self.spaces[family], row, box, above, below, maybe)

    # -- does it ever decide?

    def _find_reaching(self, here: Sequence[_Here], work: Work) -> _Packets | None:
        """Packets that come as far as the rule."""
        for item in here:
            found = self._reaching(item, work)
            if found is not None:
                return _Packets(item.space, found)
        return None

    @staticmethod
    def _reaching(item: _Here, work: Work) -> Box | None:
        tier = item.row.tier
        blocking = [row for row in item.above if not row.resume or row.resume > tier]
        found = find_uncovered(item.box, boxes_of(blocking), work)
        if found is not None or all(not row.resume for row in item.above):
            return found
        for piece, rows in _pieces_above(item, work):
            found = find_uncovered(piece, boxes_of(rows), work)
            if found is not None:
                return found
        return None

    def _dead(self, number: int, here: Sequence[_Here], work: Work) -> RuleFinding:
        """Every packet is kept from it: by whom, and do they do the same?"""
        action = here[0].row.outcome.action
        by: dict[int, None] = {}
        example: _Packets | None = None
        other: _Packets | None = None
        for item in here:
            for piece, rows in _pieces_above(item, work):
                for at, row in enumerate(rows):
                    if row.number in by and (other is not None or row.outcome.action is action):
                        continue
                    found = _first_of(row, piece, rows[:at], work)
                    if found is None:
                        continue
                    by[row.number] = None
                    example = example or _Packets(item.space, found)
                    if row.outcome.action is not action:
                        other = other or _Packets(item.space, found)
                    if len(by) >= MAXIMUM_NAMED and other is not None:
                        break
        assert example is not None, "the rule matches packets, and something decides about them"
        named = sorted(by)[:MAXIMUM_NAMED]
        if self._is_behind(here, work):
            return self._finding("unreachable", number, named, other or example)
        return self._finding("redundant" if other is None else "shadowed", number, named, other or example)

    def _is_behind(self, here: Sequence[_Here], work: Work) -> bool:
        """Is every packet of its vNICs and families, whatever it is, decided in an earlier tier?"""
        for family in {item.space.family for item in here}:
            row, some = next((item.row, item.box) for item in here if item.space.family is family)
            key = (family, row.tier, some.vnics, row.schedule)
            if key not in self._behind:
                self._behind[key] = self._is_decided(*key, work)
            if not self._behind[key]:
                return False
        return True

    def _is_decided(self, family: Family, tier: int, vnics: int, schedule: Schedule | None, work: Work) -> bool:
        """Is every packet at these vNICs decided before a tier?"""
        space = self.spaces[family]
        box = space.everything._replace(vnics=vnics)
        earlier = [
            other
            for other in self.indexes[family].rows
            if other.tier < tier and other.is_exact and other.schedule in (None, schedule)
        ]
        for piece, inside in pieces(box, earlier, work):
            rows = takers(in_force(earlier, inside), len(self.rules), tier)
            if find_uncovered(piece, boxes_of(rows), work) is not None:
                return False
        return True

    # -- would anything else do the same?

    def _repeated(self, number: int, here: Sequence[_Here], alive: _Packets, work: Work) -> list[int] | None:
        """The rules that do what this one does once it is gone; None where some packet is then judged otherwise."""
        point = point_of(alive.box)
        for item in here:
            if item.space is alive.space and box_meet(item.box, point) is not None:
                whole = _same_rule(self.own[number], item)
                rows = sorted((*item.above, *whole, *item.below, *item.maybe), key=lambda row: row.number)
                before, after = first_row(rows, point), first_row(rows, point, without=number)
                if before is None or after is None or not after.is_exact:
                    return None
                if services_differing(item.space, before.outcome, after.outcome) & point.services:
                    return None
        by: dict[int, None] = {}
        for item in here:
            rows = [*item.above, *_same_rule(self.own[number], item), *item.below]
            for piece, inside in pieces(item.box, rows, work):
                asked = in_force(rows, inside)
                if all(row.number != number for row in asked):
                    continue
                old, new = deciding(asked), deciding(in_force(rows, inside, without=number))
                common = {id(row) for row in old} & {id(row) for row in new}
                if next(differences(item.space, piece, old, new, NotBothIn(common), work), None) is not None:
                    return None
                mine = boxes_of(row for row in old if row.number == number) or [piece]
                for row in item.maybe:
                    covers = [other for other in (*old, *new) if other.number < row.number and other.number != number]
                    if any(_first_of(row, box, covers, work) for box in _meets(piece, mine)):
                        return None
                by.update(dict.fromkeys(_instead(piece, old, new, number, work)))
        return sorted(by)[:MAXIMUM_NAMED]

    @staticmethod
    def _are_equal(one: Sequence[tuple[Family, Row]], other: Sequence[tuple[Family, Row]], work: Work) -> bool:
        for family in Family:
            mine, theirs = (boxes_join(boxes_of(row for own, row in rows if own is family)) for rows in (one, other))
            for boxes, covers in ((mine, theirs), (theirs, mine)):
                if any(find_uncovered(box, covers, work) is not None for box in boxes):
                    return False
        return True


def _unknown(row: Row, rule: ReadRule) -> Row:
    if rule.item.policy.kind is not PolicyKind.DEFAULT:
        return row
    return row._replace(outcome=row.outcome._replace(unknown=1 + row.number))


def _same_rule(own: Sequence[tuple[Family, Row]], item: _Here) -> list[Row]:
    """All rows of the rule in question in this family, in order: of several the first match counts."""
    return [row for family, row in own if family is item.space.family]


def _pieces_above(item: _Here, work: Work) -> Iterator[tuple[Box, list[Row]]]:
    """The rule's box in pieces, each with the rows above that keep packets from it there."""
    for piece, inside in pieces(item.box, item.above, work):
        yield piece, takers(in_force(item.above, inside), item.row.number, item.row.tier)


def _first_of(row: Row, inside: Box, above: Sequence[Row], work: Work) -> Box | None:
    """Packets inside that the row matches and none above it does."""
    for box in row.boxes:
        both = box_meet(inside, box)
        found = None if both is None else find_uncovered(both, boxes_of(above), work)
        if found is not None:
            return found
    return None


def _instead(piece: Box, old: Sequence[Row], new: Sequence[Row], number: int, work: Work) -> Iterator[int]:
    """The rules that decide about what the rule in question decides about, once it is gone."""
    above = [row for row in old if row.number < number]
    mine = [row for row in old if row.number == number]
    for at, row in enumerate(new):
        if row.number > number:
            covers = [*above, *(other for other in new[:at] if other.number > number)]
            if any(_first_of(row, box, covers, work) for box in _meets(piece, boxes_of(mine) or [piece])):
                yield row.number


def _meets(piece: Box, boxes: Iterable[Box]) -> list[Box]:
    """The boxes as far as they lie inside."""
    return [both for box in boxes if (both := box_meet(piece, box)) is not None]


def _union(masks: Sequence[int]) -> int:
    found = 0
    for mask in masks:
        found |= mask
    return found


def _are_opposite(one: Action, other: Action) -> bool:
    return one.is_final and other.is_final and (one is Action.ALLOW) is not (other is Action.ALLOW)
