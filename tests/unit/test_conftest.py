# SPDX-License-Identifier: Apache-2.0
"""The test run's own promises: no green by skipping, and no tests lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest

def test_runs():
    pass

@pytest.mark.needs_tool("no-such-command")
def test_needs():
    raise AssertionError("ran without its tool")

def test_skips_itself():
    pytest.skip("needs gadget: none here")
"""


def run_suite(
    root: Path, folder: Path, suite: str = SUITE, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run pytest with our conftest.py over a suite of one file."""
    tests = folder / "tests"
    tests.mkdir()
    shutil.copy(root / "tests" / "conftest.py", tests)
    (tests / "expected-counts.txt").write_text("# a floor\npytest 3\n")
    (tests / "test_suite.py").write_text(suite)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PALISADE_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, "tests"],
        cwd=folder,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("workers", ["0", "1"])
def test_skips_are_listed_by_reason(root_folder: Path, tmp_path: Path, workers: str) -> None:
    done = run_suite(root_folder, tmp_path, SUITE, "-n", workers, PALISADE_FLOOR="1")
    assert done.returncode == 0, done.stdout
    assert "== skipped 1: needs no-such-command: no command no-such-command" in done.stdout
    assert "== skipped 1: needs gadget: none here" in done.stdout
    assert "== ran + skipped 3: at least the 3" in done.stdout
    assert "1 passed, 2 skipped" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("workers", ["0", "1"])
def test_required_things_do_not_skip(root_folder: Path, tmp_path: Path, workers: str) -> None:
    done = run_suite(root_folder, tmp_path, SUITE, "-n", workers, PALISADE_REQUIRE="root, gadget,no-such-command")
    assert done.returncode == 1
    assert "PALISADE_REQUIRE has gadget" in done.stdout
    assert "PALISADE_REQUIRE has no-such-command" in done.stdout
    assert "1 failed, 1 passed, 1 error" in done.stdout.splitlines()[-1]


def test_required_modules_do_not_skip(root_folder: Path, tmp_path: Path) -> None:
    suite = 'import pytest\npytest.skip("needs gadget: none here", allow_module_level=True)\n'
    done = run_suite(root_folder, tmp_path, suite, PALISADE_REQUIRE="gadget")
    assert done.returncode != 0
    assert "PALISADE_REQUIRE has gadget" in done.stdout


@pytest.mark.parametrize("workers", ["0", "1"])
def test_losing_tests_fails(root_folder: Path, tmp_path: Path, workers: str) -> None:
    suite = "def test_runs():\n    pass\n"
    done = run_suite(root_folder, tmp_path, suite, "-n", workers, PALISADE_FLOOR="1")
    assert done.returncode == 1
    assert "== ran + skipped 1: FEWER than the 3" in done.stdout


def test_part_of_the_suite_has_no_floor(root_folder: Path, tmp_path: Path) -> None:
    assert run_suite(root_folder, tmp_path, "def test_runs():\n    pass\n").returncode == 0
