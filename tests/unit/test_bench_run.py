# SPDX-License-Identifier: Apache-2.0
"""`make bench` says a line of every result, whatever it measured, and goes on with the next."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
TIMES: dict[str, Any] = {"median": 30.5, "min": 29.9, "max": 31.0}


@pytest.mark.parametrize(
    ("result", "line"),
    [
        (TIMES, "30.5 ns (29.9 to 31.0)"),
        (TIMES | {"floor_ns": 12.5}, "30.5 ns (29.9 to 31.0), floor 12.5 ns"),
        (TIMES | {"floor_ns": {"1": 3.0, "2": 7.5}}, "30.5 ns (29.9 to 31.0), floor 7.5 ns"),
        (TIMES | {"floor_ns": {"4": 30.19}}, "30.5 ns (29.9 to 31.0), floor 30.19 ns"),
        (TIMES | {"floor_ns": {"1": 2.0}}, "30.5 ns (29.9 to 31.0), floor 2.0 ns"),
        (TIMES | {"seconds": 30.5}, "30.5 s (29.9 to 31.0)"),
        ({"rounds": 7, "seconds": 10.0}, "7 rounds of 10 s: see the table"),
        ({"figures": [1, 2]}, "2 limits of this machine: see the report"),
        (
            {"kinds": {"hit": {"ratio": 2.5}, "fragment": {"ratio": 2.75}}, "seconds": 600.0},
            "at worst 2.75 times a benign packet's (fragment)",
        ),
    ],
)
def test_a_result_is_said(result: dict[str, Any], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    assert runpy.run_path(str(BENCHMARKS / "run.py"))["result_said"](result) == line


def test_what_has_a_floor_of_its_own_is_said(tmp_path: Path) -> None:
    """The classifier's, as the benchmark gives it: each names its floors by the lines that it touches."""
    names = ["classify-acl-1000", "conntrack-v4-1000"]
    command = [sys.executable, "benchmarks/run.py", "--quick", "--out", str(tmp_path), *names]
    done = subprocess.run(command, cwd=BENCHMARKS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    for name in names:
        said = next(line for line in lines if line.startswith(name))
        assert ", floor " in said, said
        assert json.loads((tmp_path / f"{name}.json").read_text())["verified"] is True
