# SPDX-License-Identifier: Apache-2.0
"""Differences of policies: the sets of packets are what judging each packet by both gives; each has its sample."""

from __future__ import annotations

import os
from random import Random

import numpy as np

from dfw.model import Family
from dfw.packetdiff import policies_compare, policies_differ
from tests.support.small_changes import changed_world, expected_changes, packets_of
from tests.support.small_policies import Small, packet_index, small_world

PAIRS, PAIRS_LONG = 120, 20_000
LONG = bool(os.environ.get("PALISADE_LONG"))


def check(seed: int) -> int:
    """One pair of policies. Returns how many changes it has."""
    random = Random(seed)
    old, shape = small_world(random)
    new = changed_world(random, old, shape)
    while seed % 5 == 0:
        new, other = small_world(random)
        if other == shape:
            break
    expected = expected_changes(Small(old, shape), Small(new, shape))
    compared = policies_compare(old, new)
    assert compared.complete
    found = {kind: np.zeros_like(packets, dtype=np.int16) for kind, packets in expected.items()}
    changes = [change for change in compared.changes if change.space.family is Family.IPV4]
    assert old.excluded != new.excluded or changes == compared.changes
    for change in changes:
        packets = packets_of(change, compared.vnics, shape)
        assert len(change.samples) == len(change.boxes)
        for sample in change.samples:
            assert packets[packet_index(sample, shape)], f"seed {seed}: {sample}"
        found[change.kind] += packets
    for kind, packets in expected.items():
        assert found[kind].max(initial=0) <= 1, f"seed {seed}: sets of {kind} overlap"
        assert np.array_equal(found[kind] > 0, packets), f"seed {seed}: {kind}"
    sample = policies_differ(old, new)
    assert (sample is None) is (not compared.changes), f"seed {seed}"
    return len(compared.changes)


def test_sets_equal_brute_force() -> None:
    changes = [check(seed) for seed in range(PAIRS_LONG if LONG else PAIRS)]
    assert PAIRS // 4 < sum(count > 0 for count in changes) < len(changes)
