# SPDX-License-Identifier: Apache-2.0
"""Reading the fields of a document by a table: every problem with its place, none of them ending the reading.

A table maps field names to `Field`s. Front ends hold one table for each kind of object; nothing else decides what a
field may hold, so that tests and schemas are generated from the same tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

from dfw.documents import Document, Node, value_text
from dfw.errors import Problem
from dfw.model import Place

MAXIMUM_GUESSES = 20
MAXIMUM_CHOICES = 4000


class Cursor(NamedTuple):
    """A node being read: where it is, and where problems with it go."""

    document: Document
    node: Node
    path: str
    problems: list[Problem]

    @property
    def place(self) -> Place:
        """The node's place."""
        return self.document.place(self.node, self.path)

    @property
    def value(self) -> Any:
        """The node's value."""
        return self.node.value

    def problem(self, message: str) -> None:
        """Report a problem with this node."""
        self.problems.append(Problem(self.place, message))

    def member(self, key: str) -> Cursor:
        """The value under a key of this mapping."""
        assert isinstance(self.node.value, dict)
        return self._replace(node=self.node.value[key], path=_joined(self.path, key))

    def key(self, key: str) -> Cursor:
        """The key itself: the place for a problem with the field's being there at all."""
        line, column = self.node.keys[key]
        return self._replace(node=Node(key, line, column), path=_joined(self.path, key))

    def items(self) -> list[Cursor]:
        """The members of this list."""
        nodes = self.node.value if isinstance(self.node.value, list) else []
        return [self._replace(node=node, path=f"{self.path}[{index}]") for index, node in enumerate(nodes)]


def _joined(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


class Written(NamedTuple):
    """A text and where it was written: a reference to be resolved once everything has been read."""

    text: str
    place: Place


Read: TypeAlias = Callable[[Cursor], Any]
"""Reads a node: the value, or None after reporting a problem."""


class Shape(NamedTuple):
    """What a reader takes, for tests and schemas that are generated from the tables. `kind`: integer, text, boolean,
    choice, list, parsed, reference. `least`, `most`: of the number, the characters or the entries."""

    kind: str
    least: int = 0
    most: int | None = None
    words: tuple[str, ...] = ()
    item: Read | None = None


def shape_of(read: Read) -> Shape | None:
    """What a reader takes; None for readers of their own making."""
    found = getattr(read, "shape", None)
    return found if isinstance(found, Shape) else None


def shaped(read: Read, shape: Shape) -> Read:
    """The reader, with what it takes written on it."""
    read.__dict__["shape"] = shape
    return read


class Field(NamedTuple):
    """How one field is read. `null` counts as absent, as NSX's own clients send it."""

    read: Read
    required: bool = False
    default: Any = None


def ignored(cursor: Cursor) -> None:
    """A field that a server sets, or that does not concern us: anything is accepted."""


def unsupported(instead: str, *harmless: Any) -> Read:
    """A known field that we do not act on: refused unless empty or one of the harmless values."""

    def read(cursor: Cursor) -> None:
        plain = cursor.node.plain()
        if plain not in ([], {}, "", *harmless):
            cursor.problem(f"not supported; {instead}")

    return read


def nearest(text: str, choices: Iterable[str], problems: list[Problem]) -> str:
    """`; did you mean X?` where a choice is close, else nothing. A path gets no guess.

    Guessing is costly: only for the first problems, and among the first thousands of choices.
    """
    if text.startswith("/") or len(problems) >= MAXIMUM_GUESSES:
        return ""
    choices = islice(choices, MAXIMUM_CHOICES)
    import difflib  # only on the way to an error

    folded = {choice.casefold(): choice for choice in choices}
    found = difflib.get_close_matches(text.casefold(), folded, n=1, cutoff=0.6)
    return f"; did you mean {folded[found[0]]}?" if found else ""


def shown_value(value: object) -> str:
    """What was written, for a message: its type where it is a list or mapping, text in quotes."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    return value_text(value) if not isinstance(value, str) else repr(value_text(value))


def text(maximum: int = 1024, *, empty: bool = False) -> Read:
    """Text of at most `maximum` characters."""

    def read(cursor: Cursor) -> str | None:
        value = cursor.node.value
        if not isinstance(value, str):
            cursor.problem(f"{shown_value(value)} is not text{_quote_hint(value)}")
        elif not value and not empty:
            cursor.problem("must not be empty")
        elif len(value) > maximum:
            cursor.problem(f"{len(value)} characters are too many (at most {maximum})")
        else:
            return value
        return None

    return shaped(read, Shape("text", 0 if empty else 1, maximum))


def _quote_hint(value: object) -> str:
    return "" if isinstance(value, dict | list) else "; write it in quotes"


def identifier(cursor: Cursor) -> str | None:
    """An id: text without `/`, or a number (some NSX clients send one)."""
    value = cursor.value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    found = text(255)(cursor)
    if found is None:
        return None
    if "/" in found or not found.isprintable() or found != found.strip():
        cursor.problem(f"{found!r} is not an id: no '/', no control characters, no blanks around it")
        return None
    if found in (".", ".."):  # a host's folder in a lab has the host's name
        cursor.problem(f"{found!r} is not an id: it would be a folder's own name")
        return None
    return str(found)


shaped(identifier, Shape("identifier", 1, 255))


def integer(least: int, most: int, what: str = "") -> Read:
    """A whole number within bounds; `what` names it in messages."""

    def read(cursor: Cursor) -> int | None:
        value = cursor.value
        if isinstance(value, bool) or not isinstance(value, int):
            hint = "; write it without quotes" if isinstance(value, str) and value.isdigit() else ""
            cursor.problem(f"{shown_value(value)} is not a whole number{hint}")
        elif not least <= value <= most:
            cursor.problem(f"{value} is not {what or 'in range'} ({least}-{most})")
        else:
            return value
        return None

    return shaped(read, Shape("integer", least, most))


def boolean(cursor: Cursor) -> bool | None:
    """true or false."""
    if isinstance(cursor.value, bool):
        return cursor.value
    cursor.problem(f"{shown_value(cursor.value)} is not true or false")
    return None


shaped(boolean, Shape("boolean"))


def choice(meanings: Mapping[str, Any]) -> Read:
    """One of a closed set of words, as the API spells them."""

    def read(cursor: Cursor) -> Any:
        value = cursor.value
        if isinstance(value, str) and value in meanings:
            return meanings[value]
        near = nearest(value, meanings, cursor.problems) if isinstance(value, str) else ""
        cursor.problem(f"{shown_value(value)} is not one of {', '.join(filter(None, meanings))}{near}")
        return None

    return shaped(read, Shape("choice", words=tuple(meanings)))


def parsed(parse: Callable[[str], Any]) -> Read:
    """Text that `parse` turns into a value; its ValueError becomes a problem."""

    def read(cursor: Cursor) -> Any:
        found = text()(cursor)
        if found is None:
            return None
        try:
            return parse(found)
        except ValueError as error:
            cursor.problem(str(error))
            return None

    return shaped(read, Shape("parsed", 1))


def reference(cursor: Cursor) -> Written | None:
    """The id or path of something else, with its place."""
    found = cursor.value if isinstance(cursor.value, str) else None
    if found is None and isinstance(cursor.value, int) and not isinstance(cursor.value, bool) and cursor.value >= 0:
        found = str(cursor.value)
    if found:
        return Written(found, cursor.place)
    text()(cursor)
    return None


shaped(reference, Shape("reference", 1))


def listed(read_item: Read, *, maximum: int | None = None, empty: bool = True) -> Read:
    """A list, each item read by `read_item`; items with problems are left out."""

    def read(cursor: Cursor) -> tuple[Any, ...] | None:
        if not isinstance(cursor.value, list):
            hint = "" if isinstance(cursor.value, dict) else f"; write [{value_text(cursor.value)}]"
            cursor.problem(f"{shown_value(cursor.value)} is not a list{hint}")
            return None
        if maximum is not None and len(cursor.value) > maximum:
            cursor.problem(f"{len(cursor.value)} entries are too many (at most {maximum})")
        if not cursor.value and not empty:
            cursor.problem("the list must not be empty")
        values = [read_item(item) for item in cursor.items()]
        return tuple(value for value in values if value is not None)

    return shaped(read, Shape("list", 0 if empty else 1, maximum, item=read_item))


def mapping(
    cursor: Cursor, table: Mapping[str, Field], *, ignore: Callable[[str], bool] = lambda key: False
) -> dict[str, Any] | None:
    """All fields of a mapping by a table, defaults filled in. None, after a problem, where it is no mapping."""
    if not isinstance(cursor.value, dict):
        cursor.problem(f"{shown_value(cursor.value)} is not a mapping with fields such as {', '.join(list(table)[:3])}")
        return None
    values: dict[str, Any] = {}
    for key, node in cursor.value.items():
        field = table.get(key)
        if field is None:
            if not ignore(key):
                cursor.key(key).problem(f"unknown field {key!r}{nearest(key, table, cursor.problems)}")
        elif node.value is not None:
            values[key] = field.read(cursor.member(key))
    for key, field in table.items():
        node = cursor.value.get(key)
        if node is None or node.value is None:
            if field.required:
                (cursor if node is None else cursor.member(key)).problem(f"the field {key} is missing")
            values[key] = field.default
        elif values[key] is None:
            values[key] = field.default
    return values
