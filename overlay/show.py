# SPDX-License-Identifier: Apache-2.0
"""`palisade show`: what is in force, asked of every host's agent."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dfw.cli import NO
from dfw.output import counted, emit, output_option, render_table
from overlay.which_agents import kubeconfig_option, lab_option, lone_agent, run_option, sockets_meant

if TYPE_CHECKING:
    from dfw.model import PolicySet

WHAT: Final = (
    "hosts",
    "vnics",
    "rules",
    "addrsets",
    "flows",
    "groups",
    "segments",
    "mac-table",
    "arp-table",
    "tep-table",
    "gateways",
    "stats",
    "health",
    "metrics",
)


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
@lab_option
@run_option
@kubeconfig_option
@click.option("--host", "only", help="This host only.")
@click.option("--match", help="flows: only these connections; see below.")
@click.option("--kill", help="flows: end these connections; `all` is every one.")
@click.option("--limit", type=click.IntRange(1), default=10000, show_default=True, help="flows: rows of a host.")
@click.option("--staged", is_flag=True, help="flows: those that the lab's staged policies would cut.")
@click.option("--counters", is_flag=True, help="rules: each rule once a host, with what it has done.")
@click.option("--reset", is_flag=True, help="rules: the counters shown begin at 0 again.")
@output_option
@click.pass_context
def show(
    ctx: click.Context,
    what: str,
    lab: str | None,
    run: Path | None,
    kubeconfig: Path | None,
    only: str | None,
    match: str | None,
    kill: str | None,
    limit: int,
    staged: bool,
    counters: bool,
    reset: bool,
    output: str,
) -> None:
    """Show what is in force on the hosts: vNICs, rules, connections, groups, tables, statistics, health, metrics.

    Connections are meant by terms with commas between them, all of which hold: vnic=, dir=IN|OUT, proto=, src=, dst=,
    addr= (either end; an address, a prefix or first-last), sport=, dport=, port=, rule= (its path, or the path's end).
    What comes of an ended connection begins anew, where a rule lets it; a rule with TCP strict does not.

    \b
    Examples:
      palisade show vnics
      palisade show rules --host esx-1 -o json
      palisade show rules --counters --reset
      palisade show flows --match vnic=web-1,proto=tcp,dport=443
      palisade show flows --staged
      palisade show flows --kill src=10.1.1.0/24,dport=3306
      palisade show health
      palisade show vnics --run /run/palisade-agent
      palisade show health --kubeconfig ./kubeconfig
      palisade show metrics > palisade.prom
    """
    _check_options(what, match, kill, counters, reset)
    if staged and (what != "flows" or kill is not None):
        raise click.UsageError("--staged is for `show flows`, and ends none")
    if staged and kubeconfig is not None:
        raise click.UsageError("--staged is asked of a lab or a host, which know what is staged: no --kubeconfig")
    sockets = sockets_meant(lab, run, only, kubeconfig)
    if kill is not None:
        _show(ctx, read_hosts(sockets, {"do": "kill", "match": kill}), "ended", output, _killed)
        return
    if what == "metrics":
        _show_metrics(ctx, read_hosts(sockets, {"do": what}), output)
        return
    request: dict[str, Any] = {"do": "show", "what": "counters" if counters else what}
    if reset:
        request = {"do": "reset"}
    elif what == "flows":
        request = {"do": "flows", "match": match or "all", "limit": limit}
    answers = read_hosts(sockets, request)
    if staged:
        _leave_staged(lab, run, answers)
    _show(ctx, answers, "rows", output, _table, what)


def _show_metrics(ctx: click.Context, answers: dict[str, dict[str, Any]], output: str) -> None:
    """The counters of all hosts as one text for Prometheus, or a row a sample."""
    from overlay.metrics_text import metric_rows, render_merged

    texts = {host: answer["text"] for host, answer in answers.items() if "text" in answer}
    rows = {host: {"rows": metric_rows(text)} for host, text in texts.items()}
    _show(ctx, answers | rows, "rows", output, lambda _: render_merged(texts.values()).rstrip("\n"))


def _leave_staged(lab: str | None, run: Path | None, answers: dict[str, dict[str, Any]]) -> None:
    """Of the hosts' connections only those that would be cut."""
    from overlay.staged_flows import staged_refused

    world, where = _world(lab, run)
    if not world.staged:
        raise click.UsageError(f"no policy of {where} is staged: `staged: true` in it, and `palisade apply`")
    for answer in answers.values():
        if "rows" in answer:
            answer["rows"] = staged_refused(world, answer["rows"])
            answer["total"] = len(answer["rows"])


def _world(lab: str | None, run: Path | None) -> tuple[PolicySet, str]:
    """What `apply` was last given, and whose it is."""
    from dfw.moment import world_at
    from overlay.change_verb import host_reported
    from overlay.host_change import read_inputs
    from overlay.lab_inputs import inputs_kept
    from overlay.lab_known import lab_known
    from overlay.lab_plan import world_moved

    alone = lone_agent(lab, run)
    if alone is not None:
        with host_reported():
            name, inputs = read_inputs(alone)
        return world_at(inputs.world, None), f"host {name}"
    paths, record = lab_known(lab)
    return world_moved(world_at(inputs_kept(paths, record).world, None), record.moved), f"lab {paths.name}"


def _check_options(what: str, match: str | None, kill: str | None, counters: bool, reset: bool) -> None:
    from overlay.flow_filter import FlowFilterError, flow_filter_parse

    if what != "flows" and (match is not None or kill is not None):
        raise click.UsageError("--match and --kill are for `show flows`")
    if what != "rules" and (counters or reset):
        raise click.UsageError("--counters and --reset are for `show rules`")
    if match is not None and kill is not None:
        raise click.UsageError("--kill says already which connections are meant: leave out --match")
    for name, text in (("--match", match), ("--kill", kill)):
        try:
            if text is not None:
                flow_filter_parse(text)
        except FlowFilterError as error:
            raise click.BadParameter(str(error), param_hint=name) from error


def _show(
    ctx: click.Context,
    answers: dict[str, dict[str, Any]],
    member: str,
    output: str,
    table: Callable[[list[dict[str, Any]]], str],
    what: str = "",
) -> None:
    """Print what the hosts answered, and end with 1 where one did not, or where it is not well."""
    rows = []
    for host, answer in answers.items():
        if member == "rows":
            rows += [{"host": host} | row for row in answer.get(member, ())]
        elif member in answer:
            rows.append({"host": host, member: answer[member]})
        shown, total = len(answer.get("rows", ())), answer.get("total", 0)
        if total > shown:
            click.echo(f"{host}: {shown} of {total} connections; --match says which, --limit how many", err=True)
    errors = {host: answer["error"] for host, answer in answers.items() if member not in answer}
    for host, error in errors.items():
        click.echo(f"{host}: {error}", err=True)
    emit(rows, output, table)
    if errors or (what == "health" and not all(row["ok"] for row in rows)):
        ctx.exit(NO)


def _killed(rows: list[dict[str, Any]]) -> str:
    total = sum(row["ended"] for row in rows)
    return f"{counted(total, 'connection')} ended: " + ", ".join(f"{row['ended']} on {row['host']}" for row in rows)


def _table(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "nothing"
    columns = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    return render_table([column.replace("_", " ") for column in columns], cells)


def _cell(value: object) -> str:
    if isinstance(value, dict):
        value = [f"{name}: {text}" for name, text in value.items()]
    return "" if value is None else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
