# SPDX-License-Identifier: Apache-2.0
"""A verb with commands of its own, to which packages further up the chain bring more."""

from __future__ import annotations

from typing import ClassVar

import click

from dfw.settings import with_settings
from dfw.verbs import AGENT_GROUP, BENCH_GROUP, verb_summary, verb_table


class VerbGroup(click.Group):
    """The commands of its package, and those that others bring as entry points of the group `brought`."""

    brought: ClassVar[str]

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of all commands."""
        return sorted({*super().list_commands(ctx), *verb_table(self.brought)})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command; None where there is none of that name."""
        found = super().get_command(ctx, cmd_name)
        brought = verb_table(self.brought).get(cmd_name)
        if found is None and brought is not None:
            command: click.Command = brought.load()
            return with_settings(command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands in `--help`; what other packages bring is not imported for it."""
        own = {name: command.get_short_help_str(limit=150) for name, command in self.commands.items()}
        others = {name: verb_summary(point) or "" for name, point in verb_table(self.brought).items()}
        with formatter.section("Commands"):
            formatter.write_dl(sorted({**others, **own}.items()))


class BenchGroup(VerbGroup):
    """`palisade bench`."""

    brought = BENCH_GROUP


class AgentGroup(VerbGroup):
    """`palisade agent`."""

    brought = AGENT_GROUP
