# SPDX-License-Identifier: Apache-2.0
"""A packet of each kind that a policy can tell apart: what proves that two policies judge alike, or shows where not.

Rules look at memberships, at the vNIC and at the service. Two ends that are in the same sets and have the same rules
are one kind, and so are two services between two neighbouring limits of the policy's port ranges. A packet of each kind
is therefore as good as all packets of workloads' own addresses that begin a connection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, product
from typing import Final, NamedTuple

from dfw.endpoint import Peer, outside_addresses
from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTOCOLS_WITH_PORTS,
    Address,
    EffectiveRule,
    Family,
    PolicySet,
    Port,
    PortRange,
    ServiceEntry,
    Tier,
)
from dfw.packetbytes import SYN
from dfw.policytest.judge import Resolved, Side
from dfw.policytest.question import ECHO
from dfw.probe import EPHEMERAL_PORT, Probe

MAXIMUM: Final = 60_000
_OTHER_PROTOCOL: Final = 253  # RFC 3692: for experiments; no rule names it unless it is listed
_ICMP: Final = (PROTO_ICMP, PROTO_ICMPV6)


class Corners(NamedTuple):
    """`probes`: a packet of each kind; `complete`: are these all kinds?"""

    probes: list[Probe]
    complete: bool


class Kinds:
    """The kinds of ends and of services that a policy's rules can tell apart."""

    def __init__(self, resolved: Resolved) -> None:
        self._resolved = resolved
        rules = resolved.rules
        entries = list({entry for item in rules for service in item.rule.services for entry in service.entries})
        self._known = not any(entry.tcp_mask for entry in entries)
        self._known &= not any(item.tier is Tier.ETHERNET for item in rules)
        self._peers = {family: _peers(resolved, family) for family in Family}
        self._services = {family: list(_services(resolved.world, entries, family)) for family in Family}

    @property
    def are_few(self) -> bool:
        """Can there be a packet of each kind?"""
        sizes = (len(self._peers[family]) ** 2 * len(self._services[family]) for family in Family)
        return self._known and max(sizes) <= MAXIMUM // 2

    def corners(self, touched: Sequence[EffectiveRule] | None = None) -> Corners:
        """A packet of each kind; `touched`: of those that one of these rules may match. Some, where there are more than
        MAXIMUM."""
        probes: list[Probe] = []
        complete = self._known
        for family in Family:
            peers, services = self._peers[family], self._services[family]
            senders, receivers = peers, peers
            if touched is not None:
                senders = [peer for peer in peers if any(self._is_end(item, peer, True) for item in touched)]
                receivers = [peer for peer in peers if any(self._is_end(item, peer, False) for item in touched)]
                served = [_Served(item, family) for item in touched]
                services = [key for key in services if any(item.has(key) for item in served)]
            pairs = [
                (one, other)
                for one, other in product(senders, receivers)
                if one.name != other.name
                and not (self._resolved.has_inventory and one.port is None and other.port is None)
            ]
            step = max(1, -(-len(pairs) * len(services) // (MAXIMUM // 2)))
            complete &= step == 1
            kinds = (Probe(one, other, *service) for service in services for one, other in pairs)
            probes += islice(kinds, 0, None, step)
        return Corners(probes, complete)

    def _is_end(self, item: EffectiveRule, peer: Peer, is_source: bool) -> bool:
        rule = item.rule
        if is_source:
            peers, out = rule.sources, rule.sources_excluded
        else:
            peers, out = rule.destinations, rule.destinations_excluded
        return peers.is_any or self._resolved.contains(peers, peer.address) is not out


class _Served:
    """Which services a rule may match. A named port may be any."""

    def __init__(self, item: EffectiveRule, family: Family) -> None:
        self._family = family
        entries = (entry for service in item.rule.services for entry in service.entries)
        self._entries = [replace(entry, destination_port_name="") for entry in entries]
        self._any = not item.rule.services

    def has(self, key: tuple[int, int, int]) -> bool:
        """May it match (protocol, sport, dport)?"""
        flags = SYN if key[0] == PROTO_TCP else 0
        return self._any or any(entry.matches(self._family, *key, flags) for entry in self._entries)


def _peers(resolved: Resolved, family: Family) -> list[Peer]:
    """An end of each kind: vNICs first, then addresses that no vNIC has. A kind of vNIC has two of it, where there are
    two: they may talk to each other."""
    world, rules = resolved.world, resolved.rules
    peers = {side for item in rules for side in (item.rule.sources, item.rule.destinations) if not side.is_any}
    sides = list(map(resolved.side, peers))
    scopes = list(map(resolved.applied, {item.applied_to for item in rules}))

    def signature(address: Address) -> tuple[bool, ...]:
        return tuple(side.contains(address) for side in sides)

    found: list[Peer] = []
    counts: dict[object, int] = {}
    for number, port in enumerate(world.inventory):
        scope = tuple(bool(applied[number]) for applied in (*scopes, resolved.excluded))
        for address in port.ips:
            if address.family is family:
                kind = (signature(address), scope, _named(port))
                counts[kind] = counts.get(kind, 0) + 1
                if counts[kind] <= 2 or not resolved.has_inventory:
                    found.append(Peer(port, address))
    outside = [address for address in outside_addresses(world) if address.family is family]
    for address in dict.fromkeys((*outside, *_limits(sides, family))):
        if not world.inventory.ports_at(address):
            outsider = signature(address)
            counts[outsider] = counts.get(outsider, 0) + 1
            if counts[outsider] <= (1 if resolved.has_inventory else 2):
                found.append(Peer(None, address))
    return found


def _named(port: Port) -> tuple[tuple[str, int, int], ...]:
    return tuple(sorted((item.name, item.protocol, item.number) for item in port.named_ports))


def _limits(sides: Iterable[Side], family: Family) -> Iterator[Address]:
    """The addresses where the answer of some set may change: the first of each range and the first after it."""
    merged = [item for side in sides for item in side.ranges if item.family is family]
    values = {item.first for item in merged} | {item.last + 1 for item in merged} | {item.last for item in merged}
    values |= {value + 1 for value in values} | {1 << (family.bits - 8)}
    yield from (Address(family, value) for value in sorted(values) if value < 1 << family.bits)


def _services(world: PolicySet, entries: Sequence[ServiceEntry], family: Family) -> Iterator[tuple[int, int, int]]:
    """A service of each kind as (protocol, sport, dport); those that begin connections first."""
    own_icmp, other_icmp = _ICMP if family is Family.IPV4 else _ICMP[::-1]
    named = {(item.protocol, item.number) for port in world.inventory for item in port.named_ports}
    protocols = {entry.protocol for entry in entries if entry.protocol is not None} | {PROTO_TCP, own_icmp}
    protocols |= {protocol for protocol, _ in named} | {_OTHER_PROTOCOL}
    for protocol in sorted(protocols - {other_icmp}, key=lambda item: (item not in PROTOCOLS_WITH_PORTS, item)):
        mine = [entry for entry in entries if entry.protocol == protocol]
        if protocol in PROTOCOLS_WITH_PORTS:
            ports = [PortRange(number, number) for where, number in named if where == protocol]
            dports = _steps([item for entry in mine for item in entry.destination_ports] + ports)
            sports = _steps([item for entry in mine for item in entry.source_ports])
            sports = [EPHEMERAL_PORT, *(sports if len(sports) > 1 else ())]
            yield from ((protocol, sport, dport) for sport in sports for dport in dports)
        elif protocol == own_icmp:
            yield protocol, ECHO[protocol], 0
            types = {entry.icmp_type for entry in mine if entry.icmp_type is not None}
            codes = {entry.icmp_code for entry in mine if entry.icmp_code is not None} | {0, 255}
            yield from ((protocol, kind, code) for kind in sorted(types | {250}) for code in sorted(codes))
        else:
            yield protocol, 0, 0


def _steps(ranges: Iterable[PortRange]) -> list[int]:
    """A port of each interval between two neighbouring limits: the last of the first interval, the first of others."""
    limits = sorted({item.first for item in ranges} | {item.last + 1 for item in ranges if item.last < 65535})
    if not limits:
        return [EPHEMERAL_PORT]
    return [*([limits[0] - 1] if limits[0] else []), *limits]
