# SPDX-License-Identifier: Apache-2.0
"""Fragments (docs/packet-path.md section 3)."""

from __future__ import annotations

import struct

import pytest

from dfw.model import Action, Limits
from tests.support.oracle_bench import (
    A6,
    ACK,
    B6,
    RAW,
    SYN,
    UDP,
    A,
    B,
    Tap,
    ip,
    policies,
    rule,
    tcp,
    udp,
)

PAYLOAD = udp(A, B, (1000, 53), bytes(range(40)))[20:]  # 48 bytes: three fragments of 16
PAYLOAD6 = udp(A6, B6, (1000, 53), bytes(range(40)))[40:]
MORE = 0x2000


def piece(first: int, last: int, more: bool | None = None, ident: int = 9, payload: bytes = PAYLOAD) -> bytes:
    """Bytes first..last of the datagram as an IPv4 fragment."""
    follows = last < len(payload) if more is None else more
    return ip(A, B, UDP, payload[first:last], fragment=first // 8 | (MORE if follows else 0), ident=ident)


def piece6(first: int, last: int, more: bool | None = None, ident: int = 9, before: bytes = b"") -> bytes:
    """The same in IPv6; `before`: extension headers, the first of them hop-by-hop."""
    follows = last < len(PAYLOAD6) if more is None else more
    header = struct.pack("!BBHI", UDP, 0, first | follows, ident)
    return ip(A6, B6, 0 if before else 44, before + header + PAYLOAD6[first:last])


def send(tap: Tap, *packets: bytes, at: float = 0.0) -> list[str]:
    """All judgements that the packets decide, as `n reason`."""
    return [f"{line.n} {line.reason}" for packet in packets for line in tap.feed(packet, at)]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (2, 0, 1)])
def test_whole_in_any_order(order: tuple[int, ...]) -> None:
    pieces = [piece(at, at + 16) for at in (0, 16, 32)]
    tap = Tap()
    assert send(tap, *[pieces[index] for index in order]) == ["1 match", "2 match", "3 match"]
    (flow,) = tap.run.flows()
    assert (flow.packets, flow.bytes, flow.sport, flow.state) == (3, 3 * 36, 1000, "FIRST")
    assert tap.run.rule_statistics()[0].hits == 1
    assert tap.run.rule_statistics()[0].packets == 3


def test_ipv6_with_extension_headers() -> None:
    tap = Tap()
    hop = b"\x2c\0\1\4\0\0\0\0"
    assert send(tap, piece6(0, 16, before=hop), piece6(16, 48)) == ["1 match", "2 match"]
    (flow,) = tap.run.flows()
    assert (flow.proto, flow.dport, flow.bytes) == (UDP, 53, 40 + 8 + 8 + 16 + 40 + 8 + 32)


def test_all_fragments_get_the_datagrams_judgement() -> None:
    tap = Tap(policies(rule("none", Action.DROP)))
    lines = [line for at in (0, 16, 32) for line in tap.feed(piece(at, at + 16))]
    assert {(line.verdict, line.reason, line.rule_path, line.ct) for line in lines} == {
        ("DROP", "match", "/p/rules/none", "new")
    }


def test_a_refusal_of_the_whole_is_that_of_its_fragments() -> None:
    tap = Tap()
    short = PAYLOAD[:4] + b"\0\7" + PAYLOAD[6:]
    assert send(tap, piece(0, 16, payload=short), piece(16, 48, payload=short)) == ["1 l4-offset", "2 l4-offset"]


@pytest.mark.parametrize(
    "packet",
    [
        ip(A, B, UDP, b"", fragment=MORE),
        ip(A, B, UDP, bytes(15), fragment=MORE),
        ip(A, B, UDP, bytes(16), fragment=0x1FFF),
        ip(A, B, UDP, bytes(32), fragment=65_504 // 8),
        ip(A6, B6, 44, struct.pack("!BBHI", UDP, 0, 65_528, 1) + bytes(8)),
        ip(A6, B6, 44, struct.pack("!BBHI", UDP, 0, 1, 1)),
    ],
)
def test_lengths(packet: bytes) -> None:
    assert Tap().send(packet) == "DROP frag-length invalid"


def test_a_datagram_that_is_too_long_with_its_first_header() -> None:
    tap = Tap()
    payload = bytes(65_512)
    first = ip(A, B, UDP, payload[:8], fragment=MORE, options=b"\1" * 40)
    parts = [ip(A, B, UDP, payload[at : at + 8192], fragment=at // 8 | (MORE if at + 8192 < 65_512 else 0))
             for at in range(8, 65_512, 8192)]  # fmt: skip
    decided = send(tap, first, *parts)
    assert decided == [f"{n} frag-length" for n in range(1, 10)]


@pytest.mark.parametrize(
    ("held", "last"),
    [
        ([piece(0, 16)], piece(8, 24)),
        ([piece(16, 32)], piece(8, 24)),
        ([piece(0, 16)], piece(0, 24)),
        ([piece(0, 16)], piece(0, 16, payload=bytes(48))),
        ([piece(32, 48)], piece(16, 32, more=False)),
        ([piece(16, 32, more=False)], piece(32, 48, more=True)),
        ([piece(32, 40)], piece(16, 32, more=False)),
    ],
)
def test_overlaps_refuse_all(held: list[bytes], last: bytes) -> None:
    tap = Tap()
    assert send(tap, *held, last) == ["1 frag-overlap", "2 frag-overlap"]
    assert send(tap, piece(0, 48, more=True)) == ["3 frag-overlap"]
    assert send(tap, piece(0, 16, more=True), at=30) == ["4 frag-overlap"]
    assert send(tap, piece(0, 16), piece(16, 48), at=30.01) == ["5 match", "6 match"]


def test_exact_copies_are_ignored() -> None:
    tap = Tap()
    assert send(tap, piece(0, 16), piece(0, 16)) == ["2 frag-duplicate"]
    assert send(tap, piece(16, 48)) == ["1 match", "3 match"]


def test_keys() -> None:
    tap = Tap()
    assert send(tap, piece(0, 16, ident=1), piece(16, 48, ident=2)) == []
    other_protocol = ip(A, B, 47, PAYLOAD[16:], fragment=2, ident=1)
    assert send(tap, other_protocol) == []
    assert send(tap, piece(16, 48, ident=1)) == ["1 match", "4 match"]


def test_time_runs_out() -> None:
    tap = Tap()
    assert send(tap, piece(0, 16), at=0) == []
    assert send(tap, piece(16, 32), at=30) == []
    assert send(tap, piece(32, 48), at=30.01) == ["1 frag-timeout", "2 frag-timeout"]
    lines = tap.run.finish()
    assert [line.reason for line in lines] == ["frag-timeout", "frag-timeout", "frag-incomplete"]
    assert {line.ct for line in lines} == {"invalid"}


def test_the_end_of_the_input_is_late_too() -> None:
    tap = Tap()
    send(tap, piece(0, 16), at=0)
    send(tap, udp(A, B, (1, 2)), at=31)
    assert [line.reason for line in tap.run.finish()] == ["frag-timeout", "match"]


def test_limits() -> None:
    tap = Tap()
    for ident in range(64):
        assert send(tap, piece(0, 16, ident=ident)) == []
    assert send(tap, piece(0, 16, ident=64)) == ["65 frag-limit"]
    assert send(tap, piece(16, 32, ident=0)) == []
    assert send(tap, piece(32, 48, ident=0)) == ["1 match", "66 match", "67 match"]
    assert send(tap, piece(0, 16, ident=64)) == []


def test_limit_of_a_filter() -> None:
    tap = Tap()
    for source in range(256):
        assert send(tap, ip(f"10.1.{source}.1", B, UDP, bytes(16), fragment=MORE, ident=1)) == []
    assert send(tap, piece(0, 16)) == ["257 frag-limit"]


def test_limit_of_a_datagram() -> None:
    tap = Tap()
    long = bytes(8 * 80)
    for index in range(64):
        assert send(tap, piece(8 * index, 8 * index + 8, payload=long)) == []
    assert send(tap, piece(8 * 64, 8 * 64 + 8, payload=long)) == ["65 frag-limit"]
    assert send(tap, piece(0, 8, payload=long)) == ["66 frag-duplicate"]
    assert len(send(tap, piece(0, 16, payload=long))) == 65


def test_limit_of_a_prefix() -> None:
    tap = Tap()
    for source in range(96):
        assert send(tap, ip(f"10.1.1.{source}", B, UDP, bytes(16), fragment=MORE, ident=1)) == []
    assert send(tap, ip("10.1.1.200", B, UDP, bytes(16), fragment=MORE, ident=1)) == ["97 frag-limit"]
    assert send(tap, ip("10.1.2.200", B, UDP, bytes(16), fragment=MORE, ident=1)) == []


def test_a_budget_of_datagrams_has_blocks() -> None:
    tap = Tap()
    big = bytes(32_768)  # 128 blocks, of which a source's 64 datagrams have 2,048
    for ident in range(16):
        assert send(tap, ip(A, B, UDP, big, fragment=MORE, ident=ident)) == []
    assert send(tap, ip(A, B, UDP, bytes(8), fragment=MORE, ident=99)) == ["17 frag-limit"]


def test_limit_of_payload() -> None:
    tap = Tap(limits=Limits(fragments_own=512, fragments_others=512, fragments_prefix=512))
    big = bytes(65_280)  # 255 blocks
    sources = [f"10.0.{n // 60}.{n % 60 + 1}" for n in range(65)]
    decided = [send(tap, ip(source, B, UDP, big, fragment=MORE)) for source in sources]
    assert decided == [[]] * 64 + [["65 frag-limit"]]
    assert send(tap, ip(sources[64], B, UDP, bytes(64 * 256), fragment=MORE)) == []
    assert send(tap, ip(sources[0], B, UDP, bytes(8), fragment=65_288 // 8)) == ["67 frag-limit"]


def test_bytes_beyond_the_snap_length_are_zeros_and_unverified() -> None:
    tap = Tap(verify_checksums=True)
    whole = piece(0, 16)
    assert tap.feed(whole[:34], wire=len(whole)) == []
    assert send(tap, piece(16, 48)) == ["1 match", "2 match"]
    wrong = Tap(verify_checksums=True)
    assert send(wrong, piece(0, 16), piece(16, 48, payload=bytes(48))) == ["1 l4-checksum", "2 l4-checksum"]


def test_tcp_in_fragments_is_tracked() -> None:
    tap = Tap()
    segment = tcp(A, B, (1, 2), SYN, 100)
    assert send(tap, segment) == ["1 match"]
    long = tcp(B, A, (2, 1), SYN | ACK, 500, 101, payload=bytes(20))[20:]
    first = ip(B, A, 6, long[:24], fragment=MORE, ident=4)
    second = ip(B, A, 6, long[24:], fragment=3, ident=4)
    assert send(tap, first, second) == ["2 state", "3 state"]
    assert RAW
