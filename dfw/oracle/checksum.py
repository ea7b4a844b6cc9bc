# SPDX-License-Identifier: Apache-2.0
"""Internet checksums (RFC 1071) and SCTP's CRC32c (RFC 9260 appendix A)."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from dfw.oracle.packet import ICMP, ICMPV6, IPV4, IPV6, SCTP, TCP, UDP, Packet


class ChecksumState(Enum):
    """What is known of a packet's transport checksum."""

    VERIFIED = "verified"
    BAD = "bad"
    UNVERIFIED = "unverified"


def internet_checksum(data: bytes) -> int:
    """The one's complement sum's complement over 16-bit words, odd bytes padded with zero; 0 over a good packet."""
    if len(data) % 2:
        data += b"\0"
    total = sum(memoryview(data).cast("H")) if data else 0
    # Words were read in host order; the sum commutes with byte swapping (RFC 1071 section 2B).
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return int.from_bytes((~total & 0xFFFF).to_bytes(2, _HOST_ORDER), "big")


_HOST_ORDER: Literal["little", "big"] = "little" if memoryview(b"\1\0").cast("H")[0] == 1 else "big"


def _crc32c_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC32C = _crc32c_table()


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC as an integer; SCTP stores it least significant byte first."""
    value = 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ _CRC32C[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def pseudo_header(ip_version: int, source: int, destination: int, protocol: int, length: int) -> bytes:
    """What TCP, UDP and ICMPv6 sum besides themselves (RFC 9293 section 3.1, RFC 8200 section 8.1)."""
    if ip_version == IPV4:
        addresses = source.to_bytes(4, "big") + destination.to_bytes(4, "big")
        return addresses + bytes((0, protocol)) + length.to_bytes(2, "big")
    addresses = source.to_bytes(16, "big") + destination.to_bytes(16, "big")
    return addresses + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))


def transport_checksum_state(packet: Packet) -> ChecksumState:
    """Verify the transport checksum of a parsed packet."""
    protocol = packet.protocol
    if packet.is_fragment or packet.zero_filled or packet.end < packet.l3 + packet.ip_length:
        return ChecksumState.UNVERIFIED
    segment = packet.data[packet.l4 : packet.l4 + packet.l4_length]
    if protocol == SCTP:
        expected = int.from_bytes(segment[8:12], "little")
        good = crc32c(segment[:8] + b"\0\0\0\0" + segment[12:]) == expected
    elif protocol == ICMP and packet.ip_version == IPV4:
        good = internet_checksum(segment) == 0
    elif protocol in (TCP, UDP) or (protocol == ICMPV6 and packet.ip_version == IPV6):
        if protocol == UDP:
            segment = segment[: int.from_bytes(segment[4:6], "big")]
            if segment[6:8] == b"\0\0":
                return ChecksumState.UNVERIFIED
        pseudo = pseudo_header(packet.ip_version, packet.source, packet.destination, protocol, len(segment))
        good = internet_checksum(pseudo + segment) == 0
    else:
        return ChecksumState.UNVERIFIED
    return ChecksumState.VERIFIED if good else ChecksumState.BAD
