# SPDX-License-Identifier: Apache-2.0
"""The packet core against the oracle at the limits that random traffic seldom reaches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw.model import FloodLimits, Limits
from tests.support.agreement import worlds_of
from tests.support.traffic import ETHERNET, Commit, Event, Packet, Scenario
from tests.support.twins import Answers, explain_difference, find_difference, native_answers, oracle_answers
from tests.support.wire import ACK, PSH, RST, SYN, End, ethernet, fragment
from tests.support.wire import Path as Wire

BEGIN = 1_700_000_000_000_000_000
OPEN = 2  # the policy that allows everything and knows the ALGs


def packets(frames: Iterator[tuple[Wire, bytes]], step_ns: int = 10_000) -> list[Event]:
    found: list[Event] = [Commit(OPEN)]
    for number, (path, data) in enumerate(frames):
        frame = ethernet(path, data)
        found.append(Packet(BEGIN + number * step_ns, frame, len(frame), ETHERNET))
    return found


def agreed(events: list[Event], scenario: Scenario) -> Answers:
    """What both engines say, which must be the same."""
    worlds = worlds_of(scenario)
    oracle = oracle_answers(events, worlds, scenario)
    native = native_answers(events, worlds, scenario)
    assert find_difference(oracle, native) is None, explain_difference(events, worlds, scenario)
    return oracle


def path_of(number: int, port: int = 1) -> Wire:
    source = End(f"10.9.{number >> 8}.{number & 255}", "02:00:00:00:ff:01")
    return Wire(source, End(f"10.1.3.{port}", "02:00:00:00:ff:02"))


def test_arena_of_fragments() -> None:
    """16,384 blocks of 256 bytes are full long before 256 datagrams of one filter are."""

    def frames() -> Iterator[tuple[Wire, bytes]]:
        for number in range(75):
            path = path_of(number)
            whole = path.udp(7, 7, bytes(8))
            for piece in range(44):
                yield path, fragment(whole, 20, bytes([piece]) * 1400, 1400 * piece, True, number)
        for number in range(0, 75, 25):  # a last fragment that leaves gaps, and one more that contradicts it
            path = path_of(number)
            whole = path.udp(7, 7, bytes(8))
            yield path, fragment(whole, 20, bytes(8), 65000, False, number)
            yield path, fragment(whole, 20, bytes(8), 64000, False, number)

    plenty = Limits(fragments_own=1024, fragments_others=1024, fragments_prefix=1024, fragments_source=1024)
    answers = agreed(packets(frames()), Scenario(0, limits=plenty))
    reasons = [row[4] for row in answers.judgements]
    assert {"frag-limit", "frag-overlap", "frag-incomplete"} <= set(reasons)
    first = reasons.index("frag-limit")
    assert 16_384 // 6 - 1 <= first <= 16_384 // 6 + 1, "1,400 bytes are six blocks"


def test_datagrams_of_a_source_and_of_a_filter() -> None:
    def frames() -> Iterator[tuple[Wire, bytes]]:
        for number in range(70):
            yield path_of(1), fragment(path_of(1).udp(7, 7, bytes(8)), 20, bytes(8), 0, True, number)
        for number in range(100):  # the same /24
            path = path_of(2 + number % 10)
            yield path, fragment(path.udp(7, 7, bytes(8)), 20, bytes(8), 0, True, number)
        for number in range(300):
            path = path_of(256 + 8 * number)
            yield path, fragment(path.udp(7, 7, bytes(8)), 20, bytes(8), 0, True, number)

    reasons = [row[4] for row in agreed(packets(frames()), Scenario(0)).judgements]
    assert reasons[:70].count("frag-limit") == 6
    assert reasons[70:170].count("frag-limit") == 100 - (96 - 64)
    assert reasons[170:].count("frag-limit") == 300 - (256 - 96)


def test_expectations_of_a_parent_and_of_a_worker() -> None:
    """Of ten lines the last eight hold; the worker's 1,024 are used up by 128 parents; time gives them back."""

    def line(index: int, number: int) -> bytes:
        port = 30000 + number
        return f"PORT 10,9,{index >> 8},{index & 255},{port >> 8},{port & 255}\r\n".encode()

    def frames() -> Iterator[tuple[Wire, bytes]]:
        for index in range(140):
            path, sequence = path_of(index), 1000
            for number in range(10):
                yield path, path.tcp(1025, 21, sequence, 1, ACK | PSH, 9000, line(index, number))
                sequence += len(line(index, number))
            yield path.back, path.back.tcp(21, 1025, 1, sequence, ACK, 9000)
        for index in range(140):
            back = path_of(index).back
            for number in range(10):
                yield back, back.tcp(20, 30000 + number, 7, 0, SYN, 9000)

    answers = agreed(packets(frames()), Scenario(0))
    related = [row[0] for row in answers.judgements if row[6] == "related"]
    assert len(related) == 1024
    late = packets(frames(), step_ns=60_000_000_000 // 1500)
    assert 0 < sum(row[6] == "related" for row in agreed(late, Scenario(0)).judgements) < 1024


@pytest.mark.parametrize("capacity", [1, 2, 8])
def test_smallest_tables(capacity: int) -> None:
    """Unanswered connections give way, answered ones do not, each family by itself."""
    near, far = End("fd00:9::1", "02:00:00:00:ff:01"), End("fd00:1::1", "02:00:00:00:ff:02")

    def frames() -> Iterator[tuple[Wire, bytes]]:
        for number in range(60):
            for path in (path_of(number), Wire(near, far)):
                yield path, path.udp(5000 + number, 53, b"?")
                if number % 7 == 3:
                    yield path.back, path.back.udp(53, 5000 + number, b"!")
                if number % 5 == 4:
                    yield path, path.udp(5000 + number - 2, 53, b"again")

    answers = agreed(packets(frames(), step_ns=200_000_000), Scenario(0, capacity=capacity, short_timers=True))
    reasons = {row[4] for row in answers.judgements}
    ends = {row[16] for row in answers.flows}
    assert "evicted" in ends or "ct-full" in reasons
    assert capacity > 2 or "ct-full" in reasons


def syn(number: int, port: int = 443) -> tuple[Wire, bytes]:
    path = path_of(number)
    return path, path.tcp(40_000 + number, port, 1, 0, SYN, 9000)


def test_unanswered_connections_of_a_prefix_and_of_all() -> None:
    """A prefix loses its own oldest; when others' budget is full prefixes lose one each in turn; answered ones stay."""

    def frames() -> Iterator[tuple[Wire, bytes]]:
        yield syn(0)
        yield path_of(0).back, path_of(0).back.tcp(443, 40_000, 5, 2, SYN | ACK, 9000)
        for number in range(1, 12):
            yield syn(number)
        for number in range(256, 256 * 20, 128):
            yield syn(number)
        for number in (1, 5, 11, 256, 384, 2560, 4864):  # who is still known?
            back = path_of(number).back
            yield back, back.tcp(443, 40_000 + number, 5, 2, SYN | ACK, 9000)
        yield path_of(0), path_of(0).tcp(40_000, 443, 2, 6, ACK, 9000)

    limits = Limits(half_open_own=10, half_open_others=10, half_open_prefix=6, half_open_prefixes=8)
    answers = agreed(packets(frames()), Scenario(0, limits=limits))
    assert sum(row[16] == "evicted" for row in answers.flows) > 25
    assert answers.judgements[-1][4] == "state"
    assert {row[4] for row in answers.judgements[-8:-1]} == {"state", "tcp-state"}


def test_budget_that_only_children_use() -> None:
    def frames() -> Iterator[tuple[Wire, bytes]]:
        path, sequence = path_of(1), 1000
        for number in range(4):
            line = f"PORT 10,9,0,1,117,{number}\r\n".encode()
            yield path, path.tcp(1025, 21, sequence, 1, ACK | PSH, 9000, line)
            sequence += len(line)
        yield path.back, path.back.tcp(21, 1025, 1, sequence, ACK, 9000)
        for number in range(4):
            yield path.back, path.back.tcp(20, 117 * 256 + number, 7, 0, SYN, 9000)
        other = path_of(0, 9).back
        yield other, other.tcp(999, 443, 7, 0, SYN, 9000)

    answers = agreed(packets(frames()), Scenario(0, limits=Limits(half_open_prefix=3)))
    assert [row[4] for row in answers.judgements][-2:] == ["half-open", "half-open"]


def test_misses_on_every_tick() -> None:
    def frames() -> Iterator[tuple[Wire, bytes]]:
        for number in range(400):
            yield syn(number)
            if number % 3 == 0:
                yield path_of(number).back, path_of(number).back.tcp(443, 40_000 + number, 5, 2, SYN | ACK, 9000)

    for rate, step in ((7, 1_000_000), (50, 3_333_333), (20, 10_000_000)):
        limits = Limits(misses_own=rate, misses_others=rate)
        answers = agreed(packets(frames(), step), Scenario(0, limits=limits))
        assert {"miss-budget", "match", "state"} <= {row[4] for row in answers.judgements}


# ---- flood protection: the policy in force allows half of what a scenario's flood says (traffic_policies) ----


def flooded(flood: FloodLimits, frames: Iterator[tuple[Wire, bytes]], step_ns: int = 10_000) -> list[str]:
    """Why each packet got its verdict, under short timers."""
    answers = agreed(packets(frames, step_ns), Scenario(0, flood=flood, short_timers=True))
    return [str(row[4]) for row in answers.judgements]


def test_handshakes_that_are_not_done() -> None:
    def frames() -> Iterator[tuple[Wire, bytes]]:
        for number in range(5):
            yield syn(number)
        yield path_of(0).back, path_of(0).back.tcp(443, 40_000, 5, 2, SYN | ACK, 9000)
        yield syn(5)  # an answer alone leaves no room
        yield path_of(0), path_of(0).tcp(40_000, 443, 2, 6, ACK, 9000)
        yield syn(5)  # the handshake's end does
        yield syn(6)
        yield path_of(1).back, path_of(1).back.tcp(443, 40_001, 0, 2, RST | ACK, 0)
        yield syn(6)  # and so does a refusal
        yield path_of(9), path_of(9).tcp(1, 443, 1, 1, ACK, 9000)  # picked up in mid-stream: no handshake
        yield path_of(9), path_of(9).udp(1, 53, b"x")

    expected = ["match"] * 5 + [
        "state",
        "flood-limit",
        "state",
        "match",
        "flood-limit",
        "state",
        "match",
        "match",
        "match",
    ]
    assert flooded(FloodLimits(tcp_half_open=10), frames()) == expected


@pytest.mark.parametrize(
    ("kind", "flood"),
    [
        ("udp", FloodLimits(udp_active=6)),
        ("icmp", FloodLimits(icmp_active=6)),
        ("gre", FloodLimits(other_active=6)),
    ],
)
def test_connections_of_a_kind_until_they_run_out(kind: str, flood: FloodLimits) -> None:
    def frame(number: int) -> tuple[Wire, bytes]:
        path = path_of(number)
        if kind == "udp":
            return path, path.udp(40_000, 53, b"x")
        return path, path.icmp(8, 0, 7, number) if kind == "icmp" else path.ip(47, b"x" * 8)

    def frames() -> Iterator[tuple[Wire, bytes]]:
        yield from (frame(number) for number in range(5))
        yield frame(0)  # one that has its connection
        for other in ("udp", "icmp", "gre"):
            path = path_of(100)
            of = {"udp": path.udp(1, 53, b"x"), "icmp": path.icmp(8, 0, 9, 1), "gre": path.ip(50, b"x" * 8)}
            if other != kind:
                yield path, of[other]
        yield from (frame(number) for number in range(200, 212))

    found = flooded(flood, frames(), step_ns=2_000_000_000)  # 40 s in all; the timers are 12 and 13 s
    assert found[:8] == ["match"] * 3 + ["flood-limit"] * 2 + ["state", "match", "match"]
    assert {"match", "flood-limit"} == set(found[8:])


def test_children_count_and_vnics_have_their_own() -> None:
    def frames() -> Iterator[tuple[Wire, bytes]]:
        path, sequence = path_of(1), 1000
        for number in range(3):
            line = f"PORT 10,9,0,1,117,{number}\r\n".encode()
            yield path, path.tcp(1025, 21, sequence, 1, ACK | PSH, 9000, line)
            sequence += len(line)
        for number in range(3):
            yield path.back, path.back.tcp(20, 117 * 256 + number, 7, 0, SYN, 9000)

    assert flooded(FloodLimits(tcp_half_open=4), frames()) == [
        "match",
        "state",
        "state",
        "match",
        "match",
        "flood-limit",
    ]
