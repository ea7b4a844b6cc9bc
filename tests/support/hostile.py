# SPDX-License-Identifier: Apache-2.0
"""Packets that are wrong, each in one way, for every reason that parsing has; and odd ones that are right."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.support.wire import ACK, ICMP, ICMP6, SCTP, SYN, TCP, UDP, Path, chunk, ipv6_extend

if TYPE_CHECKING:
    from tests.support.traffic import World

_TEXT = bytes(range(32, 127)) * 4
HOP, ROUTING, FRAGMENT, AH, NONE, OPTIONS = 0, 43, 44, 51, 59, 60


def _patched(packet: bytes, at: int, value: bytes) -> bytes:
    return packet[:at] + value + packet[at + len(value) :]


def _resummed(packet: bytes) -> bytes:
    """With the right IPv4 header checksum."""
    size = (packet[0] & 15) * 4
    head = bytearray(packet[:size])
    if size >= 20:
        head[10:12] = b"\0\0"
        head[10:12] = (65535 - int.from_bytes(head) % 65535).to_bytes(2)
    return bytes(head) + packet[size:]


def ip4_malformed(world: World, path: Path) -> bytes:
    """An IPv4 packet whose header is wrong, or odd."""
    rnd = world.rnd
    packet = path.udp(world.port(), 53, _TEXT[:20])
    kind = int(rnd() * 11)
    if kind == 0:
        return _patched(packet, 0, bytes((int(rnd() * 16) << 4 | 5,)))
    if kind == 1:
        return _patched(packet, 0, bytes((0x40 | int(rnd() * 5),)))
    if kind == 2:  # length under the header, and over what is there
        return _resummed(
            _patched(packet, 2, (int(rnd() * 20) if rnd() < 0.5 else len(packet) + 1 + int(rnd() * 9)).to_bytes(2))
        )
    if kind == 3:
        return packet[: int(rnd() * 28)]
    if kind == 4:  # a header that is longer than the packet says or than what is there
        return _patched(packet, 0, bytes((0x40 | 6 + int(rnd() * 10),)))
    if kind == 5:
        return _patched(packet, 10, bytes((packet[10] ^ 1 + int(rnd() * 255),)))
    if kind == 6:  # shorter than the frame: padding
        return packet + b"\0" * (1 + int(rnd() * 20))
    options = (
        b"\x07\x07\x04\0\0\0\0\0",  # record route
        b"\x01\x01\x01\x00",
        b"\x94\x04\0\0",  # router alert
        b"\x07\x01\0\0",
        b"\x07\x00\0\0",
        b"\x07\x09\x04\0\0\0\0\0",
        b"\x01\x01\x01\x07",
        b"\x83\x07\x04\x0a\0\0\1\0",  # loose source route
        b"\x89\x07\x04\x0a\0\0\1\0",  # strict
        b"\x83\x01\0\0",  # and a broken one
        b"\x00\x83\x03\x04",  # after the end of options
    )[int(rnd() * 11)]
    return path.ip(UDP, packet[20:], options=options)


def _chain(headers: list[tuple[int, bytes]], last: int) -> tuple[bytes, int]:
    """Extension headers (type, bytes from the third on) strung together, and the type of the first."""
    out = b""
    following = last
    for kind, rest in reversed(headers):
        size = 2 + len(rest)
        units = size // 4 - 2 if kind == AH else size // 8 - 1
        if kind == FRAGMENT:
            units = 0
        out = bytes((following, units)) + rest + out
        following = kind
    return out, following


def ip6_extended(world: World, packet: bytes) -> bytes:
    """An IPv6 packet with one to three extension headers of the kinds that are fine."""
    rnd = world.rnd
    kinds = [
        (OPTIONS, b"\x01\x04\0\0\0\0"),
        (AH, b"\0" * 10),
        (FRAGMENT, b"\0\0\0\0\0\x07"),
        (ROUTING, b"\x02\0\0\0\0\0"),
    ]
    chosen = [kinds[int(rnd() * len(kinds))] for _ in range(1 + int(rnd() * 3))]
    if rnd() < 0.3:
        chosen.insert(0, (HOP, b"\x01\x04\0\0\0\0"))
    return ipv6_extend(packet, *_chain(chosen, packet[6]))


def ip6_malformed(world: World, path: Path) -> bytes:
    """An IPv6 packet whose header or extension headers are wrong."""
    rnd = world.rnd
    packet = path.udp(world.port(), 53, _TEXT[:20])
    kind = int(rnd() * 13)
    pad = b"\x01\x04\0\0\0\0"
    if kind == 0:
        return _patched(packet, 0, bytes((int(rnd() * 16) << 4,)))
    if kind == 1:
        return _patched(packet, 4, (len(packet) - 40 + 1 + int(rnd() * 9)).to_bytes(2))
    if kind == 2:
        return packet[: int(rnd() * 48)]
    if kind == 3:  # a jumbogram
        body = ipv6_extend(packet, *_chain([(HOP, b"\xc2\x04\0\1\0\0")], UDP))
        return _patched(body, 4, b"\0\0")
    if kind == 4:
        return ipv6_extend(packet, *_chain([(OPTIONS, pad), (HOP, pad)], UDP))
    if kind == 5:
        return ipv6_extend(packet, *_chain([(OPTIONS, pad)] * (8 + (rnd() < 0.5)), UDP))
    if kind == 6:
        return ipv6_extend(packet, *_chain([(OPTIONS, b"\0" * (8 * int(28 + rnd() * 5) - 2))], UDP))
    if kind == 7:
        return ipv6_extend(packet, *_chain([(ROUTING, b"\0\0\0\0\0\0")], UDP))
    if kind == 8:  # a header that runs past the end
        body = ipv6_extend(packet, *_chain([((OPTIONS, AH, ROUTING)[int(rnd() * 3)], pad)], UDP))
        return _patched(body, 41, bytes((3 + int(rnd() * 20),)))
    if kind == 9:  # nothing after the header that announces one
        return _patched(packet[: 40 + int(rnd() * 8)], 4, b"\0\4")[:44][:6] + bytes((OPTIONS,)) + packet[7:44]
    if kind == 10:
        return path.ip((FRAGMENT, AH, HOP, ROUTING, OPTIONS)[int(rnd() * 5)], bytes((UDP,)) + _TEXT[: int(rnd() * 9)])
    if kind == 11:
        return path.ip(NONE, _TEXT[: int(rnd() * 9)])
    return packet + b"\0" * 7


def transport_malformed(world: World, path: Path) -> bytes:
    """Correct IP around a transport header that is wrong, or odd."""
    rnd = world.rnd
    port = world.port()
    kind = int(rnd() * 13)
    at = 20 if path.family == 4 else 40
    if kind == 0:
        protocol, least = ((TCP, 20), (UDP, 8), (SCTP, 12), (ICMP if path.family == 4 else ICMP6, 8))[int(rnd() * 4)]
        return path.ip(protocol, _TEXT[: int(rnd() * least)])
    if kind == 1:
        packet = path.tcp(port, 80, 1, 1, ACK, 500, _TEXT[:10])
        return _patched(packet, at + 12, bytes((int(rnd() * 16) << 4,)))
    if kind <= 3:
        return path.tcp(port, 80, 1, 1, int(rnd() * 256), 500)
    if kind == 4:
        packet = path.udp(port, 53, _TEXT[:10])
        return _patched(packet, at + 4, (int(rnd() * 8) if rnd() < 0.5 else 19 + int(rnd() * 9)).to_bytes(2))
    if kind == 5:  # a UDP length under IP's: fine
        return _patched(path.udp(port, 53, _TEXT[:10]), at + 4, (8 + int(rnd() * 10)).to_bytes(2))
    if kind == 6:  # no UDP checksum
        return _patched(path.udp(port, 53, _TEXT[:10]), at + 6, b"\0\0")
    if kind == 7:  # a wrong sum
        packet = path.udp(port, 137, _TEXT[:10]) if rnd() < 0.5 else path.tcp(port, 23, 1, 0, SYN, 500)
        return _patched(packet, len(packet) - 1, bytes((packet[-1] ^ 1,)))
    init = b"\0\0\0\5\0\1\0\0\0\1\0\1\0\0\0\1"
    bodies = (
        b"",
        b"\0\0\0\2",
        chunk(0, 3, b"1234")[:-1] + b"",
        chunk(0, 3, b"12345")[:9],
        b"\0\3\0\x40abcd",
        chunk(1, 0, init) + chunk(0, 3, b"1234"),
        chunk(2, 0, init) + chunk(11),
        chunk(1, 0, init[:-1]),
        chunk(3, 0, b"") * (31 + int(rnd() * 3)),
        b"\1",
    )
    body = bodies[int(rnd() * len(bodies))]
    return path.sctp(port, 7000, 0 if rnd() < 0.5 else 5, body)


def ip_malformed(world: World) -> tuple[Path, bytes]:
    """A packet that is wrong somewhere between its IP header and its transport header."""
    path = world.path()
    makers: tuple[Callable[[World, Path], bytes], ...] = (
        ip4_malformed if path.family == 4 else ip6_malformed,
        transport_malformed,
    )
    return path, makers[world.rnd() < 0.4](world, path)


def ethernet_odd(world: World, path: Path, frame: bytes) -> bytes:
    """A frame with tags, or that is no IP, or that is wrong below IP. `frame` is a good untagged one."""
    rnd = world.rnd
    kind = int(rnd() * 9)
    tag = (b"\x81\x00", b"\x88\xa8", b"\x91\x00")[int(rnd() * 3)] + int(rnd() * 4096).to_bytes(2)
    if kind <= 2:
        return frame[:12] + tag * (1 + kind) + frame[12:]
    if kind == 3:
        return frame[:12] + (46 + int(rnd() * 500)).to_bytes(2) + frame[14:]
    if kind == 4:
        return frame[:12] + (b"\x88\xcc", b"\x86\xdd", b"\x08\x00", b"\x08\x06")[int(rnd() * 4)] + frame[14:]
    if kind == 5:
        return frame[: int(rnd() * 20)]
    if kind == 6:
        return (frame[:12] + tag * 2)[: 12 + int(rnd() * 9)]
    body = bytearray(b"\0\x01\x08\0\x06\x04\0\x01" + path.smac + path.src[:4] + b"\0" * 6 + path.dst[:4])
    if kind == 7:
        body[int(rnd() * 6)] ^= 1
        if rnd() < 0.3:
            body = body[: int(rnd() * 28)]
    return b"\xff" * 6 + path.smac + b"\x08\x06" + bytes(body)


def bits_flipped(world: World, data: bytes) -> bytes:
    """The same bytes with one to three bits changed."""
    changed = bytearray(data)
    for _ in range(1 + int(world.rnd() * 3)):
        if changed:
            changed[int(world.rnd() * len(changed))] ^= 1 << int(world.rnd() * 8)
    return bytes(changed)


def noise(world: World, size: int) -> bytes:
    """Random bytes."""
    return world.random.randbytes(size)


def tunnelled(world: World, outer: Path, frame: bytes) -> bytes:
    """A frame in Geneve or VXLAN on the outer path; the VNI follows from the outer ends. One in ten is wrong."""
    rnd = world.rnd
    vni = (5000 + outer.src[-1] % 2).to_bytes(3) + b"\0"
    chance = rnd()
    port = 6081
    if outer.src[-1] & 1:
        header = b"\0\0\x65\x58" + vni
        if chance < 0.02:
            header = bytes((0x40,)) + header[1:]
        elif chance < 0.04:
            header = b"\x3f" + header[1:]
        elif chance < 0.06:
            header = b"\x01\x40\x65\x58" + vni + b"\x01\x04\x80\x00"  # an unknown critical option
        elif chance < 0.08:
            header = b"\0\0\x12\x34" + vni
        elif chance < 0.4:
            header = b"\x02\0\x65\x58" + vni + b"\x01\x04\x01\x01abcd"
        elif chance < 0.5:
            kind = b"\x86\xdd" if frame[12:14] == b"\x86\xdd" else b"\x08\x00"
            header, frame = b"\0\0" + kind + vni, frame[14:]
    else:
        port = 4789
        header = (b"\x08" if chance > 0.05 else b"\0") + b"\0\0\0" + vni
    body = header + frame
    if chance > 0.97:
        body = body[: int(rnd() * len(header))]
    return outer.udp(50000, port, body)
