# SPDX-License-Identifier: Apache-2.0
"""Multicast and broadcast at vNICs: OUT once, IN at each receiver on the segment, without a way back; both backends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from tests.support.replaying import Run, capture, lines, replayer
from tests.support.wire import End, arp, ethernet, fragments
from tests.support.wire import Path as WirePath

INVENTORY = """\
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: h}]
gateways: [{name: t1, tier: 1}]
segments:
  - {name: front, vni: 5001, subnets: [10.0.0.0/24, "fd00::/64"], gateway: t1}
  - {name: back, vni: 5002, subnets: [10.0.1.0/24], gateway: t1}
ports:
  - {name: c, host: h, segment: front, mac: "02:00:00:00:00:01", ips: [10.0.0.1, "fd00::1"]}
  - {name: b, host: h, segment: front, mac: "02:00:00:00:00:02", ips: [10.0.0.2]}
  - {name: z, host: h, segment: back, mac: "02:00:00:00:00:03", ips: [10.0.1.1]}
  - {name: a, host: h, segment: front, mac: "02:00:00:00:00:04", ips: [10.0.0.4]}
"""
POLICY = """\
resource_type: Group
id: b
expression: [{resource_type: Condition, member_type: SegmentPort, key: Name, operator: EQUALS, value: b}]
---
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: not-b, services: [DNS-UDP], direction: IN, scope: [b], action: DROP}
  - {id: names, services: [DNS-UDP], action: ALLOW}
  - {id: rest, action: DROP}
---
resource_type: SecurityPolicy
id: early
category: Emergency
staged: true
rules:
  - {id: not-a, services: [DNS-UDP], direction: IN, scope: [only-a], action: DROP}
---
resource_type: Group
id: only-a
expression: [{resource_type: Condition, member_type: SegmentPort, key: Name, operator: EQUALS, value: a}]
"""
SENDER = End("10.0.0.1", "02:00:00:00:00:01")
MULTICAST = WirePath(SENDER, End("224.0.0.251", "01:00:5e:00:00:fb"))
BROADCAST = WirePath(SENDER, End("10.0.0.255", "ff:ff:ff:ff:ff:ff"))
ROUTER = WirePath(End("192.0.2.1", "02:00:00:00:00:99"), End("255.255.255.255", "ff:ff:ff:ff:ff:ff"))


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder of its own."""
    found = replayer(capfd, tmp_path, monkeypatch)
    Path("p.yaml").write_text(POLICY)
    Path("i.yaml").write_text(INVENTORY)
    return found


def judged(run: Run, frames: list[bytes], *more: str, link: int = 1) -> list[tuple[Any, ...]]:
    """(n, vNIC, direction, verdict, reason) of each line, after asserting that both backends write the same."""
    capture("cap.pcap", frames, link)
    outputs = {}
    for backend in ("native", "oracle"):
        files = [f"{backend}.v", f"{backend}.f"]
        arguments = ("--verdicts", files[0], "--flows", files[1], "--backend", backend, "-o", "json", *more)
        done = run("cap.pcap", "--inventory", "i.yaml", *arguments)
        assert done.status == 0, done.err
        known = {name: done.json[name] for name in ("verdicts", "reasons", "rules", "staged", "packets")}
        outputs[backend] = known, [Path(name).read_bytes() for name in files]
    assert outputs["native"] == outputs["oracle"]
    return [tuple(line[name] for name in ("n", "vnic", "dir", "verdict", "reason")) for line in lines("native.v")]


def test_out_once_and_in_at_each_receiver(run: Run) -> None:
    asked = [
        ("c", "OUT", "ALLOW", "match"),
        ("b", "IN", "DROP", "match"),
        ("a", "IN", "ALLOW", "match"),
    ]
    frames = [ethernet(path, path.udp(5353, 53, b"who")) for path in (MULTICAST, BROADCAST)]
    assert judged(run, frames) == [(n, *item) for n in (1, 2) for item in asked]
    flows = [(flow["vnic"], flow["dir"], flow["dst"], flow["packets"]) for flow in lines("native.f")]
    assert flows == [("c", "OUT", "224.0.0.251", 1), ("a", "IN", "224.0.0.251", 1)] + [
        ("c", "OUT", "10.0.0.255", 1),
        ("a", "IN", "10.0.0.255", 1),
    ]


def test_dropped_out_is_for_nobody(run: Run) -> None:
    assert judged(run, [ethernet(MULTICAST, MULTICAST.udp(1, 99, b"x"))]) == [(1, "c", "OUT", "DROP", "match")]


def test_frames_that_are_not_ip_go_to_all_too(run: Run) -> None:
    assert judged(run, [arp(BROADCAST)]) == [
        (1, "c", "OUT", "ALLOW", "non-ip"),
        (1, "b", "IN", "ALLOW", "non-ip"),
        (1, "a", "IN", "ALLOW", "non-ip"),
    ]


def test_no_way_back(run: Run) -> None:
    """An answer from the group's address belongs to nobody's connection; one from a member's own is a new one."""
    back = WirePath(End("224.0.0.251", "02:00:00:00:00:04"), SENDER)
    found = judged(
        run, [ethernet(MULTICAST, MULTICAST.udp(5353, 53, b"who")), ethernet(back, back.udp(53, 5353, b"me"))]
    )
    assert found[3:] == [(2, "a", "OUT", "DROP", "oneway")]


def test_a_datagram_in_fragments_goes_on_whole(run: Run) -> None:
    pieces = fragments(MULTICAST.udp(5353, 53, b"x" * 64), [16, 32], 7)
    found = judged(run, [ethernet(MULTICAST, piece) for piece in (pieces[2], pieces[0], pieces[1])])
    assert found == [
        (n, *item)
        for n in (1, 2, 3)
        for item in (("c", "OUT", "ALLOW", "match"), ("b", "IN", "DROP", "match"), ("a", "IN", "ALLOW", "match"))
    ]


def test_without_a_mac_the_address_tells(run: Run) -> None:
    assert [row[1:3] for row in judged(run, [MULTICAST.udp(5353, 53, b"who")], link=101)] == [
        ("c", "OUT"),
        ("b", "IN"),
        ("a", "IN"),
    ]
    assert judged(run, [BROADCAST.udp(5353, 53, b"who")], link=101) == [(1, "c", "OUT", "ALLOW", "match")]


def geneve(inner: bytes, vni: int) -> bytes:
    outer = WirePath(End("172.16.0.1", "02:aa:00:00:00:01"), End("172.16.0.2", "02:aa:00:00:00:02"))
    return ethernet(outer, outer.udp(50000, 6081, b"\0\0\x65\x58" + vni.to_bytes(3) + b"\0" + inner))


def test_from_a_stranger_the_vni_tells_the_segment(run: Run) -> None:
    asked = ethernet(ROUTER, ROUTER.udp(68, 53, b"x"))
    assert judged(run, [asked]) == [(1, None, None, "ALLOW", "no-filter")]
    inside = [(1, "c", "IN", "ALLOW", "match"), (1, "b", "IN", "DROP", "match"), (1, "a", "IN", "ALLOW", "match")]
    assert judged(run, [geneve(asked, 5001)], "--decap") == inside
    assert judged(run, [geneve(asked, 5002)], "--decap") == [(1, "z", "IN", "ALLOW", "match")]
    assert judged(run, [geneve(asked, 7)], "--decap") == [(1, None, None, "ALLOW", "no-filter")]
    pieces = [geneve(ethernet(ROUTER, item), 5001) for item in fragments(ROUTER.udp(68, 53, b"y" * 40), [16], 3)]
    assert judged(run, pieces, "--decap") == [(n, *item[1:]) for n in (1, 2) for item in inside]


def test_staged_policies_cut_a_packet_at_one_of_its_receivers(run: Run) -> None:
    frames = [ethernet(MULTICAST, MULTICAST.udp(5353, 53, b"who")), ethernet(MULTICAST, MULTICAST.udp(1, 99, b"x"))]
    judged(run, frames)
    capture("cap.pcap", frames)
    staged = run("cap.pcap", "--inventory", "i.yaml", "-o", "json").json["staged"]
    assert staged["cut"]["packets"] == 1
    assert [(flow["vnic"], flow["dir"], flow["rule_path"].rpartition("/")[2]) for flow in staged["flows"]] == [
        ("a", "IN", "names")
    ]


def test_workers_and_bursts_change_nothing(run: Run) -> None:
    frames = []
    for number in range(300):
        frames += [ethernet(MULTICAST, MULTICAST.udp(5353 + number % 7, 53, b"who")), arp(BROADCAST)]
        frames += [ethernet(BROADCAST, piece) for piece in fragments(BROADCAST.udp(1, 53, b"x" * 40), [16], number)]
    capture("cap.pcap", frames)
    found = set()
    for workers, batch in (("1", "1"), ("1", "32"), ("1", "256"), ("2", "7"), ("3", "31")):
        more = ("--workers", workers, "--batch", batch, "--verdicts", "v", "--flows", "f")
        assert run("cap.pcap", "--inventory", "i.yaml", *more).status == 0
        found.add((Path("v").read_bytes(), Path("f").read_bytes()))
    assert len(found) == 1
