# SPDX-License-Identifier: Apache-2.0
"""`palisade agent`: the host agent's command line."""

from __future__ import annotations

from pathlib import Path

import click

from dfw.cli import DONE, LACKING
from dfw.errors import EnvironmentLacksError


@click.group
def agent() -> None:
    """Run the host agent: it keeps a host's vNICs, firewall and overlay as its state says.

    \b
    Example:
      palisade agent run --host esx-1 --desired /etc/palisade/desired.json --run /run/palisade --underlay eth0
    """


@agent.command
@click.option("--host", required=True, help="Which host this is.")
@click.option("--desired", required=True, type=click.Path(path_type=Path), help="The file with its state.")
@click.option("--run", required=True, type=click.Path(path_type=Path), help="Directory for sockets and connections.")
@click.option("--underlay", required=True, help="The interface that carries Geneve.")
@click.option("--netns", help="Network namespace of the host (its path); default: this one.")
@click.option("--uplink", type=click.Choice(["auto", "A", "B", "C"]), default="auto", show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads that run packets.")
@click.option("--connections", type=click.IntRange(1024, 1 << 24), default=1 << 18, show_default=True)
@click.option(
    "--firewall-log",
    type=click.Choice(["both", "dfwpktlogs", "json", "off"]),
    default="both",
    show_default=True,
    help="What logged rules decide, as NSX's lines, as JSON lines, or both.",
)
@click.option("--log-dir", type=click.Path(path_type=Path, file_okay=False), help="For them; default: that of --run.")
@click.option("--keep/--no-keep", "is_kept", default=True, help="Start it again when it is killed.")
@click.pass_context
def run(
    ctx: click.Context,
    host: str,
    desired: Path,
    run: Path,
    underlay: str,
    netns: str | None,
    uplink: str,
    workers: int,
    connections: int,
    firewall_log: str,
    log_dir: Path | None,
    is_kept: bool,
) -> None:
    """Run until TERM. The vNICs stay up without it; the next one takes them over with all connections.

    \b
    Example:
      palisade agent run --host esx-1 --desired desired.json --run /run/palisade --underlay eth0
    """
    import pyroute2  # noqa: F401 - 0.2 s that a successor's packets would wait for

    from dfw.core import CoreError
    from overlay.agent import AgentOptions, agent_run
    from overlay.host_log import FILES
    from overlay.keeper import keep

    if netns is not None and not Path(netns).exists():
        raise click.BadParameter(f"there is no network namespace at {netns}", ctx, param_hint="--netns")
    try:
        run.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise click.BadParameter(f"{run} cannot be made: {error.strerror}", ctx, param_hint="--run") from None

    options = AgentOptions(
        host=host,
        desired=desired,
        run=run,
        underlay=underlay,
        netns=netns,
        uplink=uplink,
        workers=workers,
        connections=connections,
        firewall_log={"both": tuple(FILES), "off": ()}.get(firewall_log, (firewall_log,)),
        log_dir=log_dir,
    )

    def work() -> int:
        # An error that is the user's to see is shown as any verb's.
        try:
            agent_run(options)
        except (EnvironmentLacksError, CoreError, OSError) as error:
            click.echo(str(error), err=True)
            return LACKING
        return DONE

    ctx.exit(keep(work) if is_kept else work())
