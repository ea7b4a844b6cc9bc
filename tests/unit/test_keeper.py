# SPDX-License-Identifier: Apache-2.0
"""An agent that is killed is there again; one that ends is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import PATIENCE, until

PROGRAM = """
import os, signal, sys, time
from overlay.keeper import keep
def work():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    with open(sys.argv[1], "a") as file:
        print(os.getpid(), file=file, flush=True)
    if sys.argv[2] == "end":
        return 5
    if sys.argv[2] == "fail":
        raise RuntimeError("it went wrong")
    time.sleep(600)
    return 0
sys.exit(keep(work))
"""


def start(tmp_path: Path, what: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path / "pids"), what], stderr=subprocess.PIPE)


def pids(tmp_path: Path, count: int) -> list[int]:
    file = tmp_path / "pids"

    def found() -> list[str] | None:
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        return lines if len(lines) >= count and lines[-1].endswith("\n") else None

    return [int(item) for item in until(found, f"fewer than {count} were started") or ()]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_killed_it_is_started_again_and_term_ends_both(tmp_path: Path) -> None:
    keeper = start(tmp_path, "stay")
    (first,) = pids(tmp_path, 1)
    os.kill(first, signal.SIGKILL)
    second = pids(tmp_path, 2)[1]
    assert second != first and is_alive(second)
    keeper.terminate()
    assert keeper.wait(PATIENCE) == 0 or keeper.returncode == 7
    assert not is_alive(second)


def test_its_own_end_is_the_keepers_too(tmp_path: Path) -> None:
    keeper = start(tmp_path, "end")
    assert keeper.wait(PATIENCE) == 5
    assert len(pids(tmp_path, 1)) == 1


def test_a_defect_is_told_and_not_repeated_for_ever(tmp_path: Path) -> None:
    keeper = start(tmp_path, "fail")
    assert keeper.wait(PATIENCE) == 70
    assert keeper.stderr is not None and b"it went wrong" in keeper.stderr.read()


@pytest.mark.parametrize(
    ("options", "says", "status"),
    [
        (["--run", "/proc/nope"], "--run: /proc/nope cannot be made: ", 2),
        (["--netns", "/nowhere/ns"], "--netns: there is no network namespace at /nowhere/ns", 2),
        (["--netns", "/proc/self/status"], "not a network namespace that can be entered: '/proc/self/status'", 3),
    ],
)
@pytest.mark.parametrize("keep", ["--keep", "--no-keep"])
def test_what_an_agent_cannot_use_is_said_in_a_sentence(
    tmp_path: Path, options: list[str], says: str, status: int, keep: str
) -> None:
    command = [sys.executable, "-m", "dfw", "agent", "run", "--host", "h", "--desired", "d", "--underlay", "ul0", keep]
    done = subprocess.run(
        [*command, *(["--run", str(tmp_path)] if "--run" not in options else []), *options],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
