# SPDX-License-Identifier: Apache-2.0
"""Which store a control plane has, as a command's options say it."""

from __future__ import annotations

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
    return StoreChoice(plain, tls or (EtcdTls() if secured else None))


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
