# SPDX-License-Identifier: Apache-2.0
"""REJECT (docs/packet-path.md section 10): the bytes that are sent, when none are, and how many a second."""

from __future__ import annotations

import struct

import pytest

from dfw.model import Action, PolicySet
from dfw.oracle import parse
from tests.support.oracle_bench import (
    A6,
    ACK,
    B6,
    FIN,
    RAW,
    RST,
    SYN,
    UDP,
    A,
    B,
    Tap,
    icmp,
    ip,
    number,
    policies,
    rule,
    tcp,
    udp,
)

PORTS, BACK = (1000, 80), (80, 1000)


def refusing() -> PolicySet:
    """Everything is rejected."""
    return policies(rule("no", Action.REJECT))


def answers(tap: Tap) -> list[bytes]:
    """What was generated, each with good checksums and from IP up."""
    for item in tap.run.generated:
        assert parse(item.data, RAW, len(item.data), verify=True).refusal is None
    return [item.data for item in tap.run.generated]


@pytest.mark.parametrize(("source", "destination"), [(A, B), (A6, B6)])
@pytest.mark.parametrize(
    ("flags", "payload", "seq", "ack", "flags_back"),
    [
        (SYN, b"", 0, 101, RST | ACK),
        (SYN, b"fast", 0, 105, RST | ACK),
        (ACK, b"data", 777, 0, RST),
        (FIN | ACK, b"", 777, 0, RST),
    ],
)
def test_tcp_gets_a_reset(
    source: str, destination: str, flags: int, payload: bytes, seq: int, ack: int, flags_back: int
) -> None:
    tap = Tap(refusing())
    packet = tcp(source, destination, PORTS, flags, 100, 777 if flags & ACK else 0, payload=payload)
    assert tap.send(packet) == ("REJECT match invalid" if flags & FIN else "REJECT match new")
    (data,) = answers(tap)
    reset = parse(data, RAW, len(data))
    assert (reset.source, reset.destination) == (number(destination), number(source))
    assert (reset.source_port, reset.destination_port, reset.sequence, reset.acknowledgement) == (80, 1000, seq, ack)
    assert (reset.flags, reset.window, reset.payload_length) == (flags_back, 0, 0)


def test_udp_gets_icmp_administratively_prohibited() -> None:
    tap = Tap(refusing())
    packet = udp(A, B, (1, 2), b"a long payload")
    assert tap.send(packet) == "REJECT match new"
    (data,) = answers(tap)
    expected = icmp(B, A, 3, 13, 0, packet[:28])
    assert data[:4] == expected[:4]
    assert data[6:8] == b"\x40\0"
    assert data[20:22] == expected[20:22]
    assert data[24:] == b"\0\0\0\0" + packet[:28]


def test_ipv6_gets_as_much_as_fits_1280() -> None:
    tap = Tap(refusing())
    packet = udp(A6, B6, (1, 2), bytes(2000))
    assert tap.send(packet) == "REJECT match new"
    (data,) = answers(tap)
    assert len(data) == 1280
    assert (data[6], data[7], data[40], data[41]) == (58, 64, 1, 1)
    assert data[48:] == packet[:1232]


def test_icmp_queries_and_answers_are_answered() -> None:
    tap = Tap(refusing())
    assert tap.send(icmp(A, B, 8)) == "REJECT match new"
    assert tap.send(icmp(A, B, 0)) == "REJECT match invalid"
    assert tap.send(ip(A, B, 47, b"g")) == "REJECT match new"
    assert [len(data) for data in answers(tap)] == [56, 56, 49]


@pytest.mark.parametrize(
    "packet",
    [
        tcp(A, B, PORTS, RST, 1),
        tcp(A, B, PORTS, RST | ACK, 1, 1),
        icmp(A, B, 3, payload=udp(B, A, (1, 2))),
        udp(A, "224.0.0.1", (1, 2)),
        udp(A, "255.255.255.255", (1, 2)),
        udp("0.0.0.0", B, (1, 2)),
        udp(A, "0.0.0.0", (1, 2)),
        udp("239.1.1.1", B, (1, 2)),
        udp(A6, "ff02::1", (1, 2)),
        udp("::", B6, (1, 2)),
        udp(A, B, (1, 2))[:-1] + b"?",
        udp(A, B, (1, 2))[:8] + b"\1" + udp(A, B, (1, 2))[9:],
    ],
)
def test_what_is_never_answered(packet: bytes) -> None:
    tap = Tap(refusing())
    assert tap.send(packet).startswith("REJECT match")
    assert answers(tap) == []


def test_fragments_are_answered_once() -> None:
    tap = Tap(refusing())
    whole = udp(A, B, (1, 2), bytes(24))
    assert tap.feed(ip(A, B, UDP, whole[20:36], fragment=0x2000, ident=3)) == []
    lines = tap.feed(ip(A, B, UDP, whole[36:], fragment=2, ident=3))
    assert [line.verdict for line in lines] == ["REJECT", "REJECT"]
    assert [item.n for item in tap.run.generated] == [2]
    (data,) = answers(tap)
    assert data[28:30] == whole[:2]
    assert struct.unpack("!H", data[30:32])[0] == len(whole)


def test_ten_a_second_for_each_source_and_a_hundred_in_all() -> None:
    tap = Tap(refusing())
    one = [tap.send(udp(A, B, (1, 2)), 0.5) for _ in range(11)]
    assert one == ["REJECT match new"] * 10 + ["DROP reject-rate new"]
    others = [tap.send(udp(f"10.{n}.0.{n}", B, (1, 2)), 0.6) for n in range(1, 92)]
    assert others == ["REJECT match new"] * 90 + ["DROP reject-rate new"]
    assert tap.send(tcp(A, B, PORTS, RST, 1), 0.7) == "REJECT match invalid"
    assert tap.send(udp(A, B, (1, 2)), 0.99) == "DROP reject-rate new"
    assert tap.send(udp(A, B, (1, 2)), 1.0) == "REJECT match new"
    assert len(answers(tap)) == 101


def test_twenty_five_a_second_for_each_prefix() -> None:
    tap = Tap(refusing())
    sent = [tap.send(udp(f"10.7.0.{n}", B, (1, 2)), 0.5) for n in range(1, 28)]
    assert sent == ["REJECT match new"] * 25 + ["DROP reject-rate new"] * 2
    assert tap.send(udp("10.7.1.1", B, (1, 2)), 0.5) == "REJECT match new"


def test_policy_change_resets_both_ends() -> None:
    tap = Tap()
    for packet in (tcp(A, B, PORTS, SYN, 100), tcp(B, A, BACK, SYN | ACK, 500, 101), tcp(A, B, PORTS, ACK, 101, 501)):
        assert tap.send(packet).startswith("ALLOW")
    tap.run.commit(refusing())
    (line,) = tap.feed(tcp(B, A, BACK, ACK, 501, 101, payload=b"data"))
    assert (line.verdict, line.reason, line.ct, line.rule_path) == (
        "DROP", "policy-change", "established", "/p/rules/no",
    )  # fmt: skip
    first, second = (parse(data, RAW, len(data)) for data in answers(tap))
    assert (first.destination, first.destination_port, first.sequence, first.flags) == (number(B), 80, 101, RST)
    assert (second.destination, second.destination_port, second.sequence, second.flags) == (number(A), 1000, 501, RST)


def test_policy_change_before_an_answer() -> None:
    tap = Tap()
    tap.send(tcp(A, B, PORTS, SYN, 100))
    tap.send(udp(A, B, (1, 2)))
    tap.run.commit(refusing())
    assert tap.send(tcp(A, B, PORTS, SYN, 100)) == "DROP policy-change new"
    assert tap.send(udp(A, B, (1, 2))) == "DROP policy-change new"
    reset, unreachable = (parse(data, RAW, len(data)) for data in answers(tap))
    assert (reset.destination, reset.sequence, reset.acknowledgement, reset.flags) == (number(A), 0, 101, RST | ACK)
    assert (unreachable.destination, unreachable.icmp_type, unreachable.icmp_code) == (number(A), 3, 13)
