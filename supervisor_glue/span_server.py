# SPDX-License-Identifier: Apache-2.0
"""Where controllers serve what hosts are told, to API servers only, which say whose the request is."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from cryptography import x509

from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.protocol_log import PROTOCOL_LOG
from supervisor_glue.api.server import Extension, hung_up, refusal
from supervisor_glue.api.status import ApiError, error_no_such_path
from supervisor_glue.auth.front_proxy import proxied_context, proxied_user
from supervisor_glue.auth.limits import BODY_BYTES
from supervisor_glue.auth.pki import Authority, Identity, is_renewal_due, server_issue
from supervisor_glue.auth.tls import identity_load

_PATH: Final = re.compile(f"/apis/{re.escape(SPAN)}/v1alpha1/([^/]+)")
_ENDING_SECONDS: Final = 2.0


class SpanServer:
    """A listener. Use: `async with SpanServer(authority, host, port) as server`. While it does not lead it answers
    503."""

    def __init__(self, authority: Authority, host: str, port: int) -> None:
        self._authority, self._host, self._port = authority, host, port
        self._extension: Extension | None = None
        self.address = ""

    async def __aenter__(self) -> SpanServer:
        identity = self._issued(datetime.now(UTC))
        self._context = proxied_context(self._authority, identity)
        application = web.Application(client_max_size=BODY_BYTES)
        application.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(
            application, access_log=None, logger=PROTOCOL_LOG, shutdown_timeout=_ENDING_SECONDS
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port, ssl_context=self._context).start()
        except OSError:
            await self._runner.cleanup()
            raise
        host, port = self._runner.addresses[0][:2]
        self.address = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @contextmanager
    def leads(self, extension: Extension) -> Iterator[None]:
        self._extension = extension
        try:
            yield
        finally:
            self._extension = None

    def renew(self, now: datetime) -> None:
        """The listener's certificate, where that is due: connections that are open stay."""
        if is_renewal_due(self._certificate, now):
            identity_load(self._context, self._issued(now))

    def _issued(self, now: datetime) -> Identity:
        issued = server_issue(self._authority, [self._host], now)
        self._certificate = x509.load_pem_x509_certificate(issued.certificate)
        return issued

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            user = proxied_user(request, time.time())
            asked = _PATH.fullmatch(request.path)
            if asked is None:
                raise error_no_such_path()
            if self._extension is None:
                raise ApiError(503, "ServiceUnavailable", "other controllers lead", retry_after=1)
            return await self._extension(request, asked[1], user)
        except ApiError as error:
            return refusal(error)
        except ConnectionError:
            return hung_up(request)
        except asyncio.CancelledError:
            if request.transport is not None:
                request.transport.abort()
            raise
