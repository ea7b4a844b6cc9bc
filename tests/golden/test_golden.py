# SPDX-License-Identifier: Apache-2.0
"""The policy corpus: what each policy compiles to, and what each bad one is refused with.

NNN-slug/       in.* -> expected.txt (the compiled arrays, decoded); written back as NSX documents and loaded again it
                compiles to the same; compiled twice it is the same.
fail-NNN-slug/  in.* -> message.txt: every line that the user sees, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dfw.check import check_files
from dfw.compile import compile_policy
from dfw.documents import documents_parse
from dfw.errors import PolicyError
from dfw.load import Loaded, load, load_documents
from tests.support.policy_text import compiled_text, nsx_documents

HERE = Path(__file__).parent
GOOD = sorted(path for path in HERE.iterdir() if path.is_dir() and path.name[:3].isdigit())
BAD = sorted(HERE.glob("fail-*"))


def inputs(case: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The case's input files, named as a user in that directory would."""
    monkeypatch.chdir(case)
    return sorted(path.name for path in case.glob("in*"))


def expect(request: pytest.FixtureRequest, file: Path, text: str) -> None:
    if request.config.getoption("--update-golden", default=False):
        file.write_text(text, encoding="utf-8")
    assert text == file.read_text(encoding="utf-8")


def text_of(loaded: Loaded) -> str:
    return compiled_text(compile_policy(loaded.world), loaded)


def test_corpus_is_there() -> None:
    assert len(GOOD) >= 20
    assert len(BAD) >= 60


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_compiles_to(case: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    expect(request, case / "expected.txt", text_of(load(inputs(case, monkeypatch))))


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_written_back_means_the_same(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = inputs(case, monkeypatch)
    loaded = load(files)
    written = "\n".join(json.dumps(document) for document in nsx_documents(loaded.world)).encode()
    inventory = [
        document
        for file in files
        for document in documents_parse(Path(file).read_bytes(), file)
        if (kind := document.root.get("kind")) is not None and kind.value != "List"
    ]
    again = load_documents([*inventory, *documents_parse(written, "written.json")])
    assert text_of(again) == text_of(loaded)


@pytest.mark.parametrize("case", GOOD, ids=lambda case: case.name)
def test_check_finds_no_error(case: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_files(tuple(inputs(case, monkeypatch)))["errors"] == []


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.name)
def test_is_refused_with(case: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    files = inputs(case, monkeypatch)
    with pytest.raises(PolicyError) as caught:
        load(files)
    expect(request, case / "message.txt", f"{caught.value}\n")
    assert all(problem.place.file in files and problem.place.line >= 1 for problem in caught.value.problems)
