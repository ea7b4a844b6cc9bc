# SPDX-License-Identifier: Apache-2.0
"""`palisade lab`: hosts, an underlay and pods on this machine, in namespaces of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

import click

from dfw.cli import DONE, NO
from dfw.output import emit, output_option
from overlay.lab_known import files_say, lab_known, lab_named, lab_only, lab_reported, name_option

if TYPE_CHECKING:
    from overlay.lab_record import LabPaths, LabRecord
    from overlay.progress import Steps


@click.group(
    epilog="""\b
Example:
  palisade lab up && palisade lab probe && palisade lab down

`palisade lab COMMAND --help` has an example for each command."""
)
def lab() -> None:
    """A lab on this machine: hosts, their underlay, and pods; real packets through the overlay and the firewall."""


@lab.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("--name", metavar="NAME", default="lab", show_default=True, help="The lab's name.")
@click.option("--mtu", type=click.IntRange(1280, 9000), default=1700, show_default=True, help="Of the underlay, bytes.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and do nothing.")
@click.option("--supervisor", is_flag=True, help="With a control plane: what runs there is asked for through its API.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def up(files: tuple[str, ...], name: str, mtu: int, dry_run: bool, supervisor: bool, quiet: bool) -> int:
    """Bring a lab up, or change it to what the files now say.

    FILEs: Inventory, policy, Kubernetes manifests; none: the built-in example. The same files again: nothing changes.

    \b
    Examples:
      palisade lab up
      palisade lab up inventory.yaml policy.yaml --name shop --dry-run
      palisade lab up --supervisor
    """
    from overlay import lab_up
    from overlay.progress import Steps

    if supervisor:
        if dry_run:
            raise click.UsageError(
                "--dry-run is of a lab without --supervisor: ask the API with kubectl --dry-run=server"
            )
        with lab_reported():
            _with_supervisor()(lab_named(name), files, mtu, Steps(quiet))
        return DONE
    files_say(lab_named(name))
    begun = time.monotonic()
    with lab_reported():
        record, changes, _ = lab_up.up(lab_named(name), files, mtu=mtu, dry_run=dry_run, steps=Steps(quiet))
    if dry_run:
        click.echo("\n".join(changes.lines()) if changes else "nothing to do")
        return DONE
    _tell_up(record, bool(changes), time.monotonic() - begun)
    return DONE


def _with_supervisor() -> Callable[[LabPaths, Sequence[str], int, Steps], None]:
    """What brings a lab up with a control plane: of the package above this one, found by its entry point."""
    found = [point for point in entry_points(group="palisade.lab") if point.name == "supervisor"]
    if not found:
        raise click.UsageError("the package supervisor_glue is not installed here")
    function: Callable[[LabPaths, Sequence[str], int, Steps], None] = found[0].load()
    return function


def _tell_up(record: LabRecord, changed: bool, seconds: float) -> None:
    word = f"up in {seconds:.1f} s" if changed else "as it was"
    click.echo(
        f"lab {record.name}, {word}: {len(record.hosts)} hosts, {len(record.pods)} pods, revision {record.revision}"
    )
    for name, pod in record.pods.items():
        for controller in pod.unlimited:
            click.echo(f"pod {name}: no limit on {controller}, which this machine does not let us set", err=True)


@lab.command()
@click.option("--name", metavar="NAME", help="Which lab; default: the only one there is.")
@click.option("--all", "everything", is_flag=True, help="All labs.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
def down(name: str | None, everything: bool, quiet: bool) -> int:
    """Take a lab down: no namespace, link, process or file of it is left.

    \b
    Example:
      palisade lab down
    """
    from overlay import lab_up
    from overlay.lab_apply import read_lacks
    from overlay.lab_record import labs_list
    from overlay.progress import Steps

    if everything:
        wanted = labs_list()
    elif name is not None:
        wanted = [paths for paths in [lab_named(name)] if paths.folder.is_dir()]
    else:
        wanted = [lab_only()] if labs_list() else []
    if not wanted:
        click.echo("no lab is there" if name is None else f"there is no lab {name}")
        return DONE
    lacks = read_lacks()
    if lacks is not None:
        raise lacks
    for paths in wanted:
        begun = time.monotonic()
        for note in lab_up.down(paths, Steps(quiet)):
            click.echo(note, err=True)
        click.echo(f"lab {paths.name}, down in {time.monotonic() - begun:.1f} s")
    return DONE


@lab.command()
@name_option
@output_option
def status(name: str | None, output: str) -> int:
    """What a lab's hosts say of themselves: revisions, vNICs, connections, drops; its segments and pods.

    \b
    Example:
      palisade lab status -o json
    """
    from overlay.lab_status import read_status, render_status

    paths, record = lab_known(name)
    with lab_reported():
        data = read_status(paths, record)
    emit(data, output, render_status)
    return DONE


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@name_option
@click.argument("pod")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="[--] COMMAND...")
def exec_(name: str | None, pod: str, command: tuple[str, ...]) -> None:
    """Run a command in a pod's namespaces; its exit status is this one's.

    \b
    Examples:
      palisade lab exec web-1 -- ping -c 3 10.1.2.11
      palisade lab exec shop/web -- ss -tn
    """
    from overlay.lab_view import lab_view
    from overlay.pod import exec_become

    paths, record = lab_known(name)
    with lab_reported():
        pods = lab_view(paths, record).pods
    found = pods.get(pod)
    if found is None:
        raise click.UsageError(f"lab {record.name} has no pod {pod!r}; it has {', '.join(pods) or 'none'}")
    try:
        line = found.command(command)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    exec_become(line)


@lab.command()
@name_option
@click.option("--ports", default="tcp/80,udp/53", show_default=True, help="tcp/80,udp/53,sctp/80,icmp or ports' names.")
@click.option("--family", type=click.Choice(["any", "4", "6"]), default="any", help="Default: a pair's first.")
@click.option("--timeout", type=click.FloatRange(0.05, 60), default=1.0, show_default=True, help="Seconds for silence.")
@click.option("--grid", is_flag=True, help="Print who reached whom, a grid for each port.")
@click.option("-q", "--quiet", is_flag=True, help="No progress on stderr.")
@output_option
def probe(name: str | None, ports: str, family: str, timeout: float, grid: bool, quiet: bool, output: str) -> int:
    """Make real connections between all pods, and compare with what the policy says; exit status 1 where they differ.

    Listeners are the probe's own, and end with it.

    \b
    Example:
      palisade lab probe --ports tcp/80,udp/53,icmp --grid
    """
    from dfw.matrix import ports_parse
    from overlay.lab_probe import not_here, probe_lab, render_grids, render_probe
    from overlay.lab_view import lab_view
    from overlay.progress import Steps

    asked = ports_parse(ports)
    paths, record = lab_known(name)
    with lab_reported():
        view = lab_view(paths, record)
        rows = probe_lab(view, asked, family=family, timeout=timeout, steps=Steps(quiet))
    if elsewhere := not_here(view):
        click.echo(f"not tried, for they run on none of the lab's hosts: {', '.join(elsewhere)}", err=True)
    emit(rows, output, render_grids if grid else render_probe)
    return DONE if all(row["expected"] == row["observed"] for row in rows) else NO


@lab.command()
@name_option
@click.argument("pod")
@click.argument("host")
def migrate(name: str | None, pod: str, host: str) -> int:
    """Have another host carry a running pod: its vNIC, rules, addresses and connections move, its processes go on.

    It stays there until the lab's files say another host. Connections are copied while packets run; then the pod's
    packets wait for some milliseconds while the rest follows.

    \b
    Example:
      palisade lab migrate web-1 esx-2
    """
    from overlay import lab_up
    from overlay.lab_migrate import render_migrated

    paths, _ = lab_known(name)
    files_say(paths)
    begun = time.monotonic()
    try:
        with lab_reported():
            moved = lab_up.migrate(paths, pod, host)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if moved is None:
        click.echo(f"pod {pod} is on {host} already")
        return DONE
    for line in render_migrated(pod, host, moved, time.monotonic() - begun):
        click.echo(line)
    return DONE


@lab.command()
@name_option
@click.option("--format", "kind", type=click.Choice(["text", "svg", "dot"]), default="text", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False), help="Write to a file instead of stdout.")
def graph(name: str | None, kind: str, out: str | None) -> int:
    """A lab as a picture: gateways, segments, pods and hosts. SVG needs graphviz.

    \b
    Examples:
      palisade lab graph
      palisade lab graph --format svg --out lab.svg
    """
    from overlay.lab_graph import graph_dot, graph_svg, graph_text
    from overlay.lab_view import lab_view

    paths, record = lab_known(name)
    with lab_reported():
        world = lab_view(paths, record).world
    made = graph_text(record.name, world) if kind == "text" else graph_dot(record.name, world)
    text = graph_svg(made) if kind == "svg" else made
    if out is None:
        click.echo(text)
    else:
        with click.open_file(out, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    return DONE
