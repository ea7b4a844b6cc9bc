# SPDX-License-Identifier: Apache-2.0
"""How an API server answers for `span.palisade.internal`: it asks the process whose controllers lead, or is that.

Which one leads, and where it serves, stands in the controllers' Lease. An answer that goes on ends when another leads:
the host asks again, with the hashes of what it knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Final

import aiohttp
from aiohttp import web
from cryptography import x509

from supervisor_glue.api.kinds import BY_NAME
from supervisor_glue.api.server import Extension
from supervisor_glue.api.status import ApiError
from supervisor_glue.api.watch_cache import Change, WatchCache
from supervisor_glue.auth.front_proxy import proxied_headers, proxy_issue
from supervisor_glue.auth.pki import Authority, is_renewal_due
from supervisor_glue.auth.tls import client_context, identity_load, kept_alive
from supervisor_glue.auth.user import User
from supervisor_glue.controllers.leader import LEASE_NAME, SYSTEM_NAMESPACE, span_address

_LEASES: Final = BY_NAME["coordination.k8s.io", "v1", "leases"]
_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5)
_RETRY_SECONDS: Final = 1


class SpanForward:
    """Of one API server. Use: `async with SpanForward(cache, authority) as forward`, then `forward.answer` is what
    answers for the group."""

    def __init__(self, cache: WatchCache, authority: Authority) -> None:
        self._cache, self._authority = cache, authority
        self._local: Extension | None = None
        self._moved = asyncio.Event()
        self._renew(datetime.now(UTC))
        self._context = client_context(authority.pem, self._identity)
        cache.listen(self._heard)

    async def __aenter__(self) -> SpanForward:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=0, socket_factory=kept_alive)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    @contextmanager
    def here(self, extension: Extension) -> Iterator[None]:
        """While the controllers of this very process lead."""
        self._local = extension
        self._end()
        try:
            yield
        finally:
            self._local = None

    async def answer(self, request: web.Request, resource: str, user: User) -> web.StreamResponse:
        """An Extension. Raises ApiError 503 where nobody leads, or the one who does cannot be reached."""
        if self._local is not None:
            return await self._local(request, resource, user)
        lease = self._cache.get(_LEASES, SYSTEM_NAMESPACE, LEASE_NAME)
        address = span_address(None if lease is None else lease.item)
        if not address:
            raise _unavailable("no controllers lead")
        moved = asyncio.ensure_future(self._moved.wait())
        passing = asyncio.ensure_future(self._passed(request, address + request.path_qs, user))
        try:
            await asyncio.wait({moved, passing}, return_when=asyncio.FIRST_COMPLETED)
            if passing.done():
                return passing.result()
            raise ConnectionResetError("other controllers lead")
        finally:
            for task in (moved, passing):
                task.cancel()
            await asyncio.gather(moved, passing, return_exceptions=True)

    async def _passed(self, request: web.Request, url: str, user: User) -> web.StreamResponse:
        now = datetime.now(UTC)
        if is_renewal_due(self._certificate, now):
            self._renew(now)
            identity_load(self._context, self._identity)
        response: web.StreamResponse | None = None
        body, headers = await request.read(), proxied_headers(user)
        try:
            async with self._session.request(
                request.method, url, data=body, headers=headers, allow_redirects=False
            ) as told:
                head = {"Content-Type": told.headers.get("Content-Type", ""), "Cache-Control": "no-cache"}
                if told.status != 200:
                    return web.Response(status=told.status, body=await told.read(), headers=head)
                response = web.StreamResponse(headers=head)
                response.enable_chunked_encoding()
                await response.prepare(request)
                async for chunk in told.content.iter_any():
                    await response.write(chunk)
        except (aiohttp.ClientError, TimeoutError) as error:
            if response is None:
                raise _unavailable(f"the controllers that lead cannot be reached: {error}") from None
            raise ConnectionResetError(str(error)) from None
        return response

    def _renew(self, now: datetime) -> None:
        self._identity = proxy_issue(self._authority, now)
        self._certificate = x509.load_pem_x509_certificate(self._identity.certificate)

    def _heard(self, change: Change) -> None:
        known = change.after or change.before
        if known is not None and known.kind is _LEASES and known.name == LEASE_NAME:
            before, after = (
                None if entry is None else span_address(entry.item) for entry in (change.before, change.after)
            )
            if known.namespace == SYSTEM_NAMESPACE and before != after:
                self._end()

    def _end(self) -> None:
        """What is being passed on is another's now."""
        self._moved.set()
        self._moved = asyncio.Event()


def _unavailable(why: str) -> ApiError:
    return ApiError(503, "ServiceUnavailable", f"what hosts are told: {why}", retry_after=_RETRY_SECONDS)
