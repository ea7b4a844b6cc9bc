# SPDX-License-Identifier: Apache-2.0
"""Discovery: which groups, versions and resources there are, made from the table of kinds.

Both forms: a document a group version, and aggregated (https://kubernetes.io/docs/concepts/overview/kubernetes-api/).
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any, Final

from supervisor_glue.api.kinds import Kind, Subresource, groups, kinds_of
from supervisor_glue.api.status import Object

AGGREGATED: Final = "apidiscovery.k8s.io"


def versions_document(address: str) -> Object:
    """The answer to /api."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def groups_document() -> Object:
    """The answer to /apis."""
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(name) for name in groups()]}


def group_document(group: str) -> Object | None:
    """The answer to /apis/GROUP."""
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(group)} if group in groups() else None


def resources_document(group: str, version: str) -> Object | None:
    """The answer to /api/v1 and /apis/GROUP/VERSION."""
    kinds = list(kinds_of(group, version))
    if not kinds:
        return None
    resources = [row for kind in kinds for row in _rows(kind)]
    head: Object = {"kind": "APIResourceList", "groupVersion": kinds[0].group_version, "resources": resources}
    return head | ({"apiVersion": "v1"} if group else {})


def aggregated_document(core: bool, version: str) -> Object:
    """The answer to /api (`core`) or /apis for who accepts an APIGroupDiscoveryList. `version`: v2 or v2beta1."""
    named = {"": ["v1"]} if core else groups()
    items = [
        {
            "metadata": {"name": group} if group else {},
            "versions": [
                {
                    "version": name,
                    "resources": [_aggregated(kind) for kind in kinds_of(group, name)],
                    "freshness": "Current",
                }
                for name in versions
            ],
        }
        for group, versions in named.items()
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": f"{AGGREGATED}/{version}",
        "metadata": {},
        "items": items,
    }


def _group(name: str) -> Object:
    versions = [{"groupVersion": f"{name}/{version}", "version": version} for version in groups()[name]]
    return {"name": name, "versions": versions, "preferredVersion": versions[0]}


def _rows(kind: Kind) -> list[Object]:
    row: Object = {
        "name": kind.plural,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": list(kind.verbs),
    }
    if kind.short:
        row["shortNames"] = list(kind.short)
    if kind.categories:
        row["categories"] = list(kind.categories)
    if kind.stored:
        row["storageVersionHash"] = storage_hash(kind)
    return [row, *(_part(kind, part) for part in kind.subresources)]


def _part(kind: Kind, part: Subresource) -> Object:
    row: Object = {
        "name": f"{kind.plural}/{part.name}",
        "singularName": "",
        "namespaced": kind.namespaced,
        "kind": part.kind or kind.kind,
        "verbs": list(part.verbs),
    }
    group, _, version = part.group_version.rpartition("/")
    if group:
        row |= {"group": group, "version": version}
    return row


def _aggregated(kind: Kind) -> Object:
    row: Object = {
        "resource": kind.plural,
        "responseKind": _response(kind.group, kind.version, kind.kind),
        "scope": "Namespaced" if kind.namespaced else "Cluster",
        "singularResource": kind.singular,
        "verbs": list(kind.verbs),
    }
    if kind.short:
        row["shortNames"] = list(kind.short)
    if kind.categories:
        row["categories"] = list(kind.categories)
    if kind.subresources:
        row["subresources"] = [_aggregated_part(kind, part) for part in kind.subresources]
    return row


def _aggregated_part(kind: Kind, part: Subresource) -> Object:
    group, _, version = (part.group_version or kind.group_version).rpartition("/")
    return {
        "subresource": part.name,
        "responseKind": _response(group, version, part.kind or kind.kind),
        "verbs": list(part.verbs),
    }


def _response(group: str, version: str, kind: str) -> dict[str, Any]:
    return {"group": group, "version": version, "kind": kind}


def storage_hash(kind: Kind) -> str:
    """As Kubernetes makes it, of group, version and kind."""
    name = f"{kind.group}/{kind.version}/{kind.kind}"
    return base64.b64encode(hashlib.sha256(name.encode()).digest()[:8]).decode()
