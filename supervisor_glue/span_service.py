# SPDX-License-Identifier: Apache-2.0
"""`span.palisade.internal/v1alpha1`, resource `parts`: what a host is told, over HTTP. span_reader.py reads it.

A host is served its own part, whatever it asks: which host it is, its certificate says. A watch is a POST whose body
has the marks of what the host knows (MARK_BYTES each); each line of the answer is one change, whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Final

import msgspec
from aiohttp import web

from overlay.span_parts import MARK_BYTES
from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.server import Extension
from supervisor_glue.api.status import error_bad_request, error_forbidden, error_no_such_path
from supervisor_glue.auth.user import User
from supervisor_glue.controllers.span import Span
from supervisor_glue.controllers.telling import HostChange
from supervisor_glue.span_wire import Known, Line, line_write

RESOURCE: Final = "parts"
PATH: Final = f"/apis/{SPAN}/v1alpha1/{RESOURCE}"


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
            return web.Response(body=change_line(change), content_type="application/json")
        known = marks_read(await request.read())
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        changes = span.watch(host, known)
        async with aclosing(changes):  # type: ignore[type-var]
            async for change in changes:
                await response.write(change_line(change))
        return response

    try:
        yield answer
    finally:
        for task in answering:
            task.cancel()


def marks_read(data: bytes) -> frozenset[bytes]:
    """Of a request's body. Raises ApiError 400."""
    try:
        marks = msgspec.json.decode(data, type=Known).marks if data.strip() else b""
    except msgspec.DecodeError as error:
        raise error_bad_request(f"the body says what is known, as marks: {error}") from None
    if len(marks) % MARK_BYTES:
        raise error_bad_request(f"marks are {MARK_BYTES} bytes each")
    return frozenset(marks[at : at + MARK_BYTES] for at in range(0, len(marks), MARK_BYTES))


def change_line(change: HostChange) -> bytes:
    """As it is sent."""
    parts = {key: msgspec.Raw(part.data) for key, part in change.parts.items()}
    unknown = b"".join(change.unknown)
    return line_write(Line(change.revision, parts, change.gone, change.sets, change.packed, unknown))
