# SPDX-License-Identifier: Apache-2.0
"""Which store a control plane has, as a command's options say it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor_glue.store.protocol import Store
from supervisor_glue.store.records import StoreError
from supervisor_glue.store.sqlite import SqliteStore


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """Files, PEM: who vouches for the members (None: the machine's own), and who we are."""

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class StoreChoice:
    """etcd's members, and TLS to them where there is some; no members: a file."""

    endpoints: tuple[str, ...] = ()
    tls: EtcdTls | None = None


IN_A_FILE: Final = StoreChoice()


def choice_read(text: str, tls: EtcdTls | None = None) -> StoreChoice:
    """From `sqlite`, or `etcd=ADDRESS:PORT[,ADDRESS:PORT…]`, each also as a URL. Raises ValueError."""
    kind, equals, rest = text.partition("=")
    if kind == "sqlite" and not equals:
        if tls is not None:
            raise ValueError("certificates are for a store in etcd")
        return IN_A_FILE
    if kind != "etcd" or not rest:
        raise ValueError(f"{text!r} is neither sqlite nor etcd=ADDRESS:PORT[,ADDRESS:PORT…]")
    written = [endpoint.rstrip("/") for endpoint in rest.split(",")]
    plain = tuple(endpoint.removeprefix("https://").removeprefix("http://") for endpoint in written)
    secured = [endpoint for endpoint in written if endpoint.startswith("https://")]
    if secured and len(secured) < len(written):
        raise ValueError("either all members of etcd have https, or none")
    if tls is not None and any(endpoint.startswith("http://") for endpoint in written):
        raise ValueError("certificates are for https")
    if tls is not None and (tls.certificate is None) is not (tls.key is None):
        raise ValueError("a client's certificate and its key go together")
    target_of(plain)
    return StoreChoice(plain, tls or (EtcdTls() if secured else None))


def target_of(endpoints: Sequence[str]) -> str:
    """As gRPC names servers (https://github.com/grpc/grpc/blob/master/doc/naming.md). Raises ValueError."""
    if not endpoints:
        raise ValueError("no endpoint of etcd")
    if len(endpoints) == 1 and endpoints[0].startswith("unix:"):
        return endpoints[0]
    kinds = set()
    for endpoint in endpoints:
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise ValueError(f"{endpoint!r} is no ADDRESS:PORT")
        is_v4 = all(part.isdecimal() for part in host.split("."))
        kinds.add("ipv4" if is_v4 else "ipv6" if host.startswith("[") else "dns")
    if len(kinds) > 1 or ("dns" in kinds and len(endpoints) > 1):
        raise ValueError("several endpoints of etcd are addresses of one family, or one name that has them all")
    (kind,) = kinds
    return f"dns:///{endpoints[0]}" if kind == "dns" else f"{kind}:{','.join(endpoints)}"


async def store_open(choice: StoreChoice, file: Path) -> Store:
    """The store; `file` where it is one. Raises StoreError, OSError."""
    if not choice.endpoints:
        return await SqliteStore.open(file)
    try:
        from supervisor_glue.store.etcd import EtcdStore
    except ImportError as error:
        raise StoreError(f"a store in etcd needs the package aetcd ({error}): pip install palisade-dfw[etcd]") from None
    try:
        return await EtcdStore.open(choice.endpoints, choice.tls)
    except ValueError as error:
        raise StoreError(str(error)) from None
