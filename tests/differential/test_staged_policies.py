# SPDX-License-Identifier: Apache-2.0
"""Staged policies on generated traffic: what is in force does not notice them, and both backends write the same bytes.

Random policies and staged ones beside them (tests/support/staged_draw.py).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw.model import Action, Policy, PolicySet, Rule, Tier
from dfw.replay_oracle import run_oracle
from dfw.replay_run import RunOptions, RunResult, run_native
from tests.support.agreement import events_of, worlds_of
from tests.support.capture_mutations import pcap_write
from tests.support.pcap import Captured
from tests.support.staged_draw import staged_draw
from tests.support.traffic import Packet, Scenario, scenario_draw

PACKETS = ("allowed", "dropped", "generated")
"""Files of packets, each with comments."""


def capture_of(scenario: Scenario, packets: int, path: Path) -> None:
    """The scenario's traffic as a capture file."""
    frames = [event for event in events_of(scenario, packets) if isinstance(event, Packet)]
    path.write_bytes(pcap_write([Captured(frame.ts_ns, frame.data, frame.wire, frame.link) for frame in frames]))


class Outputs:
    """One run's files and summary."""

    def __init__(self, backend: str, world: PolicySet, scenario: Scenario, folder: Path, **more: Any) -> None:
        self.folder = folder
        folder.mkdir()
        options = RunOptions(
            vnics=scenario.vnics,
            verify=scenario.verify,
            decap=scenario.decap,
            capacity=scenario.capacity or 1 << 16,
            verdicts=str(folder / "verdicts.jsonl"),
            flows=str(folder / "flows.jsonl"),
            log=str(folder / "log"),
            **{name: str(folder / name) for name in PACKETS},
            **more,
        )
        run = run_native if backend == "native" else run_oracle
        self.result: RunResult = run(world, [str(folder.parent / "traffic.pcap")], options)
        assert not self.result.failed

    def text(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def rows(self, name: str) -> Iterator[dict[str, Any]]:
        for line in self.text(name).splitlines():
            yield json.loads(line)


def enforced_only(rows: Iterator[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines without what staged policies add to them, and without the flows that are not there in force."""
    return [
        {name: value for name, value in row.items() if not name.startswith("staged")}
        for row in rows
        if row.get("state") != "REFUSED"
    ]


def check(seed: int, packets: int, folder: Path) -> Outputs:
    """Both backends on one scenario, with staged policies and without."""
    scenario = replace(scenario_draw(seed), stopped=False, begin_empty=False)
    world = staged_draw(random.Random(f"staged {seed}"), worlds_of(scenario))
    capture_of(scenario, packets, folder / "traffic.pcap")
    native, oracle = (Outputs(backend, world, scenario, folder / backend) for backend in ("native", "oracle"))
    plain = Outputs("native", replace(world, staged=()), scenario, folder / "plain")
    for name in ("verdicts.jsonl", "flows.jsonl", "log", *PACKETS):
        assert native.text(name) == oracle.text(name), name
    assert native.result.staged == oracle.result.staged
    for name in ("verdicts.jsonl", "flows.jsonl"):
        assert enforced_only(native.rows(name)) == list(plain.rows(name)), name
    assert native.text("log") == plain.text("log")
    for name in (
        "packets",
        "bytes",
        "verdicts",
        "reasons",
        "connections",
        "checksums",
        "rules",
        "odd_addresses",
        "generated",
    ):
        assert getattr(native.result, name) == getattr(plain.result, name), name
    assert (native.result.staged is not None) == bool(world.staged)
    if world.staged:  # a draw may have none
        check_sums(native)
    return native


def check_sums(run: Outputs) -> None:
    """The summary says of the lines what the lines say."""
    staged = run.result.staged
    assert staged is not None
    passes: dict[int, list[bool]] = {}
    for row in run.rows("verdicts.jsonl"):
        mine = row["verdict"] == "ALLOW"
        would = row["staged"] is not None and row["staged"]["verdict"] == "ALLOW"
        would &= all(item["verdict"] == "ALLOW" for item in row.get("staged_then", ()))
        before = passes.setdefault(row["n"], [True, True])
        passes[row["n"]] = [before[0] and mine, before[1] and would]
    assert staged["cut"]["packets"] == sum(mine and not would for mine, would in passes.values())
    assert staged["pass"]["packets"] == sum(would and not mine for mine, would in passes.values())
    for change in ("cut", "pass"):
        rows = [row for row in staged["rules"] if row["change"] == change]
        for name in ("flows", "packets", "bytes"):
            assert staged[change][name] == sum(row[name] for row in rows)
    cut = {
        (flow["src"], flow["sport"], flow["dst"], flow["dport"]) for flow in staged["flows"] if flow["change"] == "cut"
    }
    if staged["cut"]["flows"] < 10_000:
        would = [flow for flow in run.rows("flows.jsonl") if flow["staged_cut_packets"]]
        known = {(flow["src"], flow["sport"], flow["dst"], flow["dport"]) for flow in would}
        assert {ends for ends in cut if None not in ends} <= known
    flows = list(run.rows("flows.jsonl"))
    there = {(flow["file"], flow["vnic"], flow["src"], flow["sport"], flow["dst"], flow["dport"]) for flow in flows}
    for flow in staged["flows"]:
        if flow["change"] == "pass":
            ends = flow["file"], flow["vnic"], flow["src"], flow["sport"], flow["dst"], flow["dport"]
            # Fragments have no ports; what they are pieces of may belong to a connection, which has.
            between = {(flow["src"], flow["dst"])} if None in ends else set()
            assert ends in there or between & {(ends_of[2], ends_of[4]) for ends_of in there}, flow
    new = [flow for flow in flows if flow["state"] == "REFUSED"]
    assert flows[len(flows) - len(new) :] == new
    assert all(flow["dropped"] == flow["staged_pass_packets"] > 0 == flow["packets"] for flow in new)
    if staged["pass"]["flows"] + staged["cut"]["flows"] < 10_000:
        in_flows = sum(flow["packets"] for flow in staged["flows"] if flow["change"] == "pass")
        assert sum(flow["staged_pass_packets"] for flow in flows) <= in_flows


@pytest.mark.parametrize("seed", [1, 3, 4, 6, 7])
def test_staged_policies_on_generated_traffic(seed: int, tmp_path: Path) -> None:
    found = check(seed, 600, tmp_path).result.staged
    assert found is not None
    assert found["cut"]["packets"] + found["pass"]["packets"] > 0


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 160))
def test_staged_policies_on_much_traffic(seed: int, tmp_path: Path) -> None:
    check(seed, 20_000, tmp_path)


@pytest.mark.parametrize("seed", [1, 4])
def test_batches_and_workers_change_nothing(seed: int, tmp_path: Path) -> None:
    calm = Scenario(seed, vnics=seed == 1, decap=seed == 4, calm=True, width=48)
    world = staged_draw(random.Random(f"batches {seed}"), worlds_of(calm))
    capture_of(calm, 4_000, tmp_path / "traffic.pcap")
    first = Outputs("native", world, calm, tmp_path / "first", batch=1)
    for batch, workers in ((7, 1), (256, 1), (32, 2), (5, 3)):
        other = Outputs("native", world, calm, tmp_path / f"{batch}-{workers}", batch=batch, workers=workers)
        for name in ("verdicts.jsonl", "flows.jsonl"):
            assert other.text(name) == first.text(name), (batch, workers, name)
        assert other.result.staged == first.result.staged
    assert first.result.staged is not None
    assert first.result.staged["cut"]["packets"] + first.result.staged["pass"]["packets"] > 20


@pytest.mark.parametrize("capacity", [24, 120])
def test_full_tables_of_one_world_are_nothing_to_the_other(capacity: int, tmp_path: Path) -> None:
    """The staged rules let everything pass, so that their table is full all the time."""
    scenario = replace(scenario_draw(7), capacity=capacity)
    world = worlds_of(scenario)[1]
    everything = Rule("all/rules/all", "all", 99_999, Action.ALLOW)
    allow = Policy("all", Tier.EMERGENCY, 0, name="all", rules=(everything,), tcp_strict=False, staged=True)
    capture_of(scenario, 6_000, tmp_path / "traffic.pcap")
    runs = [
        Outputs("native", item, scenario, tmp_path / name)
        for name, item in (("staged", replace(world, staged=(allow,))), ("plain", world))
    ]
    for name in ("verdicts.jsonl", "flows.jsonl"):
        assert enforced_only(runs[0].rows(name)) == list(runs[1].rows(name))
    assert runs[0].result.staged is not None
    assert runs[0].result.staged["pass"]["packets"] > 20
    assert any(row["staged"] and row["staged"]["reason"] == "ct-full" for row in runs[0].rows("verdicts.jsonl"))
