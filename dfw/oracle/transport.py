# SPDX-License-Identifier: Apache-2.0
"""Transport headers (docs/packet-path.md section 1, step 5): TCP, UDP, SCTP, ICMP, ICMPv6; others by number."""

from __future__ import annotations

import struct

from dfw.oracle.packet import ACK, FIN, ICMP, ICMPV6, IPV4, IPV6, RST, SCTP, SYN, TCP, UDP, URG, Packet, RefusedError

_TCP_HEADER = struct.Struct("!HHIIBBH")
_UDP_HEADER = struct.Struct("!HHH")
_SCTP_HEADER = struct.Struct("!HHI")
_ICMP_HEADER = struct.Struct("!BBHH")

# ECE, CWR and PSH do not count.
_FLAGS_THAT_COUNT = FIN | SYN | RST | ACK | URG
_FLAGS_ALLOWED = frozenset(
    {SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG},
)
_SCALE_MAXIMUM = 14  # RFC 7323 section 2.3

_MAXIMUM_CHUNKS = 32
SCTP_DATA = 0
SCTP_INIT = 1
SCTP_INIT_ACK = 2
SCTP_ABORT = 6
SCTP_SHUTDOWN = 7
SCTP_SHUTDOWN_ACK = 8
SCTP_COOKIE_ECHO = 10
SCTP_COOKIE_ACK = 11
SCTP_SHUTDOWN_COMPLETE = 14
_DECIDING_CHUNKS = frozenset(
    {
        SCTP_INIT,
        SCTP_INIT_ACK,
        SCTP_ABORT,
        SCTP_SHUTDOWN,
        SCTP_SHUTDOWN_ACK,
        SCTP_COOKIE_ECHO,
        SCTP_COOKIE_ACK,
        SCTP_SHUTDOWN_COMPLETE,
    }
)


def parse_transport(packet: Packet) -> None:
    """Fill the transport fields of an unfragmented packet. Raises RefusedError."""
    protocol = packet.protocol
    if protocol == TCP:
        _parse_tcp(packet)
    elif protocol == UDP:
        _parse_udp(packet)
    elif (protocol == ICMP and packet.ip_version == IPV4) or (protocol == ICMPV6 and packet.ip_version == IPV6):
        _parse_icmp(packet)
    elif protocol == SCTP:
        _parse_sctp(packet)
    else:
        packet.payload = packet.l4
        packet.payload_length = packet.l4_length


def _require(packet: Packet, length: int) -> None:
    if packet.l4_length < length or packet.end - packet.l4 < length:
        raise RefusedError("short")


def _parse_tcp(packet: Packet) -> None:
    _require(packet, 20)
    at = packet.l4
    data = packet.data
    (
        packet.source_port,
        packet.destination_port,
        packet.sequence,
        packet.acknowledgement,
        offset_byte,
        flags,
        packet.window,
    ) = _TCP_HEADER.unpack_from(data, at)
    header = (offset_byte >> 4) * 4
    if header < 20 or header > packet.l4_length:
        raise RefusedError("l4-offset")
    if at + header > packet.end:
        raise RefusedError("short")
    if flags & _FLAGS_THAT_COUNT not in _FLAGS_ALLOWED:
        raise RefusedError("tcp-flags")
    packet.flags = flags
    packet.payload = at + header
    packet.payload_length = packet.l4_length - header
    if flags & SYN and header > 20:
        packet.scale = _tcp_scale(data, at + 20, at + header)


def _tcp_scale(data: bytes, at: int, end: int) -> int | None:
    """The window scale option (RFC 7323 section 2.2), the last one if repeated. A malformed option ends the walk."""
    scale = None
    while at < end:
        kind = data[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 2 > end:
            break
        length = data[at + 1]
        if length < 2 or at + length > end:
            break
        if kind == 3 and length == 3:
            scale = min(data[at + 2], _SCALE_MAXIMUM)
        at += length
    return scale


def _parse_udp(packet: Packet) -> None:
    _require(packet, 8)
    packet.source_port, packet.destination_port, length = _UDP_HEADER.unpack_from(packet.data, packet.l4)
    if length < 8 or length > packet.l4_length:
        raise RefusedError("l4-offset")
    packet.payload = packet.l4 + 8
    packet.payload_length = length - 8


def _parse_icmp(packet: Packet) -> None:
    _require(packet, 8)
    packet.icmp_type, packet.icmp_code, _, packet.identifier = _ICMP_HEADER.unpack_from(packet.data, packet.l4)
    packet.destination_port = packet.icmp_type * 256 + packet.icmp_code
    packet.payload = packet.l4 + 8
    packet.payload_length = packet.l4_length - 8


def _parse_sctp(packet: Packet) -> None:
    """The common header and a walk over the chunks (RFC 9260 section 3)."""
    _require(packet, 12)
    packet.source_port, packet.destination_port, packet.vtag = _SCTP_HEADER.unpack_from(packet.data, packet.l4)
    packet.payload = packet.l4 + 12
    packet.payload_length = packet.l4_length - 12
    data = packet.data
    at = packet.payload
    stated_end = packet.l4 + packet.l4_length
    chunks = 0
    decided = False
    has_init = False
    while at < stated_end:
        chunks += 1
        if chunks > _MAXIMUM_CHUNKS or at + 4 > packet.end:
            raise RefusedError("l4-offset")
        kind = data[at]
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 4 or at + length > packet.end:
            raise RefusedError("l4-offset")
        if kind in (SCTP_INIT, SCTP_INIT_ACK):
            has_init = True
            if length < 20 or (kind == SCTP_INIT and packet.vtag != 0):
                raise RefusedError("l4-offset")
            packet.initiate_tag = int.from_bytes(data[at + 4 : at + 8], "big")
        if not decided and kind in _DECIDING_CHUNKS:
            decided = True
            packet.chunk = kind
            packet.chunk_t_bit = bool(data[at + 1] & 1)
        at += (length + 3) & ~3
    if chunks == 0 or (has_init and chunks != 1):
        raise RefusedError("l4-offset")
