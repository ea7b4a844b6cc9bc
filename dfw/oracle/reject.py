# SPDX-License-Identifier: Apache-2.0
"""What REJECT sends (docs/packet-path.md section 10): TCP RST, ICMP 3/13, ICMPv6 1/1, from IP up."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field

from dfw.model import Limits
from dfw.oracle import icmp
from dfw.oracle.checksum import ChecksumState, internet_checksum, pseudo_header, transport_checksum_state
from dfw.oracle.flow import Connection
from dfw.oracle.limits import OTHERS, Prefix, prefix_of, share_of, side_of
from dfw.oracle.packet import ACK, ICMP, ICMPV6, IPV4, RST, TCP, Packet
from dfw.oracle.tcp import TcpTracker, sequence_end

_TICKS_PER_SECOND = 100
_QUOTE_V4 = 8  # bytes after the quoted IP header (RFC 792)
_ANSWER_V6 = 1_280  # RFC 4443 section 2.4 (c)


@dataclass(slots=True)
class RejectBudget:
    """Answers sent by one filter within the current second."""

    limits: Limits
    second: int = -1
    sent: Counter[tuple[str, str, Prefix | None]] = field(default_factory=Counter)

    def take(self, packet: Packet, direction: int, now: int) -> bool:
        """May one more answer go to the source of this packet, which ran in `direction`? It counts if so."""
        second = now // _TICKS_PER_SECOND
        if second != self.second:
            self.second = second
            self.sent.clear()
        limits, side = self.limits, side_of(direction)
        shares: dict[tuple[str, str, Prefix | None], int] = {
            (side, "all", None): share_of(limits.rejects_own, limits.rejects_others, direction),
            (side, "source", (packet.ip_version, packet.source)): limits.rejects_peer,
        }
        if side == OTHERS:
            shares[side, "prefix", prefix_of(packet.ip_version, packet.source)] = limits.rejects_prefix
        if any(self.sent[who] >= limit for who, limit in shares.items()):
            return False
        self.sent.update(shares.keys())
        return True


def is_answered(packet: Packet) -> bool:
    """Does a refused packet get an answer at all?"""
    if packet.protocol == TCP and packet.flags & RST:
        return False
    if icmp.is_error(packet):
        return False
    if packet.destination_mac is not None and packet.destination_mac[0] & 1:
        return False  # a directed broadcast, whose address does not say so (RFC 1122 section 3.2.2)
    if not (_is_unicast(packet.ip_version, packet.source) and _is_unicast(packet.ip_version, packet.destination)):
        return False
    if packet.ip_version == IPV4 and not packet.reassembled:
        header = packet.data[packet.l3 : packet.l4]
        if internet_checksum(header) != 0:
            return False
    return transport_checksum_state(packet) is not ChecksumState.BAD


def is_group_address(ip_version: int, address: int) -> bool:
    """Multicast, or the limited broadcast."""
    if ip_version == IPV4:
        return address >> 28 == 14 or address == 0xFFFFFFFF
    return address >> 120 == 0xFF


def _is_unicast(ip_version: int, address: int) -> bool:
    return address != 0 and not is_group_address(ip_version, address)


def answer(packet: Packet) -> bytes:
    """The answer to a refused packet, for which `is_answered` holds: from its destination to its source."""
    if packet.protocol != TCP:
        return _unreachable(packet)
    if packet.flags & ACK:
        sequence, acknowledgement, flags = packet.acknowledgement, 0, RST
    else:
        sequence, acknowledgement, flags = 0, sequence_end(packet), RST | ACK
    return _reset(
        packet.ip_version,
        (packet.destination, packet.source),
        (packet.destination_port, packet.source_port),
        (sequence, acknowledgement, flags),
    )


def answer_connection(connection: Connection, direction: int, packet: Packet) -> list[bytes]:
    """What both ends of a connection get that is no longer allowed; the packet's sender first."""
    tracker = connection.tracker
    if not isinstance(tracker, TcpTracker):
        return [_unreachable(packet)]
    addresses = connection.source, connection.destination
    ports = connection.source_port, connection.destination_port
    resets = []
    for end in (direction, 1 - direction):
        half = tracker.halves[end]
        if not half.seen:
            continue
        numbers = (half.ack, 0, RST) if half.acked else (0, half.end, RST | ACK)
        other = 1 - end
        resets.append(
            _reset(connection.ip_version, (addresses[other], addresses[end]), (ports[other], ports[end]), numbers)
        )
    return resets


def _reset(ip_version: int, addresses: tuple[int, int], ports: tuple[int, int], numbers: tuple[int, int, int]) -> bytes:
    sequence, acknowledgement, flags = numbers
    segment = struct.pack("!HHIIBBHHH", ports[0], ports[1], sequence, acknowledgement, 5 << 4, flags, 0, 0, 0)
    return _send(ip_version, addresses[0], addresses[1], TCP, segment, 16)


def _unreachable(packet: Packet) -> bytes:
    """Communication administratively prohibited (RFC 1812 section 5.2.7.1, RFC 4443 section 3.1)."""
    if packet.ip_version == IPV4:
        quote = packet.data[packet.l3 : min(packet.end, packet.l4 + _QUOTE_V4)]
        protocol, message = ICMP, bytes((3, 13, 0, 0, 0, 0, 0, 0)) + quote
    else:
        quote = packet.data[packet.l3 : min(packet.end, packet.l3 + _ANSWER_V6 - 48)]
        protocol, message = ICMPV6, bytes((1, 1, 0, 0, 0, 0, 0, 0)) + quote
    return _send(packet.ip_version, packet.destination, packet.source, protocol, message, 2)


def _send(ip_version: int, source: int, destination: int, protocol: int, message: bytes, checksum_at: int) -> bytes:
    """Put an IP header before a message and fill in the checksums."""
    summed = message
    if protocol != ICMP:
        summed = pseudo_header(ip_version, source, destination, protocol, len(message)) + message
    checksum = internet_checksum(summed).to_bytes(2, "big")
    message = message[:checksum_at] + checksum + message[checksum_at + 2 :]
    if ip_version != IPV4:
        start = struct.pack("!IHBB", 6 << 28, len(message), protocol, 64)
        return start + source.to_bytes(16, "big") + destination.to_bytes(16, "big") + message
    header = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(message), 0, 0x4000, 64, protocol, 0, source, destination)
    return header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:] + message
