# SPDX-License-Identifier: Apache-2.0
"""The rules of a filter, straight from the model, and the linear scan for the first that matches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

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
    NamedPort,
    Peers,
    PolicySet,
    Port,
    ether_rules_for,
    ether_rules_for_tap,
    ranges_merge,
    rules_for,
    rules_for_tap,
)

_MEMO_ADDRESSES = 1_000_000
_LOW_HALF = (1 << 64) - 1


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
    """Which of the peer sets contain an address: a scan over all their ranges, remembered for each address seen."""

    def __init__(self, world: PolicySet) -> None:
        self._world = world
        self._numbers: dict[Peers, int] = {}
        self._ranges: dict[Family, list[tuple[AddressRange, int]]] = {family: [] for family in Family}
        self._columns: dict[Family, _Columns] = {}
        self._memo: dict[tuple[Family, int], frozenset[int]] = {}

    def number(self, peers: Peers) -> int:
        """The number of a peer set that is not ANY."""
        if peers not in self._numbers:
            number = self._numbers[peers] = len(self._numbers)
            for item in ranges_merge(self._world.address_ranges(peers)):
                self._ranges[item.family].append((item, number))
            self._columns.clear()
            self._memo.clear()
        return self._numbers[peers]

    def named_ports(self, family: Family, address: int) -> frozenset[NamedPort]:
        """The named ports of whoever has an address."""
        return self._world.named_ports(Address(family, address))

    def sets_with(self, family: Family, address: int) -> frozenset[int]:
        """The numbers of the sets that contain an address."""
        found = self._memo.get((family, address))
        if found is None:
            if family not in self._columns:
                self._columns[family] = _Columns(self._ranges[family])
            if len(self._memo) >= _MEMO_ADDRESSES:
                self._memo.clear()
            found = self._memo[family, address] = self._columns[family].sets_with(address)
        return found


class _Columns:
    """Ranges as columns of 64-bit halves, so that numpy compares an address with all of them at once."""

    def __init__(self, ranges: list[tuple[AddressRange, int]]) -> None:
        self._first = _halves([item.first for item, _ in ranges])
        self._last = _halves([item.last for item, _ in ranges])
        self._numbers = np.array([number for _, number in ranges], dtype=np.int64)

    def sets_with(self, address: int) -> frozenset[int]:
        high, low = np.uint64(address >> 64), np.uint64(address & _LOW_HALF)
        not_before = (self._first[0] < high) | ((self._first[0] == high) & (self._first[1] <= low))
        not_after = (self._last[0] > high) | ((self._last[0] == high) & (self._last[1] >= low))
        return frozenset(self._numbers[not_before & not_after].tolist())


def _halves(values: list[int]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    high = np.array([value >> 64 for value in values], dtype=np.uint64)
    return high, np.array([value & _LOW_HALF for value in values], dtype=np.uint64)


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

    def first_match(self, key: RuleKey, passed: list[MatchedRule] | None = None) -> MatchedRule | None:
        """The first rule that matches and decides, or None. `passed` gets those that matched and left their tier."""
        source_sets = self._membership.sets_with(key.family, key.source)
        destination_sets = self._membership.sets_with(key.family, key.destination)
        resume = 0
        for index, (item, source_set, destination_set) in enumerate(self._rows):
            rule = item.rule
            if source_set is not None and (source_set in source_sets) is rule.sources_excluded:
                continue
            if destination_set is not None and (destination_set in destination_sets) is rule.destinations_excluded:
                continue
            if item.tier < resume or not item.direction & key.direction or key.family not in rule.families:
                continue
            alg = self._service_match(item, key)
            if alg is None:
                continue
            if item.resume_tier is None:
                return self._result(index, item, alg)
            resume = item.resume_tier
            if passed is not None:
                passed.append(self._result(index, item, alg))
        return None

    def _result(self, index: int, item: EffectiveRule, alg: Alg) -> MatchedRule:
        known = self._matched.get((index, alg))
        if known is None:
            rule = item.rule
            known = self._matched[index, alg] = MatchedRule(
                rule.number, rule.path, rule.action, item.stateful, item.tcp_strict, alg, rule.persist
            )
        return known

    def _service_match(self, item: EffectiveRule, key: RuleKey) -> Alg | None:
        """The ALG of the first service entry that matches; None where none does."""
        services = item.rule.services
        if not services:
            return ANY_ENTRY.alg
        for service in services:
            for entry in service.entries:
                named = self._membership.named_ports(key.family, key.destination) if entry.destination_port_name else ()
                ports = key.source_port, key.destination_port
                if entry.matches(key.family, key.protocol, *ports, key.tcp_flags, named):
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


class EtherList:
    """The layer-2 rules of one filter in order of judgement: a scan of every frame."""

    def __init__(self, effective: list[EffectiveRule], world: PolicySet) -> None:
        self._rows = [
            (item, self._side(item.rule.sources, world), self._side(item.rule.destinations, world))
            for item in effective
        ]

    @staticmethod
    def _side(peers: Peers, world: PolicySet) -> frozenset[str] | None:
        return None if peers.is_any else world.macs(peers)

    def first_match(self, source: str, destination: str, ether_type: int, direction: int) -> MatchedRule | None:
        """The first rule that matches, or None. MAC addresses in lower case with colons."""
        for item, sources, destinations in self._rows:
            rule = item.rule
            if not item.direction & direction:
                continue
            if sources is not None and (source in sources) is rule.sources_excluded:
                continue
            if destinations is not None and (destination in destinations) is rule.destinations_excluded:
                continue
            types = [entry.ether_type for service in rule.services for entry in service.entries]
            if rule.services and ether_type not in types:
                continue
            return MatchedRule(rule.number, rule.path, rule.action, False, False, Alg.NONE, False)
        return None


class Rules:
    """The rule lists of a policy set, resolved once for each port (None: the tap)."""

    def __init__(self, world: PolicySet) -> None:
        self.world = world
        self._membership = Membership(world)
        self._lists: dict[str | None, RuleList] = {}
        self._ether: dict[str | None, EtherList] = {}

    def ether_for_port(self, port: Port | None) -> EtherList:
        """The layer-2 rules of a vNIC's filter, or of the tap's."""
        name = None if port is None else port.name
        if name not in self._ether:
            effective = ether_rules_for_tap(self.world) if port is None else ether_rules_for(self.world, port)
            self._ether[name] = EtherList(effective, self.world)
        return self._ether[name]

    def for_port(self, port: Port | None) -> RuleList:
        """The rules of a vNIC's filter, or of the tap's."""
        name = None if port is None else port.name
        if name not in self._lists:
            effective = rules_for_tap(self.world) if port is None else rules_for(self.world, port)
            self._lists[name] = RuleList(effective, self._membership)
        return self._lists[name]
