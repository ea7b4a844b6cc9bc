# SPDX-License-Identifier: Apache-2.0
"""benchmarks/policy_latency.py without a lab: nonsense is refused in a sentence, and packets are read as they fell."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from array import array
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def summary() -> ModuleType:
    spec = importlib.util.spec_from_file_location("latency_summary", BENCHMARKS / "latency_summary.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["latency_summary"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "option, value, said",
    [
        ("--hosts", "0", "0 is not from 1 to"),
        ("--hosts", "-3", "-3 is not from 1 to"),
        ("--hosts", "ten", "'ten' is no whole number"),
        ("--hosts", "201", "201 is not from 1 to 200"),
        ("--pods", "5", "on 10 hosts 11 to 1100"),
        ("--pods", "1101", "on 10 hosts 11 to 1100"),
        ("--changes", "0", "0 is not from 1 to"),
        ("--gap", "-1", "'-1' is no number of seconds"),
        ("--gap", "nan", "'nan' is no number of seconds"),
        ("--gap", "inf", "'inf' is no number of seconds"),
        ("--kubectl", "-1", "-1 is not from 0 to"),
        ("--new", "1.5", "'1.5' is no whole number"),
    ],
)
def test_nonsense_is_refused(
    summary: ModuleType, option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        summary.given_read([option, value])
    assert ended.value.code == 2
    assert f"argument {option}: " in (told := capsys.readouterr().err) and said in told


def test_the_program_ends_with_2_and_no_traceback() -> None:
    command = [sys.executable, str(BENCHMARKS / "policy_latency.py"), "--hosts", "0"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and "0 is not from 1 to 200" in ended.stderr and "Traceback" not in ended.stderr


def test_the_last_host_counts_and_what_strays_is_told(summary: ModuleType) -> None:
    times = array("d", [number / 1000 for number in range(1000)])
    denied = summary.Change("denied", 0.1, 0.09, 0.2, 0.3)
    allowed = summary.Change("allowed", 0.5, 0.49, 0.6, None)
    first = b"\1" * 150 + b"\0" * 360 + b"\1" * 490  # in force after 50 and after 10 ms
    last = b"\1" * 170 + b"\0" * 350 + b"\1" * 480
    found = summary.summary([denied, allowed], times, [first, last], 1.0)
    assert found["denied_ms"]["max"] == 70.0 and found["allowed_ms"]["max"] == 20.0
    assert found["realized_ms"]["p50"] == 100.0 and found["condition_ms"]["max"] == 200.0
    assert (found["stray"], found["unseen"]) == (0, 0)
    strayed = last[:300] + b"\1" + last[301:]
    assert summary.summary([denied, allowed], times, [first, strayed], 1.0)["stray"] == 1
    never = b"\1" * 1000
    assert summary.summary([denied], times, [first, never], 0.5)["unseen"] == 1


def test_nothing_has_no_shares(summary: ModuleType) -> None:
    assert summary.shares([]) is None
