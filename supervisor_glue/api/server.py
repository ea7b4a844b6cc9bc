# SPDX-License-Identifier: Apache-2.0
"""The API server over HTTPS: who asks, what for, may they, and the answer."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from dfw.logs import get_logger
from supervisor_glue.api.documents import document_of
from supervisor_glue.api.health import Health
from supervisor_glue.api.host_streams import HostStreams
from supervisor_glue.api.idle import IdleWatch, apply_descriptors, connections_most
from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.media import JSON, Form, form_of, media_type, written
from supervisor_glue.api.request import Target, options_of, target_of
from supervisor_glue.api.resource import Answer, Request, ResourceHandler
from supervisor_glue.api.status import (
    ApiError,
    error_bad_request,
    error_forbidden,
    error_internal,
    error_method,
    error_no_such_path,
    error_unavailable,
)
from supervisor_glue.api.streams import PodStreams
from supervisor_glue.api.watch_cache import WatchCache
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authenticate import Authenticator, is_open
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.impersonate import impersonated
from supervisor_glue.auth.limits import BODY_BYTES, BODY_SECONDS, HEADER_BYTES, Limits
from supervisor_glue.auth.user import User
from supervisor_glue.store import FullError, StoreError, TooLargeError, UnavailableError
from supervisor_glue.tunnel import Tunnels

TUNNEL: Final = f"/apis/{SPAN}/v1alpha1/tunnel"
_EXTENSION: Final = re.compile("/apis/([^/]+)/([^/]+)/([^/]+)")
_CHANGES: Final = ("POST", "PUT", "PATCH", "DELETE")
Handler = Callable[[web.Request, Target, User], Awaitable[web.StreamResponse | None]]
Extension = Callable[[web.Request, str, User], Awaitable[web.StreamResponse]]
"""Answers for a group that is no kind of the table: its resource, and who asks (for a list or watch, allowed)."""


class ApiServer:
    """One process's API. `handler`: of resources; `streams`: of subresources that are no objects (log, exec)."""

    def __init__(
        self,
        cache: WatchCache,
        handler: ResourceHandler,
        authenticator: Authenticator,
        authorizer: Authorizer,
        clock: Callable[[], float] = time.time,
        streams: Mapping[tuple[str, str], Handler] | None = None,
    ) -> None:
        self.cache, self.handler, self.clock = cache, handler, clock
        self.authenticator, self.authorizer = authenticator, authorizer
        self.extensions: dict[str, Extension] = {}
        self.tunnels = Tunnels()
        own = (PodStreams(cache, self.tunnels), HostStreams(cache, self.tunnels, authorizer))
        self.streams = {**{key: handler for item in own for key, handler in item.handlers().items()}, **(streams or {})}
        self._open: dict[asyncio.Task[object], tuple[web.Request, Attributes]] = {}
        self.address = ""
        self.closing = asyncio.Event()
        self.health = Health(cache, self.closing.is_set)
        self.limits = Limits()
        self.idle = IdleWatch(connections_most(apply_descriptors()))
        self.log = get_logger("api")

    def application(self) -> web.Application:
        application = web.Application(
            client_max_size=BODY_BYTES, handler_args={"max_line_size": HEADER_BYTES, "max_field_size": HEADER_BYTES}
        )
        application.router.add_route("*", "/{path:.*}", self._handle)
        return application

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.idle.asked(request.protocol)
        try:
            return await self._answer(request)
        except ApiError as error:
            return refusal(error)
        except web.HTTPRequestEntityTooLarge:
            told = f"Request entity too large: limit is {BODY_BYTES}"
            return refusal(ApiError(413, "RequestEntityTooLarge", told))
        except web.HTTPException:
            raise
        except StoreError as error:
            self.log.error("request.store", path=request.path, error=str(error))
            return refusal(error_of_store(error))
        except TooLargeError as error:
            return refusal(ApiError(413, "RequestEntityTooLarge", f"Request entity too large: {error}"))
        except ConnectionError:
            return hung_up(request)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            self.log.error("request.failed", path=request.path, error=f"{type(error).__name__}: {error}", exc_info=True)
            return refusal(error_internal("the server failed; its log says where"))

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if is_open(request.method, path):
            return await self.health.answer(request)
        user = self._user(request)
        self.limits.request(user, time.monotonic())
        options = options_of(request.query, changes=request.method in _CHANGES)
        extension = _EXTENSION.fullmatch(path)
        if path == TUNNEL:
            return await self._tunnel(request, user)
        if extension is not None and extension[1] in self.extensions:
            return await self._extension(request, user, extension, options.watch)
        target = target_of(request.method, path, options.watch)
        if target is None:
            self.authorizer.check(Attributes(user, request.method.lower(), path=path))
            return self._document(request, path)
        asked = self.handler.attributes(user, target, options)
        self.authorizer.check(asked)
        stream = self.streams.get((target.kind.kind, target.subresource))
        if stream is not None:
            with self._watching(request, asked):
                found = await stream(request, target, user)
            if found is None:
                raise error_no_such_path()
            return found
        form = form_of(_text(request.headers.get("Accept", "")))
        if target.verb == "watch":
            with self._watching(request, asked):
                return await self._watch(request, target, options, form)
        body = await self._body(request) if request.method in _CHANGES else b""
        asked_for = Request(
            user,
            target,
            options,
            form,
            body,
            _text(request.headers.get("Content-Type", "")),
            _text(request.headers.get("User-Agent", "")),
        )
        return response_of(await self.handler.handle(asked_for), form)

    @staticmethod
    async def _body(request: web.Request) -> bytes:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                return await request.read()
        except RequestPayloadError:
            raise error_bad_request("the body of the request is not packed as its headers say") from None
        except TimeoutError:
            raise ApiError(408, "Timeout", f"the body was not there within {BODY_SECONDS:.0f} s") from None

    def _user(self, request: web.Request) -> User:
        transport = request.transport
        peer = transport.get_extra_info("peercert") if transport is not None else None
        user = self.authenticator.authenticate(peer, request.headers.get("Authorization"), self.clock())
        return impersonated(self.authorizer, user, ((name, _text(value)) for name, value in request.headers.items()))

    async def _extension(
        self, request: web.Request, user: User, named: re.Match[str], watch: bool
    ) -> web.StreamResponse:
        group, version, resource = named.groups()
        if request.method != ("POST" if watch else "GET"):  # a watch says what it knows
            raise error_method(request.method)
        asked = Attributes(user, "watch" if watch else "list", group, version, resource)
        self.authorizer.check(asked)
        if not watch:
            return await self.extensions[group](request, resource, user)
        with self._watching(request, asked):
            return await self.extensions[group](request, resource, user)

    async def _tunnel(self, request: web.Request, user: User) -> web.StreamResponse:
        """A host's own, which its certificate says."""
        asked = Attributes(user, "watch", SPAN, "v1alpha1", "tunnel")
        if not user.host:
            raise error_forbidden("tunnel", SPAN, "", "only a host has one, by its certificate")
        self.authorizer.check(asked)
        with self._watching(request, asked):
            return await self.tunnels.serve(request, user.host)

    @contextmanager
    def _watching(self, request: web.Request, asked: Attributes) -> Iterator[None]:
        """While a request goes on and on. Raises ApiError 429."""
        task = asyncio.current_task()
        assert task is not None
        with self.limits.watch(asked.user):
            self._open[task] = (request, asked)
            try:
                yield
            finally:
                del self._open[task]

    def recheck(self) -> None:
        """End what goes on for users who may no longer: a Host that was deleted, a role that was taken away, a
        certificate that has expired."""
        for task, (request, asked) in list(self._open.items()):
            if request.transport is None:
                continue  # the client has gone: it ends by itself
            try:
                self.authorizer.check(replace(asked, user=self._user(request)))
            except ApiError as error:
                self.log.info("api.watch-ended", user=asked.user.name, resource=asked.resource, reason=error.reason)
                task.cancel()

    def end(self) -> None:
        """End what goes on and on: watches, and what extensions answer."""
        self.closing.set()
        for task, (_, asked) in self._open.items():
            if asked.group in self.extensions:  # other watches see that the server closes
                task.cancel()

    def _document(self, request: web.Request, path: str) -> web.Response:
        accept = request.headers.get("Accept", "")
        found = document_of(path, accept, self.address)
        if found is None:
            raise error_no_such_path()
        if not isinstance(found, tuple):
            return web.Response(body=written(found, Form()), content_type=JSON)
        body, media, tag = found
        if tag and request.headers.get("If-None-Match", "").strip('"') == tag:
            return web.Response(status=304, headers={"ETag": f'"{tag}"'})
        headers = {"Content-Type": media, "Vary": "Accept"}
        if tag:
            headers["ETag"] = f'"{tag}"'
        return web.Response(body=body, headers=headers)

    async def _watch(self, request: web.Request, target: Target, options: Any, form: Form) -> web.StreamResponse:
        lines = await self.handler.watch(target, options, form)
        response = web.StreamResponse(
            headers={"Content-Type": media_type(Form()), "Cache-Control": "no-cache, private"}
        )
        response.enable_chunked_encoding()
        await response.prepare(request)
        ending = asyncio.ensure_future(self.closing.wait())
        try:
            await self._send(response, lines, ending)
        except ConnectionError:
            pass  # the client has gone
        finally:
            ending.cancel()
            await lines.aclose()
        return response

    async def _send(self, response: web.StreamResponse, lines: Any, ending: asyncio.Future[Any]) -> None:
        """Until the watch, the connection or the server ends."""

        async def send() -> None:
            async for line in lines:
                await response.write(line)

        sending = asyncio.ensure_future(send())
        try:
            await asyncio.wait({sending, ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not sending.done():
                sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
        if not sending.cancelled() and isinstance(sending.exception(), ConnectionError):
            return
        await response.write_eof()


def _text(header: str) -> str:
    """A header's value, in which aiohttp has bytes that are no UTF-8 as lone surrogates: no answer could name them."""
    return header.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def hung_up(request: web.Request) -> web.Response:
    """Of a request that nobody waits for: the client has gone, or is to see that its answer was broken off."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def refusal(error: ApiError) -> web.Response:
    """A Status."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
    if error.code == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="palisade"'
    response = web.Response(status=error.code, body=written(error.status(), Form()), content_type=JSON, headers=headers)
    if error.code == 401:
        response.force_close()  # the next connection may show a renewed certificate
    return response


def response_of(answer: Answer, form: Form) -> web.Response:
    response = web.Response(status=answer.status, body=answer.body, content_type=media_type(form))
    for told in answer.warnings:
        response.headers.add("Warning", f'299 - "{told.translate(_QUOTED)}"')
    return response


_QUOTED: Final = str.maketrans({'"': '\\"', "\\": "\\\\", "\r": " ", "\n": " "})


def error_of_store(error: StoreError) -> ApiError:
    """What a client is told when the store fails. Its sentences name no secrets."""
    if isinstance(error, FullError):
        return ApiError(507, "InsufficientStorage", f"the control plane's store is full, nothing was changed: {error}")
    if isinstance(error, UnavailableError):
        return error_unavailable(f"the control plane's store: {error}")
    return error_internal(str(error))
