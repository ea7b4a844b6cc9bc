# SPDX-License-Identifier: Apache-2.0
"""ClusterNetworkPolicy (policy.networking.k8s.io/v1alpha2) -> model policies of the tiers Admin and Baseline.

The bounds are those of the resource's own definition (network-policy-api, config/crd).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dfw.fields import Cursor, Field, Read, choice, integer, listed, mapping, text
from dfw.kube.metadata import Meta, only_one, whole_read
from dfw.kube.peers import cidr
from dfw.kube.ports import PROTOCOLS, port_name, port_number
from dfw.kube.selector import selector
from dfw.model import (
    ANY_PEERS,
    EVERYTHING,
    PROTOCOLS_WITH_PORTS,
    Action,
    Addresses,
    Direction,
    Peers,
    Policy,
    PolicyKind,
    PortRange,
    Rule,
    Service,
    ServiceEntry,
    Term,
    Tier,
    WorkloadMember,
)

MAXIMUM_ITEMS = 25
MAXIMUM_PRIORITY = 1000
_TIERS = {"Admin": Tier.ADMIN, "Baseline": Tier.BASELINE}
_ACTIONS = {"Accept": Action.ALLOW, "Deny": Action.DROP, "Pass": Action.PASS}
_SECTIONS = (("ingress", "from", Direction.IN), ("egress", "to", Direction.OUT))

RANGE: Mapping[str, Field] = {
    "start": Field(port_number, required=True),
    "end": Field(port_number, required=True),
}


def _range(cursor: Cursor) -> PortRange | None:
    fields = mapping(cursor, RANGE)
    if fields is None or fields["start"] is None or fields["end"] is None:
        return None
    if fields["start"] >= fields["end"]:
        cursor.problem(f"start {fields['start']} must be less than end {fields['end']}")
        return None
    return PortRange(fields["start"], fields["end"])


def _union(table: Mapping[str, Field], what: str) -> Read:
    """Reads a mapping of which exactly one field is given: (its name, its value)."""

    def read(cursor: Cursor) -> tuple[str, Any] | None:
        before = len(cursor.problems)
        fields = mapping(cursor, table)
        if fields is None or len(cursor.problems) > before:
            return None
        given = [key for key in table if cursor.node.get(key) is not None]
        chosen = only_one(cursor, given, table, what)
        return None if chosen is None else (chosen, fields[chosen])

    return read


DESTINATION_PORT: Mapping[str, Field] = {"number": Field(port_number), "range": Field(_range)}
TRANSPORT: Mapping[str, Field] = {
    "destinationPort": Field(_union(DESTINATION_PORT, "destinationPort"), required=True),
}
PROTOCOL: Mapping[str, Field] = {
    "tcp": Field(lambda item: mapping(item, TRANSPORT)),
    "udp": Field(lambda item: mapping(item, TRANSPORT)),
    "sctp": Field(lambda item: mapping(item, TRANSPORT)),
    "destinationNamedPort": Field(port_name),
}
PODS: Mapping[str, Field] = {
    "namespaceSelector": Field(selector, default=EVERYTHING),
    "podSelector": Field(selector, required=True),
}


def _pods(cursor: Cursor) -> WorkloadMember | None:
    before = len(cursor.problems)
    fields = mapping(cursor, PODS)
    if fields is None or len(cursor.problems) > before:
        return None
    return WorkloadMember(fields["namespaceSelector"], fields["podSelector"])


def _namespaces(cursor: Cursor) -> WorkloadMember | None:
    found = selector(cursor)
    return None if found is None else WorkloadMember(found)


def _networks(cursor: Cursor) -> Addresses | None:
    found = listed(cidr, maximum=MAXIMUM_ITEMS, empty=False)(cursor)
    return None if found is None else Addresses(found)


SUBJECT: Mapping[str, Field] = {"namespaces": Field(_namespaces), "pods": Field(_pods)}
INGRESS_PEER = SUBJECT


def _refused(why: str) -> Read:
    """A peer that we cannot resolve: refused even where it is empty, for an empty selector means all."""

    def read(cursor: Cursor) -> None:
        cursor.problem(f"not supported; {why}")

    return read


EGRESS_PEER: Mapping[str, Field] = {
    **SUBJECT,
    "networks": Field(_networks),
    "nodes": Field(_refused("nodes are not known here; name their addresses in networks")),
    "domainNames": Field(_refused("names are not resolved here; name the addresses in networks")),
}
_HAVE_NO_PORTS = ("networks", "nodes", "domainNames")


def _rule_table(side: str, peer: Mapping[str, Field]) -> Mapping[str, Field]:
    return {
        "name": Field(text(100, empty=True), default=""),
        "action": Field(choice(_ACTIONS), required=True),
        side: Field(listed(_union(peer, "a peer"), maximum=MAXIMUM_ITEMS, empty=False), required=True),
        "protocols": Field(listed(_union(PROTOCOL, "a protocol"), maximum=MAXIMUM_ITEMS, empty=False)),
    }


INGRESS_RULE = _rule_table("from", INGRESS_PEER)
EGRESS_RULE = _rule_table("to", EGRESS_PEER)


def _rule(cursor: Cursor, table: Mapping[str, Field]) -> tuple[dict[str, Any], Cursor] | None:
    before = len(cursor.problems)
    values = mapping(cursor, table)
    if values is None or len(cursor.problems) > before:
        return None
    named = any(kind == "destinationNamedPort" for kind, _ in values["protocols"] or ())
    if named and any(kind in _HAVE_NO_PORTS for kind, _ in values.get("to") or ()):
        cursor.problem("networks have no named ports: destinationNamedPort goes with namespaces and pods only")
        return None
    return values, cursor


SPEC: Mapping[str, Field] = {
    "tier": Field(choice(_TIERS), required=True),
    "priority": Field(integer(0, MAXIMUM_PRIORITY, "a priority"), required=True),
    "subject": Field(_union(SUBJECT, "the subject"), required=True),
    "ingress": Field(listed(lambda item: _rule(item, INGRESS_RULE), maximum=MAXIMUM_ITEMS), default=()),
    "egress": Field(listed(lambda item: _rule(item, EGRESS_RULE), maximum=MAXIMUM_ITEMS), default=()),
}


def cluster_network_policy_read(cursor: Cursor) -> tuple[Policy, ...]:
    """The policy; none after reporting what is wrong."""
    whole = whole_read(cursor, SPEC, namespaced=False)
    if whole is None:
        return ()
    meta, spec = whole
    path = f"cnp/{meta.name}"
    rules = [
        _model_rule(f"{path}/{section}", index, values, at, side, direction)
        for section, side, direction in _SECTIONS
        for index, (values, at) in enumerate(spec[section])
    ]
    return (_policy(path, meta, spec, rules, cursor),)


def _policy(path: str, meta: Meta, spec: Mapping[str, Any], rules: Iterable[Rule], cursor: Cursor) -> Policy:
    return Policy(
        path=path,
        tier=spec["tier"],
        number=spec["priority"],
        kind=PolicyKind.CLUSTER_NETWORK_POLICY,
        name=meta.name,
        rules=tuple(rules),
        applied_to=Peers((spec["subject"][1],)),
        place=cursor.place,
    )


def _model_rule(
    path: str, index: int, values: Mapping[str, Any], cursor: Cursor, side: str, direction: Direction
) -> Rule:
    terms: tuple[Term, ...] = tuple(dict.fromkeys(term for _, term in values[side]))
    entries = tuple(entry for item in values["protocols"] or () for entry in _entries(*item))
    return Rule(
        path=f"{path}/{index}",
        id=f"{path.rpartition('/')[2]}/{index}",
        number=0,
        action=values["action"],
        sources=Peers(terms) if direction is Direction.IN else ANY_PEERS,
        destinations=Peers(terms) if direction is Direction.OUT else ANY_PEERS,
        services=(Service("", entries, cursor.place),) if entries else (),
        direction=direction,
        place=cursor.place,
    )


def _entries(kind: str, value: Any) -> Iterable[ServiceEntry]:
    """A named port is one of whichever protocol the receiver's container says."""
    if kind == "destinationNamedPort":
        return [ServiceEntry(protocol=number, destination_port_name=value) for number in sorted(PROTOCOLS_WITH_PORTS)]
    _, found = value["destinationPort"]
    wanted = found if isinstance(found, PortRange) else PortRange(found, found)
    return [ServiceEntry(protocol=PROTOCOLS[kind.upper()], destination_ports=(wanted,))]
