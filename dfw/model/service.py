# SPDX-License-Identifier: Apache-2.0
"""Services: protocols, ports, ICMP types, TCP flags and ALGs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from dfw.model.inventory import NamedPort
from dfw.model.place import Place
from dfw.model.words import BOTH_FAMILIES, PROTO_ICMP, PROTO_ICMPV6, PROTOCOLS_WITH_PORTS, Alg, Family


class PortRange(NamedTuple):
    """Inclusive range of transport ports, 0..65535."""

    first: int
    last: int

    def contains(self, port: int) -> bool:
        """True where the port lies in the range."""
        return self.first <= port <= self.last


@dataclass(frozen=True, slots=True)
class ServiceEntry:
    """One alternative of a service. Empty port tuples, None and a zero mask mean "any".

    `protocol`: IANA number, None for every protocol. `tcp_mask`, `tcp_value`: matches where (flags & mask) == value
    (flag bits as in the TCP header, RFC 9293: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128).
    `families`: ICMP entries are confined to their own family. `alg`: acts only on connections that this entry matched.
    `destination_port_name`: the destination port is whichever the packet's receiver calls so, in `protocol`
    (Kubernetes: named ports are resolved for each destination pod, for ingress and for egress alike).
    `ether_type`: for layer-2 rules, which look at nothing else of a service; layer 3 matches nothing by such an entry.
    """

    protocol: int | None = None
    source_ports: tuple[PortRange, ...] = ()
    destination_ports: tuple[PortRange, ...] = ()
    icmp_type: int | None = None
    icmp_code: int | None = None
    tcp_mask: int = 0
    tcp_value: int = 0
    alg: Alg = Alg.NONE
    families: frozenset[Family] = BOTH_FAMILIES
    destination_port_name: str = ""
    ether_type: int | None = None

    def matches(
        self,
        family: Family,
        protocol: int,
        source: int,
        destination: int,
        tcp_flags: int = 0,
        named_ports: Collection[NamedPort] = (),
    ) -> bool:
        """Does a packet's transport header match?

        `source`, `destination`: ports; for ICMP and ICMPv6 the type and the code; 0 for protocols that have neither.
        `named_ports`: those of the workloads that have the packet's destination address.
        """
        if (
            self.ether_type is not None
            or family not in self.families
            or (self.protocol is not None and protocol != self.protocol)
        ):
            return False
        if (
            self.destination_port_name
            and NamedPort(self.destination_port_name, protocol, destination) not in named_ports
        ):
            return False
        if protocol in PROTOCOLS_WITH_PORTS:
            if self.source_ports and not any(item.contains(source) for item in self.source_ports):
                return False
            if self.destination_ports and not any(item.contains(destination) for item in self.destination_ports):
                return False
        if protocol in (PROTO_ICMP, PROTO_ICMPV6):
            if self.icmp_type is not None and source != self.icmp_type:
                return False
            if self.icmp_code is not None and destination != self.icmp_code:
                return False
        return (tcp_flags & self.tcp_mask) == self.tcp_value


ANY_ENTRY = ServiceEntry()


@dataclass(frozen=True, slots=True)
class Service:
    """A named list of alternatives; nested services are already written out. `path` is empty for inline entries."""

    path: str
    entries: tuple[ServiceEntry, ...]
    place: Place | None = field(default=None, compare=False, repr=False)
