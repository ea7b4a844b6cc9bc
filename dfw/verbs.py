# SPDX-License-Identifier: Apache-2.0
"""The table of verbs: entry points of the group `palisade.verbs`, each package bringing its own.

The installed packages' entry_points.txt are read directly: importlib.metadata would parse mail headers and open zip
files for it, which takes longer than all the rest of `palisade --help`. It is asked where nothing is found that way.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

VERB_GROUP: Final = "palisade.verbs"
BENCH_GROUP: Final = "palisade.benches"  # commands of `palisade bench` that other packages bring
AGENT_GROUP: Final = "palisade.agents"  # of `palisade agent`
_DISTRIBUTIONS: Final = (".dist-info", ".egg-info")


class Verb(NamedTuple):
    """A row of the table: the verb, and the one function behind it as `module:function`."""

    name: str
    value: str

    @property
    def module(self) -> str:
        """The module that holds the function."""
        return self.value.partition(":")[0].strip()

    @property
    def attr(self) -> str:
        """The function's name in its module."""
        return self.value.partition(":")[2].strip()

    def load(self) -> Any:
        """The function, its module imported."""
        return getattr(importlib.import_module(self.module), self.attr)


@cache
def verb_table(group: str = VERB_GROUP) -> dict[str, Verb]:
    """All verbs (or the rows of another group) by name, in alphabetical order; nothing is imported."""
    found: dict[str, Verb] = {}
    for folder in dict.fromkeys(sys.path):
        for text in _entry_points(folder or ".", group):
            for name, value in _group(text, group):
                found.setdefault(name, Verb(name, value))  # the first on the path wins, as with imports
    if not found:
        from importlib.metadata import entry_points

        found = {point.name: Verb(point.name, point.value) for point in entry_points(group=group)}
    return {name: found[name] for name in sorted(found)}


def _entry_points(folder: str, group: str) -> list[str]:
    """The entry_points.txt of the distributions in a folder of the import path."""
    try:
        names = [name for name in os.listdir(folder) if name.endswith(_DISTRIBUTIONS)]
    except OSError:
        return []
    texts = []
    for name in sorted(names):
        try:
            with open(os.path.join(folder, name, "entry_points.txt"), encoding="utf-8") as file:
                texts.append(file.read())
        except (OSError, UnicodeDecodeError):
            continue
    return [text for text in texts if f"[{group}]" in text]


def _group(text: str, group: str) -> list[tuple[str, str]]:
    """Names and values in a group of an entry_points.txt (an INI file)."""
    rows = []
    inside = False
    for line in map(str.strip, text.splitlines()):
        if line.startswith("["):
            inside = line == f"[{group}]"
        elif inside and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            rows.append((name.strip(), value.partition("[")[0].strip()))
    return rows


def verb_source(verb: Verb) -> Path | None:
    """The file of a verb's module, or None where this installation has none. Imports the module's parents only."""
    try:
        spec = importlib.util.find_spec(verb.module)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


def verb_summary(verb: Verb) -> str | None:
    """The first line of the docstring of a verb's function (or of its module, where the function comes from elsewhere).

    Read without importing or parsing it; None where the module is missing.
    """
    path = verb_source(verb)
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    function = re.search(rf'^def {re.escape(verb.attr)}\([^"]*?:\n\s+"""(.*)', text, re.MULTILINE)
    module = re.match(r'(?:#.*\n|\s*\n)*"""(.*)', text)
    found = function or module
    return None if found is None else found.group(1).removesuffix('"""').strip()
