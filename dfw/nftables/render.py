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

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import groupby
from typing import Final, Protocol

import numpy as np

from dfw.compile import (
    PAL_RULE_LOGGED,
    PAL_RULE_STATEFUL,
    PAL_RULE_TCP_STRICT,
    AddressSet,
    CompiledRule,
    RangeArray,
    RuleTable,
)
from dfw.layout import ALG_FTP, ALG_TFTP
from dfw.model import Direction, Family
from dfw.nftables.entry import Entry, EntryMatcher, Ports, entries_joined
from dfw.nftables.names import Names, Numbering, occurrences, tables_numbered, vnics_numbered
from dfw.nftables.ruleset import Chain, ChainRule, ElementSet, Expression, Helper, Ruleset, VerdictMap
from dfw.nftables.shared import (
    ACCEPT,
    IN,
    OUT,
    OWN_COUNTERS,
    SIDES,
    WIRE_SIDES,
    Side,
    base_chains,
    counted_drop,
    goto,
    judged_at,
    verdict_chains,
)

TABLE: Final = "palisade"
LOG_GROUP: Final = 6081
"""The netlink group (NFLOG) to which logged rules tell of packets."""
_ALLOW, _DROP, _REJECT = 0, 1, 2
_COMMENT_BYTES = 127  # of a rule's comment: NFTNL_UDATA_COMMENT_MAXLEN, less the end of the text
_HELPERS: Final = {ALG_FTP: Helper("ftp", "ftp", "tcp"), ALG_TFTP: Helper("tftp", "tftp", "udp")}
_CHUNK_RULES = 16  # in the mean, of one chain


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


@dataclass(frozen=True, slots=True)
class SomeTables:
    """Tables that are no whole compiled policy's."""

    rules: Sequence[CompiledRule]
    sets: Sequence[AddressSet]
    tables: Sequence[RuleTable]
    table_of: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A ruleset, the policy's rule behind each counter of it by the counter's name, and the names that it uses."""

    ruleset: Ruleset
    rule_of: Mapping[str, CompiledRule]
    names: Names = field(default_factory=Names)


WIRE: Final = "tap"


def render_wire(rules: Sequence[CompiledRule], sets: Sequence[AddressSet], table: RuleTable) -> Rendered:
    """The ruleset of one filter on a wire, number 1, that judges each packet once, going out."""
    return _render(SomeTables(rules, sets, (table,), {WIRE: 0}), (WIRE,), WIRE_SIDES, {}, Names())


def render_ruleset(
    tables: Tables,
    vnics: Sequence[str],
    *,
    zones: Mapping[str, int] | None = None,
    names: Names | None = None,
) -> Rendered:
    """The ruleset of these vNICs. `names`: of the ruleset before; without, vNICs are numbered from 1 in this order.

    `zones`: conntrack zone of what comes in by an interface (a bridge), for routing domains whose addresses may be the
    same; others are in zone 0. Raises ValueError for more vNICs than a mark can tell apart.
    """
    return _render(tables, vnics, SIDES, zones or {}, names or Names())


def _render(
    tables: Tables, vnics: Sequence[str], sides: Sequence[Side], zones: Mapping[str, int], before: Names
) -> Rendered:
    numbers = vnics_numbered(vnics, before.vnics)
    users: dict[int, list[str]] = {}
    for name in vnics:
        users.setdefault(tables.table_of[name], []).append(name)
    table_number, kept_tables = tables_numbered(users, before.tables)
    rule_numbers, set_numbers, port_numbers = map(Numbering, (before.rules, before.sets, before.ports))
    element_sets = dict(_sets(tables, [tables.tables[at] for at in users], set_numbers))
    port_sets: dict[Ports, ElementSet] = {}

    def ports_named(ports: Ports) -> str:
        if ports not in port_sets:
            key = ",".join(f"{first}-{last}" for first, last in ports)
            port_sets[ports] = ElementSet(f"ports{port_numbers.number(key)}", None, ports)
        return port_sets[ports].name

    matcher = EntryMatcher({key: item.name for key, item in element_sets.items()}, ports_named)
    writer = _TableWriter(tables.rules, rule_numbers)
    chains: list[Chain] = []
    of_side: dict[tuple[int, str], str] = {}
    for at in users:
        entries = [(entry, tuple(matcher.matches(entry))) for entry in entries_joined(tables.tables[at])]
        name = f"table{table_number[at]}"
        # One chain for both directions, where most rules are for both.
        is_one = 2 * sum(entry.direction == Direction.IN_OUT for entry, _ in entries) > len(entries)
        for side in (None,) if is_one else sides:
            chain = name if side is None else f"{name}-{side.name}"
            chains += writer.chains(chain, side, entries)
            of_side |= {(at, own.name): chain for own in ((side,) if side else sides)}
    maps = []
    for side in SIDES:
        pairs = sorted((numbers[name] << side.shift, of_side[tables.table_of[name], side.name]) for name in vnics)
        maps.append(VerdictMap(side.name, ((0, "nobody"), *pairs)))
    base = (*verdict_chains(sides), *chains, *base_chains(sides, zones))
    sets = (*element_sets.values(), *port_sets.values())
    ruleset = Ruleset(TABLE, sets, tuple(maps), (*OWN_COUNTERS, *writer.rule_of), base, tuple(writer.helpers.values()))
    names = Names(numbers, kept_tables, rule_numbers.kept(), set_numbers.kept(), port_numbers.kept())
    return Rendered(ruleset, writer.rule_of, names)


def vnic_mark(sender: int, receiver: int) -> int:
    """The mark of a packet between two vNICs by number; 0 for an end that is none."""
    return sender << OUT.shift | receiver << IN.shift


def _sets(
    tables: Tables, used_tables: Sequence[RuleTable], numbers: Numbering
) -> Iterator[tuple[tuple[int, Family], ElementSet]]:
    """Those that rules refer to, by number and family; where a set has no address of a family there is none.

    A group is known by its name, raw addresses by what they are. A set that is no hash any more is another set.
    """
    used: set[int] = set()
    for table in used_tables:
        for offset, count in (("src_off", "src_n"), ("dst_off", "dst_n")):
            for first, number in np.unique(table.entries[[offset, count]]).tolist():
                used.update(table.set_refs[first : first + number].tolist())
    keys = [item.name or sha256(item.ranges.tobytes()).hexdigest() for item in tables.sets]
    times = occurrences(keys)
    for at in sorted(used):
        number = numbers.number(f"{keys[at]}#{times[at]}" if times[at] else keys[at])
        for family in Family:
            ranges = _ranges(tables.sets[at].ranges, family)
            if ranges:
                name = f"set{number}-v{4 if family is Family.IPV4 else 6}"
                item = ElementSet(name, family, ranges)
                yield (at, family), replace(item, name=f"{name}-ranges") if item.is_interval else item


def _ranges(ranges: RangeArray, family: Family) -> tuple[tuple[int, int], ...]:
    size = family.bits // 8
    own = ranges[ranges["family"] == int(family)]
    return tuple(
        (int.from_bytes(low[:size], "big"), int.from_bytes(high[:size], "big"))
        for low, high in zip(map(bytes, own["lo"]), map(bytes, own["hi"]), strict=True)
    )


# A table's rules

_Matched = tuple[Entry, tuple[tuple[Expression, ...], ...]]
"""An entry, and the matches of each rule that it becomes."""


class _TableWriter:
    """Writes tables as chains. `rule_of`: the rule behind each counter so far."""

    def __init__(self, rules: Sequence[CompiledRule], numbers: Numbering) -> None:
        self._rules = rules
        times = occurrences(rule.path for rule in rules)
        self._number: Callable[[int], int] = lambda at: numbers.number(
            f"{rules[at].path}#{times[at]}" if times[at] else rules[at].path
        )
        self.rule_of: dict[str, CompiledRule] = {}
        self.helpers: dict[str, Helper] = {}

    def chains(self, name: str, side: Side | None, entries: Sequence[_Matched]) -> list[Chain]:
        """A chain for each tier that rules go on to when they leave theirs, the first one without such a name.
        `side` None: for both. Chains stand in the order in which they may refer to each other: the last one first."""
        own = entries if side is None else [item for item in entries if item[0].direction & side.direction]
        cuts = sorted({entry.resume for entry, _ in own if entry.resume})
        names = [name, *(f"{name}-tier{tier}" for tier in cuts)]
        parts: list[list[_Matched]] = [[] for _ in names]
        for part, some in groupby(own, lambda item: sum(item[0].tier >= cut for cut in cuts)):
            parts[part] += some
        ends = [goto(chain) for chain in names[1:]] + [counted_drop("no-rule")]
        found: list[Chain] = []
        for chain, inside, end in zip(reversed(names), reversed(parts), reversed(ends), strict=True):
            found += self._chunks(chain, name, side, inside, end)
        return found

    def _chunks(
        self, chain: str, table: str, side: Side | None, entries: Sequence[_Matched], end: ChainRule
    ) -> Iterator[Chain]:
        """The chain, and those to which it jumps: a changed rule is as much work as the chain in which it stands.
        Where another one begins depends on its first rule only, so that a change concerns no other."""
        first: list[ChainRule] = []
        chunks: dict[str, list[ChainRule]] = {}
        here = first
        for at, some in groupby(entries, lambda item: item[0].rule):
            number = self._number(at)
            name = f"{chain}-rule{number}"
            if number % _CHUNK_RULES == 0 and name not in chunks:
                here = chunks[name] = []
                first.append(ChainRule(({"jump": {"target": name}},)))
            for entry, matches in some:
                here += self._entry(entry, matches, table, side, f"rule{number}", self._rules[at])
        yield from (Chain(name, tuple(rules)) for name, rules in chunks.items())
        yield Chain(chain, (*first, end))

    def _entry(
        self,
        entry: Entry,
        alternatives: Sequence[tuple[Expression, ...]],
        table: str,
        side: Side | None,
        counter: str,
        rule: CompiledRule,
    ) -> Iterator[ChainRule]:
        """The rules of one entry: matches, counter, log, verdict."""
        self.rule_of[counter] = rule
        effects: list[Expression] = [{"counter": counter}]
        if entry.flags & PAL_RULE_LOGGED:
            effects.append({"log": {"prefix": f"palisade {counter} {rule.rule_id}", "group": LOG_GROUP}})
        asked: tuple[Expression, ...] = ()
        if side is None and entry.direction != Direction.IN_OUT:
            side = OUT if entry.direction == Direction.OUT else IN
            asked = (judged_at(side),)
        helper = _HELPERS.get(entry.alg)
        if helper is not None and entry.flags & PAL_RULE_STATEFUL:
            self.helpers[helper.name] = helper
            effects.append({"ct helper": helper.name})
        effects.append(_verdict(entry, table, side))
        comment = rule.path.encode()[:_COMMENT_BYTES].decode(errors="ignore")
        for matches in alternatives:
            yield ChainRule((*asked, *matches, *effects), comment)


def _verdict(entry: Entry, table: str, side: Side | None) -> Expression:
    if entry.resume:
        return {"goto": {"target": f"{table}-tier{entry.resume}"}}
    if entry.action == _DROP:
        return {"drop": None}
    if entry.action == _REJECT:
        return {"goto": {"target": "reject"}}
    assert entry.action == _ALLOW
    if not entry.flags & PAL_RULE_STATEFUL:
        return ACCEPT
    keep = "keep" if side is None else f"keep-{side.name}"
    return {"goto": {"target": f"{keep}-strict" if entry.flags & PAL_RULE_TCP_STRICT else keep}}
