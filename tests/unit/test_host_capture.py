# SPDX-License-Identifier: Apache-2.0
"""Captures at a live host's vNICs and uplink: which packets, with which bytes, and what their comments say."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from dfw.core import CoreError
from dfw.core.live import Live
from dfw.core.live_capture import UPLINK_POINT, CaptureOptions, LiveCapture, SeenFile
from tests.support.pcapng import Packet, read_pcapng
from tests.support.small_fabric import GATEWAY_MAC, TEPS, A, B, C, D, SmallHost, all_but_ssh, ether, ip4

RULES = {0: '"rule": 1024, "rule_path": "/p/any"', 1: '"rule": 1025, "rule_path": "/p/no"'}
VNICS = {w.number: f'"vnic": "{w.name}"' for w in (A, B, C)}
OUTBOUND, INBOUND = 2, 1


class Captured:
    """A host, and captures on it."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "seen.pcapng"
        self.host = SmallHost(0, all_but_ssh())
        self.live = Live(self.host.host)
        self.captures: list[LiveCapture] = []

    def begin(self, vnic: int, **options: object) -> LiveCapture:
        self.captures.append(LiveCapture(self.live, CaptureOptions(vnic, **options)))  # type: ignore[arg-type]
        return self.captures[-1]

    def packets(self, capture: LiveCapture, most: int = 1000) -> list[Packet]:
        descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        file = SeenFile(descriptor, TEPS[0])
        file.name(RULES, VNICS)
        while data := capture.read():
            most -= file.write(data, most, 0)
        file.close()
        os.close(descriptor)
        return read_pcapng(self.file)


@pytest.fixture
def captured(tmp_path: Path) -> Iterator[Captured]:
    found = Captured(tmp_path)
    yield found
    for capture in found.captures:
        capture.close()


def test_both_directions_at_a_vnic_with_verdict_and_rule(captured: Captured) -> None:
    capture = captured.begin(A.number)
    to, back = ether(A, B.mac) / ip4(A, B.v4), ether(B, A.mac) / ip4(B, A.v4)
    frames = [to / TCP(sport=9, dport=80, flags="S"), back / TCP(sport=80, dport=9, flags="SA", ack=1)]
    captured.host.send((A, frames[0]))
    captured.host.send((B, frames[1]))
    captured.host.send((A, to / TCP(sport=9, dport=22, flags="S")))
    found = captured.packets(capture)
    assert [packet.data for packet in found[:2]] == [bytes(frame) for frame in frames]
    assert [packet.direction for packet in found] == [OUTBOUND, INBOUND, OUTBOUND]
    assert [packet.comment for packet in found] == [
        'ALLOW match by "rule": 1024, "rule_path": "/p/any", "vnic": "a", OUT',
        'ALLOW state by "rule": 1024, "rule_path": "/p/any", "vnic": "a", IN',
        'DROP match by "rule": 1025, "rule_path": "/p/no", "vnic": "a", OUT',
    ]
    assert captured.packets(capture) == []


def test_an_established_connection_names_its_rule_while_somebody_captures(captured: Captured) -> None:
    """The fast path does not look at it otherwise."""
    host = captured.host
    to, back = ether(A, B.mac) / ip4(A, B.v4), ether(B, A.mac) / ip4(B, A.v4)
    host.send((A, to / TCP(sport=9, dport=80, flags="S", seq=0)))
    host.send((B, back / TCP(sport=80, dport=9, flags="SA", seq=0, ack=1)))
    host.send(*[(A, to / TCP(sport=9, dport=80, flags="A", seq=1, ack=1))] * 20)
    capture = captured.begin(B.number)
    host.send(*[(A, to / TCP(sport=9, dport=80, flags="A", seq=1, ack=1) / b"x")] * 20)
    found = captured.packets(capture)
    assert len(found) == 20
    assert {packet.comment for packet in found} == {
        'ALLOW state by "rule": 1024, "rule_path": "/p/any", "vnic": "b", IN'
    }


def test_what_is_delivered_is_as_the_gateway_made_it_and_what_forwarding_refuses_says_so(captured: Captured) -> None:
    at_a, at_c = captured.begin(A.number), captured.begin(C.number)
    captured.host.send((A, ether(A, GATEWAY_MAC) / ip4(A, C.v4, ttl=9) / UDP(sport=1, dport=2)))
    captured.host.send((A, ether(A, GATEWAY_MAC) / ip4(A, "198.51.100.1") / UDP(sport=1, dport=2)))
    sent, refused, *_ = captured.packets(at_a)
    (got,) = captured.packets(at_c)
    assert Ether(sent.data).dst == GATEWAY_MAC and Ether(sent.data)[IP].ttl == 9
    assert (Ether(got.data).dst, Ether(got.data).src, Ether(got.data)[IP].ttl) == (C.mac, GATEWAY_MAC, 8)
    assert refused.comment.endswith(', "vnic": "a", OUT | DROP blackhole by forwarding')


def test_what_spoofguard_refuses_and_what_the_host_says_itself(captured: Captured) -> None:
    capture = captured.begin(A.number)
    captured.host.send((A, Ether(src="02:00:00:00:00:99", dst=B.mac) / ip4(A, B.v4) / UDP(sport=1, dport=2)))
    captured.host.send((A, ether(A, "ff:ff:ff:ff:ff:ff") / ARP(psrc=A.v4, hwsrc=A.mac, pdst=B.v4)))
    captured.host.send((A, ether(A, GATEWAY_MAC) / ip4(A, "10.1.1.1") / ICMP(id=1, seq=1)))
    spoofed, asked, answered, ping, pong = captured.packets(capture)
    assert spoofed.comment.startswith('DROP spoof-mac by "rule": null')
    assert asked.direction == OUTBOUND and answered.direction == INBOUND and Ether(answered.data)[ARP].op == 2
    assert answered.comment.endswith("| made by this host")
    assert Ether(ping.data)[ICMP].type == 8 and Ether(pong.data)[ICMP].type == 0


def test_fragments_are_all_there(captured: Captured) -> None:
    at_a, at_b = captured.begin(A.number), captured.begin(B.number)
    pieces = fragment(IP(src=A.v4, dst=B.v4, id=9) / UDP(sport=5, dport=6) / bytes(range(250)) * 4, 504)
    frames = [bytes(ether(A, B.mac) / piece) for piece in pieces]
    captured.host.send(*((A, frame) for frame in frames))
    for capture, vnic in ((at_a, "a"), (at_b, "b")):
        found = captured.packets(capture)
        assert sorted(packet.data for packet in found) == sorted(frames)
        assert all(f'"vnic": "{vnic}"' in packet.comment for packet in found)


def test_filters(captured: Captured) -> None:
    wanted = {
        "port": captured.begin(A.number, port=53),
        "proto": captured.begin(A.number, protocol=6),
        "address": captured.begin(A.number, address=B.v4, snap=20),
        "refused": captured.begin(A.number, refused=True),
    }
    with pytest.raises(CoreError, match="4 captures run already"):
        captured.begin(A.number)
    captured.host.send(
        (A, ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=1, dport=53)),
        (A, ether(A, B.mac) / IPv6(src=A.v6, dst=B.v6) / TCP(sport=53, dport=9, flags="S")),
        (A, ether(A, B.mac) / ip4(A, B.v4) / TCP(sport=1, dport=22, flags="S")),
        (A, ether(A, B.mac) / ARP(op=2, psrc=A.v4, hwsrc=A.mac, pdst=B.v4, hwdst=B.mac)),
    )
    found = {name: captured.packets(capture) for name, capture in wanted.items()}
    assert {name: len(packets) for name, packets in found.items()} == {
        "port": 2,
        "proto": 2,
        "address": 2,
        "refused": 1,
    }
    assert [(len(packet.data), packet.wire) for packet in found["address"]] == [(20, 42), (20, 54)]


def test_the_uplink_in_an_outer_header(captured: Captured) -> None:
    capture = captured.begin(UPLINK_POINT)
    frame = ether(A, GATEWAY_MAC) / ip4(A, D.v4, ttl=9) / UDP(sport=1, dport=2) / b"hello"
    (sent,) = captured.host.send((A, frame))
    captured.host.receive((sent.raw[:8] + bytes(ether(D, A.mac) / ip4(D, A.v4) / UDP()), TEPS[1]))
    out, back = captured.packets(capture)
    assert (out.direction, back.direction, out.linktype) == (OUTBOUND, INBOUND, 101)
    outer = IP(out.data)
    assert (outer.src, outer.dst, outer[UDP].dport, outer[UDP].sport) == (*TEPS[:2], 6081, int(sent.row["port"]))
    assert bytes(outer[UDP].payload) == sent.raw and len(out.data) == outer.len
    chksum = outer.chksum
    del outer.chksum
    assert IP(bytes(outer)).chksum == chksum
    assert (IP(back.data).src, IP(back.data).dst) == (TEPS[1], TEPS[0])


def test_what_the_ring_has_no_room_for_is_counted_and_most_is_a_bound(captured: Captured) -> None:
    capture = captured.begin(A.number)
    frame = bytes(ether(A, B.mac) / ip4(A, B.v4) / UDP(sport=1, dport=53) / bytes(1200))
    for _ in range(80):
        captured.host.send(*[(A, frame)] * 50)
    found = captured.packets(capture, most=10)
    assert len(found) == 10
    size = (56 + len(frame) + 7) // 8 * 8
    assert capture.lost == 4000 - (4 << 20) // size
    captured.host.send((A, frame))
    assert len(captured.packets(capture)) == 1
    capture.close()
    assert capture.read() == b""
    captured.host.send((A, frame))
