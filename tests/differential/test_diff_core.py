# SPDX-License-Identifier: Apache-2.0
"""Differences of policies at full width: the packet core judges otherwise what is in the sets, and nothing else."""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random

import numpy as np
import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw.compile import compile_policy
from dfw.diff_run import diff_worlds
from dfw.judge_batch import BatchJudge
from dfw.model import Action, Direction, Family, PolicySet
from dfw.packetdiff import Comparison, policies_compare
from tests.support.core_judge import corner_keys, random_keys
from tests.support.kube import loaded
from tests.support.random_clusters import cluster, policies

LONG = bool(os.environ.get("PALISADE_LONG"))
PAIRS = 200 if LONG else 6
PACKETS, LOOKED_AT = 10_000, 60


def edited(random: Random, world: PolicySet) -> PolicySet:
    """A rule gone, turned round, or moved into another policy's place; or a policy with another number."""
    places = [number for number, policy in enumerate(world.policies) if policy.rules]
    if not places:
        return world
    at = random.choice(places)
    policy = world.policies[at]
    place = random.randrange(len(policy.rules))
    rule = policy.rules[place]
    others = (*policy.rules[:place], *policy.rules[place + 1 :])
    turned = {Action.ALLOW: Action.DROP}.get(rule.action, Action.ALLOW)
    edits = (
        replace(policy, rules=others),
        replace(policy, rules=(*policy.rules[:place], replace(rule, action=turned), *policy.rules[place + 1 :])),
        replace(policy, rules=(rule, *others)),
        replace(policy, tcp_strict=not policy.tcp_strict),
    )
    return replace(world, policies=(*world.policies[:at], random.choice(edits), *world.policies[at + 1 :]))


def has(compared: Comparison, vnic: str, key: np.void) -> bool:
    """Is a packet in one of the sets?"""
    family = Family(int(key["family"]))
    size = family.bits // 8
    number = compared.vnics.index(vnic)
    source, destination = (int.from_bytes(bytes(key[name][:size]), "big") for name in ("src", "dst"))
    for change in compared.changes:
        space = change.space
        if space.family is not family:
            continue
        protocol, sport, dport = int(key["proto"]), int(key["sport"]), int(key["dport"])
        if protocol == space.services.icmp:
            sport, dport = dport >> 8, dport & 255
        for box in change.boxes:
            if not space.vnics.has(box.vnics, number, Direction(int(key["dir"]))):
                continue
            if not space.sources.has(box.sources, source) or not space.destinations.has(box.destinations, destination):
                continue
            for item in space.services.header_in(box.services):
                rest = item.protocol in space.services.other_protocols and protocol in space.services.other_protocols
                if item.protocol != protocol and not rest:
                    continue
                ranges = ((item.sources, sport), (item.destinations, dport))
                if (not item.flags or int(key["tcp_flags"]) in item.flags) and all(
                    not some or any(one.contains(value) for one in some) for some, value in ranges
                ):
                    return True
    return False


def check(seed: int) -> int:
    """One pair of policies of all kinds. Returns how many packets were found to be judged otherwise."""
    random = Random(seed)
    old = loaded(*cluster(random), *policies(random)).world
    new = old
    for _ in range(4):
        new = edited(random, new)
    diff_worlds(old, new, tap=False)  # every sample by the core
    compared = policies_compare(old, new)
    assert compared.complete
    sides = [compile_policy(world) for world in (old, new)]
    count = 0
    for vnic in random.sample(compared.vnics, 3):
        judges = [BatchJudge(side, vnic) for side in sides]
        for family in Family:
            corners = corner_keys(old, family, random, PACKETS // 4)
            keys = np.concatenate([corners, random_keys(corners, random, PACKETS)])
            differs = judges[0].outcomes(keys) != judges[1].outcomes(keys)
            for is_changed in (True, False):
                places = np.flatnonzero(differs == is_changed)
                for at in random.sample(places.tolist(), min(LOOKED_AT, len(places))):
                    assert has(compared, vnic, keys[at]) is is_changed, f"seed {seed}: {vnic} {keys[at]}"
            count += int(differs.sum())
    return count


def test_the_core_judges_otherwise_what_is_in_the_sets() -> None:
    assert sum(check(seed) > 0 for seed in range(PAIRS)) >= PAIRS // 3
