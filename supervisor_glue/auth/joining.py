# SPDX-License-Identifier: Apache-2.0
"""A host's certificate: got by a join token, renewed by itself at two thirds of its life."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from supervisor_glue.api.status import ApiError
from supervisor_glue.auth.approval import REQUESTS, request_object, request_outcome
from supervisor_glue.auth.caller import Caller, Requests, authority_find
from supervisor_glue.auth.kubeconfig import Kubeconfig, kubeconfig_read, kubeconfig_write
from supervisor_glue.auth.pki import Identity, is_renewal_due, key_pem, renewal_seconds, utc_now
from supervisor_glue.auth.signing import SIGNER_HOST, SigningError, request_make
from supervisor_glue.auth.tokens import JoinToken
from supervisor_glue.auth.user import NODE, NODES

KUBECONFIG: Final = "agent.kubeconfig"
"""In the agent's configuration: the server, its CA, and the host's certificate and key."""
HOST_DAYS: Final = 90
ANSWER_SECONDS: Final = 120.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0
_LOOK_SECONDS: Final = 3600.0  # the clock may be set to another time
_RETRY_SECONDS: Final = 60.0
_SHORTEST_RETRY: Final = 0.2

Sleep = Callable[[float], Awaitable[None]]


async def host_certificate(client: Requests, host: str, sleep: Sleep = asyncio.sleep) -> Identity:
    """A new key and a certificate for it. Raises ApiError, ConnectionError, SigningError (it was refused),
    TimeoutError (nobody signs)."""
    key = ec.generate_private_key(ec.SECP256R1())
    asked = request_object(
        f"host-{host}-",
        request_make(key, NODE + host, [NODES]),
        SIGNER_HOST,
        seconds=HOST_DAYS * 86400,
        generate=True,
    )
    return Identity(await certificate_wait(client, await client.create(REQUESTS, asked), sleep), key_pem(key))


async def certificate_wait(client: Requests, item: dict[str, object], sleep: Sleep = asyncio.sleep) -> bytes:
    """The certificate of a request that was made. Raises as `host_certificate`."""
    name = str(item["metadata"]["name"])  # type: ignore[index]
    waited, pause = 0.0, _FIRST_PAUSE
    while (certificate := request_outcome(item)) is None:
        if waited >= ANSWER_SECONDS:
            raise TimeoutError(f"nobody has signed the request {name} for {ANSWER_SECONDS:.0f} s")
        await sleep(pause)
        waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE)
        item = await client.get(REQUESTS, name)
    return certificate


async def host_join(server: str, token: JoinToken, pin: str, host: str, folder: Path) -> Path:
    """Become a host of a Supervisor: writes the agent's kubeconfig, and says where. Raises as `host_certificate`,
    ServerError, ValueError, OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o755)
    authority = await asyncio.to_thread(authority_find, server, pin)
    async with Caller(Kubeconfig(server, authority, "joining", token=str(token))) as client:
        identity = await host_certificate(client, host)
    path = folder / KUBECONFIG
    kubeconfig_write(path, Kubeconfig(server, authority, NODE + host, identity))
    return path


def is_due(config: Kubeconfig, now: datetime) -> bool:
    """Whether a kubeconfig's certificate is to be renewed. Raises ValueError: it has none that can be read."""
    return is_renewal_due(_certificate(config), now)


def _certificate(config: Kubeconfig) -> x509.Certificate:
    return x509.load_pem_x509_certificate(config.identity.certificate if config.identity else b"")


async def host_renew(client: Requests, path: Path, now: datetime) -> Kubeconfig | None:
    """Renew the certificate of an agent's kubeconfig where it is due. Returns the new one: whoever has open connections
    makes them anew. None: it is not due. Raises as `host_certificate`, OSError."""
    config = await asyncio.to_thread(kubeconfig_read, path)
    if not is_due(config, now):
        return None
    renewed = replace(config, identity=await host_certificate(client, config.user.removeprefix(NODE)))
    await asyncio.to_thread(kubeconfig_write, path, renewed)
    return renewed


async def host_renewals(
    client: Requests,
    path: Path,
    changed: Callable[[Kubeconfig], Awaitable[None]],
    *,
    failed: Callable[[Exception], None],
    now: Callable[[], datetime] = utc_now,
    sleep: Sleep = asyncio.sleep,
) -> None:
    """Renew it when that is due, until cancelled. What fails is tried again: a third of a certificate's life is left
    for that."""
    while True:
        seconds = _RETRY_SECONDS
        try:
            renewed = await host_renew(client, path, now())
            if renewed is not None:
                await changed(renewed)
            held = _certificate(await asyncio.to_thread(kubeconfig_read, path))
            seconds = min(_LOOK_SECONDS, max(_SHORTEST_RETRY, renewal_seconds(held, now())))
        except (ApiError, OSError, SigningError, TimeoutError, ValueError) as error:
            failed(error)
            with suppress(OSError, ValueError):
                left = _certificate(await asyncio.to_thread(kubeconfig_read, path)).not_valid_after_utc - now()
                if left > timedelta():
                    seconds = min(_RETRY_SECONDS, max(_SHORTEST_RETRY, left.total_seconds() / 5))
        await sleep(seconds * random.uniform(1.0, 1.05))
