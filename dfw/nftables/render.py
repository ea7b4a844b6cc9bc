# SPDX-License-Identifier: Apache-2.0
"""Compiled vNIC tables -> one nftables ruleset. Pure.

A packet says who its ends are by its mark: the number of the sender's vNIC in the upper half, the receiver's in the
lower one, 0 for none; who sets it is the attachment's matter. Then chain `out` judges at the sender's vNIC, and chain
`in`, by a hook behind that, at the receiver's; to accept in the first means to go on with the second. `in` takes the
sender out of the mark, so that what both chains share knows for whom it speaks.

The kernel has one connection where the core has two, so its mark remembers at which end a stateful rule allowed it:
bit 0 at the vNIC that its first packet left, bit 1 at the one where it arrived. An end without its bit asks the rules
for each packet: that is what a stateless rule means.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from dfw.compile import AddressSet, CompiledRule, RuleTable
from dfw.compile_ether import EtherCompiled, EtherTable
from dfw.layout import ETHER_DTYPE
from dfw.nftables.addresses import AddressElements, address_sets, set_codes
from dfw.nftables.entry import EntryMatcher
from dfw.nftables.ether import EtherKey, EtherWritten, ether_write
from dfw.nftables.frame_staged import frames_beside
from dfw.nftables.names import Names, Numbering, Numbers, occurrences, tables_numbered, vnics_numbered
from dfw.nftables.rows import TableRows, tables_flat
from dfw.nftables.ruleset import Chain, ChainRule, Ruleset, VerdictMap
from dfw.nftables.shared import (
    IN,
    METERS,
    OUT,
    OWN_COUNTERS,
    SIDES,
    WIRE_SIDES,
    Side,
    base_chains,
    verdict_chains,
)
from dfw.nftables.staged import STAGED, STAGED_COUNTERS, staged_base, staged_part, staged_verdicts
from dfw.nftables.tables import Numbered, PortSet, PortSets, TablePart, table_keys, table_write

TABLE: Final = "palisade"
NO_ETHER: Final = EtherCompiled((), {}, EtherTable(np.zeros(0, ETHER_DTYPE), np.zeros(0, np.uint64)))
"""No layer-2 rules."""


class Tables(Protocol):
    """What is rendered, of a compiled policy or of one host's part of it (dfw/compile.py)."""

    @property
    def rules(self) -> Sequence[CompiledRule]:
        """By the number that entries have."""

    @property
    def sets(self) -> Sequence[AddressSet]:
        """By the number that tables refer to."""

    @property
    def tables(self) -> Sequence[RuleTable]:
        """The rule tables."""

    @property
    def table_of(self) -> Mapping[str, int]:
        """By vNIC, the index of its table."""

    @property
    def ether(self) -> EtherCompiled:
        """Layer-2 rules."""


@dataclass(frozen=True, slots=True)
class SomeTables:
    """Tables that are no whole compiled policy's."""

    rules: Sequence[CompiledRule]
    sets: Sequence[AddressSet]
    tables: Sequence[RuleTable]
    table_of: Mapping[str, int]
    ether: EtherCompiled = NO_ETHER


@dataclass(frozen=True, slots=True)
class Memo:
    """What the next rendering takes over if it is still the same: tables by number, those of staged policies too,
    address sets and sets of ports by what they are known by; rules of layer 2, and staged ones."""

    tables: Mapping[int, TablePart] = field(default_factory=dict)
    sets: Mapping[str, AddressElements] = field(default_factory=dict)
    ports: Mapping[str, PortSet] = field(default_factory=dict)
    staged: Mapping[int, TablePart] = field(default_factory=dict)
    ether: Mapping[EtherKey, ChainRule] = field(default_factory=dict)
    staged_ether: Mapping[EtherKey, ChainRule] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A ruleset, the policy's rule behind each counter of it by the counter's name, likewise the staged rule, and the
    names that it uses."""

    ruleset: Ruleset
    rule_of: Mapping[str, CompiledRule]
    names: Names = field(default_factory=Names)
    memo: Memo = field(default_factory=Memo, repr=False, compare=False)
    staged_of: Mapping[str, CompiledRule] = field(default_factory=dict)


WIRE: Final = "tap"


def wire_tables(
    rules: Sequence[CompiledRule], sets: Sequence[AddressSet], table: RuleTable, ether: EtherTable = NO_ETHER.tap
) -> Tables:
    """The tables of one filter on a wire; `ether`: what is asked of frames."""
    return SomeTables(rules, sets, (table,), {WIRE: 0}, EtherCompiled((ether,), {WIRE: 0}, ether))


def render_wire(
    rules: Sequence[CompiledRule],
    sets: Sequence[AddressSet],
    table: RuleTable,
    ether: EtherTable = NO_ETHER.tap,
    *,
    staged: Tables | None = None,
) -> Rendered:
    """The ruleset of one filter on a wire, number 1, that judges each packet once, going out. `ether`: what is asked of
    frames. `staged`: its `wire_tables` as staged policies would have them."""
    return _render(wire_tables(rules, sets, table, ether), (WIRE,), WIRE_SIDES, {}, Names(), Memo(), staged)


def render_ruleset(
    tables: Tables,
    vnics: Sequence[str],
    *,
    zones: Mapping[str, int] | None = None,
    names: Names | None = None,
    before: Rendered | None = None,
    staged: Tables | None = None,
) -> Rendered:
    """The ruleset of these vNICs. `names`: of the ruleset before; without, vNICs are numbered from 1 in this order.
    `before`: that ruleset itself, with its names: what has not changed is taken over, and the result is the same.
    `staged`: the tables as staged policies would have them, which are counted (dfw/nftables/staged.py).

    `zones`: conntrack zone of what comes in by an interface (a bridge), for routing domains whose addresses may be the
    same; others are in zone 0. Raises ValueError for more vNICs than a mark can tell apart.
    """
    if before is not None:
        return _render(tables, vnics, SIDES, zones or {}, before.names, before.memo, staged)
    return _render(tables, vnics, SIDES, zones or {}, names or Names(), Memo(), staged)


def _render(
    tables: Tables,
    vnics: Sequence[str],
    sides: Sequence[Side],
    zones: Mapping[str, int],
    names: Names,
    before: Memo,
    staged: Tables | None,
) -> Rendered:
    numbers = vnics_numbered(vnics, names.vnics)
    set_numbers, port_numbers = Numbering(names.sets), Numbering(names.ports)
    writer = _Writer(vnics, numbers, sides, set_numbers, PortSets(port_numbers, before.ports), before.sets)
    rule_numbers, staged_numbers = Numbering(names.rules), Numbering(names.staged_rules)
    now = writer.write(tables, names.tables, rule_numbers, before.tables)
    layer2 = ether_write(
        tables.ether, tables.rules, rule_keys(tables.rules), rule_numbers, numbers, sides, names.ether, before.ether
    )
    then, layer2_then, frames = _NOTHING, _NO_FRAMES, layer2.frames
    if staged is not None:
        then = writer.write(staged, names.staged_tables, staged_numbers, before.staged, in_force=now)
        layer2_then = ether_write(
            staged.ether,
            staged.rules,
            rule_keys(staged.rules),
            staged_numbers,
            numbers,
            sides,
            names.staged_ether,
            before.staged_ether,
            STAGED,
        )
        frames = frames_beside(layer2.frames, layer2_then.frames, sides)
    sets = {some.key: some for some in (*now.sets, *then.sets)}
    elements = (
        *(item for some in sets.values() for item in some.sets),
        *(found.item for found in writer.ports.kept.values()),
    )
    chains = [*verdict_chains(sides), *now.chains, *base_chains(sides, zones)]
    counters = [*OWN_COUNTERS, *now.rule_of]
    if staged is not None:
        chains += [*staged_verdicts(sides), *then.chains, *staged_base(sides)]
        counters += [*STAGED_COUNTERS, *then.rule_of]
    helpers = tuple(dict.fromkeys(helper for part in now.parts.values() for helper in part.helpers))
    maps = (*now.maps, *then.maps)
    ruleset = Ruleset(TABLE, elements, maps, tuple(counters), tuple(chains), helpers, METERS, frames)
    found = Names(
        numbers,
        now.names,
        rule_numbers.kept(),
        set_numbers.kept(),
        port_numbers.kept(),
        then.names,
        staged_numbers.kept(),
        layer2.names,
        layer2_then.names,
    )
    memo = Memo(now.parts, sets, writer.ports.kept, then.parts, layer2.memo, layer2_then.memo)
    staged_of = {**then.rule_of, **layer2_then.rule_of}
    return Rendered(ruleset, {**now.rule_of, **layer2.rule_of}, found, memo, staged_of)


@dataclass(frozen=True, slots=True)
class _Written:
    """Tables as they were written, the maps that lead to them, the rule behind each counter, the numbers in names."""

    parts: Mapping[int, TablePart]
    maps: tuple[VerdictMap, ...]
    rule_of: Mapping[str, CompiledRule]
    sets: tuple[AddressElements, ...]
    names: Numbers

    @property
    def chains(self) -> Iterator[Chain]:
        """Those of all tables."""
        return (chain for part in self.parts.values() for chain in part.chains)


_NOTHING: Final = _Written({}, (), {}, (), Numbers())
_NO_FRAMES: Final = EtherWritten(None, {}, Numbers(), {})


@dataclass(frozen=True, slots=True)
class _Writer:
    """Writes tables of these vNICs; all of them share address sets and sets of ports."""

    vnics: Sequence[str]
    numbers: Mapping[str, int]
    sides: Sequence[Side]
    set_numbers: Numbering
    ports: PortSets
    sets_before: Mapping[str, AddressElements]

    def write(
        self,
        tables: Tables,
        names: Numbers,
        rule_numbers: Numbering,
        before: Mapping[int, TablePart],
        *,
        in_force: _Written | None = None,
    ) -> _Written:
        """The tables of one world; `in_force`: those in force, where these are as staged policies would have them."""
        users: dict[int, list[str]] = {}
        for name in self.vnics:
            users.setdefault(tables.table_of[name], []).append(name)
        table_number, kept_tables = tables_numbered(users, names)
        used = [tables.tables[at] for at in users]
        rows = tables_flat(used)
        shared = None if in_force is None else {some.key: some for some in in_force.sets}
        sets = address_sets(tables.sets, rows, self.set_numbers, self.sets_before, shared)
        known = Numbered(
            tables.rules, _rules_numbered(tables.rules, rows, rule_numbers), set_codes(len(tables.sets), sets)
        )
        element_names = {
            (at, item.family): item.name for at, some in sets.items() for item in some.sets if item.family is not None
        }
        matcher = EntryMatcher(element_names, self.ports.name)
        parts: dict[int, TablePart] = {}
        wanted = [table_number[at] for at in users]
        for table, number, key in zip(used, wanted, table_keys(rows, wanted, self.sides, known), strict=True):
            part = before.get(number)
            if part is None or part.key != key:
                is_staged = in_force is not None
                part = table_write(table, number, self.sides, known, matcher, self.ports, key, is_apart=is_staged)
                part = staged_part(part, self.sides) if is_staged else part
            parts[number] = part
            for item in part.ports:
                self.ports.keep(item)
        maps = []
        prefix = "" if in_force is None else STAGED
        for side in SIDES:
            pairs = sorted(
                (self.numbers[name] << side.shift, parts[table_number[tables.table_of[name]]].of_side[side.name])
                for name in self.vnics
            )
            maps.append(VerdictMap(f"{prefix}{side.name}", ((0, f"{prefix}nobody"), *pairs)))
        rule_of = _rules_named(tables.rules, known.rule_numbers, parts.values(), prefix)
        return _Written(parts, tuple(maps), rule_of, tuple(sets.values()), kept_tables)


def _rules_numbered(rules: Sequence[CompiledRule], rows: TableRows, numbers: Numbering) -> npt.NDArray[np.int64]:
    """By index, the number of each rule that these tables have; -1 for others."""
    keys = rule_keys(rules)
    used, first = np.unique(rows.entries["rule"], return_index=True)
    found = np.full(len(rules), -1, dtype=np.int64)
    in_order = used[np.argsort(first)].tolist()
    found[in_order] = [numbers.number(keys[at]) for at in in_order]
    return found


def rule_keys(rules: Sequence[CompiledRule]) -> list[str]:
    """What each rule is known by."""
    paths = [rule.path for rule in rules]
    return [f"{path}#{times}" if times else path for path, times in zip(paths, occurrences(paths), strict=True)]


def _rules_named(
    rules: Sequence[CompiledRule], numbers: npt.NDArray[np.int64], parts: Iterable[TablePart], prefix: str
) -> dict[str, CompiledRule]:
    """By counter. A rule that is for other directions than those judged has none."""
    of_counter = {f"{prefix}rule{number}": rule for number, rule in zip(numbers.tolist(), rules, strict=True)}
    return {name: of_counter[name] for name in dict.fromkeys(name for part in parts for name in part.counters)}


def vnic_mark(sender: int, receiver: int) -> int:
    """The mark of a packet between two vNICs by number; 0 for an end that is none."""
    return sender << OUT.shift | receiver << IN.shift
