# SPDX-License-Identifier: Apache-2.0
"""The packet core and this machine's kernel, both with the same staged policies: what these would let pass of each
packet, and where the two differ.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any, Final

from dfw.model import PolicySet
from dfw.replay_nftables import run_nftables
from dfw.replay_run import run_native
from tests.support.kernel_agreement import (
    LAYER_2,
    Difference,
    Seen,
    begins_nothing,
    conversation_of,
    difference_name,
    engine_lines,
    line_shown,
    packets_seen,
    world_draw,
)
from tests.support.staged_draw import staged_draw

REFUSED_IN_FORCE: Final = "refused in force"
"""An earlier packet of the conversation was: then the kernel has no connection, and the staged rules are asked anew."""

NOT_ASKED: Final = "layer 2 in force"
"""It refuses the packet itself, which never comes to where staged rules of layer 3 are asked."""


@dataclass(frozen=True, slots=True)
class StagedComparison:
    """Packets that both judged: `cut`, `passed` are those that would be cut, and newly pass, by both; `same` all those
    of which both say the same; `layer2`: of these, those that staged rules for frames would drop. `altered`: lines of
    the kernel's that say something else where nothing is staged."""

    same: int
    cut: int
    passed: int
    differences: tuple[Difference, ...]
    altered: tuple[str, ...]
    layer2: int = 0


def staged_world(seed: int, captures: Sequence[Path], *, vnics: bool, layer2: bool = False) -> PolicySet:
    """A drawn policy, and staged ones beside it; `layer2`: both with rules for frames."""
    worlds = [world_draw(seed * 3 + at, captures, vnics=vnics, layer2=layer2) for at in range(3)]
    same = [replace(item, inventory=worlds[0].inventory) for item in worlds]
    random = Random(f"staged kernel {seed}")
    found = next(world for world in iter(lambda: staged_draw(random, same), None) if world.staged)
    if not layer2 or random.random() < 0.3:
        return found  # as it is, or less of what is in force
    (frames,) = (policy for policy in worlds[1].policies if policy.path == LAYER_2)
    numbered = tuple(replace(rule, number=70_000 + at) for at, rule in enumerate(frames.rules))
    others = (policy for policy in found.staged if policy.path != LAYER_2)
    return replace(found, staged=(*others, replace(frames, rules=numbered, staged=True)))


def staged_compare(world: PolicySet, captures: Sequence[Path], *, vnics: bool) -> StagedComparison:
    """Both engines on these captures, with the staged policies; the kernel also without."""
    paths = [str(path) for path in captures]
    native, kernel = (engine_lines(run, world, paths, vnics) for run in (run_native, run_nftables))
    plain = engine_lines(run_nftables, replace(world, staged=()), paths, vnics)
    altered = [
        f"{file} {n}"
        for (file, n), lines in kernel.items()
        if list(map(_in_force, lines)) != list(map(_in_force, plain[file, n]))
    ]
    stateless = {rule.path for policy in world.what_if.ordered if not policy.stateful for rule in policy.rules}
    sums: Counter[str] = Counter()
    found = []
    happened: dict[Any, set[str]] = defaultdict(set)
    for (file, n), theirs in kernel.items():
        ours = native[file, n]
        seen = packets_seen(Path(file))[n - 1]
        before = happened[seen and _conversation(seen)]
        passes = all(line["verdict"] == "ALLOW" for line in theirs)
        said = [list(_said(lines)) for lines in (ours, theirs)]
        if theirs[0]["verdict"] is None:
            before.add("not judged")
            continue
        would = [all(item["verdict"] == "ALLOW" for item in some) for some in said]
        if would[0] == would[1]:
            sums["same"] += 1
            sums["cut"] += passes and not would[0]
            sums["passed"] += would[0] and not passes
            sums["layer2"] += not would[0] and all((some[-1]["rule_path"] or "").startswith(LAYER_2) for some in said)
        else:
            name = difference_name(file, before, said[0][-1]["reason"], theirs[-1]["ct"])
            if any(item["reason"] == "not-judged" for item in said[1]):
                name = NOT_ASKED
            elif not name and "picked up" in before and said[0][-1]["reason"] == "tcp-state":
                name = "picked up"  # there; the kernel's connection began in force, with a SYN
            shown = (tuple(map(_shown, some)) for some in (ours, theirs))
            found.append(Difference(file, n, *shown, name or (REFUSED_IN_FORCE if REFUSED_IN_FORCE in before else "")))
        if not passes:
            before.add(REFUSED_IN_FORCE)
        if n in begins_nothing(Path(file)) and any(item["reason"] == "match" for item in said[0]):
            before.add("picked up")
        if any(item["rule_path"] in stateless for item in said[0]):
            before.add("stateless")
        if said[0][0]["verdict"] == "ALLOW" and not would[0]:
            before.add("one connection")
    return StagedComparison(sums["same"], sums["cut"], sums["passed"], tuple(found), tuple(altered), sums["layer2"])


def _conversation(seen: Seen) -> Any:
    """A ping and its answer are one, too."""
    return frozenset((seen.source, seen.destination)) if seen.protocol in (1, 58) else conversation_of(seen)


def _in_force(line: dict[str, Any]) -> dict[str, Any]:
    """What is said of the rules in force; whether a REJECT is within its budgets is a matter of time."""
    found = {name: value for name, value in line.items() if not name.startswith("staged")}
    return found | {"verdict": "REJECT", "reason": "match"} if found["reason"] == "reject-rate" else found


def _said(lines: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What staged rules say of a packet at each filter to which it comes in their world."""
    yield from (line["staged"] for line in lines if line["staged"] is not None)
    yield from lines[-1].get("staged_then", ())


def _shown(line: dict[str, Any]) -> str:
    return f"{line_shown(line)} staged {line['staged']} {line.get('staged_then', '')}"
