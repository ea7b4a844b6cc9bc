# SPDX-License-Identifier: Apache-2.0
"""A packet that a rule matches, or that two do: what a warning about them shows. Pure.

The packet spaces are made of the rules in question only: the work depends on them, and not on the whole policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, product

from dfw.model import EffectiveRule, PortRange, Service, ServiceEntry
from dfw.packetrules import Row, RuleReader, Space, packet_spaces
from dfw.packetset import Box, BudgetError, box_meet
from dfw.witness import Witness, witness_of

MAXIMUM_EXAMPLES = 64
MAXIMUM_PAIRS = 100_000


@dataclass
class Examples:
    """Gives so many packets as `left` says, and then none: with large groups each takes some milliseconds."""

    reader: RuleReader
    left: int = MAXIMUM_EXAMPLES

    def of_rule(self, item: EffectiveRule) -> Witness | None:
        """A packet that the rule matches."""
        return next((self._witness(space, rows[0].boxes[0]) for space, rows in self._spaces([item]) if rows), None)

    def of_port(self, item: EffectiveRule, entry: ServiceEntry, port: int) -> Witness | None:
        """A packet to this port that the rule matches by this entry."""
        entry = replace(entry, destination_ports=(PortRange(port, port),))
        return self.of_rule(replace(item, rule=replace(item.rule, services=(Service("", (entry,)),))))

    def of_both(self, ones: Sequence[EffectiveRule], others: Sequence[EffectiveRule]) -> Witness | None:
        """A packet that one of each matches, whose actions differ; where there is none, one that both match."""
        agreed: tuple[Space, Box] | None = None
        for space, rows in self._spaces([*ones, *others]):
            mine = [row for row in rows if row.number < len(ones)]
            theirs = [row for row in rows if row.number >= len(ones)]
            for one, other in islice(product(mine, theirs), MAXIMUM_PAIRS):
                both = _common(one, other)
                if both is not None and one.outcome.action is not other.outcome.action:
                    return self._witness(space, both)
                agreed = agreed or (None if both is None else (space, both))
        return None if agreed is None else self._witness(*agreed)

    def _spaces(self, items: Sequence[EffectiveRule]) -> Iterator[tuple[Space, list[Row]]]:
        if self.left <= 0:
            return
        self.left -= 1
        read = [self.reader.rule(item) for item in items]
        try:
            spaces = packet_spaces([(self.reader, read)])
        except BudgetError:
            return
        for space in spaces.values():
            yield space, [row for row in space.rows(read) if row.is_exact]

    def _witness(self, space: Space, box: Box) -> Witness:
        return witness_of(space, box, self.reader.membership.ports)


def _common(one: Row, other: Row) -> Box | None:
    return next((both for pair in product(one.boxes, other.boxes) if (both := box_meet(*pair)) is not None), None)
