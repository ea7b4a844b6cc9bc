# SPDX-License-Identifier: Apache-2.0
"""Which policy a test is about: `@pytest.mark.palisade_policy(...)`, else the nearest palisade.toml's table [test].

[test]
policy = ["policy.yaml"]          # relative to the palisade.toml
inventory = ["inventory.yaml"]
default_action = "DROP"           # of the default section; may be left out
at = "2026-03-31T09:30"           # for schedules; may be left out
staged = true                     # as if the staged policies were in force; may be left out
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from dfw.policytest.errors import PolicyTestError

MARKER: Final = "palisade_policy"
SETTINGS: Final = "palisade.toml"
SYSTEM_SETTINGS: Final = Path("/etc/palisade/palisade.toml")
TABLE: Final = "test"
NAMES: Final = ("policy", "inventory", "default_action", "at", "staged", "coverage_report", "mutate", "output")
"""What the table may hold: the options of `palisade test`."""
_ACTIONS: Final = ("ALLOW", "DROP", "REJECT")
_HINT: Final = (
    f'write a {SETTINGS} beside the test with [{TABLE}] policy = ["policy.yaml"], '
    f'or mark the test with @pytest.mark.{MARKER}("policy.yaml")'
)


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of a policy and its inventory (absolute paths), and how they are to be read."""

    files: tuple[str, ...]
    default_action: str | None = None
    at: str | None = None
    staged: bool = False


def sources_find(
    folder: Path, marker: tuple[Sequence[Any], Mapping[str, Any]] | None, given: Mapping[str, Any]
) -> Sources:
    """The policy of a test in this folder. `marker`: its arguments; `given`: what the command line says, over a file.

    Raises PolicyTestError where nothing names one.
    """
    if marker is not None:
        return _of_marker(folder, *marker)
    table, base = _table(folder)
    table = {**table, **{name: value for name, value in given.items() if value}}
    files = []
    for name in ("policy", "inventory"):
        base_of = Path.cwd() if given.get(name) else base
        files += [str((base_of / item).resolve()) for item in _texts(table.get(name, ()), name, base)]
    if not files:
        raise PolicyTestError(f"no policy is named for the tests in {folder}: {_HINT}")
    action, at = _action(table.get("default_action"), base), _text(table, "at", base)
    return Sources(tuple(dict.fromkeys(files)), action, at, _flag(table, "staged", base))


def _of_marker(folder: Path, files: Sequence[Any], options: Mapping[str, Any]) -> Sources:
    where = f"@pytest.mark.{MARKER}"
    unknown = set(options) - {"default_action", "at", "staged"}
    if unknown:
        raise PolicyTestError(f"{where} takes files, default_action, at and staged, not {', '.join(sorted(unknown))}")
    if not files or not all(isinstance(item, str | Path) for item in files):
        raise PolicyTestError(f'{where} names files, such as {where}("policy.yaml", "inventory.yaml")')
    found = tuple(str((folder / item).resolve()) for item in files)
    action, at = _action(options.get("default_action"), where), _text(options, "at", where)
    return Sources(found, action, at, _flag(options, "staged", where))


def _table(folder: Path) -> tuple[dict[str, Any], Path]:
    """The nearest table [test], with `-` in names as `_`, and the folder of its file."""
    folder = folder.resolve()
    for path in (*(parent / SETTINGS for parent in (folder, *folder.parents)), SYSTEM_SETTINGS):
        if not path.is_file():
            continue
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8")).get(TABLE)
        except (OSError, ValueError) as error:
            raise PolicyTestError(f"{path}: {error}") from None
        if isinstance(found, dict):
            named = {name.replace("-", "_"): value for name, value in found.items()}
            _names_check(named, path)
            return named, path.parent
    return {}, folder


def _names_check(table: Mapping[str, Any], path: Path) -> None:
    """A name that means nothing is a setting that does not count: a default_action that is misspelt would let tests
    pass."""
    for name in table:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise PolicyTestError(f"{path}: [{TABLE}]: there is no setting {name!r}{hint}")


def _texts(value: Any, name: str, base: Path) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(item, str) for item in values):
        raise PolicyTestError(f'{base / SETTINGS}: [{TABLE}] {name} is a list of files, such as ["{name}.yaml"]')
    return list(values)


def _text(table: Mapping[str, Any], name: str, where: object) -> str | None:
    value = table.get(name)
    if value is None or isinstance(value, str):
        return value
    if hasattr(value, "isoformat"):  # TOML has times of its own
        return str(value.isoformat())
    raise PolicyTestError(f"{where}: {name} is a text, not {value!r}")


def _flag(table: Mapping[str, Any], name: str, where: object) -> bool:
    value = table.get(name, False)
    if isinstance(value, bool):
        return value
    raise PolicyTestError(f"{where}: {name} is true or false, not {value!r}")


def _action(value: Any, where: object) -> str | None:
    if value is None or value in _ACTIONS:
        return None if value is None else str(value)
    raise PolicyTestError(f"{where}: default_action is one of {', '.join(_ACTIONS)}, not {value!r}")
