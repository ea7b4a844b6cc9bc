# SPDX-License-Identifier: Apache-2.0
"""The machine that a benchmark ran on, and how results are put."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfw import __version__


def read_machine() -> dict[str, Any]:
    """Processor, cores, kernel, load, compiler, version and commit: what a figure is worth nothing without."""
    from dfw.core import build_info

    model = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "load": round(os.getloadavg()[0], 2),
        "compiler": build_info()["compiler"],
        "version": __version__,
        "commit": _commit(),
    }


class LackingError(RuntimeError):
    """The machine lacks what a benchmark needs; the message says what, and how to get it."""


def require_huge_pages(size: int = 0) -> None:
    """Raises LackingError where the kernel gives no huge pages, or fewer than half of `size` bytes."""
    switch = "/sys/kernel/mm/transparent_hugepage/enabled"
    modes = _lines(switch)
    if not modes or "[never]" in modes[0]:
        raise LackingError(f"no huge pages on this machine: put 'madvise' into {switch}")
    have = (
        sum(int(line.split()[1]) for line in _lines("/proc/self/smaps_rollup") if line.startswith("AnonHugePages"))
        << 10
    )
    if have < size // 2:
        raise LackingError(
            f"only {have >> 20} of {size >> 20} MiB in huge pages: memory is too fragmented, or too little"
        )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).resolve().parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() or None


def render_runs(case: str, runs: Sequence[float], verified: bool, **more: Any) -> dict[str, Any]:
    """CONTRACT §3's shape of a benchmark's result. `runs`: nanoseconds of each run; `more`: what this bench adds."""
    median = statistics.median(runs)
    return {
        "case": case,
        "ns_per_packet": round(median, 2),
        "mpps": round(1000 / median, 6),
        "median": round(median, 2),
        "min": round(min(runs), 2),
        "max": round(max(runs), 2),
        "runs": len(runs),
        **more,
        "verified": verified,
        "machine": read_machine(),
    }
