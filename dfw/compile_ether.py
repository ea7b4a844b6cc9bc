# SPDX-License-Identifier: Apache-2.0
"""Layer-2 rules -> what the packet core loads: for each vNIC a short list, and the MAC addresses in it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dfw.capabilities import NATIVE_ACTIONS
from dfw.errors import UnsupportedError
from dfw.layout import ETHER_DTYPE, MAXIMUM_ETHER_RULES, RULE_DST_NEGATED, RULE_SRC_NEGATED
from dfw.membership import Membership
from dfw.model import EffectiveRule, Peers, PolicySet
from dfw.model.selector import member_macs

_ANY_TYPE = 0


@dataclass(frozen=True, slots=True)
class EtherTable:
    """Entries in order of judgement (ETHER_DTYPE), over `macs`, 48-bit numbers."""

    entries: npt.NDArray[Any]
    macs: npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class EtherCompiled:
    """`tables`, and by port name which one; ports that are not there have no layer-2 rules. `everything`: the entries
    of all rules, more perhaps than one filter can have."""

    tables: tuple[EtherTable, ...]
    table_of: Mapping[str, int]
    everything: EtherTable

    @property
    def tap(self) -> EtherTable:
        """The list of a filter on a wire. Raises UnsupportedError."""
        _bounded(len(self.everything.entries), "tap")
        return self.everything


def ether_compile(
    world: PolicySet, membership: Membership, rules: Sequence[EffectiveRule], first_number: int
) -> EtherCompiled:
    """The lists of all vNICs. `rules`: all enabled ones, numbered from `first_number` on. Raises UnsupportedError."""
    excluded = membership.members(world.excluded) if rules else frozenset()
    columns = _Macs()
    rows: list[tuple[int, int, list[tuple[int, ...]]]] = []
    for at, item in enumerate(rules):
        rows.append((at, int(item.rule.direction), _rows(world, membership, item, first_number + at, columns)))
    tables: list[EtherTable] = []
    seen: dict[tuple[int, ...], int] = {}
    table_of: dict[str, int] = {}
    selected = [membership.members(item.applied_to) - excluded for item in rules]
    macs = columns.array()
    for number, port in enumerate(membership.ports):
        selecting = tuple(at for at, members in enumerate(selected) if number in members)
        if selecting:
            if selecting not in seen:
                seen[selecting] = len(tables)
                mine = [row for at in selecting for row in rows[at][2]]
                _bounded(len(mine), port.name)
                tables.append(_table(mine, macs))
            table_of[port.name] = seen[selecting]
    everything = _table([row for _, _, some in rows for row in some], macs)
    everything.entries["dir"] = 3
    return EtherCompiled(tuple(tables), table_of, everything)


def _bounded(count: int, name: str) -> None:
    if count > MAXIMUM_ETHER_RULES:
        raise UnsupportedError("native", f"{count} layer-2 entries at {name} (at most {MAXIMUM_ETHER_RULES})")


def _table(rows: Sequence[tuple[int, ...]], macs: npt.NDArray[np.uint64]) -> EtherTable:
    entries = np.zeros(len(rows), dtype=ETHER_DTYPE)
    names = ("rule", "src_off", "src_n", "dst_off", "dst_n", "ether_type", "action", "dir", "flags")
    for column, values in zip(names, zip(*rows, strict=True), strict=bool(rows)):
        entries[column] = values
    return EtherTable(entries, macs)


class _Macs:
    """MAC addresses of all sides, one sorted run for each distinct set."""

    def __init__(self) -> None:
        self.runs: dict[tuple[int, ...], int] = {}
        self.values: list[int] = []

    def place(self, macs: frozenset[str]) -> tuple[int, int]:
        run = tuple(sorted(int(mac.replace(":", ""), 16) for mac in macs))
        if run not in self.runs:
            self.runs[run] = len(self.values)
            self.values += run
        return self.runs[run], len(run)

    def array(self) -> npt.NDArray[np.uint64]:
        return np.array(self.values, dtype=np.uint64)


def _rows(
    world: PolicySet, membership: Membership, item: EffectiveRule, number: int, columns: _Macs
) -> list[tuple[int, ...]]:
    """One row for each EtherType; none where a side is nobody."""
    rule = item.rule
    sides: list[int] = []
    flags = 0
    for peers, excluded, flag in (
        (rule.sources, rule.sources_excluded, RULE_SRC_NEGATED),
        (rule.destinations, rule.destinations_excluded, RULE_DST_NEGATED),
    ):
        found = None if peers.terms is None else _macs_of(world, membership, peers)
        if found is not None and not found and not excluded:
            return []
        # All but nobody is any.
        sides += (0, 0) if not found else columns.place(found)
        flags |= flag * (bool(found) and excluded)
    types = (
        {_ANY_TYPE: None}
        if not rule.services
        else dict.fromkeys(
            entry.ether_type for service in rule.services for entry in service.entries if entry.ether_type is not None
        )
    )
    action = NATIVE_ACTIONS[rule.action]
    return [(number, *sides, int(kind), action, int(rule.direction), flags) for kind in types]


def _macs_of(world: PolicySet, membership: Membership, peers: Peers) -> frozenset[str]:
    assert peers.terms is not None
    own = frozenset().union(*(member_macs(term, world) for term in peers.terms))
    return own | {membership.ports[number].mac for number in membership.members(peers)}
