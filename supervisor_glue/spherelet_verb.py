# SPDX-License-Identifier: Apache-2.0
"""`palisade spherelet`: a host's pods."""

from __future__ import annotations

from pathlib import Path

import click

from dfw.errors import EnvironmentLacksError


@click.group()
def spherelet() -> None:
    """A host's pods: started, watched and stopped as the Supervisor says.

    \b
    Example: palisade spherelet run --host esx-1 --kubeconfig ./esx-1 --run /run/palisade/pods --room /run/palisade/ns
    """


@spherelet.command()
@click.option("--host", required=True, help="The host's name, as in its certificate.")
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="File: server, CA, certificate.",
)
@click.option(
    "--run",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory of records, logs and volumes; made where it is not there.",
)
@click.option(
    "--room",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory of the pods' network namespaces; made where it is not there.",
)
@click.option("--netns", type=click.Path(path_type=Path), help="The host's network namespace; without: this one.")
@click.option("--address", default="", help="The host's address; without: the one from which it reaches others.")
@click.option("--mark", default="", metavar="NAME=VALUE", help="Set in the environment of every process of a pod.")
@click.option(
    "--hide", type=click.Path(path_type=Path), multiple=True, help="File or directory that no container sees."
)
@click.option("--network/--no-network", default=True, help="Whether pods wait for their vNIC before they start.")
@click.option(
    "--attach",
    "attach",
    multiple=True,
    metavar="PORT=NETNS",
    help="The network namespace of a vNIC that is no pod's, by its Port: supervisor-api, the control plane's own.",
)
@click.option("--agent", type=click.Path(path_type=Path), help="Run directory of the host's packet agent.")
@click.option("--desired", type=click.Path(path_type=Path), help="File by which the packet agent is told.")
def run(
    host: str,
    kubeconfig: Path,
    directory: Path,
    room: Path,
    netns: Path | None,
    address: str,
    mark: str,
    hide: tuple[Path, ...],
    network: bool,
    attach: tuple[str, ...],
    agent: Path | None,
    desired: Path | None,
) -> None:
    """Run pods until TERM. They go on without it; started again, it finds them.

    \b
    Example: palisade spherelet run --host esx-1 --kubeconfig ./esx-1 --run /run/palisade/pods --room /run/palisade/ns
    """
    import asyncio

    from supervisor_glue.auth.kubeconfig import KubeconfigError
    from supervisor_glue.spherelet.run import spherelet_serve
    from supervisor_glue.spherelet.settings import Settings

    attached = []
    for text in attach:
        port, _, place = text.partition("=")
        if not port or not place:
            raise click.BadParameter(f"{text!r} is no PORT=NETNS", param_hint="--attach")
        attached.append((port, place))
    hidden = tuple(path.absolute() for path in (*hide, kubeconfig))
    settings = Settings(
        host,
        directory.absolute(),
        room.absolute(),
        netns,
        mark,
        hidden,
        network,
        address,
        agent,
        desired,
        attached=tuple(attached),
    )
    try:
        asyncio.run(spherelet_serve(settings, kubeconfig))
    except (OSError, KubeconfigError) as error:
        raise EnvironmentLacksError(
            f"the Spherelet cannot run: {error}", "a kubeconfig of this host, and directories that can be written"
        ) from None
