# SPDX-License-Identifier: Apache-2.0
"""`bench pipeline`, the hosts' part: established packets through two whole hosts in memory, both directions.

At the one: parse, spoofguard, firewall OUT, routing to another segment, Geneve and outer headers into cold packet
memory. At the other: outer headers, Geneve, look-up, firewall IN. Sixteen vNICs on each, every connection between two
of them.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dfw.bench.frames import ACK, SYN, TCP, Bytes, Frames, addresses, be, ethernet, ip_packets, tcp
from dfw.core import Engine, EngineOptions, Fabric, Host, WayRun, run_way
from dfw.layout import FAMILY_V4, RuleArray, U32Array
from dfw.layout_live import (
    ADDRESS_DTYPE,
    GUARD_DHCP,
    GUARD_RA,
    GUARD_SPOOF,
    HOST_FRAME_DTYPE,
    NEIGHBOUR_DTYPE,
    ROUTE_CONNECTED,
    ROUTE_DTYPE,
    SEGMENT_DTYPE,
    TEP_DTYPE,
    UPLINK,
    VNIC_DTYPE,
)
from dfw.model import Timers

VNICS: Final = 16
_SYN_OPTIONS: Final = bytes([1, 3, 3, 7])
_GATEWAY_MAC: Final = bytes.fromhex("02506c000001")
_NETS: Final = (0x0A000000, 0x0A000100)  # of the near host's segment, and of the far one's
_TEPS: Final = (0xAC100001, 0xAC100002)


@dataclass(frozen=True, slots=True)
class HostsBench:
    """Connections over both hosts; packets a direction and run; frame bytes; frames a burst; runs."""

    connections: int
    packets: int
    size: int
    batch: int
    runs: int


def _addr(number: int) -> Bytes:
    return addresses(FAMILY_V4, np.array([number], np.uint64)).reshape(-1)


def _mac(host: int, vnic: int) -> list[int]:
    return [2, 0, 0, 0, host, vnic + 1]


def fabric_of(host: int) -> Fabric:
    """What host 0 (near) or 1 (far) knows: its sixteen vNICs, the other's behind a TEP, one gateway between."""
    vnics, given = np.zeros(VNICS, VNIC_DTYPE), np.zeros(VNICS, ADDRESS_DTYPE)
    neighbours, routes = np.zeros(2 * VNICS, NEIGHBOUR_DTYPE), np.zeros(2, ROUTE_DTYPE)
    segments, teps = np.zeros(2, SEGMENT_DTYPE), np.zeros(2, TEP_DTYPE)
    for i in range(VNICS):
        vnics[i] = (i, host, i, 1, GUARD_SPOOF | GUARD_DHCP | GUARD_RA, _mac(host, i), 1450)
        given[i] = (_addr(_NETS[host] + i + 1), FAMILY_V4)
        for side in range(2):
            place = (i, 0) if side == host else (UPLINK, side)
            neighbours[side * VNICS + i] = (_addr(_NETS[side] + i + 1), FAMILY_V4, side, *place, _mac(side, i), 0)
    segments["vni"] = 5001, 5002
    for side in range(2):
        routes[side] = (_addr(_NETS[side]), np.zeros(16, np.uint8), FAMILY_V4, 24, 0, ROUTE_CONNECTED, side)
        teps[side] = (_addr(_TEPS[side]), FAMILY_V4, 0, 0)
    return Fabric(
        vnics=vnics,
        segments=segments,
        neighbours=neighbours,
        routes=routes,
        teps=teps,
        addresses=given,
        gateways=1,
        gateway_mac=_GATEWAY_MAC,
    )


class Pair:
    """Two hosts with the same rules at every vNIC."""

    def __init__(self, rules: RuleArray, refs: U32Array, count: int, sets: list[Any], capacity: int) -> None:
        from dfw.enforcer import timer_seconds

        self.hosts: list[Host] = []
        for side in range(2):
            engine = Engine(
                EngineOptions(
                    capacity4=capacity,
                    capacity6=16,
                    filters=VNICS,
                    rules=count,
                    checksums="off",
                    sanity="off",
                    name_rules=False,
                )
            )
            for number, ranges in enumerate(sets):
                engine.classifier.put_set(number, ranges)
            for number in range(VNICS):
                engine.stage(number, engine.classifier.build_staged(rules, refs), timer_seconds(Timers()))
            host = Host(engine)
            host.stage(fabric_of(side))
            engine.commit()
            self.hosts.append(host)

    def play(
        self,
        frames: Frames,
        from_far: bool,
        batch: int,
        apart: bool = False,
        connections: U32Array | None = None,
        most: int = 0,
    ) -> WayRun:
        """The frames from one host's vNICs to the other's: each burst at once, or, `apart`, all when all have left."""
        rows = np.zeros(len(frames), HOST_FRAME_DTYPE)
        rows["at"] = np.arange(len(frames), dtype=np.uint64) * np.uint64(frames.data.shape[1])
        rows["len"], rows["vnic"], rows["now_ns"] = frames.length, frames.filter, 10**9
        near, far = self.hosts[::-1] if from_far else self.hosts
        return run_way(near, far, frames.data, rows, _addr(_TEPS[from_far]), batch, apart, connections, most)


def segments_of(connections: U32Array, back: bool, seq: int, ack: int, flags: int, size: int, **more: Any) -> Frames:
    """A TCP segment of each of these connections, from its client or (`back`) from its server."""
    count, ends = len(connections), (connections % VNICS, connections // VNICS % VNICS)
    ports = 1024 + connections.astype(np.int64) // VNICS**2, np.full(count, 443, np.int64)
    source, target = int(back), int(not back)
    packets = ip_packets(
        FAMILY_V4,
        addresses(FAMILY_V4, (_NETS[source] + 1 + ends[source]).astype(np.uint64)),
        addresses(FAMILY_V4, (_NETS[target] + 1 + ends[target]).astype(np.uint64)),
        TCP,
        tcp(count, ports[source], ports[target], seq, ack, flags, **more),
        identification=np.arange(count) & 0xFFFF,
    )
    frames = ethernet(FAMILY_V4, packets, size=size)
    frames.data[:, :6] = np.frombuffer(_GATEWAY_MAC, np.uint8)
    frames.data[:, 6:11] = 2, 0, 0, 0, source
    frames.data[:, 11:12] = be(ends[source] + 1, 1, count)
    return frames.at(filter_number=ends[source])


def connect(pair: Pair, connections: int, batch: int, seed: int) -> bool:
    """All connections, in random order: SYN, SYN+ACK, ACK. Whether every packet arrived."""
    order = np.random.default_rng(seed).permutation(connections).astype(np.uint32)
    steps = ((False, 0, 0, SYN, _SYN_OPTIONS), (True, 0, 1, SYN | ACK, _SYN_OPTIONS), (False, 1, 1, ACK, b""))
    done = True
    for back, seq, ack, flags, options in steps:
        run = pair.play(segments_of(order, back, seq, ack, flags, 64, options=options), back, batch)
        done &= run.delivered == connections
    return done


def bench_hosts(given: HostsBench, rules: RuleArray, refs: U32Array, count: int, sets: list[Any]) -> dict[str, Any]:
    """Nanoseconds a packet at the host that it leaves and at the one where it arrives, medians over the runs and both
    directions; `ns`: both together; `floor_ns`: six written lines, of the same runs; `memory_ns`: a line of cold packet
    memory read and one written, of the same runs; `apart_ns`: as `ns`, of runs in turn with these in which the frames
    come from memory at the other host too; `verified`: all arrived."""
    capacity = max(1 << 18, 1 << (4 * given.connections // 3).bit_length())
    pair = Pair(rules, refs, count, sets, capacity)
    verified = connect(pair, given.connections, given.batch, 1)
    source = np.random.default_rng(2)
    runs: list[WayRun] = []
    apart: list[WayRun] = []
    for _ in range(given.runs):
        for back in (False, True):
            order = source.integers(0, given.connections, given.packets).astype(np.uint32)
            frames = segments_of(order, back, 1, 1, ACK, given.size)
            runs.append(pair.play(frames, back, given.batch, False, order, given.connections))
            apart.append(pair.play(frames, back, given.batch, True))
            verified &= all(run.sent == run.delivered == given.packets for run in (runs[-1], apart[-1]))
    for host in pair.hosts:
        stats = host.stats()
        verified &= stats.from_vnics + stats.from_uplink == stats.passed

    def median(values: list[float]) -> float:
        return round(statistics.median(values), 2)

    return {
        "ns": median([run.near_ns + run.far_ns for run in runs]),
        "out_ns": median([run.near_ns for run in runs]),
        "in_ns": median([run.far_ns for run in runs]),
        "floor_ns": median([run.floor_ns for run in runs]),
        "memory_ns": median([run.memory_ns for run in runs]),
        "over_floor_ns": median([run.near_ns + run.far_ns - run.floor_ns for run in runs]),
        "apart_ns": median([run.near_ns + run.far_ns for run in apart]),
        "packets": given.packets,
        "batch": given.batch,
        "verified": bool(verified),
    }
