# SPDX-License-Identifier: Apache-2.0
"""Small changes to the packet core, one at a time, to see whether the tests notice.

`python -m scripts.mutants --count 200 --seed 1`

Each mutant is one token of one header of native/core: a comparison, an operator, a constant, a condition, or a whole
statement left out. Three stages look for it, in copies of native/:

1. the C tests, compiled with it, those that killed most in its header first; the first that fails, crashes or does not
   end has found it. Tests of the whole engine are linked with one object of it, compiled once for a mutant;
2. for those that survive: the core is built with it. The same object code as without it: the mutant is equivalent and
   does not count. Else tests.support.mutant_trial judges generated traffic and captures, which the oracle has judged;
3. for those that survive that too: the C tests again under ASan and UBSan, as `make test` runs them: a byte read or
   written beyond its object changes no result.

Results go to a file, one line each; a second run repeats only what survived, and all when native/core changed. Prints
every survivor with its line, then the share found; status 1 below --floor.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import hashlib
import json
import os
import queue
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from scripts.mutants_core import CoreBuild, inline_by_choice

ROOT = Path(__file__).resolve().parent.parent
PROCESSOR_SECONDS = 20  # a C test that takes longer does not end: they take one or two
FAILURES = 3  # in a row: threads on a busy machine have failed one without any mutant
SECONDS = 900  # by the clock, which others on the machine slow down
ANSWERS = ROOT / "build" / "mutants"  # the oracle's
SKIPPED = {"reasons.h"}  # makes names of reasons.def
CLASSIFIER = {  # what the classifier must be compiled with
    "classify.h",
    "classify_map.h",
    "classify_wide.h",
    "classify_512.h",
    "classify_512_burst.h",
    "base.h",
}
Made = dict[tuple[str, ...], Path | None]  # a mutant's engines, by their sources; None where one is not valid C

TOKEN = re.compile(
    r"//.*|/\*.*?\*/|\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*'|\b0x[0-9a-fA-F]+u?l*\b|\b\d+u?l*\b"
    r"|&&|\|\||[<>=!]=|<<|>>|->|\+\+|--|[-+*|&^]=|[<>!+\-&|]|\w+|\S"
)
NO_CODE = ("/*", "*", "#", "_Static_assert", "typedef", "PAL_INLINE", "PAL_OUTLINE", "static")
DECLARATION = re.compile(r"\s+(return|uint\w+|const|bool|\w+ \*?\w+ =|\w+ \*?\w+;)")
EQUIVALENT = ROOT / "native" / "tests" / "equivalent_mutants.txt"
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

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.old!r} -> {self.new!r}"


def mutants_of(path: Path) -> list[Mutant]:
    """All mutants of one header, outside comments, preprocessor lines, declarations of types and static assertions."""
    found: list[Mutant] = []
    dead = ""  # what ends the text that is no code
    for number, text in enumerate(path.read_text().splitlines(), 1):
        bare = text.strip()
        if dead:
            dead = "" if dead in bare else dead
            continue
        if bare.startswith(NO_CODE):
            if "/*" in bare and "*/" not in bare:
                dead = "*/"
            elif bare.startswith("_Static_assert") and not bare.endswith(";"):
                dead = ";"
            continue
        if "prefetch_" in bare:  # a hint to the processor: no result depends on it
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


def lines_compiled(path: Path) -> set[int]:
    """The lines of a header that this machine's preprocessor lets through: not those for another byte order."""
    command = ["gcc", "-E", "-Inative/include", "-Inative", str(path)]
    text = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    found, here, number = set(), False, 0
    for line in text.splitlines():
        marker = re.match(r'# (\d+) "(.*?)"', line)
        if marker:
            number, here = int(marker[1]), marker[2] == str(path)
            continue
        if here and line.strip():
            found.add(number)
        number += 1
    return found


@functools.cache
def equivalents_read() -> dict[tuple[str, str, int, str, str], str]:
    """Mutants that change no result, by (header, line's text, column in it, old, new), and why not."""
    found = {}
    for line in EQUIVALENT.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            header, text, column, change, reason = (part.strip() for part in line.split(" ¦ "))
            old, _, new = (part.strip() for part in change.partition("→"))  # nothing behind it: left out
            found[header, text, int(column), old, new] = reason
    return found


def reason_of(mutant: Mutant, line: str) -> str | None:
    """Why a mutant of this line changes no result, where that is known: it is not tried."""
    text, indent = line.strip(), len(line) - len(line.lstrip())
    return equivalents_read().get((mutant.file, text, mutant.column - indent, mutant.old, mutant.new))


def mutants_drawn(count: int, seed: int) -> list[Mutant]:
    """The first `count` of all mutants in the order of this seed."""
    headers = sorted(path for path in (ROOT / "native" / "core").glob("*.h") if path.name not in SKIPPED)
    drawn = [mutant for path in headers for mutant in mutants_of(path)]
    random.Random(seed).shuffle(drawn)
    alive = {path.name: lines_compiled(path) for path in headers}
    return [mutant for mutant in drawn if mutant.line in alive[mutant.file]][:count]


def digest_of(*folders: str) -> str:
    """A name for what these folders of native/ hold."""
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted((ROOT / "native" / folder).rglob("*.[chd]*")):
            digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def mutated(mutant: Mutant, native: Path) -> Iterator[None]:
    """A copy of native/ with the mutant in it."""
    target = native / "core" / mutant.file
    original = target.read_text()
    lines = original.splitlines()
    line = lines[mutant.line - 1]
    assert line[mutant.column :].startswith(mutant.old)
    lines[mutant.line - 1] = line[: mutant.column] + mutant.new + line[mutant.column + len(mutant.old) :]
    target.write_text("\n".join(lines) + "\n")
    try:
        yield
    finally:
        target.write_text(original)


class Tests:
    """The C tests: how each is compiled, which headers it includes, and what it has killed."""

    FLAGS = ("-std=gnu11", "-O0", "-w", "-fno-wrapv", "-Inative/include", "-Inative")
    SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all")

    def __init__(self, folder: Path, *, sanitized: bool = False) -> None:
        self._flags = self.FLAGS + (self.SANITIZERS if sanitized else ())
        self._seconds = PROCESSOR_SECONDS * (4 if sanitized else 1)
        self._kind = "sanitized" if sanitized else "classifier"
        self.names = sorted(path.stem for path in (ROOT / "native" / "tests").glob("test_*.c"))
        self.kills: Counter[tuple[str, str]] = Counter()
        self._compiler = "clang" if shutil.which("clang") else "gcc"  # clang takes half the time without optimising
        self._headers: dict[str, str] = {}
        self._engine: dict[str, tuple[str, ...]] = {}  # of tests with a whole engine in them: its sources
        self._sound: set[str] = set()
        self._lock = threading.Lock()
        self._objects_lock = threading.Lock()
        self._pristine = folder
        self._objects: list[str] = []
        self._prepare(folder)

    def _prepare(self, folder: Path) -> None:
        for name in self.names:
            source = f"native/tests/{name}.c"
            command = [self._compiler, *self.FLAGS, "-MM", source]
            self._headers[name] = self._run(command, folder)
            if "support/rig.h" in self._headers[name]:
                linked = set(self._run([*command, "-DRIG_LINKED"], folder).split())  # the test includes these itself
                sources = [word for word in self._headers[name].split() if word.endswith(".c") and word not in linked]
                self._engine[name] = tuple(sources)

    @staticmethod
    def _run(command: list[str], folder: Path) -> str:
        return subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True).stdout

    def _classifier(self) -> list[str]:
        """The classifier's objects, made once: the same from run to run while the core is the same."""
        with self._objects_lock:
            if not self._objects:
                kept = ROOT / "build" / f"{self._kind}-{digest_of('core', 'engine', 'include')}"
                kept.mkdir(parents=True, exist_ok=True)
                for source in sorted((self._pristine / "native" / "engine").glob("classifier*.c")):
                    target = kept / f"{source.stem}.o"
                    if not target.exists():
                        fresh = target.with_suffix(f".{os.getpid()}")
                        command = [self._compiler, *self._flags, "-O1", "-c", str(source), "-o", str(fresh)]
                        self._run(command, self._pristine)
                        fresh.replace(target)
                    self._objects.append(str(target))
            return self._objects

    def _links(self, name: str, header: str, folder: Path, made: Made) -> list[str] | None:
        """What a test is linked with; its engine is compiled once for a mutant, as one file. None: it is no valid C."""
        own, links = self._engine[name], []
        if header not in CLASSIFIER:
            own = tuple(source for source in own if "/classifier" not in source)
            links = self._classifier()
        if own not in made:
            together, target = folder / f"engine-{len(made)}.c", folder / f"engine-{len(made)}.o"
            together.write_text("".join(f'#include "{source}"\n' for source in own))
            command = [self._compiler, *self._flags, "-I.", "-DRIG_LINKED", "-c", together.name, "-o", target.name]
            done = subprocess.run(command, cwd=folder, capture_output=True, check=False)
            made[own] = target if done.returncode == 0 else None
        engine = made[own]
        return None if engine is None else ["-DRIG_LINKED", str(engine), *links]

    def ordered(self, header: str) -> list[str]:
        """The tests that include a header, the likeliest to notice first."""
        known = [name for name in self.names if f"core/{header} " in self._headers[name].replace("\n", " \n")]
        own = f"test_{Path(header).stem}"
        return sorted(known, key=lambda name: (-self.kills[header, name], name != own, name in self._engine))

    def must_pass(self, name: str, header: str) -> None:
        """What fails without any mutant would find them all."""
        with self._lock:
            if name not in self._sound and self.noticed(name, header, self._pristine, {}) is not None:
                raise SystemExit(f"{name} fails without any mutant")
            self._sound.add(name)

    def noticed(self, name: str, header: str, folder: Path, made: Made) -> str | None:
        """Compile one test with what is in `folder` and run it: what happened, None when it passed."""
        program = folder / name
        links: list[str] | None = self._links(name, header, folder, made) if name in self._engine else []
        if links is None:
            return "compiler"
        # The classifier's test needs a minute without optimising.
        flags = [*self._flags, "-O1"] if name == "test_classify" else self._flags
        command = [self._compiler, *flags, f"native/tests/{name}.c", *links, "-o", str(program)]
        if subprocess.run([*command, "-lm", "-lpthread"], cwd=folder, capture_output=True, check=False).returncode != 0:
            return "compiler"
        limited = ["sh", "-c", f"ulimit -t {self._seconds}; exec {program}"]
        try:
            runs = (subprocess.run(limited, capture_output=True, check=False, timeout=SECONDS) for _ in range(FAILURES))
            return name if all(done.returncode != 0 for done in runs) else None
        except subprocess.TimeoutExpired:
            return f"{name} (does not end)"


def first_stage(mutant: Mutant, tests: Tests, folder: Path) -> str | None:
    """Which C test notices the mutant, or "compiler"; None when none does."""
    made: Made = {}
    with mutated(mutant, folder / "native"):
        for name in tests.ordered(mutant.file):
            by = tests.noticed(name, mutant.file, folder, made)
            if by is not None:
                tests.must_pass(name, mutant.file)
                tests.kills[mutant.file, name] += 1
                return by
    return None


class Trial:
    """The second stage: one core, built aside with one mutant after the other."""

    def __init__(self, folder: Path) -> None:
        self._core = CoreBuild(folder)
        self._lock = threading.Lock()
        self._begun = False
        self.kills: Counter[tuple[str, str]] = Counter()

    def _begin(self) -> None:
        prepare = [sys.executable, "-m", "tests.support.mutant_trial", "--prepare", str(ANSWERS)]
        subprocess.run(prepare, cwd=ROOT, check=True)
        self._core.prepare()
        found = self._run(self._core.unchanged(), [])
        if found is not None:
            raise SystemExit(f"the core differs from the oracle without any mutant: {found}")
        self._begun = True

    def noticed(self, mutant: Mutant) -> str | None:
        """ "equivalent", or what of the differential tests notices the mutant; None when nothing does."""
        with self._lock:
            if not self._begun:
                self._begin()
            with mutated(mutant, self._core.native):
                module = self._core.build(mutant.file)
            if module is None:
                return "equivalent"
            first = [by for (header, by), _ in self.kills.most_common() if header == mutant.file]
            by = self._run(module, first)
            if by is not None:
                self.learn(mutant, by)
            return by

    def learn(self, mutant: Mutant, by: str) -> None:
        """What has noticed a mutant of this header is asked first next time."""
        if piece := re.fullmatch(r"trial \((seed.*|captures.*|host|limits)\)", by):
            self.kills[mutant.file, piece[1]] += 1

    @staticmethod
    def _run(module: Path, first: list[str]) -> str | None:
        command = [sys.executable, "-m", "tests.support.mutant_trial", str(ANSWERS), "--first", *first]
        environment = os.environ | {"PYTHONPATH": f"{module.parent}{os.pathsep}{ROOT}"}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS
            )
        except subprocess.TimeoutExpired:
            return "trial (does not end)"
        if done.returncode == 0:
            return None
        return (done.stdout.strip().splitlines() or [f"trial (status {done.returncode})"])[-1]


class Report:
    """The results on disk: a line for each mutant, for one state of native/core."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._core = digest_of("core", "engine", "include")
        self._lock = threading.Lock()
        self.known: dict[Mutant, str | None] = {}
        if path.exists():
            for line in path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if row["core"] == self._core:
                    self.known[Mutant(*row["mutant"])] = row["by"]
        path.parent.mkdir(parents=True, exist_ok=True)

    def add(self, mutant: Mutant, by: str | None) -> None:
        """Keep and say what came of a mutant."""
        with self._lock:
            self.known[mutant] = by
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"core": self._core, "mutant": list(mutant), "by": by}) + "\n")
            print(f"{mutant}: {by or 'SURVIVED'}", flush=True)


def try_all(mutants: list[Mutant], report: Report, workers: int, *, trial: bool) -> None:
    """Every mutant of which nothing is known, or that survived before."""
    left = [mutant for mutant in mutants if report.known.get(mutant) is None]
    left.sort(key=lambda mutant: mutant not in report.known)  # survivors first: somebody has written tests for them
    if not left:
        return
    with tempfile.TemporaryDirectory() as name:
        folders: queue.SimpleQueue[Path] = queue.SimpleQueue()
        pristine = Path(name) / "pristine"
        for folder in [pristine, *(Path(name) / str(number) for number in range(workers))]:
            shutil.copytree(ROOT / "native", folder / "native")
            inline_by_choice(folder / "native")
            if folder != pristine:
                folders.put(folder)
        tests = Tests(pristine)
        second = Trial(Path(name) / "core") if trial else None
        third = Tests(pristine, sanitized=True) if trial else None
        for mutant, by in report.known.items():  # what found mutants before will again
            if by is not None:
                tests.kills[mutant.file, by.split()[0]] += 1
                if second is not None:
                    second.learn(mutant, by)

        def one(mutant: Mutant) -> None:
            folder = folders.get()
            try:
                by = first_stage(mutant, tests, folder)
                if by is None and second is not None:
                    by = second.noticed(mutant)
                if by is None and third is not None and (last := first_stage(mutant, third, folder)):
                    by = f"{last} (sanitizers)"
                report.add(mutant, by)
            finally:
                folders.put(folder)

        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            list(pool.map(one, left))


def main() -> int:
    """Draw mutants by seed, try each, report; the status to exit with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--floor", type=float, default=0.95)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--report", type=Path, default=ROOT / "build" / "mutants.jsonl")
    parser.add_argument("--no-trial", dest="trial", action="store_false", help="C tests only")
    given = parser.parse_args()
    drawn = mutants_drawn(given.count, given.seed)
    report = Report(given.report)
    lines = {path.name: path.read_text().splitlines() for path in (ROOT / "native" / "core").glob("*.h")}
    reasons = {mutant: reason_of(mutant, lines[mutant.file][mutant.line - 1]) for mutant in drawn}
    try_all([mutant for mutant in drawn if reasons[mutant] is None], report, given.workers, trial=given.trial)
    results, survivors = {}, []
    for mutant in drawn:
        by = report.known.get(mutant)
        if by is None and reasons[mutant] is not None:
            print(f"equivalent {mutant}: {reasons[mutant]}")
            by = "named"
        elif by is None:
            print(f"SURVIVED {mutant}\n    {lines[mutant.file][mutant.line - 1].strip()}")
            survivors.append(mutant)
        results[mutant] = by
    counted = {mutant: by for mutant, by in results.items() if by not in ("compiler", "equivalent", "named")}
    found = len(counted) - len(survivors)
    by_trial = sum(by is not None and not by.startswith("test_") for by in counted.values())
    out = Counter(results.values())
    print(f"{found} of {len(counted)} found: {found - by_trial} by C tests, {by_trial} by the differential trial")
    print(f"not counted: {out['equivalent']} with the same object code, {out['named']} equivalent for a reason that")
    print(f"{EQUIVALENT.name} gives, {out['compiler']} that do not compile")
    return 0 if counted and found >= given.floor * len(counted) else 1


if __name__ == "__main__":
    sys.exit(main())
