# SPDX-License-Identifier: Apache-2.0
"""Rules at a tap (docs/packet-path.md sections 2, 4, 5): order, matches, strictness, changes of policy."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dfw.model import (
    Action,
    Addresses,
    Direction,
    Family,
    Peers,
    Policy,
    PolicySet,
    PortRange,
    ServiceEntry,
    Tier,
    range_parse,
)
from tests.support.oracle_bench import (
    A6,
    ACK,
    ALLOW,
    B6,
    ETHERNET,
    FIN,
    RST,
    SYN,
    TCP,
    UDP,
    A,
    B,
    Tap,
    chunk,
    icmp,
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


# Order of things


def test_nothing_passes_without_rules() -> None:
    tap = Tap(None)
    assert tap.send(QUERY) == "DROP no-ruleset invalid"
    assert tap.send(bytes(60), link=ETHERNET) == "DROP no-ruleset invalid"
    assert tap.send(ip(A, B, UDP, bytes(8), fragment=0x2000)) == "DROP no-ruleset invalid"


def test_refusals_and_non_ip() -> None:
    tap = Tap()
    assert tap.send(QUERY[:10]) == "DROP short invalid"
    assert tap.send(bytes(60), link=ETHERNET) == "ALLOW non-ip untracked"


def test_no_rule_at_all() -> None:
    empty = PolicySet(default=Policy("default", Tier.DEFAULT, 0))
    assert Tap(empty).send(QUERY) == "DROP no-rule new"
    assert Tap(empty).send(icmp(A, B, 0)) == "DROP no-rule invalid"


@pytest.mark.parametrize(
    ("changes", "matches"),
    [
        ({}, True),
        ({"sources": peers("10.0.0.0/30")}, True),
        ({"sources": peers("10.0.0.2")}, False),
        ({"sources": peers("10.0.0.2", "9.0.0.0-10.0.0.1")}, True),
        ({"sources": peers("10.0.0.2"), "sources_excluded": True}, True),
        ({"sources": peers("10.0.0.1"), "sources_excluded": True}, False),
        ({"destinations": peers("10.0.0.2")}, True),
        ({"destinations": peers("::/0")}, False),
        ({"destinations": peers("10.0.0.2"), "destinations_excluded": True}, False),
        ({"sources": Peers(())}, False),
        ({"sources": Peers(()), "sources_excluded": True}, True),
        ({"families": frozenset({Family.IPV6})}, False),
        ({"direction": Direction.IN}, True),
        ({"disabled": True}, False),
    ],
)
def test_what_a_rule_matches(changes: dict[str, object], matches: bool) -> None:
    tap = Tap(policies(rule("drop", Action.DROP, **changes), rule("any")))
    assert tap.send(QUERY) == ("DROP match new" if matches else "ALLOW match new")


@pytest.mark.parametrize(
    ("entry", "packet", "matches"),
    [
        (ports(UDP, 53), QUERY, True),
        (ports(UDP, 54), QUERY, False),
        (ports(TCP, 53), QUERY, False),
        (ports(UDP, 50, 60), QUERY, True),
        (ServiceEntry(protocol=UDP, source_ports=(PortRange(1000, 1000),)), QUERY, True),
        (ServiceEntry(protocol=UDP, source_ports=(PortRange(53, 53),)), QUERY, False),
        (ServiceEntry(protocol=1, icmp_type=8), icmp(A, B, 8), True),
        (ServiceEntry(protocol=1, icmp_type=8, icmp_code=1), icmp(A, B, 8), False),
        (ServiceEntry(protocol=1, icmp_type=13), icmp(A, B, 8), False),
        (ServiceEntry(protocol=58, icmp_type=128, icmp_code=0), icmp(A6, B6, 128), True),
        (ServiceEntry(protocol=6, tcp_mask=0x12, tcp_value=2), tcp(A, B, PORTS, SYN), True),
        (ServiceEntry(protocol=6, tcp_mask=0x12, tcp_value=2), tcp(A, B, PORTS, ACK), False),
        (ServiceEntry(protocol=47), ip(A, B, 47, b"gre"), True),
    ],
)
def test_what_a_service_matches(entry: ServiceEntry, packet: bytes, matches: bool) -> None:
    tap = Tap(policies(rule("drop", Action.DROP, entry), rule("any")))
    assert tap.send(packet) == ("DROP match new" if matches else "ALLOW match new")


def test_pass_and_jump_skip_tiers() -> None:
    def tier(name: str, where: Tier, action: Action) -> Policy:
        return Policy(f"/{name}", where, 0, rules=(rule(name, action),))

    jump = tier("jump", Tier.ENVIRONMENT, Action.JUMP_TO_APPLICATION)
    also = replace(tier("also", Tier.ENVIRONMENT, Action.DROP), number=1)
    application = tier("application", Tier.APPLICATION, Action.REJECT)
    passing = tier("passing", Tier.ADMIN, Action.PASS)
    assert Tap(PolicySet((jump, also, application))).send(QUERY) == "REJECT match new"
    assert Tap(PolicySet((passing, also, application))).send(QUERY) == "DROP match new"


def test_first_rule_wins_and_is_named() -> None:
    tap = Tap(policies(rule("dns", Action.ALLOW, ports(UDP, 53)), rule("rest", Action.DROP)))
    (line,) = tap.feed(QUERY)
    assert (line.rule, line.rule_path, line.vnic, line.dir) == (1, "/p/rules/dns", "tap", "IN_OUT")
    (line,) = tap.feed(udp(A, B, (1, 2)))
    assert line.rule_path == "/p/rules/rest"


# TCP


def test_strict_and_not() -> None:
    strict = policies(rule("any"), strict=True)
    assert Tap(strict).send(tcp(A, B, PORTS, ACK, 1, 1)) == "DROP tcp-strict invalid"
    assert Tap(strict).send(tcp(A, B, PORTS, SYN | ACK, 1, 1)) == "DROP tcp-strict invalid"
    assert Tap(strict).send(tcp(A, B, PORTS, SYN, 1)) == "ALLOW match new"
    assert Tap().send(tcp(A, B, PORTS, ACK, 1, 1)) == "ALLOW match new"
    for flags in (SYN | ACK, FIN | ACK, RST):
        assert Tap().send(tcp(A, B, PORTS, flags, 1, 1)) == "DROP tcp-state invalid"


def test_misfits_are_invalid_whatever_refuses_them() -> None:
    drop = policies(rule("none", Action.DROP))
    assert Tap(drop).send(tcp(A, B, PORTS, ACK, 1, 1)) == "DROP match new"
    assert Tap(drop).send(tcp(A, B, PORTS, RST, 1, 1)) == "DROP match invalid"


def test_stateless_rules_allow_everything_and_remember_nothing() -> None:
    tap = Tap(policies(rule("any"), stateful=False))
    for packet in (
        tcp(A, B, PORTS, SYN | ACK, 1, 1), QUERY, QUERY, icmp(A, B, 0), icmp(A, B, 9), icmp(A, B, 3, payload=QUERY),
        sctp(A, B, PORTS, 1, chunk(0)),
    ):  # fmt: skip
        assert tap.send(packet) == "ALLOW match untracked"
    assert tap.run.flows() == []


def test_a_refused_segment_names_the_connections_rule() -> None:
    tap = Tap()
    handshake(tap)
    (line,) = tap.feed(tcp(B, A, BACK, ACK, 501, 9999))
    assert (line.verdict, line.reason, line.ct, line.reply, line.rule) == ("DROP", "tcp-ack", "invalid", True, 1)
    (flow,) = tap.run.flows()
    assert (flow.packets, flow.reply_packets, flow.dropped) == (2, 1, 1)


def test_a_closed_5_tuple_is_reopened() -> None:
    tap = Tap()
    handshake(tap)
    assert tap.send(tcp(A, B, PORTS, RST, 101)) == "ALLOW state established"
    assert tap.send(tcp(B, A, BACK, SYN, 9000)) == "ALLOW match new"
    closed, opened = tap.run.flows()
    assert (closed.end_reason, closed.state, opened.src, opened.end_reason) == ("reopened", "CLOSED", B, "open")


# Changes of policy

DENY = policies(rule("none", Action.DROP))


def test_a_connection_that_is_still_allowed_takes_the_new_rule() -> None:
    tap = Tap()
    handshake(tap)
    tap.run.commit(policies(rule("other", number=7), strict=True))
    (line,) = tap.feed(tcp(B, A, BACK, ACK, 501, 101))
    assert (line.verdict, line.reason, line.rule, line.rule_path) == ("ALLOW", "state", 7, "/p/rules/other")
    assert {item.rule_path: item.hits for item in tap.run.rule_statistics()} == {
        "/p/rules/any": 1,
        "/p/rules/other": 0,
    }


def test_a_connection_that_is_refused_ends() -> None:
    tap = Tap()
    handshake(tap)
    tap.send(QUERY)
    tap.run.commit(DENY)
    assert tap.send(tcp(B, A, BACK, ACK, 501, 101)) == "DROP policy-change established reply"
    assert tap.send(tcp(B, A, BACK, ACK, 501, 101)) == "DROP match new"
    assert tap.send(ANSWER) == "DROP policy-change new reply"
    assert [flow.end_reason for flow in tap.run.flows()] == ["policy", "policy"]


def test_re_judging_asks_with_the_original_direction() -> None:
    only_dns = policies(rule("dns", Action.ALLOW, ports(UDP, 53)), rule("none", Action.DROP))
    tap = Tap()
    tap.send(QUERY)
    tap.run.commit(only_dns)
    assert tap.send(ANSWER) == "ALLOW state established reply"


def test_re_judging_tcp_asks_for_a_syn() -> None:
    syn = ServiceEntry(protocol=TCP, tcp_mask=SYN | ACK, tcp_value=SYN)
    tap = Tap()
    handshake(tap)
    tap.run.commit(policies(rule("syn", Action.ALLOW, syn), rule("none", Action.DROP)))
    assert tap.send(tcp(A, B, PORTS, ACK, 101, 501)) == "ALLOW state established"


def test_re_judged_to_stateless() -> None:
    tap = Tap()
    handshake(tap)
    tap.run.commit(policies(rule("any"), stateful=False))
    assert tap.send(tcp(A, B, PORTS, ACK, 101, 501)) == "ALLOW match untracked"
    assert [flow.end_reason for flow in tap.run.flows()] == ["policy"]


def test_persistent_connections_stay() -> None:
    tap = Tap(policies(rule("keep", persist=True)))
    handshake(tap)
    tap.run.commit(DENY)
    (line,) = tap.feed(tcp(A, B, PORTS, ACK, 101, 501))
    assert (line.verdict, line.rule_path) == ("ALLOW", "/p/rules/keep")


def test_an_icmp_error_about_a_connection_that_is_refused_now() -> None:
    tap = Tap()
    tap.send(QUERY)
    tap.run.commit(policies(rule("dns", Action.REJECT, ports(UDP, 53)), rule("any")))
    assert tap.send(icmp(B, A, 3, payload=QUERY)) == "DROP icmp-unrelated invalid"
    assert tap.run.generated == []
    assert tap.run.flows()[0].end_reason == "policy"


def test_timers_of_the_new_policy_hold() -> None:
    tap = Tap()
    tap.send(QUERY)
    tap.run.commit(replace(ALLOW, timers=replace(ALLOW.timers, udp_single=1000)))
    tap.send(QUERY, 10)
    assert tap.send(QUERY, 1010) == "ALLOW state new"
