# SPDX-License-Identifier: Apache-2.0
"""`palisade attach` and `detach`: a vNIC for a container or process that is there already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfw.cli import DONE
from dfw.errors import EnvironmentLacksError

if TYPE_CHECKING:
    from collections.abc import Callable


def _agent_option(function: Callable[..., Any]) -> Callable[..., Any]:
    options = (
        click.option("--lab", metavar="NAME", help="A host of this lab; default: the only one running."),
        click.option("--host", metavar="NAME", help="Which host of the lab."),
        click.option(
            "--run", type=click.Path(path_type=Path, file_okay=False), help="The agent's own --run directory."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


@click.command
@click.option("--netns", type=click.Path(path_type=Path), help="Its network namespace, by path.")
@click.option("--pid", type=click.IntRange(1), help="Or a process that lives in it.")
@click.option("--segment", required=True, help="The segment that it is to be on.")
@click.option("--name", required=True, help="The vNIC's name: a port of the desired state, or one of this host's own.")
@click.option("--ip", "ips", multiple=True, metavar="ADDRESS/LENGTH", help="Of a port of this host's own; repeatable.")
@click.option("--mac", default="", help="Likewise; default: made of the name.")
@click.option("--default", type=click.Choice(["allow", "drop"]), default="drop", show_default=True, help="Likewise.")
@click.option("--interface", default="eth0", show_default=True, help="What it is called in there.")
@_agent_option
def attach(
    netns: Path | None,
    pid: int | None,
    segment: str,
    name: str,
    ips: tuple[str, ...],
    mac: str,
    default: str,
    interface: str,
    lab: str | None,
    host: str | None,
    run: Path | None,
) -> int:
    """A vNIC for a container or process that is there already, on this host's agent; it outlives both agents and them.

    A port that the desired state has and has not attached gets its addresses and rules from there. One that it does not
    have is this host's own: no policy was made for it, so that --default decides about all of its packets, and other
    hosts are not told of it. A port that the desired state attaches itself is left to it.

    \b
    Examples:
      palisade attach --pid 4711 --segment web --name web-9
      palisade attach --netns /run/netns/tool --segment web --name tool --ip 10.1.1.99/24 --default allow
    """
    from overlay.attachment import mount_name
    from overlay.namespace import apply_namespace_end, apply_namespace_name, namespace_exists

    if (netns is None) == (pid is None):
        raise click.UsageError("give --netns or --pid")
    source = Path(f"/proc/{pid}/ns/net") if netns is None else netns.absolute()
    if not source.exists():
        raise click.UsageError(f"there is no process {pid}" if netns is None else f"there is nothing at {source}")
    if not namespace_exists(source):
        raise click.UsageError(f"{source} is no network namespace")
    socket = _socket(lab, host, run)
    place = source
    if netns is None:  # the namespace stays although its process ends, and the agent need not look into processes
        place = mount_name(socket.parent, name)
        try:
            apply_namespace_name(place, source)
        except FileExistsError:
            raise click.UsageError(f"a vNIC {name} is attached already: detach it first") from None
        except OSError as error:
            raise EnvironmentLacksError(f"the namespace of process {pid}: {error}", "run it as root") from None
    wanted: dict[str, Any] = {"name": name, "segment": segment, "netns": str(place), "interface": interface, "mac": mac}
    wanted |= {"ips": list(ips), "default": default.upper(), "mounted": netns is None}
    try:
        answer = _asked(socket, {"do": "attach", "attachment": wanted})
    except click.ClickException:
        if netns is None:
            apply_namespace_end(place)
        raise
    problem = answer.get("problem")
    click.echo(f"vNIC {name}: {interface} in {place}" if problem is None else f"vNIC {name}: tried again: {problem}")
    return DONE


@click.command
@click.argument("name")
@_agent_option
def detach(name: str, lab: str | None, host: str | None, run: Path | None) -> int:
    """Take a vNIC away that `attach` made; its interface goes, what runs there stays.

    \b
    Example:
      palisade detach web-9
    """
    from overlay.namespace import apply_namespace_end

    answer = _asked(_socket(lab, host, run), {"do": "detach", "name": name})
    if answer["attachment"]["mounted"]:
        apply_namespace_end(Path(answer["attachment"]["netns"]))
    click.echo(f"vNIC {name} is detached")
    return DONE


def _socket(lab: str | None, host: str | None, run: Path | None) -> Path:
    """The socket of the agent that is meant."""
    from overlay.host_install import RUN
    from overlay.show import lab_sockets

    installed = Path("/", RUN, "agent.sock")
    if run is not None:
        if lab is not None or host is not None:
            raise click.UsageError("--run names an agent, --lab and --host another: give one of them")
        return run.absolute() / "agent.sock"
    if lab is None and host is None and installed.exists():
        return installed
    sockets = lab_sockets(lab)
    if host is None and len(sockets) == 1:
        return next(iter(sockets.values()))
    if host not in sockets:
        raise click.UsageError(f"say --host: {' or '.join(sockets) or 'there is none'}")
    return sockets[host]


def _asked(socket: Path, request: dict[str, Any]) -> dict[str, Any]:
    from overlay.ask import AskError, agent_ask

    try:
        answer = agent_ask(socket, request)
    except AskError as error:
        if not os.path.exists(socket):
            raise EnvironmentLacksError(f"no agent at {socket.parent}", "palisade agent run, or --run DIR") from None
        raise click.UsageError(str(error)) from None
    return answer
