# SPDX-License-Identifier: Apache-2.0
"""What is asked for by path and is no object: discovery, versions, OpenAPI."""

from __future__ import annotations

import platform
import re
from typing import Final

import dfw
from supervisor_glue.api.discovery import (
    aggregated_document,
    group_document,
    groups_document,
    resources_document,
    versions_document,
)
from supervisor_glue.api.kinds import groups
from supervisor_glue.api.media import Form, form_of, written
from supervisor_glue.api.status import Object

Bytes = tuple[bytes, str, str]
"""A body, its media type, and its hash (empty: none)."""

KUBERNETES: Final = (1, 37)
"""The version of Kubernetes whose API this is."""


def document_of(path: str, accept: str, address: str) -> Object | Bytes | None:
    """None: nothing lies there."""
    if path.startswith("/openapi/"):
        from supervisor_glue.api.openapi import openapi_document  # read when somebody asks

        return openapi_document(path, accept)
    parts = [part for part in path.split("/") if part]
    match parts:
        case ["version"]:
            return version_document()
        case ["api"] | ["apis"]:
            return _listed(parts == ["api"], accept, address)
        case ["api", version]:
            return resources_document("", version)
        case ["apis", group]:
            return group_document(group)
        case ["apis", group, version]:
            return resources_document(group, version)
        case []:
            return {"paths": paths()}
    return None


def _listed(core: bool, accept: str, address: str) -> Object | Bytes:
    # A client that would rather have the older form is given that, and so is one that asks for what we have not.
    form = form_of(accept) if "APIGroupDiscoveryList" in accept else Form()
    if form.shape == "APIGroupDiscoveryList":
        media = f"application/json;g=apidiscovery.k8s.io;v={form.version};as=APIGroupDiscoveryList"
        return written(aggregated_document(core, form.version), Form()), media, ""
    return versions_document(address) if core else groups_document()


def version_document() -> Object:
    """The answer to /version: which Kubernetes' API, and whose."""
    major, minor = KUBERNETES
    return {
        "major": str(major),
        "minor": str(minor),
        "gitVersion": f"v{major}.{minor}.0+palisade.{re.sub('[^0-9A-Za-z.-]', '-', dfw.__version__)}",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": platform.python_implementation().lower(),
        "platform": f"linux/{ {'x86_64': 'amd64', 'aarch64': 'arm64'}.get(platform.machine(), platform.machine()) }",
    }


def paths() -> list[str]:
    """All that a client may begin at."""
    named = [f"/apis/{group}" for group in groups()]
    versions = [f"/apis/{group}/{version}" for group, many in groups().items() for version in many]
    own = ["/api", "/api/v1", "/apis", "/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
    return sorted({*own, *named, *versions})
