# SPDX-License-Identifier: Apache-2.0
"""Reading YAML and JSON documents so that every node knows its line and column.

YAML is 1.2 with the core schema (`no` is text, `010` is ten, `02:00:00:00:01:01` is text). Duplicate keys, tags,
recursive aliases, more than 100 aliases, more than 64 levels, more than 64 MiB and more than five million values are
refused. JSON (RFC 8259) is read by its own reader, because YAML parsers refuse some of it. Whatever the bytes are, the
only exception is PolicyError.
"""

from __future__ import annotations

import os
import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, TypeAlias

import yaml
from yamlcore import CCoreLoader

from dfw.errors import PolicyError, Problem
from dfw.model.place import Place

MAXIMUM_BYTES = 64 * 1024 * 1024
MAXIMUM_DEPTH = 64
MAXIMUM_NODES = (
    5_000_000  # of a file, keys and values: up to 1 GB of memory; 64 MiB of `0,` would be seven times as many
)
MAXIMUM_ALIASES = 100
MAXIMUM_NUMBER_LENGTH = 64  # characters; no field of ours needs a longer number
MAXIMUM_EXPANDED = 1_000_000  # nodes of a document that uses aliases, each counted as often as it stands somewhere
STDIN = "-"

Scalar: TypeAlias = bool | int | float | str | None
_TAG = "tag:yaml.org,2002:"
# First characters of plain scalars that the core schema may read as something else than text; "" is null.
_NO_KEYS: dict[str, tuple[int, int]] = {}  # of all that is no mapping: a dictionary for each would be half its memory
_MAY_RESOLVE = frozenset(("", *"-+0123456789.~nNtTfF"))


class Node:
    """A scalar, list or mapping with its place. `keys` has the place of each key of a mapping.

    `size` and `height` count aliases as if they were written out, so that they bound the work of any walk.
    """

    __slots__ = ("column", "height", "keys", "line", "size", "value")

    def __init__(self, value: Scalar | list[Node] | dict[str, Node], line: int, column: int) -> None:
        self.value = value
        self.line = line
        self.column = column
        self.keys: dict[str, tuple[int, int]] = {} if isinstance(value, dict) else _NO_KEYS
        self.size = 1
        self.height = 1

    def get(self, key: str) -> Node | None:
        """The value under a key, None where this is no mapping, has no such key, or the value is null."""
        found = self.value.get(key) if isinstance(self.value, dict) else None
        return None if found is None or found.value is None else found

    def plain(self) -> Any:
        """The same without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


class Document(NamedTuple):
    """One document of a file."""

    file: str
    root: Node

    def place(self, node: Node, path: str = "") -> Place:
        """The place of a node of this document."""
        return Place(self.file, node.line, node.column, path)


def document_of(value: Any, file: str) -> Document:
    """A document from what a decoder made of it; all its places are the beginning of `file`."""
    return Document(file, _node_of(value))


def _node_of(value: Any) -> Node:
    node = Node(value, 1, 1)
    if isinstance(value, dict):
        node.value = {str(key): _node_of(item) for key, item in value.items()}
        node.keys = dict.fromkeys(node.value, (1, 1))
    elif isinstance(value, list):
        node.value = list(map(_node_of, value))
    return node


class _Refused(Exception):
    """Ends the reading of a file; its problem is added to those already found."""

    def __init__(self, line: int, column: int, message: str) -> None:
        super().__init__(message)
        self.line, self.column, self.message = line, column, message


class _TooMany(_Refused):
    """As JSON or as YAML: no other reading of the same text would have less."""


def documents_read(files: Iterable[str]) -> list[Document]:
    """All documents of the files, in order; `-` is standard input. Raises PolicyError with all files' problems."""
    documents: list[Document] = []
    problems: list[Problem] = []
    for file in files:
        try:
            documents += documents_parse(_bytes_of(file), file)
        except PolicyError as error:
            problems += error.problems
    if problems:
        raise PolicyError(problems)
    return documents


def _bytes_of(file: str) -> bytes:
    try:
        if file == STDIN:
            return sys.stdin.buffer.read(MAXIMUM_BYTES + 1)
        with open(file, "rb") as stream:
            return stream.read(MAXIMUM_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise PolicyError.at(file, 1, 1, "", f"cannot be read: {reason}") from None


def documents_parse(data: bytes, file: str) -> list[Document]:
    """The documents in `data`, called `file` in messages. Empty (null) documents are left out. Raises PolicyError."""
    problems: list[Problem] = []
    roots: list[Node] = []
    try:
        text = _decoded(data)
        first = text.lstrip()[:1]
        if file.endswith(".json"):
            roots = list(_Json(text, file, problems).documents())
        elif first in ("{", "[") and (found := _as_json(text, file)) is not None:
            roots, problems = found
        else:
            for root in _Yaml(text, file, problems).documents():
                if root.value is not None:
                    roots.append(root)
    except _Refused as error:
        problems.append(Problem(Place(file, error.line, error.column), error.message))
    if problems:
        raise PolicyError(problems)
    return [Document(file, root) for root in roots if root.value is not None]


def _decoded(data: bytes) -> str:
    if len(data) > MAXIMUM_BYTES:
        raise _Refused(1, 1, f"the file is larger than {MAXIMUM_BYTES // 2**20} MiB")
    try:
        return data.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        line_start = before.rfind(b"\n") + 1
        column = len(before[line_start:].decode("utf-8", "replace")) + 1
        message = f"byte 0x{data[error.start]:02x} is not UTF-8; save the file as UTF-8"
        raise _Refused(before.count(b"\n") + 1, column, message) from None


def _as_json(text: str, file: str) -> tuple[list[Node], list[Problem]] | None:
    """Flow style may be JSON or YAML: None where it is not JSON."""
    problems: list[Problem] = []
    try:
        return list(_Json(text, file, problems).documents()), problems
    except _TooMany:
        raise
    except _Refused:
        return None


class _Yaml:
    """Composes nodes from libyaml's events, counting as it goes."""

    def __init__(self, text: str, file: str, problems: list[Problem]) -> None:
        self.file = file
        self.problems = problems
        self.text = text
        self.aliases = 0
        self.nodes = 0
        self.anchors: dict[str, Node | None] = {}

    def documents(self) -> Iterator[Node]:
        try:
            self.loader = CCoreLoader(self.text)
            while not isinstance(event := self.loader.get_event(), yaml.StreamEndEvent):
                if isinstance(event, yaml.DocumentStartEvent):
                    self.anchors = {}
                    yield self._node(self.loader.get_event(), 1)
        except yaml.reader.ReaderError as error:
            raise self._reader_error(error) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            context = f"{error.context}: " if error.context else ""
            message = f"not valid YAML: {context}{error.problem}"
            raise _Refused(mark.line + 1 if mark else 1, mark.column + 1 if mark else 1, message) from None
        except yaml.YAMLError as error:
            raise _Refused(1, 1, f"not valid YAML: {str(error).splitlines()[0]}") from None

    def _reader_error(self, error: yaml.reader.ReaderError) -> _Refused:
        # libyaml counts bytes of what it read as UTF-8.
        before = self.text.encode()[: error.position].decode("utf-8", "replace")
        column = len(before) - (before.rfind("\n") + 1) + 1
        character = error.character if isinstance(error.character, int) else 0
        return _Refused(before.count("\n") + 1, column, f"character U+{character:04X} is not allowed in YAML")

    def _problem(self, line: int, column: int, message: str) -> None:
        self.problems.append(Problem(Place(self.file, line, column), message))

    def _node(self, event: Any, depth: int) -> Node:
        line, column = event.start_mark.line + 1, event.start_mark.column + 1
        self.nodes += 1
        if self.nodes > MAXIMUM_NODES:
            raise _TooMany(line, column, f"more than {MAXIMUM_NODES} keys and values; split the file")
        if depth > MAXIMUM_DEPTH:
            raise _Refused(line, column, f"nested more than {MAXIMUM_DEPTH} levels deep")
        if isinstance(event, yaml.AliasEvent):
            return self._alias(str(event.anchor), line, column, depth)
        if isinstance(event, yaml.ScalarEvent):
            node = Node(self._scalar(event, line, column), line, column)
            if event.anchor:
                self.anchors[event.anchor] = node
            return node
        if event.tag not in (None, "!", f"{_TAG}seq", f"{_TAG}map"):
            self._problem(line, column, f"the tag {_tag_text(event.tag)} is not accepted; leave it out")
        if event.anchor:
            self.anchors[event.anchor] = None  # still open: an alias to it now would be recursive
        node = (
            self._sequence(line, column, depth)
            if isinstance(event, yaml.SequenceStartEvent)
            else self._mapping(line, column, depth)
        )
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _sequence(self, line: int, column: int, depth: int) -> Node:
        items: list[Node] = []
        node = Node(items, line, column)
        while not isinstance(event := self.loader.get_event(), yaml.SequenceEndEvent):
            items.append(self._grown(node, self._node(event, depth + 1)))
        return node

    def _mapping(self, line: int, column: int, depth: int) -> Node:
        members: dict[str, Node] = {}
        node = Node(members, line, column)
        while not isinstance(event := self.loader.get_event(), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            value = self._grown(node, self._node(self.loader.get_event(), depth + 1))
            if not isinstance(key.value, str):
                shown = "a list or mapping" if isinstance(key.value, list | dict) else value_text(key.value)
                self._problem(key.line, key.column, f"{shown} as a key is not text; write it in quotes")
            elif key.value in members:
                first = node.keys[key.value][0]
                self._problem(key.line, key.column, f"the key {key.value!r} was already given in line {first}")
            else:
                members[key.value] = value
                node.keys[key.value] = (key.line, key.column)
        return node

    def _grown(self, parent: Node, child: Node) -> Node:
        parent.size += child.size
        parent.height = max(parent.height, child.height + 1)
        if self.aliases and parent.size > MAXIMUM_EXPANDED:
            message = f"its aliases stand for more than {MAXIMUM_EXPANDED} nodes; write less of it as aliases"
            raise _Refused(parent.line, parent.column, message)
        return child

    def _alias(self, anchor: str, line: int, column: int, depth: int) -> Node:
        self.aliases += 1
        if self.aliases > MAXIMUM_ALIASES:
            raise _Refused(line, column, f"more than {MAXIMUM_ALIASES} aliases; write the values out")
        if anchor not in self.anchors:
            raise _Refused(line, column, f"the alias *{anchor} names no anchor (&{anchor}) above it")
        node = self.anchors[anchor]
        if node is None:
            raise _Refused(line, column, f"the alias *{anchor} stands inside what it names")
        if depth + node.height - 1 > MAXIMUM_DEPTH:
            raise _Refused(line, column, f"nested more than {MAXIMUM_DEPTH} levels deep")
        return node

    def _scalar(self, event: Any, line: int, column: int) -> Scalar:
        tag = event.tag
        if tag is None and (not event.implicit[0] or event.value[:1] not in _MAY_RESOLVE):
            return str(event.value)  # quoted, or text by its first character: the usual case
        if tag in (None, "!"):
            implicit = event.implicit if tag is None else (False, True)
            tag = self.loader.resolve(yaml.ScalarNode, event.value, implicit)
        value: str = event.value
        kind = tag.removeprefix(_TAG)
        if kind == "str":
            return value
        if kind in ("int", "float", "bool", "null"):
            if len(value) > MAXIMUM_NUMBER_LENGTH:
                self._problem(line, column, f"a number of {len(value)} characters is too long")
                return 0
            try:
                made = yaml.ScalarNode(tag, value)
                return getattr(self.loader, f"construct_yaml_{kind}_core")(made)  # type: ignore[no-any-return]
            except (ValueError, KeyError, IndexError, OverflowError):
                self._problem(line, column, f"{value_text(value)} does not fit its tag {_tag_text(tag)}")
                return None
        self._problem(line, column, f"the tag {_tag_text(tag)} is not accepted; leave it out")
        return None


def _tag_text(tag: str) -> str:
    return f"!!{tag.removeprefix(_TAG)}" if tag.startswith(_TAG) else tag


def value_text(value: object) -> str:
    """A scalar as it would be written in YAML, cut to 60 characters, for messages."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


_SPACE = re.compile(r"[ \t\r\n]*")
# Between documents; `---` is YAML's, and what many write between JSON documents too.
_BETWEEN = re.compile(r"(?:[ \t\r\n]|^---(?=[ \t\r\n]|\Z))*", re.MULTILINE)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", re.ASCII)
_WORDS: tuple[tuple[str, Scalar], ...] = (("true", True), ("false", False), ("null", None))


class _Json:
    """RFC 8259 with places; one document, or several after each other, with or without `---` between them."""

    def __init__(self, text: str, file: str, problems: list[Problem]) -> None:
        self.text = text
        self.file = file
        self.problems = problems
        from json import decoder  # most files are YAML

        self.scan: Callable[[str, int, bool], tuple[str, int]] = decoder.scanstring  # type: ignore[attr-defined]
        self.scan_error = decoder.JSONDecodeError
        self.nodes = 0
        self.starts = [0, *(found.end() for found in re.finditer("\n", text))]

    def documents(self) -> Iterator[Node]:
        position = self._skip(0, _BETWEEN)
        while position < len(self.text):
            node, position = self._value(position, 1)
            yield node
            position = self._skip(position, _BETWEEN)

    def _skip(self, position: int, what: re.Pattern[str] = _SPACE) -> int:
        found = what.match(self.text, position)
        return found.end() if found else position

    def _place(self, position: int) -> tuple[int, int]:
        line = bisect_right(self.starts, position)
        return line, position - self.starts[line - 1] + 1

    def _refused(self, position: int, message: str) -> _Refused:
        return _Refused(*self._place(position), f"not valid JSON: {message}")

    def _value(self, position: int, depth: int) -> tuple[Node, int]:
        line, column = self._place(position)
        self.nodes += 1
        if self.nodes > MAXIMUM_NODES:
            raise _TooMany(line, column, f"more than {MAXIMUM_NODES} keys and values; split the file")
        if depth > MAXIMUM_DEPTH:
            raise _Refused(line, column, f"nested more than {MAXIMUM_DEPTH} levels deep")
        character = self.text[position : position + 1]
        if character == "{":
            return self._object(position, depth)
        if character == "[":
            return self._array(position, depth)
        if character == '"':
            value, position = self._string(position)
            return Node(value, line, column), position
        for word, meaning in _WORDS:
            if self.text.startswith(word, position):
                return Node(meaning, line, column), position + len(word)
        found = _NUMBER.match(self.text, position)
        if not found:
            raise self._refused(position, "a value is missing here" if character in "]},:" else "not a value")
        return Node(self._number(found, line, column), line, column), found.end()

    def _number(self, found: re.Match[str], line: int, column: int) -> int | float:
        text = found.group()
        if len(text) > MAXIMUM_NUMBER_LENGTH:
            message = f"a number of {len(text)} characters is too long"
            self.problems.append(Problem(Place(self.file, line, column), message))
            return 0
        return float(text) if found.group(1) or found.group(2) else int(text)

    def _string(self, position: int) -> tuple[str, int]:
        try:
            value, end = self.scan(self.text, position + 1, True)
        except self.scan_error as error:
            raise self._refused(error.pos, error.msg) from None
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise self._refused(position, "half of a surrogate pair is no character") from None
        return value, end

    def _array(self, position: int, depth: int) -> tuple[Node, int]:
        items: list[Node] = []
        node = Node(items, *self._place(position))
        position = self._skip(position + 1)
        while not (self.text.startswith("]", position) and not items):
            item, position = self._value(position, depth + 1)
            items.append(item)
            position = self._skip(position)
            if self.text.startswith("]", position):
                break
            position = self._expect(",", position)
        return node, position + 1

    def _object(self, position: int, depth: int) -> tuple[Node, int]:
        members: dict[str, Node] = {}
        node = Node(members, *self._place(position))
        position = self._skip(position + 1)
        while not (self.text.startswith("}", position) and not node.keys):
            if not self.text.startswith('"', position):
                raise self._refused(position, "a key in double quotes is missing here")
            at = self._place(position)
            key, position = self._string(position)
            self.nodes += 1
            value, position = self._value(self._expect(":", self._skip(position)), depth + 1)
            if key in members:
                message = f"the key {key!r} was already given in line {node.keys[key][0]}"
                self.problems.append(Problem(Place(self.file, *at), message))
            else:
                members[key] = value
                node.keys[key] = at
            position = self._skip(position)
            if self.text.startswith("}", position):
                break
            position = self._expect(",", position)
        return node, position + 1

    def _expect(self, character: str, position: int) -> int:
        if not self.text.startswith(character, position):
            raise self._refused(position, f"{character!r} is missing here")
        return self._skip(position + 1)
