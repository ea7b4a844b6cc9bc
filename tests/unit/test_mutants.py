# SPDX-License-Identifier: Apache-2.0
"""The tests of the packet core notice small changes to it (scripts/mutants.py): a few here, 200 in `make test-long`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.mutants import equivalents_read, mutants_of, reason_of
from tests.conftest import ROOT

pytestmark = pytest.mark.needs_tool("gcc")

HEADER = """\
/* A comment of a + b == c
 * over two lines. */
#define LIMIT 7
_Static_assert(sizeof(int) == 4,
               "a + b == c");
static inline int f(int a, int b)
{
    /* a < b */
    if (a < b && a == LIMIT) // a == b
        a += 3;
    prefetch_read(&a + 1);
    return a + b;
}
"""


def test_dead_text_is_let_be(tmp_path: Path) -> None:
    path = tmp_path / "x.h"
    path.write_text(HEADER)
    found = {(mutant.line, mutant.old, mutant.new) for mutant in mutants_of(path)}
    expected = {
        (9, "<", "<="),
        (9, "&&", "||"),
        (9, "==", "!="),
        (10, "a += 3;", ";"),
        (10, "+=", "-="),
        (10, "3", "4"),
    }
    assert found == expected | {(12, "+", "-")}


def test_what_changes_no_result_is_still_there() -> None:
    """A line that names a mutant of text that is gone would excuse nothing, and look as if it did."""
    named = set()
    for path in sorted((ROOT / "native" / "core").glob("*.h")):
        lines = path.read_text().splitlines()
        for mutant in mutants_of(path):
            line = lines[mutant.line - 1]
            if reason_of(mutant, line):
                named.add(
                    (mutant.file, line.strip(), mutant.column - len(line) + len(line.lstrip()), mutant.old, mutant.new)
                )
    assert set(equivalents_read()) - named == set()


def _run(report: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "scripts.mutants", "--report", str(report), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


def test_c_tests_notice_some(tmp_path: Path) -> None:
    """Few, so that one that changes nothing may be among them: half must be noticed by the C tests alone."""
    _run(tmp_path / "report.jsonl", "--count", "3", "--no-trial", "--floor", "0.5")


@pytest.mark.long
def test_95_percent_of_200_are_noticed() -> None:
    """By the C tests, or by the differential tests; goes on where it was, while the core is the same."""
    _run(ROOT / "build" / "mutants.jsonl", "--count", "200")
