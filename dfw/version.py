# SPDX-License-Identifier: Apache-2.0
"""`palisade version`: which build this is, as a person or a bug report needs it."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from typing import Any

import click

from dfw import __version__
from dfw.output import emit, output_option


def read_commit() -> str | None:
    """The commit of the checkout that this code lies in, with `+` when it was changed since; None outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no"], check=True, capture_output=True, text=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed else "")


def read_core() -> dict[str, Any] | None:
    """What the compiled core says of itself (`compiler`, `target`, `layout`); None where it is not built."""
    try:
        from dfw import core
    except ImportError:
        return None
    return dict(core.build_info())


def read_version() -> dict[str, Any]:
    """The answer of `version -o json`; its schema is dfw/schemas/version.json."""
    return {
        "version": __version__,
        "commit": read_commit(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "core": read_core(),
    }


def render_version(data: dict[str, Any]) -> str:
    """One line a fact."""
    core = data["core"]
    built = f"{core['compiler']}, {core['target']}, layout {core['layout']}" if core else "not built (run `make build`)"
    lines = [f"palisade {data['version']}"]
    if data["commit"]:
        lines.append(f"commit   {data['commit']}")
    lines += [f"python   {data['python']} on {data['machine']}", f"core     {built}"]
    return "\n".join(lines)


@click.command
@output_option
def version(output: str) -> None:
    """Show the version, the commit, and what the packet core was built with.

    \b
    Example:
      palisade version -o json
    """
    emit(read_version(), output, render_version)
