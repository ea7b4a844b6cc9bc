# SPDX-License-Identifier: Apache-2.0
"""A pod's log, and commands in it: asked of the host through the connection that the host opened.

`exec` and `attach` speak WebSocket with the subprotocols v5.channel.k8s.io and v4.channel.k8s.io, as kubectl from 1.31
and client libraries do; SPDY, which older ones try, is told so.
Source: https://kubernetes.io/docs/reference/using-api/api-concepts/, k8s.io/apimachinery/pkg/util/remotecommand.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from socket import IPPROTO_TCP, TCP_INFO
from typing import Final

import aiohttp
from aiohttp import web

from supervisor_glue.api.kinds import PODS
from supervisor_glue.api.request import Target
from supervisor_glue.api.status import ApiError, Cause, Object, error_bad_request, error_invalid, error_not_found
from supervisor_glue.api.watch_cache import WatchCache
from supervisor_glue.auth.user import User
from supervisor_glue.tunnel import END, RESIZE, SHUT, STDERR, STDIN, STDOUT, SUCCESS, Session, Tunnels

_HEARTBEAT: Final = 60.0
"""Seconds, and half of it for the answer, which comes behind input that a command does not read: kubectl itself gives
up after 61."""
_LOOK_SECONDS: Final = 2.0
_ESTABLISHED: Final = 1  # TCP_ESTABLISHED of linux/tcp.h: neither side has ended
PROTOCOLS: Final = ("v5.channel.k8s.io", "v4.channel.k8s.io")
_CLOSE: Final = 255  # of v5: the next byte is the channel that ends
_ERROR: Final = 3
Handler = Callable[[web.Request, Target, User], Awaitable[web.StreamResponse | None]]


class PodStreams:
    """What `ApiServer(streams=…)` takes."""

    def __init__(self, cache: WatchCache, tunnels: Tunnels) -> None:
        self.cache, self.tunnels = cache, tunnels

    def handlers(self) -> Mapping[tuple[str, str], Handler]:
        return {("Pod", "log"): self.log, ("Pod", "exec"): self.execute, ("Pod", "attach"): self.execute}

    async def log(self, request: web.Request, target: Target, user: User) -> web.StreamResponse:
        """`GET …/pods/NAME/log`: text, as long as it is followed."""
        query = request.query
        pod = await self._pod(target)
        asked = self._asked("log", pod, _container(pod, query.get("container", "")))
        for name in ("follow", "previous"):
            asked[name] = query.get(name, "").lower() in ("true", "1")
        asked |= _log_options(query, target.name)
        session = await self.tunnels.open(pod["spec"]["nodeName"], asked)
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        response.enable_chunked_encoding()
        try:
            async for frame in session:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(frame.data)
            if session.status.get("status") == "Failure" and not response.prepared:
                raise error_bad_request(str(session.status.get("message")))
            if not response.prepared:
                await response.prepare(request)
            await response.write_eof()
        except ConnectionError:
            pass  # the client has gone
        finally:
            await session.close()
        return response

    async def execute(self, request: web.Request, target: Target, user: User) -> web.StreamResponse:
        """`exec` and `attach`."""
        query = request.query
        pod = await self._pod(target)
        container = _container(pod, query.get("container", ""))
        command = query.getall("command", [])
        if target.subresource == "exec" and not command:
            raise error_bad_request("you must specify at least 1 command for the container")
        if not is_websocket(request):
            told = f"only WebSocket is spoken here, with {' or '.join(PROTOCOLS)}: kubectl 1.31 or later does so"
            raise error_bad_request(told)
        asked = self._asked(target.subresource, pod, container) | {"command": command}
        for name in ("stdin", "stdout", "stderr", "tty"):
            asked[name] = query.get(name, "").lower() in ("true", "1")
        return await socket_serve(request, await self.tunnels.open(pod["spec"]["nodeName"], asked))

    async def _pod(self, target: Target) -> Object:
        """Raises ApiError 404, 400 for a pod that has no host."""
        await self.cache.fresh()
        entry = self.cache.get(PODS, target.namespace, target.name)
        if entry is None:
            raise error_not_found("pods", "", target.name)
        if not entry.item["spec"].get("nodeName"):
            raise ApiError(400, "BadRequest", f"pod {target.name} does not have a host assigned")
        return entry.item

    @staticmethod
    def _asked(what: str, pod: Object, container: str) -> Object:
        metadata = pod["metadata"]
        return {
            "do": what,
            "namespace": metadata["namespace"],
            "pod": metadata["name"],
            "uid": metadata["uid"],
            "container": container,
        }


def _container(pod: Object, name: str) -> str:
    """Raises ApiError 400."""
    names = [item["name"] for field in ("initContainers", "containers") for item in pod["spec"].get(field) or ()]
    if name:
        if name not in names:
            raise error_bad_request(f"container {name} is not valid for pod {pod['metadata']['name']}")
        return name
    own = [item["name"] for item in pod["spec"]["containers"]]
    if len(own) > 1:
        told = f"a container name must be specified for pod {pod['metadata']['name']}, choose one of: [{' '.join(own)}]"
        raise error_bad_request(told)
    return str(own[0])


def _log_options(query: Mapping[str, str], pod: str) -> Object:
    """Raises ApiError 400, 422."""
    found: Object = {"timestamps": query.get("timestamps", "").lower() in ("true", "1")}
    wrong = []
    for name, least in (("sinceSeconds", 1), ("tailLines", 0), ("limitBytes", 1)):
        text = query.get(name, "")
        if text:
            if not re.fullmatch(r"-?\d{1,15}", text):
                raise error_bad_request(f"{name}: {text!r} is no number")
            found[name] = int(text)
            if int(text) < least:
                told = "greater than or equal to 0" if least == 0 else "greater than 0"
                wrong.append(Cause("FieldValueInvalid", f"Invalid value: {text}: must be {told}", name))
    if query.get("sinceTime"):
        try:
            since = datetime.fromisoformat(query["sinceTime"])
        except ValueError:
            raise error_bad_request(f"sinceTime: {query['sinceTime']!r} is no time as RFC 3339 has them") from None
        if since.tzinfo is None:
            raise error_bad_request(f"sinceTime: {query['sinceTime']!r} has no time zone")
        found["sinceTime"] = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        if "sinceSeconds" in found:
            told = "Forbidden: at most one of `sinceTime` or `sinceSeconds` may be specified"
            wrong.append(Cause("FieldValueForbidden", told, "sinceTime"))
    if wrong:
        raise error_invalid("PodLogOptions", "", pod, wrong)
    return found


def is_websocket(request: web.Request) -> bool:
    """Whether it begins a WebSocket with a subprotocol that is spoken here."""
    offered = {item.strip() for item in request.headers.get("Sec-WebSocket-Protocol", "").split(",")}
    return request.headers.get("Upgrade", "").lower() == "websocket" and not offered.isdisjoint(PROTOCOLS)


async def socket_serve(request: web.Request, session: Session) -> web.WebSocketResponse:
    """Pass a host's session on, both ways, until it ends or the client goes."""
    socket = web.WebSocketResponse(protocols=PROTOCOLS, heartbeat=_HEARTBEAT)
    try:
        await socket.prepare(request)
        reading = asyncio.ensure_future(_input(socket, session))
        writing = asyncio.ensure_future(_output(socket, session))
        leaving = asyncio.ensure_future(_left(request, socket))
        try:
            await asyncio.wait({reading, writing, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not writing.done() and not socket.closed:
                await asyncio.wait({writing, leaving}, return_when=asyncio.FIRST_COMPLETED)  # input alone has ended
        finally:
            for task in (reading, writing, leaving):
                task.cancel()
            await asyncio.gather(reading, writing, leaving, return_exceptions=True)
        with suppress(ConnectionError):
            await socket.close()
    finally:
        await session.close()
    return socket


async def _left(request: web.Request, socket: web.WebSocketResponse) -> None:
    """Until the client is gone. Who waits for a command to read, and for it to say something, does not see that, nor
    does a transport that is not to be read at present: the kernel does, once the client's refuses what is sent to it
    (its own last word may wait behind all that is not read)."""
    with suppress(ConnectionError):
        while not socket.closed and _is_connected(request.transport):
            await socket.ping()
            await asyncio.sleep(_LOOK_SECONDS)


def _is_connected(transport: asyncio.Transport | None) -> bool:
    connection = None if transport is None else transport.get_extra_info("socket")
    try:
        return connection is not None and connection.getsockopt(IPPROTO_TCP, TCP_INFO, 1)[0] == _ESTABLISHED
    except OSError:
        return False


async def _input(socket: web.WebSocketResponse, session: Session) -> None:
    """From the client, until it closes."""
    async for message in socket:
        # Python's client sends what it is given as text.
        sent = message.data.encode() if message.type is aiohttp.WSMsgType.TEXT else message.data
        if message.type not in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT) or not sent:
            continue
        channel, data = sent[0], sent[1:]
        if channel == STDIN:
            if data:
                await session.feed(data)
        elif channel == RESIZE:
            await session.send(RESIZE, data)
        elif channel == _CLOSE and data[:1] == bytes([STDIN]):
            await session.send(SHUT)


async def _output(socket: web.WebSocketResponse, session: Session) -> None:
    """To the client, until the command ends; the last message says how."""
    async for frame in session:
        if frame.channel in (STDOUT, STDERR):
            await socket.send_bytes(bytes([frame.channel]) + frame.data)
    await socket.send_bytes(bytes([_ERROR]) + json.dumps(session.status or SUCCESS).encode())


assert END == _ERROR  # the tunnel's channels are those of channel.k8s.io
