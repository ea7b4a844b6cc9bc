# SPDX-License-Identifier: Apache-2.0
"""`palisade supervisor token` and `kubeconfig`: how hosts and people come in."""

from __future__ import annotations

import asyncio
import re
import shlex
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from dfw.output import emit, output_option
from overlay.which_agents import lab_option
from supervisor_glue.calling import calling, config_of, kubeconfig_option

if TYPE_CHECKING:
    from supervisor_glue.auth.kubeconfig import Kubeconfig

ROLES: Final = ("view", "edit", "admin")
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_SECONDS: Final = 3650 * 86400


def duration(ctx: click.Context, param: click.Parameter, value: str) -> timedelta:
    """`90s`, `30m`, `24h`, `7d`. Raises click.BadParameter."""
    found = re.fullmatch(r"([1-9]\d{0,8})([smhd])", value)
    if found is None:
        raise click.BadParameter(f"{value!r} is no duration such as 30m, 24h or 7d", ctx, param)
    seconds = int(found[1]) * _UNITS[found[2]]
    if seconds > _LONGEST_SECONDS:
        raise click.BadParameter(f"{value!r} is more than ten years", ctx, param)
    return timedelta(seconds=seconds)


@click.group
def token() -> None:
    """Tokens by which hosts join.

    \b
    Example:
      palisade supervisor token create --ttl 1h
    """


@token.command("create")
@click.option("--ttl", callback=duration, default="24h", show_default=True, help="How long it can be used.")
@click.option("--host", help="For this host only, which may have joined before.")
@click.option("--description", default="", help="What it is for.")
@kubeconfig_option
@lab_option
@output_option
def token_create(
    ttl: timedelta, host: str | None, description: str, kubeconfig: Path | None, lab: str | None, output: str
) -> None:
    """Make a join token, and print the command that a host runs. Nobody can read it from the server again.

    \b
    Examples:
      palisade supervisor token create
      palisade supervisor token create --host esx-3 --ttl 30m
      palisade supervisor token create -o json
    """
    from supervisor_glue.auth.approval import FOR_HOST
    from supervisor_glue.auth.pki import certificate_hash, utc_now
    from supervisor_glue.auth.tokens import join_secret, join_token_make
    from supervisor_glue.controllers.objects import time_text

    config = config_of(kubeconfig, lab)
    made, until = join_token_make(), utc_now() + ttl
    groups = [] if host is None else [FOR_HOST + host]
    with calling():
        asyncio.run(_secret_create(config, join_secret(made, until, description, groups)))
    authority = certificate_hash(config.authority)
    words = ["palisade", "agent", "join", "--server", config.server, "--token", str(made), "--ca-hash", authority]
    data = {
        "token": str(made),
        "expires": time_text(until.timestamp()),
        "server": config.server,
        "ca_hash": authority,
        "host": host,
        "command": words + (["--host", host] if host else []),
    }
    emit(data, output, lambda shown: shlex.join(shown["command"]))


async def _secret_create(config: Kubeconfig, secret: dict[str, Any]) -> None:
    from supervisor_glue.api.client import Resource
    from supervisor_glue.auth.caller import Caller

    async with Caller(config) as client:
        await client.create(Resource("", "v1", "secrets"), secret, secret["metadata"]["namespace"])


@click.command
@click.option("--namespace", "-n", required=True, help="Where the user works.")
@click.option("--role", type=click.Choice(ROLES), default="edit", show_default=True, help="What the user may do there.")
@click.option("--user", help="The user's name; default: NAMESPACE-ROLE.")
@click.option("--ttl", callback=duration, default="365d", show_default=True, help="How long the certificate is valid.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A file of mode 0600; default: print it.")
@kubeconfig_option
@lab_option
def kubeconfig(
    namespace: str,
    role: str,
    user: str | None,
    ttl: timedelta,
    out: Path | None,
    kubeconfig: Path | None,
    lab: str | None,
) -> None:
    """Give a user access to one Namespace: a certificate, a RoleBinding, and a kubeconfig that has both in use.

    \b
    Examples:
      palisade supervisor kubeconfig --namespace shop --role edit --out shop.kubeconfig
      palisade supervisor kubeconfig --namespace shop --role view --user jane
    """
    from supervisor_glue.auth.kubeconfig import kubeconfig_render, kubeconfig_write

    config = config_of(kubeconfig, lab)
    name = user or f"{namespace}-{role}"
    if name.startswith("system:"):
        raise click.BadParameter("names that begin with system: are the Supervisor's own", param_hint="--user")
    with calling():
        made = asyncio.run(_user_make(config, name, namespace, role, ttl))
    if out is None:
        click.echo(kubeconfig_render(made), nl=False)
        return
    try:
        kubeconfig_write(out, made)
    except OSError as error:
        raise click.BadParameter(f"{out}: {error.strerror or error}", param_hint="--out") from None
    click.echo(f"{out}: {name} may {role} in the Namespace {namespace}")


async def _user_make(config: Kubeconfig, user: str, namespace: str, role: str, ttl: timedelta) -> Kubeconfig:
    from supervisor_glue.auth.caller import Caller
    from supervisor_glue.auth.granting import user_bind, user_certificate
    from supervisor_glue.auth.kubeconfig import Kubeconfig

    async with Caller(config) as client:
        await user_bind(client, user, namespace, role)
        identity = await user_certificate(client, user, ttl)
    return Kubeconfig(config.server, config.authority, user, identity, namespace=namespace, cluster=config.cluster)
