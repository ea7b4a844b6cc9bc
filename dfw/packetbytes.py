# SPDX-License-Identifier: Apache-2.0
"""Packets as bytes, with lengths and sums right: what people ask about, and what their tests send. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from dfw.model import PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Address, Family, mac_packed
from dfw.oracle.checksum import crc32c, internet_checksum, pseudo_header

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
INIT, INIT_ACK, COOKIE_ECHO, COOKIE_ACK = 1, 2, 10, 11  # SCTP chunk types, RFC 9260 section 3.2
DATA, ABORT, SHUTDOWN, SHUTDOWN_ACK, SHUTDOWN_COMPLETE = 0, 6, 7, 8, 14
MTU = 1500
_FRAGMENT_HEADER = 44
_HOP_LIMIT = 64


def tcp_segment(
    ends: tuple[Address, Address], ports: tuple[int, int], flags: int, seq: int, ack: int = 0, data: bytes = b""
) -> bytes:
    """A TCP segment without options, window 65,535 (RFC 9293 section 3.1)."""
    head = struct.pack("!HHIIBBHHH", *ports, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 0x50, flags, 0xFFFF, 0, 0)
    return _summed(ends, PROTO_TCP, head + data, 16)


def udp_datagram(ends: tuple[Address, Address], ports: tuple[int, int], data: bytes = b"") -> bytes:
    """A UDP datagram (RFC 768)."""
    segment = _summed(ends, PROTO_UDP, struct.pack("!HHHH", *ports, 8 + len(data), 0) + data, 6)
    return segment if segment[6:8] != b"\0\0" else segment[:6] + b"\xff\xff" + segment[8:]


def icmp_message(ends: tuple[Address, Address], kind: int, code: int, rest: bytes) -> bytes:
    """An ICMP or ICMPv6 message of the addresses' family; `rest`: what follows the checksum (RFC 792, RFC 4443)."""
    message = bytes((kind, code, 0, 0)) + rest
    if ends[0].family is Family.IPV6:
        return _summed(ends, PROTO_ICMPV6, message, 2)
    return message[:2] + internet_checksum(message).to_bytes(2, "big") + rest


def sctp_packet(ports: tuple[int, int], tag: int, chunks: bytes) -> bytes:
    """An SCTP packet of these chunks (RFC 9260 section 3)."""
    common = struct.pack("!HHI", *ports, tag)
    return common + crc32c(common + bytes(4) + chunks).to_bytes(4, "little") + chunks


def sctp_chunk(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """A chunk, padded to whole words."""
    return struct.pack("!BBH", kind, flags, 4 + len(body)) + body + bytes(-len(body) % 4)


def sctp_init(kind: int, tag: int) -> bytes:
    """INIT or INIT ACK that gives this tag, one stream each way (RFC 9260 section 3.3.2)."""
    return sctp_chunk(kind, struct.pack("!IIHHI", tag, 65536, 1, 1, 0))


def ip_packet(
    ends: tuple[Address, Address], protocol: int, body: bytes, *, identification: int = 0, fragment: int = 0
) -> bytes:
    """An IPv4 or IPv6 packet without options. `fragment`: IPv4's field of flags and offset (RFC 791 section 3.1)."""
    addresses = ends[0].packed + ends[1].packed
    if ends[0].family is Family.IPV6:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, _HOP_LIMIT) + addresses + body
    size = 20 + len(body)
    head = struct.pack("!BBHHHBB", 0x45, 0, size, identification, fragment, _HOP_LIMIT, protocol)
    return head + internet_checksum(head + b"\0\0" + addresses).to_bytes(2, "big") + addresses + body


def ip_packets(
    ends: tuple[Address, Address], protocol: int, body: bytes, *, mtu: int = MTU, identification: int = 1
) -> Iterator[bytes]:
    """The packet, or its fragments in order where it is longer than `mtu` bytes (RFC 791, RFC 8200 section 4.5)."""
    is_v6 = ends[0].family is Family.IPV6
    if len(body) + (40 if is_v6 else 20) <= mtu:
        yield ip_packet(ends, protocol, body)
        return
    room = (mtu - (48 if is_v6 else 20)) // 8 * 8
    for at in range(0, len(body), room):
        part, more = body[at : at + room], at + room < len(body)
        if is_v6:
            head = struct.pack("!BBHI", protocol, 0, at | more, identification)
            yield ip_packet(ends, _FRAGMENT_HEADER, head + part)
        else:
            field = more << 13 | at // 8
            yield ip_packet(ends, protocol, part, identification=identification, fragment=field)


def ethernet_frame(macs: tuple[str, str], packet: bytes) -> bytes:
    """The packet from the first of these MAC addresses to the second."""
    source, destination = map(mac_packed, macs)
    return destination + source + (b"\x08\x00" if packet[0] >> 4 == 4 else b"\x86\xdd") + packet


def _summed(ends: tuple[Address, Address], protocol: int, body: bytes, at: int) -> bytes:
    """The body with its sum, pseudo header included, at this place, which holds 0."""
    version = 4 if ends[0].family is Family.IPV4 else 6
    head = pseudo_header(version, ends[0].value, ends[1].value, protocol, len(body))
    return body[:at] + internet_checksum(head + body).to_bytes(2, "big") + body[at + 2 :]
