# SPDX-License-Identifier: Apache-2.0
"""What the two hosts of a migration are told on the way: where the pod is at each step, to whom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dfw.layout_live import NO_INDEX, UPLINK
from dfw.load import load
from overlay.fabric import render_fabric
from overlay.hoststate import HostState, StateError, TepState, state_decode, state_encode
from overlay.lab_migrate import plan_arriving, plan_leaving
from overlay.span import resolve_span

INVENTORY = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: h1, tep: 172.16.0.1}, {name: h2, tep: 172.16.0.2}]
segments: [{name: s, vni: 5001, subnets: [10.0.1.0/24]}]
ports:
  - {name: mover, host: HOST, segment: s, ips: [10.0.1.10], mac: "02:00:00:00:00:0a"}
  - {name: stays, host: h2, segment: s, ips: [10.0.1.11], mac: "02:00:00:00:00:0b"}
"""
MAC = bytes.fromhex("02000000000a")


def states(tmp_path: Path, host: str) -> dict[str, HostState]:
    """What both are told when the mover is on this host."""
    file = tmp_path / "i.yaml"
    file.write_text(INVENTORY.replace("HOST", host))
    return resolve_span(load([str(file)]).world, 7, {"mover": "/ns/mover", "stays": "/ns/stays"})


def where(state: HostState) -> tuple[int, str | None]:
    """The mover's filter number, or UPLINK and the TEP behind which it is, as the packet core is told."""
    fabric = render_fabric(state, {vnic.name: number for number, vnic in enumerate(state.vnics)})
    row = next(row for row in fabric.neighbours if row["mac"].tobytes() == MAC)
    tep = None if row["tep"] == NO_INDEX else state.teps[int(row["tep"])].ip
    vnics = {int(number) for number in fabric.vnics["filter"]}
    assert (int(row["vnic"]) == UPLINK) != (int(row["vnic"]) in vnics)
    assert np.all(fabric.replicas < len(state.teps))
    return int(row["vnic"]), tep


def test_arriving_it_has_rules_and_is_still_behind_its_source(tmp_path: Path) -> None:
    after = states(tmp_path, "h2")["h2"]
    assert after.teps == () and where(after)[0] != UPLINK
    arriving = plan_arriving(after, "mover", TepState("h1", "172.16.0.1"))
    assert where(arriving) == (UPLINK, "172.16.0.1")
    mover = next(vnic for vnic in arriving.vnics if vnic.name == "mover")
    assert mover.netns is None and arriving.tables[mover.table] == after.tables[after.vnics[0].table]
    assert arriving.segments[0].replicas == (0,)
    assert state_decode(state_encode(arriving)) == arriving


def test_leaving_it_is_behind_its_target_on_a_host_with_nobody_else(tmp_path: Path) -> None:
    before = states(tmp_path, "h1")["h1"]
    leaving = plan_leaving(before, "mover", TepState("h2", "172.16.0.2"))
    assert leaving.vnics == () and [segment.vni for segment in leaving.segments] == [5001]
    assert where(leaving) == (UPLINK, "172.16.0.2")
    assert leaving.teps == before.teps  # known already: the other pod is there
    assert state_decode(state_encode(leaving)) == leaving


def test_a_tep_that_is_not_there_is_refused(tmp_path: Path) -> None:
    arriving = plan_arriving(states(tmp_path, "h2")["h2"], "mover", TepState("h1", "172.16.0.1"))
    data = state_encode(arriving).replace(b'"arriving":0', b'"arriving":1')
    with pytest.raises(StateError, match="the TEP from which vNIC mover comes is 1, of 1"):
        state_decode(data)
