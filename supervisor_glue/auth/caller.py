# SPDX-License-Identifier: Apache-2.0
"""The few verbs that command-line tools and joining hosts need of an API server, over HTTPS, and how a host that knows
nothing but a hash finds its CA."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Protocol, Self
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from supervisor_glue.api.client import Resource
from supervisor_glue.api.status import ApiError, Object, why_unanswered
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.auth.pki import certificate_hash
from supervisor_glue.auth.tls import client_context

SECONDS: Final = 30.0
"""For a request, and for a handshake."""
_MOST_BYTES: Final = 16 * 1024 * 1024


class ServerError(ConnectionError):
    """The server does not answer, or is not the one that is meant: a sentence."""


class Requests(Protocol):
    """What asking for a certificate needs of a client."""

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object: ...

    async def create(self, resource: Resource, item: Object, namespace: str = "") -> Object: ...


class Caller:
    """A server as a kubeconfig names it. Every verb raises ApiError for a refusal, ServerError where nobody answers."""

    def __init__(self, config: Kubeconfig) -> None:
        self._server = config.server.rstrip("/")
        self._headers = {"Authorization": f"Bearer {config.token}"} if config.token else {}
        self._context = client_context(config.authority, config.identity)

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=SECONDS)
        self._session = aiohttp.ClientSession(headers=self._headers, timeout=timeout, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, resource: Resource, name: str, namespace: str = "") -> Object:
        return await self._request("GET", resource.path(namespace, name))

    async def create(self, resource: Resource, item: Object, namespace: str = "") -> Object:
        return await self._request("POST", resource.path(namespace), item)

    async def update(self, resource: Resource, item: Object, subresource: str = "") -> Object:
        metadata = item["metadata"]
        path = resource.path(metadata.get("namespace", ""), metadata["name"], subresource)
        return await self._request("PUT", path, item)

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Object:
        try:
            async with self._session.request(
                method, self._server + path, json=body, ssl=self._context, allow_redirects=False
            ) as answer:
                code, data = answer.status, await _read(answer)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerError(f"{self._server} does not answer: {why_unanswered(error)}") from None
        return _answer(code, data)


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    """The body, as far as an object of this API can be long."""
    parts: list[bytes] = []
    async for part in answer.content.iter_chunked(1 << 16):
        parts.append(part)
        if sum(map(len, parts)) > _MOST_BYTES:
            raise aiohttp.ClientPayloadError(f"more than {_MOST_BYTES} bytes")
    return b"".join(parts)


def _answer(code: int, data: bytes) -> Object:
    try:
        found = json.loads(data)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ServerError(f"the server answered {code} with something else than an object")
    if code >= 400:
        raise ApiError(code, found.get("reason", ""), found.get("message", ""), details=found.get("details"))
    return found


def authority_find(server: str, pin: str) -> bytes:
    """The certificate (PEM) of a server's CA, known by its hash (`sha256:…`): the server shows it in its chain, and
    nothing is sent to it before it is verified. Raises ServerError, ValueError (no such URL)."""
    parts = urlsplit(server)
    if parts.scheme != "https" or not parts.hostname:
        raise ValueError(f"{server!r} is no https:// URL")
    host, port = parts.hostname, parts.port or 443
    for pem in _chain(host, port):
        if certificate_hash(pem) == pin and _is_authority(pem):
            _verify(host, port, pem)
            return pem
    raise ServerError(f"{server} shows no CA whose hash is {pin}: it is another server, or its CA has changed")


def _is_authority(pem: bytes) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (ValueError, x509.ExtensionNotFound):
        return False


def _chain(host: str, port: int) -> list[bytes]:
    """All certificates that the server shows, verified by nobody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with _connected(context, host, port) as connection:
        # Python 3.13 has it as a method; before, the same was there under another name.
        read = getattr(connection, "get_unverified_chain", None)
        if read is not None:
            shown = [x509.load_der_x509_certificate(der) for der in read() or ()]
        else:
            held = connection._sslobj.get_unverified_chain() or ()  # type: ignore[attr-defined]
            shown = [x509.load_pem_x509_certificate(item.public_bytes().encode("ascii")) for item in held]
    return [certificate.public_bytes(Encoding.PEM) for certificate in shown]


def _verify(host: str, port: int, pem: bytes) -> None:
    """The server has a certificate of this CA, with its key, for this name."""
    with _connected(client_context(pem), host, port):
        pass


def _connected(context: ssl.SSLContext, host: str, port: int) -> ssl.SSLSocket:
    try:
        plain = socket.create_connection((host, port), SECONDS)
        try:
            return context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise
    except (OSError, ValueError) as error:
        raise ServerError(f"{host} port {port}: {getattr(error, 'strerror', None) or error}") from None
