# SPDX-License-Identifier: Apache-2.0
"""Rules that never decide because one rule above them matches whatever they match, each with a packet that shows it.

One rule against one rule: what is found is exact, what several rules cover together is not found.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dfw.membership import Membership
from dfw.model import (
    ANY_ENTRY,
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    PROTOCOLS_WITH_PORTS,
    Address,
    AddressRange,
    Direction,
    EffectiveRule,
    Family,
    Peers,
    PortRange,
    ServiceEntry,
)

# Bounds of the work, a few seconds: beyond them shadows may be missed, none is invented.
MAXIMUM_PAIRS = 1_000_000
MAXIMUM_DISTINCT = 1500
_ALL_PORTS = (PortRange(0, 65535),)
_NAMES = {PROTO_TCP: "tcp", PROTO_UDP: "udp", PROTO_ICMP: "icmp", PROTO_ICMPV6: "icmpv6"}
_EXAMPLE_PORT = 40000


class Ranges(NamedTuple):
    """Sorted disjoint addresses of one family, as parallel lists."""

    firsts: tuple[int, ...]
    lasts: tuple[int, ...]

    @property
    def is_all(self) -> bool:
        """Every address of a family (the last is 2^32-1 or 2^128-1)?"""
        return self.firsts == (0,) and self.lasts[0].bit_count() in (32, 128)

    def covers(self, other: Ranges) -> bool:
        """Is every address of the other one here too?"""
        if self is other:
            return True
        for first, last in zip(other.firsts, other.lasts, strict=True):
            at = bisect_right(self.firsts, first) - 1
            if at < 0 or self.lasts[at] < last:
                return False
        return True


def _side(ranges: Sequence[AddressRange] | None, excluded: bool, family: Family) -> Ranges:
    """One side of a rule in one family; None is ANY."""
    top = (1 << family.bits) - 1
    if ranges is None:
        return Ranges((0,), (top,))
    own = [item for item in ranges if item.family is family]
    if not excluded:
        return Ranges(tuple(item.first for item in own), tuple(item.last for item in own))
    firsts = [0, *(item.last + 1 for item in own)]
    lasts = [*(item.first - 1 for item in own), top]
    gaps = [(first, last) for first, last in zip(firsts, lasts, strict=True) if first <= last]
    return Ranges(tuple(first for first, _ in gaps), tuple(last for _, last in gaps))


class Box(NamedTuple):
    """A rule with its resolved members, per family."""

    item: EffectiveRule
    scope: frozenset[int]
    sources: dict[Family, Ranges]
    destinations: dict[Family, Ranges]
    entries: tuple[ServiceEntry, ...]

    def families(self) -> list[Family]:
        """The families in which the rule can match anything."""
        return [family for family in self.sources if self.sources[family].firsts and self.destinations[family].firsts]


class Resolver:
    """Makes boxes; equal sides are resolved once and are the same object."""

    def __init__(self, membership: Membership) -> None:
        self.membership = membership
        self._sides: dict[tuple[Peers, bool], dict[Family, Ranges]] = {}

    def box(self, item: EffectiveRule) -> Box:
        """Resolve one rule."""
        rule = item.rule
        sources = self._side(rule.sources, rule.sources_excluded, rule.families)
        destinations = self._side(rule.destinations, rule.destinations_excluded, rule.families)
        entries = tuple(entry for service in rule.services for entry in service.entries) or (ANY_ENTRY,)
        return Box(item, self.membership.members(item.applied_to), sources, destinations, entries)

    def _side(self, peers: Peers, excluded: bool, families: frozenset[Family]) -> dict[Family, Ranges]:
        if (peers, excluded) not in self._sides:
            ranges = None if peers.terms is None else self.membership.addresses(peers.terms)
            self._sides[peers, excluded] = {family: _side(ranges, excluded, family) for family in Family}
        both = self._sides[peers, excluded]
        return {family: both[family] for family in sorted(families)}


class Shadow(NamedTuple):
    """`above` matches every packet that `below` matches; `witness` is one of them."""

    above: EffectiveRule
    below: EffectiveRule
    witness: str


class _Index:
    """Which boxes cover a set of addresses on one side, in one family. Equal sets are one object (Resolver)."""

    def __init__(self, boxes: Sequence[Box], side: str, family: Family) -> None:
        self.distinct: dict[int, tuple[Ranges, set[int]]] = {}
        for number, box in enumerate(boxes):
            ranges = getattr(box, side).get(family)
            if ranges is not None:
                self.distinct.setdefault(id(ranges), (ranges, set()))[1].add(number)
        self.known: dict[int, set[int]] = {}

    def covering(self, ranges: Ranges) -> set[int]:
        """Numbers of the boxes. Of more than MAXIMUM_DISTINCT sets only equal ones and ANY are looked at."""
        if id(ranges) not in self.known:
            found: set[int] = set()
            is_many = len(self.distinct) > MAXIMUM_DISTINCT
            for wide, numbers in self.distinct.values():
                if (wide is ranges or wide.is_all) if is_many else wide.covers(ranges):
                    found |= numbers
            self.known[id(ranges)] = found
        return self.known[id(ranges)]


def shadows(boxes: Sequence[Box], *, resolved: bool) -> Iterator[Shadow]:
    """The rules that one rule above covers, in order, each with the nearest that does.

    `resolved`: the inventory is known, so that Applied-To lists may be compared by their vNICs, not only by text.
    """
    indexes = {(side, family): _Index(boxes, side, family) for side in ("sources", "destinations") for family in Family}
    nearest = max(1, MAXIMUM_PAIRS // max(1, len(boxes)))
    for number, below in enumerate(boxes):
        families = below.families()
        if all(entry.destination_port_name for entry in below.entries):
            continue  # what it matches depends on who receives: no one packet shows it
        if not families or (resolved and not below.scope):
            continue
        first = families[0]
        candidates = indexes["sources", first].covering(below.sources[first]) & indexes["destinations", first].covering(
            below.destinations[first]
        )
        for other in sorted((item for item in candidates if item < number), reverse=True)[:nearest]:
            above = boxes[other]
            if above.item.resume_tier is None and _covers(above, below, families, resolved):
                yield Shadow(above.item, below.item, _witness(below, first))
                break


def _covers(above: Box, below: Box, families: Sequence[Family], resolved: bool) -> bool:
    upper, lower = above.item.rule, below.item.rule
    if lower.direction & ~upper.direction or not _scope_covers(above, below, resolved):
        return False
    for family in families:
        if family not in above.sources:
            return False
        own = [entry for entry in below.entries if family in entry.families]
        if not all(any(_entry_covers(wide, entry, family) for wide in above.entries) for entry in own):
            return False
        if not above.sources[family].covers(below.sources[family]):
            return False
        if not above.destinations[family].covers(below.destinations[family]):
            return False
    return True


def _scope_covers(above: Box, below: Box, resolved: bool) -> bool:
    upper, lower = above.item.applied_to, below.item.applied_to
    if upper.is_any or upper == lower:
        return True
    if resolved:
        return below.scope <= above.scope
    return not lower.is_any and _terms(lower) <= _terms(upper)


def _terms(peers: Peers) -> frozenset[object]:
    return frozenset(peers.terms or ())


def _entry_covers(wide: ServiceEntry, entry: ServiceEntry, family: Family) -> bool:
    if family not in wide.families or wide.protocol not in (None, entry.protocol):
        return False
    if wide.tcp_mask and (wide.tcp_mask & ~entry.tcp_mask or entry.tcp_value & wide.tcp_mask != wide.tcp_value):
        return False
    if wide.destination_port_name not in ("", entry.destination_port_name):
        return False  # which numbers it stands for depends on the receiver
    if wide.icmp_type not in (None, entry.icmp_type) or wide.icmp_code not in (None, entry.icmp_code):
        return False
    sides = ((wide.source_ports, entry.source_ports), (wide.destination_ports, entry.destination_ports))
    return all(_ports_cover(outer, inner or _ALL_PORTS) for outer, inner in sides)


def _ports_cover(outer: Sequence[PortRange], inner: Sequence[PortRange]) -> bool:
    return not outer or all(any(o.first <= i.first and i.last <= o.last for o in outer) for i in inner)


def _witness(box: Box, family: Family) -> str:
    own = (entry for entry in box.entries if family in entry.families and not entry.destination_port_name)
    entry = next(own, ANY_ENTRY)
    protocol = PROTO_TCP if entry.protocol is None else entry.protocol
    source = str(Address(family, _example(box.sources[family])))
    destination = str(Address(family, _example(box.destinations[family])))
    name = _NAMES.get(protocol, f"protocol {protocol}")
    if protocol in PROTOCOLS_WITH_PORTS:
        sport = entry.source_ports[0].first if entry.source_ports else _EXAMPLE_PORT
        dport = entry.destination_ports[0].first if entry.destination_ports else _EXAMPLE_PORT
        ends = f"{source} port {sport} to {destination} port {dport}"
    else:
        ends = f"{source} to {destination}"
        if protocol in (PROTO_ICMP, PROTO_ICMPV6) and entry.icmp_type is not None:
            name = f"{name} type {entry.icmp_type} code {entry.icmp_code or 0}"
    return f"{name} {ends}, {'OUT' if box.item.rule.direction & Direction.OUT else 'IN'}"


def _example(ranges: Ranges) -> int:
    """An address of the set that reads like one: not the first of everything."""
    first, last = ranges.firsts[0], ranges.lasts[0]
    if first == 0 and last - first > 0x0A000001:
        return 0x0A000001 if last < 1 << 32 else min(last, (0x20010DB8 << 96) + 1)
    return first
