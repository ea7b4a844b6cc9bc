# SPDX-License-Identifier: Apache-2.0
"""`palisade supervisor`: the control plane."""

from __future__ import annotations

import ipaddress
from datetime import timedelta
from pathlib import Path
from typing import Final

import click

from dfw.errors import EnvironmentLacksError
from dfw.output import error_text
from supervisor_glue.access_verb import duration, kubeconfig, token
from supervisor_glue.enable_verb import enable
from supervisor_glue.status_verb import status

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


_certificate_life: Final = click.option(
    "--certificate-life",
    callback=duration,
    default="365d",
    show_default=True,
    help="How long a certificate that is signed for a host or a user is valid at most; hosts ask for 90d.",
)


@click.group()
def supervisor() -> None:
    """The control plane: Namespaces become networks and isolation.

    \b
    Example: palisade supervisor up --listen 127.0.0.1:6443 --data ./state --kubeconfig ./kubeconfig
    """


supervisor.add_command(enable)
supervisor.add_command(token)
supervisor.add_command(kubeconfig)
supervisor.add_command(status)


@supervisor.command()
@click.option(
    "--listen", default="127.0.0.1:6443", show_default=True, metavar="ADDRESS:PORT", help="Port 0: a free one."
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Directory of the store and the keys; made where it is not there.",
)
@click.option(
    "--kubeconfig",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to write: an administrator's, when the API answers.",
)
@click.option("--name", "names", multiple=True, help="Further name or address of the server's certificate.")
@click.option(
    "--store",
    "store_text",
    default="sqlite",
    show_default=True,
    metavar="STORE",
    help="sqlite: a file in --data; etcd=ADDRESS:PORT[,ADDRESS:PORT…], or with https://: an etcd of the Supervisor's"
    " own, which several API servers may share.",
)
@click.option("--store-ca", type=_FILE, help="Who vouches for etcd's members, PEM.")
@click.option("--store-cert", type=_FILE, help="This server's certificate for etcd, PEM.")
@click.option("--store-key", type=_FILE, help="Its key, PEM.")
@click.option(
    "--leg",
    "leg_text",
    metavar="HOST=NETNS",
    help="Where pods reach the API: a network namespace (its path) that HOST's Spherelet is told to attach"
    " (--attach supervisor-api=NETNS); port 6443.",
)
@click.option(
    "--controllers/--no-controllers", default=True, help="Whether they run in this process too, or apart (controllers)."
)
@_certificate_life
def up(
    listen: str,
    data: Path,
    kubeconfig: Path | None,
    names: tuple[str, ...],
    store_text: str,
    store_ca: Path | None,
    store_cert: Path | None,
    store_key: Path | None,
    leg_text: str | None,
    controllers: bool,
    certificate_life: timedelta,
) -> None:
    """Serve the API in the foreground until TERM.

    \b
    Examples:
      palisade supervisor up --listen 127.0.0.1:6443 --data ./state --kubeconfig ./kubeconfig
      palisade supervisor up --data ./state --store etcd=127.0.0.1:2379 --kubeconfig ./kubeconfig
    """
    import asyncio

    from supervisor_glue.api.leg import Leg
    from supervisor_glue.api.process import Settings as ApiSettings
    from supervisor_glue.auth.pki import PkiError
    from supervisor_glue.serve import serve
    from supervisor_glue.store import StoreError
    from supervisor_glue.store.choice import EtcdTls, choice_read

    try:
        tls = EtcdTls(store_ca, store_cert, store_key)
        store = choice_read(store_text, None if tls == EtcdTls() else tls)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--store") from None
    host, port = _address(listen)
    leg = None
    if leg_text is not None:
        name, _, netns = leg_text.partition("=")
        if not name or not netns:
            raise click.BadParameter(f"{leg_text!r} is no HOST=NETNS", param_hint="--leg")
        leg = Leg(name, netns)
    controlling = None
    if controllers:
        from supervisor_glue.controllers.settings import Settings
        from supervisor_glue.controlling import Controlling

        controlling = Controlling(settings=Settings(certificates=certificate_life))
    try:
        asyncio.run(serve(ApiSettings(data, ((host, port),), names, store, leg), controlling, kubeconfig))
    except (OSError, PkiError, StoreError) as error:
        raise EnvironmentLacksError(
            f"the API cannot be served: {error_text(error)}",
            "another --listen, a --data directory that can be written, a --store that answers"
            + (f", or a network namespace that is there: --leg {leg_text}" if leg_text else ""),
        ) from None


@supervisor.command()
@click.option("--server", required=True, metavar="URL", help="The API server's, as its kubeconfigs have it.")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The Supervisor's directory: its keys are used, its store is not.",
)
@click.option(
    "--listen",
    default="127.0.0.1:0",
    show_default=True,
    metavar="ADDRESS:PORT",
    help="Where API servers ask for what hosts are told. Port 0: a free one.",
)
@click.option(
    "--lease",
    type=click.FloatRange(1, 300),
    default=15.0,
    show_default=True,
    help="Seconds after which others take over from one that is silent.",
)
@_certificate_life
def controllers(server: str, data: Path, listen: str, lease: float, certificate_life: timedelta) -> None:
    """Run controllers apart from the API, in the foreground until TERM; of several processes one leads.

    \b
    Example: palisade supervisor up --no-controllers --data ./state --kubeconfig ./kubeconfig
             palisade supervisor controllers --server https://127.0.0.1:6443 --data ./state
    """
    import asyncio

    from supervisor_glue.auth.pki import PkiError
    from supervisor_glue.controllers.settings import Settings
    from supervisor_glue.controlling import Controlling, controllers_apart

    if not server.startswith("https://"):
        raise click.BadParameter(f"{server!r} is no https:// URL", param_hint="--server")
    host, port = _address(listen)
    if ipaddress.ip_address(host).is_unspecified:
        raise click.BadParameter(f"{host} is no address that API servers could ask", param_hint="--listen")
    options = Controlling((host, port), lease, Settings(certificates=certificate_life))
    try:
        asyncio.run(controllers_apart(options, data, server))
    except (OSError, PkiError) as error:
        raise EnvironmentLacksError(
            f"the controllers cannot run: {error}", "the --data directory of the API, another --listen"
        ) from None


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.strip("[]")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise click.BadParameter(f"{text!r} is no ADDRESS:PORT", param_hint="--listen")
    try:
        return str(ipaddress.ip_address(host)), int(port)
    except ValueError:
        raise click.BadParameter(f"{host!r} is no address", param_hint="--listen") from None
