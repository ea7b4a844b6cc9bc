# SPDX-License-Identifier: Apache-2.0
"""Packets built by hand: for the demo without a network, and for what no honest program sends."""

from __future__ import annotations

from dfw.model import Address, Family, address_parse
from dfw.packetbytes import (
    ACK,
    FIN,
    PSH,
    RST,
    SYN,
    ethernet_frame,
    icmp_message,
    ip_packet,
    ip_packets,
    tcp_segment,
    udp_datagram,
)
from scripts.demo.hosts import Host

__all__ = [
    "ACK",
    "FIN",
    "ICMP",
    "PSH",
    "RST",
    "SYN",
    "TCP",
    "UDP",
    "echo",
    "frame",
    "odd_packets",
    "packets",
    "tcp",
    "udp",
]

URG = 32
ICMP, TCP, UDP, ICMP6 = 1, 6, 17, 58
_ROUTER = "02:00:00:00:aa:01"


def tcp(
    source: str, target: str, ports: tuple[int, int], flags: int, seq: int, ack: int = 0, data: bytes = b""
) -> bytes:
    """A TCP segment without options (RFC 9293)."""
    return tcp_segment(_ends(source, target), ports, flags, seq, ack, data)


def udp(source: str, target: str, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram (RFC 768)."""
    return udp_datagram(_ends(source, target), ports, data)


def echo(source: str, target: str, ident: int, answer: bool) -> tuple[int, bytes]:
    """An echo request or answer of the addresses' family: protocol and message (RFC 792, RFC 4443)."""
    ends = _ends(source, target)
    rest = ident.to_bytes(2, "big") + b"\0\1" + bytes(range(48))
    if ends[0].family is Family.IPV4:
        return ICMP, icmp_message(ends, 0 if answer else 8, 0, rest)
    return ICMP6, icmp_message(ends, 129 if answer else 128, 0, rest)


def packets(source: str, target: str, protocol: int, payload: bytes, ident: int) -> list[bytes]:
    """The IP packets of a payload: one, or its fragments where it exceeds the MTU."""
    return list(ip_packets(_ends(source, target), protocol, payload, identification=ident))


def frame(source: Host, packet: bytes) -> bytes:
    """As the sender's vNIC sees it: to its router's MAC."""
    return ethernet_frame((source.mac, _ROUTER), packet)


def odd_packets(source: Host, target: Host) -> list[bytes]:
    """What scanners and attackers send: impossible flags, a stray segment, fragments that overlap."""
    ends = _ends(source.v4, target.v4)
    made = [
        ip_packet(ends, TCP, tcp_segment(ends, (61000, port), flags, 1000))
        for port, flags in ((80, FIN | PSH | URG), (81, 0), (82, SYN | FIN), (443, FIN | ACK))
    ]
    datagram = udp_datagram(ends, (61001, 80), bytes(64))
    made.append(ip_packet(ends, UDP, datagram[:40], identification=77, fragment=0x2000))
    made.append(ip_packet(ends, UDP, datagram[32:], identification=77, fragment=4))
    return made


def _ends(source: str, target: str) -> tuple[Address, Address]:
    return address_parse(source), address_parse(target)
