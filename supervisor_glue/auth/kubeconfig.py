# SPDX-License-Identifier: Apache-2.0
"""A kubeconfig: how kubectl finds a server and says who it is
(https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/)."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from supervisor_glue.auth.pki import Identity, file_write


class KubeconfigError(Exception):
    """A kubeconfig cannot be used: a sentence, without what is secret in it."""


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    """One server and one user of it, known by a certificate or a token. `namespace`: what is meant where none is
    said."""

    server: str
    authority: bytes
    user: str
    identity: Identity | None = None
    token: str = field(default="", repr=False)
    namespace: str = ""
    cluster: str = "palisade"


def kubeconfig_render(config: Kubeconfig) -> str:
    """As YAML, everything inside it."""
    user: dict[str, str] = {}
    if config.identity is not None:
        user["client-certificate-data"] = _encoded(config.identity.certificate)
        user["client-key-data"] = _encoded(config.identity.key)
    if config.token:
        user["token"] = config.token
    context = {"cluster": config.cluster, "user": config.user}
    if config.namespace:
        context["namespace"] = config.namespace
    name = f"{config.user}@{config.cluster}"
    cluster = {"server": config.server, "certificate-authority-data": _encoded(config.authority)}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": config.cluster, "cluster": cluster}],
        "users": [{"name": config.user, "user": user}],
        "contexts": [{"name": name, "context": context}],
        "current-context": name,
    }
    return yaml.safe_dump(document, sort_keys=False)


def kubeconfig_write(path: Path, config: Kubeconfig) -> None:
    """To a file that its owner alone can read. Raises OSError."""
    file_write(path, kubeconfig_render(config).encode())


def kubeconfig_read(path: Path) -> Kubeconfig:
    """The current context of a file, its data inside it or in files beside it. Raises KubeconfigError, OSError."""
    try:
        document = yaml.safe_load(path.read_bytes())
        current = document["current-context"]
        context = _named(document["contexts"], current)["context"]
        cluster = _named(document["clusters"], context["cluster"])["cluster"]
        user = _named(document["users"], context["user"])["user"]
        certificate = _data(path, user, "client-certificate")
        key = _data(path, user, "client-key")
        return Kubeconfig(
            server=cluster["server"],
            authority=_data(path, cluster, "certificate-authority"),
            user=context["user"],
            identity=Identity(certificate, key) if certificate and key else None,
            token=user.get("token", ""),
            namespace=context.get("namespace", ""),
            cluster=context["cluster"],
        )
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError):
        raise KubeconfigError(f"{path} is no kubeconfig with a current context, its cluster and its user") from None


def _named(entries: list[dict[str, Any]], name: str) -> dict[str, Any]:
    for entry in entries:
        if entry["name"] == name:
            return entry
    raise KeyError(name)


def _data(path: Path, entry: Mapping[str, Any], key: str) -> bytes:
    if f"{key}-data" in entry:
        return b64decode(entry[f"{key}-data"], validate=True)
    return (path.parent / entry[key]).read_bytes() if key in entry else b""


def _encoded(data: bytes) -> str:
    return b64encode(data).decode("ascii")
