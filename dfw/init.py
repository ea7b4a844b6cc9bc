# SPDX-License-Identifier: Apache-2.0
"""`palisade init`: a directory to start from."""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

DONE, BAD_INPUT = 0, 2
EXAMPLE = "example"  # in a checkout a link to examples/shop
_LEFT_OUT = (".pyc",)


@click.command(
    epilog="""\b
Examples:
  palisade init shop
  cd shop && palisade test"""
)
@click.argument("directory", metavar="DIR")
def init(directory: str) -> int:
    """Make a directory with an example: a policy, its inventory, and tests that pass.

    A directory that exists must be empty; nothing is ever overwritten.
    """
    target = Path(directory)
    try:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            click.echo(f"palisade init: {directory} is there already, and not empty; name a new directory", err=True)
            return BAD_INPUT
        target.mkdir(parents=True, exist_ok=True)
        for source in example_files():
            with open(target / source.name, "xb") as file:
                file.write(source.read_bytes())
            click.echo(f"made {target / source.name}")
    except OSError as error:
        click.echo(f"palisade init: {error.filename or directory}: {error.strerror or error}", err=True)
        return BAD_INPUT
    click.echo(f"now: cd {directory} && palisade test")
    return DONE


def example_files() -> list[Traversable]:
    """The files of the example, by name."""
    folder = files("dfw") / EXAMPLE
    found = [item for item in folder.iterdir() if item.is_file() and not item.name.endswith(_LEFT_OUT)]
    return sorted(found, key=lambda item: item.name)
