# SPDX-License-Identifier: Apache-2.0
"""`bench replay`: the whole command `palisade replay` over a large capture from warm disk, beside reading the file."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dfw.bench.captures import CaptureFacts, write_capture, write_policy
from dfw.bench.machine import render_runs

_BUFFER: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class ReplayBench:
    """Options of `bench replay`. `outputs`: with --verdicts and --flows."""

    packets: int
    size: int
    outputs: bool = False
    workers: int = 1
    runs: int = 5
    seed: int = 1


@dataclass(frozen=True, slots=True)
class _Run:
    wall_ns: int
    cpu_ns: int
    core_ns: float
    verified: bool


def bench_replay(given: ReplayBench) -> dict[str, Any]:
    """Time the command, from its start to its end, process and interpreter included; ns are for a packet.

    `cpu_ns`: processor time of all its threads, which other programs on the machine disturb less; `floor_ns`: reading
    the same file once through a buffer that stays in the cache, in the same run. Raises OSError, CalledProcessError.
    """
    with tempfile.TemporaryDirectory(prefix="palisade-bench-") as name:
        folder = Path(name)
        write_policy(folder / "policy.yaml")
        facts = write_capture(folder / "large.pcap", packets=given.packets, size=given.size, seed=given.seed)
        floors, runs = [], []
        for number in range(given.runs + 1):
            floor = _read_ns(folder / "large.pcap")
            run = _run(folder, given, facts)
            if number:  # the first warms disk and page cache
                floors.append(floor)
                runs.append(run)
    wall = [run.wall_ns / facts.packets for run in runs]
    return render_runs(
        f"replay/{given.size}/{given.packets}/{'verdicts-flows' if given.outputs else 'summary'}/v1",
        wall,
        all(run.verified for run in runs),
        cpu_ns=_median([run.cpu_ns / facts.packets for run in runs]),
        core_ns=_median([run.core_ns for run in runs]),
        floor_ns=_median([floor / facts.packets for floor in floors]),
        gigabytes_per_second=round(facts.bytes / facts.packets / statistics.median(wall), 3),
        packets=facts.packets,
        bytes=facts.bytes,
        connections=facts.connections,
        workers=given.workers,
    )


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def _read_ns(path: Path) -> int:
    buffer = bytearray(_BUFFER)
    with path.open("rb", buffering=0) as file:
        begin = time.monotonic_ns()
        while file.readinto(buffer):
            pass
        return time.monotonic_ns() - begin


def _run(folder: Path, given: ReplayBench, facts: CaptureFacts) -> _Run:
    command = [sys.executable, "-m", "dfw", "replay", "large.pcap", "--policy", "policy.yaml", "-o", "json"]
    command += ["--workers", str(given.workers)]
    outputs = (folder / "verdicts.jsonl", folder / "flows.jsonl")
    if given.outputs:
        command += ["--verdicts", str(outputs[0]), "--flows", str(outputs[1])]
    before, begin = os.times(), time.monotonic_ns()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    wall, after = time.monotonic_ns() - begin, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    result = json.loads(done.stdout)
    expected = facts.expected()
    found = {name: result[name] for name in expected if name != "created"}
    verified = {**found, "created": result["connections"]["created"]} == expected
    if given.outputs:
        verified = verified and [_lines(path) for path in outputs] == [facts.packets, facts.connections]
    return _Run(wall, round(cpu * 1e9), result["ns_per_packet"], verified)


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(piece.count(b"\n") for piece in iter(lambda: file.read(1 << 20), b""))
