# SPDX-License-Identifier: Apache-2.0
"""Small changes to the packet core, one at a time, to see whether the tests notice: `mutants.py --count 200 --seed 1`.

Each mutant is one token of one header of native/core: a comparison, an operator, a constant, a condition, or a whole
statement left out. It is compiled into the C tests, in a copy of native/, and killed when one of them does not compile,
fails, crashes or does not end. Prints every survivor with its line, then the share killed; status 1 below --floor.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TESTS = ("test_parse", "test_tcp", "test_pipeline", "test_fragment", "test_table_file")
FLAGS = ["-std=gnu11", "-O1", "-w", "-fno-wrapv", "-Inative/include", "-Inative"]
SECONDS = 60
SKIPPED = {"classify.h", "base.h", "reasons.h"}  # the classifier has test_classify; the others say nothing of their own

TOKEN = re.compile(
    r"//.*|/\*.*?\*/|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\b0x[0-9a-fA-F]+u?l*\b|\b\d+u?l*\b"
    r"|&&|\|\||[<>=!]=|<<|>>|->|\+\+|--|[-+*|&^]=|[<>!+\-&|]|\w+|\S"
)
NO_CODE = ("/*", "*", "#", "_Static_assert", "typedef", "PAL_INLINE", "PAL_OUTLINE", "static")
DECLARATION = re.compile(r"\s+(return|uint\w+|const|bool|\w+ \*?\w+ =|\w+ \*?\w+;)")
SWAPS = {
    "<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "&&": "||", "||": "&&",
    "+": "-", "-": "+", "|": "&", "&": "|", "+=": "-=", "-=": "+=", "|=": "&=", "!": "",
    "true": "false", "false": "true",
}  # fmt: skip


class Mutant(NamedTuple):
    """One change: file, line from 1, column from 0, what stands there, what shall."""

    file: str
    line: int
    column: int
    old: str
    new: str


def mutants_of(path: Path) -> list[Mutant]:
    """All mutants of one header, outside comments, preprocessor lines, declarations of types and static assertions."""
    found: list[Mutant] = []
    comment = False
    for number, text in enumerate(path.read_text().splitlines(), 1):
        bare = text.strip()
        if comment or bare.startswith(NO_CODE):
            comment = (comment or "/*" in bare) and "*/" not in bare
            continue
        if re.fullmatch(r"\s+[^{}]*;", text) and not DECLARATION.match(text):
            found.append(Mutant(path.name, number, len(text) - len(text.lstrip()), bare, ";"))
        for match in TOKEN.finditer(text):
            token, at = match.group(), match.start()
            spaced = text[at - 1 : at] == " " and text[match.end() : match.end() + 1] == " "
            if re.fullmatch(r"\d+u?", token) and not re.search(r"\w\[?$", text[:at]):
                value = int(token.rstrip("u"))
                found.append(Mutant(path.name, number, at, token, str(value + 1) + ("u" if "u" in token else "")))
            elif token in SWAPS and (spaced or token in ("!", "true", "false")):
                found.append(Mutant(path.name, number, at, token, SWAPS[token]))
    return found


def is_killed(mutant: Mutant, folder: Path) -> str | None:
    """What noticed the mutant, or None."""
    target = folder / "native" / "core" / mutant.file
    original = target.read_text()
    lines = original.splitlines()
    line = lines[mutant.line - 1]
    lines[mutant.line - 1] = line[: mutant.column] + mutant.new + line[mutant.column + len(mutant.old) :]
    target.write_text("\n".join(lines) + "\n")
    try:
        for test in TESTS:
            program = folder / test
            command = ["gcc", *FLAGS, f"native/tests/{test}.c", "-o", str(program), "-lm", "-lpthread"]
            if subprocess.run(command, cwd=folder, capture_output=True, check=False).returncode != 0:
                return "compiler"
            try:
                done = subprocess.run([program], capture_output=True, check=False, timeout=SECONDS)
            except subprocess.TimeoutExpired:
                return f"{test} (does not end)"
            if done.returncode != 0:
                return test
        return None
    finally:
        target.write_text(original)


def main() -> int:
    """Draw mutants by seed, try each, report; the status to exit with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--floor", type=float, default=0.95)
    given = parser.parse_args()
    headers = sorted(path for path in (ROOT / "native" / "core").glob("*.h") if path.name not in SKIPPED)
    drawn = [mutant for path in headers for mutant in mutants_of(path)]
    random.Random(given.seed).shuffle(drawn)
    killed = tried = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "native", folder / "native")
        for mutant in drawn[: given.count]:
            by = is_killed(mutant, folder)
            if by == "compiler":  # no program, no mutant
                continue
            tried += 1
            killed += by is not None
            what = f"{mutant.file}:{mutant.line}: {mutant.old!r} -> {mutant.new!r}"
            print(f"{what}: {'killed by ' + by if by else 'SURVIVED'}", flush=True)
    print(f"{killed} of {tried} killed")
    return 0 if tried and killed >= given.floor * tried else 1


if __name__ == "__main__":
    sys.exit(main())
