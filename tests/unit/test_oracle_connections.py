# SPDX-License-Identifier: Apache-2.0
"""Connections at a tap (docs/packet-path.md sections 5, 7, 8, 11): protocols, timers, ICMP errors, room, records."""

from __future__ import annotations

import struct

import pytest

from dfw.model import (
    Action,
    Addresses,
    Peers,
    PortRange,
    Rule,
    ServiceEntry,
    range_parse,
)
from tests.support.oracle_bench import (
    A6,
    ACK,
    B6,
    FIN,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    A,
    B,
    C,
    Tap,
    chunk,
    icmp,
    init,
    ip,
    policies,
    rule,
    sctp,
    tcp,
    udp,
)  # fmt: skip

QUERY, ANSWER = udp(A, B, (1000, 53)), udp(B, A, (53, 1000))
PORTS, BACK = (1000, 80), (80, 1000)


def ports(protocol: int, first: int, last: int | None = None) -> ServiceEntry:
    """A service entry for destination ports."""
    return ServiceEntry(protocol=protocol, destination_ports=(PortRange(first, last or first),))


def peers(*ranges: str) -> Peers:
    """Addresses as one side of a rule."""
    return Peers((Addresses(tuple(range_parse(item) for item in ranges)),))


def handshake(tap: Tap, at: float = 0.0) -> None:
    """Three segments from A to B."""
    assert tap.send(tcp(A, B, PORTS, SYN, 100), at) == "ALLOW match new"
    assert tap.send(tcp(B, A, BACK, SYN | ACK, 500, 101), at) == "ALLOW state established reply"
    assert tap.send(tcp(A, B, PORTS, ACK, 101, 501), at) == "ALLOW state established"


# Connections of other protocols, timers


def test_udp_states_and_timers() -> None:
    tap = Tap()
    assert tap.send(QUERY, 0) == "ALLOW match new"
    assert tap.send(QUERY, 60) == "ALLOW state new"  # udp_first_packet, to the last tick
    assert tap.send(QUERY, 90.01) == "ALLOW match new"  # udp_single, one tick too late
    assert tap.send(ANSWER, 100) == "ALLOW state established reply"
    assert tap.send(QUERY, 160) == "ALLOW state established"
    assert tap.send(ANSWER, 220.02) == "ALLOW match new"  # udp_multiple: begins the other way round
    flows = tap.run.flows()
    assert [flow.end_reason for flow in flows] == ["timeout", "timeout", "open"]
    assert [flow.state for flow in flows] == ["SINGLE", "MULTIPLE", "FIRST"]
    assert [(flow.packets, flow.reply_packets, flow.history) for flow in flows] == [
        (2, 0, "D"),
        (2, 1, "Dd"),
        (1, 0, "D"),
    ]
    assert (flows[1].start_ns, flows[1].end_ns) == (90_010_000_000, 160_000_000_000)


def test_time_never_goes_back() -> None:
    tap = Tap()
    tap.send(QUERY, 100)
    tap.send(udp(A, C, (1, 1)), 160.5)
    assert tap.send(QUERY, 100) == "ALLOW match new"


def test_a_stopped_clock() -> None:
    tap = Tap(clock_stopped=True)
    tap.send(QUERY, 0)
    assert tap.send(ANSWER, 1_000_000) == "ALLOW state established reply"


@pytest.mark.parametrize(
    ("segments", "timeout", "reason"),
    [
        ([(A, SYN, 100, 0)], 120, "timeout"),
        ([(A, SYN, 100, 0), (B, SYN | ACK, 500, 101)], 30, "timeout"),
        ([(A, SYN, 100, 0), (B, SYN | ACK, 500, 101), (A, ACK, 101, 501)], 43_200, "timeout"),
        ([(A, SYN, 100, 0), (B, SYN | ACK, 500, 101), (A, FIN | ACK, 101, 501)], 120, "timeout"),
        ([(A, SYN, 100, 0), (B, SYN | ACK, 500, 101), (A, FIN | ACK, 101, 501), (B, FIN | ACK, 501, 101)],
         45, "timeout"),
        (
            [(A, SYN, 100, 0), (B, SYN | ACK, 500, 101), (A, FIN | ACK, 101, 501), (B, FIN | ACK, 501, 102),
             (A, ACK, 102, 502)], 45, "fin",
        ),
        ([(A, SYN, 100, 0), (B, RST | ACK, 0, 101)], 20, "rst"),
        ([(A, SYN, 100, 0), (A, RST, 101, 0)], 20, "rst"),
        ([(A, ACK, 100, 1)], 120, "timeout"),
    ],
)  # fmt: skip
def test_tcp_timers(segments: list[tuple[str, int, int, int]], timeout: int, reason: str) -> None:
    for late in (False, True):
        tap = Tap()
        for source, flags, seq, ack in segments:
            ends = (A, B, PORTS) if source == A else (B, A, BACK)
            assert tap.send(tcp(*ends, flags, seq, ack)).startswith("ALLOW")
        tap.send(QUERY, timeout + 0.01 * late)
        assert tap.run.flows()[0].end_reason == (reason if late else "open")


def test_icmp_queries_and_answers() -> None:
    tap = Tap()
    assert tap.send(icmp(A, B, 8, ident=1), 0) == "ALLOW match new"
    assert tap.send(icmp(B, A, 0, ident=2), 0) == "DROP icmp-state invalid"
    assert tap.send(icmp(B, A, 8, ident=1), 0) == "ALLOW match new"
    assert tap.send(icmp(B, A, 0, ident=1), 20) == "ALLOW state established reply"
    assert tap.send(icmp(A, B, 8, ident=1), 30) == "ALLOW state established"
    assert tap.send(icmp(A, B, 8, ident=1), 40.01) == "ALLOW match new"
    assert tap.send(icmp(A, B, 8, code=1, ident=1), 40) == "ALLOW state new"
    assert tap.send(icmp(A, B, 10), 40) == "DROP icmp-state invalid"
    flow = tap.run.flows()[0]
    assert (flow.sport, flow.dport, flow.state, flow.end_reason) == (1, 0x800, "REPLIED", "timeout")


@pytest.mark.parametrize(("query", "answer"), [(8, 0), (13, 14), (15, 16), (17, 18)])
def test_icmp_pairs(query: int, answer: int) -> None:
    tap = Tap()
    assert tap.send(icmp(A, B, query)) == "ALLOW match new"
    assert tap.send(icmp(B, A, answer)) == "ALLOW state established reply"


@pytest.mark.parametrize(("query", "answer"), [(128, 129), (139, 140)])
def test_icmpv6_pairs(query: int, answer: int) -> None:
    tap = Tap()
    assert tap.send(icmp(A6, B6, query)) == "ALLOW match new"
    assert tap.send(icmp(B6, A6, answer)) == "ALLOW state established reply"


@pytest.mark.parametrize("kind", range(128, 160))
def test_icmpv6_without_state(kind: int) -> None:
    stateless = kind in (*range(130, 137), 143)
    expected = {128: "ALLOW match new", 139: "ALLOW match new"}.get(kind, "DROP icmp-state invalid")
    assert Tap().send(icmp(A6, B6, kind)) == ("ALLOW match untracked" if stateless else expected)
    if stateless:
        assert Tap(policies(rule("none", Action.DROP))).send(icmp(A6, B6, kind)) == "DROP match untracked"


def test_igmp_is_stateless_in_ipv4_only() -> None:
    assert Tap().send(ip(A, "224.0.0.1", 2, bytes(8))) == "ALLOW match untracked"
    assert Tap().send(ip(A6, B6, 2, bytes(8))) == "ALLOW match new"


def test_other_protocols_are_one_conversation() -> None:
    tap = Tap()
    assert tap.send(ip(A, B, 47, b"one")) == "ALLOW match new"
    assert tap.send(ip(B, A, 47, b"two")) == "ALLOW state established reply"
    assert tap.send(ip(A, B, 50, b"esp")) == "ALLOW match new"


def test_group_addresses_have_no_reply() -> None:
    tap = Tap()
    for group in ("224.0.0.251", "255.255.255.255"):
        assert tap.send(udp(A, group, (5353, 5353))) == "ALLOW match new"
        assert tap.send(udp(A, group, (5353, 5353))) == "ALLOW state new"
        assert tap.send(udp(group, A, (5353, 5353))) == "DROP oneway invalid reply"
    assert tap.send(udp(A6, "ff02::fb", (5353, 5353))) == "ALLOW match new"
    assert tap.send(udp("ff02::fb", A6, (5353, 5353))) == "DROP oneway invalid reply"
    assert [flow.dropped for flow in tap.run.flows()] == [1, 1, 1]


def test_a_packet_to_itself_is_original() -> None:
    tap = Tap()
    assert tap.send(udp(A, A, (7, 7))) == "ALLOW match new"
    assert tap.send(udp(A, A, (7, 7))) == "ALLOW state new"


# SCTP


def associate() -> Tap:
    """Four packets of set-up: tags 11 (towards the server) and 22 (towards the client)."""
    tap = Tap()
    assert tap.send(sctp(A, B, PORTS, 0, init(1, 22))) == "ALLOW match new"
    assert tap.send(sctp(B, A, BACK, 22, init(2, 11))) == "ALLOW state established reply"
    assert tap.send(sctp(A, B, PORTS, 11, chunk(10), chunk(0))) == "ALLOW state established"
    assert tap.send(sctp(B, A, BACK, 22, chunk(11))) == "ALLOW state established reply"
    return tap


def test_sctp_life() -> None:
    tap = associate()
    for packet in (
        sctp(A, B, PORTS, 11, chunk(0)), sctp(A, B, PORTS, 11, chunk(7)), sctp(B, A, BACK, 22, chunk(8)),
        sctp(A, B, PORTS, 11, chunk(14)),
    ):  # fmt: skip
        assert tap.send(packet).startswith("ALLOW state established")
    assert tap.send(sctp(A, B, PORTS, 11, chunk(14))) == "DROP sctp-state invalid"
    assert tap.send(sctp(B, A, BACK, 0, init(1, 5))) == "ALLOW match new"
    assert [flow.state for flow in tap.run.flows()] == ["CLOSED", "COOKIE_WAIT"]


def test_sctp_tags() -> None:
    tap = associate()
    assert tap.send(sctp(A, B, PORTS, 22, chunk(0))) == "DROP sctp-vtag invalid"
    assert tap.send(sctp(A, B, PORTS, 22, chunk(6))) == "DROP sctp-vtag invalid"
    assert tap.send(sctp(A, B, PORTS, 11, chunk(6, flags=1))) == "DROP sctp-vtag invalid"
    assert tap.send(sctp(A, B, PORTS, 22, chunk(6, flags=1))) == "ALLOW state established"
    assert tap.run.flows()[0].state == "CLOSED"


def test_sctp_states() -> None:
    assert Tap().send(sctp(A, B, PORTS, 5, chunk(0))) == "DROP sctp-state invalid"
    tap = Tap()
    tap.send(sctp(A, B, PORTS, 0, init(1, 22)))
    for packet in (sctp(A, B, PORTS, 9, chunk(0)), sctp(A, B, PORTS, 9, chunk(7)), sctp(A, B, PORTS, 9, chunk(8)),
                   sctp(A, B, PORTS, 9, init(2, 3)), sctp(A, B, PORTS, 9, chunk(14))):  # fmt: skip
        assert tap.send(packet) == "DROP sctp-state invalid"
    assert tap.send(sctp(A, B, PORTS, 0, init(1, 23))) == "ALLOW state new"
    assert tap.send(sctp(B, A, BACK, 22, init(2, 11))) == "DROP sctp-vtag invalid reply"
    assert tap.send(sctp(B, A, BACK, 0, init(1, 77))) == "ALLOW state established reply"
    assert tap.send(sctp(B, A, BACK, 23, init(2, 11))) == "ALLOW state established reply"
    established = associate()
    assert established.send(sctp(B, A, BACK, 22, init(2, 11))) == "DROP sctp-state invalid reply"
    assert established.send(sctp(A, B, PORTS, 0, init(1, 99))) == "ALLOW state established"
    assert established.send(sctp(B, A, BACK, 22, chunk(0))) == "ALLOW state established reply"


# ICMP errors


def error(quoted: bytes, sender: str = B, receiver: str = A, kind: int = 3) -> bytes:
    """An ICMP error."""
    return icmp(sender, receiver, kind, payload=quoted)


def test_icmp_errors_belong_to_what_they_quote() -> None:
    tap = Tap()
    tap.send(QUERY)
    for kind in (3, 4, 5, 11, 12):
        assert tap.send(error(QUERY[:28], C, A, kind)) == "ALLOW related related reply"
    assert tap.send(error(ANSWER[:28], A, B)) == "ALLOW related related"
    assert tap.send(error(udp(A, B, (1, 2)))) == "DROP icmp-unrelated invalid"
    assert tap.send(error(QUERY), 61) == "DROP icmp-unrelated invalid"
    (flow,) = tap.run.flows()
    assert (flow.packets, flow.reply_packets, flow.dropped, flow.end_ns) == (1, 0, 0, 0)


def test_icmp_errors_that_cannot_be_read() -> None:
    tap = Tap()
    tap.send(QUERY)
    later = ip(A, B, UDP, QUERY[20:], fragment=1)
    bad = [QUERY[:27], b"", later, tcp(A6, B6, PORTS, SYN), icmp(A, B, 3, payload=QUERY), icmp(A, B, 10),
           b"\x44" + QUERY[1:]]  # fmt: skip
    for quoted in bad:
        assert tap.send(error(quoted)) == "DROP icmp-quote invalid"
    first = ip(A, B, UDP, QUERY[20:], fragment=0x2000)
    assert tap.send(error(first)) == "ALLOW related related reply"


def test_icmpv6_errors() -> None:
    tap = Tap()
    query = udp(A6, B6, (1000, 53))
    tap.send(query)
    assert tap.send(error(query, B6, A6, 1)) == "ALLOW related related reply"
    assert tap.send(error(query, B6, A6, 127)) == "ALLOW related related reply"
    assert tap.send(error(QUERY, B6, A6, 1)) == "DROP icmp-quote invalid"
    options = ip(A6, B6, 60, b"\x11\0\1\4\0\0\0\0" + query[40:])
    first = ip(A6, B6, 44, struct.pack("!BBHI", UDP, 0, 1, 5) + query[40:])
    later = ip(A6, B6, 44, struct.pack("!BBHI", UDP, 0, 9, 5) + query[40:])
    assert tap.send(error(options, B6, A6, 1)) == "ALLOW related related reply"
    assert tap.send(error(first, B6, A6, 1)) == "ALLOW related related reply"
    assert tap.send(error(later, B6, A6, 1)) == "DROP icmp-quote invalid"


def test_icmp_errors_about_tcp_must_quote_what_is_outstanding() -> None:
    tap = Tap()
    handshake(tap)
    assert tap.send(tcp(A, B, PORTS, ACK, 101, 501, payload=bytes(100))) == "ALLOW state established"
    for seq, text in ((101, "ALLOW related related reply"), (201, "ALLOW related related reply"),
                      (202, "DROP icmp-unrelated invalid"), (100, "DROP icmp-unrelated invalid")):  # fmt: skip
        assert tap.send(error(tcp(A, B, PORTS, ACK, seq, 501))) == text
    unseen = Tap()
    unseen.send(tcp(A, B, PORTS, SYN, 100))
    assert unseen.send(error(tcp(A, B, PORTS, SYN, 100))) == "ALLOW related related reply"
    assert unseen.send(error(tcp(B, A, BACK, SYN | ACK, 1, 1), A, B)) == "DROP icmp-unrelated invalid"


def test_icmp_errors_about_pings() -> None:
    tap = Tap()
    tap.send(icmp(A, B, 8, ident=3))
    assert tap.send(error(icmp(A, B, 8, ident=3))) == "ALLOW related related reply"
    assert tap.send(error(icmp(B, A, 0, ident=3), A, B)) == "ALLOW related related"
    assert tap.send(error(icmp(A, B, 8, ident=4))) == "DROP icmp-unrelated invalid"


# Room


def test_a_full_table() -> None:
    tap = Tap(capacity=2)
    assert tap.send(udp(A, B, (1, 1)), 0) == "ALLOW match new"
    assert tap.send(udp(A, B, (2, 2)), 1) == "ALLOW match new"
    assert tap.send(udp(B, A, (1, 1)), 2) == "ALLOW state established reply"
    assert tap.send(udp(A, B, (3, 3)), 3) == "ALLOW match new"  # the oldest unanswered one goes: 2
    assert tap.send(udp(B, A, (3, 3)), 4) == "ALLOW state established reply"
    assert tap.send(udp(A, B, (4, 4)), 5) == "DROP ct-full new"
    assert tap.send(udp(A6, B6, (4, 4)), 5) == "ALLOW match new"
    assert tap.send(udp(A, B, (4, 4)), 63) == "ALLOW match new"  # 1 has expired
    reasons = {flow.sport: flow.end_reason for flow in tap.run.flows() if flow.src == A}
    assert reasons == {1: "timeout", 2: "evicted", 3: "open", 4: "open"}


def test_flow_records() -> None:
    tap = Tap()
    tap.run.begin_file("one.pcap")
    handshake(tap, 1.5)
    tap.send(tcp(A, B, PORTS, ACK, 101, 501, payload=b"hello"), 2)
    tap.send(tcp(B, A, BACK, FIN | ACK, 501, 106, payload=b"bye"), 3)
    (flow,) = tap.run.flows()
    assert (flow.file, flow.vnic, flow.dir, flow.proto) == ("one.pcap", "tap", "IN_OUT", TCP)
    assert (flow.src, flow.sport, flow.dst, flow.dport) == (A, 1000, B, 80)
    assert (flow.packets, flow.bytes, flow.reply_packets, flow.reply_bytes) == (3, 125, 2, 83)
    assert (flow.state, flow.history, flow.end_reason) == ("FIN_WAIT", "ShADdf", "open")
    assert (flow.start_ns, flow.end_ns) == (1_500_000_000, 3_000_000_000)
    assert (flow.rule, flow.rule_path) == (1, "/p/rules/any")


def test_rule_statistics() -> None:
    tap = Tap(policies(rule("dns", Action.ALLOW, ports(UDP, 53)), rule("rest", Action.DROP, number=2)))
    for packet in (QUERY, ANSWER, QUERY, udp(A, B, (1, 2)), udp(A, B, (1, 2))):
        tap.send(packet)
    found = {item.rule_path: (item.rule, item.hits, item.packets, item.bytes) for item in tap.run.rule_statistics()}
    assert found == {"/p/rules/dns": (1, 1, 3, 3 * 29), "/p/rules/rest": (2, 2, 2, 2 * 29)}


def test_sctp_is_a_protocol_with_ports() -> None:
    tap = Tap(policies(rule("diameter", Action.ALLOW, ports(SCTP, 3868)), rule("none", Action.DROP)))
    assert tap.send(sctp(A, B, (1, 3868), 0, init(1, 2))) == "ALLOW match new"
    assert tap.send(sctp(A, B, (1, 3869), 0, init(1, 2))) == "DROP match new"
    assert isinstance(rule("x"), Rule)
