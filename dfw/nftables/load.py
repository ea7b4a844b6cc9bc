# SPDX-License-Identifier: Apache-2.0
"""Rulesets into the kernel and back: of the network namespace of the calling thread.

Through libnftables' Python binding where it is there (extra `[nftables]`), else through the command `nft`. One
transaction: either all of a ruleset is in force, or nothing has changed. The only module that imports the binding,
which is GPL-2.0-only.
"""

from __future__ import annotations

import shutil
import subprocess
from typing import Any

from dfw.errors import EnvironmentLacksError
from dfw.nftables.ruleset import FAMILY, Ruleset, counters_parse, ruleset_parse, ruleset_text

_SECONDS = 120  # for one transaction: a hundred times what 10,000 rules need


class LoadError(Exception):
    """The kernel or nft refused a ruleset; what was in force still is. `str()` is what they said, in one line."""


def apply_ruleset(ruleset: Ruleset) -> None:
    """Put this table in the place of the one of its name. Raises LoadError, EnvironmentLacksError."""
    _run(ruleset_text(ruleset))


def delete_table(table: str) -> None:
    """Take this table away, if it is there. Raises LoadError, EnvironmentLacksError."""
    _run(ruleset_text(Ruleset(table)))
    _run(f'{{"nftables": [{{"delete": {{"table": {{"family": "{FAMILY}", "name": "{table}"}}}}}}]}}')


def read_ruleset(table: str) -> Ruleset:
    """This table as the kernel has it. Raises LoadError (not there), EnvironmentLacksError; ValueError where somebody
    put into it what we never make."""
    return ruleset_parse(_list(table), table)


def read_counters(table: str) -> dict[str, tuple[int, int]]:
    """Packets and bytes of each counter of this table. Raises as read_ruleset."""
    return counters_parse(_list(table), table)


def _run(text: str) -> None:
    binding = _binding()
    if binding is None:
        _nft(["-j", "-f", "-"], text)
        return
    status, _, said = binding.cmd(text)
    if status != 0:
        raise LoadError(_sentence(said))


def _list(table: str) -> str:
    binding = _binding()
    if binding is None:
        return _nft(["-j", "-nn", "list", "table", FAMILY, table], "")
    binding.set_numeric_proto_output(True)
    for name in ("set_numeric_prio_output", "set_numeric_symbol_output"):
        getattr(binding, name)(True)
    status, found, said = binding.cmd(f"list table {FAMILY} {table}")
    if status != 0:
        raise LoadError(_sentence(said))
    return str(found)


def _binding() -> Any:
    """A context of libnftables, None where the binding or the library is missing. It belongs to the namespace in which
    it was made, so there is one for each call."""
    try:
        import nftables

        context = nftables.Nftables()
    except (ImportError, OSError):
        return None
    context.set_json_output(True)
    return context


def _nft(arguments: list[str], text: str) -> str:
    if shutil.which("nft") is None:
        raise EnvironmentLacksError("no command nft and no Python package nftables", "apt-get install nftables")
    try:
        done = subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"nft has not answered within {_SECONDS} s") from error
    if done.returncode != 0:
        raise LoadError(_sentence(done.stderr))
    return done.stdout


def _sentence(said: str) -> str:
    """The first error of several lines with positions and carets."""
    lines = [line.strip() for line in said.splitlines() if "Error" in line or "rror:" in line]
    first = lines[0] if lines else said.strip() or "no reason given"
    return f"nftables refused the ruleset: {first}"
