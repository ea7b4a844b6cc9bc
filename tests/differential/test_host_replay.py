# SPDX-License-Identifier: Apache-2.0
"""Live equals replay: packets of generated traffic through a live host get the verdicts that a replay of them gives.

What differs by nature is left out: two segments that nothing joins, a REJECT's answer (which a live host's other
filters see), frames that a live host never lets near a filter.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw.core import CTS, NO_RULE, REASONS, VERDICTS, EngineOptions, Fabric, Host
from dfw.enforcer import NativeEnforcer
from dfw.layout_live import (
    HOST_FRAME_DTYPE,
    NEIGHBOUR_DTYPE,
    NO_INDEX,
    SEGMENT_DTYPE,
    TEP_DTYPE,
    UPLINK,
    VNIC_DTYPE,
)
from dfw.model import Action, PolicySet
from tests.support.agreement import events_of, worlds_of
from tests.support.small_fabric import packed
from tests.support.traffic import Commit, Event, Packet, Scenario
from tests.support.twins import Row, native_answers

PACKETS = 6_000
ROUTER = bytes.fromhex("02000000ff01")
MACS = [bytes.fromhex(f"02000000{end}") for end in ("0101", "0102", "0201", "0202")]
SEGMENT_OF = (0, 0, 1, 1)  # front, back
TEP = "172.16.0.12"


def without_reject(world: PolicySet) -> PolicySet:
    """REJECT becomes DROP."""
    policies = tuple(
        replace(p, rules=tuple(replace(r, action=Action.DROP) if r.action is Action.REJECT else r for r in p.rules))
        for p in world.policies
    )
    return replace(world, policies=policies)


def fabric() -> Fabric:
    """The inventory's two segments with their vNICs, unguarded, and a router on each behind a TEP."""
    vnics, segments = np.zeros(4, VNIC_DTYPE), np.zeros(2, SEGMENT_DTYPE)
    neighbours, teps = np.zeros(2, NEIGHBOUR_DTYPE), np.zeros(1, TEP_DTYPE)
    vnics["filter"], vnics["segment"] = range(4), SEGMENT_OF
    vnics["mac"] = [list(mac) for mac in MACS]
    segments["vni"], segments["gateway"] = (5001, 5002), NO_INDEX
    neighbours["segment"], neighbours["vnic"], neighbours["mac"] = (0, 1), UPLINK, list(ROUTER)
    teps["addr"], teps["family"] = packed(TEP), 1
    return Fabric(vnics=vnics, segments=segments, neighbours=neighbours, teps=teps, underlay_mtu=65535)


def origin(data: bytes) -> tuple[int, int] | None:
    """The vNIC (or PAL_UPLINK) that a frame comes from, and its segment; None: not of this test."""
    if len(data) < 14 or data[12:14] in (b"\x81\x00", b"\x88\xa8", b"\x91\x00"):
        return None
    target, source = data[:6], data[6:12]
    if source in MACS:
        sender = MACS.index(source)
        other = target in MACS and SEGMENT_OF[MACS.index(target)] == SEGMENT_OF[sender]
        here = target[0] & 1 or target == ROUTER or other
        return (sender, SEGMENT_OF[sender]) if here and target != source else None
    if source == ROUTER and target in MACS:
        return UPLINK, SEGMENT_OF[MACS.index(target)]
    return None


class LiveRun:
    """Events through a live host, a packet a burst, each at its own time."""

    def __init__(self, worlds: list[PolicySet]) -> None:
        options = EngineOptions(1 << 17, 1 << 17, checksums="count", sanity="off")
        self.enforcer = NativeEnforcer(worlds[0].inventory, options)
        self.host = Host(self.enforcer.engine)
        self.host.stage(fabric())
        self.worlds = worlds
        self.rows: list[Row] = []
        self.judged: set[int] = set()

    def feed(self, events: list[Event]) -> None:
        waiting: list[tuple[int, Packet]] = []
        number = 0
        for event in events:
            if isinstance(event, Commit):
                self.flush(waiting)
                self.enforcer.commit(self.worlds[event.number])
            else:
                assert isinstance(event, Packet)
                number += 1
                waiting.append((number, event))
        self.flush(waiting)

    def flush(self, waiting: list[tuple[int, Packet]]) -> None:
        """Verdicts of what waits; of fragments held from before, they name the packet by its place among all."""
        parts, rows, at = [], np.zeros(len(waiting), HOST_FRAME_DTYPE), 0
        for row, (_, packet) in zip(rows, waiting, strict=True):
            found = origin(packet.data)
            assert found is not None
            vnic, segment = found
            raw = packet.data
            if vnic == UPLINK:
                raw = bytes([0, 0, 0x65, 0x58, 0, 0x13, 0x89 + segment, 0]) + raw
                row["outer"]["addr"], row["outer"]["family"] = packed(TEP), 1
            row["at"], row["len"], row["vnic"], row["now_ns"] = at, len(raw), vnic, packet.ts_ns
            at += len(raw)
            parts.append(raw)
        first = waiting[0][0] if waiting else 0
        run = self.host.run(b"".join(parts), rows, 1)
        for r in run.records:
            number = first - 1 + int(np.int64(r["number"]))
            self.judged.add(number)
            rule = None if r["rule"] == NO_RULE else self.enforcer.rules[int(r["rule"])].path
            name = self.enforcer.filters[int(r["filter"])]
            words = VERDICTS[r["verdict"]], REASONS[r["reason"]], rule, CTS[r["ct"]], bool(r["reply"])
            self.rows.append((number, name, "OUT" if r["dir"] == 2 else "IN", *words))
        waiting.clear()


def live_run(events: list[Event], worlds: list[PolicySet]) -> LiveRun:
    run = LiveRun(worlds)
    run.feed(events)
    return run


@pytest.mark.parametrize("seed", [1, 9, 17])
def test_live_equals_replay(seed: int) -> None:
    scenario = Scenario(seed, vnics=True, width=96, commits=1500)
    worlds = [without_reject(world) for world in worlds_of(scenario)]
    events = [
        event
        for event in events_of(scenario, PACKETS)
        if not isinstance(event, Packet) or (origin(event.data) and event.wire == len(event.data))
    ]
    # Odd addresses never come to a filter of a live host, and what waits at the end has no verdict there: without them.
    judged, number, kept = live_run(events, worlds).judged, 0, []
    for event in events:
        number += isinstance(event, Packet)
        if not isinstance(event, Packet) or number in judged:
            kept.append(event)
    assert sum(isinstance(event, Packet) for event in kept) > 0.9 * number
    live = live_run(kept, worlds)
    assert "bad-address" not in live.host.stats().dropped
    expected, found = set(native_answers(kept, worlds, scenario).judgements), set(live.rows)
    assert expected == found, sorted(expected ^ found, key=lambda row: int(str(row[0])))[:6]
    assert len(found) > PACKETS // 3 and len({row[4] for row in found}) > 15
