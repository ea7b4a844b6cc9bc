# SPDX-License-Identifier: Apache-2.0
"""`palisade show`: what is in force, asked of every host's agent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import click

from dfw.cli import NO
from dfw.errors import EnvironmentLacksError
from dfw.output import emit, output_option, render_table

WHAT: Final = (
    "hosts",
    "vnics",
    "rules",
    "addrsets",
    "segments",
    "mac-table",
    "arp-table",
    "tep-table",
    "gateways",
    "stats",
    "health",
)


def lab_sockets(name: str | None) -> dict[str, Path]:
    """The agents' sockets of a lab, by host; None: of the only one. Raises click.UsageError, EnvironmentLacksError."""
    from overlay.lab_record import labs_folder

    folder = labs_folder()
    found = sorted(path.parent.name for path in folder.glob("*/lab.json"))
    if name is None:
        if not found:
            raise EnvironmentLacksError("a running lab", "`palisade lab up` starts one")
        if len(found) > 1:
            raise click.UsageError(f"several labs are running: --lab {' or '.join(found)}")
        name = found[0]
    elif name not in found:
        raise click.UsageError(f"there is no lab {name!r}; running: {', '.join(found) or 'none'}")
    return {path.parent.parent.name: path for path in sorted((folder / name / "hosts").glob("*/run/agent.sock"))}


def read_hosts(sockets: dict[str, Path], request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every agent's answer, by host; where one does not answer, `{"error": sentence}`."""
    from overlay.ask import AskError, agent_ask

    def ask(path: Path) -> dict[str, Any]:
        try:
            return agent_ask(path, request)
        except AskError as error:
            return {"error": str(error)}

    with ThreadPoolExecutor(max_workers=8) as pool:
        return dict(zip(sockets, pool.map(ask, sockets.values()), strict=True))


@click.command
@click.argument("what", type=click.Choice(WHAT))
@click.option("--lab", help="Which lab; default: the only one running.")
@click.option("--host", "only", help="This host only.")
@output_option
@click.pass_context
def show(ctx: click.Context, what: str, lab: str | None, only: str | None, output: str) -> None:
    """Show what is in force on the hosts: vNICs, rules, address sets, tables, statistics, health.

    \b
    Examples:
      palisade show vnics
      palisade show rules --host esx-1 -o json
      palisade show health
    """
    sockets = lab_sockets(lab)
    if only is not None:
        if only not in sockets:
            raise click.UsageError(f"there is no host {only!r}; these are: {', '.join(sockets)}")
        sockets = {only: sockets[only]}
    answers = read_hosts(sockets, {"do": "show", "what": what})
    rows = [{"host": host} | row for host, answer in answers.items() for row in answer.get("rows", ())]
    errors = {host: answer["error"] for host, answer in answers.items() if "rows" not in answer}
    for host, error in errors.items():
        click.echo(f"{host}: {error}", err=True)
    emit(rows, output, _table)
    if errors or (what == "health" and not all(row["ok"] for row in rows)):
        ctx.exit(NO)


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "nothing"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return render_table([column.replace("_", " ") for column in columns], cells)


def _cell(value: object) -> str:
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
