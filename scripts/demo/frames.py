# SPDX-License-Identifier: Apache-2.0
"""Packets built by hand: for the demo without a network, and for what no honest program sends."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from scripts.demo.hosts import Host

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
_FRAGMENT_HEADER = 44
MTU = 1500


def internet_sum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ipv4(source: str, target: str, protocol: int, payload: bytes, *, ident: int = 0, fragment: int = 0) -> bytes:
    """An IPv4 packet; `fragment` is the field of flags and offset (RFC 791)."""
    ends = ip_address(source).packed + ip_address(target).packed
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), ident, fragment, 64, protocol, 0) + ends
    return head[:10] + struct.pack("!H", internet_sum(head)) + head[12:] + payload


def ipv6(source: str, target: str, protocol: int, payload: bytes) -> bytes:
    """An IPv6 packet (RFC 8200)."""
    ends = ip_address(source).packed + ip_address(target).packed
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload


def transport_sum(source: str, target: str, protocol: int, segment: bytes, place: int) -> bytes:
    """The segment with its checksum, pseudo header included, put at `place`."""
    ends = ip_address(source).packed + ip_address(target).packed
    total = internet_sum(ends + struct.pack("!II", len(segment), protocol) + segment)
    return segment[:place] + struct.pack("!H", total or 0xFFFF) + segment[place + 2 :]


def tcp(
    source: str, target: str, ports: tuple[int, int], flags: int, seq: int, ack: int = 0, data: bytes = b""
) -> bytes:
    """A TCP segment without options (RFC 9293)."""
    head = struct.pack("!HHIIBBHHH", *ports, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, 5 << 4, flags, 64240, 0, 0)
    return transport_sum(source, target, TCP, head + data, 16)


def udp(source: str, target: str, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram (RFC 768)."""
    return transport_sum(source, target, UDP, struct.pack("!HHHH", *ports, 8 + len(data), 0) + data, 6)


def echo(source: str, target: str, ident: int, answer: bool) -> tuple[int, bytes]:
    """An echo request or answer of the addresses' family: protocol and message (RFC 792, RFC 4443)."""
    old = ip_address(source).version == 4
    kind = (0 if answer else 8) if old else (129 if answer else 128)
    message = struct.pack("!BBHHH", kind, 0, 0, ident, 1) + bytes(range(48))
    if old:
        return ICMP, message[:2] + struct.pack("!H", internet_sum(message)) + message[4:]
    return ICMP6, transport_sum(source, target, ICMP6, message, 2)


def packets(source: str, target: str, protocol: int, payload: bytes, ident: int) -> list[bytes]:
    """The IP packets of a payload: one, or its fragments where it exceeds the MTU."""
    if ip_address(source).version == 4:
        room = MTU - 20
        if len(payload) <= room:
            return [ipv4(source, target, protocol, payload, ident=ident)]
        return [
            ipv4(source, target, protocol, payload[at : at + room], ident=ident,
                 fragment=(0x2000 if at + room < len(payload) else 0) | at // 8)
            for at in range(0, len(payload), room)
        ]  # fmt: skip
    if len(payload) <= MTU - 40:
        return [ipv6(source, target, protocol, payload)]
    room = (MTU - 48) // 8 * 8
    made = []
    for at in range(0, len(payload), room):
        head = struct.pack("!BBHI", protocol, 0, at | (at + room < len(payload)), ident)
        made.append(ipv6(source, target, _FRAGMENT_HEADER, head + payload[at : at + room]))
    return made


def frame(source: Host, packet: bytes) -> bytes:
    """As the sender's vNIC sees it: to its router's MAC."""
    kind = 0x0800 if packet[0] >> 4 == 4 else 0x86DD
    router = bytes((2, 0, 0, 0, 0xAA, 1))
    return router + bytes.fromhex(source.mac.replace(":", "")) + struct.pack("!H", kind) + packet


def odd_packets(source: Host, target: Host) -> list[bytes]:
    """What scanners and attackers send: impossible flags, a stray segment, fragments that overlap, a source route."""
    a, b = source.v4, target.v4
    made = [
        ipv4(a, b, TCP, tcp(a, b, (61000, port), flags, 1000))
        for port, flags in ((80, FIN | PSH | URG), (81, 0), (82, SYN | FIN), (443, FIN | ACK))
    ]
    datagram = udp(a, b, (61001, 80), bytes(64))
    made.append(ipv4(a, b, UDP, datagram[:40], ident=77, fragment=0x2000))
    made.append(ipv4(a, b, UDP, datagram[32:], ident=77, fragment=4))
    return made
