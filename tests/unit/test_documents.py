# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON with places: what is read as what, what is refused where, and that nothing else ever comes out."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dfw import documents
from dfw.documents import MAXIMUM_ALIASES, MAXIMUM_DEPTH, Node, documents_parse, documents_read
from dfw.errors import PolicyError


def plain(text: str | bytes, file: str = "f.yaml") -> list[Any]:
    data = text.encode() if isinstance(text, str) else text
    return [document.root.plain() for document in documents_parse(data, file)]


def refused(text: str | bytes, file: str = "f.yaml") -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        plain(text, file)
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-5", -5),
        ("1_000", "1_000"),
        ("02:00:00:00:01:01", "02:00:00:00:01:01"),
        ("190:20:30", "190:20:30"),
        ("2001-12-14", "2001-12-14"),
        ("1.5", 1.5),
        ("1e3", 1000.0),
        ("true", True),
        ("True", True),
        ("'true'", "true"),
        ("~", None),
        ("null", None),
        ("", None),
        ("'~'", "~"),
        ("!!str 80", "80"),
        ("! 80", "80"),
        ("!!int 80", 80),
        ("<<", "<<"),
        ("|\n  10\n", "10\n"),
    ],
)
def test_core_schema(text: str, value: object) -> None:
    (found,) = plain(f"a: {text}")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_many_documents_without_the_empty_ones() -> None:
    assert plain("a: 1\n---\n---\n# only a comment\n---\nb: 2\n...\n") == [{"a": 1}, {"b": 2}]


def test_places() -> None:
    (document,) = documents_parse("ü: [x, {b: y}]\n\n'k': >\n  text\n".encode(), "f")
    root = document.root
    assert isinstance(root.value, dict)
    items = root.value["ü"].value
    assert isinstance(items, list)
    assert [(node.line, node.column) for node in items] == [(1, 5), (1, 8)]
    assert root.keys == {"ü": (1, 1), "k": (3, 1)}


def test_places_in_json() -> None:
    (document,) = documents_parse(b'{\n  "a": [1,\n\t{"b": null}]\n}', "f.json")
    items = document.root.get("a")
    assert items is not None
    assert isinstance(items.value, list)
    assert [(node.line, node.column) for node in items.value] == [(2, 9), (3, 2)]
    assert items.value[1].keys == {"b": (3, 3)}


def test_json_that_yaml_parsers_refuse() -> None:
    text = '{\n\t"slash": "a\\/b",\t"pair": "\\ud83d\\ude00", "tab":\t1}'
    assert plain(text) == [{"slash": "a/b", "pair": "\U0001f600", "tab": 1}]


def test_flow_yaml_is_no_json_and_still_read() -> None:
    assert plain("{a: b, c: [d]}") == [{"a": "b", "c": ["d"]}]


def test_byte_order_mark() -> None:
    assert plain(b"\xef\xbb\xbfa: 1") == [{"a": 1}]


@pytest.mark.parametrize(
    ("text", "line", "column", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 1, "'a' was already given in line 1"),
        ("a: {b: 1, b: 2}", 1, 11, "already given"),
        ("1: a", 1, 1, "1 as a key is not text; write it in quotes"),
        ("true: a", 1, 1, "true as a key"),
        ("? [a]\n: b", 1, 3, "a list or mapping as a key"),
        ("a: !!python/object:os.system x", 1, 4, "tag !!python/object:os.system is not accepted"),
        ("a: !local x", 1, 4, "tag !local"),
        ("a: !!binary aGk=", 1, 4, "tag !!binary"),
        ("a: !!set {x: }", 1, 4, "tag !!set"),
        ("a: !!int x", 1, 4, "does not fit"),
        ("a: &x [*x]", 1, 8, "stands inside what it names"),
        ("a: *x", 1, 4, "names no anchor"),
        ("a: &x 1\n---\nb: *x", 3, 4, "names no anchor"),
        ("a: b: c", 1, 5, "not valid YAML"),
        ("a: [1, 2", 2, 1, "not valid YAML"),
        ("a: \x07", 1, 4, "U+0007"),
        ("ä: ö\nb: \x00", 2, 4, "U+0000"),
        ("a: " + "9" * 65, 1, 4, "65 characters is too long"),
        (b"a: 1\nb: \xe9", 2, 4, "0xe9 is not UTF-8"),
        (b"\xfe\xffa", 1, 1, "not UTF-8"),
    ],
)
def test_refused_with_its_place(text: str | bytes, line: int, column: int, says: str) -> None:
    error = refused(text)
    assert (error.file, error.line, error.column) == ("f.yaml", line, column)
    assert says in error.message


def test_all_problems_of_a_file_and_of_all_files(tmp_path: Path) -> None:
    assert len(refused("a: 1\na: 2\nb: {c: 1, c: 2}\n").problems) == 2
    files = []
    for number in range(3):
        file = tmp_path / f"{number}.yaml"
        file.write_text("a: 1\na: 2\n" if number != 1 else "a: 1\n")
        files.append(str(file))
    with pytest.raises(PolicyError) as caught:
        documents_read(files)
    assert [problem.place.file for problem in caught.value.problems] == [files[0], files[2]]


def test_depth() -> None:
    deepest = "[" * (MAXIMUM_DEPTH - 1) + "]" * (MAXIMUM_DEPTH - 1)
    assert len(plain(f"a: {deepest}")) == 1
    assert "levels deep" in refused(f"a: [{deepest}]").message
    assert "levels deep" in refused("[" * 100_000).message
    assert "levels deep" in refused("[" * 100_000, "f.json").message
    assert "levels deep" in refused('{"a":' * 100_000).message


def test_depth_counts_what_aliases_stand_for() -> None:
    half = MAXIMUM_DEPTH // 2
    chain = f"a: &a {'[' * half}{']' * half}\nb: {'[' * half}*a{']' * half}\n"
    assert "levels deep" in refused(chain).message


def test_aliases() -> None:
    few = "\n".join(["a: &a [1]", *(f"b{n}: *a" for n in range(MAXIMUM_ALIASES))])
    (found,) = plain(few)
    assert len(found) == MAXIMUM_ALIASES + 1
    assert "aliases" in refused(few + "\nc: *a").message


def test_alias_bomb_is_refused_before_it_is_walked() -> None:
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x,x]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    assert "stand for more than" in refused("\n".join(lines)).message


def test_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(documents, "MAXIMUM_BYTES", 10)
    assert plain("a: 3456789") == [{"a": 3456789}]
    assert "larger" in refused("a: 34567890").message
    file = tmp_path / "f"
    file.write_text("a: 34567890")
    with pytest.raises(PolicyError):
        documents_read([str(file)])


@pytest.mark.parametrize("text", ["a: [1, 2]\n---\nb: {}", '{"a": [1, 2]} {"b": {}}'], ids=["yaml", "json"])
def test_keys_and_values_are_counted(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(documents, "MAXIMUM_NODES", 8)
    assert plain(text) == [{"a": [1, 2]}, {"b": {}}]
    monkeypatch.setattr(documents, "MAXIMUM_NODES", 7)
    [problem] = refused(text).problems
    assert problem.message == "more than 7 keys and values; split the file"
    assert (problem.place.line, problem.place.column) == ((3, 4) if text.startswith("a") else (1, 21))


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stdin:
        buffer = io.BytesIO(b"a: 1\na: 2")

    monkeypatch.setattr(sys, "stdin", Stdin)
    with pytest.raises(PolicyError) as caught:
        documents_read(["-"])
    assert str(caught.value).startswith("-:2:1: ")


@pytest.mark.parametrize("name", ["absent.yaml", ".", "nul\0byte"])
def test_unreadable_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PolicyError) as caught:
        documents_read([name])
    assert "cannot be read" in caught.value.message


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ('{"a": 1, "a": 2}', 10, "already given"),
        ('{"a": 1,}', 9, "a key in double quotes is missing"),
        ('{"a" 1}', 6, "':' is missing"),
        ("[1, 2,]", 7, "a value is missing"),
        ("[1 2]", 4, "',' is missing"),
        ("[01]", 3, "',' is missing"),
        ("[NaN]", 2, "not a value"),
        ('["\\ud800"]', 2, "surrogate"),
        ('["\\x"]', 3, "escape"),
        ('["a\nb"]', 4, "control character"),
        ('["open', 2, "Unterminated"),
        ("[" + "1" * 65 + "]", 2, "too long"),
        ("[", 2, "a value is missing"),
    ],
)
def test_json_refused_with_its_place(text: str, column: int, says: str) -> None:
    error = refused(text, "f.json")
    assert (error.line, error.column) == (1, column)
    assert says in error.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**60), 10**60) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(JSON, max_size=3), st.sampled_from([None, 1, "\t"]))
def test_json_is_read_as_the_standard_library_reads_it(values: list[Any], indent: int | str | None) -> None:
    text = "\n".join(json.dumps(value, indent=indent) for value in values)
    assert plain(text, "f.json") == [value for value in values if value is not None]


@given(JSON)
def test_json_as_a_yaml_file(value: Any) -> None:
    text = json.dumps({"a": value})
    assert plain(text) == [{"a": value}]


FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *"{}[],:&*!|>-?'\"#%@ \n\t~",
            "a",
            "b: ",
            "- ",
            "&x ",
            "*x",
            "!!int ",
            "---\n",
            "...\n",
            "  ",
            "1e9",
            "\\u",
            "0x",
        ]
    ),
    max_size=40,
).map("".join)


def walk(node: Node) -> int:
    inner = node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    assert node.line >= 1
    assert node.column >= 1
    return 1 + sum(map(walk, inner))


def read_or_refused(data: bytes) -> None:
    for file in ("f.yaml", "f.json"):
        try:
            for document in documents_parse(data, file):
                walk(document.root)
        except PolicyError as error:
            assert error.problems
            assert all(problem.place.line >= 1 and problem.place.column >= 1 for problem in error.problems)
            str(error).encode()


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b"\x80")
@example(b"a: !!float .")
@example(b"a: !!int -")
@example(b"a: !!bool x")
def test_only_policy_errors_come_out_of_any_bytes(data: bytes) -> None:
    read_or_refused(data)


@given(FRAGMENTS)
def test_only_policy_errors_come_out_of_broken_documents(text: str) -> None:
    read_or_refused(text.encode())


@pytest.mark.parametrize("file", ["f.json", "f.yaml", "-"])
def test_json_documents_may_have_a_line_of_dashes_between_them(file: str) -> None:
    assert plain('---\n{"a": "---"}\n--- \n{"a": 2}\n---\n', file) == [{"a": "---"}, {"a": 2}]


def test_dashes_within_a_json_document_or_a_line_are_refused() -> None:
    assert refused('{"a":\n---\n1}', "f.json").line == 2
    assert refused('{"a": 1} ---\n{"a": 2}', "f.json").column == 10
