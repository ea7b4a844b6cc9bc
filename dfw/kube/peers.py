# SPDX-License-Identifier: Apache-2.0
"""Peers of NetworkPolicy: pods by labels, namespaces by labels, or an ipBlock with exceptions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from dfw.fields import Cursor, Field, listed, mapping, parsed
from dfw.kube.metadata import only_one
from dfw.kube.selector import selector
from dfw.model import (
    ANY_PEERS,
    EVERYTHING,
    Addresses,
    AddressRange,
    Peers,
    Term,
    WorkloadMember,
    prefix_parse,
    ranges_subtract,
)

OWN_NAMESPACE = ""
"""Stands for the policy's own namespace until that is known; no namespace is called so."""
cidr = parsed(prefix_parse)


def _placed_cidr(cursor: Cursor) -> tuple[AddressRange, Cursor] | None:
    found = cidr(cursor)
    return None if found is None else (found, cursor)


IP_BLOCK: Mapping[str, Field] = {
    "cidr": Field(cidr, required=True),
    "except": Field(listed(_placed_cidr), default=()),
}
PEER_FIELDS = ("podSelector", "namespaceSelector", "ipBlock")


def ip_block(cursor: Cursor) -> Addresses | None:
    """A block without its exceptions, each of which lies inside it (the API's rule)."""
    fields = mapping(cursor, IP_BLOCK)
    if fields is None or fields["cidr"] is None:
        return None
    block: AddressRange = fields["cidr"]
    for hole, at in fields["except"]:
        if hole.family is not block.family or not (block.first <= hole.first and hole.last <= block.last):
            at.problem(f"{hole} does not lie in {block}")
        elif hole == block:
            at.problem(f"{hole} is all of the block; nothing would be left")
    return Addresses(ranges_subtract([block], [hole for hole, _ in fields["except"]]))


PEER: Mapping[str, Field] = {
    "podSelector": Field(selector),
    "namespaceSelector": Field(selector),
    "ipBlock": Field(ip_block),
}


def peer(cursor: Cursor) -> Term | None:
    """One peer. Without a namespaceSelector its pods are those of OWN_NAMESPACE: see `peers`."""
    fields: dict[str, Any] | None = mapping(cursor, PEER)
    if fields is None:
        return None
    given = [key for key in PEER_FIELDS if cursor.node.get(key) is not None]
    if "ipBlock" in given or not given:
        alone = only_one(cursor, given, PEER_FIELDS, "a peer")
        return None if alone is None else fields["ipBlock"]
    if any(fields[key] is None for key in given):
        return None
    namespaces = OWN_NAMESPACE if fields["namespaceSelector"] is None else fields["namespaceSelector"]
    return WorkloadMember(namespaces, EVERYTHING if fields["podSelector"] is None else fields["podSelector"])


def in_namespace(terms: Iterable[Term], namespace: str) -> tuple[Term, ...]:
    """The terms of a policy that lives in this namespace, each once."""
    own = (
        replace(term, namespaces=namespace)
        if isinstance(term, WorkloadMember) and term.namespaces == OWN_NAMESPACE
        else term
        for term in terms
    )
    return tuple(dict.fromkeys(own))


def peers(terms: tuple[Term, ...] | None, namespace: str) -> Peers:
    """One side of a rule: an empty or missing list is everybody."""
    return Peers(in_namespace(terms, namespace)) if terms else ANY_PEERS
