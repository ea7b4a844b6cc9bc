# SPDX-License-Identifier: Apache-2.0
"""`span.palisade.internal/v1alpha1`, resource `parts`: what a host is told, over HTTP, and how the host reads it.

A host is served its own part, whatever it asks: which host it is, its certificate says. A watch is a POST whose body
has the hashes of what the host knows; each line of the answer is one change, whole: parts that are new or different,
and the names of those that are gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import web

from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.server import Extension
from supervisor_glue.api.status import error_bad_request, error_forbidden, error_no_such_path
from supervisor_glue.auth.user import User
from supervisor_glue.controllers.groups import Part
from supervisor_glue.controllers.span import HostChange, Span

RESOURCE: Final = "parts"
PATH: Final = f"/apis/{SPAN}/v1alpha1/{RESOURCE}"
_encode = msgspec.json.Encoder().encode


class Told(NamedTuple):
    """A change as a host reads it: parts' contents and hashes by name."""

    revision: int
    parts: dict[str, bytes]
    hashes: dict[str, str]
    gone: tuple[str, ...]


class _Line(msgspec.Struct):
    revision: int
    parts: dict[str, tuple[str, msgspec.Raw]]
    gone: tuple[str, ...] = ()


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
            change = HostChange(span.revision, span.parts(host))
            return web.Response(body=change_line(change), content_type="application/json")
        known = hashes_read(await request.read())
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


def hashes_read(data: bytes) -> dict[str, str]:
    """Of a request's body. Raises ApiError 400."""
    try:
        return msgspec.json.decode(data, type=dict[str, str]) if data.strip() else {}
    except msgspec.DecodeError as error:
        raise error_bad_request(f"the body is an object of hashes by name: {error}") from None


def change_line(change: HostChange) -> bytes:
    parts: Mapping[str, Part] = change.parts
    told = {key: (part.hash, msgspec.Raw(part.data)) for key, part in parts.items()}
    return _encode(_Line(change.revision, told, change.gone)) + b"\n"


def line_read(line: bytes) -> Told:
    """Raises msgspec.DecodeError."""
    read = msgspec.json.decode(line, type=_Line)
    return Told(
        read.revision,
        {key: bytes(data) for key, (_, data) in read.parts.items()},
        {key: name for key, (name, _) in read.parts.items()},
        read.gone,
    )


async def span_watch(client: Any, known: Mapping[str, str]) -> AsyncIterator[Told]:
    """Changes as the Supervisor tells them; ends when the connection does. Raises ApiError, ConnectionError."""
    async for line in client.lines("POST", PATH, dict(known), query={"watch": "true"}):
        yield line_read(line)
