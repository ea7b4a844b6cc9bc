# SPDX-License-Identifier: Apache-2.0
"""Connections of a host's worker, listed, picked by a filter and ended."""

from __future__ import annotations

import numpy as np
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from dfw.core.live import Live
from dfw.core.watch import commits_behind, end_flows, read_flows
from overlay.flow_filter import FlowFilterError, flow_filter_match, flow_filter_parse
from overlay.flows import all_flows, end_matching, read_matching, show_flows
from tests.support.small_fabric import A, B, SmallHost, ether, ip4, ip6

PATHS = {0: "/infra/domains/default/security-policies/p/rules/any"}


@pytest.fixture
def host() -> SmallHost:
    """With three connections from a to b, each at both filters, and one from b to a."""
    found = SmallHost(0)
    found.send(
        (A, ether(A, B.mac) / ip4(A, B.v4) / TCP(sport=1000, dport=80, flags="S")),
        (A, ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=1001, dport=53) / b"x"),
        (A, ether(A, B.mac) / ip6(A, B.v6) / TCP(sport=1002, dport=80, flags="S")),
        (B, ether(B, A.mac) / IP(src=B.v4, dst=A.v4) / ICMP(id=7, seq=1)),
        (B, ether(B, A.mac) / IP(src=B.v4, dst=A.v4) / TCP(sport=80, dport=1000, flags="SA", ack=1)),
    )
    return found


def names(host: SmallHost) -> dict[int, str]:
    return {host.engine.incarnation(w.number): w.name for w in (A, B)}


def test_rows_say_what_each_connection_is(host: SmallHost) -> None:
    live = Live(host.host)
    flows = all_flows(read_matching(live, flow_filter_parse("all"), names(host), PATHS))
    rows = show_flows(flows, names(host), PATHS, {})
    found = {(row["vnic"], row["proto"], row["src"]): row for row in rows}
    assert len(rows) == len(found) == 8
    tcp = found["a", "tcp", A.v4]
    assert (tcp["sport"], tcp["dst"], tcp["dport"], tcp["dir"], tcp["state"]) == (1000, B.v4, 80, "OUT", "SYN_RECEIVED")
    assert (tcp["packets"], tcp["reply_packets"], tcp["reply_bytes"], tcp["rule_path"]) == (1, 1, 40, PATHS[0])
    assert found["b", "tcp", A.v4]["dir"] == "IN"
    assert found["a", "tcp", A.v6]["reply_packets"] == 0
    assert (found["b", "icmp", B.v4]["sport"], found["b", "icmp", B.v4]["dport"]) == (7, 8 << 8)
    assert 0 < found["a", "udp", A.v4]["expires"] <= 60
    assert commits_behind(live, 0) == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("all", 8),
        ("vnic=a", 4),
        ("vnic=nobody", 0),
        ("proto=tcp", 4),
        ("proto=tcp,vnic=b,dport=80", 2),
        ("dir=OUT", 4),
        ("src=10.1.1.0/24", 6),
        (f"dst={A.v4}", 2),
        (f"addr={A.v4}", 6),
        ("addr=fd00::/16", 2),
        ("addr=10.1.1.11-10.1.1.12,port=53", 2),
        ("rule=rules/any", 8),
        ("rule=ny", 0),
        ("sport=1001", 2),
    ],
)
def test_filters(host: SmallHost, text: str, count: int) -> None:
    flows = read_flows(Live(host.host), 0)
    assert flow_filter_match(flow_filter_parse(text), flows, names(host), PATHS).sum() == count


@pytest.mark.parametrize("text", ["", "port", "port=", "colour=red", "port=1,port=2", "proto=x", "src=10.1", "dir=UP"])
def test_what_is_no_filter(text: str) -> None:
    with pytest.raises(FlowFilterError):
        flow_filter_parse(text)


def test_an_ended_connection_begins_anew_and_others_stay(host: SmallHost) -> None:
    live = Live(host.host)
    before = read_flows(live, 0)
    assert end_matching(live, flow_filter_parse("proto=tcp,addr=10.0.0.0/8"), names(host), PATHS) == 2
    assert len(read_flows(live, 0)) == 6 == host.engine.stats().connections4 + host.engine.stats().connections6
    # A handle names one connection, and not the next one in its place.
    assert end_flows(live, 0, before["number"]) == 6
    assert end_flows(live, 0, before["number"]) == 0
    assert end_flows(live, 0, np.array([1 << 31, (1 << 64) - 1], np.uint64)) == 0
    host.send((A, ether(A, B.mac) / ip4(A, B.v4) / TCP(sport=1000, dport=80, flags="S")))
    (handle, _) = read_flows(live, 0)["number"]
    assert handle not in before["number"]


def test_more_connections_than_a_page(host: SmallHost) -> None:
    syns = [
        (A, ether(A, B.mac) / (ip4(A, B.v4) if n % 2 else IPv6(src=A.v6, dst=B.v6)) / UDP(sport=2000 + n, dport=9))
        for n in range(900)
    ]
    host.send(*syns)
    flows = read_flows(Live(host.host), 0)
    stats = host.engine.stats()
    assert len(flows) == len(np.unique(flows["number"])) == stats.connections4 + stats.connections6 > 1024
