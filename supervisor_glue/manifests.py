# SPDX-License-Identifier: Apache-2.0
"""Manifests in files as objects of the API, in the order in which they can be made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from dfw.documents import Document, Node
from dfw.errors import PolicyError, Problem
from supervisor_glue.api.kinds import BY_KIND, STORED, Kind
from supervisor_glue.api.status import Object

_LISTS: Final = {"hosts": "Host", "gateways": "Gateway", "segments": "Segment", "machines": "Machine", "ports": "Port"}
_OURS: Final = "palisade.internal/v1alpha1"
_FIRST: Final = ("Host", "Namespace", "Gateway", "Segment", "Machine", "Port")
_LAST: Final = ("Pod",)

_INSTEAD: Final = (
    ": NSX Policy's documents are for labs without one; it takes NetworkPolicy, ClusterNetworkPolicy, and"
    " SecurityPolicy of crd.nsx.vmware.com"
)


def manifest_objects(documents: Iterable[Document]) -> list[tuple[Kind, Object]]:
    """Objects to apply. Raises PolicyError with everything that the API has no kind for."""
    problems: list[Problem] = []
    found: list[tuple[Kind, Object]] = []
    for document in documents:
        for node, item in _items(document, document.root):
            kind = _kind(item)
            if kind is None:
                told = item.get("resource_type") or f"{item.get('apiVersion')} {item.get('kind')}"
                instead = _INSTEAD if "resource_type" in item else ""
                problems.append(Problem(document.place(node), f"{told} is no kind of the Supervisor's API{instead}"))
            else:
                found.append((kind, item))
    if problems:
        raise PolicyError(problems)
    return sorted(found, key=lambda pair: _rank(pair[0]))


def namespaces_missing(objects: Iterable[tuple[Kind, Object]]) -> list[str]:
    """Namespaces that objects are in and no object is, by name; `default` is always there."""
    items = list(objects)
    there = {item["metadata"]["name"] for kind, item in items if kind.kind == "Namespace"} | {"default"}
    wanted = {item["metadata"].get("namespace") or "default" for kind, item in items if kind.namespaced}
    return sorted(wanted - there)


def _rank(kind: Kind) -> int:
    return -1 if kind.kind in _FIRST else 1 if kind.kind in _LAST else 0


def _kind(item: Object) -> Kind | None:
    group, _, version = str(item.get("apiVersion", "")).rpartition("/")
    kind = BY_KIND.get((group, version, str(item.get("kind"))))
    return kind if kind in STORED and isinstance(item.get("metadata"), dict) else None


def _items(document: Document, node: Node) -> Iterator[tuple[Node, Object]]:
    """The objects of a document: itself, or those of a list or an inventory."""
    item = node.plain()
    if not isinstance(item, dict):
        return
    if item.get("kind") == "Inventory":
        for plural, kind in _LISTS.items():
            rows = node.get(plural)
            for row in rows.value if rows is not None and isinstance(rows.value, list) else ():
                spec = row.plain()
                name = spec.pop("name", "") if isinstance(spec, dict) else ""
                yield row, {"apiVersion": _OURS, "kind": kind, "metadata": {"name": name}, "spec": spec}
    elif str(item.get("kind", "")).endswith("List") and isinstance(item.get("items"), list):
        rows = node.get("items")
        assert rows is not None and isinstance(rows.value, list)
        for row in rows.value:
            yield from _items(document, row)
    elif item.get("apiVersion") == _OURS and "metadata" not in item and "name" in item:
        head = {"apiVersion": _OURS, "kind": item["kind"], "metadata": {"name": item["name"]}}
        rest = {key: value for key, value in item.items() if key not in ("apiVersion", "kind", "name")}
        yield node, {**head, "spec": rest}
    else:
        yield node, item
