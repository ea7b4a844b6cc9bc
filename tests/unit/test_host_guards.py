# SPDX-License-Identifier: Apache-2.0
"""What a live host does not take from a vNIC: others' addresses, servers' and routers' words, lying offload headers."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from dfw.layout import ACTION_REJECT
from dfw.layout_live import UPLINK
from tests.support.small_fabric import (
    GATEWAY_MAC,
    GATEWAYS_V4,
    TEPS,
    A,
    B,
    C,
    D,
    F,
    G,
    SmallHost,
    allow_all,
    ether,
    fabric_of,
    ip4,
    ip6,
)

BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "33:33:00:00:00:01"
LINK_LOCAL_A = "fe80::ff:fe00:1"  # of 02:00:00:00:00:01 (RFC 4291 appendix A)


@pytest.fixture
def host() -> SmallHost:
    return SmallHost(0)


def arp(**fields: object) -> Packet:
    return Ether(src=A.mac, dst=BROADCAST) / ARP(**{"hwsrc": A.mac, "psrc": A.v4, "pdst": B.v4} | fields)


def solicit(source: str, target: str, mac: str | None = A.mac) -> Packet:
    ns = IPv6(src=source, dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt=target)
    return Ether(src=A.mac, dst="33:33:ff:00:00:01") / (ns if mac is None else ns / ICMPv6NDOptSrcLLAddr(lladdr=mac))


def advertise(target: str, mac: str = A.mac) -> Packet:
    na = ICMPv6ND_NA(tgt=target, R=0) / ICMPv6NDOptDstLLAddr(lladdr=mac)
    return Ether(src=A.mac, dst=ALL_NODES) / IPv6(src=A.v6, dst="ff02::1") / na


REFUSED = [
    ("spoof-mac", Ether(src=B.mac, dst=B.mac) / ip4(A, B.v4) / UDP()),
    ("spoof-mac", Ether(src=GATEWAY_MAC, dst=B.mac) / ip4(A, B.v4) / UDP()),
    ("spoof-ip", ether(A, B.mac) / IP(src="10.1.1.77", dst=B.v4) / UDP()),
    ("spoof-ip", ether(A, B.mac) / IP(src=GATEWAYS_V4["web"], dst=B.v4) / ICMP()),
    ("spoof-ip", ether(A, B.mac) / IPv6(src="fd00:1::77", dst=B.v6) / UDP()),
    ("spoof-ip", ether(A, B.mac) / IPv6(src="fe80::2", dst=B.v6) / UDP()),
    ("spoof-ip", ether(A, B.mac) / IPv6(src="::", dst=B.v6) / UDP()),
    ("bad-address", ether(A, B.mac) / IP(src="127.0.0.1", dst=B.v4) / UDP()),
    ("bad-address", ether(A, B.mac) / IP(src="0.0.0.0", dst=B.v4) / UDP(sport=1, dport=2)),
    ("bad-address", ether(A, B.mac) / IP(src=A.v4, dst=A.v4) / UDP()),
    ("bad-address", ether(A, B.mac) / IP(src="224.0.0.1", dst=B.v4) / UDP()),
    ("spoof-arp", arp(hwsrc=B.mac)),
    ("spoof-arp", arp(psrc=B.v4)),
    ("spoof-arp", arp(op=2, psrc="0.0.0.0")),
    ("spoof-arp", arp(op=2, psrc=GATEWAYS_V4["web"], hwsrc=A.mac)),
    ("spoof-nd", solicit(A.v6, B.v6, mac=B.mac)),
    ("spoof-nd", solicit("::", B.v6, mac=None)),
    ("spoof-nd", advertise(B.v6)),
    ("spoof-nd", advertise(A.v6, mac=B.mac)),
    ("spoof-nd", ether(A, ALL_NODES) / IPv6(src=A.v6, dst="ff02::1", hlim=64) / ICMPv6ND_NA(tgt=A.v6)),
    ("spoof-nd", ether(A, ALL_NODES) / ip6(A, "ff02::2") / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=B.mac)),
    ("ra-guard", ether(A, ALL_NODES) / IPv6(src=LINK_LOCAL_A, dst="ff02::1") / ICMPv6ND_RA()),
    ("ra-guard", ether(A, B.mac) / IPv6(src=LINK_LOCAL_A, dst=B.v6) / ICMPv6ND_Redirect(tgt=A.v6, dst=F.v6)),
    ("ra-guard", ether(A, B.mac) / ip4(A, B.v4) / ICMP(type=5, code=1, gw=A.v4) / IP(src=B.v4, dst=F.v4) / UDP()),
    (
        "ra-guard",
        ether(A, ALL_NODES) / ip6(A, "ff02::1") / IPv6ExtHdrFragment(nh=58, m=1) / Raw(bytes([134]) + bytes(31)),
    ),
    ("ra-guard", ether(A, ALL_NODES) / ip6(A, "ff02::1") / IPv6ExtHdrFragment(nh=60, m=1) / Raw(bytes(32))),
    ("dhcp-guard", ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=67, dport=68) / BOOTP(op=2) / DHCP(options=["end"])),
    ("dhcp-guard", ether(A, B.mac) / ip6(A, B.v6) / UDP(sport=547, dport=546) / Raw(bytes(20))),
    ("dhcp-guard", fragment(ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=67, dport=68) / Raw(bytes(2000)), 800)[0]),
    ("vlan-guest", ether(A, B.mac) / Dot1Q(vlan=7) / ip4(A, B.v4) / UDP()),
]


@pytest.mark.parametrize(("reason", "frame"), REFUSED, ids=[f"{reason}-{i}" for i, (reason, _) in enumerate(REFUSED)])
def test_refused(host: SmallHost, reason: str, frame: Packet) -> None:
    assert host.send((A, frame)) == []
    assert host.dropped() == {reason: 1}
    assert host.engine.stats().received == 0  # nobody judges it, nobody answers


def test_every_guard_can_be_off() -> None:
    """g on the blue segment has none: what is refused of a passes from there to h, in its own name or another's."""
    host = SmallHost(0)
    for _, frame in REFUSED:
        given = Ether(bytes(frame))
        given.src, given.dst = G.mac, "02:00:00:00:00:08"
        host.send((G, given))
    firewall = {"icmp-quote", "icmp-unrelated", "icmp-state", "frag-overlap"}
    assert set(host.dropped()) <= {"bad-address", "vlan-guest"} | firewall


def test_what_may_be_sent(host: SmallHost) -> None:
    for frame in (
        arp(psrc="0.0.0.0", pdst=A.v4),
        arp(op=2, hwdst=BROADCAST, pdst=A.v4),
        solicit("::", A.v6, mac=None),
        solicit(LINK_LOCAL_A, B.v6),
        advertise(LINK_LOCAL_A),
        ether(A, BROADCAST)
        / IP(src="0.0.0.0", dst="255.255.255.255")
        / UDP(sport=68, dport=67)
        / BOOTP()
        / DHCP(options=["end"]),
        ether(A, B.mac) / IPv6(src=LINK_LOCAL_A, dst="fe80::ff:fe00:2") / UDP(),
    ):
        assert host.send((A, frame)) != []
    assert host.dropped() == {}


def reject(port: int) -> np.ndarray:
    rules = np.concatenate([allow_all(), allow_all()])
    rules["rule"] = 0, 1
    rules["dport_lo"][0] = rules["dport_hi"][0] = port
    rules["proto"][0], rules["action"][0] = 6, ACTION_REJECT
    return rules


class TestReject:
    def test_at_the_sender(self, host: SmallHost) -> None:
        """Its own filter's answer is judged by nobody."""
        host.rules(reject(80), only=A)
        (left,) = host.send((A, ether(A, B.mac) / ip4(A, B.v4) / TCP(sport=1, dport=80, seq=9, flags="S")))
        said = left.frame
        assert (left.vnic, said.dst, said.src) == (A.number, A.mac, B.mac)
        assert (said[IP].src, said[TCP].flags, said[TCP].ack) == (B.v4, "RA", 10)

    @pytest.mark.parametrize(("target", "mac"), [(B, B.mac), (C, GATEWAY_MAC)])
    def test_at_the_receiver_here(self, host: SmallHost, target: object, mac: str) -> None:
        """The answer ends the sender's connection at the sender's filter: the same SYN begins a new one."""
        host.rules(reject(80), only=target)
        frame = bytes(ether(A, mac) / ip4(A, target.v4) / TCP(sport=1, dport=80, seq=9, flags="S"))
        left = host.send((A, frame), (A, frame), batch=2)
        assert [x.vnic for x in left] == [A.number] * 2 and {x.frame.src for x in left} == {mac}
        assert all(x.frame[TCP].flags == "RA" for x in left)
        cts = [int(r["ct"]) for r in host.last.records if r["filter"] == A.number]
        assert cts == [0, 0] and host.engine.stats().created == 2
        assert host.host.stats().generated == 2 and host.dropped() == {"match": 2}

    def test_at_the_receiver_on_another_host(self, host: SmallHost) -> None:
        other = SmallHost(1)
        other.rules(reject(80), only=D)
        (there,) = host.send((A, ether(A, GATEWAY_MAC) / ip4(A, D.v4) / TCP(sport=1, dport=80, seq=9, flags="S")))
        (back,) = other.receive(there)
        assert back.tep == TEPS[0] and back.vni == 5001 and back.row["port"] == there.row["port"]
        (left,) = host.receive(back)
        assert left.vnic == A.number and left.frame.src == GATEWAY_MAC and left.frame[TCP].flags == "RA"
        assert left.frame[IP].ttl == 63


class TestFragments:
    @pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
    @pytest.mark.parametrize("batch", [1, 32])
    def test_released_with_their_boundaries(self, host: SmallHost, order: tuple[int, ...], batch: int) -> None:
        pieces = fragment(
            ether(A, GATEWAY_MAC) / ip4(A, C.v4, id=7) / UDP(sport=1, dport=2) / Raw(bytes(range(250)) * 8), 800
        )
        assert len(pieces) == 3
        left = host.send(*[(A, pieces[i]) for i in order], batch=batch)
        assert [x.vnic for x in left] == [C.number] * 3
        for x, piece in zip(left, pieces, strict=True):
            assert (x.frame[IP].frag, x.frame[IP].ttl, x.frame.dst) == (piece[IP].frag, 63, C.mac)
            assert bytes(x.frame[IP].payload) == bytes(piece[IP].payload)
        assert host.host.stats().held == 0

    def test_held_over_bursts_and_run_out_of_time(self, host: SmallHost) -> None:
        pieces = fragment(ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=1, dport=2) / Raw(bytes(2000)), 800)
        assert host.send((A, pieces[0])) == [] and host.host.stats().held == 1
        assert host.send((A, pieces[1])) == [] and host.host.stats().held == 2
        host.now_ns += 31 * 10**9
        assert host.send((A, pieces[2])) == []
        assert host.host.stats().held == 1 and host.dropped() == {"frag-timeout": 2}

    def test_every_piece_goes_where_the_last_one_goes(self, host: SmallHost) -> None:
        """The firewall has judged it for that receiver only: a piece for another one's MAC address goes there too."""
        pieces = fragment(ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=1, dport=2) / Raw(bytes(1200)), 800)
        pieces[0].dst = F.mac
        left = host.send(*[(A, piece) for piece in pieces])
        assert [(x.vnic, x.frame.dst) for x in left] == [(B.number, B.mac)] * 2

    def test_for_many(self, host: SmallHost) -> None:
        pieces = fragment(
            ether(A, BROADCAST) / ip4(A, "255.255.255.255") / UDP(sport=1, dport=2) / Raw(bytes(1200)), 800
        )
        left = host.send(*[(A, piece) for piece in pieces])
        assert [x.vnic for x in left if not x.tep] == [B.number] * 2 and len([x for x in left if x.tep]) == 2
        other = SmallHost(1)
        assert [x.vnic for x in other.receive(*[x for x in left if x.tep])] == [F.number] * 2

    def test_for_many_from_the_underlay(self, host: SmallHost) -> None:
        """Each receiver's filter holds them for itself; they leave once for each."""
        pieces = fragment(
            ether(F, BROADCAST) / ip4(F, "255.255.255.255") / UDP(sport=1, dport=2) / Raw(bytes(1200)), 800
        )
        other = SmallHost(1)
        left = host.receive(*[x for x in other.send(*[(F, piece) for piece in pieces]) if x.tep])
        assert sorted(x.vnic for x in left) == [A.number] * 2 + [B.number] * 2


class TestOffload:
    TCP_SUPER = bytes(ether(A, B.mac) / ip4(A, B.v4) / TCP(sport=1, dport=80, seq=1, flags="A") / Raw(bytes(4000)))
    GOOD: ClassVar[dict[str, int]] = {
        "flags": 1,
        "gso_type": 1,
        "gso_size": 1348,
        "csum_start": 34,
        "csum_offset": 16,
        "hdr_len": 54,
    }

    def test_a_super_packet_counts_as_its_segments(self, host: SmallHost) -> None:
        rules = allow_all(stateful=False)
        host.rules(rules)
        (left,) = host.send((A, self.TCP_SUPER), **self.GOOD)
        assert left.raw == self.TCP_SUPER
        assert {name: int(left.row[name]) for name in self.GOOD} == self.GOOD
        counted = host.engine.rule_counts(1)[0]
        assert (counted["packets"], counted["bytes"]) == (2 * 3, 2 * (4040 + 2 * 40))

    def test_to_the_uplink_it_stays_whole(self, host: SmallHost) -> None:
        host.rules(allow_all(stateful=False))
        frame = bytes(ether(A, F.mac) / ip4(A, F.v4) / TCP(sport=1, dport=80, seq=1, flags="A") / Raw(bytes(4000)))
        (left,) = host.send((A, frame), **self.GOOD)
        assert left.vnic == UPLINK and left.raw[int(left.row["inner"]) :] == frame
        assert {name: int(left.row[name]) for name in self.GOOD} == self.GOOD

    @pytest.mark.parametrize(
        "lie",
        [
            {"csum_start": 14},
            {"csum_start": 4000},
            {"csum_offset": 6},
            {"csum_offset": 60000},
            {"flags": 0},
            {"flags": 4 | 1},
            {"gso_type": 4},
            {"gso_type": 5},
            {"gso_type": 3},
            {"gso_type": 0x21},
            {"gso_size": 0},
            {"gso_size": 8},
        ],
    )
    def test_lies_are_refused(self, host: SmallHost, lie: dict[str, int]) -> None:
        assert host.send((A, self.TCP_SUPER), **self.GOOD | lie) == []
        assert host.dropped() == {"offload": 1}

    def test_what_can_be_computed_is(self, host: SmallHost) -> None:
        host.rules(allow_all(stateful=False))
        (left,) = host.send((A, self.TCP_SUPER), **self.GOOD | {"hdr_len": 9})
        assert left.row["hdr_len"] == 54
        (left,) = host.send((A, self.TCP_SUPER[:1000]), **self.GOOD) or (None,)
        assert left is None and host.dropped() == {"ip-length": 1}  # the parser's reason comes first

    def test_one_segment_is_no_super_packet(self, host: SmallHost) -> None:
        host.rules(allow_all(stateful=False))
        frame = bytes(ether(A, B.mac) / ip4(A, B.v4) / TCP(sport=1, dport=80, seq=1, flags="A") / Raw(bytes(100)))
        (left,) = host.send((A, frame), **self.GOOD)
        assert (left.row["gso_type"], left.row["gso_size"], left.row["flags"]) == (0, 0, 1)

    def test_longer_than_the_way(self) -> None:
        """What counts is a segment's length."""
        host = SmallHost(0, rules=allow_all(stateful=False), fabric=fabric_of(0, mtu=9000))
        assert len(host.send((A, self.TCP_SUPER), **self.GOOD | {"gso_size": 3900})) == 1
        frame = bytes(ether(A, F.mac) / ip4(A, F.v4) / TCP(sport=1, dport=80, seq=1, flags="A") / Raw(bytes(4000)))
        (left,) = host.send((A, frame), **self.GOOD | {"gso_size": 3900})
        assert left.vnic == A.number and left.frame[ICMP].nexthopmtu == 1450

    def test_sums_that_the_kernel_left_open_are_not_looked_at(self) -> None:
        host = SmallHost(0, checksums="verify")
        frame = bytearray(bytes(ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=1, dport=2) / b"hello"))
        frame[40] ^= 0xFF
        assert host.send((A, bytes(frame))) == [] and host.dropped() == {"l4-checksum": 1}
        assert len(host.send((A, bytes(frame)), flags=1, csum_start=34, csum_offset=6)) == 1
        assert host.send((A, bytes(frame)), flags=2) == []  # a pod's word is not enough
