# SPDX-License-Identifier: Apache-2.0
"""Server-side apply once more, slow and obvious: an object is a table of paths and values, a manager a set of paths.

Knows the few fields of a Pod that tests draw, and nothing of schemas.
"""

from __future__ import annotations

from typing import Any, TypeAlias

Path: TypeAlias = tuple[str, ...]
PRESENT = "(an element)"
KEYS = {"containers": {"name": None}, "env": {"name": None}, "ports": {"containerPort": None, "protocol": "TCP"}}
SETS = {"finalizers"}
ATOMIC = {"nodeSelector", "command"}
IDENTITY = {("apiVersion",), ("kind",), ("metadata", "name")}


class TwinConflict(Exception):
    """Others own what would change: (manager, path) of each."""

    def __init__(self, conflicts: set[tuple[str, Path]]) -> None:
        super().__init__(str(sorted(conflicts)))
        self.conflicts = conflicts


def table(value: Any, at: Path = ()) -> dict[Path, Any]:
    """Values by path; an element of a list by its keys is at its own path too."""
    name = at[-1] if at else ""
    if isinstance(value, dict) and name not in ATOMIC and value:
        found: dict[Path, Any] = {}
        for key, inside in value.items():
            found |= table(inside, (*at, key))
        return found
    if isinstance(value, list) and name in SETS:
        return {(*at, f"={item}"): item for item in value}
    if isinstance(value, list) and name in KEYS:
        found = {}
        for item in value:
            key = (*at, ",".join(str(item.get(part, default)) for part, default in KEYS[name].items()))
            found[key] = PRESENT
            found |= table(item, key)
        return found
    return {at: value}


class Twin:
    """One object. `values`: what it holds; `owners`: paths by manager."""

    def __init__(self) -> None:
        self.values: dict[Path, Any] = {}
        self.owners: dict[str, set[Path]] = {}

    def apply(self, manager: str, wanted: dict[str, Any], force: bool) -> None:
        """Raises TwinConflict, and then nothing has changed."""
        asked = table(wanted)
        changed = {path for path, value in asked.items() if self.values.get(path, self) != value}
        others = {name: paths for name, paths in self.owners.items() if name != manager}
        conflicts = {(name, path) for name, paths in others.items() for path in paths & changed}
        if conflicts and not force:
            raise TwinConflict(conflicts)
        given_up = self.owners.get(manager, set()) - set(asked)
        for paths in others.values():
            paths -= changed
        self.values |= asked
        self.owners[manager] = set(asked) - IDENTITY
        for path in given_up:
            if not any(path in paths for paths in self.owners.values()):
                self._remove(path)
        self._tidy()

    def write(self, manager: str, path: Path, value: Any) -> None:
        """An update of one field that is there, or of a label."""
        if self.values.get(path) == value:
            return
        for paths in self.owners.values():
            paths.discard(path)
        self.values[path] = value
        self.owners.setdefault(manager, set()).add(path)

    def _remove(self, path: Path) -> None:
        """A field; an element with all that is in it."""
        for other in list(self.values):
            if other == path or (self.values.get(path) == PRESENT and other[: len(path)] == path):
                if other != path:
                    del self.values[other]
                for paths in self.owners.values():
                    paths.discard(other)
        self.values.pop(path, None)

    def _tidy(self) -> None:
        self.owners = {name: paths for name, paths in self.owners.items() if paths}
