# SPDX-License-Identifier: Apache-2.0
"""The inventory's documents: `kind: Inventory`, and Host, Segment, Gateway, Machine, Port one by one.

Only a name is required; dfw/assign.py fills in the rest.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dfw.assign import Assignment, Draft
from dfw.documents import Document, document_of
from dfw.errors import PolicyError, Problem
from dfw.fields import Cursor, Field, choice, identifier, integer, listed, mapping, parsed, reference, text
from dfw.findings import Finding
from dfw.model import (
    ENCAPSULATIONS,
    ENFORCERS,
    NATIVE,
    Address,
    Family,
    Inventory,
    Namespace,
    Tag,
    address_parse,
    mac_parse,
    prefix_parse,
)

API_VERSION = "palisade.internal/v1alpha1"
_UNUSABLE = tuple(
    prefix_parse(item) for item in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/127", "ff00::/8")
)
_UNUSABLE_BY_FAMILY = {
    family: tuple((item.first, item.last) for item in _UNUSABLE if item.family is family) for family in Family
}


def _first_octets(first: int, last: int) -> range:
    """Of an IPv4 range that is whole /8s."""
    assert not (first | ~last) & 0xFFFFFF
    return range(first >> 24, (last >> 24) + 1)


_UNUSABLE_OCTETS = frozenset(octet for item in _UNUSABLE_BY_FAMILY[Family.IPV4] for octet in _first_octets(*item))


def workload_address(value: str) -> Address:
    """An address that a workload can have: unicast, not of this host, not unspecified. Raises ValueError."""
    address = address_parse(value)
    number = address.value
    for first, last in _UNUSABLE_BY_FAMILY[address.family]:
        if first <= number <= last:
            raise ValueError(f"{value} is no unicast address that a workload can have")
    return address


def workload_ipv4(value: str) -> bytes | None:
    """An IPv4 address that a workload can have, as bytes; None for any other text (see `workload_address`)."""
    try:
        packed = socket.inet_pton(socket.AF_INET, value)
    except (OSError, ValueError):
        return None
    return None if packed[0] in _UNUSABLE_OCTETS else packed


def _tag(cursor: Cursor) -> Tag | None:
    values = mapping(cursor, {"scope": Field(text(128, empty=True)), "tag": Field(text(256, empty=True))})
    if values is None:
        return None
    return Tag(values["scope"] or "", values["tag"] or "")


def labels(cursor: Cursor) -> Mapping[str, str] | None:
    """Kubernetes labels: text to text."""
    if not isinstance(cursor.value, dict):
        cursor.problem("labels are a mapping of text to text")
        return None
    found: dict[str, str] = {}
    for key in cursor.value:
        value = text(63, empty=True)(cursor.member(key))
        if value is not None:
            found[key] = value
    return found


tags = listed(_tag, maximum=30)

_HOST = {
    "name": Field(identifier, required=True),
    "tep": Field(parsed(workload_address)),
    "tags": Field(tags, default=()),
    "bfd_interval": Field(integer(0, 60_000, "a BFD interval in milliseconds"), default=1000),
    "bfd_multiple": Field(integer(1, 255, "a BFD multiple"), default=3),
    "enforcer": Field(choice({name: name for name in ENFORCERS}), default=NATIVE),
    "encapsulation": Field(choice({name: name for name in ENCAPSULATIONS}), default=None),
}
_GATEWAY = {
    "name": Field(identifier, required=True),
    "tier": Field(integer(0, 1, "a tier"), default=1),
    "tier0": Field(reference),
    "tags": Field(tags, default=()),
}
_SEGMENT = {
    "name": Field(identifier, required=True),
    "vni": Field(integer(1, (1 << 24) - 1, "a VNI")),
    "subnets": Field(listed(parsed(prefix_parse))),
    "gateway": Field(reference),
    "tags": Field(tags, default=()),
}
_MACHINE = {
    "name": Field(identifier, required=True),
    "os_name": Field(text(256, empty=True), default=""),
    "computer_name": Field(text(256, empty=True), default=""),
    "external_id": Field(text(256, empty=True), default=""),
    "tags": Field(tags, default=()),
}
_PORT = {
    "name": Field(identifier, required=True),
    "host": Field(reference),
    "segment": Field(reference),
    "machine": Field(reference),
    "mac": Field(parsed(mac_parse)),
    "ips": Field(listed(parsed(workload_address))),
    "tags": Field(tags, default=()),
    "labels": Field(labels, default={}),
    "namespace": Field(identifier),
    "external_id": Field(text(256, empty=True), default=""),
}
KINDS: Mapping[str, tuple[str, Mapping[str, Field]]] = {
    "Host": ("hosts", _HOST),
    "Gateway": ("gateways", _GATEWAY),
    "Segment": ("segments", _SEGMENT),
    "Machine": ("machines", _MACHINE),
    "Port": ("ports", _PORT),
}
INVENTORY_KINDS = ("Inventory", *KINDS)
_ENVELOPE = ("apiVersion", "kind", "metadata", "status")


def inventory_load(
    documents: Iterable[Document],
    problems: list[Problem],
    findings: list[Finding],
    pods: Iterable[tuple[str, Draft]] = (),
    namespaces: Mapping[str, Namespace] | None = None,
) -> Inventory:
    """One inventory from all inventory documents, pods (by their vNICs' names) and namespaces.

    Problems and warnings are added to the lists.
    """
    drafts: dict[str, dict[str, Draft]] = {plural: {} for plural, _ in KINDS.values()}
    for document in documents:
        for plural, draft in _drafts(Cursor(document, document.root, "", problems)):
            name = draft.values["name"]
            if name is None:
                continue
            first = drafts[plural].setdefault(name, draft)
            if first is not draft:
                draft.cursor.problem(f"{plural[:-1]} {name!r} was already given at {first.where}")
    for name, draft in pods:
        first = drafts["ports"].setdefault(name, draft)
        if first is not draft:
            draft.cursor.problem(f"the pod {name} was already given at {first.where}")
    return replace(Assignment(drafts, findings).inventory(), namespaces=namespaces or {})


def inventory_object_read(decoded: Mapping[str, Any]) -> Mapping[str, Any]:
    """The fields of one Host, Segment, Gateway, Machine or Port as the API has it, with nothing filled in; what refers
    to others is `reference`s. Raises PolicyError."""
    document = document_of(dict(decoded), f"{decoded.get('kind')} {decoded.get('metadata', {}).get('name')}")
    problems: list[Problem] = []
    drafts = [draft for _, draft in _drafts(Cursor(document, document.root, "", problems))]
    if problems or len(drafts) != 1:
        raise PolicyError(problems or [Problem(document.place(document.root), "it says nothing")])
    return drafts[0].values


def _drafts(cursor: Cursor) -> Iterable[tuple[str, Draft]]:
    kind = cursor.node.get("kind")
    name = str(kind.value) if kind else ""
    if name == "Inventory":
        plurals = dict(KINDS.values())
        table = {plural: Field(listed(lambda item: item)) for plural in plurals}
        values = mapping(cursor, table, ignore=lambda key: key in _ENVELOPE) or {}
        for plural, items in values.items():
            for item in items or ():
                fields = mapping(item, plurals[plural])
                if fields is not None:
                    yield plural, Draft(fields, item)
    else:
        plural, kind_table = KINDS[name]
        fields = _single(cursor, kind_table)
        if fields is not None:
            yield plural, Draft(fields, cursor)


def _single(cursor: Cursor, table: Mapping[str, Field]) -> dict[str, Any] | None:
    """The fields of a document in Kubernetes' envelope: name, namespace and labels may stand in metadata."""
    envelope = {"metadata": Field(lambda item: item, required=True), "spec": Field(lambda item: item)}
    parts = mapping(cursor, envelope, ignore=lambda key: key in _ENVELOPE)
    if parts is None or parts["metadata"] is None:
        return None
    in_metadata = {key: table[key] for key in ("name", "namespace", "labels") if key in table}
    metadata = mapping(parts["metadata"], in_metadata, ignore=lambda key: True)
    if metadata is None:
        return None
    in_spec = {key: field for key, field in table.items() if key != "name"}
    if parts["spec"] is None:
        return {**{key: field.default for key, field in in_spec.items()}, **metadata}
    spec = mapping(parts["spec"], in_spec)
    if spec is None:
        return None
    written = {key for key in ("namespace", "labels") if parts["spec"].node.get(key) is not None}
    return {**spec, **{key: value for key, value in metadata.items() if key not in written}}
