# SPDX-License-Identifier: Apache-2.0
"""Rulesets into the kernel and back: of the network namespace of the calling thread.

Through libnftables' Python binding where it is there (extra `[nftables]`), else through the command `nft`. One
transaction: either all of a ruleset is in force, or nothing has changed. The only module that imports the binding,
which is GPL-2.0-only.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import replace
from types import TracebackType
from typing import Any

from dfw.errors import EnvironmentLacksError
from dfw.nftables.batch import BRIDGE, INET, update_messages
from dfw.nftables.frames import FRAME_FAMILY, frames_parse
from dfw.nftables.namespace import namespace_entered
from dfw.nftables.netlink import RuleSocket
from dfw.nftables.ruleset import FAMILY, Ruleset, ruleset_parse, ruleset_text
from dfw.nftables.update import Update, update_text

_SECONDS = 120  # for one transaction: a hundred times what 10,000 rules need


class LoadError(Exception):
    """The kernel or nft refused a ruleset; what was in force still is. `str()` is what they said, in one line."""


class RulesetLink:
    """One table of the namespace of the thread that makes it; it can be used from any thread, by one at a time.

    Kept open by who changes rules often: to close a socket takes the kernel milliseconds after a change. Raises
    EnvironmentLacksError, OSError.
    """

    def __init__(self, table: str) -> None:
        self.table = table
        self._binding = _binding()
        if self._binding is None:
            nft_needed()
        self._netlink = RuleSocket()
        # The command nft would run in the namespace of whoever calls.
        self._namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def apply(self, ruleset: Ruleset) -> None:
        """Put this table in the place of the one of its name, and what is asked of frames. Raises LoadError."""
        self._run(ruleset_text(ruleset, had_frames=self._has_frames()))

    def update(self, update: Update) -> None:
        """Put an update in force, whole or not at all. Raises LoadError, also where the table is not what it was
        planned from."""
        if not update:
            return
        try:
            messages = update_messages(update)
        except ValueError:  # there is something in it that libnftables knows how to say
            self._run(update_text(update))
            return
        try:
            self._netlink.batch_apply(messages)
        except OSError as error:
            raise LoadError(str(error)) from error

    def read(self) -> Ruleset:
        """The table as the kernel has it, and that for frames. Raises LoadError (not there); ValueError where somebody
        put into them what we never make."""
        if self._netlink.table_flags_read(self.table, INET) or self._netlink.table_flags_read(self.table, BRIDGE):
            raise ValueError(f"the table {self.table} has flags (dormant?), which we never set")
        found = ruleset_parse(self._list(FAMILY), self.table)
        if not self._has_frames():
            return found
        return replace(found, frames=frames_parse(self._list(FRAME_FAMILY), self.table))

    def counters(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes of each counter, of frames' too. Raises OSError; there are none where there is no table."""
        return self._netlink.counters_read(self.table)

    def generation(self) -> int:
        """A number that every change of this namespace's rules makes another one. Raises OSError."""
        return self._netlink.generation_read()

    def delete(self) -> None:
        """Take the table away, if it is there. Raises LoadError."""
        self.apply(Ruleset(self.table))
        self._run(f'{{"nftables": [{{"delete": {{"table": {{"family": "{FAMILY}", "name": "{self.table}"}}}}}}]}}')

    def run(self, text: str) -> None:
        """Put what this text for nft says in force, in one transaction. Raises LoadError."""
        if self._binding is None:
            self._nft(["-f", "-"], text)
        else:
            self._run(text)

    def other_read(self, family: str, table: str) -> str | None:
        """What any table of this namespace says, so that two of one meaning are the same text; None: there is none,
        or one with flags, which we never set."""
        if self._netlink.table_flags_read(table, INET if family == FAMILY else BRIDGE):
            return None
        try:
            items = json.loads(self._said(f"list table {family} {table}"))["nftables"]
        except LoadError:
            return None
        rules = [item["rule"] for item in items if "rule" in item]
        rest = [_plain(item) for item in items if "rule" not in item and "metainfo" not in item]
        return json.dumps([sorted(json.dumps(item, sort_keys=True) for item in rest), list(map(_plain, rules))])

    def check(self, text: str) -> None:
        """Would `run` take it? The binding cannot say; without the command nft nobody is asked. Raises LoadError."""
        if shutil.which("nft") is not None:
            self._nft(["-c", "-f", "-"], text)

    def _run(self, text: str) -> None:
        if self._binding is None:
            self._nft(["-j", "-f", "-"], text)
            return
        status, _, said = self._binding.cmd(text)
        if status != 0:
            raise LoadError(_sentence(said))

    def _has_frames(self) -> bool:
        """Is there a table for frames?"""
        return self._netlink.table_flags_read(self.table, BRIDGE) is not None

    def _list(self, family: str) -> str:
        return self._said(f"list table {family} {self.table}", words=family == FRAME_FAMILY)

    def _said(self, command: str, *, words: bool = False) -> str:
        """What is listed: numbers, or words for what has some."""
        if self._binding is None:
            return self._nft(["-j", *(("-y", "-p") if words else ("-nn",)), *command.split()], "")
        self._binding.set_numeric_symbol_output(not words)
        try:
            status, found, said = self._binding.cmd(command)
        finally:
            self._binding.set_numeric_symbol_output(True)
        if status != 0:
            raise LoadError(_sentence(said))
        return str(found)

    def _nft(self, arguments: list[str], text: str) -> str:
        return namespace_entered(self._namespace, lambda: _nft(arguments, text))

    def close(self) -> None:
        """The table stays as it is."""
        self._binding = None
        self._netlink.close()
        os.close(self._namespace)

    def __enter__(self) -> RulesetLink:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def nft_needed() -> None:
    """Raises EnvironmentLacksError where there is neither the binding nor the command."""
    if shutil.which("nft") is None and _binding() is None:
        raise EnvironmentLacksError("no command nft and no Python package nftables", "apt-get install nftables")


def apply_ruleset(ruleset: Ruleset) -> None:
    """Put this table in the place of the one of its name, here. Raises LoadError, EnvironmentLacksError."""
    with RulesetLink(ruleset.table) as link:
        link.apply(ruleset)


def read_ruleset(table: str) -> Ruleset:
    """This table as the kernel has it here. Raises LoadError (not there), EnvironmentLacksError; ValueError where
    somebody put into it what we never make."""
    with RulesetLink(table) as link:
        return link.read()


def _binding() -> Any:
    """A context of libnftables, None where the binding or the library is missing. It belongs to the namespace in which
    it was made."""
    try:
        import nftables

        context = nftables.Nftables()
    except (ImportError, OSError):
        return None
    context.set_json_output(True)
    context.set_numeric_proto_output(True)
    for name in ("set_numeric_prio_output", "set_numeric_symbol_output"):
        getattr(context, name)(True)
    return context


def _nft(arguments: list[str], text: str) -> str:
    try:
        done = subprocess.run(
            ["nft", *arguments], input=text, capture_output=True, text=True, check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"nft has not answered within {_SECONDS} s") from error
    except OSError as error:
        raise LoadError(f"the command nft cannot be run: {error.strerror}") from error
    if done.returncode != 0:
        raise LoadError(_sentence(done.stderr))
    return done.stdout


def _plain(item: Any) -> Any:
    """Without handles, which are others each time, and with elements in an order of their own."""
    if isinstance(item, dict):
        found = {key: _plain(value) for key, value in item.items() if key != "handle"}
        if isinstance(found.get("elem"), list):
            found["elem"].sort(key=lambda element: json.dumps(element, sort_keys=True))
        return found
    return [_plain(value) for value in item] if isinstance(item, list) else item


def _sentence(said: str) -> str:
    """The first error of several lines with positions and carets."""
    lines = [line.strip() for line in said.splitlines() if "Error" in line or "rror:" in line]
    first = lines[0] if lines else said.strip() or "no reason given"
    return f"nftables refused the ruleset: {first}"
