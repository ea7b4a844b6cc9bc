# SPDX-License-Identifier: Apache-2.0
"""Parsing (docs/packet-path.md section 1): every refusal, and what is not one."""

from __future__ import annotations

import struct

import pytest

from dfw.oracle import parse
from dfw.oracle.checksum import ChecksumState, crc32c, internet_checksum, transport_checksum_state
from tests.support.oracle_bench import (
    A6,
    ACK,
    B6,
    ETHERNET,
    FIN,
    ICMPV6,
    PSH,
    RAW,
    RST,
    SYN,
    TCP,
    UDP,
    URG,
    A,
    B,
    chunk,
    icmp,
    init,
    ip,
    sctp,
    tcp,
    udp,
)

MACS = bytes(6) + b"\2\0\0\0\0\1"
GOOD = tcp(A, B, (1, 2), SYN)


def ethernet(ethertype: int, payload: bytes, tags: tuple[int, ...] = ()) -> bytes:
    """A frame with VLAN tags."""
    return MACS + b"".join(struct.pack("!HH", tag, 5) for tag in tags) + struct.pack("!H", ethertype) + payload


def refusal(data: bytes, link: int = RAW, wire: int = 0, **options: bool) -> str | None:
    """Why a frame is refused."""
    return parse(data, link, wire or len(data), **options).refusal


def changed(packet: bytes, at: int, value: int) -> bytes:
    """One byte set."""
    return packet[:at] + bytes((value,)) + packet[at + 1 :]


@pytest.mark.parametrize(
    ("frame", "link", "version", "why"),
    [
        (ethernet(0x0800, GOOD), ETHERNET, 4, None),
        (ethernet(0x0800, GOOD, (0x8100,)), ETHERNET, 4, None),
        (ethernet(0x0800, GOOD, (0x88A8, 0x9100)), ETHERNET, 4, None),
        (ethernet(0x0800, GOOD, (0x88A8, 0x8100, 0x8100)), ETHERNET, 0, "vlan-depth"),
        (ethernet(0x0800, b"")[:13], ETHERNET, 0, "short"),
        (ethernet(0x8100, b"\0\5"), ETHERNET, 0, "short"),
        (ethernet(0x0200, bytes(60)), ETHERNET, 0, None),
        (ethernet(0x88CC, bytes(60)), ETHERNET, 0, None),
        (ethernet(0x86DD, GOOD[:39]), ETHERNET, 0, "short"),
        (ethernet(0x86DD, tcp(A, B, (1, 2), SYN, payload=bytes(40))), ETHERNET, 0, "ip-version"),
        (ethernet(0x0800, tcp(A6, B6, (1, 2), SYN)), ETHERNET, 0, "ip-version"),
        (bytes(14) + b"\x08\0" + GOOD, 113, 4, None),
        (b"\x08\0" + bytes(18) + GOOD, 276, 4, None),
        (bytes(14) + b"\x08", 113, 0, "short"),
        (b"\2\0\0\0" + GOOD, 0, 4, None),
        (b"\0\0\0\2" + GOOD, 0, 4, None),
        (b"\0\0\0\2" + GOOD, 108, 4, None),
        (b"\2\0\0\0" + GOOD, 108, 0, None),
        (b"\0\0\0\x1e" + tcp(A6, B6, (1, 2), SYN), 108, 6, None),
        (b"\0\0\0\7" + GOOD, 108, 0, None),
        (b"\0\0\0", 0, 0, "short"),
        (GOOD, RAW, 4, None),
        (tcp(A6, B6, (1, 2), SYN), RAW, 6, None),
        (b"\x50" + GOOD[1:], RAW, 0, "ip-version"),
        (b"", RAW, 0, "short"),
    ],
)
def test_link_layers(frame: bytes, link: int, version: int, why: str | None) -> None:
    packet = parse(frame, link, len(frame))
    assert (packet.ip_version, packet.refusal) == (version, why)


def test_unknown_link_type_is_an_error() -> None:
    with pytest.raises(ValueError, match="link type 127"):
        parse(GOOD, 127, len(GOOD))


@pytest.mark.parametrize(
    ("arp", "why"),
    [
        (b"\0\1\x08\0\6\4\0\1" + bytes(20), None),
        (b"\0\1\x08\0\6\4\0\1" + bytes(19), "arp-malformed"),
        (b"\0\1\x08\0\6\6\0\1" + bytes(20), "arp-malformed"),
        (b"\0\6\x08\0\6\4\0\1" + bytes(20), "arp-malformed"),
        (b"\0\1\x08\0\6\4\0", "short"),
    ],
)
def test_arp(arp: bytes, why: str | None) -> None:
    assert refusal(ethernet(0x0806, arp), ETHERNET) == why


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (GOOD[:19], "short"),
        (changed(GOOD, 0, 0x44), "ip-header-length"),
        (changed(GOOD, 3, 19), "ip-length"),
        (changed(GOOD, 3, 41), "ip-length"),
        (GOOD + bytes(30), None),
        (ip(A, B, TCP, GOOD[20:], options=b"\1\1\1\0"), None),
        (ip(A, B, TCP, GOOD[20:], options=b"\7\2\0\0"), None),
        (ip(A, B, TCP, GOOD[20:], options=b"\7\1\0\0"), "ip-options"),
        (ip(A, B, TCP, GOOD[20:], options=b"\1\1\1\7"), "ip-options"),
        (ip(A, B, TCP, GOOD[20:], options=b"\7\5\0\0"), "ip-options"),
        (ip(A, B, TCP, GOOD[20:], options=b"\x83\3\4\0"), "source-route"),
        (ip(A, B, TCP, GOOD[20:], options=b"\x89\3\4\0"), "source-route"),
        (ip(A, B, TCP, GOOD[20:], options=b"\x83\5\4\0"), "ip-options"),
        (ip(A, B, TCP, GOOD[20:], options=b"\0\x83\3\4"), None),
    ],
)
def test_ipv4(packet: bytes, why: str | None) -> None:
    assert refusal(packet) == why


def test_lengths_are_checked_against_the_wire_and_headers_against_what_is_present() -> None:
    long = tcp(A, B, (1, 2), ACK, payload=bytes(1000))
    assert refusal(long[:40], wire=len(long)) is None
    assert parse(long[:40], RAW, len(long)).payload_length == 1000
    assert refusal(long[:39], wire=len(long)) == "short"
    assert refusal(long[:40], wire=len(long) - 1) == "ip-length"
    optioned = ip(A, B, TCP, GOOD[20:], options=bytes(8))
    assert refusal(optioned[:27], wire=len(optioned)) == "short"


def extension(next_header: int, size: int = 8) -> bytes:
    """A destination-options or hop-by-hop header."""
    return bytes((next_header, size // 8 - 1, 1, size - 4 if size - 4 < 256 else 0)) + bytes(size - 4)


def chain(*kinds: int, size: int = 8) -> bytes:
    """An IPv6 packet with these extension headers before TCP."""
    segment = tcp(A6, B6, (1, 2), SYN)[40:]
    order = (*kinds, TCP)
    body = b"".join(extension(following, size) for following in order[1:])
    return ip(A6, B6, order[0], body + segment)


SEGMENT6 = tcp(A6, B6, (1, 2), SYN)[40:]


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (chain(), None),
        (chain(0, 60), None),
        (chain(60, 0), "ext-headers"),
        (chain(0, 0), "ext-headers"),
        (chain(*[60] * 8), None),
        (chain(*[60] * 9), "ext-headers"),
        (chain(60, size=256), None),
        (chain(60, 60, size=136), "ext-headers"),
        (ip(A6, B6, 0, b"")[:40], "ip-length"),
        (ip(A6, B6, 60, b"\6\0\0\0"), "ext-length"),
        (ip(A6, B6, 60, b"\6\2" + bytes(8)), "ext-length"),
        (ip(A6, B6, 43, b"\6\0\0\0" + bytes(4) + SEGMENT6), "source-route"),
        (ip(A6, B6, 43, b"\6\0\2\0" + bytes(4) + SEGMENT6), None),
        (ip(A6, B6, 51, b"\6\4" + bytes(22) + SEGMENT6), None),
        (ip(A6, B6, 44, b"\6\0\0\0\0\0\0\1" + SEGMENT6), None),
        (ip(A6, B6, 59, b"junk"), None),
        (ip(A6, B6, 253, b""), None),
        (chain()[:39], "short"),
    ],
)
def test_ipv6(packet: bytes, why: str | None) -> None:
    assert refusal(packet) == why


def test_ipv6_extension_header_beyond_the_snap_length() -> None:
    packet = chain(60, size=24)
    assert refusal(packet[:47], wire=len(packet)) == "short"
    assert refusal(packet[:60], wire=len(packet)) == "short"
    assert parse(packet, RAW, len(packet)).l4 == 64


def test_fragments_are_recognised() -> None:
    first = parse(ip(A, B, UDP, bytes(16), fragment=0x2000, ident=9), RAW, 36)
    assert (first.is_fragment, first.fragment_offset, first.fragment_more, first.fragment_id) == (True, 0, True, 9)
    assert parse(ip(A, B, UDP, bytes(16), fragment=3), RAW, 36).fragment_offset == 24
    reserved = ip(A, B, UDP, udp(A, B, (1, 2))[20:], fragment=0x8000)
    assert not parse(reserved, RAW, len(reserved)).is_fragment
    later = ip(A6, B6, 44, struct.pack("!BBHI", 17, 0, 8 | 1, 5) + bytes(8))
    packet = parse(later, RAW, len(later))
    assert (packet.is_fragment, packet.fragment_offset, packet.fragment_more, packet.protocol) == (True, 8, True, 17)


def tcp_flags(flags: int) -> bytes:
    return tcp(A, B, (1, 2), flags)


@pytest.mark.parametrize("flags", range(64))
def test_tcp_flags(flags: int) -> None:
    good = {SYN, SYN | URG, SYN | ACK, RST, RST | ACK, FIN | ACK, FIN | ACK | URG, ACK, ACK | URG}
    assert refusal(tcp_flags(flags)) == (None if flags & ~PSH in good else "tcp-flags")
    assert refusal(tcp_flags(flags | 0xC0)) == refusal(tcp_flags(flags))


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (ip(A, B, TCP, GOOD[20:39]), "short"),
        (changed(GOOD, 32, 0x40), "l4-offset"),
        (changed(GOOD, 32, 0x60), "l4-offset"),
        (ip(A, B, UDP, bytes(7)), "short"),
        (ip(A, B, UDP, b"\0\1\0\2\0\x07\0\0"), "l4-offset"),
        (ip(A, B, UDP, b"\0\1\0\2\0\x09\0\0"), "l4-offset"),
        (ip(A, B, UDP, b"\0\1\0\2\0\x08\0\0tail"), None),
        (ip(A, B, 1, bytes(7)), "short"),
        (ip(A6, B6, ICMPV6, bytes(7)), "short"),
        (ip(A, B, ICMPV6, bytes(2)), None),
        (ip(A6, B6, 1, bytes(2)), None),
        (ip(A, B, 132, bytes(11)), "short"),
        (sctp(A, B, (1, 2), 5), "l4-offset"),
        (sctp(A, B, (1, 2), 5, b"\0\0\0\3"), "l4-offset"),
        (sctp(A, B, (1, 2), 5, b"\0\0\0\x09abcd"), "l4-offset"),
        (sctp(A, B, (1, 2), 5, b"\0\0\0\5a"), None),
        (sctp(A, B, (1, 2), 5, b"\0\0"), "l4-offset"),
        (sctp(A, B, (1, 2), 5, *[chunk(0)] * 32), None),
        (sctp(A, B, (1, 2), 5, *[chunk(0)] * 33), "l4-offset"),
        (sctp(A, B, (1, 2), 0, init(1, 9)), None),
        (sctp(A, B, (1, 2), 5, init(1, 9)), "l4-offset"),
        (sctp(A, B, (1, 2), 0, init(1, 9), chunk(0)), "l4-offset"),
        (sctp(A, B, (1, 2), 5, chunk(0), init(2, 9)), "l4-offset"),
        (sctp(A, B, (1, 2), 0, chunk(1, bytes(12))), "l4-offset"),
    ],
)
def test_transport(packet: bytes, why: str | None) -> None:
    assert refusal(packet) == why


def test_sctp_event_is_the_first_deciding_chunk() -> None:
    packet = parse(sctp(A, B, (1, 2), 5, chunk(0, b"data"), chunk(10), chunk(7)), RAW, 1000)
    assert packet.chunk == 10


def test_window_scale() -> None:
    def scale(options: bytes) -> int | None:
        segment = bytearray(GOOD[20:])
        segment[12] = (20 + len(options)) // 4 << 4
        data = ip(A, B, TCP, bytes(segment) + options)
        return parse(data, RAW, len(data)).scale

    assert scale(b"\1\3\3\7") == 7
    assert scale(b"\1\3\3\x0f") == 14
    assert scale(b"\3\3\2\3\3\5\0\0") == 5
    assert scale(b"\0\3\3\7") is None
    assert scale(b"\2\1\3\3\7\0\0\0") is None
    assert parse(tcp(A, B, (1, 2), ACK, scale=3), RAW, 99).scale is None


def test_checksums_matter_only_when_verified() -> None:
    wrong_ip, wrong_tcp = changed(GOOD, 8, 63), changed(GOOD, 24, 99)
    assert refusal(GOOD, verify=True) is None
    assert (refusal(wrong_ip), refusal(wrong_ip, verify=True)) == (None, "ip-checksum")
    assert (refusal(wrong_tcp), refusal(wrong_tcp, verify=True)) == (None, "l4-checksum")
    for good in (udp(A, B, (1, 2), b"odd"), icmp(A, B, 8), icmp(A6, B6, 128), sctp(A, B, (1, 2), 5, chunk(0, b"data"))):
        assert refusal(good, verify=True) is None
        assert refusal(changed(good, len(good) - 1, good[-1] ^ 1), verify=True) == "l4-checksum"


def test_checksum_states() -> None:
    def state(data: bytes, wire: int = 0) -> ChecksumState:
        return transport_checksum_state(parse(data, RAW, wire or len(data)))

    without = ip(A, B, UDP, b"\0\1\0\2\0\x09\0\0x")
    assert state(GOOD) is ChecksumState.VERIFIED
    assert state(changed(GOOD, 24, 99)) is ChecksumState.BAD
    assert state(without) is ChecksumState.UNVERIFIED
    assert state(ip(A, B, 47, b"x")) is ChecksumState.UNVERIFIED
    long = udp(A, B, (1, 2), bytes(range(100)))
    assert state(long[:60], len(long)) is ChecksumState.UNVERIFIED
    # RFC 1071 section 3, and the check value of CRC-32C (RFC 3720 appendix B.4 has the same polynomial).
    assert internet_checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0x220D
    assert crc32c(b"123456789") == 0xE3069283


def geneve(inner: bytes, ethertype: int = 0x6558, options: bytes = b"", first: int = 0) -> bytes:
    header = bytes((first | len(options) // 4, 0)) + struct.pack("!H", ethertype) + b"\0\x13\x89\0" + options
    return udp(A, B, (1, 6081), header + inner)


VXLAN = b"\x08\0\0\0\0\x13\x89\0"


@pytest.mark.parametrize(
    ("packet", "why", "vni"),
    [
        (geneve(ethernet(0x0800, GOOD)), None, 5001),
        (geneve(GOOD, 0x0800), None, 5001),
        (geneve(GOOD, 0x0800, b"\1\2\3\1" + bytes(4)), None, 5001),
        (geneve(GOOD, 0x0800, b"\1\2\x83\1" + bytes(4)), "tunnel-malformed", None),
        (geneve(GOOD, 0x0800, b"\1\2\3\2" + bytes(4)), "tunnel-malformed", None),
        (geneve(GOOD, 0x0800, first=0x40), "tunnel-malformed", None),
        (geneve(GOOD, 0x0800, first=0x3F), "tunnel-malformed", None),
        (geneve(GOOD, 0x0806), "tunnel-malformed", None),
        (udp(A, B, (1, 6081), bytes(7)), "tunnel-malformed", None),
        (udp(A, B, (1, 4789), VXLAN + ethernet(0x0800, GOOD)), None, 5001),
        (udp(A, B, (1, 4789), b"\0" + VXLAN[1:] + ethernet(0x0800, GOOD)), "tunnel-malformed", None),
        (udp(A, B, (1, 4789), VXLAN + ethernet(0x0800, GOOD[:30])), "ip-length", 5001),
        (udp(A, B, (4789, 1), VXLAN + ethernet(0x0800, GOOD)), None, None),
    ],
)
def test_decap(packet: bytes, why: str | None, vni: int | None) -> None:
    inner = parse(packet, RAW, len(packet), decap=True)
    assert (inner.refusal, inner.vni) == (why, vni)
    assert parse(packet, RAW, len(packet)).vni is None


def test_decap_opens_once() -> None:
    twice = udp(A, B, (1, 4789), VXLAN + ethernet(0x0800, udp(A, B, (1, 4789), VXLAN + ethernet(0x0800, GOOD))))
    assert parse(twice, RAW, len(twice), decap=True).destination_port == 4789
