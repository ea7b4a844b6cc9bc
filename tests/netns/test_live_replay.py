# SPDX-License-Identifier: Apache-2.0
"""Live equals replay, on captures: their packets through a live host's TAPs, one by one and as super-packets.

Two vNICs on one segment stand for a capture's two ends. What arrives at the other one is what `replay` passes at both
vNICs, and the rules count the same packets and bytes. Captures in which more than two ends speak, or somebody says
what no live vNIC may (groups, odd addresses), are left to `test_host_replay`'s generated traffic.
"""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw.core import EngineOptions, Fabric, Host
from dfw.enforcer import NativeEnforcer
from dfw.layout_live import NO_INDEX, SEGMENT_DTYPE, VNIC_DTYPE
from dfw.load import load
from tests.support.pcap import pcap_read, pcap_write
from tests.support.replaying import Run, replayer
from tests.support.tap_wire import MTU, PLAIN, Offload, TapWire

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_tool("ip")]
LONG = "PALISADE_LONG" in os.environ
CAPTURES, PACKETS = (200, 300) if LONG else (7, 40)
ETHERNET, IP4, IP6, TCP = 1, b"\x08\x00", b"\x86\xdd", 6
ACK, PSH = 0x10, 0x08

RULES = {
    "all, strictly": "tcp_strict: true, rules: [{id: all, action: ALLOW}]",
    "one way": "rules: [{id: there, source_groups: [a], action: ALLOW}, {id: rest, action: DROP}]",
    "some ports, stateless": "stateful: false, rules: [{id: web, services: [HTTP], action: ALLOW}, "
    "{id: names, services: [DNS-UDP], action: ALLOW}, {id: rest, action: DROP}]",
}
GROUP = """
---
resource_type: Group
id: a
expression: [{resource_type: Condition, member_type: SegmentPort, key: Tag, operator: EQUALS, value: a}]
"""


class Conversation(NamedTuple):
    """A capture of two ends."""

    path: Path
    macs: tuple[bytes, bytes]
    ips: tuple[frozenset[str], frozenset[str]]
    frames: tuple[bytes, ...]


def addresses(data: bytes) -> tuple[str, str] | None:
    """Source and destination, if a live vNIC may say and get such a packet."""
    at, size = (26, 4) if data[12:14] == IP4 else (22, 16)
    if data[12:14] not in (IP4, IP6) or len(data) < at + 2 * size:
        return None
    found = tuple(ipaddress.ip_address(data[at + n * size : at + (n + 1) * size]) for n in range(2))
    odd = any(a.is_multicast or a.is_unspecified or a.is_loopback or (a.version == 4 and a.is_reserved) for a in found)
    fragment = data[12:14] == IP4 and int.from_bytes(data[20:22]) & 0x3FFF
    return None if odd or fragment or found[0] == found[1] else (str(found[0]), str(found[1]))


def conversation(path: Path) -> Conversation | None:
    """The capture, if two ends speak in it, each from its MAC address."""
    frames: list[bytes] = []
    macs: list[bytes] = []
    ips: tuple[set[str], set[str]] = (set(), set())
    for packet in pcap_read(path):
        data = packet.data
        if packet.link != ETHERNET or packet.wire != len(data) or not 14 < len(data) <= MTU + 14:
            return None
        pair = addresses(data)
        if pair is None or (data[0] | data[6]) & 1:
            return None
        for mac in (data[6:12], data[:6]):
            if mac not in macs:
                macs.append(mac)
        if len(macs) != 2:
            return None
        sender = macs.index(data[6:12])
        ips[sender].add(pair[0])
        ips[1 - sender].add(pair[1])
        frames.append(data)
        if len(frames) == PACKETS:
            break
    if len(frames) < 4 or ips[0] & ips[1]:
        return None
    return Conversation(path, (macs[0], macs[1]), (frozenset(ips[0]), frozenset(ips[1])), tuple(frames))


def conversations(data: Path) -> Iterator[Conversation]:
    """Those of the kernel's oracle, which are known to be of many kinds."""
    oracle, count = data / "kernel-ct-oracle", 0
    for name in ("zeek-tcp-perpacket-table", "zeek-all", "suricata-verify"):
        for path in json.loads((oracle / f"{name}.usable.json").read_text()):
            found = conversation(data / path)
            if found is not None and count < CAPTURES:
                count += 1
                yield found


def policy(found: Conversation, rules: str) -> str:
    """Inventory and policy of a conversation."""
    segments = "segments: [{name: s, vni: 5001, subnets: [0.0.0.0/0, '::/0']}]"
    ports = [
        f"  - {{name: {name}, host: h, segment: s, mac: '{mac.hex(':')}', ips: {sorted(ips)}, tags: [{{tag: {name}}}]}}"
        for name, mac, ips in zip("ab", found.macs, found.ips, strict=True)
    ]
    head = f"apiVersion: palisade.internal/v1alpha1\nkind: Inventory\nhosts: [{{name: h}}]\n{segments}\nports:\n"
    return (
        head
        + "\n".join(ports)
        + GROUP
        + f"---\n{{resource_type: SecurityPolicy, id: p, category: Application, {rules}}}\n"
    )


class Replayed(NamedTuple):
    """What `replay` says: which packets pass both vNICs, and the counts of the rules."""

    passes: list[bool]
    rules: dict[str, tuple[int, int, int]]


def replayed(run: Run, found: Conversation) -> Replayed:
    """The conversation through `palisade replay`, with p.yaml."""
    pcap_write(Path("c.pcap"), found.frames, ETHERNET)
    done = run("c.pcap", "--inventory", "p.yaml", "--clock", "stopped", "--verdicts", "v.jsonl", "-o", "json")
    assert done.status == 0, done.err
    passes = [True] * len(found.frames)
    for line in Path("v.jsonl").read_text().splitlines():
        row = json.loads(line)
        passes[row["n"] - 1] &= row["verdict"] == "ALLOW"
    counts = {row["rule_path"]: (row["hits"], row["packets"], row["bytes"]) for row in done.json["rules"]}
    return Replayed(passes, {path: count for path, count in counts.items() if any(count)})


class LiveHost:
    """A host with the conversation's two vNICs and the policy."""

    def __init__(self, wire: TapWire, found: Conversation) -> None:
        world = load(["p.yaml"]).world
        self.enforcer = NativeEnforcer(world.inventory, EngineOptions(1 << 12, 1 << 12, sanity="off"))
        self.host, self.wire, self.found = Host(self.enforcer.engine), wire, found
        vnics, segments = np.zeros(2, VNIC_DTYPE), np.zeros(1, SEGMENT_DTYPE)
        vnics["filter"] = 0, 1
        vnics["mac"] = [list(mac) for mac in found.macs]
        segments["vni"], segments["gateway"] = 5001, NO_INDEX
        self.host.stage(Fabric(vnics=vnics, segments=segments, underlay_mtu=65535))
        self.enforcer.commit(world)
        wire.plug(self.host, found.macs)

    def send(self, data: bytes, offload: Offload = PLAIN) -> bool:
        """Whether it arrives at the other end, as it was sent (but for the sum that a card would finish)."""
        sender = self.found.macs.index(data[6:12])
        got = self.wire.pass_on(sender, data, offload)
        assert got[sender] == []
        assert [one[:34] for one in got[1 - sender]] in ([], [data[:34]])
        assert offload.flags or got[1 - sender] in ([], [data])
        return bool(got[1 - sender])

    def rules(self) -> dict[str, tuple[int, int, int]]:
        counts = self.enforcer.engine.rule_counts(len(self.enforcer.rules))
        rows = zip(self.enforcer.rules, counts, strict=True)
        found = {rule.path: (int(row["hits"]), int(row["packets"]), int(row["bytes"])) for rule, row in rows}
        return {path: count for path, count in found.items() if any(count)}


class Super(NamedTuple):
    """Packets that a card would have sent as one: the first and last of them, from 0, and the super-packet."""

    first: int
    last: int
    data: bytes
    offload: Offload


def segment(data: bytes) -> tuple[int, int, int] | None:
    """Of a TCP segment of IPv4 that may be part of a super-packet: where data begin, sequence number, bytes of data."""
    if data[12:15] != IP4 + b"\x45" or data[23] != TCP or data[47] & ~PSH != ACK or data[46] & 15:
        return None
    headers, end = 34 + (data[46] >> 4) * 4, 14 + int.from_bytes(data[16:18])
    return (headers, int.from_bytes(data[38:42]), end - headers) if end > headers and end == len(data) else None


def supers(frames: Sequence[bytes]) -> Iterator[Super]:
    """The frames, with runs of segments of one flow and one size put together."""
    at = 0
    while at < len(frames):
        first, end = segment(frames[at]), at + 1
        if first is None:
            yield Super(at, at, frames[at], PLAIN)
            at += 1
            continue
        headers, seq, size = first
        data = bytearray(frames[at])
        # Equal but for length, identification, sums, sequence number and PUSH.
        same = [*range(16), *range(20, 24), *range(26, 38), *range(42, 47), *range(48, 50), *range(54, headers)]
        while end < len(frames) and not frames[end - 1][47] & PSH and len(data) < 40_000:
            nxt = segment(frames[end])
            whole = (len(data) - headers) % size == 0
            if nxt is None or not whole or nxt[0] != headers or nxt[1] != seq + len(data) - headers or nxt[2] > size:
                break
            if any(frames[at][n] != frames[end][n] for n in same):
                break
            data += frames[end][headers:]
            data[47] |= frames[end][47]
            end += 1
        if end == at + 1 or size < 32:
            yield Super(at, at, frames[at], PLAIN)
            at += 1
            continue
        data[16:18] = (len(data) - 14).to_bytes(2)
        data[24:26] = b"\0\0"
        words = sum(int.from_bytes(data[n : n + 2]) for n in range(14, 34, 2)) % 65535
        data[24:26] = (65535 - words).to_bytes(2)
        pseudo = sum(int.from_bytes(data[n : n + 2]) for n in range(26, 34, 2)) + TCP + len(data) - 34
        data[50:52] = (pseudo % 65535).to_bytes(2)
        yield Super(at, end - 1, bytes(data), Offload(1, 1, headers, size, 34, 16))
        at = end


@pytest.mark.needs_shared_data("kernel-ct-oracle/zeek-all.usable.json")
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_a_capture_through_live_vnics_is_judged_as_in_replay(
    rules: str, shared_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = replayer(capfd, tmp_path, monkeypatch)
    captures = packets = passed = together = 0
    with TapWire(2) as wire:
        for found in conversations(shared_data):
            Path("p.yaml").write_text(policy(found, rules))
            expected = replayed(run, found)
            live = LiveHost(wire, found)
            arrived = [live.send(data) for data in found.frames]
            assert arrived == expected.passes, found.path
            assert live.rules() == expected.rules, found.path
            wire.unplug()
            live = LiveHost(wire, found)
            mixed = False
            for item in supers(found.frames):
                wanted = expected.passes[item.first : item.last + 1]
                mixed |= len(set(wanted)) > 1  # one verdict a super-packet: from here on they may differ
                if mixed:
                    break
                assert live.send(item.data, item.offload) == wanted[0], (found.path, item.first)
                together += item.last > item.first
            counted = [{path: count[1:] for path, count in rules.items()} for rules in (live.rules(), expected.rules)]
            assert mixed or counted[0] == counted[1], found.path  # a super-packet is judged, and hits, once
            wire.unplug()
            captures, packets, passed = captures + 1, packets + len(arrived), passed + sum(arrived)
    assert captures >= 7 and 0 < passed <= packets and together > 0, (captures, packets, passed, together)
