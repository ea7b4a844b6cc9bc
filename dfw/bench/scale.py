# SPDX-License-Identifier: Apache-2.0
"""How long a large cluster takes to compile, and a change in it; the result held against a compile one by one.

The clock runs from the API's objects as a decoder gives them to every vNIC's rule table and every address set as the
bytes that the core loads. Each run is a process of its own, on one core, which then says its peak memory.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from time import perf_counter
from typing import Any

import numpy as np

from dfw.bench.clusters import Cluster, Decoded, changed_pod, changed_policy, make_cluster
from dfw.bench.machine import read_machine
from dfw.bench.scale_check import Expected
from dfw.incremental import Change, Delta, PolicyState, Remove, Stamp, collector_paused
from dfw.incremental.canonical import canonical_port
from dfw.kube.decoded import DecodedReader
from dfw.layout import RULE_DTYPE
from dfw.model import Port

_REPEATS = 21


@dataclass(frozen=True, slots=True)
class ScaleBench:
    """What to measure. `verify`: how many vNICs are held against a compile of their own; `hostile`: see clusters.py."""

    namespaces: int
    policies: int
    pods: int
    hostile: bool
    verify: int
    seed: int
    runs: int


def bench_scale(given: ScaleBench) -> dict[str, Any]:
    """The result as CONTRACT has it. Raises CalledProcessError where a run ended with an error."""
    machine = read_machine()
    runs = [_fresh_process(given, is_last=number == given.runs - 1) for number in range(given.runs)]
    seconds = [run["seconds"] for run in runs]
    last = runs[-1]
    shape = "hostile" if given.hostile else "small-namespaces"
    return {
        "case": f"scale/{shape}/{given.namespaces}-{given.policies}-{given.pods}/v1",
        "seconds": round(statistics.median(seconds), 3),
        "median": round(statistics.median(seconds), 3),
        "min": round(min(seconds), 3),
        "max": round(max(seconds), 3),
        "runs": given.runs,
        "namespaces": given.namespaces,
        "policies": given.policies,
        "pods": given.pods,
        "python_loop_ns": round(statistics.median(run["python_loop_ns"] for run in runs), 2),
        "memory_bytes": max(run["memory_bytes"] for run in runs),
        "input_bytes": last["input_bytes"],
        **{key: _over(runs, key) for key in ("one_pod_seconds", "pod_gone_seconds", "one_rule_seconds")},
        "one_group_seconds": _over(runs, "one_group_seconds"),
        **{key: last[key] for key in ("tables", "sets", "largest_set", "rules", "host_bytes", "checked")},
        "verified": last["verified"],
        "machine": machine,
    }


def _over(runs: Sequence[Mapping[str, Any]], key: str) -> dict[str, float]:
    """The median of the runs' medians, and the slowest of all."""
    median = statistics.median(run[key]["median"] for run in runs)
    return {"median": round(median, 6), "max": round(max(run[key]["max"] for run in runs), 6)}


def _fresh_process(given: ScaleBench, *, is_last: bool) -> dict[str, Any]:
    options = json.dumps({**asdict(given), "verify": given.verify if is_last else 0})
    command = [sys.executable, "-m", "dfw.bench.scale", options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _loop_ns() -> float:
    """How fast the interpreter is right now: nanoseconds of one round of an empty loop."""
    began = perf_counter()
    for _ in range(2_000_000):
        pass
    return (perf_counter() - began) * 500


def _run(given: ScaleBench) -> dict[str, Any]:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    cluster = make_cluster(given.namespaces, given.policies, given.pods, seed=given.seed, hostile=given.hostile)
    gc.collect()
    input_bytes = _peak_bytes()
    loop = _loop_ns()
    began = perf_counter()
    with collector_paused():
        state = PolicyState()
        reader = DecodedReader(state.selections.meaning)
        state.apply(reader.read_all(cluster))
        gc.freeze()  # as a server does with what it has listed: the collector never looks through it again
    seconds = perf_counter() - began
    memory = _peak_bytes()
    loop = max(loop, _loop_ns())
    random = Random(given.seed)
    return {
        "seconds": seconds,
        "python_loop_ns": loop,
        "memory_bytes": memory,
        "input_bytes": input_bytes,
        **_changes(state, reader, cluster, random, given.hostile),
        "tables": len(state.tables),
        "sets": len(state.sets.of),
        "largest_set": max((len(selection.members) for selection in state.selections if selection.set), default=0),
        "rules": len(state.units.rule_owner),
        "host_bytes": host_bytes(state),
        **_verified(state, reader, cluster, random, given.verify),
    }


def _changes(
    state: PolicyState, reader: DecodedReader, cluster: Cluster, random: Random, hostile: bool
) -> dict[str, dict[str, float]]:
    """One pod more, and gone again; one rule more (a policy of one rule), edited; one about a group of its own."""
    there = [random.randrange(len(cluster.namespaces)) for _ in range(_REPEATS)]

    def timed(change: Callable[[int, int], Delta]) -> dict[str, float]:
        spent = []
        for number, at in enumerate(there):
            began = perf_counter()
            change(number, at)
            spent.append(perf_counter() - began)
        return {"median": statistics.median(spent), "max": max(spent)}

    pods = [changed_pod(cluster, at, number, hostile) for number, at in enumerate(there)]
    rules = [changed_policy(cluster, at, number, hostile) for number, at in enumerate(there)]
    edited = [changed_policy(cluster, at, number, hostile, port=9999) for number, at in enumerate(there)]
    groups = [changed_policy(cluster, at, number, hostile, group=f"queue-{number}") for number, at in enumerate(there)]
    put = state.apply
    found = {
        "one_pod_seconds": timed(lambda number, at: put(_read(reader, pods[number]))),
        "pod_gone_seconds": timed(lambda number, at: put([Remove(Port, _name(pods[number]))])),
        "one_rule_seconds": _slower(
            timed(lambda number, at: put(_read(reader, rules[number]))),
            timed(lambda number, at: put(_read(reader, edited[number]))),
            timed(lambda number, at: put([Remove(Stamp, f"np/{_name(rules[number])}")])),
        ),
        "one_group_seconds": timed(lambda number, at: put(_read(reader, groups[number]))),
    }
    put([Remove(Stamp, f"np/{_name(item)}") for item in groups])
    return found


def _slower(*timings: dict[str, float]) -> dict[str, float]:
    return {key: max(timing[key] for timing in timings) for key in timings[0]}


def _read(reader: DecodedReader, decoded: Decoded) -> list[Change]:
    change = reader.read(decoded)
    assert change is not None
    return [change]


def _name(decoded: Decoded) -> str:
    return f"{decoded['metadata']['namespace']}/{decoded['metadata']['name']}"


def host_bytes(state: PolicyState) -> dict[str, int]:
    """What a host of the cluster loads: the distinct tables of its vNICs, and the address sets that these refer to."""
    references = state.sets.set_refs()
    sizes = {number: len(item.packed) for number, item in state.sets.of.items()}
    tables: dict[str, set[bytes]] = {}
    for slot, port in state.ports:
        table = state.tables.of[slot]
        assert table is not None
        tables.setdefault(port.host, set()).add(table.data)
    found = sorted(_host_size(own, references, sizes) for own in tables.values())
    return {"median": int(statistics.median(found)), "max": found[-1], "hosts": len(found)} if found else {}


def _host_size(tables: Iterable[bytes], references: Any, sizes: Mapping[int, int]) -> int:
    entries = np.frombuffer(b"".join(tables), dtype=RULE_DTYPE)
    runs = {
        (int(at), int(count))
        for side in ("src", "dst")
        for at, count in zip(entries[f"{side}_off"], entries[f"{side}_n"], strict=True)
        if count
    }
    used = {int(number) for at, count in runs for number in references[at : at + count]}
    return entries.nbytes + sum(sizes[number] for number in used)


def _verified(
    state: PolicyState, reader: DecodedReader, cluster: Cluster, random: Random, count: int
) -> dict[str, Any]:
    """Are the tables of some vNICs those of a compile of their own, before and after they and their policies were taken
    out and put back, one change at a time?"""
    chosen = random.sample(cluster.pods, min(count, len(cluster.pods)))
    if not chosen:
        return {"verified": False, "checked": 0}
    expected = Expected(cluster, {pod["metadata"]["namespace"] for pod in chosen})
    tables = {name: expected.table(name) for name in map(_name, chosen)}
    before = all(canonical_port(state, name) == table for name, table in tables.items())
    for change in _there_and_back(reader, cluster, chosen):
        state.apply([change])
    after = all(canonical_port(state, name) == table for name, table in tables.items())
    return {"verified": before and after, "checked": len(tables)}


def _there_and_back(reader: DecodedReader, cluster: Cluster, chosen: Sequence[Decoded]) -> Iterator[Change]:
    namespaces = dict.fromkeys(pod["metadata"]["namespace"] for pod in chosen)
    policies = [item for item in cluster.policies if item["metadata"]["namespace"] in namespaces]
    for item in (*chosen, *policies):
        change = reader.read(item)
        assert change is not None
        yield Remove(Stamp, change.key) if isinstance(change, Stamp) else Remove(Port, _name(item))
        if item["kind"] == "Pod":
            yield change
    yield from (change for item in policies if (change := reader.read(item)) is not None)


if __name__ == "__main__":
    print(json.dumps(_run(ScaleBench(**json.loads(sys.argv[1])))))
