# SPDX-License-Identifier: Apache-2.0
"""The kernel's connections as a host's vNICs have them: what `show flows` says, and which a changed policy ends. Pure.

The kernel has one connection for both vNICs; its mark says at which of them a rule allowed it (dfw/nftables/render.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_interface
from typing import Any, Final

from dfw.compile import Compiled
from dfw.endpoint import protocol_name
from dfw.judge_batch import BatchJudge, Packet, keys_of
from dfw.layout import ACTION_ALLOW, RULE_STATEFUL
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, Direction, address_parse
from dfw.nftables.conntrack import EXPECTED, Connection, FirstPacket
from overlay.flow_filter import FlowFilter
from overlay.hoststate import HostState
from overlay.kernel_fabric import segment_zones
from overlay.kernel_tunnels import bridge_name

_SYN: Final = 0x02
_ICMP: Final = (PROTO_ICMP, PROTO_ICMPV6)
Owners = Mapping[tuple[int, int, int], str]
"""vNICs by conntrack zone, family and address."""


def vnic_owners(state: HostState) -> dict[tuple[int, int, int], str]:
    """Who has which address here."""
    zones = segment_zones(state)
    found = {}
    for vnic in state.vnics:
        zone = zones.get(bridge_name(state.segments[vnic.segment].vni), 0)
        for ip in vnic.ips:
            address = address_parse(str(ip_interface(ip).ip))
            found[zone, int(address.family), address.value] = vnic.name
    return found


def connection_ends(
    item: Connection, owners: Owners, first: Connection | FirstPacket
) -> Iterator[tuple[str | None, Direction]]:
    """The ends at which a rule allowed this connection: the vNIC, None where it is no longer here. `first`:
    itself, or the one that announced it, whose mark it has inherited."""
    for bit, address, direction in ((1, first.source, Direction.OUT), (2, first.destination, Direction.IN)):
        if item.mark & bit:
            yield owners.get((item.zone, int(address.family), address.value)), direction


def connections_refused(connections: Iterable[Connection], owners: Owners, compiled: Compiled) -> list[Connection]:
    """Those that a rule allowed at an end where no stateful rule would allow their first packet now, or which is gone.

    What an ALG announced is judged through its parent, as in the core. Raises CoreError.
    """
    known = [item for item in connections if item.parent is not None or not item.status & EXPECTED]
    return list({item.key: item for item, _, allows in ends_judged(known, owners, compiled) if not allows}.values())


def ends_judged(
    connections: Iterable[Connection], owners: Owners, compiled: Compiled
) -> Iterator[tuple[Connection, int, bool]]:
    """Connections at each end where a rule in force allowed them: the end's bit in their mark, and whether a stateful
    rule of these tables would allow their first packet there. One that is gone allows nothing. Raises CoreError."""
    asked: dict[str, list[tuple[Connection, int, Packet]]] = {}
    for item in connections:
        first = item.parent or item
        for vnic, direction in connection_ends(item, owners, first):
            bit = 1 if direction is Direction.OUT else 2
            if vnic is None:
                yield item, bit, False
                continue
            is_icmp = first.protocol in _ICMP
            ports = (0, first.dport & 0xFF00) if is_icmp else (first.sport, first.dport)
            packet = Packet(first.source, first.destination, first.protocol, *ports, _SYN, direction)
            asked.setdefault(vnic, []).append((item, bit, packet))
    for vnic, some in asked.items():
        judge = BatchJudge(compiled, vnic)
        entries = judge.entry_of(keys_of(packet for _, _, packet in some)).tolist()
        for (item, bit, _), entry in zip(some, entries, strict=True):
            row = judge.entries[entry] if entry >= 0 else None
            yield item, bit, row is not None and row["action"] == ACTION_ALLOW and bool(row["flags"] & RULE_STATEFUL)


def connections_meant(
    asked: FlowFilter, connections: Iterable[Connection], owners: Owners
) -> list[tuple[Connection, str, Direction]]:
    """The connections that are meant, once for each vNIC here that has it. What asks for a rule means none: the kernel
    does not remember it."""
    found = []
    for item in connections:
        for vnic, direction in connection_ends(item, owners, item):
            if vnic is not None and _is_meant(asked, item, vnic, direction):
                found.append((item, vnic, direction))
    return sorted(found, key=lambda row: (row[1], row[0].dport, row[0].sport))


def _is_meant(asked: FlowFilter, item: Connection, vnic: str, direction: Direction) -> bool:
    numbers = {"proto": {item.protocol}, "dir": {int(direction)}, "sport": {item.sport}, "dport": {item.dport}}
    numbers["port"] = {item.sport, item.dport}
    ends = {"src": (item.source,), "dst": (item.destination,), "addr": (item.source, item.destination)}
    return (
        asked.rule is None
        and asked.vnic in (None, vnic)
        and all(value in numbers[name] for name, value in asked.numbers.items())
        and all(any(wanted.contains(end) for end in ends[name]) for name, wanted in asked.ranges.items())
    )


def show_flows(found: Iterable[tuple[Connection, str, Direction]]) -> list[dict[str, Any]]:
    """Rows of `show flows`, as overlay/flows.py has them; the rule is not known."""
    return [
        {
            "vnic": vnic,
            "dir": direction.name,
            "proto": protocol_name(item.protocol),
            "src": str(item.source),
            "sport": item.sport,
            "dst": str(item.destination),
            "dport": item.dport & 0xFF00 if item.protocol in _ICMP else item.dport,
            "state": item.state or ("MULTIPLE" if item.status & 2 else "SINGLE"),
            "packets": item.packets[0],
            "bytes": item.octets[0],
            "reply_packets": item.packets[1],
            "reply_bytes": item.octets[1],
            "expires": float(item.timeout),
            "rule": None,
            "rule_path": None,
        }
        for item, vnic, direction in found
    ]
