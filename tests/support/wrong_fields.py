# SPDX-License-Identifier: Apache-2.0
"""Fields wrong in every way, generated from the tables that the front ends read by; and where the refusals stand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from dfw.documents import Node, documents_parse
from dfw.errors import PolicyError
from dfw.fields import Field, Read, shape_of
from dfw.load import load_documents

FILE = "f.json"
LONG = "x" * 5000
ANYTHING: list[Any] = [{"a": {"b": 1}}, [[1]], 1.5, True]


class Kind(NamedTuple):
    """A kind of object: its table, one that is right, the document around it, and where in that it stands."""

    table: Mapping[str, Field]
    valid: Mapping[str, Any]
    document: Mapping[str, Any]
    at: tuple[str | int, ...] = ()

    def wrapped(self, item: Any) -> Any:
        """The document with `item` in its place."""
        return _put(self.document, self.at, item) if self.at else {**self.document, **item}


def _put(value: Any, at: tuple[str | int, ...], item: Any) -> Any:
    if not at:
        return item
    if isinstance(at[0], int):
        return [_put(value[0] if value else None, at[1:], item)]
    return {**(value or {}), at[0]: _put((value or {}).get(at[0]), at[1:], item)}


def wrong_values(read: Read) -> Iterator[Any]:
    """Values of other types, and out of range, for a reader."""
    shape = shape_of(read)
    if shape is None:
        yield from ANYTHING
        return
    yield {"a": 1}
    match shape.kind:
        case "integer":
            assert shape.most is not None
            yield from ([], ["1"], "1", "", 1.5, True, shape.least - 1, shape.most + 1, 10**30, -(10**30))
        case "text":
            yield from ([], ["x"], 1, 1.5, True, LONG, *([""] if shape.least else []))
        case "boolean":
            yield from ([], [True], "true", 1, 0, "")
        case "choice":
            yield from ([], [shape.words[0]], 1, True, "nonsense", shape.words[0] + "x", LONG)
            yield from ([] if "" in shape.words else [""])
        case "parsed":
            yield from ([], 1, 1.5, True, "", "?!", LONG, "\u0661", "-1", "1/2/3/4")
        case "reference":
            yield from ([], ["x"], 1.5, True, "", -1, "nowhere/to/be/found")
        case "identifier":
            yield from ([], ["x"], 1.5, True, "", -1, "a/b", " a", "a\u0001", LONG)
        case "list":
            assert shape.item is not None
            yield from ("x", 1, True)
            if shape.least:
                yield []
            if shape.most is not None:
                yield [{}] * (shape.most + 1)
            yield from ([item] for item in wrong_values(shape.item))


def may_take(read: Read) -> bool:
    """May this reader take some of `wrong_values`? One of a front end's own making may, alone or in a list."""
    shape = shape_of(read)
    return shape is None or (shape.item is not None and may_take(shape.item))


def documents(*items: Any) -> bytes:
    """As one JSON file, an item a line and more."""
    return "\n".join(json.dumps(item, indent=1) for item in items).encode()


def problems_of(*items: Any) -> list[tuple[str, int, str]]:
    """Path, line and message of each problem; none where they load."""
    try:
        load_documents(documents_parse(documents(*items), FILE))
    except PolicyError as error:
        assert all(problem.place.file == FILE for problem in error.problems)
        return [(problem.place.path, problem.place.line, problem.message) for problem in error.problems]
    return []


def text_of(at: tuple[str | int, ...]) -> str:
    """As paths are written: rules[0].action."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".")


def lines_of(document: Any, at: tuple[str | int, ...]) -> range:
    """The lines that a value and its key take in the text."""
    (read,) = documents_parse(documents(document), FILE)
    node, first = read.root, 1
    for part in at:
        assert isinstance(node.value, dict | list)
        if isinstance(part, str):
            first = node.keys[part][0]
        node = node.value[part]  # type: ignore[index, call-overload]
    return range(first, _last_line(node) + 1)


def _last_line(node: Node) -> int:
    inner = node.value.values() if isinstance(node.value, dict) else node.value if isinstance(node.value, list) else ()
    return max([node.line, *map(_last_line, inner)])
