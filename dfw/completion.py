# SPDX-License-Identifier: Apache-2.0
"""`palisade completion`: the script that makes a shell complete verbs and options."""

from __future__ import annotations

import click
from click.shell_completion import ShellComplete, get_completion_class

from dfw.errors import EnvironmentLacksError


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    \b
    Examples:
      source <(palisade completion bash)
      palisade completion zsh > "${fpath[1]}/_palisade"
      palisade completion fish > ~/.config/fish/completions/palisade.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise EnvironmentLacksError(f"completion for {shell}", "pip install 'click>=8.1'")
    script = kind(ctx.find_root().command, {}, "palisade", "_PALISADE_COMPLETE")
    # click's bash class starts bash to ask its version first; the text is wanted on a machine without bash too.
    click.echo(ShellComplete.source(script))
