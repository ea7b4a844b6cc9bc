# SPDX-License-Identifier: Apache-2.0
"""Packets as bytes, built fast: fixed layouts, and checksums by arithmetic on whole integers.

The Internet checksum is a sum modulo 65,535 (RFC 1071), so that of a string of bytes is the big-endian integer modulo
65,535, and sums of parts that are known beforehand (addresses) are kept. Everything here makes correct packets; what is
wrong with a packet is done to it afterwards.
"""

from __future__ import annotations

import ipaddress
import itertools
from struct import Struct

TCP, UDP, ICMP, ICMP6, SCTP = 6, 17, 1, 58, 132
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = 1, 2, 4, 8, 16, 32, 64, 128

_IP4 = Struct("!HHHHHH4s4s")
_IP6 = Struct("!IHBB16s16s")
_TCP = Struct("!HHIIHHHH")
_UDP = Struct("!HHHH")
_ICMP = Struct("!BBHHH")


class End:
    """One end of conversations: an address and the MAC that carries it."""

    __slots__ = ("family", "ip", "mac", "name")

    def __init__(self, address: str, mac: str, name: str = "") -> None:
        parsed = ipaddress.ip_address(address)
        self.family = parsed.version
        self.ip = parsed.packed
        self.mac = bytes.fromhex(mac.replace(":", ""))
        self.name = name


class Path:
    """From one end to another; `back` is the other way."""

    __slots__ = ("_sum", "back", "dmac", "dst", "family", "smac", "src")

    def __init__(self, source: End, destination: End, back: Path | None = None) -> None:
        self.family = source.family
        self.src, self.dst = source.ip, destination.ip
        self.smac, self.dmac = source.mac, destination.mac
        self._sum = int.from_bytes(self.src + self.dst) % 65535
        self.back: Path = back or Path(destination, source, self)

    def ip(self, protocol: int, body: bytes, ident: int = 0, fragment: int = 0, options: bytes = b"") -> bytes:
        """An IP packet around `body`; `ident`, `fragment` and `options` are IPv4's."""
        if self.family == 6:
            return _IP6.pack(0x60000000, len(body), protocol, 64, self.src, self.dst) + body
        words = 0x4000 | (5 + len(options) // 4) << 8
        total = 20 + len(options) + len(body)
        ttl = 0x4000 | protocol
        checksum = 65535 - (words + total + ident + fragment + ttl + self._sum + int.from_bytes(options)) % 65535
        return _IP4.pack(words, total, ident, fragment, ttl, checksum, self.src, self.dst) + options + body

    def checksum(self, protocol: int, body: bytes) -> int:
        """Transport checksum over pseudo-header and body, whose checksum field is zero."""
        number = int.from_bytes(body)
        if len(body) & 1:
            number <<= 8
        return 65535 - (number + self._sum + protocol + len(body)) % 65535

    def tcp(
        self,
        sport: int,
        dport: int,
        seq: int,
        ack: int,
        flags: int,
        window: int,
        payload: bytes = b"",
        options: bytes = b"",
        ident: int = 0,
    ) -> bytes:
        """A TCP segment in IP; options are padded by the caller to a multiple of four."""
        seq &= 0xFFFFFFFF
        ack &= 0xFFFFFFFF
        word = (5 + len(options) // 4) << 12 | flags
        rest = options + payload
        size = 20 + len(rest)
        number = int.from_bytes(rest)
        if size & 1:
            number <<= 8
        number += sport + dport + seq + ack + word + window + self._sum + 6 + size
        checksum = 65535 - number % 65535
        return self.ip(TCP, _TCP.pack(sport, dport, seq, ack, word, window, checksum, 0) + rest, ident)

    def udp(self, sport: int, dport: int, payload: bytes = b"", ident: int = 0) -> bytes:
        """A UDP datagram in IP."""
        body = _UDP.pack(sport, dport, 8 + len(payload), 0) + payload
        checksum = self.checksum(UDP, body) or 65535
        return self.ip(UDP, body[:6] + checksum.to_bytes(2) + payload, ident)

    def icmp(self, kind: int, code: int, first: int = 0, second: int = 0, payload: bytes = b"") -> bytes:
        """ICMP of the path's family; `first` and `second` are the two halves of the rest of the header."""
        body = _ICMP.pack(kind, code, 0, first, second) + payload
        if self.family == 6:
            return self.ip(ICMP6, body[:2] + self.checksum(ICMP6, body).to_bytes(2) + body[4:])
        number = int.from_bytes(body) << (8 if len(body) & 1 else 0)
        return self.ip(ICMP, body[:2] + (65535 - number % 65535).to_bytes(2) + body[4:])

    def sctp(self, sport: int, dport: int, tag: int, chunks: bytes) -> bytes:
        """An SCTP packet in IP (RFC 9260), CRC32c little-endian."""
        head = sport.to_bytes(2) + dport.to_bytes(2) + (tag & 0xFFFFFFFF).to_bytes(4)
        crc = crc32c(head + b"\0\0\0\0" + chunks)
        return self.ip(SCTP, head + crc.to_bytes(4, "little") + chunks)


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


_CRC = _crc_table()


def crc32c(data: bytes) -> int:
    """CRC32c (Castagnoli), as SCTP has it."""
    crc = 0xFFFFFFFF
    table = _CRC
    for byte in data:
        crc = crc >> 8 ^ table[(crc ^ byte) & 255]
    return crc ^ 0xFFFFFFFF


def chunk(kind: int, flags: int = 0, value: bytes = b"") -> bytes:
    """One SCTP chunk, padded."""
    size = 4 + len(value)
    return bytes((kind, flags)) + size.to_bytes(2) + value + b"\0" * (-size % 4)


def ipv6_extend(packet: bytes, headers: bytes, first: int) -> bytes:
    """An IPv6 packet with extension headers put before what it carries.

    `headers` is a chain whose last next-header byte the caller has set; `first` is the type of its first header.
    """
    size = int.from_bytes(packet[4:6]) + len(headers)
    return packet[:4] + size.to_bytes(2) + bytes((first,)) + packet[7:40] + headers + packet[40:]


def fragments(packet: bytes, cuts: list[int], ident: int) -> list[bytes]:
    """An IPv4 or IPv6 packet in fragments, cut at these payload offsets (multiples of 8), in order of offset.

    IPv4 options are repeated in each; IPv6 packets must carry no extension headers.
    """
    if packet[0] >> 4 == 4:
        header = (packet[0] & 15) * 4
        body = packet[header:]
    else:
        header = 40
        body = packet[40:]
    edges = [0, *cuts, len(body)]
    out = []
    for begin, end in itertools.pairwise(edges):
        out.append(fragment(packet, header, body[begin:end], begin, end < len(body), ident))
    return out


def fragment(packet: bytes, header: int, piece: bytes, offset: int, more: bool, ident: int) -> bytes:
    """One fragment of a packet: `piece` at byte `offset` of its payload."""
    if packet[0] >> 4 == 4:
        head = bytearray(packet[:header])
        head[2:4] = (header + len(piece)).to_bytes(2)
        head[4:6] = (ident & 0xFFFF).to_bytes(2)
        head[6:8] = (offset // 8 | (0x2000 if more else 0)).to_bytes(2)
        head[10:12] = b"\0\0"
        head[10:12] = (65535 - int.from_bytes(head) % 65535).to_bytes(2)
        return bytes(head) + piece
    extra = bytes((packet[6], 0)) + (offset | more).to_bytes(2) + (ident & 0xFFFFFFFF).to_bytes(4)
    return packet[:4] + (8 + len(piece)).to_bytes(2) + b"\x2c" + packet[7:40] + extra + piece


def ethernet(path: Path, packet: bytes, tags: tuple[tuple[int, int], ...] = ()) -> bytes:
    """The frame of an IP packet; `tags` are (TPID, TCI)."""
    kind = b"\x86\xdd" if path.family == 6 else b"\x08\x00"
    middle = b"".join(tpid.to_bytes(2) + tci.to_bytes(2) for tpid, tci in tags)
    return path.dmac + path.smac + middle + kind + packet


def arp(path: Path, operation: int = 1) -> bytes:
    """An ARP frame, RFC 826; IPv4 paths only."""
    body = b"\0\x01\x08\0\x06\x04" + operation.to_bytes(2) + path.smac + path.src + b"\0" * 6 + path.dst
    return b"\xff" * 6 + path.smac + b"\x08\x06" + body
