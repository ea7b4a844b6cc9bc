# SPDX-License-Identifier: Apache-2.0
"""`palisade agent`: the host agent's command line."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from dfw.cli import DONE, LACKING, NO
from dfw.errors import EnvironmentLacksError
from dfw.verb_group import AgentGroup


@click.group(cls=AgentGroup)
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
@click.option(
    "--state", type=click.Path(path_type=Path, file_okay=False), help="For the last good state; as --log-dir."
)
@click.option(
    "--enforcer",
    type=click.Choice(["native", "nftables"]),
    default="native",
    show_default=True,
    help="What judges the vNICs' packets: the packet core, or this machine's kernel.",
)
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
    state: Path | None,
    enforcer: str,
    is_kept: bool,
) -> None:
    """Run until TERM. The vNICs stay up without it; the next one takes them over with all connections.

    \b
    Example:
      palisade agent run --host esx-1 --desired desired.json --run /run/palisade --underlay eth0
    """
    from overlay.privilege import CAP_DAC_OVERRIDE, NEEDED, needs_override, privileges_drop

    # The process that holds the TAPs works elsewhere.
    desired, run = desired.absolute(), run.absolute()
    log_dir, state = (None if path is None else path.absolute() for path in (log_dir, state))
    netns = None if netns is None else str(Path(netns).absolute())
    # Before numpy has threads of its own. In a lab that lies in somebody's closed directory, root needs one more.
    overriding = needs_override([run, desired, *filter(None, (state, log_dir))])
    privileges_drop(NEEDED | {CAP_DAC_OVERRIDE} if overriding else NEEDED)

    import pyroute2  # noqa: F401 - 0.2 s that a successor's packets would wait for

    from dfw.core import CoreError
    from overlay.agent_base import AgentOptions
    from overlay.agent_run import agent_run
    from overlay.host_log import FILES
    from overlay.keeper import keep

    _interface_check(ctx, underlay)
    if desired.is_dir():
        raise click.BadParameter(f"{desired} is a directory: the state is one file", ctx, param_hint="--desired")
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
        state=state,
        enforcer=enforcer,
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


def _root_option(function: Callable[..., Any]) -> Callable[..., Any]:
    text = "A directory that stands for /: files only, nothing is started or ended."
    kind = click.Path(path_type=Path, file_okay=False, exists=True)
    return click.option("--root", type=kind, help=text)(function)


def _interface_check(ctx: click.Context, name: str) -> None:
    """A name that no interface can have will not come (linux/if.h, IFNAMSIZ)."""
    if not re.fullmatch(r"[^\s/:]{1,15}", name) or name in (".", ".."):
        text = f"{name!r} is no name of an interface: 1 to 15 characters"
        raise click.BadParameter(text, ctx, param_hint="--underlay")


@agent.command
@click.option("--host", required=True, help="Which host this is.")
@click.option("--underlay", required=True, help="The interface that carries Geneve.")
@click.option("--desired", default="/etc/palisade/desired.json", show_default=True, help="The file with its state.")
@click.option("--uplink", type=click.Choice(["auto", "A", "B", "C"]), default="auto", show_default=True)
@click.option("--dry-run", is_flag=True, help="Print what would be touched, and do nothing.")
@click.option("--start/--no-start", "is_started", default=True, help="Start it, and at every start of the machine.")
@_root_option
@click.pass_context
def install(
    ctx: click.Context,
    host: str,
    underlay: str,
    desired: str,
    uplink: str,
    dry_run: bool,
    is_started: bool,
    root: Path | None,
) -> int:
    """Put the agent on this host as a systemd service. docs/host-footprint.md lists what that touches.

    \b
    Examples:
      palisade agent install --host esx-1 --underlay eth0 --dry-run
      palisade agent install --host esx-1 --underlay eth0
    """
    from overlay import host_install as installing
    from overlay.host_unit import UNIT

    if not Path(desired).is_absolute():
        raise click.UsageError("--desired is a whole path: the service is started elsewhere")
    _interface_check(ctx, underlay)
    if root is None and underlay not in (there := installing.interfaces()):
        text = f"this machine has no interface {underlay!r}; it has {', '.join(there) or 'none'}"
        raise click.BadParameter(text, ctx, param_hint="--underlay")
    where = root or Path("/")
    command = installing.agent_command(host, underlay, desired, uplink)
    missing = installing.plan_missing(where, installing.plan_install(command, desired))
    if dry_run:
        click.echo("\n".join(f"+ {step.what} /{step.path}" for step in missing) or "nothing to do")
        click.echo("when it runs: " + "; ".join(installing.RUNNING))
        return DONE
    _as_root(where)
    with _installing():
        installing.apply_install(where, missing, host, underlay)
    click.echo(f"installed: {', '.join(f'/{step.path}' for step in missing)}" if missing else "as it was")
    if root is not None:
        return DONE
    if not installing.has_systemd():
        click.echo(f"systemd does not run this machine; the agent is started by:\n  {shlex.join(command)}")
        return DONE
    verb = ["restart" if missing else "start"] if is_started else []
    for words in (["daemon-reload"], [*verb, UNIT] if verb else []):
        problem = installing.systemctl(*words) if words else None
        if problem is not None:
            raise click.ClickException(f"systemctl {' '.join(words)}: {problem}")
    return DONE


@agent.command
@click.option("--purge", is_flag=True, help="Configuration, state and logs go too.")
@click.option("--dry-run", is_flag=True, help="Print what would be taken away, and do nothing.")
@_root_option
def uninstall(purge: bool, dry_run: bool, root: Path | None) -> int:
    """End the agent and take away what `install` made: with --purge the host is as it was.

    \b
    Example:
      palisade agent uninstall --purge
    """
    from overlay import host_install as installing
    from overlay.host_unit import UNIT

    where = root or Path("/")
    with _installing():
        manifest = installing.read_manifest(where)
    if manifest is None:
        click.echo("no agent is installed")
        return DONE
    if dry_run:
        click.echo("\n".join(f"- /{path}" for path in installing.plan_uninstall(manifest, purge)))
        return DONE
    _as_root(where)
    notes = []
    if root is None:
        if installing.has_systemd():
            installing.systemctl("stop", UNIT)
        notes += installing.apply_end(where / installing.RUN)
        notes += installing.apply_unwire(where / installing.STATE, manifest.underlay)
    with _installing():
        notes += installing.apply_uninstall(where, manifest, purge)
    if root is None and installing.has_systemd():
        installing.systemctl("daemon-reload")
    for note in notes:
        click.echo(note)
    click.echo("uninstalled" if purge else "uninstalled; configuration, state and logs are kept (--purge)")
    return NO if any("does not end" in note for note in notes) else DONE


def _as_root(where: Path) -> None:
    if os.geteuid() != 0 and not os.access(where, os.W_OK):
        raise EnvironmentLacksError(f"no permission to write to {where}", "run it as root")


@contextmanager
def _installing() -> Iterator[None]:
    from overlay.host_install import InstallError

    try:
        yield
    except InstallError as error:
        raise click.UsageError(str(error)) from None
    except OSError as error:
        raise EnvironmentLacksError(str(error), "run it as root, on a disk that can be written") from error
