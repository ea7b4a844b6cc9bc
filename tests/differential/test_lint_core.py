# SPDX-License-Identifier: Apache-2.0
"""What lint says of rules at full width, confirmed by the packet core: witnesses, and policies without the rule."""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random

import numpy as np
import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw.judge_batch import BatchJudge
from dfw.model import Family, Place, PolicyKind, PolicySet, rules_for_tap
from dfw.packetexample import Examples
from dfw.packetrules import RuleReader
from dfw.rulelint import RuleFinding, rules_judge
from tests.support.core_judge import core_judge, corner_keys, key_of, only_rule, random_keys, without_rule
from tests.support.kube import loaded
from tests.support.random_clusters import cluster, policies

LONG = bool(os.environ.get("PALISADE_LONG"))
WORLDS = 300 if LONG else 6
RANDOM_PACKETS = 100_000
CORNERS = 100_000 if LONG else 2000


def confirm_witness(world: PolicySet, found: RuleFinding) -> None:
    """The rule by itself matches it; in its policy the rules named decide about it, or the rule does."""
    witness = found.witness
    assert witness is not None and not witness.source_in and not witness.destination_in
    key, path = key_of(witness), found.item.rule.path
    alone = core_judge(only_rule(world, path), witness.vnic)
    rule = found.item.rule
    if rule.action.is_final:
        assert path_of(alone, key) == path
    whole = core_judge(world, witness.vnic)
    decider = path_of(whole, key)
    named = {item.rule.path for item in found.by}
    leaves = any(not item.rule.action.is_final for item in (found.item, *found.by))
    if found.kind == "redundant" and decider == path:
        after = core_judge(without_rule(world, path), witness.vnic)
        assert np.array_equal(after.outcomes(key), whole.outcomes(key))
    elif found.kind != "contradicting" and not leaves:
        assert decider in named


def path_of(judge: BatchJudge, key: np.ndarray) -> str | None:
    """The rule that decides."""
    rule = judge.rule_of(int(judge.entry_of(key)[0]))
    return None if rule is None else rule.path


def matches(judge: BatchJudge, keys: np.ndarray, path: str) -> np.ndarray:
    """Which packets a rule decides about."""
    entries, inverse = np.unique(judge.entry_of(keys), return_inverse=True)
    rules = [judge.rule_of(int(entry)) for entry in entries]
    return np.array([rule is not None and rule.path == path for rule in rules])[inverse]


def confirm_absence(world: PolicySet, found: RuleFinding, random: Random) -> int:
    """Without the rule every packet is judged the same, at every vNIC. Returns how many were."""
    less = without_rule(world, found.item.rule.path)
    count = 0
    judges = {}
    for port in world.inventory:
        before = core_judge(world, port.name)
        judges.setdefault(before.compiled.table_of[port.name], (before, core_judge(less, port.name)))
    for family in Family:
        corners = corner_keys(world, family, random, CORNERS)
        keys = np.concatenate([corners, random_keys(corners, random, RANDOM_PACKETS // 2)])
        for before, after in judges.values():
            assert np.array_equal(before.outcomes(keys), after.outcomes(keys)), found
            count += len(keys)
    return count


def check(seed: int) -> dict[str, int]:
    """One world of all kinds of policies."""
    random = Random(seed)
    world = loaded(*cluster(random), *policies(random)).world
    if random.random() < 0.5:
        world = replace(world, default=replace(world.default, place=Place("f", 1, 1)))
    judged = rules_judge(RuleReader(world, known=True))
    counts = {"shadowed": 0, "redundant": 0, "unreachable": 0, "contradicting": 0, "packets": 0}
    for found in judged.findings:
        counts[found.kind] += 1
        if found.witness is not None:
            confirm_witness(world, found)
    removable = [found for found in judged.findings if found.kind != "contradicting"]
    for found in removable if LONG else random.sample(removable, min(2, len(removable))):
        counts["packets"] += confirm_absence(world, found, random)
    return counts


def test_the_core_confirms_every_finding() -> None:
    totals: dict[str, int] = {}
    for seed in range(WORLDS):
        for name, count in check(seed).items():
            totals[name] = totals.get(name, 0) + count
    assert totals["packets"] >= RANDOM_PACKETS
    assert min(totals[name] for name in ("shadowed", "redundant")) >= 2, totals


def test_the_core_confirms_packets_that_two_rules_match() -> None:
    """Of any two rules: the packet that shows both, or that no packet is matched by both."""
    met = 0
    for seed in range(WORLDS):
        random = Random(seed)
        world = loaded(*cluster(random), *policies(random)).world
        examples = Examples(RuleReader(world, known=True), left=1000)
        keys = {family: random_keys(corner_keys(world, family, random, 500), random, 2000) for family in Family}
        every = [item for item in rules_for_tap(world) if item.policy.kind is not PolicyKind.DEFAULT]
        rules = [item for item in every if item.rule.action.is_final]
        pairs = [tuple(random.sample(rules, 2)) for _ in range(8 if len(rules) > 1 else 0)]
        for pair in pairs:
            alone = [only_rule(world, item.rule.path) for item in pair]
            witness = examples.of_both(*([item] for item in pair))
            if witness is not None:
                met += 1
                found = [path_of(core_judge(one, witness.vnic), key_of(witness)) for one in alone]
                assert found == [item.rule.path for item in pair]
                continue
            for port in random.sample(list(world.inventory), 2):
                judges = [core_judge(one, port.name) for one in alone]
                for some in keys.values():
                    matched = [matches(judge, some, item.rule.path) for judge, item in zip(judges, pair, strict=True)]
                    assert not np.any(matched[0] & matched[1])
    assert met >= WORLDS
