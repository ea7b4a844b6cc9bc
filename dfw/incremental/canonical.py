# SPDX-License-Identifier: Apache-2.0
"""What compiled tables say, without the numbers of rules and sets: equal where they mean the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfw.compile import AddressSet, Compiled, CompiledRule, RuleTable
from dfw.incremental.state import PolicyState

Canonical = tuple[Any, ...]


def canonical_table(
    table: RuleTable, rule_of: Callable[[int], CompiledRule], set_of: Callable[[int], AddressSet]
) -> Canonical:
    """The entries in order, each with its rule's path and the contents of its sets."""
    rows = []
    for entry in table.entries.tolist():
        number, source, sources, destination, destinations, *fields = entry
        rule = rule_of(number)
        sides = []
        for at, count in ((source, sources), (destination, destinations)):
            found = [set_of(int(reference)) for reference in table.set_refs[at : at + count]]
            sides.append((bool(count), frozenset((item.name, item.ranges.tobytes()) for item in found)))
        rows.append((rule.path, rule.rule_id, rule.policy, rule.tier, rule.action, rule.logged, *sides, *fields))
    return tuple(rows)


def canonical_compiled(compiled: Compiled) -> dict[str, Canonical]:
    """By port."""
    tables = [
        canonical_table(table, compiled.rules.__getitem__, compiled.sets.__getitem__) for table in compiled.tables
    ]
    return {port: tables[number] for port, number in compiled.table_of.items()}


def canonical_port(state: PolicyState, port: str) -> Canonical:
    """Of one port. Raises KeyError."""
    return canonical_table(state.table(port), state.rule, state.address_set)


def canonical_state(state: PolicyState) -> dict[str, Canonical]:
    """By port."""
    return {port: canonical_port(state, port) for port in state.ports.slot_of}
