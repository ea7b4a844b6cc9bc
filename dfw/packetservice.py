# SPDX-License-Identifier: Apache-2.0
"""The service axis of packet sets: protocols, ports, ICMP types and codes, TCP flags, in classes. Pure.

As in dfw/packetspace.py: two headers are in one class when the same service entries match both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    PROTOCOLS_WITH_PORTS,
    Family,
    PortRange,
    ServiceEntry,
)
from dfw.packetset import BudgetError, lowest_bit, mask_bits, mask_of
from dfw.packetspace import MAXIMUM_CLASSES

EXAMPLE_PORT = 40000
_SPARE_PROTOCOLS = (47, 50, 89, 2, 132, 103, 253)
_SYN, _ACK, _URG = 0x02, 0x10, 0x20
# Flag combinations that reach the rules (docs/packet-path.md, 4.5): these, with any of ECE, CWR and PSH.
_FLAGS = tuple(
    sorted(base | more for base in (2, 34, 18, 4, 20, 17, 49, 16, 48) for more in range(256) if not more & ~0xC8)
)


class Transport(NamedTuple):
    """Values of one protocol: each list holds alternatives, and all combinations of one of each. ICMP: `sources` are
    types, `destinations` codes. `flags`: of TCP."""

    protocol: int
    sources: tuple[PortRange, ...] = ()
    destinations: tuple[PortRange, ...] = ()
    flags: tuple[int, ...] = ()


class Header(NamedTuple):
    """One transport header. ICMP: `source` is the type, `destination` the code."""

    protocol: int
    source: int = 0
    destination: int = 0
    flags: int = 0


class _Part(NamedTuple):
    """Values of one field that the same entries contain."""

    signature: int
    ranges: tuple[PortRange, ...]


_ALL = (PortRange(0, 65535),)
_OCTET = (PortRange(0, 255),)


class ServiceAxis:
    """Protocols, ports, ICMP types and codes, TCP flags, in one family. `entries`: all that will be asked for."""

    def __init__(self, family: Family, entries: Iterable[ServiceEntry]) -> None:
        self.family = family
        self.icmp = PROTO_ICMP if family is Family.IPV4 else PROTO_ICMPV6
        self._entries = list(dict.fromkeys(entry for entry in entries if _in_family(entry, family)))
        self._classes: dict[tuple[int, int, bool], int] = {}
        self.transports: list[list[Transport]] = []
        self.later_tcp = 0
        """The classes of TCP segments that are no bare SYN: what TCP strict is about."""
        named = {entry.protocol for entry in self._entries if entry.protocol is not None}
        for protocol in (PROTO_TCP, PROTO_UDP, *sorted(named - {PROTO_TCP, PROTO_UDP})):
            self._add(protocol)
        others = [number for number in (*_SPARE_PROTOCOLS, *range(256)) if number not in {*named, PROTO_TCP, PROTO_UDP}]
        self._rest = frozenset(others)
        if others:
            anything = sum(1 << at for at, entry in enumerate(self._entries) if entry.protocol is None)
            self._put(-1, anything, False, Transport(others[0]))
        self.size = len(self.transports)
        self.full = (1 << self.size) - 1
        members: list[list[int]] = [[] for _ in self._entries]
        for (_, signature, is_later), number in self._classes.items():
            for at in mask_bits(signature):
                members[at].append(number)
            if is_later:
                self.later_tcp |= 1 << number
        self._masks = {
            entry: mask_of(numbers, self.size) for entry, numbers in zip(self._entries, members, strict=True)
        }

    def mask(self, entries: Iterable[ServiceEntry]) -> int:
        """The classes that one of these matches."""
        found = 0
        for entry in entries:
            found |= self._masks.get(entry, 0)
        return found

    def _put(self, protocol: int, signature: int, is_later: bool, transport: Transport) -> None:
        """`protocol` keeps protocols apart though the same entries match them: an example must be of one."""
        key = (protocol, signature, is_later)
        if key not in self._classes:
            self._classes[key] = len(self._classes)
            self.transports.append([])
        self.transports[self._classes[key]].append(transport)
        if len(self._classes) > MAXIMUM_CLASSES:
            raise BudgetError

    def _add(self, protocol: int) -> None:
        own = [(1 << at, entry) for at, entry in enumerate(self._entries) if entry.protocol in (None, protocol)]
        everything = sum(bit for bit, _ in own)
        if protocol in PROTOCOLS_WITH_PORTS:
            sources = _parts([(bit, entry.source_ports or _ALL) for bit, entry in own], 65535)
            destinations = _parts([(bit, entry.destination_ports or _ALL) for bit, entry in own], 65535)
        elif protocol == self.icmp:
            sources = _parts([(bit, _one(entry.icmp_type)) for bit, entry in own], 255)
            destinations = _parts([(bit, _one(entry.icmp_code)) for bit, entry in own], 255)
        else:
            # ICMP of the other family is a protocol by its number: type and code are 0 for its entries.
            zero = sum(bit for bit, entry in own if not (entry.icmp_type or entry.icmp_code))
            self._put(protocol, zero, False, Transport(protocol))
            return
        flags = self._flags(own) if protocol == PROTO_TCP else [(everything, False, ())]
        if len(sources) * len(destinations) * len(flags) > MAXIMUM_CLASSES:
            raise BudgetError
        for signature, is_later, values in flags:
            for source in sources:
                both = signature & source.signature
                for destination in destinations:
                    transport = Transport(protocol, source.ranges, destination.ranges, values)
                    self._put(protocol, both & destination.signature, is_later, transport)

    @staticmethod
    def _flags(own: Sequence[tuple[int, ServiceEntry]]) -> list[tuple[int, bool, tuple[int, ...]]]:
        """Combinations of flags by the entries that take them; bare SYNs first."""
        always = sum(bit for bit, entry in own if not entry.tcp_mask)
        some = [(bit, entry.tcp_mask, entry.tcp_value) for bit, entry in own if entry.tcp_mask]
        found: dict[tuple[bool, int], list[int]] = {}
        for flags in _FLAGS:
            signature = always | sum(bit for bit, mask, value in some if flags & mask == value)
            found.setdefault((flags & (_SYN | _ACK) != _SYN, signature), []).append(flags)
        return [(key[1], key[0], tuple(values)) for key, values in sorted(found.items())]

    def example(self, mask: int) -> Header:
        """A header of the classes: of TCP, a SYN, where they have one."""
        transport = self.transports[lowest_bit(mask)][0]
        if not transport.sources:
            return Header(transport.protocol)
        if transport.protocol == self.icmp:
            return Header(transport.protocol, transport.sources[0].first, transport.destinations[0].first)
        sport, dport = _port(transport.sources), _port(transport.destinations)
        return Header(transport.protocol, sport, dport, transport.flags[0] if transport.flags else 0)

    def header_in(self, mask: int) -> Iterator[Transport]:
        """All values of the classes."""
        for number in mask_bits(mask):
            yield from self.transports[number]

    @property
    def other_protocols(self) -> frozenset[int]:
        """Those that no entry names: one class, with one of them as its example."""
        return self._rest


def _in_family(entry: ServiceEntry, family: Family) -> bool:
    return family in entry.families and entry.ether_type is None


def _one(value: int | None) -> tuple[PortRange, ...]:
    return _OCTET if value is None else (PortRange(value, value),)


def _parts(own: Sequence[tuple[int, tuple[PortRange, ...]]], most: int) -> list[_Part]:
    """The values 0..most by the entries (bits) that contain them."""
    inside: dict[int, int] = {0: 0}
    always = 0
    for bit, ranges in own:
        if ranges == (PortRange(0, most),):
            always |= bit
            continue
        changes: dict[int, int] = {}
        for first, last in ports_merge(ranges):
            changes[first] = changes.get(first, 0) ^ bit
            changes[last + 1] = changes.get(last + 1, 0) ^ bit
        for at, change in changes.items():
            inside[at] = inside.get(at, 0) ^ change
    inside.pop(most + 1, None)
    found: dict[int, list[PortRange]] = {}
    bounds = sorted(inside)
    signature = always
    for first, after in zip(bounds, [*bounds[1:], most + 1], strict=True):
        signature ^= inside[first]
        found.setdefault(signature, []).append(PortRange(first, after - 1))
    # What entries name comes first: an example is then one of theirs.
    ordered = sorted(found.items(), key=lambda item: item[0] == always)
    return [_Part(signature, tuple(ranges)) for signature, ranges in ordered]


def ports_merge(ranges: Iterable[PortRange]) -> tuple[PortRange, ...]:
    """The same ports as sorted, disjoint, non-adjacent ranges."""
    merged: list[PortRange] = []
    for item in sorted(ranges):
        if merged and item.first <= merged[-1].last + 1:
            merged[-1] = PortRange(merged[-1].first, max(merged[-1].last, item.last))
        else:
            merged.append(item)
    return tuple(merged)


def _port(ranges: Sequence[PortRange]) -> int:
    """A port that reads like one."""
    if any(item.contains(EXAMPLE_PORT) for item in ranges):
        return EXAMPLE_PORT
    first, last = ranges[0]
    return first or min(last, 1)
