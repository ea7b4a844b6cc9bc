# SPDX-License-Identifier: Apache-2.0
"""`-o table|json|yaml`: one way to show a result, for every verb that shows something.

The data is the answer; the table is a view of it. JSON is one document and ends with a newline.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Final, TypeVar

import click

FORMATS = ("table", "json", "yaml")
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what is written has no room: the machine's lack
Function = TypeVar("Function", bound=Callable[..., Any])


def output_option(function: Function) -> Function:
    """The option `-o/--output`; the function gets it as `output`."""
    option = click.option(
        "-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True, help="How to show the result."
    )
    return option(function)


def outputs_check(outputs: Mapping[str, str | None], inputs: Iterable[str]) -> None:
    """Refuse to write over what is read, or two things into one file. `outputs`: by option; devices and pipes may be
    named twice. Raises click.UsageError.
    """
    files = {_identity(path): path for path in inputs}
    files.pop(None, None)
    for option, path in outputs.items():
        file = None if path is None else _identity(path)
        if file in files:
            raise click.UsageError(f"{option} {path} would overwrite {files[file]}")
        if file is not None and path is not None:
            files[file] = f"what {option} writes"


def stdin_check(*files: str) -> None:
    """Refuse `-` twice: what was read once is empty the second time. Raises click.UsageError."""
    if files.count("-") > 1:
        raise click.UsageError("- is standard input, which can be read once; name a file for the other")


def _identity(path: str) -> tuple[int, int] | str | None:
    """What two names of one file have in common; None for what is no file."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None if path == "-" else os.path.realpath(path)
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None


def emit(data: Any, output: str, table: Callable[[Any], str] | None = None) -> None:
    """Write `data` to stdout in the format `output`; `table` renders it for people (default: YAML)."""
    if output == "json":
        click.echo(json.dumps(data, indent=2, ensure_ascii=False))
    elif output == "yaml" or table is None:
        import yaml

        click.echo(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), nl=False)
    else:
        click.echo(table(data))


def error_text(error: Exception) -> str:
    """An error in words, without a number: the file where it has one, and why."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def counted(count: int, one: str, many: str = "") -> str:
    """`1 error`, `2 errors`; `many` where it is not the word with an s."""
    return f"{count:,} {one if count == 1 else many or f'{one}s'}"


def render_table(columns: Sequence[str], rows: Iterable[Sequence[object]], numbers: Collection[int] = ()) -> str:
    """A table as text: drawn with rich on a terminal, columns separated by two blanks or more when piped.

    `numbers`: columns that are numbers, and stand right.
    """
    cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        return draw_table(columns, cells, numbers)
    widths = [max([len(name), *(len(row[i]) for row in cells)]) for i, name in enumerate(columns)]
    lines = [[name.upper() for name in columns], *cells]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in numbers else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def draw_table(columns: Sequence[str], cells: Iterable[Sequence[str]], numbers: Collection[int] = ()) -> str:
    """A table with rich, as wide as the terminal; 80 where that does not say how wide it is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        table.add_column(name, justify="right" if i in numbers else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    width = shutil.get_terminal_size().columns
    console = Console(width=width, no_color=bool(os.environ.get("NO_COLOR")) or None)
    with console.capture() as captured:
        console.print(table)
    return captured.get().rstrip("\n")
