# SPDX-License-Identifier: Apache-2.0
"""The house rules that a program can check: headers, lengths, words, and who may import or include what."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from dfw import core

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE_SUFFIXES = {".py", ".c", ".h", ".def", ".sh"}
MAX_LINES = 450

# Written in two halves, so that this file does not hold them.
UNFINISHED = [
    r"\bTO" r"DO\b",
    r"\bFIX" r"ME\b",
    r"\bXX" r"X\b",
    r"\bHA" r"CK\b",
    r"\bfor " r"now\b",
    r"\bsimpli" r"fied\b",
    r"\bplace" r"holder\b",
    r"\bNotImplemented" r"Error\b",
]
ELSEWHERE = [
    r"/wo" r"rk/",
    r"/ro" r"ot/",
    r"\bpypi\." r"org\b",
    r"\bfiles\.python" r"hosted\b",
    r"\bdeb\." r"debian\b",
    r"\bregistry\." r"npmjs\b",
    r"\bissues " r"show\b",
    r"\.lib" r"rary/",
]


@cache
def files() -> tuple[Path, ...]:
    """The files of the project: what git has or would take; without git, everything not made by a build."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode == 0:
        names = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        made = {"build", ".venv", ".setup", ".git", "__pycache__"}
        names = [path for path in ROOT.rglob("*") if not made & set(path.relative_to(ROOT).parts)]
    return tuple(sorted(path for path in names if path.is_file()))


def sources() -> Iterator[tuple[Path, str]]:
    """Source files with their text."""
    for path in files():
        if path.suffix in SOURCE_SUFFIXES or path.name in {"Makefile", "run"}:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")


def texts() -> Iterator[tuple[Path, str]]:
    """Every file that is text."""
    for path in files():
        try:
            yield path.relative_to(ROOT), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def found(patterns: list[str], text: str) -> list[str]:
    """`line: match` for every place where one of the patterns matches."""
    whole = re.compile("|".join(patterns))
    return [f"{number}: {m.group()}" for number, line in enumerate(text.splitlines(), 1) if (m := whole.search(line))]


def imports(path: Path, text: str) -> Iterator[str]:
    """Full names of the modules that a Python file imports, relative ones resolved."""
    package = [*path.parts[:-1]]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_the_lists_are_not_empty() -> None:
    names = {str(path) for path, _ in sources()}
    assert {"Makefile", ".ci/run", "dfw/cli.py", "native/include/palisade_core.h", "scripts/setup.sh"} <= names


def test_spdx_headers() -> None:
    line = "SPDX-License-Identifier: Apache-2.0"
    assert [str(path) for path, text in sources() if line not in "\n".join(text.splitlines()[:3])] == []


def test_file_length() -> None:
    lines = {str(path): len(text.splitlines()) for path, text in sources()}
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_nothing_unfinished() -> None:
    assert {str(path): hits for path, text in sources() if (hits := found(UNFINISHED, text))} == {}


def test_nothing_of_the_machine_it_was_written_on() -> None:
    assert {str(path): hits for path, text in texts() if (hits := found(ELSEWHERE, text))} == {}


def test_found_finds() -> None:
    assert found(UNFINISHED, "a\nb TO" + "DO c") == ["2: TO" + "DO"]
    assert found(ELSEWHERE, "cd /wo" + "rk/x") == ["1: /wo" + "rk/"]


def test_one_module_imports_the_core() -> None:
    importers = {
        str(path)
        for path, text in sources()
        if path.suffix == ".py" and "_palisade_core" in set(imports(path, text)) and path.parts[0] != "tests"
    }
    assert importers == {"dfw/core/binding.py"}


def test_oracle_imports_the_model_and_nothing_else_of_ours() -> None:
    ours = ("dfw", "overlay", "supervisor_glue", "_palisade_core")
    allowed = ("dfw.model", "dfw.oracle")
    for path, text in sources():
        if path.suffix == ".py" and (path.parts[:2] == ("dfw", "oracle") or str(path) == "dfw/oracle.py"):
            for name in imports(path, text):
                if name.split(".")[0] in ours and name != "dfw":
                    assert name.startswith(allowed), f"{path} imports {name}"


def test_model_imports_nothing_else_of_ours() -> None:
    for path, text in sources():
        if path.suffix == ".py" and path.parts[:2] == ("dfw", "model"):
            for name in imports(path, text):
                assert name.split(".")[0] != "dfw" or name.startswith("dfw.model"), f"{path} imports {name}"


def test_gpl_tools_stay_in_tests_and_benchmarks() -> None:
    for path, text in sources():
        if path.suffix == ".py" and any(name.split(".")[0] == "scapy" for name in imports(path, text)):
            assert path.parts[0] in {"tests", "benchmarks"}, path


def test_core_stages_are_pure() -> None:
    """native/core: no malloc, no system call, no clock, no stdio (DESIGN section 2)."""
    forbidden = [
        r"#include\s*<(stdio|stdlib|time|unistd|errno|pthread|sys/[a-z_]+)\.h>",
        r"\b(m|c|re)alloc\s*\(",
        r"(?<![\w.>])(free|printf|fprintf|clock_gettime|gettimeofday|time)\s*\(",
    ]
    core = [(path, text) for path, text in sources() if path.parts[:2] == ("native", "core")]
    assert core
    assert {str(path): hits for path, text in core if (hits := found(forbidden, strip_comments(text)))} == {}


def test_reasons_page_is_up_to_date() -> None:
    """docs/reasons.md is what scripts/reasons_doc.py makes of reasons.def, and the core has the same words."""
    spec = importlib.util.spec_from_file_location("reasons_doc", ROOT / "scripts" / "reasons_doc.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    reasons = module.read_reasons(module.SOURCE.read_text(encoding="utf-8"))
    assert module.TARGET.read_text(encoding="utf-8") == module.render_reasons(reasons), "run scripts/reasons_doc.py"
    assert list(core.REASONS) == [reason.word for reason in reasons]
    assert list(core.REASONS_NSX) == [reason.nsx for reason in reasons]
    assert list(core.REASON_TEXTS) == [reason.meaning for reason in reasons]


def strip_comments(text: str) -> str:
    """C text with its comments blanked, line numbers kept."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", lambda m: re.sub(r"[^\n]", " ", m.group()), text, flags=re.DOTALL)
