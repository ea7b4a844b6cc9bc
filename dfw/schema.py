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


def _has(ctx: click.Context, verb: str, word: str) -> bool:
    """Whether a verb has this command, or takes this word."""
    root = ctx.find_root().command
    command = root.get_command(ctx, verb) if isinstance(root, click.Group) else None
    if isinstance(command, click.Group):
        return word in command.list_commands(ctx)
    return command is not None and any(word in getattr(item.type, "choices", ()) for item in command.params)


@click.command
@click.argument("verb", nargs=-1)
@click.pass_context
def schema(ctx: click.Context, verb: tuple[str, ...]) -> None:
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
    # `bench conntrack` has the schema of `bench`, `bench lab` one of its own; what is no command has none.
    name = "-".join(words)
    if name not in found and len(words) > 1 and _has(ctx, words[0], "-".join(words[1:])):
        name = words[0]
    if name not in found:
        raise click.UsageError(f"'{' '.join(verb)}' has no schema; these have one: {', '.join(found)}")
    click.echo(found[name].read_text(encoding="utf-8"), nl=False)
