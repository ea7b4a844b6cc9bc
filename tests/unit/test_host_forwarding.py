# SPDX-License-Identifier: Apache-2.0
"""Frames through a live host in memory: segments, gateways, Geneve, and what the host says itself."""

from __future__ import annotations

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from tests.support.small_fabric import (
    GATEWAY_MAC,
    GATEWAYS_V4,
    GATEWAYS_V6,
    TEPS,
    A,
    B,
    C,
    D,
    E,
    F,
    G,
    H,
    SmallHost,
    Workload,
    ether,
    fabric_of,
    ip4,
    ip6,
)

BROADCAST = "ff:ff:ff:ff:ff:ff"


def solid(packet: Packet) -> Packet:
    """Dissected again, and every checksum in it is right."""
    raw = bytes(packet)
    again = Ether(raw)
    for layer in (
        IP,
        TCP,
        UDP,
        ICMP,
        ICMPv6EchoReply,
        ICMPv6ND_NA,
        ICMPv6TimeExceeded,
        ICMPv6DestUnreach,
        ICMPv6PacketTooBig,
    ):
        if layer in again:
            for name in ("chksum", "cksum"):
                if name in again[layer].fields:
                    delattr(again[layer], name)
    whole = Ether(bytes(again))
    assert bytes(whole) == raw, (whole.show(dump=True), packet.show(dump=True))
    return whole


@pytest.fixture
def host() -> SmallHost:
    return SmallHost(0)


@pytest.fixture
def other() -> SmallHost:
    return SmallHost(1)


def syn(source: Workload, target: Workload, v6: bool = False, sport: int = 40000) -> Packet:
    if v6:
        return ip6(source, target.v6) / TCP(sport=sport, dport=80, seq=1, flags="S")
    return ip4(source, target.v4) / TCP(sport=sport, dport=80, seq=1, flags="S")


@pytest.mark.parametrize("v6", [False, True])
class TestSegment:
    def test_between_two_vnics_a_frame_is_unchanged(self, host: SmallHost, v6: bool) -> None:
        frame = bytes(ether(A, B.mac) / syn(A, B, v6))
        (left,) = host.send((A, frame))
        assert left.vnic == B.number and left.raw == frame
        assert [(r["filter"], r["dir"]) for r in host.last.records] == [(A.number, 2), (B.number, 1)]

    def test_to_another_host_in_geneve_and_there_to_the_vnic(self, host: SmallHost, other: SmallHost, v6: bool) -> None:
        frame = bytes(ether(A, F.mac) / syn(A, F, v6))
        (left,) = host.send((A, frame))
        assert left.tep == TEPS[1] and left.vni == 5001 and 49152 <= left.row["port"] <= 65535
        assert GENEVE(left.raw).vni == 5001 and left.raw[int(left.row["inner"]) :] == frame
        (arrived,) = other.receive(left)
        assert arrived.vnic == F.number and arrived.raw == frame

    def test_answers_take_the_same_outer_port(self, host: SmallHost, other: SmallHost, v6: bool) -> None:
        (there,) = host.send((A, ether(A, F.mac) / syn(A, F, v6)))
        other.receive(there)
        answer = (ip6(F, A.v6) if v6 else ip4(F, A.v4)) / TCP(sport=80, dport=40000, seq=7, ack=2, flags="SA")
        (back,) = other.send((F, ether(F, A.mac) / answer))
        assert back.row["port"] == there.row["port"]
        (arrived,) = host.receive(back)
        assert arrived.vnic == A.number

    def test_routed_here(self, host: SmallHost, v6: bool) -> None:
        (left,) = host.send((A, ether(A, GATEWAY_MAC) / syn(A, C, v6)))
        frame = solid(left.frame)
        assert (left.vnic, frame.src, frame.dst) == (C.number, GATEWAY_MAC, C.mac)
        assert (frame[IPv6].hlim if v6 else frame[IP].ttl) == 63

    def test_routed_to_another_host_leaves_in_the_destinations_segment(
        self, host: SmallHost, other: SmallHost, v6: bool
    ) -> None:
        (left,) = host.send((A, ether(A, GATEWAY_MAC) / syn(A, D, v6)))
        assert left.tep == TEPS[1] and left.vni == 5002
        (arrived,) = other.receive(left)
        frame = solid(arrived.frame)
        assert (arrived.vnic, frame.src, frame.dst) == (D.number, GATEWAY_MAC, D.mac)

    def test_hop_limit(self, host: SmallHost, v6: bool) -> None:
        packet = ip6(A, C.v6, hlim=1) if v6 else ip4(A, C.v4, ttl=1)
        (left,) = host.send((A, ether(A, GATEWAY_MAC) / packet / UDP(sport=5, dport=33434)))
        assert left.vnic == A.number and host.dropped() == {"hop-limit": 1}
        said = solid(left.frame)
        assert said.src == GATEWAY_MAC and said.dst == A.mac
        if v6:
            assert said[IPv6].src == GATEWAYS_V6["web"] and said[ICMPv6TimeExceeded].code == 0
        else:
            assert said[IP].src == GATEWAYS_V4["web"] and (said[ICMP].type, said[ICMP].code) == (11, 0)

    def test_ping_of_the_gateway(self, host: SmallHost, v6: bool) -> None:
        gateway = GATEWAYS_V6["web"] if v6 else GATEWAYS_V4["web"]
        ping = (
            ip6(A, gateway) / ICMPv6EchoRequest(id=7, seq=1, data=b"hello")
            if v6
            else ip4(A, gateway) / ICMP(id=7, seq=1) / b"hello"
        )
        (left,) = host.send((A, ether(A, GATEWAY_MAC) / ping))
        said = solid(left.frame)
        assert left.vnic == A.number and host.host.stats().consumed == 1
        if v6:
            assert (
                said[ICMPv6EchoReply].id == 7 and said[ICMPv6EchoReply].data == b"hello" and said[IPv6].src == gateway
            )
        else:
            assert (
                said[ICMP].type == 0 and said[ICMP].id == 7 and said[Raw].load == b"hello" and said[IP].src == gateway
            )

    def test_ping_of_the_gateways_other_address_from_afar(self, other: SmallHost, v6: bool) -> None:
        gateway = GATEWAYS_V6["web"] if v6 else GATEWAYS_V4["web"]
        ping = ip6(D, gateway) / ICMPv6EchoRequest() if v6 else ip4(D, gateway) / ICMP()
        (left,) = other.send((D, ether(D, GATEWAY_MAC) / ping))
        assert left.vnic == D.number

    def test_too_long_for_the_underlay(self, v6: bool) -> None:
        host = SmallHost(0, fabric=fabric_of(0, mtu=1500))
        packet = (ip6(A, F.v6) if v6 else ip4(A, F.v4, flags="DF")) / UDP(sport=1, dport=2)
        fits = bytes(ether(A, F.mac) / packet / bytes(1450 - (48 if v6 else 28)))
        assert [x.tep for x in host.send((A, fits))] == [TEPS[1]]
        (left,) = host.send((A, ether(A, F.mac) / packet / bytes(1451 - (48 if v6 else 28))))
        said = solid(left.frame)
        assert left.vnic == A.number and host.dropped() == {"mtu": 1}
        assert (
            said[ICMPv6PacketTooBig].mtu == 1450
            if v6
            else (said[ICMP].type, said[ICMP].code, said[ICMP].nexthopmtu) == (3, 4, 1450)
        )

    def test_nobody_has_the_address(self, host: SmallHost, v6: bool) -> None:
        packet = ip6(A, "fd00:2::99") if v6 else ip4(A, "10.1.2.99")
        (left,) = host.send((A, ether(A, GATEWAY_MAC) / packet / UDP(sport=1, dport=2)))
        said = solid(left.frame)
        assert host.dropped() == {"no-neighbour": 1}
        assert said[ICMPv6DestUnreach].code == 3 if v6 else (said[ICMP].type, said[ICMP].code) == (3, 1)


class TestGateways:
    def test_two_tenants_with_the_same_addresses(self, host: SmallHost) -> None:
        """e has a's address behind another Tier-1; from there the Tier-0 leads to db, and nobody leads back to a."""
        (left,) = host.send((E, ether(E, GATEWAY_MAC) / ip4(E, C.v4) / UDP(sport=1, dport=2)))
        assert left.vnic == C.number
        host.send((E, ether(E, GATEWAY_MAC) / ip4(E, B.v4) / UDP(sport=1, dport=2)))
        assert host.dropped() == {"no-neighbour": 1}

    def test_next_hop(self, host: SmallHost) -> None:
        (left,) = host.send((A, ether(A, GATEWAY_MAC) / ip4(A, "192.0.2.7") / UDP(sport=1, dport=2)))
        assert left.vnic == C.number and left.frame.dst == C.mac

    @pytest.mark.parametrize(
        ("address", "reason"),
        [
            ("198.51.100.1", "blackhole"),
            ("8.8.8.8", "no-route"),
            ("203.0.113.9", "route-loop"),
            ("172.16.0.12", "underlay"),
            ("224.0.0.9", "no-route"),
            ("169.254.1.1", "no-route"),
        ],
    )
    def test_refused(self, host: SmallHost, address: str, reason: str) -> None:
        host.send((A, ether(A, GATEWAY_MAC) / ip4(A, address) / UDP(sport=1, dport=2)))
        assert host.dropped() == {reason: 1}

    def test_a_port_of_the_gateway(self, host: SmallHost) -> None:
        (left,) = host.send((A, ether(A, GATEWAY_MAC) / ip4(A, "10.1.1.1") / UDP(sport=1, dport=2)))
        assert (left.frame[ICMP].type, left.frame[ICMP].code) == (3, 3) and host.dropped() == {"gateway": 1}

    def test_without_a_gateway(self, host: SmallHost) -> None:
        host.send((G, ether(G, GATEWAY_MAC) / ip4(G, C.v4) / UDP(sport=1, dport=2)))
        assert host.dropped() == {"no-gateway": 1}

    def test_errors_are_rate_limited(self, host: SmallHost) -> None:
        frame = bytes(ether(A, GATEWAY_MAC) / ip4(A, C.v4, ttl=1) / UDP(sport=5, dport=33434))
        assert len(host.send(*[(A, frame)] * 150)) == 100
        assert host.dropped() == {"hop-limit": 150}
        host.now_ns += 10**9
        assert len(host.send(*[(A, frame)] * 150)) == 100


class TestPathCache:
    """What is remembered of a destination is the configuration's, and never a packet's own."""

    def routed(self, **fields: object) -> bytes:
        return bytes(ether(A, GATEWAY_MAC) / ip4(A, C.v4, **fields) / UDP(sport=1, dport=2) / bytes(100))

    def test_another_fabric(self, host: SmallHost) -> None:
        assert [x.vnic for x in host.send(*[(A, self.routed())] * 3)] == [C.number] * 3
        host.move(fabric_of(0, moved=[C]))
        assert [(x.tep, x.vni) for x in host.send(*[(A, self.routed())] * 3)] == [(TEPS[1], 5002)] * 3
        host.move(fabric_of(0))
        assert [x.vnic for x in host.send((A, self.routed()))] == [C.number]

    def test_another_packet(self) -> None:
        host = SmallHost(0, fabric=fabric_of(0, mtu=120))
        big = bytes(ether(A, GATEWAY_MAC) / ip4(A, C.v4) / UDP(sport=1, dport=2))
        assert [x.vnic for x in host.send((A, big))] == [C.number]
        left = host.send((A, self.routed()), (A, big), (A, self.routed(ttl=1)), (A, big))
        assert [x.vnic for x in left] == [A.number, C.number, A.number, C.number]
        assert host.dropped() == {"mtu": 1, "hop-limit": 1}

    def test_another_tenant(self, host: SmallHost) -> None:
        """The same destination on a segment of another gateway."""
        frames = [(w, ether(w, GATEWAY_MAC) / ip4(w, B.v4) / UDP(sport=1, dport=2)) for w in (C, E, C)]
        assert [x.vnic for x in host.send(*frames) if x.vnic == B.number] == [B.number] * 2
        assert host.dropped() == {"no-neighbour": 1}


class TestAnswers:
    def test_arp_for_a_neighbour_on_another_host(self, host: SmallHost) -> None:
        (left,) = host.send((A, ether(A, BROADCAST) / ARP(hwsrc=A.mac, psrc=A.v4, pdst=F.v4)))
        reply = ARP(op=2, hwsrc=F.mac, psrc=F.v4, hwdst=A.mac, pdst=A.v4)
        assert left.vnic == A.number and bytes(left.frame) == bytes(Ether(src=F.mac, dst=A.mac) / reply)

    def test_arp_for_the_gateway(self, host: SmallHost) -> None:
        (left,) = host.send((A, ether(A, BROADCAST) / ARP(hwsrc=A.mac, psrc=A.v4, pdst="10.1.1.1")))
        assert left.frame[ARP].hwsrc == GATEWAY_MAC and left.frame.src == GATEWAY_MAC

    def test_arp_for_nobody_is_sent_to_all(self, host: SmallHost, other: SmallHost) -> None:
        left = host.send((A, ether(A, BROADCAST) / ARP(hwsrc=A.mac, psrc=A.v4, pdst="10.1.1.99")))
        assert sorted((x.vnic, x.tep) for x in left if x.tep is None) == [(B.number, None)]
        (copy,) = [x for x in left if x.tep]
        assert copy.tep == TEPS[1] and copy.vni == 5001
        assert [x.vnic for x in other.receive(copy)] == [F.number]

    def test_arp_for_the_gateway_from_another_host_is_answered_there(self, host: SmallHost) -> None:
        arp = bytes(GENEVE(vni=5001) / ether(F, BROADCAST) / ARP(hwsrc=F.mac, psrc=F.v4, pdst="10.1.1.1"))
        (left,) = host.receive((arp, TEPS[1]))
        assert left.tep == TEPS[1] and left.frame[ARP].hwsrc == GATEWAY_MAC

    def test_solicitation(self, host: SmallHost) -> None:
        def ask(target: str) -> Packet:
            ns = ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=A.mac)
            return Ether(src=A.mac, dst="33:33:ff:00:00:01") / IPv6(src=A.v6, dst="ff02::1:ff00:1") / ns

        for target, mac, router in ((F.v6, F.mac, 0), (GATEWAYS_V6["web"], GATEWAY_MAC, 1)):
            (left,) = host.send((A, ask(target)))
            said = solid(left.frame)
            na = said[ICMPv6ND_NA]
            assert (na.tgt, na.R, na.S, na.O, said.src, said.dst) == (target, router, 1, 1, mac, A.mac)
            assert (said[IPv6].src, said[IPv6].dst, said[IPv6].hlim) == (target, A.v6, 255)

    def test_is_the_gateway_still_there(self, host: SmallHost) -> None:
        """Who knows its gateway asks it alone (RFC 4861 section 7.3.3); one that is not sound gets no answer."""
        gateway = GATEWAYS_V6["web"]
        for target, limit, answers in ((gateway, 255, 1), (gateway, 64, 0), (F.v6, 255, 0)):
            asked = ether(A, GATEWAY_MAC) / IPv6(src=A.v6, dst=gateway, hlim=limit) / ICMPv6ND_NS(tgt=target)
            left = host.send((A, asked))
            assert [ICMPv6ND_NA in solid(x.frame) for x in left] == [True] * answers
        assert host.dropped() == {"gateway": 1, "spoof-nd": 1}

    def test_its_own_address_is_not_answered(self, host: SmallHost) -> None:
        left = host.send((A, ether(A, BROADCAST) / ARP(hwsrc=A.mac, psrc=A.v4, pdst=A.v4)))
        assert {x.vnic for x in left if not x.tep} == {B.number}

    def test_answers_have_a_budget(self, host: SmallHost) -> None:
        frame = bytes(ether(A, BROADCAST) / ARP(hwsrc=A.mac, psrc=A.v4, pdst=F.v4))
        assert len(host.send(*[(A, frame)] * 1100)) == 1000
        assert host.dropped() == {"answer-rate": 100}


class TestMany:
    def test_broadcast(self, host: SmallHost) -> None:
        left = host.send((A, ether(A, BROADCAST) / ip4(A, "255.255.255.255") / UDP(sport=1, dport=2)))
        assert [x.vnic for x in left if not x.tep] == [B.number] and [x.tep for x in left if x.tep] == [TEPS[1]]
        assert host.host.stats().copies == 2 and host.host.stats().passed == 1

    def test_replicated_is_not_sent_to_the_underlay_again(self, host: SmallHost) -> None:
        frame = bytes(GENEVE(vni=5001) / ether(F, BROADCAST) / ip4(F, "255.255.255.255") / UDP(sport=1, dport=2))
        assert {x.vnic for x in host.receive((frame, TEPS[1]))} == {A.number, B.number}

    def test_unknown_unicast(self, host: SmallHost) -> None:
        left = host.send((A, ether(A, "02:00:00:00:99:99") / ip4(A, "10.1.1.99") / UDP(sport=1, dport=2)))
        assert {x.vnic for x in left if not x.tep} == {B.number} and [x.tep for x in left if x.tep] == [TEPS[1]]

    def test_budget(self, host: SmallHost) -> None:
        frame = bytes(ether(A, BROADCAST) / ip4(A, "255.255.255.255") / UDP(sport=1, dport=2))
        left = host.send(*[(A, frame)] * 8200)
        assert len(left) == 16384 and host.dropped() == {"replica-budget": 8}

    def test_for_the_link_itself(self, host: SmallHost) -> None:
        host.send((A, ether(A, "01:80:c2:00:00:0e") / Raw(bytes(40))))
        assert host.dropped() == {"link-local": 1}


class TestUplink:
    def test_refused(self, host: SmallHost) -> None:
        inner = ether(F, A.mac) / ip4(F, A.v4) / UDP(sport=1, dport=2)
        good = bytes(GENEVE(vni=5001) / inner)
        for raw, tep in (
            (good, "172.16.0.99"),
            (bytes(GENEVE(vni=99) / inner), TEPS[1]),
            (good[:6], TEPS[1]),
            (bytes(GENEVE(vni=5001, proto=0x0800) / inner[IP]), TEPS[1]),
            (bytes([good[0] | 1]) + good[1:8] + bytes([1, 2, 0x83, 0]) + good[8:], TEPS[1]),
            (bytes(GENEVE(vni=5002) / inner), TEPS[1]),
        ):
            assert host.receive((raw, tep)) == [] or raw[4:7] == bytes([0, 0x13, 0x8A])
        assert host.dropped() == {"unknown-tep": 1, "unknown-vni": 1, "tunnel-malformed": 3}

    def test_unknown_option_is_passed_over(self, host: SmallHost) -> None:
        good = bytes(GENEVE(vni=5001) / ether(F, A.mac) / ip4(F, A.v4) / UDP(sport=1, dport=2))
        raw = bytes([good[0] | 2]) + good[1:8] + bytes([1, 2, 3, 1, 9, 9, 9, 9]) + good[8:]
        assert [x.vnic for x in host.receive((raw, TEPS[1]))] == [A.number]

    def test_control_packets_are_for_the_host(self, host: SmallHost) -> None:
        raw = bytes(GENEVE(vni=0, oam=1) / Raw(bytes(60)))
        (left,) = host.receive((raw, TEPS[1]))
        assert left.vnic == 0xFFFFFFFD and left.raw == raw and host.host.stats().consumed == 1

    def test_a_workload_that_has_moved_is_followed_once(self, host: SmallHost, other: SmallHost) -> None:
        host.move(fabric_of(0, moved=[A]))
        late = bytes(GENEVE(vni=5001) / ether(F, A.mac) / ip4(F, A.v4) / UDP(sport=1, dport=2))
        assert host.receive((late, TEPS[1])) == [] and host.dropped() == {
            "not-here": 1
        }  # never back to where it came from
        (left,) = host.receive((late, TEPS[2]))
        assert left.tep == TEPS[1] and left.raw[0] == 3
        assert other.receive(left) == [] and other.dropped() == {"not-here": 1}  # and never twice
        other.move(fabric_of(1, moved=[A]))
        assert [x.vnic for x in other.receive(left)] == [A.number]

    def test_congestion_marked_by_the_underlay(self, host: SmallHost) -> None:
        for tos, expected in ((0, None), (1, 3), (2, 3)):
            raw = bytes(GENEVE(vni=5001) / ether(F, A.mac) / ip4(F, A.v4, tos=tos) / UDP(sport=1, dport=2))
            left = host.receive((raw, TEPS[1]), tos=3)
            assert [solid(x.frame)[IP].tos for x in left] == ([] if expected is None else [expected])
        assert host.dropped() == {"ecn": 1}


class TestNothingStaged:
    def test_without_a_fabric_nothing_passes(self) -> None:
        host = SmallHost(0, fabric=fabric_of(1))
        assert host.send((A, ether(A, B.mac) / syn(A, B))) == [] and host.dropped() == {"unknown-vnic": 1}

    def test_own_mac(self, host: SmallHost) -> None:
        host.send((H, ether(H, H.mac) / ip4(H, G.v4) / UDP(sport=1, dport=2)))
        assert host.dropped() == {"own-mac": 1}


class TestLearning:
    STRANGER = "02:00:00:00:77:77"

    def hello(self, vni: int) -> bytes:
        packet = (
            Ether(src=self.STRANGER, dst=BROADCAST) / IP(src="10.9.9.9", dst="255.255.255.255") / UDP(sport=1, dport=2)
        )
        return bytes(GENEVE(vni=vni) / packet)

    def test_a_stranger_is_found_where_it_was_seen(self, host: SmallHost) -> None:
        """Segment blue learns; after 300 s the stranger is unknown again, and its frames go to everybody."""
        to_stranger = bytes(ether(G, self.STRANGER) / ip4(G, "10.9.9.9") / UDP(sport=1, dport=2))
        assert len(host.send((G, to_stranger))) == 2
        host.receive((self.hello(5004), TEPS[2]))
        assert [x.tep for x in host.send((G, to_stranger))] == [TEPS[2]]
        host.now_ns += 301 * 10**9
        assert {x.tep for x in host.send((G, to_stranger))} == {None, TEPS[1]}

    def test_other_segments_do_not_learn(self, host: SmallHost) -> None:
        host.receive((self.hello(5001), TEPS[2]))
        left = host.send((A, ether(A, self.STRANGER) / ip4(A, "10.9.9.9") / UDP(sport=1, dport=2)))
        assert {x.tep for x in left} == {None, TEPS[1]}

    def test_what_is_programmed_goes_first(self, host: SmallHost) -> None:
        late = Ether(src=G.mac, dst=BROADCAST) / ip4(G, "255.255.255.255") / UDP(sport=1, dport=2)
        host.receive((bytes(GENEVE(vni=5004) / late), TEPS[2]))
        (left,) = host.send((H, ether(H, G.mac) / ip4(H, G.v4) / UDP(sport=1, dport=2)))
        assert left.vnic == G.number
