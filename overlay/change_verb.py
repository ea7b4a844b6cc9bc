# SPDX-License-Identifier: Apache-2.0
"""`palisade apply`, `rollback`, `wait`: changing a running lab or a host, with a way back, and waiting for it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dfw.cli import DONE, NO
from dfw.output import emit, output_option
from overlay.lab_known import files_say, lab_known, lab_reported, name_option
from overlay.which_agents import (
    NAMED_BY_RUN,
    agent_lacks,
    kubeconfig_option,
    lone_agent,
    of_supervisor,
    only_kubeconfig,
    run_option,
)

if TYPE_CHECKING:
    from overlay.host_change import HostApplied
    from overlay.lab_change import Applied
    from overlay.lab_record import PendingRecord
    from overlay.lab_revision import Keeps

Function = TypeVar("Function", bound=Callable[..., Any])

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType[float]):
    """A time span: `60s`, `500ms`, `2m`, `1h`, or a number of seconds. The value is seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds; fails where that is none, or not more than nothing."""
        match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)?", str(value))
        seconds = float(match[1]) * _UNITS[match[2] or ""] if match else 0.0
        if not 0 < seconds <= 86400 * 7:
            self.fail(f"{value!r} is no time span such as 60s, 500ms, 2m or 1h", param, ctx)
        return seconds


@contextmanager
def host_reported() -> Iterator[None]:
    """What can go wrong with a host, as messages with their exit statuses."""
    from overlay.ask import AskError
    from overlay.host_change import NoHostError

    try:
        with lab_reported():
            yield
    except NoHostError as error:
        raise click.UsageError(str(error)) from None
    except AskError as error:
        raise agent_lacks(error) from None


@click.command
@click.argument("files", nargs=-1, metavar="[FILE]...")
@name_option
@run_option
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--confirm", type=Duration(), metavar="TIME", help="Go back by itself, unless confirmed by then: 60s.")
@click.option("--confirmed", is_flag=True, help="The change that waits is well: it stays.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def apply(
    files: tuple[str, ...],
    name: str | None,
    run: Path | None,
    dry_run: bool,
    confirm: float | None,
    confirmed: bool,
    quiet: bool,
) -> int:
    """Change a running lab, or this host, to what FILEs say; a change that fails is taken back.

    FILEs are the policy, whole. Where they say nothing of hosts, networks and workloads, those stay as they are.
    The same files again: nothing changes. A host that is no lab's takes its own part of them: they may be the same on
    all hosts.

    \b
    Examples:
      palisade apply inventory.yaml policy.yaml --run /run/palisade-agent
      palisade apply policy.yaml --dry-run
      palisade apply policy.yaml --confirm 60s && ./check-it && palisade apply --confirmed
    """
    from overlay import lab_change
    from overlay.progress import Steps

    if confirmed == bool(files) or (confirmed and (dry_run or confirm is not None)):
        raise click.UsageError("give FILEs to apply, or --confirmed alone")
    if dry_run and confirm is not None:
        raise click.UsageError("--dry-run changes nothing that could be confirmed")
    begun = time.monotonic()
    if (agent := lone_agent(name, run)) is not None:
        from overlay import host_change

        with host_reported():
            if confirmed:
                settled = host_change.confirm_change(agent)
                click.echo(f"host {settled.name}: revision {settled.revision} stays")
                return DONE
            _tell_host(host_change.apply(agent, files, dry_run=dry_run, confirm=confirm), dry_run, begun)
        return DONE
    paths, _ = lab_known(name, NAMED_BY_RUN)
    files_say(paths)
    with lab_reported():
        if confirmed:
            click.echo(f"lab {paths.name}: revision {lab_change.confirm_change(paths)} stays")
            return DONE
        done = lab_change.apply(paths, files, dry_run=dry_run, confirm=confirm, steps=Steps(quiet))
    _tell(done, dry_run, time.monotonic() - begun)
    _tell_pending(done.pending, f" --lab {paths.name}")
    return DONE


@click.command
@click.argument("revision", type=click.IntRange(1), required=False)
@name_option
@run_option
@click.option("--list", "listed", is_flag=True, help="Show the revisions that are kept.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@output_option
def rollback(
    revision: int | None,
    name: str | None,
    run: Path | None,
    listed: bool,
    dry_run: bool,
    quiet: bool,
    output: str,
) -> int:
    """Go back to what a lab or host was at an earlier REVISION, as a new revision.

    Pods that were migrated stay where they are. The last 16 revisions are kept.

    \b
    Examples:
      palisade rollback --list -o json
      palisade rollback 3 --dry-run
    """
    from overlay import lab_change
    from overlay.progress import Steps

    if listed == (revision is not None):
        raise click.UsageError("give a REVISION, or --list")
    begun = time.monotonic()
    if (agent := lone_agent(name, run)) is not None:
        from overlay import host_change

        with host_reported():
            if revision is None:
                place = host_change.read_place(agent)
                emit(_listed(place, place.revision), output, _list_text)
            else:
                _tell_host(host_change.rollback(agent, revision, dry_run=dry_run), dry_run, begun)
        return DONE
    paths, record = lab_known(name, NAMED_BY_RUN)
    if revision is None:
        emit(_listed(paths, record.revision), output, _list_text)
        return DONE
    files_say(paths)
    with lab_reported():
        done = lab_change.rollback(paths, revision, dry_run=dry_run, steps=Steps(quiet))
    _tell(done, dry_run, time.monotonic() - begun)
    return DONE


def _tell(done: Applied, dry_run: bool, seconds: float) -> None:
    if dry_run:
        click.echo("\n".join(done.changes.lines()) if done.changes else "nothing to do")
    elif done.changes:
        click.echo(f"lab {done.record.name}: revision {done.record.revision} is in force, in {seconds:.1f} s")
    else:
        click.echo(f"lab {done.record.name}: as it was, revision {done.record.revision}")


def _tell_host(done: HostApplied, dry_run: bool, begun: float) -> None:
    if dry_run or not done.lines:
        nothing = "nothing to do" if dry_run else f"host {done.name}: as it was, revision {done.revision}"
        click.echo("\n".join(done.lines) or nothing)
        return
    click.echo(f"host {done.name}: revision {done.revision} is in force, in {time.monotonic() - begun:.1f} s")
    for name, text in done.problems.items():
        click.echo(f"{name}: tried again: {text}", err=True)
    _tell_pending(done.pending, "")


def _tell_pending(pending: PendingRecord | None, which: str) -> None:
    from overlay.timer import boot_seconds

    if pending is not None:
        left = max(pending.deadline - boot_seconds(), 0.0)
        again = f"`palisade apply --confirmed{which}`"
        click.echo(f"revision {pending.base} comes back in {left:.3g} s unless you say {again}")


def _listed(paths: Keeps, now: int) -> list[dict[str, Any]]:
    from overlay.lab_revision import RevisionError, revision_numbers, revision_read

    rows: list[dict[str, Any]] = []
    for number in revision_numbers(paths):
        row: dict[str, Any] = {"revision": number, "now": number == now, "at": None, "by": None, "files": []}
        row["error"] = None
        try:
            found = revision_read(paths, number)
        except RevisionError as error:
            row["error"] = str(error)
        else:
            row.update(at=found.at.isoformat(), by=found.what, files=[item.file for item in found.files])
        rows.append(row)
    return rows


def _list_text(rows: list[dict[str, Any]]) -> str:
    from dfw.output import render_table

    cells = [
        [
            f"{row['revision']} (now)" if row["now"] else str(row["revision"]),
            "" if row["at"] is None else row["at"][:19].replace("T", " "),
            row["error"] or row["by"],
            ", ".join(row["files"]),
        ]
        for row in rows
    ]
    return render_table(["revision", "at (UTC)", "by", "files"], cells)


@click.command
@click.option("--realized", "what", is_flag=True, required=True, help="Until it is in force on all hosts it concerns.")
@click.argument("object_", metavar="[OBJECT]", required=False)
@name_option
@run_option
@kubeconfig_option
@click.option("--timeout", type=Duration(), default="60s", show_default=True, metavar="TIME")
def wait(
    what: bool, object_: str | None, name: str | None, run: Path | None, kubeconfig: Path | None, timeout: float
) -> int:
    """Wait until what a lab's hosts, or this one, were told is in force; exit status 1 when it is not in time.

    OBJECT: a rule, policy, group, vNIC, segment, gateway or host, by its name or the end of its path: then only the
    hosts count that need it. With a Supervisor all objects of its API count, or OBJECT, also as networkpolicy/NAME.

    \b
    Examples:
      palisade wait --realized --timeout 10s
      palisade wait --realized shop/rules/web-to-db
      palisade wait --realized networkpolicy/shop/isolate --kubeconfig ./kubeconfig
    """
    from overlay.lab_view import has_supervisor, lab_view
    from overlay.lab_wait import hosts_concerned, wait_hosts

    if kubeconfig is not None:
        only_kubeconfig(name, run)
        behind = of_supervisor("wait")(kubeconfig, object_, timeout)
        for item, why in behind.items():
            click.echo(f"{item}: {why}", err=True)
        if not behind:
            click.echo(f"realized: {object_ or 'everything'}")
        return NO if behind else DONE
    if (agent := lone_agent(name, run)) is not None:
        from overlay import host_change

        if object_ is not None:
            raise click.UsageError("an OBJECT is asked of a lab; a host is waited for as a whole")
        with host_reported():
            place, why = host_change.wait(agent, timeout)
        if why is not None:
            click.echo(f"host {place.name}: {why}", err=True)
            return NO
        click.echo(f"realized: revision {place.revision} on {place.name}")
        return DONE
    paths, record = lab_known(name, NAMED_BY_RUN)
    deadline = time.monotonic() + timeout
    with lab_reported():
        wait_in_api = lab_view(paths, record).wait if has_supervisor(paths) else None
        behind = None if wait_in_api is None else wait_in_api(object_, timeout)
        hosts = [] if behind is not None and object_ is not None else hosts_concerned(paths, record, object_)
        if behind is None and not hosts:
            told = f"no host is told of {object_!r}" if object_ else f"lab {paths.name} has no hosts"
            raise click.UsageError(told)
        wanted = dict.fromkeys(record.hosts, record.revision)
        if wait_in_api is not None:
            wanted = dict(lab_view(paths, record).wanted)
        missing = dict(behind or {})
        for host in hosts:
            left = max(deadline - time.monotonic(), 0.0)
            missing |= {f"host {host}": why for why in wait_hosts(paths, wanted[host], [host], left).values()}
    for item, why in missing.items():
        click.echo(f"{item}: {why}", err=True)
    if not missing:
        where = f" on {', '.join(hosts)}" if hosts else ""
        click.echo(f"realized: {object_ if not hosts else f'revision {max(wanted.values())}'}{where}")
    return NO if missing else DONE
