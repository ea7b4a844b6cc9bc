# SPDX-License-Identifier: Apache-2.0
"""`palisade schema`: the JSON Schema of what a verb prints with `-o json`.

A schema is the file schemas/VERB.json in the package that brings the verb.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable

import click


def schema_files() -> dict[str, Traversable]:
    """The schema files by verb, of all packages that bring verbs."""
    from dfw.verbs import verb_table

    found: dict[str, Traversable] = {}
    for package in sorted({point.module.partition(".")[0] for point in verb_table().values()}):
        folder = files(package) / "schemas"
        if folder.is_dir():
            for entry in folder.iterdir():
                if entry.name.endswith(".json"):
                    found[entry.name.removesuffix(".json")] = entry
    return dict(sorted(found.items()))


@click.command
@click.argument("verb", nargs=-1)
def schema(verb: tuple[str, ...]) -> None:
    """Print the JSON Schema of a verb's output, or list the verbs that have one.

    \b
    Examples:
      palisade schema
      palisade schema version
      palisade schema lab status
    """
    found = schema_files()
    words = " ".join(verb).replace("-", " ").split()
    if not words:
        click.echo("\n".join(found))
        return
    # `bench conntrack` has the schema of `bench`, `bench lab` one of its own.
    name = next((name for n in range(len(words), 0, -1) if (name := "-".join(words[:n])) in found), None)
    if name is None:
        raise click.UsageError(f"'{' '.join(verb)}' has no schema; these have one: {', '.join(found)}")
    click.echo(found[name].read_text(encoding="utf-8"), nl=False)
