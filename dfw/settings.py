# SPDX-License-Identifier: Apache-2.0
"""Settings: what options are where the command line does not say: environment, ./palisade.toml, the system's file.

A setting is called as its option is, with `_` for `-`. A verb's stand in the table with its name, those of a command
in a table of that one ([lab.probe]); what stands in [lab] itself is for all of its commands, and `output` at the top
for all verbs. A name that means nothing is an error: a misspelt one would silently leave a default in force.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import click

from dfw import logs

SYSTEM_SETTINGS: Final = Path("/etc/palisade/palisade.toml")
LOCAL_SETTINGS: Final = Path("palisade.toml")
VERBOSE: Final = ("-v", "--verbose")
VERBOSE_HELP: Final = "Say more on stderr; twice: everything."
FOR_ALL: Final = "output"  # the one option that stands for the same in every verb that has it


def load_settings(paths: tuple[Path, ...] = (SYSTEM_SETTINGS, LOCAL_SETTINGS)) -> dict[str, Any]:
    """Settings from the system's file, then ./palisade.toml, which wins.

    Raises click.UsageError when a file cannot be read or is not TOML.
    """
    settings: dict[str, Any] = {}
    for path in paths:
        if not path.is_file():
            continue
        import tomllib

        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise click.UsageError(f"{path}: {error}") from error
        merge_settings(settings, found)
    return settings


def merge_settings(into: dict[str, Any], found: Mapping[str, Any]) -> None:
    """Lay `found` over `into`, table by table. `-` and `_` in names mean the same."""
    for name, value in found.items():
        key = name.replace("-", "_")
        if isinstance(value, dict):
            table = into.get(key)
            if not isinstance(table, dict):
                table = into[key] = {}
            merge_settings(table, value)
        else:
            into[key] = value


def check_names(found: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raises click.UsageError where a table, called `where` in the message, has a name that means nothing there."""
    for name in found:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"palisade.toml: {where}: there is no setting {name!r}{hint}")


def with_settings(command: click.Command) -> click.Command:
    """The same command; it and its own commands find their settings by their options' names, and take -v."""
    command.context_class = SettingsContext
    if isinstance(command, click.Group):
        for inner in command.commands.values():
            with_settings(inner)
    else:
        _take_verbosity(command)
    return command


def _take_verbosity(command: click.Command) -> None:
    """Let -v stand behind a verb too. What hands unknown options on to a program of others' hands on theirs."""
    taken = {name for option in command.params for name in option.opts}
    if command.ignore_unknown_options or command.context_settings.get("ignore_unknown_options") or taken & {*VERBOSE}:
        return
    command.params.append(click.Option(VERBOSE, count=True, expose_value=False, callback=_say_more, help=VERBOSE_HELP))


def _say_more(context: click.Context, option: click.Parameter, times: int) -> None:
    if times and not context.resilient_parsing:
        logs.configure_more(times)


class SettingsContext(click.Context):
    """Looks settings up by what options are called, which need not be what the function calls them."""

    def __init__(self, command: click.Command, parent: click.Context | None = None, **extra: Any) -> None:
        super().__init__(command, parent=parent, **extra)
        self._options = {item.name: item for item in command.params if isinstance(item, click.Option) and item.name}
        for option in self._options.values():
            self._name_variables(option)
        if self.default_map is not None and not isinstance(self.default_map, Mapping):
            raise click.UsageError(f"palisade.toml: the settings of {self.info_name} are a table, [{self.info_name}]")
        if self.default_map and not isinstance(command, click.Group) and not self.resilient_parsing:
            known = {item.name for item in command.params if item.name} | {*map(_called, self._options.values())}
            check_names(self.default_map, known, f"[{'.'.join(self._path())}]")

    def _name_variables(self, option: click.Option) -> None:
        if self.auto_envvar_prefix is None or option.envvar is not None:
            return
        called = _called(option)
        names = [f"{self.auto_envvar_prefix}_{called.upper()}"]
        if called == FOR_ALL:
            names.append(f"{_top(self).auto_envvar_prefix}_{called.upper()}")
        option.envvar = names

    def _path(self) -> list[str]:
        above = self.parent
        return [*(above._path() if isinstance(above, SettingsContext) else ()), str(self.info_name)]

    def lookup_default(self, name: str, call: bool = True) -> Any:
        """A setting, of this table or of one above that is for all that stand in it; None where there is none."""
        option = self._options.get(name)
        if option is None:
            return super().lookup_default(name)
        called = _called(option)
        at: click.Context | None = self
        while at is not None:
            table = at.default_map or {}
            found = table.get(called, table.get(name))
            is_for_here = at is self or at.parent is not None or called == FOR_ALL
            if found is not None and is_for_here and not isinstance(found, dict):
                return [found] if option.multiple and isinstance(found, str) else found
            at = at.parent
        return None


def _called(option: click.Option) -> str:
    """An option's name as it is written, without dashes before it and with `_` for those within."""
    written = [item for item in option.opts if item.startswith("--")]
    return written[0].removeprefix("--").replace("-", "_") if written else str(option.name)


def _top(context: click.Context) -> click.Context:
    return context if context.parent is None else _top(context.parent)
