# SPDX-License-Identifier: Apache-2.0
"""A workbench for the oracle's tests: packets from plain fields, and a tap that they are sent through."""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import replace

from dfw.model import Action, Direction, Policy, PolicySet, Rule, Service, ServiceEntry, Tier, Timers
from dfw.oracle import Judgement, Options, Replay
from dfw.oracle.checksum import crc32c, internet_checksum, pseudo_header

ETHERNET = 1
RAW = 101
A, B, C = "10.0.0.1", "10.0.0.2", "10.0.0.3"
A6, B6 = "fd00::1", "fd00::2"
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
ICMP, IGMP, TCP, UDP, ICMPV6, SCTP = 1, 2, 6, 17, 58, 132


def number(address: str) -> int:
    """An address as an integer."""
    return int(ipaddress.ip_address(address))


def ip(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    fragment: int = 0,
    ident: int = 0,
    options: bytes = b"",
) -> bytes:
    """An IPv4 or IPv6 packet. `fragment`: the IPv4 field with its flags."""
    a, b = ipaddress.ip_address(source), ipaddress.ip_address(destination)
    if a.version == 6:
        return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + a.packed + b.packed + payload
    length = 20 + len(options)
    header = struct.pack("!BBHHHBBH", 0x40 + length // 4, 0, length + len(payload), ident, fragment, 64, protocol, 0)
    header += a.packed + b.packed + options
    return header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:] + payload


def summed(source: str, destination: str, protocol: int, segment: bytes, at: int) -> bytes:
    """The segment with its checksum filled in at `at`."""
    a = ipaddress.ip_address(source)
    pseudo = b"" if protocol == ICMP else pseudo_header(a.version, int(a), number(destination), protocol, len(segment))
    return segment[:at] + internet_checksum(pseudo + segment).to_bytes(2, "big") + segment[at + 2 :]


def tcp(
    source: str,
    destination: str,
    ports: tuple[int, int],
    flags: int,
    seq: int = 0,
    ack: int = 0,
    *,
    window: int = 65_535,
    payload: bytes = b"",
    scale: int | None = None,
) -> bytes:
    """A TCP segment in IP."""
    options = b"" if scale is None else bytes((3, 3, scale, 1))
    offset = (20 + len(options)) // 4 << 4
    segment = struct.pack("!HHIIBBHHH", *ports, seq % 2**32, ack % 2**32, offset, flags, window, 0, 0)
    return ip(source, destination, TCP, summed(source, destination, TCP, segment + options + payload, 16))


def udp(source: str, destination: str, ports: tuple[int, int], payload: bytes = b"x") -> bytes:
    """A UDP datagram in IP."""
    segment = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    return ip(source, destination, UDP, summed(source, destination, UDP, segment, 6))


def icmp(source: str, destination: str, kind: int, code: int = 0, ident: int = 7, payload: bytes = b"") -> bytes:
    """An ICMP or ICMPv6 message, by the family of the addresses."""
    protocol = ICMPV6 if ":" in source else ICMP
    message = struct.pack("!BBHHH", kind, code, 0, ident, 1) + payload
    return ip(source, destination, protocol, summed(source, destination, protocol, message, 2))


def sctp(source: str, destination: str, ports: tuple[int, int], tag: int, *chunks: bytes) -> bytes:
    """An SCTP packet in IP."""
    packet = struct.pack("!HHII", *ports, tag, 0) + b"".join(chunks)
    return ip(source, destination, SCTP, packet[:8] + crc32c(packet).to_bytes(4, "little") + packet[12:])


def chunk(kind: int, body: bytes = b"", flags: int = 0) -> bytes:
    """One SCTP chunk, padded."""
    return struct.pack("!BBH", kind, flags, 4 + len(body)) + body + b"\0" * (-len(body) % 4)


def init(kind: int, tag: int) -> bytes:
    """INIT (1) or INIT_ACK (2)."""
    return chunk(kind, struct.pack("!IIHHI", tag, 1000, 1, 1, 1))


def rule(name: str, action: Action = Action.ALLOW, *entries: ServiceEntry, **more: object) -> Rule:
    """A rule that matches the entries, or everything."""
    services = (Service("", entries),) if entries else ()
    return replace(Rule(f"/p/rules/{name}", name, 1, action, services=services), **more)  # type: ignore[arg-type]


def policies(*rules: Rule, strict: bool = False, stateful: bool = True, timers: Timers | None = None) -> PolicySet:
    """One policy before the default section."""
    policy = Policy("/p", Tier.EMERGENCY, 0, rules=rules, tcp_strict=strict, stateful=stateful)
    return PolicySet(policies=(policy,), timers=timers or Timers())


ALLOW = policies(rule("any"))


class Tap:
    """A filter on a wire. Times are seconds."""

    def __init__(self, policyset: PolicySet | None = ALLOW, **options: object) -> None:
        self.run = Replay(policyset, None, Options(**options))  # type: ignore[arg-type]
        self.n = 0

    def feed(self, packet: bytes, at: float = 0.0, link: int = RAW, wire: int = 0) -> list[Judgement]:
        """Everything that this packet decides."""
        self.n += 1
        return self.run.feed(self.n, round(at * 1e9), packet, wire or len(packet), link)

    def send(self, packet: bytes, at: float = 0.0, link: int = RAW, wire: int = 0) -> str:
        """`VERDICT reason ct`, and ` reply`, of a packet that is judged at once."""
        (line,) = self.feed(packet, at, link, wire)
        return f"{line.verdict} {line.reason} {line.ct}" + (" reply" if line.reply else "")


__all__ = ["Direction", "Tap"]
