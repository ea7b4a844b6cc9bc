# SPDX-License-Identifier: Apache-2.0
"""TLS contexts of the API server and its clients: 1.2 at least, certificates of the Supervisor's own CA only."""

from __future__ import annotations

import os
import socket
import ssl
from asyncio.sslproto import SSLProtocol
from pathlib import Path
from typing import Any, Final

from supervisor_glue.auth.pki import Identity

READ_BYTES: Final = 32 * 1024
"""Of a connection's buffer: two records of TLS (RFC 8446, 5.1)."""


def buffers_limit() -> None:
    """Let this process's connections have buffers of READ_BYTES: asyncio gives each 256 KiB, of which a thousand hosts
    with two connections each take half a gigabyte."""
    SSLProtocol.max_size = READ_BYTES


def server_context(chain: Path, authority_pem: bytes) -> ssl.SSLContext:
    """Of a server: who shows a certificate must have it from this CA, who shows none may bring a token.

    `chain`: the server's key and certificates, of which `context_renew` loads new ones later.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=authority_pem.decode("ascii"))
    context.load_cert_chain(chain)
    context.set_alpn_protocols(["http/1.1"])
    return context


def context_renew(context: ssl.SSLContext, chain: Path) -> None:
    """New connections get this certificate; those that are open stay."""
    context.load_cert_chain(chain)


def client_context(authority_pem: bytes, identity: Identity | None = None) -> ssl.SSLContext:
    """Of a client, which trusts this CA only and shows its certificate where it has one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=authority_pem.decode("ascii"))
    if identity is not None:
        identity_load(context, identity)
    return context


def kept_alive(found: tuple[Any, ...]) -> socket.socket:
    """A client's socket (aiohttp's `socket_factory`): a server that is gone without a word is noticed in a minute, also
    while nothing is said."""
    family, kind, protocol, *_ = found
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3)):
        made.setsockopt(socket.IPPROTO_TCP, option, seconds)
    return made


def identity_load(context: ssl.SSLContext, identity: Identity) -> None:
    """Connections that this context makes from here on show this certificate. OpenSSL reads keys from files only: this
    one is in memory, and nobody else's."""
    descriptor = os.memfd_create("identity", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(identity.key + identity.certificate)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
