# SPDX-License-Identifier: Apache-2.0
"""What a command that takes a while is doing, on stderr: bars on a terminal, a line a step where it is piped."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.progress import Progress


class Steps:
    """Steps with a known number of things each. `quiet`: nothing is said."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self._bars: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[Steps]:
        """As long as this lasts, steps are shown."""
        if self.quiet or not sys.stderr.isatty():
            yield self
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as self._bars:
            yield self
        self._bars = None

    @contextmanager
    def step(self, text: str, total: int) -> Iterator[Step]:
        """One step of `total` things; nothing is said where that is 0."""
        begun = time.monotonic()
        if self._bars is not None and total:
            yield Step(self._bars, self._bars.add_task(text, total=total))
        else:
            yield Step()
            if total and not self.quiet and self._bars is None:
                click.echo(f"{text}: {total}, {time.monotonic() - begun:.1f} s", err=True)

    def say(self, text: str) -> None:
        """A line for people."""
        if self.quiet:
            return
        if self._bars is not None:
            self._bars.console.print(text, highlight=False, markup=False)
        else:
            click.echo(text, err=True)


class Step:
    """The things of one step, told one by one."""

    def __init__(self, bars: Progress | None = None, task: int = 0) -> None:
        self._bars, self._task = bars, task

    def advance(self, _: object = None) -> None:
        """One more is done."""
        if self._bars is not None:
            from rich.progress import TaskID

            self._bars.advance(TaskID(self._task))
