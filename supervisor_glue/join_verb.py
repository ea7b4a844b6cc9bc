# SPDX-License-Identifier: Apache-2.0
"""`palisade agent join`: a host becomes one of a Supervisor."""

from __future__ import annotations

import asyncio
import re
import socket
from pathlib import Path

import click

from dfw.errors import EnvironmentLacksError
from supervisor_glue.calling import calling


@click.command
@click.option("--server", required=True, help="The Supervisor's API: https://ADDRESS:PORT.")
@click.option(
    "--token", required=True, envvar="PALISADE_JOIN_TOKEN", help="As `palisade supervisor token create` gave it."
)
@click.option("--ca-hash", required=True, help="sha256:… of the Supervisor's CA: by it the server is known.")
@click.option("--host", help="Which host this is; default: this machine's name.")
@click.option(
    "--config",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/etc/palisade"),
    show_default=True,
    help="The agent's configuration, where its kubeconfig is written.",
)
def join(server: str, token: str, ca_hash: str, host: str | None, config: Path) -> None:
    """Become a host of a Supervisor: get a certificate by a join token, and write the agent's kubeconfig.

    Nothing is sent before the server has shown the CA that the hash is of.

    \b
    Example:
      palisade agent join --server https://10.0.0.50:6443 --token abcdef.0123456789abcdef --ca-hash sha256:1f0c…
    """
    from supervisor_glue.auth.joining import host_join
    from supervisor_glue.auth.tokens import TokenError, join_token_read

    name = host or socket.gethostname().partition(".")[0].lower()
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?", name):
        raise click.BadParameter(f"{name!r} is no name of a host: small letters, digits, - and .", param_hint="--host")
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", ca_hash):
        raise click.BadParameter("it is sha256: and 64 hexadecimal digits", param_hint="--ca-hash")
    try:
        read = join_token_read(token)
    except TokenError as error:
        raise click.BadParameter(str(error), param_hint="--token") from None
    try:
        with calling():
            path = asyncio.run(host_join(server, read, ca_hash, name, config))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--server") from None
    except OSError as error:
        raise EnvironmentLacksError(
            f"{config}: {error.strerror or error}", "run it as root, or give --config"
        ) from None
    click.echo(f"{name} has joined; its certificate is in {path}, and is renewed by the agent")
