# SPDX-License-Identifier: Apache-2.0
"""`bench classify`: first match over rules, build and update, as CONTRACT §3 defines what is timed."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from dfw.bench.machine import render_runs
from dfw.classbench import RuleTable, rule_table, rules_read, trace_read
from dfw.core import Classifier, Ruleset
from dfw.core.bench import read_core_ghz, read_line_ns
from dfw.layout import RANGE_DTYPE, KeyArray, addresses_v4

_VNICS = 200  # filters of one host with the same rules
_CHECKED = 2000  # headers whose first match is worked out by going through the rules


def bench_classify(
    rules: str | None, trace: str | None, synthetic: str | None, count: int, headers: int, seed: int, runs: int
) -> dict[str, Any]:
    """Time look-ups in batches of 32 and 256 over files or a synthetic family. Raises PolicyError, CoreError."""
    if rules is not None and trace is not None:
        table, keys = rule_table(rules_read(rules)), trace_read(trace)
        name = rules.rsplit("/", 1)[-1]
    else:
        from dfw.bench.rulegen import rules_generate, trace_generate

        table = rule_table(rules_generate(synthetic or "acl", count, seed))
        keys = trace_generate(table, headers, seed + 1)
        name = f"{synthetic}-{count}"
    classifier = Classifier()
    begun = time.perf_counter()
    for number, ranges in enumerate(table.sets):
        classifier.put_set(number, ranges)
    ruleset = classifier.build(table.rules, table.refs)
    build_seconds = time.perf_counter() - begun
    per_lookup: dict[str, list[float]] = {"32": [], "256": []}
    expected = ruleset.lookup(keys)
    verified = first_matches_agree(table, keys, expected, seed)
    size = classifier.bytes
    floors, speeds = [], []
    for _ in range(runs):
        floors.append(read_line_ns(size, len(keys)))
        speeds.append(read_core_ghz())
        for batch, spent in per_lookup.items():
            found, nanoseconds = ruleset.lookup_timed(keys, int(batch))
            spent.append(nanoseconds / len(keys))
            verified = verified and bool(np.array_equal(found, expected))
    return render_runs(
        f"classify/{name}/v1",
        per_lookup["256"],
        verified,
        ns_per_lookup={batch: round(statistics.median(spent), 2) for batch, spent in per_lookup.items()},
        rules=len(table.rules),
        headers=len(keys),
        floor_ns={"1": round(statistics.median(floors), 2)},
        core_ghz=round(statistics.median(speeds), 2),
        bytes=size,
        build_seconds=round(build_seconds, 4),
        same_rules_vnics=_same_rules(classifier, ruleset, table, size, build_seconds),
        one_rule_seconds=_one_rule(classifier, ruleset, table),
        one_member_seconds=_one_member(classifier),
    )


def first_matches_agree(table: RuleTable, keys: KeyArray, found: npt.NDArray[np.uint32], seed: int) -> bool:
    """Is a sample of the answers what going through the rules one by one gives?"""
    from dfw.bench.linear import first_match_linear

    sample = np.random.default_rng(seed).choice(len(keys), min(_CHECKED, len(keys)), replace=False)
    return bool(np.array_equal(first_match_linear(table, keys[sample]), found[sample]))


def _same_rules(
    classifier: Classifier, ruleset: Ruleset, table: RuleTable, size: int, build_seconds: float
) -> dict[str, Any]:
    """What the rule sets of further vNICs with the same rules add, beside the first one's memory and build: where they
    come from one table, as dfw.enforcer has it, and where each is given by itself and found to be the same."""
    begun = time.perf_counter()
    others = [ruleset.shared() for _ in range(_VNICS - 1)]
    shared = time.perf_counter() - begun
    begun = time.perf_counter()
    others += [classifier.build(table.rules, table.refs) for _ in range(_VNICS - 1)]
    each = time.perf_counter() - begun
    result = {
        "vnics": _VNICS,
        "bytes_ratio": round(classifier.bytes / size, 4),
        "build_ratio": round((build_seconds + shared) / build_seconds, 2),
        "build_each_ratio": round((build_seconds + each) / build_seconds, 2),
    }
    for other in others:
        other.release()
    return result


def _one_rule(classifier: Classifier, ruleset: Ruleset, table: RuleTable) -> float:
    """Median seconds to replace one rule by another."""
    spent = []
    for at in range(0, len(table.rules), max(1, len(table.rules) // 50)):
        changed = table.rules[at : at + 1].copy()
        changed["dport_lo"], changed["dport_hi"] = 7, 7
        begun = time.perf_counter()
        fresh = ruleset.replace(at, changed, table.refs)
        spent.append(time.perf_counter() - begun)
        fresh.release()
    return statistics.median(spent)


def _one_member(classifier: Classifier) -> float:
    """Median seconds to add one address to a group of 100,000."""
    members = np.zeros(100_000, dtype=RANGE_DTYPE)
    members["lo"] = members["hi"] = addresses_v4(0x64000000 + 7 * np.arange(100_000, dtype=np.uint64))
    members["family"] = 1
    group = 1 << 20
    classifier.put_set(group, members)
    classifier.commit()
    none = np.zeros(0, dtype=RANGE_DTYPE)
    spent = []
    for number in range(200):
        one = np.zeros(1, dtype=RANGE_DTYPE)
        one["lo"] = one["hi"] = addresses_v4(np.array([0x64000003 + 7 * 311 * number], dtype=np.uint64))
        one["family"] = 1
        begun = time.perf_counter()
        classifier.change_set(group, one, none)
        classifier.commit()
        spent.append(time.perf_counter() - begun)
    return statistics.median(spent)
