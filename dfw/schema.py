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
@click.argument("verb", required=False)
def schema(verb: str | None) -> None:
    """Print the JSON Schema of a verb's output, or list the verbs that have one.

    \b
    Examples:
      palisade schema
      palisade schema version
    """
    found = schema_files()
    if verb is None:
        click.echo("\n".join(found))
        return
    if verb not in found:
        raise click.UsageError(f"'{verb}' has no schema; these have one: {', '.join(found)}")
    click.echo(found[verb].read_text(encoding="utf-8"), nl=False)
