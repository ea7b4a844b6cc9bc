# SPDX-License-Identifier: Apache-2.0
"""What this machine can do at best: random access, memcpy, a system call, a TAP (limits.c), several runs of each.

Run as a program: `python benchmarks/limits.py [--runs N] -o json`. Exit status 3 without a compiler.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from programs import LackingError, apply_compile, spread  # beside this file

from dfw.bench.machine import read_machine

LACKING = 3


def measure(runs: int) -> dict[str, Any]:
    """All figures, by name and what they are of. Raises LackingError."""
    program = apply_compile(Path(__file__).resolve().parent / "limits.c")
    machine = read_machine()
    found: dict[str, dict[str, list[float]]] = {}
    verified, reason = True, ""
    for _ in range(runs):
        done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
        verified = verified and done.returncode == 0
        reason = done.stderr.strip() or reason
        for line in map(json.loads, done.stdout.splitlines()):
            found.setdefault(line["figure"], {}).setdefault(line["of"], []).append(line["value"])
    figures = {name: {of: spread(values) for of, values in by.items()} for name, by in found.items()}
    skipped = {"tap": reason} if reason else {}
    return {"case": "limits/v1", "figures": figures, "skipped": skipped, "verified": verified, "machine": machine}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="What this machine can do at best.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--output", choices=["json"], default="json")
    given = parser.parse_args()
    if given.runs < 1:
        parser.error("--runs: at least 1")
    try:
        result = measure(given.runs)
    except LackingError as error:
        print(error, file=sys.stderr)
        return LACKING
    print(json.dumps(result, indent=2))
    return 0 if result["verified"] else 1


if __name__ == "__main__":
    sys.exit(main())
