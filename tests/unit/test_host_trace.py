# SPDX-License-Identifier: Apache-2.0
"""Traceflow through two hosts in memory: what a traced packet meets, and that nothing else notices it."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from dfw.core import REASONS, VERDICTS
from dfw.core.live import Live
from dfw.core.watch import read_traces, send_trace
from dfw.layout import ACTION_DROP
from dfw.layout_live import NO_INDEX
from overlay.host_trace import STAGES
from tests.support.small_fabric import (
    GATEWAY_MAC,
    SEGMENTS,
    TEPS,
    A,
    B,
    C,
    D,
    F,
    SmallHost,
    Workload,
    all_but_ssh,
    ether,
    fabric_of,
    ip4,
)

MARK = 0xABCDEF


def stages(host: SmallHost, live: Live) -> list[str]:
    """What the host has seen of the mark, in a few words each."""
    found = []
    for seen in read_traces(live):
        assert seen["mark"] == MARK
        words = [STAGES[seen["stage"]]]
        if words == ["filter"]:
            words += [str(seen["filter"]), "OUT" if seen["dir"] == 2 else "IN", VERDICTS[seen["verdict"]]]
            words.append(REASONS[seen["reason"]])
        if words == ["dropped"]:
            words.append(REASONS[seen["reason"]])
        if seen["segment"] != NO_INDEX and words[0] in ("forwarded", "encapsulated", "received", "sent"):
            words.append(SEGMENTS[seen["segment"]])
        if words[0] == "route":
            words.append(f"{'.'.join(map(str, seen['prefix'][:4]))}/{seen['length']}")
        found.append(" ".join(words))
    return found


@pytest.fixture
def host() -> SmallHost:
    return SmallHost(0, all_but_ssh())


def trace(host: SmallHost, source: Workload, frame: Packet) -> list[str]:
    live = Live(host.host)
    send_trace(live, source.number, bytes(frame), MARK)
    return stages(host, live)


def test_on_one_host_and_nobody_notices(host: SmallHost) -> None:
    before = (host.engine.stats(), host.host.stats(), host.engine.rule_counts(2).tolist())
    frame = ether(A, B.mac) / ip4(A, B.v4) / TCP(sport=9, dport=80, flags="S")
    way = ["sent web", "filter 0 OUT ALLOW match", "forwarded web", "filter 1 IN ALLOW match", "delivered"]
    assert trace(host, A, frame) == way
    refused = ether(A, B.mac) / ip4(A, B.v4) / TCP(sport=9, dport=22, flags="S")
    assert trace(host, A, refused) == ["sent web", "filter 0 OUT DROP match"]
    assert (host.engine.stats(), host.host.stats(), host.engine.rule_counts(2).tolist()) == before
    # A connection that is there is asked, and stays as it is.
    host.send((A, frame))
    before = (host.engine.stats(), host.engine.rule_counts(2).tolist())
    assert trace(host, A, frame)[1] == "filter 0 OUT ALLOW state"
    assert (host.engine.stats(), host.engine.rule_counts(2).tolist()) == before


def test_routed(host: SmallHost) -> None:
    frame = ether(A, GATEWAY_MAC) / ip4(A, C.v4) / UDP(sport=9, dport=80)
    way = [
        "sent web",
        "filter 0 OUT ALLOW match",
        "route 10.1.2.0/24",
        "forwarded db",
        "filter 2 IN ALLOW match",
        "delivered",
    ]
    assert trace(host, A, frame) == way


@pytest.mark.parametrize(
    ("frame", "last"),
    [
        (ether(A, GATEWAY_MAC) / ip4(A, "198.51.100.9") / UDP(), "dropped blackhole"),
        (ether(A, GATEWAY_MAC) / ip4(A, "10.1.2.99") / UDP(), "dropped no-neighbour"),
        (Ether(src="02:00:00:00:00:99", dst=B.mac) / ip4(A, B.v4) / UDP(), "dropped spoof-mac"),
        (ether(A, B.mac) / IP(src="10.1.1.99", dst=B.v4) / UDP(), "dropped spoof-ip"),
        (ether(A, "02:00:00:00:00:77") / ip4(A, B.v4) / UDP(), "copied"),
        (ether(A, B.mac) / b"not IP", "dropped non-ip"),
    ],
)
def test_where_it_ends(host: SmallHost, frame: Packet, last: str) -> None:
    assert trace(host, A, frame)[-1].startswith(last)


def test_between_hosts_the_mark_is_in_our_option_and_the_packet_is_not_delivered() -> None:
    near, far = SmallHost(0, all_but_ssh()), SmallHost(1, all_but_ssh())
    frame = ether(A, F.mac) / ip4(A, F.v4) / TCP(sport=9, dport=80, flags="S")
    assert trace(near, A, frame) == ["sent web", "filter 0 OUT ALLOW match", "forwarded web", "encapsulated web"]
    # Geneve as it leaves: the vNIC that sent it, and the mark (docs/geneve-options.md).
    option = bytes.fromhex("ff5a0102") + A.number.to_bytes(4, "big") + MARK.to_bytes(4, "big")
    geneve = bytes.fromhex("03006558") + (5001 << 8).to_bytes(4, "big") + option
    live = Live(far.host)
    others = bytes(ether(A, F.mac) / ip4(A, F.v4) / UDP(sport=1, dport=2))
    plain = bytes.fromhex("00006558") + (5001 << 8).to_bytes(4, "big")
    found = far.receive((plain + others, TEPS[0]), (geneve + bytes(frame), TEPS[0]), (plain + others, TEPS[0]))
    assert [sent.raw for sent in found] == [others, others], "the rest of the burst goes on as ever"
    assert stages(far, live) == ["received web", "forwarded web", f"filter {F.number} IN ALLOW match", "delivered"]
    assert far.host.stats().consumed == 1 and far.engine.stats().created == 1
    refuse = all_but_ssh()
    refuse["action"] = ACTION_DROP
    far.rules(refuse, only=F)
    far.receive((geneve + bytes(frame), TEPS[0]))
    assert stages(far, live)[-1] == f"filter {F.number} IN DROP match"


def test_a_host_that_the_destination_has_left_sends_it_on() -> None:
    near = SmallHost(0, all_but_ssh(), fabric_of(0, moved=(B,)))
    frame = bytes(ether(D, B.mac) / IP(src=F.v4, dst=B.v4) / UDP(sport=1, dport=2))
    option = bytes.fromhex("ff5a0102") + bytes(4) + MARK.to_bytes(4, "big")
    live = Live(near.host)
    near.receive((bytes.fromhex("03006558") + (5001 << 8).to_bytes(4, "big") + option + frame, TEPS[2]))
    assert stages(near, live) == ["received web", "forwarded web", "encapsulated web"]
    (sent,) = near.last.frames
    assert near.last.bytes_of(0)[8:20] == bytes.fromhex("ff5a0102fffffffe02") + MARK.to_bytes(3, "big")
    assert int(sent["inner"]) == 20
