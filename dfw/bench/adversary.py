# SPDX-License-Identifier: Apache-2.0
"""`bench adversary`: an automatic search for the packets and rules that cost most, beside benign ones of the same kind.

Random restarts and hill climbing over the genes of dfw.bench.attacks. Each candidate is played from the same state as
the benign packets, one right after the other, and judged by the ratio of their times: what else runs on the machine
meets both. Times of the search are the least of a few runs; the worst of each kind is then measured again, medians of
`runs` interleaved runs, and its verdicts are compared with those of the same packets judged one at a time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from dfw.bench.arena import Answers, Arena, Scenario
from dfw.bench.attacks import GENES, MEANINGS, attack, benign
from dfw.bench.hostile_rules import RULE_GENES, rules_hostile
from dfw.bench.machine import render_runs
from dfw.classbench import RuleTable, rule_table
from dfw.core import REASONS, CoreError
from dfw.layout import FAMILY_V4, FAMILY_V6

MUST_RATIO: Final = 3.0
_STALE: Final = 12  # candidates in a row that were no worse: begin somewhere else
_WRITTEN: Final = 5  # worst candidates of each kind in the result


@dataclass(frozen=True, slots=True)
class Candidate:
    """Genes of a kind, with the seed that made its packets. `family`: as in dfw.layout."""

    kind: str
    family: int
    seed: int
    genes: Mapping[str, Any]

    def render(self) -> dict[str, Any]:
        return {"family": 4 if self.family == FAMILY_V4 else 6, "seed": self.seed, "genes": dict(self.genes)}


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate as it was measured."""

    candidate: Candidate
    ratio: float
    ns: float
    benign_ns: float


class Search:
    """The state of a search: arenas by family, the rule sets built last, what was found.

    `connections`: of each arena's table; `rules`: entries of every rule set, benign and hostile; `packets`: timed ones
    of a scenario.
    """

    def __init__(self, connections: int, rules: int, packets: int, seed: int, batch: int = 32) -> None:
        self.connections, self.rules, self.packets, self.batch = connections, rules, packets, batch
        self.rng = np.random.default_rng(seed)
        self.seed = seed
        self._arenas: dict[int, Arena] = {}
        self._benign: dict[tuple[str, int], Scenario] = {}
        self._hostile: dict[int, tuple[Any, RuleTable]] = {}
        self.wrong: list[Candidate] = []

    def arena(self, family: int) -> Arena:
        if family not in self._arenas:
            from dfw.bench.rulegen import rules_generate

            table = rule_table(rules_generate("acl", self.rules, self.seed, family))
            self._arenas[family] = Arena(family, self.connections, table, self.seed)
        return self._arenas[family]

    def benign(self, kind: str, family: int) -> Scenario:
        key = (kind, family)
        if key not in self._benign:
            self._benign[key] = benign(kind, self.arena(family), self.packets, self.seed)
        return self._benign[key]

    def scenario(self, candidate: Candidate) -> Scenario:
        """The candidate's packets, its rule set put in force."""
        arena, genes = self.arena(candidate.family), candidate.genes
        table = None
        if "shape" in genes:
            wanted = (candidate.seed, tuple(genes[name] for name in RULE_GENES if name != "headers"))
            if candidate.family not in self._hostile or self._hostile[candidate.family][0] != wanted:
                made = rules_hostile(genes, self.rules, candidate.family, candidate.seed)
                arena.set_hostile(made)
                self._hostile[candidate.family] = (wanted, made)
            table = self._hostile[candidate.family][1]
        return attack(candidate.kind, arena, genes, table, self.packets, candidate.seed)

    def measure(self, candidate: Candidate, runs: int) -> Found | None:
        """Least times of interleaved runs. None when packets turned out to be of another kind than they should be."""
        arena = self.arena(candidate.family)
        theirs, ours = self.benign(candidate.kind, candidate.family), self.scenario(candidate)
        _, answers = arena.play(ours, batch=self.batch, answers=True)
        if answers is None or not _is_kind(candidate.kind, answers):
            return None
        hostile, plain = [], []
        for _ in range(runs):
            plain.append(arena.play(theirs, batch=self.batch)[0])
            hostile.append(arena.play(ours, batch=self.batch)[0])
        return Found(candidate, min(hostile) / min(plain), min(hostile), min(plain))

    def confirm(self, found: Found, runs: int) -> tuple[dict[str, Any], bool, list[float]]:
        """The candidate measured once more, as it is published: its shape in the result, whether every verdict is the
        same with the packets one at a time, and the nanoseconds of each run."""
        candidate = found.candidate
        arena = self.arena(candidate.family)
        theirs, ours = self.benign(candidate.kind, candidate.family), self.scenario(candidate)
        hostile, plain = [], []
        for _ in range(runs):
            plain.append(arena.play(theirs, batch=self.batch)[0])
            hostile.append(arena.play(ours, batch=self.batch)[0])
        many, one = (arena.play(ours, batch=batch, answers=True)[1] for batch in (self.batch, 1))
        assert many is not None and one is not None
        same = bool(np.array_equal(many.whole, one.whole)) and _is_kind(candidate.kind, many)
        ratios = [a / b for a, b in zip(hostile, plain, strict=True)]
        return (
            {
                "ratio": round(statistics.median(hostile) / statistics.median(plain), 2),
                "ratio_min": round(min(ratios), 2),
                "ratio_max": round(max(ratios), 2),
                "ns": round(statistics.median(hostile), 2),
                "benign_ns": round(statistics.median(plain), 2),
                "verdicts": many.words(),
                **candidate.render(),
            },
            same,
            hostile,
        )

    # ---- the search -------------------------------------------------------------------------------------------------

    def candidates(self, kind: str) -> Iterator[tuple[Candidate, Found | None]]:
        """Climb: yields each candidate with what was measured. Endless."""
        best: Found | None = None
        stale = 0
        while True:
            if best is None or stale >= _STALE:
                best, stale = None, 0
                candidate = self._random(kind)
            else:
                candidate = self._mutated(best.candidate)
            found = self._tried(candidate)
            yield candidate, found
            if found is not None and (best is None or found.ratio > best.ratio):
                best, stale = found, 0
            else:
                stale += 1

    def _tried(self, candidate: Candidate) -> Found | None:
        try:
            return self.measure(candidate, 3)
        except CoreError:  # rules that the classifier refuses to build: nobody can have them
            return None

    def _random(self, kind: str) -> Candidate:
        genes = {name: values[self.rng.integers(0, len(values))] for name, values in GENES[kind].items()}
        family = int(self.rng.choice([FAMILY_V4, FAMILY_V6]))
        return Candidate(kind, family, int(self.rng.integers(1, 1 << 31)), genes)

    def _mutated(self, parent: Candidate) -> Candidate:
        genes, table = dict(parent.genes), GENES[parent.kind]
        names = list(table)
        for _ in range(int(self.rng.integers(1, 3))):
            name = names[self.rng.integers(0, len(names))]
            genes[name] = table[name][self.rng.integers(0, len(table[name]))]
        family = parent.family if self.rng.integers(0, 8) else FAMILY_V4 + FAMILY_V6 - parent.family
        return Candidate(parent.kind, family, parent.seed, genes)


def _is_kind(kind: str, answers: Answers) -> bool:
    held = answers.verdict == 255
    numbers = [REASONS.index(word) for word in MEANINGS[kind] if word in REASONS]
    return bool(np.all(held | np.isin(answers.reason, numbers)))


def bench_adversary(
    connections: int, rules: int, packets: int, seconds: float, seed: int, runs: int, kinds: Sequence[str]
) -> dict[str, Any]:
    """Search for `seconds` altogether; the worst of each kind is published. Raises CoreError without memory."""
    search = Search(connections, rules, packets, seed)
    results: dict[str, Any] = {}
    verified, tried = True, 0
    worst_runs: list[float] = []
    for kind in kinds:
        begun, best = time.monotonic(), list[Found]()
        count = other = 0
        for _, found in search.candidates(kind):
            count += 1
            if found is None:
                other += 1
            else:
                best = sorted([*best, found], key=lambda item: -item.ratio)[: 4 * _WRITTEN]
            if time.monotonic() - begun > seconds / len(kinds) and best:
                break
        tried += count
        measured = [search.confirm(found, runs) for found in _different(best)]
        verified = verified and all(same for _, same, _ in measured)
        measured.sort(key=lambda item: -item[0]["ratio"])
        results[kind] = {
            **measured[0][0],
            "tried": count,
            "other_kind": other,
            "next": [row for row, _, _ in measured[1:]],
        }
        if not worst_runs or measured[0][0]["ratio"] >= max(row["ratio"] for row in results.values()):
            worst_runs = measured[0][2]
    worst = max(row["ratio"] for row in results.values())
    return render_runs(
        f"adversary/{connections}/{rules}rules/v1",
        worst_runs,
        verified,
        worst_ratio=worst,
        must_ratio=MUST_RATIO,
        seconds=seconds,
        seed=seed,
        tried=tried,
        connections=connections,
        rules=rules,
        packets=packets,
        kinds=results,
    )


def _different(found: list[Found]) -> list[Found]:
    """The worst of each `sent`, `shape` or other first gene: not five times the same attack."""
    seen, out = set(), []
    for item in found:
        genes = item.candidate.genes
        name = tuple(genes.get(key) for key in ("sent", "shape", "spoil", "judged_again"))
        if name not in seen:
            seen.add(name)
            out.append(item)
    return out[:_WRITTEN]
