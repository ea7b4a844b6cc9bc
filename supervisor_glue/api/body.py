# SPDX-License-Identifier: Apache-2.0
"""A request's body -> plain values: JSON (RFC 8259) or YAML 1.2, with the keys that stand twice in one mapping.

As Go's decoder has it: the last of two equal keys counts, bytes that are no UTF-8 and lone surrogates become U+FFFD.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, NoReturn

import yaml
from yamlcore import CCoreLoader

from supervisor_glue.api.status import error_bad_request

MOST_DEPTH = 100
"""Levels of lists and mappings. No kind that is served needs 30."""
MOST_NODES = 200_000
"""Values in a YAML document, aliases written out."""
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class Body(NamedTuple):
    """What was sent, and the places of keys that stood twice (`spec.containers[0].name`)."""

    value: Any
    duplicates: tuple[str, ...]


def body_read(data: bytes, media_type: str = "application/json") -> Body:
    """The body's one document. `media_type`: `application/json` and what ends in +json are JSON, others YAML (of which
    JSON is nearly a part). Raises ApiError 400."""
    main = media_type.partition(";")[0].strip().lower()
    if main == "application/json" or main.endswith("+json") or not main:
        return _json(data)
    if data.lstrip()[:1] in (b"{", b"["):
        try:
            return _json(data)
        except Exception:  # flow style YAML
            return _yaml(data)
    return _yaml(data)


def _refuse(why: object) -> NoReturn:
    raise error_bad_request(f"the body of the request could not be read: {why}")


def _constant(word: str) -> NoReturn:
    raise ValueError(f"invalid character '{word[0]}' looking for beginning of value")


def _json(data: bytes) -> Body:
    twice: list[tuple[dict[str, Any], list[str]]] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) != len(items):
            seen: set[str] = set()
            twice.append((found, [key for key, _ in items if key in seen or seen.add(key)]))  # type: ignore[func-returns-value]
        return found

    try:
        value = json.loads(data.decode("utf-8", "replace"), object_pairs_hook=pairs, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        _refuse(error)
    _bound_depth(value)
    duplicates = _places(value, twice) if twice else ()
    if _SURROGATE.search(data):
        text = json.dumps(value, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        value = json.loads(text)
    return Body(value, duplicates)


def _bound_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inside
            for item in level
            for inside in (item.values() if isinstance(item, dict) else item if isinstance(item, list) else ())
            if isinstance(inside, (dict, list))
        ]
        if not level:
            return
    _refuse(f"it has more than {MOST_DEPTH} levels")


def _places(root: Any, twice: list[tuple[dict[str, Any], list[str]]]) -> tuple[str, ...]:
    keys = {id(found): names for found, names in twice}
    places: list[str] = []

    def walk(value: Any, path: str) -> None:
        if isinstance(value, dict):
            for key in keys.get(id(value), ()):
                places.append(f"{path}.{key}" if path else key)
            for key, inside in value.items():
                walk(inside, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for number, inside in enumerate(value):
                walk(inside, f"{path}[{number}]")

    walk(root, "")
    return tuple(places)


class _Loader(CCoreLoader):  # type: ignore[misc]
    """Keeps the last of equal keys, notes them, and takes only text (and what JSON would write as such) as keys."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.twice: list[tuple[dict[str, Any], list[str]]] = []

    def mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        found: dict[str, Any] = {}
        again: list[str] = []
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, bool):
                key = "true" if key else "false"
            if not isinstance(key, (str, int, float)):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if (text := str(key)) in found:
                again.append(text)
            found[text] = self.construct_object(value_node, deep=True)
        if again:
            self.twice.append((found, again))
        return found


_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.mapping)


def _yaml(data: bytes) -> Body:
    try:
        loader = _Loader(data.decode("utf-8", "replace"))
    except (yaml.YAMLError, ValueError) as error:
        _refuse(error)
    try:
        value = loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError, AttributeError) as error:
        raise error_bad_request(f"error decoding YAML: {' '.join(str(error).split())}") from None
    finally:
        loader.dispose()
    try:
        plain = _plain(value, [MOST_NODES], 0)
    except ValueError as error:
        raise error_bad_request(f"error decoding YAML: {error}") from None
    return Body(plain, _places(value, loader.twice) if loader.twice else ())


def _plain(value: Any, left: list[int], depth: int) -> Any:
    """JSON's types only; shared parts written out, within bounds. Raises ValueError."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"it has more than {MOST_NODES} values")
    if depth > MOST_DEPTH:
        raise ValueError(f"it has more than {MOST_DEPTH} levels")
    if isinstance(value, dict):
        return {key: _plain(inside, left, depth + 1) for key, inside in value.items()}
    if isinstance(value, list):
        return [_plain(inside, left, depth + 1) for inside in value]
    if isinstance(value, float) and value - value != 0:
        raise ValueError("a number must be finite")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(f"a value of type {type(value).__name__} is not JSON's")
