# SPDX-License-Identifier: Apache-2.0
"""`palisade attach` and `detach`: a vNIC for a container, process or virtual machine that is there already."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfw.cli import DONE
from dfw.errors import EnvironmentLacksError
from overlay.which_agents import agent_lacks, lab_option, lab_sockets, lone_agent, run_option

if TYPE_CHECKING:
    from collections.abc import Callable


def _agent_option(function: Callable[..., Any]) -> Callable[..., Any]:
    host = click.option("--host", metavar="NAME", help="Which host of the lab.")
    return lab_option(host(run_option(function)))


@click.command
@click.option("--netns", type=click.Path(path_type=Path), help="Its network namespace, by path.")
@click.option("--pid", type=click.IntRange(1), help="Or a process that lives in it.")
@click.option("--tap", help="Or a virtual machine's TAP, by the interface's name.")
@click.option("--segment", required=True, help="The segment that it is to be on.")
@click.option("--name", required=True, help="The vNIC's name: a port of the desired state, or one of this host's own.")
@click.option("--ip", "ips", multiple=True, metavar="ADDRESS/LENGTH", help="Of a port of this host's own; repeatable.")
@click.option("--mac", default="", help="Likewise; default: made of the name. A machine has its own.")
@click.option("--default", type=click.Choice(["allow", "drop"]), default="drop", show_default=True, help="Likewise.")
@click.option("--interface", default="eth0", show_default=True, help="What it is called in there.")
@_agent_option
def attach(
    netns: Path | None,
    pid: int | None,
    tap: str | None,
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
    """A vNIC for a container, process or virtual machine that is there already, on this host's agent.

    It outlives both agents and them. The TAP of a virtual machine is moved into a network namespace of its own, so that
    this machine does not answer its frames, and comes back when it is detached.

    A port that the desired state has and has not attached gets its addresses and rules from there. One that it does not
    have is this host's own: no policy was made for it, so that --default decides about all of its packets, and other
    hosts are not told of it. A port that the desired state attaches itself is left to it.

    \b
    Examples:
      palisade attach --pid 4711 --segment web --name web-9
      palisade attach --netns /run/netns/tool --segment web --name tool --ip 10.1.1.99/24 --default allow
      palisade attach --tap vnet3 --segment web --name vm-3
    """
    from overlay.attachment import mount_name
    from overlay.namespace import apply_namespace_end, apply_namespace_name, namespace_exists

    if (netns is not None) + (pid is not None) + (tap is not None) != 1:
        raise click.UsageError("give --netns, --pid or --tap")
    wanted: dict[str, Any] = {"name": name, "segment": segment, "interface": interface, "mac": mac}
    wanted |= {"ips": list(ips), "default": default.upper()}
    if tap is not None:
        _attach_tap(_socket(lab, host, run), tap, wanted)
        return DONE
    source = Path(f"/proc/{pid}/ns/net") if netns is None else netns.absolute()
    try:
        source.stat()
    except PermissionError as error:
        raise EnvironmentLacksError(f"{source}: {error.strerror}", "run it as root, where that may be seen") from None
    except OSError:
        message = f"there is no process {pid}" if netns is None else f"there is nothing at {source}"
        raise click.UsageError(message) from None
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
    wanted |= {"netns": str(place), "mounted": netns is None}
    try:
        answer = _asked(socket, {"do": "attach", "attachment": wanted})
    except click.ClickException:
        if netns is None:
            apply_namespace_end(place)
        raise
    _tell(answer, f"{interface} in {place}")
    return DONE


def _tell(answer: dict[str, Any], where: str) -> None:
    problem = answer.get("problem")
    click.echo(f"vNIC {answer['attachment']['name']}: {where if problem is None else f'tried again: {problem}'}")


def _attach_tap(agent: Path, tap: str, wanted: dict[str, Any]) -> None:
    """Open the TAP, have the agent's holder hold it, and tell the agent. Else all is as it was."""
    from overlay import tap_port
    from overlay.attachment import mount_name
    from overlay.cards import VNIC
    from overlay.holder import HOLDER_SOCKET, HolderClient, HolderError, close_all

    _asked(agent, {"do": "status"})
    place, name = mount_name(agent.parent, wanted["name"]), VNIC + wanted["name"]
    if place.parent != agent.parent:
        raise click.UsageError("a lab's hosts take nothing of this machine's: --tap is for a host that is no lab's")
    try:
        was_up = tap_port.read_tap(tap)
        fds = tap_port.apply_tap(tap, place)
    except tap_port.TapError as error:
        raise click.UsageError(str(error)) from None
    except FileExistsError:
        raise click.UsageError(f"a vNIC {wanted['name']} is attached already: detach it first") from None
    except OSError as error:
        raise EnvironmentLacksError(f"the TAP {tap}: {error}", "run it as root") from None
    wanted |= {"netns": str(place), "interface": tap, "mounted": True, "tap": True, "was_up": was_up}
    about = {"netns": str(place), "inode": os.stat(place).st_ino, "interface": tap, "tap": True}
    done = False
    try:
        holder = HolderClient(str(agent.parent / HOLDER_SOCKET))
        holder.put(name, fds, about | {"offloads": tap_port.PACKET_SOCKET})
        try:
            answer = _asked(agent, {"do": "attach", "attachment": wanted})
            done = True
        finally:
            if not done:
                holder.drop(name)
            holder.close()
    except (HolderError, OSError) as error:
        raise EnvironmentLacksError(f"the holder of TAPs: {error}", "run it as root") from None
    finally:
        close_all(fds)
        if not done:
            tap_port.apply_tap_end(tap, place, was_up=was_up)
    _tell(answer, f"the TAP {tap}")


@click.command
@click.argument("name")
@_agent_option
def detach(name: str, lab: str | None, host: str | None, run: Path | None) -> int:
    """Take a vNIC away that `attach` made; its interface goes (a virtual machine's comes back), what runs there stays.

    \b
    Example:
      palisade detach web-9
    """
    from overlay.namespace import apply_namespace_end
    from overlay.tap_port import apply_tap_end

    answer = _asked(_socket(lab, host, run), {"do": "detach", "name": name})
    gone = answer["attachment"]
    if gone["tap"]:
        apply_tap_end(gone["interface"], Path(gone["netns"]), was_up=gone["was_up"])
    elif gone["mounted"]:
        apply_namespace_end(Path(gone["netns"]))
    click.echo(f"vNIC {name} is detached")
    return DONE


def _socket(lab: str | None, host: str | None, run: Path | None) -> Path:
    """The socket of the agent that is meant."""
    if run is not None and host is not None:
        raise click.UsageError("--run names an agent, --host one of a lab: give one of them")
    alone = None if host is not None else lone_agent(lab, run)
    if alone is not None:
        return alone
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
            raise agent_lacks(f"no agent at {socket.parent}") from None
        raise click.UsageError(str(error)) from None
    return answer
