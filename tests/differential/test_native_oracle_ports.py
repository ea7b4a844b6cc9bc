# SPDX-License-Identifier: Apache-2.0
"""The packet core against the oracle where ports differ by more than their rules: timers of their own, no firewall."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw.model import FloodBinding, FloodLimits, Peers, PolicySet, PortMember, TimerBinding, Timers
from tests.support.traffic import Traffic, scenario_draw
from tests.support.traffic_policies import policies_load
from tests.support.twins import explain_difference, find_difference, native_answers, oracle_answers

PACKETS = 4_000
HASTY = Timers(120, 10, 120, 11, 10, 10, 12, 10, 11, 10, 10)
SEEDS = [seed for seed in range(40) if scenario_draw(seed).vnics and not scenario_draw(seed).stopped][:4]


def with_ports(world: PolicySet, number: int) -> PolicySet:
    """The policy with db-1 on the exclusion list, or (every other one) web-2, and hasty timers at web-1."""
    excluded = Peers((PortMember(("db-1", "web-2")[number % 2]),))
    binding = TimerBinding("/b", 0, Peers((PortMember("web-1"),)), HASTY)
    flood = FloodBinding("/f", 0, Peers((PortMember("app-1"),)), FloodLimits(3, 3, 2, 1))
    return replace(world, excluded=excluded, timer_bindings=(binding,), flood_bindings=(flood,))


@pytest.mark.parametrize("seed", SEEDS)
def test_engines_agree(seed: int) -> None:
    scenario = scenario_draw(seed)
    with tempfile.TemporaryDirectory() as folder:
        plain = policies_load(Path(folder), short_timers=scenario.short_timers, no_default=scenario.no_default)
    worlds = [with_ports(world, number) for number, world in enumerate(plain)]
    events = [event for batch in Traffic(scenario).batches(PACKETS, 1024) for event in batch]
    oracle, native = (answers(events, worlds, scenario) for answers in (oracle_answers, native_answers))
    assert find_difference(oracle, native) is None, explain_difference(events, worlds, scenario)
    paths = {str(row) for row in native.judgements if "system/exclude-list" in str(row)}
    assert paths, "no packet met an excluded port"
    without = native_answers(events, [replace(world, timer_bindings=()) for world in worlds], scenario)
    assert find_difference(native, without) is not None, "the bound timers made no difference"
    refused = {row[1] for row in native.judgements if row[4] == "flood-limit"}
    assert refused == {"app-1"}, "flood protection where it is bound, and nowhere else"
