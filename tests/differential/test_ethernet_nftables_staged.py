# SPDX-License-Identifier: Apache-2.0
"""Staged layer-2 rules by this machine's kernel and by the packet core, frame by frame: what would become of each, at
a tap and at vNICs, and that nothing in force is another one by it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfw.model import Policy, PolicySet, Tier
from dfw.replay_nftables import run_nftables
from dfw.replay_run import run_native
from tests.conftest import LONG
from tests.differential.test_ethernet_nftables import (
    FRAMES,
    pytestmark,  # noqa: F401 (the marks of all tests here)
    random_frame,
    random_world,
    said,
)

Rows = Sequence[dict[str, Any]]


def staged_policy(world: PolicySet, path: str, draw: random.Random) -> Policy:
    """The policy of this path as it would be; sometimes it would be gone."""
    (found,) = (policy for policy in world.policies if policy.path == path)
    rules = tuple(replace(rule, number=5000 + at) for at, rule in enumerate(found.rules))
    return replace(found, rules=() if draw.random() < 0.15 else rules, staged=True)


def staged_world(draw: random.Random) -> PolicySet:
    """Layer-2 rules in force, staged, or both; sometimes layer 3 would be another one too."""
    world, other = random_world(draw), random_world(draw)
    paths = ["/l2", "/p"] if draw.random() < 0.3 else ["/l2"]
    staged = tuple(staged_policy(other, path, draw) for path in paths)
    kept = [policy for policy in world.policies if policy.tier is not Tier.ETHERNET or draw.random() < 0.7]
    return replace(world, policies=tuple(kept), staged=staged)


@pytest.mark.parametrize("vnics", [False, True], ids=["tap", "vnics"])
def test_kernel_and_core_say_the_same_of_what_would_become_of_frames(
    vnics: bool, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seen: Counter[str] = Counter()
    for seed in range(200 if LONG else 5):
        draw = random.Random(f"staged frames {seed}")
        world = staged_world(draw)
        frames = [frame for _ in range(FRAMES) for frame in random_frame(draw)]
        ours, theirs = (said(run, world, frames, tmp_path, vnics) for run in (run_native, run_nftables))
        alone = said(run_nftables, replace(world, staged=()), frames, tmp_path, vnics)
        assert ours.keys() == theirs.keys()
        for n, native in ours.items():
            assert list(map(in_force, theirs[n])) == list(map(in_force, alone[n])), (seed, n)
            seen.update(compared((seed, n, frames[n - 1].hex(), native, theirs[n])))
    for name, count in seen.items():
        record_property(name, count)
    assert seen["same"] > 200 and seen["cut"] > 20 and seen["layer 2"] > 40
    assert seen["passed"] > 3 and seen["not asked"] > 3


def in_force(line: dict[str, Any]) -> dict[str, Any]:
    """A line without what it says of staged policies; whether a REJECT is within its budgets is a matter of time."""
    found = {name: value for name, value in line.items() if not name.startswith("staged")}
    return found | {"verdict": "REJECT", "reason": "match"} if found["reason"] == "reject-rate" else found


def would(lines: Rows) -> list[dict[str, Any]]:
    """What staged rules say of a frame at each filter to which it comes in their world, in their order."""
    found = [{**line["staged"], "vnic": line["vnic"], "dir": line["dir"]} for line in lines if line["staged"]]
    return sorted(
        (*found, *(item for line in lines for item in line.get("staged_then", ()))),
        key=lambda item: (item["dir"] == "IN", item["vnic"]),
    )


def dropped(said: Rows) -> set[tuple[str, str, str]]:
    """Where staged layer-2 rules drop the frame, by which."""
    return {
        (item["vnic"], item["dir"], item["rule_path"])
        for item in said
        if item["verdict"] == "DROP" and (item["rule_path"] or "").startswith("/l2")
    }


def compared(where: tuple[int, int, str, Rows, Rows]) -> Counter[str]:
    """What would become of a frame, if both say the same."""
    *_, native, kernel = where
    if kernel[0]["verdict"] is None:
        return Counter(("not judged",))
    ours, theirs = would(native), would(kernel)
    found: Counter[str] = Counter()
    found["layer 2"] += bool(dropped(theirs))
    if any(item["reason"] == "not-judged" for item in theirs):
        # Refused in force at layer 2, so that layer 3 was not asked; IP for many comes to one end only.
        assert kernel[0]["verdict"] == "DROP" and kernel[0]["rule_path"].startswith("/l2"), where
        outs = [{item for item in dropped(some) if item[1] != "IN"} for some in (ours, theirs)]
        assert outs[0] == outs[1], where
        found["not asked"] += 1
        return found
    shown = [[(item["vnic"], item["dir"], item["verdict"] == "ALLOW") for item in some] for some in (ours, theirs)]
    assert shown[0] == shown[1], where
    now, then = (all(item["verdict"] == "ALLOW" for item in some) for some in (kernel, theirs))
    found["same"] += 1
    found["cut"] += now and not then
    found["passed"] += then and not now
    return found
