# SPDX-License-Identifier: Apache-2.0
"""The kernel's connections by netlink (linux/netfilter/nfnetlink_conntrack.h): which there are; some are ended."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from dfw.model import PROTO_ICMP, PROTO_ICMPV6, Address, Family
from dfw.nftables.attributes import attribute_make, attributes_read, number_make
from dfw.nftables.netlink import ACKNOWLEDGE, DONE, DUMP, ERROR, NetfilterSocket

EXPECTED: Final = 1
"""Bit of `status`: an ALG had announced it."""
_NEW, _GET, _DELETE = 1 << 8, 1 << 8 | 1, 1 << 8 | 2
_MARK_MASK: Final = 21  # CTA_MARK_MASK
_ORIGINAL, _STATUS, _PROTOCOL_INFO, _TIMEOUT, _MARK = 1, 3, 4, 7, 8
_COUNTS, _REPLY_COUNTS, _ID, _MASTER, _ZONE = 9, 10, 12, 14, 18
_FAMILIES: Final = {Family.IPV4: 2, Family.IPV6: 10}
_STATES: Final = (
    "NONE",
    "SYN_SENT",
    "SYN_RECV",
    "ESTABLISHED",
    "FIN_WAIT",
    "CLOSE_WAIT",
    "LAST_ACK",
    "TIME_WAIT",
    "CLOSE",
    "SYN_SENT2",
)


@dataclass(frozen=True, slots=True)
class FirstPacket:
    """What a connection began with. ICMP: `sport` is the identifier, `dport` type * 256 + code."""

    source: Address
    destination: Address
    protocol: int
    sport: int
    dport: int


@dataclass(frozen=True, slots=True)
class Connection:
    """A connection by its first packet. ICMP: `sport` is the identifier, `dport` type * 256 + code. `packets` and
    `octets` of its first packet's direction and of replies are zero where the kernel does not count. `timeout`: seconds
    left. `state`: of TCP, else empty. `key`: what names it to the kernel. `parent`: the first packet of the connection
    that announced it to an ALG, None where none did."""

    source: Address
    destination: Address
    protocol: int
    sport: int
    dport: int
    mark: int
    zone: int
    status: int
    timeout: int
    state: str
    packets: tuple[int, int]
    octets: tuple[int, int]
    key: bytes
    parent: FirstPacket | None = None


class ConntrackSocket(NetfilterSocket):
    """Of the namespace of the thread that makes it. Raises OSError."""

    def connections(self) -> list[Connection]:
        """All that there are now. Raises OSError."""
        return [item for family in Family for item in self._dump(family)]

    def _dump(self, family: Family) -> Iterator[Connection]:
        asked = self.ask(_GET, DUMP, b"", _FAMILIES[family])
        while True:
            for kind, body in asked:
                if kind in (DONE, ERROR):
                    return
                yield _connection(family, dict(attributes_read(body[4:])))
            asked = self.answers()

    def end(self, connections: Iterable[Connection]) -> int:
        """End these: their next packets begin anew, if the rules let them. Returns how many were still there. Raises
        OSError."""
        ended = 0
        for item in connections:
            try:
                self.ask(_DELETE, ACKNOWLEDGE, item.key, _FAMILIES[item.source.family])
                ended += 1
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
        return ended

    def mark(self, connections: Iterable[tuple[Connection, int, int]]) -> int:
        """Give each of these connections a mark, as far as bits are in its mask. Returns how many were still there.
        Raises OSError."""
        marked = 0
        for item, mark, mask in connections:
            wanted = number_make(_MARK, mark & mask) + number_make(_MARK_MASK, mask)
            try:
                self.ask(_NEW, ACKNOWLEDGE, item.key + wanted, _FAMILIES[item.source.family])
                marked += 1
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise
        return marked


def _first_packet(family: Family, data: bytes) -> FirstPacket:
    values = dict(attributes_read(data))
    ends, ports = (dict(attributes_read(values[kind])) for kind in (1, 2))
    first = 1 if family is Family.IPV4 else 3
    source, destination = (Address(family, int.from_bytes(ends[at], "big")) for at in (first, first + 1))
    protocol = ports[1][0]
    sport, dport = (int.from_bytes(ports.get(at, b""), "big") for at in (2, 3))
    if protocol in (PROTO_ICMP, PROTO_ICMPV6):
        at = 4 if protocol == PROTO_ICMP else 7
        sport = int.from_bytes(ports.get(at, b""), "big")
        dport = ports.get(at + 1, b"\0")[0] << 8 | ports.get(at + 2, b"\0")[0]
    return FirstPacket(source, destination, protocol, sport, dport)


def _connection(family: Family, values: dict[int, bytes]) -> Connection:
    first = _first_packet(family, values[_ORIGINAL])
    tcp = dict(attributes_read(dict(attributes_read(values.get(_PROTOCOL_INFO, b""))).get(1, b"")))
    counts = [dict(attributes_read(values.get(kind, b""))) for kind in (_COUNTS, _REPLY_COUNTS)]
    packets, octets = ([int.from_bytes(count.get(at, b""), "big") for count in counts] for at in (1, 2))
    key = attribute_make(0x8000 | _ORIGINAL, values[_ORIGINAL])
    key += b"".join(attribute_make(kind, values[kind]) for kind in (_ZONE, _ID) if kind in values)
    return Connection(
        first.source,
        first.destination,
        first.protocol,
        first.sport,
        first.dport,
        _number(values, _MARK),
        int.from_bytes(values.get(_ZONE, b""), "big"),
        _number(values, _STATUS),
        _number(values, _TIMEOUT),
        _STATES[tcp[1][0]] if tcp.get(1) and tcp[1][0] < len(_STATES) else "",
        (packets[0], packets[1]),
        (octets[0], octets[1]),
        key,
        _first_packet(family, values[_MASTER]) if _MASTER in values else None,
    )


def _number(values: dict[int, bytes], kind: int) -> int:
    return int(struct.unpack(">I", values[kind])[0]) if kind in values else 0
