# SPDX-License-Identifier: Apache-2.0
"""First match beside DPDK's rte_acl (Debian's `dpdk-test-acl`, package dpdk-dev): same rules, same headers, in turn.

Run as a program: `python benchmarks/peers/rte_acl.py --case acl-1000 -o json` (`--list` names the cases). Both run on
one core, the peer in each of its variants first and then in the two best ones, interleaved with ours. `status` is
`measured`, `skipped` (the package or the data is absent: `reason`) or `missing` (the peer printed no figure: nothing
is won by that).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dfw.bench.groupgen import datacenter_generate, table_expand
from dfw.bench.lookups import first_matches_agree
from dfw.bench.machine import read_machine
from dfw.bench.rulegen import rules_generate, trace_generate
from dfw.classbench import FiveTupleRules, RuleTable, rule_table, rules_read, rules_render, trace_render
from dfw.core import Classifier

PROGRAM: Final = "dpdk-test-acl"
VARIANTS: Final = ("scalar", "sse", "avx2", "avx512x16", "avx512x32")  # those the machine lacks print no figure
SETS: Final = Path(__file__).resolve().parents[3] / "shared" / "data" / "classbench" / "sets"
# What ours may take of the peer's time: issue's table. From 10,000 rules on 0.5 for all.
REQUIRED: Final = {"fw": 0.5, "ipc": 0.7, "acl": 1.0, "groups": 1.0}
BATCH: Final = 256
_RATE: Final = re.compile(r"search_ip5tuples.*, ([0-9.]+) pkt/sec")


def plan_cases() -> Iterator[str]:
    """Names: family-count from our generator, sets of ClassBench's own where the data is present."""
    for count in (1000, 10000):
        for family in ("acl", "fw", "ipc"):
            yield f"{family}-{count}"
        for name in ("acl1", "acl3", "acl5", "fw2", "fw4", "ipc1"):
            yield f"classbench-{name}-{count}"
    yield "groups-100"


def required_ratio(case: str) -> float:
    """The most that ours may take, as a share of the peer's time."""
    family = next(name for name in REQUIRED if name in case)
    return 0.5 if case.endswith("-10000") else REQUIRED[family]


def read_rules(case: str) -> tuple[RuleTable, FiveTupleRules]:
    """Our rules and the peer's: for groups one for each pair of members. Raises FileNotFoundError without data."""
    kind, _, count = case.rpartition("-")
    if kind == "groups":
        table = datacenter_generate(int(count), 1, members=4)
        return table, table_expand(table, 100_000)
    if kind.startswith("classbench-"):
        path = SETS / f"{kind.removeprefix('classbench-')}_{count}.gz"
        if not path.exists():
            raise FileNotFoundError(f"no {path.name} beside the checkout")
        rules = rules_read(str(path))
    else:
        rules = rules_generate(kind, int(count), 1)
    return rule_table(rules), rules


@contextlib.contextmanager
def on_one_core() -> Iterator[None]:
    """This process and its children on one core. At ordinary priority: with a real-time one the kernel hung here."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def run_peer(rules: Path, trace: Path, headers: int, variant: str, seconds: int = 120) -> float | None:
    """Nanoseconds a header of one run of the peer; None where it printed no figure."""
    core = str(max(os.sched_getaffinity(0)))
    command = [PROGRAM, "--no-huge", "--no-pci", "-l", core, "-m", "3000", "--no-telemetry"]
    if variant.startswith("avx512"):  # not taken unless it is said
        command.append("--force-max-simd-bitwidth=512")
    command.append("--")
    command += [f"--rulesf={rules}", f"--tracef={trace}", f"--tracenum={headers}", "--iter=5", f"--alg={variant}"]
    command += [f"--tracestep={BATCH}", "--verbose=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return None
    rates = [float(rate) for rate in _RATE.findall(done.stdout + done.stderr)]
    return 1e9 / rates[-1] if rates and rates[-1] > 0 else None


def _shown(runs: list[float]) -> dict[str, Any]:
    return {
        "median": round(statistics.median(runs), 2),
        "min": round(min(runs), 2),
        "max": round(max(runs), 2),
        "runs": len(runs),
    }


def compare(case: str, headers: int, runs: int) -> dict[str, Any]:
    """Both on one case, in turn."""
    result: dict[str, Any] = {"case": f"rte_acl/{case}/v1", "verified": True, "required_ratio": required_ratio(case)}
    if shutil.which(PROGRAM) is None:
        return {**result, "status": "skipped", "reason": f"{PROGRAM} is not installed (package dpdk-dev)"}
    try:
        table, rules = read_rules(case)
    except FileNotFoundError as error:
        return {**result, "status": "skipped", "reason": str(error)}
    keys = trace_generate(table, headers, 2)
    classifier = Classifier()
    for number, ranges in enumerate(table.sets):
        classifier.put_set(number, ranges)
    ruleset = classifier.build(table.rules, table.refs)
    result["verified"] = first_matches_agree(table, keys, ruleset.lookup(keys), 1)
    ours: dict[int, list[float]] = {32: [], BATCH: []}
    theirs: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with tempfile.TemporaryDirectory() as folder, on_one_core():
        files = Path(folder) / "rules", Path(folder) / "trace"
        files[0].write_text("\n".join(rules_render(rules)) + "\n", encoding="ascii")
        files[1].write_text("\n".join(trace_render(keys)) + "\n", encoding="ascii")
        for turn in range(runs):
            best = sorted((v for v in VARIANTS if theirs[v]), key=lambda v: min(theirs[v]))[:2] if turn else VARIANTS
            for variant in best:
                for batch, spent in ours.items():
                    spent.append(ruleset.lookup_timed(keys, batch)[1] / len(keys))
                taken = run_peer(*files, len(keys), variant)
                if taken is not None:
                    theirs[variant].append(taken)
    result |= {
        "rules": len(table.rules),
        "peer_rules": len(rules),
        "headers": len(keys),
        "batch": BATCH,
        "ours_ns": _shown(ours[BATCH]),
        "ours_ns_batch_32": _shown(ours[32]),
        "peer_ns": {variant: _shown(spent) for variant, spent in theirs.items() if spent},
        "machine": read_machine(),
    }
    if not result["peer_ns"]:
        return {**result, "status": "missing", "reason": "the peer printed no figure"}
    best_variant = min(result["peer_ns"], key=lambda variant: result["peer_ns"][variant]["median"])
    ratio = result["ours_ns"]["median"] / result["peer_ns"][best_variant]["median"]
    return {
        **result,
        "status": "measured",
        "peer_best": best_variant,
        "ratio": round(ratio, 3),
        "reached": ratio <= result["required_ratio"],
    }


def main() -> int:
    """The command line: 0 measured or skipped, 1 not verified or missing."""
    parser = argparse.ArgumentParser(description="First match beside DPDK's rte_acl.")
    parser.add_argument("--case", help="one of --list")
    parser.add_argument("--list", action="store_true", help="name the cases")
    parser.add_argument("--headers", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", dest="output", choices=["json"], default="json")
    given = parser.parse_args()
    if given.list or given.case not in set(plan_cases()):
        print("\n".join(plan_cases()))
        return 0 if given.list else 2
    result = compare(given.case, given.headers, given.runs)
    print(json.dumps(result))
    return 0 if result["verified"] and result["status"] != "missing" else 1


if __name__ == "__main__":
    sys.exit(main())
