# SPDX-License-Identifier: Apache-2.0
"""`bench attack`: nine packets of ten belong to a flood, the tenth to an established connection and may not be lost.

Floods are what an outsider can send without knowing anything: SYNs from everywhere, fragments that never become whole,
packets that the rules refuse, and all of them together. Connections stay below the table's capacity only as far as the
flood leaves them room: the table is filled to the brim, so that half-open connections go and established ones stay.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from dfw.bench.arena import BEGUN, DROP, SECOND, STATEFUL, STATELESS, Arena, Scenario
from dfw.bench.attack_fragments import fragments
from dfw.bench.attack_hits import hits
from dfw.bench.attack_misses import opening
from dfw.bench.frames import ACK, Frames, frames_join
from dfw.bench.hostile_rules import headers_draw
from dfw.bench.machine import render_runs
from dfw.bench.rulegen import rules_generate
from dfw.classbench import rule_table
from dfw.core import REASONS, VERDICTS
from dfw.layout import FAMILY_V4, FAMILY_V6

FLOOD_SHARE: Final = 0.9
_LASTING: Final = 10 * SECOND  # so long the flood goes on, by the packets' clock


def _syns(arena: Arena, count: int, seed: int) -> Frames:
    keys = headers_draw(arena.benign, {"headers": "uniform"}, count, arena.family, seed)
    return opening(arena, keys, {}, "syn").at(filter_number=STATEFUL)


def _misses(arena: Arena, count: int, seed: int) -> Frames:
    keys = headers_draw(arena.benign, {"headers": "uniform"}, count, arena.family, seed)
    return opening(arena, keys, {}, "both").at(filter_number=DROP)


def _fragments(arena: Arena, count: int, seed: int) -> Frames:
    genes = {"pieces": 2, "payload": 256, "order": "reverse", "spoil": "no-end", "sources": 4096}
    return fragments(arena, genes, count, np.random.default_rng(seed)).timed.at(filter_number=STATELESS)


def _forged(arena: Arena, count: int, seed: int) -> Frames:
    """Segments for the established connections themselves, outside of their windows."""
    genes = {"sent": "far", "order": "random", "tcp_options": "none", "judged_again": False}
    return hits(arena, genes, count, np.random.default_rng(seed)).timed


FLOODS: Final[Mapping[str, Callable[[Arena, int, int], Frames]]] = {
    "syn": _syns,
    "fragment": _fragments,
    "miss": _misses,
    "forged": _forged,
}
"""What floods there are: frames of each, by arena, number and seed."""


def flood_scenario(arena: Arena, flood: str, count: int, seed: int) -> tuple[Scenario, np.ndarray]:
    """`count` packets over ten seconds, FLOOD_SHARE of them the flood's (`all`: of all floods); and which are not."""
    rng = np.random.default_rng([seed, count])
    share = int(count * FLOOD_SHARE)
    names = list(FLOODS) if flood == "all" else [flood]
    parts = [FLOODS[name](arena, share // len(names), seed + i) for i, name in enumerate(names)]
    hostile = frames_join(parts).take(rng.permutation(sum(len(part) for part in parts)))
    good = count - len(hostile)
    back = rng.random(good) < 0.5
    established = arena.segments(rng.integers(0, arena.connections, good), back, ACK).at(filter_number=STATEFUL)
    wanted = np.zeros(count, bool)
    wanted[rng.choice(count, good, replace=False)] = True
    order = np.empty(count, np.int64)
    order[wanted], order[~wanted] = np.arange(good), good + np.arange(len(hostile))
    clock = BEGUN + np.arange(count) * (_LASTING // count)
    return Scenario(None, frames_join([established, hostile]).take(order).at(clock=clock)), wanted


def bench_attack(connections: int, rules: int, packets: int, seed: int, runs: int) -> dict[str, Any]:
    """Each flood at both families: what became of the established connections' packets, and how many packets a second
    the core judged. `verified`: none of them was refused, and no established connection was ended. Raises CoreError."""
    floods: dict[str, Any] = {}
    verified = True
    worst: list[float] = []
    for family in (FAMILY_V4, FAMILY_V6):
        arena = Arena(family, connections, rule_table(rules_generate("acl", rules, seed, family)), seed)
        for flood in (*FLOODS, "all"):
            scenario, wanted = flood_scenario(arena, flood, packets, seed)
            _, answers = arena.play(scenario, answers=True)
            assert answers is not None
            passed = (answers.verdict == VERDICTS.index("ALLOW")) & (answers.reason == REASONS.index("state"))
            lost = int((wanted & ~passed).sum())
            left = arena.established(int(scenario.timed.clock[-1]))
            spent = [arena.play(scenario)[0] for _ in range(runs)]
            verified = verified and lost == 0 and left == connections
            worst = spent if not worst or statistics.median(spent) > statistics.median(worst) else worst
            floods[f"{flood}/v{4 if family == FAMILY_V4 else 6}"] = {
                "packets": packets,
                "established_packets": int(wanted.sum()),
                "established_packets_lost": lost,
                "established_connections_lost": connections - left,
                "ns_per_packet": round(statistics.median(spent), 2),
                "mpps": round(1000 / statistics.median(spent), 6),
                "verdicts": answers.words(),
            }
    return render_runs(
        f"attack/{connections}/{rules}rules/v1",
        worst,
        verified,
        flood_share=FLOOD_SHARE,
        connections=connections,
        rules=rules,
        seed=seed,
        floods=floods,
    )
