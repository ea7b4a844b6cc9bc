# SPDX-License-Identifier: Apache-2.0
"""Model -> what the packet core loads: address sets shared between rules, and a rule table for each vNIC.

Pure: no file, no clock, no core. Arrays are laid out exactly as `pal_rule` and `pal_range` in
native/include/palisade_core.h, so that they cross the boundary without a copy.

A table holds, in order of judgement, an entry for each combination of a rule's service entries and port ranges; the
rules whose Applied-To does not select the vNIC, and disabled ones, are left out, and nothing else is: a workload can
send from and receive for addresses that are not its own, so neither side of a rule decides where it may matter.
Ports with the same rules share one table.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from dfw.capabilities import NATIVE_ACTIONS, NATIVE_ALGS, unsupported_features
from dfw.compile_ether import EtherCompiled, ether_compile
from dfw.errors import UnsupportedError
from dfw.layout import (
    PROTO_ANY,
    RANGE_DTYPE,
    RULE_DST_NEGATED,
    RULE_DTYPE,
    RULE_LOGGED,
    RULE_PERSIST,
    RULE_SRC_NEGATED,
    RULE_STATEFUL,
    RULE_TCP_STRICT,
    RangeArray,
    RuleArray,
)
from dfw.membership import Membership
from dfw.model import (
    ANY_ENTRY,
    EXCLUDED_POLICY,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTOCOLS_WITH_PORTS,
    Action,
    AddressRange,
    Direction,
    EffectiveRule,
    FloodLimits,
    GroupMember,
    Peers,
    PolicySet,
    PortRange,
    Rule,
    ServiceEntry,
    Term,
    Tier,
    Timers,
    WorkloadMember,
    ether_rules_for_tap,
    ranges_intersect,
    ranges_subtract,
    rules_for_tap,
)

_ALL_PORTS = (PortRange(0, 65535),)
_NO_ENTRIES = np.zeros(0, dtype=np.int64)

_Profile = TypeVar("_Profile")


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """What is known of a rule when an entry of it has matched; its place in the list is `pal_rule.rule`."""

    number: int
    rule_id: int
    path: str
    policy: str
    tier: Tier
    action: Action
    logged: bool
    tag: str


@dataclass(frozen=True, slots=True)
class AddressSet:
    """A set of addresses that rules refer to by `set_id`. `name`: the group's path, empty for raw addresses.

    `is_fixed`: addresses are members by themselves, whoever has them; `members`: the ports that are members whatever
    their addresses, by number in the inventory's order.
    """

    set_id: int
    name: str
    ranges: RangeArray
    is_fixed: bool = True
    members: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class RuleTable:
    """The entries of one filter, in order of judgement; `set_refs` (uint32), shared by all
    tables of a policy, is what src_off and dst_off point into."""

    entries: RuleArray
    set_refs: npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled policy. `table_of`: port name -> index into `tables`. `tap`: the table of a filter on a wire.

    `timers_of`, `flood_of`: by port name, where a binding gives a vNIC others than `timers` and `flood`.
    """

    rules: tuple[CompiledRule, ...]
    sets: tuple[AddressSet, ...]
    tables: tuple[RuleTable, ...]
    table_of: Mapping[str, int]
    tap: RuleTable
    timers: Timers
    timers_of: Mapping[str, Timers]
    flood: FloodLimits
    flood_of: Mapping[str, FloodLimits]
    ether: EtherCompiled


def compile_policy(world: PolicySet) -> Compiled:
    """Compile for every vNIC of the inventory, and for a tap. Raises UnsupportedError('native', …)."""
    if world.at is None and world.schedules:
        # What a schedule means depends on the time: never "always", never "not at all".
        raise UnsupportedError("native", f"a schedule without a time ({world.schedules[0].path})")
    unsupported = unsupported_features(world)
    if unsupported:
        effective, feature = unsupported[0]
        raise UnsupportedError("native", f"{feature} (rule {effective.rule.path})")
    return _Compiler(world).compile()


def ranges_array(ranges: Sequence[AddressRange]) -> RangeArray:
    """Ranges as `pal_range`: network byte order, IPv4 in the first four bytes."""
    families = {family: int(family).to_bytes(4, sys.byteorder) for family in {item.family for item in ranges}}
    parts: list[bytes] = []
    for item in ranges:
        size = item.family.bits // 8
        parts.append(item.first.to_bytes(size, "big").ljust(16, b"\0"))
        parts.append(item.last.to_bytes(size, "big").ljust(16, b"\0"))
        parts.append(families[item.family])
    array = np.frombuffer(b"".join(parts), dtype=RANGE_DTYPE).copy()
    array.flags.writeable = False
    return array


class _Compiler:
    def __init__(self, world: PolicySet) -> None:
        self.world = world
        self.membership = Membership(world)
        self.sets: list[AddressSet] = []
        self.set_ids: dict[tuple[str, tuple[AddressRange, ...], frozenset[int] | None], int] = {}
        self.shared_ids: dict[GroupMember | WorkloadMember, int] = {}

    def compile(self) -> Compiled:
        for_tap = rules_for_tap(self.world)
        excluded = self.membership.members(self.world.excluded)
        effective = [*for_tap, *EXCLUDED_RULES] if excluded else for_tap
        layer2 = ether_rules_for_tap(self.world)
        rules = tuple(rule_described(number, item) for number, item in enumerate((*effective, *layer2)))
        everything = self._everything(effective)
        scopes = self._scopes(for_tap, excluded)
        selected: list[list[int]] = [[] for _ in self.membership.ports]
        for index, members in enumerate(scopes.members):
            for number in members:
                selected[number].append(index)
        scope_of_entry = np.array(scopes.of_rule, dtype=np.int64)[everything.entries["rule"]]
        by_scope = np.argsort(scope_of_entry, kind="stable")
        of_scope = np.split(by_scope, np.cumsum(np.bincount(scope_of_entry, minlength=len(scopes.members)))[:-1])
        tables: list[RuleTable] = []
        seen: dict[tuple[int, ...], int] = {}
        table_of: dict[str, int] = {}
        for port, indexes in zip(self.membership.ports, selected, strict=True):
            selecting = tuple(indexes)
            if selecting not in seen:
                seen[selecting] = len(tables)
                chosen = np.sort(np.concatenate([of_scope[index] for index in indexes] or [_NO_ENTRIES]))
                tables.append(_frozen(everything.entries[chosen], everything.set_refs))
            table_of[port.name] = seen[selecting]
        tap = everything.entries[everything.entries["rule"] < len(for_tap)]
        tap["dir"] = int(Direction.IN_OUT)
        return Compiled(
            rules,
            tuple(self.sets),
            tuple(tables),
            table_of,
            _frozen(tap, everything.set_refs),
            self.world.timers,
            self._bound((item.peers, item.timers) for item in self.world.timer_bindings_ordered),
            self.world.flood,
            self._bound((item.peers, item.limits) for item in self.world.flood_bindings_ordered),
            ether_compile(self.world, self.membership, layer2, len(effective)),
        )

    def _bound(self, bindings: Iterable[tuple[Peers, _Profile]]) -> Mapping[str, _Profile]:
        """What is bound to vNICs, by port name; the first binding that selects one wins."""
        found: dict[str, _Profile] = {}
        for peers, profile in bindings:
            for number in self.membership.members(peers):
                found.setdefault(self.membership.ports[number].name, profile)
        return found

    def _everything(self, effective: Sequence[EffectiveRule]) -> RuleTable:
        """The entries of all rules, in order; equal lists of sets stand once in set_refs."""
        offsets: dict[tuple[int, ...], int] = {(): 0}
        refs: list[int] = []
        rows: list[tuple[int, ...]] = []
        for number, item in enumerate(effective):
            rule = item.rule
            sides: list[int] = []
            for peers in (rule.sources, rule.destinations):
                ids = self._set_ids(peers)
                if ids not in offsets:
                    offsets[ids] = len(refs)
                    refs += ids
                sides += (offsets[ids], len(ids))
            if not matches_nobody(rule):
                rows += self._rule_rows(number, item, sides, offsets, refs)
        entries = np.zeros(len(rows), dtype=RULE_DTYPE)
        for name, column in zip(_COLUMNS, zip(*rows, strict=True), strict=bool(rows)):
            entries[name] = column
        return _frozen(entries, np.array(refs, dtype=np.uint32))

    def _rule_rows(
        self, number: int, item: EffectiveRule, sides: list[int], offsets: dict[tuple[int, ...], int], refs: list[int]
    ) -> Iterable[tuple[int, ...]]:
        """The entries of one rule. A named port makes one for each number that it stands for, to whoever means that."""
        for entry in service_entries(item):
            if not entry.destination_port_name:
                yield from ((*sides, *row) for row in entry_rows(number, item, entry))
                continue
            assert entry.protocol is not None, "a named port has a protocol"
            plain = replace(item, rule=replace(item.rule, destinations_excluded=False))
            for port, numbers in self.membership.named_ports(entry.destination_port_name, entry.protocol).items():
                ids = (self._named_set(item.rule, numbers),)
                if ids not in offsets:
                    offsets[ids] = len(refs)
                    refs += ids
                resolved = replace(entry, destination_port_name="", destination_ports=(PortRange(port, port),))
                yield from ((*sides[:2], offsets[ids], 1, *row) for row in entry_rows(number, plain, resolved))

    def _named_set(self, rule: Rule, numbers: frozenset[int]) -> int:
        """Those of a rule's destinations that have a named port with one number."""
        ranges = self.membership.addresses_of(numbers)
        terms = rule.destinations.terms
        if terms is None:
            return self._set_of("", ranges, numbers, is_fixed=False)
        own, members = self.membership.addresses(terms), self.membership.members(rule.destinations)
        is_fixed = self.membership.is_fixed(terms)
        if rule.destinations_excluded:
            return self._set_of("", ranges_subtract(ranges, own), frozenset(), is_fixed)
        return self._set_of("", ranges_intersect(ranges, own), numbers & members, is_fixed)

    def _scopes(self, effective: Sequence[EffectiveRule], excluded: frozenset[int]) -> _Scopes:
        """Distinct Applied-To lists with their member ports, and which one each rule has; the excluded ports last."""
        indexes: dict[Peers, int] = {}
        of_rule = [indexes.setdefault(item.applied_to, len(indexes)) for item in effective]
        members = [self.membership.members(peers) - excluded for peers in indexes]
        if not excluded:
            return _Scopes(members, of_rule)
        return _Scopes([*members, excluded], [*of_rule, *(len(members) for _ in EXCLUDED_RULES)])

    def _set_ids(self, peers: Peers) -> tuple[int, ...]:
        """The sets that a side of a rule refers to: one for each group or label selector, one for raw addresses."""
        if peers.terms is None:
            return ()
        shared = [term for term in peers.terms if isinstance(term, GroupMember | WorkloadMember)]
        others = [term for term in peers.terms if not isinstance(term, GroupMember | WorkloadMember)]
        ids = [self._shared_set(term) for term in shared]
        if others or not shared:
            ids.append(self._set("", others))
        return tuple(dict.fromkeys(ids))

    def _shared_set(self, term: GroupMember | WorkloadMember) -> int:
        if term not in self.shared_ids:
            self.shared_ids[term] = self._set(term.path if isinstance(term, GroupMember) else "", (term,))
        return self.shared_ids[term]

    def _set(self, name: str, terms: Iterable[Term]) -> int:
        terms = tuple(terms)
        members, is_fixed = self.membership.members(Peers(terms)), self.membership.is_fixed(terms)
        return self._set_of(name, self.membership.addresses(terms), members, is_fixed)

    def _set_of(self, name: str, ranges: tuple[AddressRange, ...], members: frozenset[int], is_fixed: bool) -> int:
        key = (name, ranges, members if is_fixed else None)
        if key not in self.set_ids:
            self.set_ids[key] = len(self.sets)
            self.sets.append(AddressSet(len(self.sets), name, ranges_array(ranges), is_fixed, members))
        return self.set_ids[key]


@dataclass(frozen=True, slots=True)
class _Scopes:
    members: list[frozenset[int]]
    of_rule: list[int]


def rule_described(number: int, item: EffectiveRule) -> CompiledRule:
    """What is known of a rule when an entry of it has matched."""
    rule = item.rule
    return CompiledRule(number, rule.number, rule.path, item.policy.path, item.tier, rule.action, rule.logged, rule.tag)


def service_entries(item: EffectiveRule) -> Iterable[ServiceEntry]:
    """The distinct entries of a rule's services; a rule without has the one that matches everything."""
    if not item.rule.services:
        return (ANY_ENTRY,)
    return dict.fromkeys(entry for service in item.rule.services for entry in service.entries)


_COLUMNS = (
    *("src_off", "src_n", "dst_off", "dst_n"),
    *("rule", "sport_lo", "sport_hi", "dport_lo", "dport_hi", "proto", "tcp_mask", "tcp_value"),
    *("action", "dir", "family", "flags", "alg", "tier", "resume"),
)


EXCLUDED_RULES = tuple(EffectiveRule(EXCLUDED_POLICY, rule, rule.direction) for rule in EXCLUDED_POLICY.rules)


def entry_rows(number: int, item: EffectiveRule, entry: ServiceEntry) -> Iterable[tuple[int, ...]]:
    """The table entries for one service entry, in the order of pal_rule without the sides."""
    rule = item.rule
    family = sum(rule.families & entry.families)
    if not family:
        return
    flags = (
        RULE_STATEFUL * item.stateful
        | RULE_TCP_STRICT * item.tcp_strict
        | RULE_LOGGED * rule.logged
        | RULE_SRC_NEGATED * (rule.sources_excluded and not rule.sources.is_any)
        | RULE_DST_NEGATED * (rule.destinations_excluded and not rule.destinations.is_any)
        | RULE_PERSIST * rule.persist
    )
    proto = PROTO_ANY if entry.protocol is None else entry.protocol
    sources, destinations = _port_ranges(entry)
    for source, destination in product(sources, destinations):
        yield (
            *(number, *source, *destination, proto, entry.tcp_mask, entry.tcp_value),
            *(NATIVE_ACTIONS[rule.action], int(rule.direction), family, flags, NATIVE_ALGS[entry.alg]),
            *(int(item.tier), int(item.resume_tier or 0)),
        )


def _port_ranges(entry: ServiceEntry) -> tuple[Sequence[PortRange], Sequence[PortRange]]:
    """Source and destination ranges in the core's terms: ICMP's type and code stand in the destination port."""
    if entry.protocol in (PROTO_ICMP, PROTO_ICMPV6):
        if entry.icmp_type is None:
            return _ALL_PORTS, _ALL_PORTS
        first, last = (0, 255) if entry.icmp_code is None else (entry.icmp_code, entry.icmp_code)
        return _ALL_PORTS, (PortRange(entry.icmp_type << 8 | first, entry.icmp_type << 8 | last),)
    if entry.protocol in PROTOCOLS_WITH_PORTS:
        return entry.source_ports or _ALL_PORTS, entry.destination_ports or _ALL_PORTS
    return _ALL_PORTS, _ALL_PORTS


def matches_nobody(rule: Rule) -> bool:
    """True where a side is an empty list that is not excluded."""
    return (rule.sources.terms == () and not rule.sources_excluded) or (
        rule.destinations.terms == () and not rule.destinations_excluded
    )


def _frozen(entries: RuleArray, set_refs: npt.NDArray[np.uint32]) -> RuleTable:
    entries.flags.writeable = False
    set_refs.flags.writeable = False
    return RuleTable(entries, set_refs)
