# SPDX-License-Identifier: Apache-2.0
"""The rules of a filter, straight from the model, and the linear scan for the first that matches."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import NamedTuple

from dfw.model import (
    ANY_ENTRY,
    PROTO_ICMP,
    PROTO_ICMPV6,
    Action,
    Address,
    AddressRange,
    Alg,
    EffectiveRule,
    Family,
    Peers,
    PolicySet,
    Port,
    ranges_merge,
    rules_for,
    rules_for_tap,
)

_MEMO_ADDRESSES = 1_000_000


@dataclass(frozen=True, slots=True)
class MatchedRule:
    """What a judgement and a connection keep of the rule that decided. `alg`: of the service entry that matched."""

    number: int
    path: str
    action: Action
    stateful: bool
    tcp_strict: bool
    alg: Alg
    persist: bool


class RuleKey(NamedTuple):
    """What rules look at. ICMP: `source_port` is the type, `destination_port` the code, as ServiceEntry wants them."""

    family: Family
    protocol: int
    source: int
    destination: int
    source_port: int
    destination_port: int
    tcp_flags: int
    direction: int


class Membership:
    """Which of the peer sets contain an address: one bit a set, remembered for each address seen."""

    def __init__(self, world: PolicySet) -> None:
        self._world = world
        self._numbers: dict[Peers, int] = {}
        self._sets: list[tuple[list[AddressRange], list[tuple[Family, int]]]] = []
        self._memo: dict[tuple[Family, int], int] = {}

    def number(self, peers: Peers) -> int:
        """The number of a peer set that is not ANY."""
        if peers not in self._numbers:
            self._numbers[peers] = len(self._sets)
            ranges = list(ranges_merge(self._world.address_ranges(peers)))
            self._sets.append((ranges, [(item.family, item.first) for item in ranges]))
            self._memo.clear()
        return self._numbers[peers]

    def bits(self, address: tuple[Family, int]) -> int:
        """Bit i is set where set i contains the address."""
        found = self._memo.get(address)
        if found is None:
            found = 0
            for index, (ranges, firsts) in enumerate(self._sets):
                at = bisect_right(firsts, address) - 1
                if at >= 0 and ranges[at].contains(Address(*address)):
                    found |= 1 << index
            if len(self._memo) >= _MEMO_ADDRESSES:
                self._memo.clear()
            self._memo[address] = found
        return found


class RuleList:
    """The rules of one filter in order of judgement."""

    def __init__(self, effective: list[EffectiveRule], membership: Membership) -> None:
        self.effective = effective
        self._membership = membership
        self._rows = [self._row(item) for item in effective]
        self._matched: dict[tuple[int, Alg], MatchedRule] = {}

    def _row(self, item: EffectiveRule) -> tuple[EffectiveRule, int | None, int | None]:
        sources, destinations = item.rule.sources, item.rule.destinations
        return (
            item,
            None if sources.is_any else self._membership.number(sources),
            None if destinations.is_any else self._membership.number(destinations),
        )

    def first_match(self, key: RuleKey) -> MatchedRule | None:
        """The first rule that matches, or None."""
        source_bits = self._membership.bits((key.family, key.source))
        destination_bits = self._membership.bits((key.family, key.destination))
        resume = 0
        for index, (item, source_set, destination_set) in enumerate(self._rows):
            rule = item.rule
            if source_set is not None and bool(source_bits >> source_set & 1) is rule.sources_excluded:
                continue
            if destination_set is not None and (
                bool(destination_bits >> destination_set & 1) is rule.destinations_excluded
            ):
                continue
            if item.tier < resume or not item.direction & key.direction or key.family not in rule.families:
                continue
            alg = _service_match(item, key)
            if alg is None:
                continue
            if item.resume_tier is not None:
                resume = item.resume_tier
                continue
            return self._result(index, item, alg)
        return None

    def _result(self, index: int, item: EffectiveRule, alg: Alg) -> MatchedRule:
        known = self._matched.get((index, alg))
        if known is None:
            rule = item.rule
            known = self._matched[index, alg] = MatchedRule(
                rule.number, rule.path, rule.action, item.stateful, item.tcp_strict, alg, rule.persist
            )
        return known


def _service_match(item: EffectiveRule, key: RuleKey) -> Alg | None:
    """The ALG of the first service entry that matches; None where none does."""
    services = item.rule.services
    if not services:
        return ANY_ENTRY.alg
    for service in services:
        for entry in service.entries:
            if entry.matches(key.family, key.protocol, key.source_port, key.destination_port, key.tcp_flags):
                return entry.alg
    return None


def rule_key(
    ip_version: int,
    protocol: int,
    addresses: tuple[int, int],
    ports: tuple[int, int],
    tcp_flags: int,
    direction: int,
) -> RuleKey:
    """A key from a packet's fields; an ICMP type and code stand in the destination port."""
    family = Family.IPV4 if ip_version == 4 else Family.IPV6
    if protocol == (PROTO_ICMP if ip_version == 4 else PROTO_ICMPV6):
        ports = (ports[1] >> 8, ports[1] & 0xFF)
    return RuleKey(family, protocol, *addresses, *ports, tcp_flags, direction)


class Rules:
    """The rule lists of a policy set, resolved once for each port (None: the tap)."""

    def __init__(self, world: PolicySet) -> None:
        self.world = world
        self._membership = Membership(world)
        self._lists: dict[str | None, RuleList] = {}

    def for_port(self, port: Port | None) -> RuleList:
        """The rules of a vNIC's filter, or of the tap's."""
        name = None if port is None else port.name
        if name not in self._lists:
            effective = rules_for_tap(self.world) if port is None else rules_for(self.world, port)
            self._lists[name] = RuleList(effective, self._membership)
        return self._lists[name]
