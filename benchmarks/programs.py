# SPDX-License-Identifier: Apache-2.0
"""The benchmarks' own C programs: compiled when they are asked for, kept in build/benchmarks/."""

from __future__ import annotations

import shutil
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
HEADER: Final = ROOT / "benchmarks" / "timing.h"
FLAGS: Final = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")


class LackingError(RuntimeError):
    """The machine lacks something: what, and how to get it."""


def read_package(name: str, apt: str) -> list[str]:
    """pkg-config's flags for a library. Raises LackingError: `apt` is the Debian package that has it."""
    line = f"apt-get install -y --no-install-recommends {apt} pkgconf"
    if shutil.which("pkg-config") is None:
        raise LackingError(f"no command pkg-config: {line}")
    done = subprocess.run(["pkg-config", "--cflags", "--libs", name], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LackingError(f"no {name}: {line}")
    return done.stdout.split()


def apply_compile(source: Path, flags: Sequence[str] = ()) -> Path:
    """The program of this source. Raises LackingError without a compiler, or with what the compiler said."""
    program = ROOT / "build" / "benchmarks" / source.stem
    newest = max(path.stat().st_mtime for path in (source, HEADER))
    if program.exists() and program.stat().st_mtime > newest:
        return program
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise LackingError("no C compiler: apt-get install -y gcc libc6-dev")
    program.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, *FLAGS, f"-I{HEADER.parent}", str(source), "-o", str(program), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LackingError(f"{source.name} does not compile here: {done.stderr.strip()[:500]}")
    return program


def spread(runs: Sequence[float]) -> dict[str, Any]:
    """Median, least and greatest of some runs, and how many they were."""
    values = {"median": statistics.median(runs), "min": min(runs), "max": max(runs)}
    return {**{name: float(f"{value:.4g}") for name, value in values.items()}, "runs": len(runs)}
