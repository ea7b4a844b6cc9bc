# SPDX-License-Identifier: Apache-2.0
"""Application-level gateways (docs/packet-path.md section 9): what is expected, for how long, and with whose rule."""

from __future__ import annotations

import pytest

from dfw.model import Action, Alg, PolicySet, PortRange, ServiceEntry
from dfw.oracle import parse
from tests.support.oracle_bench import A6, ACK, B6, RAW, SYN, TCP, UDP, A, B, C, Tap, policies, rule, tcp, udp

FTP_ENTRY = ServiceEntry(protocol=TCP, destination_ports=(PortRange(21, 21),), alg=Alg.FTP)
TFTP_ENTRY = ServiceEntry(protocol=UDP, destination_ports=(PortRange(69, 69),), alg=Alg.TFTP)
DATA = 50_000


def with_alg() -> PolicySet:
    """FTP and TFTP with their ALGs, and nothing else."""
    return policies(
        rule("ftp", Action.ALLOW, FTP_ENTRY), rule("tftp", Action.ALLOW, TFTP_ENTRY), rule("none", Action.DROP)
    )


class Control:
    """An FTP control connection from the client to the server's port 21."""

    def __init__(self, tap: Tap, client: str = A, server: str = B) -> None:
        self.tap, self.ends, self.next = tap, (client, server), [1, 1]
        self.segment(0, SYN, seq=0)
        self.segment(1, SYN | ACK, seq=0)
        self.segment(0, ACK)

    def segment(self, who: int, flags: int, text: bytes = b"", seq: int | None = None, at: float = 0.0) -> str:
        """One segment, by default at the next sequence number."""
        source, destination = self.ends[who], self.ends[1 - who]
        ports = (40_000, 21) if who == 0 else (21, 40_000)
        number = self.next[who] if seq is None else seq
        answer = self.tap.send(tcp(source, destination, ports, flags, number, self.next[1 - who], payload=text), at)
        if seq is None:
            self.next[who] += len(text)
        return answer

    def say(self, who: int, text: bytes, at: float = 0.0) -> None:
        """Text that must be accepted: 0 the client's, 1 the server's."""
        assert self.segment(who, ACK, text, at=at).startswith("ALLOW state")


def opens(tap: Tap, source: str, destination: str, port: int, at: float = 0.0) -> bool:
    """Does a SYN to this port pass?"""
    answer = tap.send(tcp(source, destination, (20, port), SYN, 7), at)
    assert answer in ("ALLOW match related", "DROP match new")
    return answer.startswith("ALLOW")


@pytest.mark.parametrize(
    ("who", "text", "expected"),
    [
        (0, b"PORT 10,0,0,1,195,80\r\n", True),
        (0, b"port 10,0,0,1,195,80\n", True),
        (0, b"PORT 10,0,0,1,195,080 more\r", True),
        (0, b"PORT 10,0,0,1,195,80", False),
        (0, b"PORT  10,0,0,1,195,80\r\n", False),
        (0, b"PORT 10,0,0,1,195,801\r\n", True),  # port 0 is for the case below
        (0, b"PORT 10,0,0,3,195,80\r\n", False),
        (0, b"PORT 10,0,0,1,256,80\r\n", False),
        (0, b"PORT 10,0,0,1,0,0\r\n", False),
        (0, b"NOOP\r\nPORT 10,0,0,1,195,80\r\n", False),
        (0, b"EPRT |1|10.0.0.1|50000|\r\n", True),
        (0, b"eprt !1!10.0.0.1!50000!\r\n", True),
        (0, b"EPRT |2|10.0.0.1|50000|\r\n", False),
        (0, b"EPRT |1|10.0.0.2|50000|\r\n", False),
        (0, b"EPRT |1|10.0.0.1|50000\r\n", False),
        (0, b"EPRT |1|10.0.0.1|65536|\r\n", False),
        (0, b"227 (10,0,0,1,195,80)\r\n", False),
        (1, b"227 Entering Passive Mode (10,0,0,2,195,80).\r\n", True),
        (1, b"227 10,0,0,2,195,80\r\n", True),
        (1, b"227 at 3 o'clock (10,0,0,2,195,80)\r\n", True),
        (1, b"227-(10,0,0,2,195,80)\r\n", False),
        (1, b"227 (10,0,0,1,195,80)\r\n", False),
        (1, b"229 Extended (|||50000|)\r\n", True),
        (1, b"229 Extended (!!!50000!)\r\n", True),
        (1, b"229 Extended (||50000|)\r\n", False),
        (1, b"229 Extended (|||50000|)", False),
        (1, b"PORT 10,0,0,2,195,80\r\n", False),
        (0, b"PORT 10,0,0,1,195,80" + b" " * 107 + b"\r\n", True),
        (0, b"PORT 10,0,0,1,195,80" + b" " * 108 + b"\r\n", False),
        (1, b"229 " + b"(|||" * 7 + b"(|||50000|)\r\n", True),
        (1, b"229 " + b"(|||" * 8 + b"(|||50000|)\r\n", False),
        (1, b"229 (|||99999|) (|||50000|)\r\n", True),
    ],
)
def test_ftp_announcements(who: int, text: bytes, expected: bool) -> None:
    if b",801" in text:
        expected = False
    tap = Tap(with_alg())
    control = Control(tap)
    control.say(who, text)
    source, destination = (B, A) if who == 0 else (A, B)
    assert opens(tap, source, destination, DATA) is expected
    assert not opens(tap, source, destination, DATA + 1)


@pytest.mark.parametrize(
    ("who", "text", "expected"),
    [
        (0, b"EPRT |2|fd00::1|50000|\r\n", True),
        (0, b"EPRT |2|fd00:0:0::1|50000|\r\n", True),
        (0, b"EPRT |1|10.0.0.1|50000|\r\n", False),
        (0, b"PORT 10,0,0,1,195,80\r\n", False),
        (1, b"229 (|||50000|)\r\n", True),
        (1, b"227 (10,0,0,2,195,80)\r\n", False),
    ],
)
def test_ftp_over_ipv6(who: int, text: bytes, expected: bool) -> None:
    tap = Tap(with_alg())
    Control(tap, A6, B6).say(who, text)
    source, destination = (B6, A6) if who == 0 else (A6, B6)
    assert opens(tap, source, destination, DATA) is expected


def test_only_rules_with_the_alg() -> None:
    tap = Tap(policies(rule("plain", Action.ALLOW, ServiceEntry(protocol=TCP, destination_ports=(PortRange(21, 21),))),
                       rule("none", Action.DROP)))  # fmt: skip
    Control(tap).say(1, b"229 (|||50000|)\r\n")
    assert not opens(tap, A, B, DATA)


def test_only_segments_in_order() -> None:
    tap = Tap(with_alg())
    control = Control(tap)
    control.say(1, b"220 hello\r\n")
    assert control.segment(1, ACK, b"229 (|||50000|)\r\n", seq=1).startswith("ALLOW")
    assert not opens(tap, A, B, DATA)
    assert control.segment(1, ACK, b"229 (|||50000|)\r\n", seq=control.next[1] + 5).startswith("ALLOW")
    assert not opens(tap, A, B, DATA)


def test_the_child() -> None:
    tap = Tap(with_alg())
    control = Control(tap)
    control.say(1, b"229 (|||50000|)\r\n")
    assert tap.send(tcp(A, B, (1, DATA), ACK, 7, 7)) == "DROP match new"
    assert tap.send(udp(A, B, (1, DATA))) == "DROP match new"
    (line,) = tap.feed(tcp(A, B, (1, DATA), SYN, 7))
    assert (line.verdict, line.reason, line.ct, line.rule_path) == ("ALLOW", "match", "related", "/p/rules/ftp")
    assert tap.send(tcp(A, B, (1, DATA), SYN, 7)) == "ALLOW state related"
    assert tap.send(tcp(B, A, (DATA, 1), SYN | ACK, 9, 8)) == "ALLOW state established reply"
    assert not opens(tap, A, B, DATA)
    assert {item.rule_path: item.hits for item in tap.run.rule_statistics()}["/p/rules/ftp"] == 1


def test_a_child_keeps_its_parent_and_ends_with_it() -> None:
    tap = Tap(with_alg())
    control = Control(tap)
    control.say(1, b"229 (|||50000|)\r\n")
    assert opens(tap, A, B, DATA)
    assert tap.send(tcp(B, A, (DATA, 20), SYN | ACK, 9, 8), 100) == "ALLOW state established reply"
    assert tap.send(tcp(A, B, (20, DATA), ACK, 8, 10), 120) == "ALLOW state established"
    assert tap.send(tcp(A, B, (20, DATA), ACK, 8, 10), 43_100) == "ALLOW state established"
    control.say(0, b"NOOP\r\n", 86_000)
    assert control.segment(0, 4, at=86_000).startswith("ALLOW")
    assert tap.send(tcp(A, B, (20, DATA), ACK, 8, 10), 86_021) == "DROP match new"
    assert [flow.end_reason for flow in tap.run.flows()] == ["rst", "parent"]


def test_a_child_is_judged_through_its_parent() -> None:
    tap = Tap(with_alg())
    control = Control(tap)
    control.say(1, b"229 (|||50000|)\r\n")
    assert opens(tap, A, B, DATA)
    tap.run.commit(policies(rule("other", Action.ALLOW, FTP_ENTRY), rule("none", Action.DROP)))
    (line,) = tap.feed(tcp(A, B, (20, DATA), SYN, 7))
    assert (line.verdict, line.rule_path) == ("ALLOW", "/p/rules/other")
    control.say(0, b"NOOP\r\n")
    tap.run.commit(policies(rule("none", Action.DROP)))
    assert tap.send(tcp(A, B, (20, DATA), SYN, 7)) == "DROP match new"
    assert control.segment(0, ACK).startswith("DROP match")
    assert [flow.end_reason for flow in tap.run.flows()] == ["policy", "parent"]


@pytest.mark.parametrize("family", [4, 6])
def test_both_ends_are_told_when_a_child_shows_that_its_parent_is_refused(family: int) -> None:
    client, server = (A, B) if family == 4 else (A6, B6)
    tap = Tap(with_alg())
    control = Control(tap, client, server)
    control.say(1, b"229 (|||50000|)\r\n")
    assert opens(tap, client, server, DATA)
    tap.run.commit(policies(rule("none", Action.REJECT)))
    assert tap.send(tcp(server, client, (DATA, 20), SYN | ACK, 9, 8)) == "REJECT match invalid"
    told = [parse(item.data, RAW, len(item.data)) for item in tap.run.generated]
    ends = [(packet.destination_port, packet.source_port) for packet in told]
    assert ends == [(21, 40_000), (40_000, 21), (DATA, 20)]  # the packet's sender first


def test_expectations_live_a_minute_and_are_renewed() -> None:
    text = b"229 (|||50000|)\r\n"
    for late in (False, True):
        tap = Tap(with_alg())
        control = Control(tap)
        control.say(1, text, 0)
        control.say(1, text, 50)
        assert opens(tap, A, B, DATA, 110 + 0.01 * late) is not late


def test_expectations_die_with_their_parent() -> None:
    tap = Tap(with_alg())
    control = Control(tap)
    control.say(1, b"229 (|||50000|)\r\n")
    tap.run.commit(policies(rule("none", Action.DROP)))
    assert control.segment(0, ACK).startswith("DROP policy-change")
    assert not opens(tap, A, B, DATA)


def test_at_most_eight_for_each_parent() -> None:
    tap = Tap(with_alg())
    control = Control(tap)
    for port in range(50_000, 50_009):
        control.say(1, b"229 (|||%d|)\r\n" % port)
    assert [port for port in range(50_000, 50_009) if opens(tap, A, B, port)] == list(range(50_001, 50_009))


def test_at_most_1024_for_a_worker() -> None:
    tap = Tap(with_alg())
    for client in range(129):
        control = Control(tap, f"10.3.0.{client + 1}")
        for port in range(50_000, 50_008):
            control.say(1, b"229 (|||%d|)\r\n" % port)
    assert opens(tap, "10.3.0.128", B, 50_007)
    assert not opens(tap, "10.3.0.129", B, 50_000)


def test_tftp() -> None:
    tap = Tap(with_alg())
    assert tap.send(udp(A, B, (3000, 69), b"\0\1file\0octet\0")) == "ALLOW match new"
    assert tap.send(udp(C, A, (4000, 3000), b"\0\3\0\1data")) == "DROP match new"
    assert tap.send(udp(B, A, (4000, 3000), b"\0\3\0\1data")) == "ALLOW match related"
    assert tap.send(udp(A, B, (3000, 4000), b"\0\4\0\1")) == "ALLOW state established reply"
    assert tap.send(udp(B, A, (4001, 3000), b"\0\3\0\1data")) == "DROP match new"
    assert tap.send(udp(A, B, (3000, 69), b"\0\2file\0octet\0")) == "ALLOW state new"
    assert tap.send(udp(B, A, (4001, 3000), b"\0\4\0\0")) == "ALLOW match related"


@pytest.mark.parametrize("payload", [b"\0\3\0\1", b"\1", b"\0", b"\1\0file"])
def test_what_is_no_tftp_request(payload: bytes) -> None:
    tap = Tap(with_alg())
    assert tap.send(udp(A, B, (3000, 69), payload)) == "ALLOW match new"
    assert tap.send(udp(B, A, (4000, 3000))) == "DROP match new"


def test_mid_stream_control_connections_are_read_at_once() -> None:
    tap = Tap(with_alg())
    assert tap.send(tcp(A, B, (40_000, 21), ACK, 5, 5, payload=b"PORT 10,0,0,1,195,80\r\n")) == "ALLOW match new"
    assert opens(tap, B, A, DATA)
