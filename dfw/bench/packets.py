# SPDX-License-Identifier: Apache-2.0
"""`bench conntrack`, `pipeline` and `setup`: packets through the core, as CONTRACT §3 defines what is timed."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfw.bench.hostile_rules import rules_with
from dfw.bench.machine import render_runs, require_huge_pages
from dfw.bench.rulegen import rules_generate
from dfw.classbench import rule_table
from dfw.core import Engine, EngineOptions, PacketRun, run_conntrack, run_setup
from dfw.layout import (
    ACTION_ALLOW,
    FAMILY_V4,
    FAMILY_V6,
    RANGE_DTYPE,
    RULE_STATEFUL,
    RuleArray,
    U32Array,
    addresses_v4,
    rules_empty,
)
from dfw.model import Timers

_FILTERS = 16
_CAPACITY = 1 << 20
_TCP = 6
_V6_BYTES = 78  # an Ethernet frame with an IPv6 TCP segment and a little data


@dataclass(frozen=True, slots=True)
class PacketBench:
    """Options of `bench conntrack` and `bench pipeline`. `both`: at two filters, two connections a packet; `rules`: of
    every filter, all of them ALLOW."""

    connections: int
    size: int = 64
    family: int = 4
    batch: int = 128
    workers: int = 1
    grid: bool = False
    checksum: bool = False
    huge_pages: bool = False
    both: bool = False
    rules: int = 1
    runs: int = 5


def bench_packets(name: str, given: PacketBench) -> dict[str, Any]:
    """Time established packets. `floor_ns` is of the same run: an index line and one or two written entry lines.

    Raises CoreError when there is no memory, or a packet was refused while connections were set up.
    """
    from dfw.enforcer import timer_seconds

    if given.huge_pages:
        require_huge_pages()
    capacity = _CAPACITY if not given.both else 2 * _CAPACITY
    engine = Engine(
        EngineOptions(
            capacity4=capacity if given.family == 4 else 16,
            capacity6=capacity if given.family == 6 else 16,
            filters=_FILTERS,
            rules=given.rules,
            workers=given.workers,
            checksums="verify" if given.checksum else "off",
            sanity="off",
            name_rules=False,
            huge_pages=given.huge_pages,
        )
    )
    rules, refs = _rules(engine, given)
    for number in range(_FILTERS):
        ruleset = engine.classifier.build_staged(rules, refs)
        engine.stage(number, ruleset, timer_seconds(Timers()))
    engine.commit()
    stats = engine.stats()
    packets = max(4 * given.connections, 2_000_000)
    size = given.size if given.family == 4 else max(given.size, _V6_BYTES)
    runs = run_conntrack(
        engine,
        connections=given.connections,
        packets=packets,
        size=size,
        family=given.family,
        batch=given.batch,
        grid=given.grid,
        checksum=given.checksum,
        both=given.both,
        runs=given.runs,
    )
    if given.huge_pages:
        require_huge_pages(stats.table_bytes)
    more: dict[str, Any] = {}
    if given.workers > 1:
        more = _scaling(runs, given.workers)
    verified = all(run.verified for run in runs)
    if given.both and given.family == 4 and given.workers == 1:
        more["hosts"] = _hosts(given, packets)
        verified &= more["hosts"]["verified"]
    pattern = "grid" if given.grid else "random"
    return render_runs(
        f"{name}/{pattern}/{given.connections}/v1",
        [run.ns for run in runs],
        verified,
        family=given.family,
        bytes=size,
        batch=given.batch,
        workers=given.workers,
        packets=packets,
        pages="huge" if given.huge_pages else "4k",
        checksum=given.checksum,
        rules=given.rules,
        pre_parsed_ns=_median([run.pre_parsed_ns for run in runs]),
        floor_ns={str(lines): _median([run.floor_ns[lines - 1] for run in runs]) for lines in (1, 2)},
        core_ghz=_median([run.core_ghz for run in runs]),
        bytes_per_connection=round(stats.table_bytes / stats.table_capacity, 1),
        **more,
    )


def _rules(engine: Engine, given: PacketBench) -> tuple[RuleArray, U32Array]:
    """Generated rules that let everything pass, and one more for what they don't match."""
    if given.rules == 1:
        return rules_empty(1), np.zeros(0, dtype=np.uint32)
    family = FAMILY_V4 if given.family == 4 else FAMILY_V6
    table = rules_with(
        rule_table(rules_generate("acl", given.rules - 1, 1, family)), action=ACTION_ALLOW, flags=RULE_STATEFUL
    )
    for number, ranges in enumerate(table.sets):
        engine.classifier.put_set(number, ranges)
    return table.rules, table.refs


def _hosts(given: PacketBench, packets: int) -> dict[str, Any]:
    """The same rules on two whole hosts."""
    from dfw.bench.hosts import HostsBench, bench_hosts

    sets: list[Any] = []
    rules, refs = rules_empty(1), np.zeros(0, dtype=np.uint32)
    if given.rules > 1:
        generated = rule_table(rules_generate("acl", given.rules - 1, 1, FAMILY_V4))
        table = rules_with(generated, action=ACTION_ALLOW, flags=RULE_STATEFUL)
        rules, refs, sets = table.rules, table.refs, list(table.sets)
    chosen = HostsBench(given.connections, packets, given.size, min(given.batch, 64), given.runs)
    return bench_hosts(chosen, rules, refs, given.rules, sets)


def _scaling(runs: list[PacketRun], workers: int) -> dict[str, Any]:
    """How many times the packets of one worker all workers do, the same of a loop of the same accesses, and the ratio;
    medians over the runs, in each of which all four were timed one after the other."""
    ours = [workers * run.single_ns / run.ns for run in runs]
    theirs = [workers * run.reference_ns[0] / run.reference_ns[1] for run in runs]
    return {
        "single_ns": _median([run.single_ns for run in runs]),
        "reference_ns": {
            "1": _median([run.reference_ns[0] for run in runs]),
            str(workers): _median([run.reference_ns[1] for run in runs]),
        },
        "scaling": _median(ours),
        "reference_scaling": _median(theirs),
        "scaling_ratio": _median([a / b for a, b in zip(ours, theirs, strict=True)]),
    }


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def bench_setup(rules: int, batch: int, connections: int, runs: int) -> dict[str, Any]:
    """Time new connections at steady state over `rules` rules, and SYNs alone beside them. Raises CoreError."""
    both = {
        name: run_setup(
            _setup_engine(rules), rules=rules, connections=connections, batch=batch, syn_only=syn_only, runs=runs
        )
        for name, syn_only in (("connection", False), ("syn", True))
    }
    per_connection: list[PacketRun] = both["connection"]
    syns: list[PacketRun] = both["syn"]
    return render_runs(
        f"setup/{rules}rules/v1",
        [run.ns / 3 for run in per_connection],
        all(run.verified for run in (*per_connection, *syns)),
        ns_per_connection=_median([run.ns for run in per_connection]),
        connections_per_second=round(1e9 / statistics.median(run.ns for run in per_connection)),
        syns_per_second=round(1e9 / statistics.median(run.ns for run in syns)),
        rules=rules,
        batch=batch,
        floor_ns={"4": _median([run.floor_ns[1] / 3 for run in per_connection])},
        core_ghz=_median([run.core_ghz for run in per_connection]),
    )


def _setup_engine(rules: int) -> Engine:
    """One tap filter; rule r lets TCP to its own address and port pass. Short timers: the clock need not leap."""
    engine = Engine(
        EngineOptions(capacity4=_CAPACITY, capacity6=16, rules=rules, checksums="off", sanity="off", name_rules=False)
    )
    numbers = np.arange(rules, dtype=np.uint32)
    table = rules_empty(rules)
    table["dst_off"], table["dst_n"], table["proto"] = numbers, 1, _TCP
    table["dport_lo"] = table["dport_hi"] = 1000 + numbers
    for number in range(rules):
        ranges = np.zeros(1, dtype=RANGE_DTYPE)
        ranges["lo"] = ranges["hi"] = addresses_v4(np.array([0x0A010000 + number], dtype=np.uint64))
        ranges["family"] = 1
        engine.classifier.put_set(number, ranges)
    ruleset = engine.classifier.build_staged(table, numbers)
    engine.stage(0, ruleset, [120, 30, 120, 120, 45, 20, 60, 30, 60, 20, 10], tap=True)
    engine.commit()
    return engine
