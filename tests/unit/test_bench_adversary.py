# SPDX-License-Identifier: Apache-2.0
"""The search for the worst packets: its packets are what they say, it finds what is planted, and it can be repeated.
No times are asserted."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dfw.bench import bench
from dfw.bench.adversary import Candidate, Found, Search
from dfw.bench.attacks import GENES, MEANINGS
from dfw.core import REASONS
from dfw.layout import FAMILY_V4, FAMILY_V6


@pytest.fixture(scope="module")
def search() -> Search:
    return Search(connections=2000, rules=40, packets=512, seed=3)


def plain(kind: str, **genes: Any) -> dict[str, Any]:
    """The first value of every gene, but for those given."""
    return {name: values[0] for name, values in GENES[kind].items()} | genes


@pytest.mark.parametrize("family", [FAMILY_V4, FAMILY_V6])
@pytest.mark.parametrize("kind", list(GENES))
def test_benign_packets_are_of_their_kind(search: Search, kind: str, family: int) -> None:
    _, answers = search.arena(family).play(search.benign(kind, family), answers=True)
    assert answers is not None
    expected = {
        "hit": {"ALLOW state established"},
        "allowed": {"ALLOW match untracked"},
        "refused": {"DROP match new"},
        "setup": {"ALLOW match new"},
        "fragment": {"ALLOW match untracked", "held"},
    }
    assert set(answers.words()) <= expected[kind]
    assert "held" not in answers.words() or answers.words()["held"] < 3


@pytest.mark.parametrize("kind", list(GENES))
def test_every_gene_makes_packets_of_the_kind(search: Search, kind: str) -> None:
    """Each value of each gene alone, both families: judged as the kind says, one at a time as in bursts."""
    wanted = {REASONS.index(word) for word in MEANINGS[kind] if word in REASONS}
    for name, values in GENES[kind].items():
        for value, family in itertools.product(values, (FAMILY_V4, FAMILY_V6)):
            candidate = Candidate(kind, family, 11, plain(kind, **{name: value}))
            scenario, arena = search.scenario(candidate), search.arena(family)
            many, one = (arena.play(scenario, batch=batch, answers=True)[1] for batch in (32, 1))
            assert many is not None and one is not None
            assert np.array_equal(many.whole, one.whole), candidate
            held = many.verdict == 255
            others = set(many.reason[~held].tolist()) - wanted
            assert not others, (candidate, many.words())


@pytest.mark.parametrize(
    ("kind", "genes", "words"),
    [
        ("hit", {"sent": "old"}, {"ALLOW state established"}),
        ("hit", {"sent": "far"}, {"DROP tcp-window invalid"}),
        ("hit", {"sent": "future"}, {"DROP tcp-ack invalid"}),
        ("hit", {"sent": "reset-far"}, {"DROP tcp-rst invalid"}),
        ("hit", {"sent": "error"}, {"ALLOW related related"}),
        ("hit", {"sent": "child"}, {"ALLOW state established"}),
        ("refused", {"sent": "misfit"}, {"DROP match invalid"}),
        ("refused", {"sent": "reject"}, {"DROP reject-rate new"}),
        ("setup", {"sent": "reopen"}, {"ALLOW match new"}),
        ("fragment", {"pieces": 3, "payload": 64, "spoil": "overlap"}, {"DROP frag-overlap invalid"}),
    ],
)
def test_attacks_do_what_they_say(search: Search, kind: str, genes: dict[str, Any], words: set[str]) -> None:
    candidate = Candidate(kind, FAMILY_V4, 5, plain(kind, **genes))
    _, answers = search.arena(FAMILY_V4).play(search.scenario(candidate), answers=True)
    assert answers is not None
    assert words <= set(answers.words())


def test_due_connections_are_cleared_away_by_the_timed_packets(search: Search) -> None:
    arena = search.arena(FAMILY_V4)
    calm, due = (search.scenario(Candidate("hit", FAMILY_V4, 5, plain("hit", due=part))) for part in (0.0, 0.25))
    arena.play(calm)
    assert arena.engine.stats().connections4 == arena.connections
    arena.play(due)
    assert due.before is not None and len(due.before) == arena.connections // 4
    assert arena.engine.stats().connections4 < arena.connections + len(due.before)


def test_judging_again_leaves_the_next_scenario_as_it_was(search: Search) -> None:
    arena = search.arena(FAMILY_V4)
    again = search.scenario(Candidate("hit", FAMILY_V4, 5, plain("hit", judged_again=True)))
    calm = search.scenario(Candidate("hit", FAMILY_V4, 5, plain("hit")))
    before = arena.play(calm, answers=True)[1]
    arena.play(again)
    after = arena.play(calm, answers=True)[1]
    assert before is not None and after is not None and np.array_equal(before.whole, after.whole)


class Planted(Search):
    """A search whose times are made up: one combination of genes is far worse than all else."""

    def measure(self, candidate: Candidate, runs: int) -> Found | None:
        genes = candidate.genes
        steps = [genes["sent"] == "port", genes["due"] == 0.5, genes["tags"] == 2, genes["size"] == 512]
        ratio = 1.0 + sum(steps) + 40.0 * all(steps)
        return None if genes["order"] == "turn" else Found(candidate, ratio, 10 * ratio, 10.0)


def test_it_finds_what_is_planted() -> None:
    search = Planted(connections=2000, rules=40, packets=512, seed=9)
    tried = itertools.islice(search.candidates("hit"), 1500)
    assert max(found.ratio for _, found in tried if found) > 40


def test_the_same_seed_tries_the_same() -> None:
    first, second = (Planted(connections=2000, rules=40, packets=512, seed=4) for _ in range(2))
    for kind in ("hit",):
        a, b = (list(itertools.islice(search.candidates(kind), 50)) for search in (first, second))
        assert a == b


def test_the_verb(tmp_path: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    arguments = [
        "adversary",
        "--seconds",
        "0",
        "--connections",
        "2000",
        "--rules",
        "40",
        "--packets",
        "512",
        "--runs",
        "2",
        "-o",
        "json",
    ]
    done = CliRunner().invoke(bench, arguments, standalone_mode=False)
    assert done.return_value == 0, done.output
    result = json.loads(done.output)
    assert result["verified"] and set(result["kinds"]) == set(GENES)
    from dfw.schema import schema_files

    jsonschema.validate(result, json.loads(schema_files()["bench"].read_text(encoding="utf-8")))
