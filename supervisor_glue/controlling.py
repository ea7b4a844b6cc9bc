# SPDX-License-Identifier: Apache-2.0
"""The controllers of one process, beside an API server or apart: clients of the API, of which one process leads."""

from __future__ import annotations

import asyncio
import secrets
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509

from dfw.logs import get_logger
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.server import Extension
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.auth.pki import (
    CA_FILE,
    Authority,
    Identity,
    PkiError,
    authority_open,
    client_issue,
    is_renewal_due,
)
from supervisor_glue.auth.tls import buffers_limit
from supervisor_glue.auth.user import CONTROLLERS
from supervisor_glue.controllers.leader import Leader, LeaderOptions
from supervisor_glue.controllers.run import controllers_work
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.span import Span
from supervisor_glue.enabled import enabled_work
from supervisor_glue.ending import ending_signals
from supervisor_glue.span_server import SpanServer
from supervisor_glue.span_service import span_extension

CONTROLLER: Final = "palisade:controller"
LEASE_SECONDS: Final = 15.0
_RENEW_SECONDS: Final = 3600.0

Here = Callable[[Extension], AbstractContextManager[None]]


@dataclass(frozen=True, slots=True)
class Controlling:
    """`listen`: where API servers ask for what hosts are told; `lease`: seconds for which a silent leader is
    believed."""

    listen: tuple[str, int] = ("127.0.0.1", 0)
    lease: float = LEASE_SECONDS
    settings: Settings = field(default_factory=Settings)


async def controllers_apart(options: Controlling, data: Path, server: str) -> None:
    """A process of controllers alone, until TERM or INT. `data`: the Supervisor's directory, of which it uses the keys.
    Raises PkiError: there are none; OSError: nothing can be opened at that address."""
    if not (data / "pki" / CA_FILE).exists():
        raise PkiError(f"{data} is no Supervisor's data directory: there is no pki/{CA_FILE}")
    authority = authority_open(data / "pki", datetime.now(UTC))
    buffers_limit()
    ended = ending_signals()
    controlling = asyncio.create_task(controllers_serve(authority, server, options))
    waiting = asyncio.create_task(ended.wait())
    try:
        await asyncio.wait({waiting, controlling}, return_when=asyncio.FIRST_COMPLETED)
        if controlling.done():
            controlling.result()  # it never ends by itself: say why it did
    finally:
        for task in (waiting, controlling):
            task.cancel()
        await asyncio.gather(waiting, controlling, return_exceptions=True)


async def controllers_serve(authority: Authority, url: str, options: Controlling, here: Here | None = None) -> None:
    """Until cancelled. `here`: of the API server in this very process, which need not ask."""
    identity = _identity(authority)
    config = Kubeconfig(url, authority.pem, CONTROLLER, identity)
    async with (
        SpanServer(authority, *options.listen) as server,
        HttpClient(config, "palisade-controllers") as client,
    ):
        if here is None:
            print(f"controllers of {url}, for its API servers at {server.address}", file=sys.stderr, flush=True)
        name = f"{socket.gethostname()}_{secrets.token_hex(6)}"
        lease = options.lease
        leader = Leader(client, LeaderOptions(name, server.address, lease, lease * 2 / 3, lease * 2 / 15))
        renewing = asyncio.create_task(_renewing(authority, client, server))
        try:
            await _leading(authority, client, leader, server, options.settings, here)
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)


async def _leading(
    authority: Authority, client: HttpClient, leader: Leader, server: SpanServer, settings: Settings, here: Here | None
) -> None:
    @contextmanager
    def served(span: Span) -> Iterator[None]:
        with ExitStack() as stack:
            extension = stack.enter_context(span_extension(span))
            stack.enter_context(server.leads(extension))
            if here is not None:
                stack.enter_context(here(extension))
            yield

    async def work(told: Settings) -> None:
        await controllers_work(client, told, authority, served)

    while True:
        try:
            await leader.lead(lambda: enabled_work(client, settings, work))
        except Exception as error:
            get_logger("controllers").error(
                "controllers.failed", error=f"{type(error).__name__}: {error}", exc_info=True
            )
            await asyncio.sleep(1)


def _identity(authority: Authority) -> Identity:
    return client_issue(authority, CONTROLLER, (CONTROLLERS,), now=datetime.now(UTC))


async def _renewing(authority: Authority, client: HttpClient, server: SpanServer) -> None:
    """Its certificates, at two thirds of their lives."""
    while True:
        now, held = datetime.now(UTC), client.config.identity
        server.renew(now)
        if held is None or is_renewal_due(x509.load_pem_x509_certificate(held.certificate), now):
            await client.renew(replace(client.config, identity=_identity(authority)))
        await asyncio.sleep(_RENEW_SECONDS)
