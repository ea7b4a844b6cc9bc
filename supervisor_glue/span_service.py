# SPDX-License-Identifier: Apache-2.0
"""`span.palisade.internal/v1alpha1`, resource `parts`: what a host is told, over HTTP. span_reader.py reads it.

A host is served its own part, whatever it asks: which host it is, its certificate says. A watch is a POST whose body
has what the host knows (span_wire.Known); 410 where its sum says nothing here: it asks again, with marks. Each line of
the answer is one change, whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import aclosing, contextmanager
from typing import Final

import msgspec
from aiohttp import web

from overlay.span_parts import MARK_BYTES
from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.server import Extension
from supervisor_glue.api.status import ApiError, error_bad_request, error_forbidden, error_no_such_path
from supervisor_glue.auth.user import User
from supervisor_glue.controllers.span import Span
from supervisor_glue.controllers.telling import HostChange
from supervisor_glue.span_wire import Known, Line, line_write

RESOURCE: Final = "parts"
PATH: Final = f"/apis/{SPAN}/v1alpha1/{RESOURCE}"
WRITE_BYTES: Final = 64 * 1024
"""As much of an answer waits in a connection's buffers."""


@contextmanager
def span_extension(span: Span) -> Iterator[Extension]:
    """What answers for the group, as long as the `with` lasts: then the watches end, and hosts ask again."""
    answering: set[asyncio.Task[object]] = set()

    async def answer(request: web.Request, resource: str, user: User) -> web.StreamResponse:
        if resource != RESOURCE:
            raise error_no_such_path()
        host = user.host or request.query.get("host", "")
        if not host:
            raise error_forbidden(RESOURCE, SPAN, "", "which host? only a host's own certificate says")
        task = asyncio.current_task()
        assert task is not None
        answering.add(task)
        try:
            return await told(request, host)
        finally:
            answering.discard(task)

    async def told(request: web.Request, host: str) -> web.StreamResponse:
        if request.method == "GET":
            await span.computed()
            change = HostChange(span.revision, span.parts(host), (), {})
            return web.Response(body=b"".join(change_line(change)), content_type="application/json")
        known = known_read(await request.read())
        if request.transport is not None:
            request.transport.set_write_buffer_limits(high=WRITE_BYTES)
        async with aclosing(span.watch(host, known)) as changes:  # type: ignore[type-var]
            try:
                change = await anext(changes)
            except StopAsyncIteration:
                raise ApiError(410, "Expired", "a host that knows this has to say it in marks") from None
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
            response.enable_chunked_encoding()
            await response.prepare(request)
            await _write(response, change_line(change))
            async for change in changes:
                await _write(response, change_line(change))
        return response

    try:
        yield answer
    finally:
        for task in answering:
            task.cancel()


def known_read(data: bytes) -> Known:
    """Of a request's body. Raises ApiError 400."""
    try:
        known = msgspec.json.decode(data, type=Known) if data.strip() else Known()
    except msgspec.DecodeError as error:
        raise error_bad_request(f"the body says what is known, as marks: {error}") from None
    if len(known.marks) % MARK_BYTES or len(known.shared) % MARK_BYTES or len(known.sum) not in (0, MARK_BYTES):
        raise error_bad_request(f"marks, and their sum, are {MARK_BYTES} bytes each")
    return known


def change_line(change: HostChange) -> list[bytes]:
    """As it is sent, in pieces."""
    parts = {key: msgspec.Raw(part.data) for key, part in change.parts.items()}
    unknown = b"".join(change.unknown)
    return line_write(Line(change.revision, parts, change.gone, change.sets, (), unknown), change.packed)


async def _write(response: web.StreamResponse, pieces: Iterable[bytes]) -> None:
    """A slice at a time, so that what waits for a slow host is not copied whole into its connection's buffers."""
    for piece in pieces:
        for at in range(0, len(piece), WRITE_BYTES):
            await response.write(memoryview(piece)[at : at + WRITE_BYTES])
