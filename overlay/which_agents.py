# SPDX-License-Identifier: Apache-2.0
"""Which agents a verb is for: those of a lab's hosts (`--lab`), one that runs by itself (`--run`, or the one that is
installed on this machine), or all of a Supervisor's, wherever they are (`--kubeconfig`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from dfw.errors import EnvironmentLacksError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

SOCKET = "agent.sock"
NAMED_BY_RUN = "; --run DIR names an agent that is no lab's"
_LONE = "palisade agent run, or --run DIR"


def lab_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--lab`: whose hosts."""
    text = "Which lab; default: the only one running."
    return click.option("--lab", metavar="NAME", envvar="PALISADE_LAB_NAME", help=text)(function)


def run_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--run`: a host that is no lab's."""
    text = "Or a host that is no lab's: its agent's own --run directory; default: that of the agent installed here."
    return click.option("--run", type=click.Path(path_type=Path, file_okay=False), help=text)(function)


def kubeconfig_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--kubeconfig`: the hosts of a Supervisor."""
    text = "Or a Supervisor's hosts, wherever they are, asked through its API by who this file says."
    return click.option("--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), help=text)(function)


def of_supervisor(name: str) -> Callable[..., Any]:
    """What the Supervisor's package offers under this name: overlay knows nothing of APIs. Raises
    EnvironmentLacksError."""
    from importlib.metadata import entry_points

    for point in entry_points(group="palisade.hosts"):
        if point.name == name:
            found: Callable[..., Any] = point.load()
            return found
    raise EnvironmentLacksError("the Supervisor's part of this package", "pip install again: it is not registered")


def only_kubeconfig(lab: str | None, run: Path | None) -> None:
    """Raises click.UsageError where something else is named beside it."""
    typed = [name for name in ("run", "lab", "name") if _is_typed(name)]
    if typed or (run is not None and click.get_current_context(silent=True) is None):
        raise click.UsageError("--kubeconfig names a Supervisor's hosts: leave out --lab and --run")


def lone_agent(lab: str | None, run: Path | None) -> Path | None:
    """The socket of the agent that is meant, where it is no lab's; None: a lab is meant. Raises click.UsageError."""
    from overlay.host_install import RUN

    if run is not None and lab is not None:
        # What was typed says more than a setting that is there for all commands.
        typed = [name for name in ("run", "lab", "name") if _is_typed(name)]
        if len(typed) > 1 or click.get_current_context(silent=True) is None:
            raise click.UsageError("--run names a host, --lab a lab: give one of them")
        if typed in (["lab"], ["name"]):
            run = None
        else:
            lab = None
    if run is not None:
        return run.absolute() / SOCKET
    installed = Path("/", RUN, SOCKET)
    return installed if lab is None and installed.exists() else None


def _is_typed(name: str) -> bool:
    context = click.get_current_context(silent=True)
    return context is not None and context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def agent_lacks(error: Exception | str) -> EnvironmentLacksError:
    """Where an agent does not answer: exit status 3, and what would help."""
    return EnvironmentLacksError(str(error), _LONE)


def lab_sockets(name: str | None) -> dict[str, Path]:
    """The agents' sockets of a lab, by host; None: of the only one. Raises click.UsageError, EnvironmentLacksError."""
    from overlay.lab_record import labs_folder

    folder = labs_folder()
    found = sorted(path.parent.name for path in folder.glob("*/lab.json"))
    if name is None:
        if not found:
            raise EnvironmentLacksError("no lab is running", f"`palisade lab up` starts one{NAMED_BY_RUN}")
        if len(found) > 1:
            raise click.UsageError(f"several labs are running: --lab {' or '.join(found)}")
        name = found[0]
    elif name not in found:
        raise click.UsageError(f"there is no lab {name!r}; running: {', '.join(found) or 'none'}")
    return {path.parent.parent.name: path for path in sorted((folder / name / "hosts").glob(f"*/run/{SOCKET}"))}


def sockets_meant(
    lab: str | None, run: Path | None, only: str | None = None, kubeconfig: Path | None = None
) -> dict[str, Path]:
    """The agents' sockets that a verb is for, by host; `only`: of this one. Those of `kubeconfig` are there until the
    command ends. Raises click.UsageError, click.ClickException, EnvironmentLacksError."""
    from overlay.ask import AskError, agent_ask

    alone = None if kubeconfig is not None else lone_agent(lab, run)
    if kubeconfig is not None:
        only_kubeconfig(lab, run)
        relay: AbstractContextManager[dict[str, Path]] = of_supervisor("relay")(kubeconfig)
        sockets = click.get_current_context().with_resource(relay)
    elif alone is None:
        sockets = lab_sockets(lab)
    else:
        try:
            sockets = {str(agent_ask(alone, {"do": "status"})["host"]): alone}
        except AskError as error:
            raise agent_lacks(error) from None
    if only is None:
        return sockets
    if only not in sockets:
        raise click.UsageError(f"there is no host {only!r}; these are: {', '.join(sockets)}")
    return {only: sockets[only]}
