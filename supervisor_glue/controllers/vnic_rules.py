# SPDX-License-Identifier: Apache-2.0
"""The rules of vNICs as parts: tables, the sets that they refer to, and which policies' rules are in them."""

from __future__ import annotations

from dataclasses import astuple
from hashlib import sha256
from typing import NamedTuple

import numpy as np

from dfw.compile import CompiledRule
from dfw.enforcer import timer_seconds
from dfw.incremental import PolicyState
from dfw.incremental.selections import Selection, SharedSet
from dfw.incremental.tables import Table
from dfw.layout import RULE_DTYPE
from dfw.model import FloodLimits, Port, Timers
from overlay.hoststate import RuleState, SetState
from overlay.span_parts import EtherPart, SetChange, TablePart, VnicPart, part_encode, part_hash, set_compare
from supervisor_glue.controllers.groups import Part, part_made


class TableInfo(NamedTuple):
    """A table's part and its name. `sets`: numbers of those it refers to; `policies`: paths of those whose rules are in
    it, and the sets that each looks at."""

    key: str
    part: Part
    sets: tuple[int, ...]
    policies: dict[str, frozenset[int]]


def rule_id(path: str) -> int:
    """A number for a rule that has none: of its path alone, so that it is the same after every start and never another
    rule's (48 bits; beyond all that documents can say)."""
    return 1 << 48 | int.from_bytes(sha256(path.encode()).digest()[:6], "big")


def policy_object(path: str) -> str:
    """The object that a policy was made of: a NetworkPolicy is two (what it allows, and the isolation)."""
    if not path.startswith("np/"):
        return path
    return path.removesuffix("-allow") if path.endswith("-allow") else path.removesuffix("-isolation")


def rule_state(rule: CompiledRule) -> RuleState:
    """As hosts are told."""
    number = rule.rule_id or rule_id(rule.path)
    return RuleState(number, rule.path, rule.policy, rule.tier.name, rule.action.name, rule.logged, rule.tag)


class VnicRules:
    """Of one state; remembers the tables that are in use."""

    def __init__(self, state: PolicyState) -> None:
        self.state = state
        self._tables: dict[int, tuple[Table, TableInfo]] = {}  # by id: tables are never changed
        self._set_keys: dict[int, tuple[SharedSet, str]] = {}
        self._set_parts: dict[int, tuple[SharedSet, bytes, Part]] = {}  # as hosts were told last, with the records

    def table(self, port: str) -> TableInfo:
        """The table of a vNIC. Raises KeyError."""
        table = self.state.tables.of[self.state.ports.slot_of[port]]
        assert table is not None
        known = self._tables.get(id(table))
        if known is None or known[0] is not table:
            known = self._tables[id(table)] = (table, self._made(table))
        return known[1]

    def forget_unused(self) -> None:
        """Tables and sets that nobody has any more."""
        if len(self._tables) > 64 + 2 * len(self.state.tables):
            self._tables = {key: item for key, item in self._tables.items() if item[0].users}
        sets = self.state.sets.of
        if len(self._set_keys) > 64 + 2 * len(sets):
            self._set_keys = {number: item for number, item in self._set_keys.items() if sets.get(number) is item[0]}
            self._set_parts = {number: item for number, item in self._set_parts.items() if sets.get(number) is item[0]}

    def forget(self) -> None:
        """All that is remembered: rules are told otherwise now, although they decide the same."""
        self._tables.clear()

    def set_key(self, number: int) -> str:
        """A set's name: of what it means."""
        found = self.state.sets.of[number]
        known = self._set_keys.get(number)
        if known is None or known[0] is not found:
            source = found.source
            meanings = [source] if isinstance(source, Selection) else [source.holders, *source.destinations]
            excluded = not isinstance(source, Selection) and source.is_excluded
            text = repr([(item.namespace, item.meaning.term) for item in meanings]) + f" {excluded}"
            known = self._set_keys[number] = (found, f"set/{part_hash(text.encode())}")
        return known[1]

    def set_part(self, number: int) -> Part:
        """A set's part."""
        found = self.state.sets.of[number]
        known = self._set_parts.get(number)
        if known is None or known[0] is not found or known[1] != found.packed:
            part = part_made(self.set_key(number), part_encode(SetState(found.name, found.packed)))
            known = self._set_parts[number] = (found, found.packed, part)
        return known[2]

    def set_changed(self, number: int) -> tuple[str, Part, SetChange | None]:
        """A set's part whose members may have changed, and how from what it was when it was last asked for."""
        known = self._set_parts.get(number)
        part = self.set_part(number)
        is_same = known is None or known[0] is not self.state.sets.of[number]
        return self.set_key(number), part, None if is_same or known is None else set_compare(known[2].data, part.data)

    def vnic(self, port: Port, ether: str | None, staged: tuple[str | None, str | None]) -> bytes:
        """A vNIC's part. `staged`: names of its table and layer-2 list where staged policies are counted."""
        profiles = self.state.profiles_of(port.name)
        timers, flood = profiles.timers or Timers(), profiles.flood or FloodLimits()
        part = VnicPart(
            segment=port.segment,
            mac=port.mac,
            ips=tuple(map(str, port.ips)),
            table=self.table(port.name).key,
            timers=tuple(timer_seconds(timers)),
            ether=ether,
            flood=astuple(flood),
            staged=staged[0],
            staged_ether=staged[1],
        )
        return part_encode(part)

    def ether(self, port: str) -> tuple[str, bytes] | None:
        """The layer-2 list of a vNIC, named as tables are; None where it has none."""
        number = self.state.ether.table_of.get(port)
        if number is None:
            return None
        table = self.state.ether.tables[number]
        entries = table.entries.copy()
        numbers, entries["rule"] = np.unique(entries["rule"], return_inverse=True)
        rules = tuple(rule_state(self.state.rule(int(item))) for item in numbers)
        data = part_encode(EtherPart(entries.tobytes(), table.macs.tobytes(), rules))
        return f"ether/{part_hash(data)}", data

    def _made(self, table: Table) -> TableInfo:
        """Nothing in it depends on numbers that another start would give otherwise: rules are numbered in the order of
        the entries, the sets of a side stand in the order of their names."""
        entries = np.frombuffer(table.data, dtype=RULE_DTYPE).copy()
        numbers = dict.fromkeys(entries["rule"].tolist())
        rules = tuple(rule_state(self.state.rule(number)) for number in numbers)
        place_of = {number: place for place, number in enumerate(numbers)}
        entries["rule"] = [place_of[number] for number in entries["rule"].tolist()]
        set_refs = self.state.sets.set_refs()
        refs: list[int] = []
        places: dict[tuple[int, int], int] = {}
        policies = [policy_object(rule.policy) for rule in rules]
        looked_at: dict[str, set[int]] = {path: set() for path in policies}
        for side in ("src", "dst"):
            offsets, counts = entries[f"{side}_off"], entries[f"{side}_n"]
            offsets[counts == 0] = 0
            for row in np.flatnonzero(counts):
                run = (int(offsets[row]), int(counts[row]))
                wanted = sorted(map(int, set_refs[run[0] : run[0] + run[1]]), key=self.set_key)
                if run not in places:
                    places[run] = len(refs)
                    refs += wanted
                offsets[row] = places[run]
                looked_at[policies[int(entries["rule"][row])]].update(wanted)
        part = TablePart(entries.tobytes(), rules, tuple(self.set_key(number) for number in refs))
        data = part_encode(part)
        using = {path: frozenset(sets) for path, sets in looked_at.items()}
        key = f"table/{part_hash(data)}"
        return TableInfo(key, part_made(key, data), tuple(dict.fromkeys(refs)), using)
