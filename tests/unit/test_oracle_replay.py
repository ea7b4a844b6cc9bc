# SPDX-License-Identifier: Apache-2.0
"""Which filters judge a packet: a tap, or the vNICs of an inventory (CONTRACT section 3, replay)."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

from dfw.model import (
    Action,
    AddressRange,
    Direction,
    Family,
    Gateway,
    Inventory,
    Machine,
    Peers,
    PolicySet,
    Port,
    PortMember,
    Segment,
    address_parse,
    mac_packed,
)
from dfw.oracle import AmbiguousVnicError, Judgement, Options, Replay
from tests.support.oracle_bench import ETHERNET, UDP, A, B, C, ip, number, policies, rule, udp

MAC_A, MAC_B, GATEWAY, OTHER = "02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:01", "02:00:00:00:00:ff"


def port(name: str, mac: str, address: str, segment: str = "web") -> Port:
    """A vNIC."""
    return Port(name, "esx-1", segment, name, mac, (address_parse(address),))


def inventory(*ports: Port) -> Inventory:
    """Two segments, each behind a gateway of its own, that may use the same addresses."""
    subnet = AddressRange(Family.IPV4, number("10.0.0.0"), number("10.0.0.255"))
    segments = {name: Segment(name, vni, (subnet,), f"t1-{name}") for name, vni in (("web", 5001), ("lab", 5002))}
    return Inventory(
        gateways={f"t1-{name}": Gateway(f"t1-{name}", 1) for name in segments},
        segments=segments,
        machines={item.name: Machine(item.name) for item in ports},
        ports={item.name: item for item in ports},
    )


TWO = inventory(port("a", MAC_A, A), port("b", MAC_B, B))


def frame(packet: bytes, source: str = MAC_A, destination: str = MAC_B) -> bytes:
    """An Ethernet frame."""
    return mac_packed(destination) + mac_packed(source) + b"\x08\0" + packet


def run_for(policyset: PolicySet, things: Inventory = TWO, **options: bool) -> Replay:
    """A replay at the vNICs."""
    return Replay(replace(policyset, inventory=things), things, Options(tap=False, **options))


def texts(lines: list[Judgement]) -> list[str]:
    """`n vnic dir verdict reason ct`."""
    return [f"{line.n} {line.vnic} {line.dir} {line.verdict} {line.reason} {line.ct}" for line in lines]


def test_out_then_in_each_with_its_own_connection() -> None:
    run = run_for(policies(rule("any")))
    query = frame(udp(A, B, (1, 2)))
    assert texts(run.feed(1, 0, query, len(query), ETHERNET)) == ["1 a OUT ALLOW match new", "1 b IN ALLOW match new"]
    answer = frame(udp(B, A, (2, 1)), MAC_B, MAC_A)
    assert texts(run.feed(2, 0, answer, len(answer), ETHERNET)) == [
        "2 b OUT ALLOW state established",
        "2 a IN ALLOW state established",
    ]
    assert texts(run.finish())[2:] == ["2 b OUT ALLOW state established", "2 a IN ALLOW state established"]
    assert [(flow.vnic, flow.dir, flow.packets, flow.reply_packets) for flow in run.flows()] == [
        ("a", "OUT", 1, 1),
        ("b", "IN", 1, 1),
    ]


def test_dropped_on_the_way_out_is_not_judged_again() -> None:
    run = run_for(policies(rule("no", Action.DROP, direction=Direction.OUT)))
    data = frame(udp(A, B, (1, 2)))
    assert texts(run.feed(1, 0, data, len(data), ETHERNET)) == ["1 a OUT DROP match new"]


def test_directions_and_applied_to() -> None:
    run = run_for(policies(rule("in", Action.DROP, direction=Direction.IN, applied_to=Peers((PortMember("b"),)))))
    data = frame(udp(A, B, (1, 2)))
    back = frame(udp(B, A, (3, 4)), MAC_B, MAC_A)
    assert texts(run.feed(1, 0, data, len(data), ETHERNET)) == ["1 a OUT ALLOW match new", "1 b IN DROP match new"]
    assert texts(run.feed(2, 0, back, len(back), ETHERNET)) == ["2 b OUT ALLOW match new", "2 a IN ALLOW match new"]


def test_by_address_behind_a_gateway() -> None:
    run = run_for(policies(rule("any")))
    outgoing = frame(udp(A, "192.0.2.1", (1, 2)), MAC_A, GATEWAY)
    incoming = frame(udp("192.0.2.1", B, (1, 2)), GATEWAY, OTHER)
    passing = frame(udp(C, "192.0.2.1", (1, 2)), GATEWAY, OTHER)
    assert texts(run.feed(1, 0, outgoing, len(outgoing), ETHERNET)) == ["1 a OUT ALLOW match new"]
    assert texts(run.feed(2, 0, incoming, len(incoming), ETHERNET)) == ["2 b IN ALLOW match new"]
    assert texts(run.feed(3, 0, passing, len(passing), ETHERNET)) == ["3 None None ALLOW no-filter untracked"]


def test_the_mac_decides_before_the_address() -> None:
    run = run_for(policies(rule("any")))
    data = frame(udp(B, "192.0.2.1", (1, 2)), MAC_A, GATEWAY)
    assert texts(run.feed(1, 0, data, len(data), ETHERNET)) == ["1 a OUT ALLOW match new"]


def test_ambiguous_addresses() -> None:
    things = inventory(port("a", MAC_A, A), port("a2", OTHER, A, "lab"))
    run = run_for(policies(rule("any")), things)
    data = frame(udp(A, "192.0.2.1", (1, 2)), GATEWAY, GATEWAY)
    with pytest.raises(AmbiguousVnicError, match=r"10\.0\.0\.1 may be that of a, a2"):
        run.feed(1, 0, data, len(data), ETHERNET)


def test_the_vni_tells_equal_addresses_and_macs_apart() -> None:
    things = inventory(port("a", MAC_A, A), port("a2", MAC_A, A, "lab"))
    run = run_for(policies(rule("any")), things, decap=True)
    for n, (vni, name) in enumerate(((5001, "a"), (5002, "a2")), 1):
        for source_mac in (MAC_A, GATEWAY):
            inner = frame(udp(A, "192.0.2.1", (n, 2)), source_mac, GATEWAY)
            outer = udp("172.16.0.1", "172.16.0.2", (1, 4789), b"\x08\0\0\0" + struct.pack("!I", vni << 8) + inner)
            data = frame(outer, OTHER, OTHER)
            (line,) = run.feed(n, 0, data, len(data), ETHERNET)
            assert (line.vnic, line.dir, line.verdict) == (name, "OUT", "ALLOW")


def test_refused_and_other_frames_are_judged_by_their_mac() -> None:
    run = run_for(policies(rule("any")))
    short, other = frame(b"\x45"), frame(bytes(40))[:12] + b"\x88\xcc" + bytes(40)
    assert texts(run.feed(1, 0, short, len(short), ETHERNET)) == ["1 a OUT DROP short invalid"]
    assert texts(run.feed(2, 0, other, len(other), ETHERNET)) == [
        "2 a OUT ALLOW non-ip untracked",
        "2 b IN ALLOW non-ip untracked",
    ]


def test_a_datagram_in_fragments_goes_on_whole() -> None:
    run = run_for(policies(rule("any")))
    whole = udp(A, B, (1, 2), bytes(24))[20:]
    first = frame(ip(A, B, UDP, whole[:16], fragment=0x2000, ident=3))
    second = frame(ip(A, B, UDP, whole[16:], fragment=2, ident=3))
    assert run.feed(1, 0, first, len(first), ETHERNET) == []
    run.feed(2, 0, second, len(second), ETHERNET)
    assert texts(run.finish()) == [
        "1 a OUT ALLOW match new",
        "1 b IN ALLOW match new",
        "2 a OUT ALLOW match new",
        "2 b IN ALLOW match new",
    ]
    assert [(flow.vnic, flow.packets) for flow in run.flows()] == [("a", 2), ("b", 2)]


def test_a_datagram_that_is_refused_on_the_way_out_ends_there() -> None:
    run = run_for(policies(rule("no", Action.DROP)))
    whole = udp(A, B, (1, 2), bytes(24))[20:]
    for n, (at, end, field) in enumerate(((0, 16, 0x2000), (16, 32, 2)), 1):
        data = frame(ip(A, B, UDP, whole[at:end], fragment=field, ident=3))
        run.feed(n, 0, data, len(data), ETHERNET)
    assert texts(run.finish()) == ["1 a OUT DROP match new", "2 a OUT DROP match new"]


def test_policies_change_at_all_vnics_at_once() -> None:
    run = run_for(policies(rule("any")))
    data = frame(udp(A, B, (1, 2)))
    run.feed(1, 0, data, len(data), ETHERNET)
    run.commit(replace(policies(rule("no", Action.DROP)), inventory=TWO))
    assert texts(run.feed(2, 0, data, len(data), ETHERNET)) == ["2 a OUT DROP policy-change new"]


def test_files_share_state_and_are_named() -> None:
    run = Replay(policies(rule("any")))
    data = udp(A, B, (1, 2))
    for name in ("one.pcap", "two.pcap"):
        run.begin_file(name)
        run.feed(1, 0, data, len(data), 101)
    assert [(line.file, line.n, line.reason) for line in run.finish()] == [
        ("one.pcap", 1, "match"),
        ("two.pcap", 1, "state"),
    ]


def test_judgements_need_not_be_kept() -> None:
    run = Replay(policies(rule("any")), None, Options(keep=False))
    data = udp(A, B, (1, 2))
    assert len(run.feed(1, 0, data, len(data), 101)) == 1
    assert run.finish() == []
