# SPDX-License-Identifier: Apache-2.0
"""A client of any Kubernetes API server, over HTTPS: what controllers and agents use (client.py says what it does)."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import aiohttp
import msgspec

from supervisor_glue.api.client import Listed, Resource, WatchEvent
from supervisor_glue.api.managed_fields import unmanaged
from supervisor_glue.api.media import JSON, encode
from supervisor_glue.api.resource import APPLY
from supervisor_glue.api.status import ApiError, Object, why_unanswered
from supervisor_glue.auth.kubeconfig import Kubeconfig, kubeconfig_read
from supervisor_glue.auth.tls import client_context, identity_load, kept_alive

MERGE: Final = "application/merge-patch+json"
_TIMEOUT: Final = aiohttp.ClientTimeout(total=30, sock_connect=5)
_LIST_TIMEOUT: Final = aiohttp.ClientTimeout(total=600, sock_connect=5, sock_read=30)  # 100,000 objects take their time
_WATCH_TIMEOUT: Final = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=None)
_WATCH_SECONDS: Final = 1800
_KEPT_SECONDS: Final = 75.0  # a connection without a request: longer than the pauses between a host's reports
_MOST_LINE: Final = 64 * 1024 * 1024


class _List(msgspec.Struct):
    metadata: dict[str, Any]
    items: list[msgspec.Raw] | None = None
    kind: str = ""


_list_decode: Final = msgspec.json.Decoder(_List).decode


class HttpClient:
    """Use: `async with HttpClient(kubeconfig, "palisade-agent") as client`. Several tasks may use it at a time."""

    def __init__(self, config: Kubeconfig, agent: str) -> None:
        self.config, self.agent = config, agent
        self._session: aiohttp.ClientSession | None = None
        self._context: ssl.SSLContext | None = None

    @classmethod
    def of_file(cls, path: Path, agent: str) -> HttpClient:
        """Raises KubeconfigError, OSError."""
        return cls(kubeconfig_read(path), agent)

    async def __aenter__(self) -> HttpClient:
        headers = {"User-Agent": self.agent, "Accept": JSON}
        if self.config.token:
            headers["Authorization"] = f"Bearer {self.config.token}"
        self._context = client_context(self.config.authority, self.config.identity)
        connector = aiohttp.TCPConnector(
            ssl=self._context, limit=0, keepalive_timeout=_KEPT_SECONDS, socket_factory=kept_alive
        )
        self._session = aiohttp.ClientSession(
            self.config.server, connector=connector, headers=headers, timeout=_TIMEOUT, read_bufsize=1 << 20
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def renew(self, config: Kubeconfig) -> None:
        """The same server and user with a new certificate: new connections show it, and the server ends each of those
        that are open when their certificate ends."""
        assert self._context is not None
        if config.identity is not None:
            identity_load(self._context, config.identity)
        self.config = config

    async def request(
        self,
        method: str,
        path: str,
        body: object | None = None,
        *,
        media: str = JSON,
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """An answer's object. Raises ApiError, ConnectionError."""
        found: Object = msgspec.json.decode(await self._answered(method, path, body, media=media, query=query))
        return found

    async def _answered(
        self,
        method: str,
        path: str,
        body: object | None = None,
        *,
        media: str = JSON,
        query: Mapping[str, str] | None = None,
        timeout: aiohttp.ClientTimeout = _TIMEOUT,
    ) -> bytes:
        assert self._session is not None
        data = None if body is None else encode(body)
        headers = {"Content-Type": media} if data is not None else {}
        try:
            async with self._session.request(
                method, path, data=data, headers=headers, params=query, timeout=timeout
            ) as response:
                content = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionError(f"{self.config.server} does not answer: {why_unanswered(error)}") from None
        if response.status >= 400:
            raise error_of(response.status, content)
        return content

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        return await self.request("GET", resource.path(namespace, name))

    async def list(self, resource: Resource, namespace: str = "", *, labels: str = "", fields: str = "") -> Listed:
        """Objects come without managedFields: they are more than half of each, and nobody here asks for them."""
        query = _query(labelSelector=labels, fieldSelector=fields)
        content = await self._answered("GET", resource.path(namespace), query=query, timeout=_LIST_TIMEOUT)
        found = _list_decode(content)
        version = f"{resource.group}/{resource.version}" if resource.group else resource.version
        head = {"kind": found.kind.removesuffix("List"), "apiVersion": version}
        # One after the other: what is dropped of one is room for the next, and memory stays whole.
        items = [head | unmanaged(msgspec.json.decode(item)) for item in found.items or ()]
        return Listed(items, found.metadata["resourceVersion"])

    async def watch(
        self, resource: Resource, revision: str, namespace: str = "", *, labels: str = "", fields: str = ""
    ) -> AsyncIterator[WatchEvent]:
        query = _query(
            watch="true",
            allowWatchBookmarks="true",
            timeoutSeconds=str(_WATCH_SECONDS),
            resourceVersion=revision,
            labelSelector=labels,
            fieldSelector=fields,
        )
        async for line in self.lines("GET", resource.path(namespace), query=query):
            event = msgspec.json.decode(line)
            if event["type"] == "ERROR":
                raise status_error(event["object"])
            yield WatchEvent(event["type"], event["object"])

    async def lines(
        self, method: str, path: str, body: object | None = None, *, query: Mapping[str, str] | None = None
    ) -> AsyncIterator[bytes]:
        """An answer that goes on, line by line, until the server ends it. Raises ApiError, ConnectionError."""
        assert self._session is not None
        data = None if body is None else encode(body)
        headers = {"Content-Type": JSON} if data is not None else {}
        try:
            async with self._session.request(
                method, path, data=data, headers=headers, params=query, timeout=_WATCH_TIMEOUT
            ) as response:
                if response.status >= 400:
                    raise error_of(response.status, await response.read())
                async for line in lines_read(response.content):
                    told = [line]  # and no more of it here, while the next is waited for: the first may be megabytes
                    del line
                    yield told.pop()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionError(f"{self.config.server} does not answer: {why_unanswered(error)}") from None

    def websocket(
        self, path: str, *, heartbeat: float, protocols: Sequence[str] = (), query: Mapping[str, str] | None = None
    ) -> Any:
        """A WebSocket, as an asynchronous context manager. Raises aiohttp.ClientError."""
        assert self._session is not None
        return self._session.ws_connect(path, heartbeat=heartbeat, protocols=protocols, params=query)

    async def create(
        self, resource: Resource, item: Object, namespace: str = "", *, name: str = "", subresource: str = ""
    ) -> Object:
        return await self.request("POST", resource.path(namespace, name, subresource), item)

    async def update(self, resource: Resource, item: Object, subresource: str = "") -> Object:
        metadata = item["metadata"]
        return await self.request(
            "PUT", resource.path(metadata.get("namespace", ""), metadata["name"], subresource), item
        )

    async def patch(
        self, resource: Resource, name: str, patch: Mapping[str, object], namespace: str = "", subresource: str = ""
    ) -> Object:
        return await self.request("PATCH", resource.path(namespace, name, subresource), patch, media=MERGE)

    async def apply(
        self, resource: Resource, item: Object, manager: str, *, force: bool = True, subresource: str = ""
    ) -> Object:
        metadata = item["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], subresource)
        query = {"fieldManager": manager, "force": "true" if force else "false"}
        return await self.request("PATCH", path, item, media=APPLY, query=query)

    async def delete(
        self, resource: Resource, name: str, namespace: str = "", *, uid: str = "", grace: int | None = None
    ) -> Object:
        body: dict[str, Any] = {"preconditions": {"uid": uid}} if uid else {}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        return await self.request("DELETE", resource.path(namespace, name), body)


def error_of(code: int, content: bytes) -> ApiError:
    """From an answer that is a refusal."""
    try:
        status = json.loads(content)
    except ValueError:
        status = None
    if isinstance(status, dict) and status.get("kind") == "Status":
        return status_error(status, code)
    return ApiError(code, "Unknown", content[:200].decode("utf-8", "replace") or f"HTTP status {code}")


def status_error(status: Mapping[str, Any], code: int = 500) -> ApiError:
    details = status.get("details") or {}
    return ApiError(
        int(status.get("code") or code),
        str(status.get("reason") or "Unknown"),
        str(status.get("message") or ""),
        details=details,
    )


async def lines_read(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Lines of any length up to a bound: an object may be larger than the reader's buffer."""
    rest: list[bytes] = []
    size = 0
    async for chunk in stream.iter_any():
        size += len(chunk)
        if size > _MOST_LINE:
            raise ConnectionError("an event of the watch is too long")
        head, *lines = chunk.split(b"\n")
        rest.append(head)
        del chunk, head
        for line in lines:
            whole, rest, size = [b"".join(rest).strip()], [line], len(line)
            if whole[0]:
                yield whole.pop()


def _query(**fields: str) -> dict[str, str]:
    return {name: value for name, value in fields.items() if value}
