# SPDX-License-Identifier: Apache-2.0
"""One packet of a set, with the values of its fields: what a finding or a difference shows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTO_UDP,
    PROTOCOLS_WITH_PORTS,
    Address,
    Direction,
    Family,
    Port,
)
from dfw.packetrules import Space
from dfw.packetset import Box
from dfw.packetspace import AddressAxis

_NAMES = {PROTO_TCP: "tcp", PROTO_UDP: "udp", PROTO_ICMP: "icmp", PROTO_ICMPV6: "icmpv6", 132: "sctp"}
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_SYN = 0x02
_LOOKED_AT = 256  # vNICs, for a packet that reads like one


@dataclass(frozen=True, slots=True)
class Witness:
    """A packet at a vNIC. `vnic` None: at any, or at a filter on a wire. ICMP: `sport` is the type, `dport` the code.

    `source_in`, `destination_in`: groups that cannot be resolved here, of which the address must be a member.
    """

    vnic: str | None
    direction: Direction
    source: Address
    destination: Address
    protocol: int
    sport: int = 0
    dport: int = 0
    tcp_flags: int = 0
    source_in: tuple[str, ...] = ()
    destination_in: tuple[str, ...] = ()

    @property
    def is_icmp(self) -> bool:
        """Has it a type and a code?"""
        return self.protocol == (PROTO_ICMP if self.source.family is Family.IPV4 else PROTO_ICMPV6)

    def __str__(self) -> str:
        name = _NAMES.get(self.protocol, f"protocol {self.protocol}")
        if self.is_icmp:
            name += f" type {self.sport} code {self.dport}"
        elif self.tcp_flags not in (0, _SYN):
            name += f" {'+'.join(word for bit, word in enumerate(_FLAGS) if self.tcp_flags >> bit & 1)}"
        ends = [self._end(self.source, self.source_in), self._end(self.destination, self.destination_in)]
        if self.protocol in PROTOCOLS_WITH_PORTS:
            ends = [f"{end} port {port}" for end, port in zip(ends, (self.sport, self.dport), strict=True)]
        direction = "" if self.direction is Direction.IN_OUT else f", {self.direction.name}"
        at = "" if self.vnic is None else f" at {self.vnic}"
        return f"{name} {ends[0]} to {ends[1]}{direction}{at}"

    @staticmethod
    def _end(address: Address, groups: Sequence[str]) -> str:
        return f"a member of {' and '.join(groups)}" if groups else str(address)

    def as_json(self) -> dict[str, Any] | None:
        """Its fields; None where an end is not one address."""
        if self.source_in or self.destination_in:
            return None
        has_ports = self.protocol in PROTOCOLS_WITH_PORTS
        return {
            "vnic": self.vnic,
            "dir": self.direction.name,
            "protocol": self.protocol,
            "source": str(self.source),
            "destination": str(self.destination),
            "source_port": self.sport if has_ports else None,
            "destination_port": self.dport if has_ports else None,
            "icmp_type": self.sport if self.is_icmp else None,
            "icmp_code": self.dport if self.is_icmp else None,
            "tcp_flags": self.tcp_flags if self.protocol == PROTO_TCP else None,
        }


def witness_of(space: Space, box: Box, ports: Sequence[Port]) -> Witness:
    """One packet of a box: of a vNIC's own address, to another vNIC's, where the box has such. `ports`: by number."""
    number, direction = space.vnics.example(box.vnics)
    source, source_in = space.sources.example(box.sources)
    destination, destination_in = space.destinations.example(box.destinations)
    senders = dict(_bound(space, space.sources, box.sources, ports))
    receivers = dict(_bound(space, space.destinations, box.destinations, ports))
    for own, way in ((senders, Direction.OUT), (receivers, Direction.IN)):
        found = None if number is None else next((at for at in own if space.vnics.has(box.vnics, at, way)), None)
        if found is not None:
            number, direction = found, way
            break
    at_source, at_destination = (
        number if direction is Direction.OUT else None,
        number if direction is Direction.IN else None,
    )
    if senders:
        mine = at_source if at_source in senders else next((at for at in senders if at != at_destination), None)
        source, source_in = (source, source_in) if mine is None else (senders[mine], frozenset())
    if receivers:
        theirs = at_destination if at_destination in receivers else None
        if theirs is None:
            theirs = next((at for at in receivers if receivers[at] != source), None)
        if theirs is not None:
            destination, destination_in = receivers[theirs], frozenset()
    header = space.services.example(box.services)
    return Witness(
        None if number is None else ports[number].name,
        direction,
        Address(space.family, source),
        Address(space.family, destination),
        header.protocol,
        header.source,
        header.destination,
        header.flags,
        tuple(sorted(source_in)),
        tuple(sorted(destination_in)),
    )


def _bound(space: Space, axis: AddressAxis, mask: int, ports: Sequence[Port]) -> Iterator[tuple[int, int]]:
    """vNICs with an address in the classes: number and address."""
    for number, port in enumerate(ports[:_LOOKED_AT]):
        for address in port.ips:
            if address.family is space.family and axis.has(mask, address.value):
                yield number, address.value
                break
