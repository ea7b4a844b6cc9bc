# SPDX-License-Identifier: Apache-2.0
"""With nine packets of ten from an attacker, established connections lose nothing. No times are asserted."""

from __future__ import annotations

import numpy as np
import pytest

from dfw.bench.arena import Arena
from dfw.bench.floods import FLOOD_SHARE, FLOODS, flood_scenario
from dfw.bench.rulegen import rules_generate
from dfw.classbench import rule_table
from dfw.core import REASONS, VERDICTS
from dfw.layout import FAMILY_V4, FAMILY_V6

PACKETS = 20_000
CONNECTIONS = 2000


@pytest.fixture(scope="module", params=[FAMILY_V4, FAMILY_V6])
def arena(request: pytest.FixtureRequest) -> Arena:
    family: int = request.param
    return Arena(family, CONNECTIONS, rule_table(rules_generate("acl", 40, 2, family)), 2)


@pytest.mark.parametrize("flood", [*FLOODS, "all"])
def test_established_connections_lose_nothing(arena: Arena, flood: str) -> None:
    scenario, wanted = flood_scenario(arena, flood, PACKETS, 3)
    assert len(scenario.timed) == PACKETS and wanted.sum() == PACKETS - int(PACKETS * FLOOD_SHARE)
    _, answers = arena.play(scenario, answers=True)
    assert answers is not None
    passed = (answers.verdict == VERDICTS.index("ALLOW")) & (answers.reason == REASONS.index("state"))
    assert passed[wanted].all(), answers.words()
    assert arena.established(int(scenario.timed.clock[-1])) == CONNECTIONS


def test_the_floods_really_flood(arena: Arena) -> None:
    """The table is full after SYNs, fragments reach their limits, misses are refused, forged segments too."""
    words = {}
    for flood in FLOODS:
        scenario, _ = flood_scenario(arena, flood, PACKETS, 3)
        _, answers = arena.play(scenario, answers=True)
        assert answers is not None
        words[flood] = answers.words()
        if flood == "syn":
            stats = arena.engine.stats()
            assert stats.connections4 + stats.connections6 == arena.capacity
            assert stats.created > 2 * arena.capacity
    assert words["fragment"]["DROP frag-limit invalid"] > PACKETS // 2
    assert words["miss"]["DROP match new"] > PACKETS // 2
    assert words["forged"]["DROP tcp-window invalid"] == int(PACKETS * FLOOD_SHARE)


def test_lost_packets_would_be_seen(arena: Arena) -> None:
    """The test's own test: a scenario after which one connection is gone."""
    from dfw.bench.arena import BEGUN, SECOND, STATEFUL, Scenario
    from dfw.bench.frames import ACK, RST

    arena.play(Scenario(None, arena.segments(np.array([7]), False, RST | ACK).at(clock=BEGUN, filter_number=STATEFUL)))
    assert arena.established(BEGUN + 30 * SECOND) == CONNECTIONS - 1
