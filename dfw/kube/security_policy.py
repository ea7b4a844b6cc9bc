# SPDX-License-Identifier: Apache-2.0
"""nsx-operator's SecurityPolicy (crd.nsx.vmware.com/v1alpha1, and nsx.vmware.com's older one) -> model policies.

nsx-operator documentation, "docs/ref/apis": the priority is NSX's sequence number, the rules stand in list order, and
an Applied-To of the policy takes precedence over the rules' own. Without either a policy concerns the workloads of its
namespace, never more. Pods and machines are selected by Kubernetes' label semantics.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfw.fields import Cursor, Field, choice, integer, listed, mapping, text
from dfw.findings import Finding
from dfw.kube.metadata import Meta, only_one, whole_read
from dfw.kube.peers import OWN_NAMESPACE, cidr, in_namespace, peers
from dfw.kube.ports import port_table, ports
from dfw.kube.selector import selector
from dfw.model import (
    ANY_PEERS,
    EVERYTHING,
    Action,
    Addresses,
    Direction,
    Peers,
    Policy,
    PolicyKind,
    Rule,
    Service,
    Term,
    Tier,
    WorkloadMember,
)

MAXIMUM_PRIORITY = 1000


def _spellings(meanings: Mapping[str, Any]) -> dict[str, Any]:
    """The API's words are `Allow`, `In`; nsx-operator and its samples also write them small, or all in capitals."""
    return {form: value for word, value in meanings.items() for form in (word, word.lower(), word.upper())}


_ACTIONS = _spellings({"Allow": Action.ALLOW, "Drop": Action.DROP, "Reject": Action.REJECT})
_DIRECTIONS = _spellings({"In": Direction.IN, "Ingress": Direction.IN, "Out": Direction.OUT, "Egress": Direction.OUT})
PORT = port_table("TCP", "UDP", "SCTP")
TARGET: Mapping[str, Field] = {"podSelector": Field(selector), "vmSelector": Field(selector)}
IP_BLOCK: Mapping[str, Field] = {"cidr": Field(cidr, required=True)}
PEER: Mapping[str, Field] = {
    "podSelector": Field(selector),
    "vmSelector": Field(selector),
    "namespaceSelector": Field(selector),
    "ipBlocks": Field(listed(lambda item: mapping(item, IP_BLOCK), empty=False)),
}


def _target(cursor: Cursor) -> tuple[Term, ...] | None:
    """Pods or machines of the policy's namespace; nsx-operator takes both in a list, but not in one of its items."""
    before = len(cursor.problems)
    fields = mapping(cursor, TARGET)
    if fields is None or len(cursor.problems) > before:
        return None
    given = [key for key, value in fields.items() if value is not None]
    if only_one(cursor, given, TARGET, "a target") is None:
        return None
    return _selected(OWN_NAMESPACE, fields)


def _selected(namespaces: Any, fields: Mapping[str, Any]) -> tuple[Term, ...]:
    found: list[Term] = []
    if fields["podSelector"] is not None:
        found.append(WorkloadMember(namespaces, fields["podSelector"]))
    if fields["vmSelector"] is not None:
        found.append(WorkloadMember(namespaces, fields["vmSelector"], machines_only=True))
    return tuple(found)


def _peer(cursor: Cursor) -> tuple[Term, ...] | None:
    """The terms of one peer: pods or machines, in some namespaces or the policy's own; addresses."""
    before = len(cursor.problems)
    fields = mapping(cursor, PEER)
    if fields is None or len(cursor.problems) > before:
        return None
    if all(value is None for value in fields.values()):
        cursor.problem("a peer is a podSelector, vmSelector, namespaceSelector or ipBlocks; none is given")
        return None
    if fields["podSelector"] is not None and fields["vmSelector"] is not None:
        cursor.problem("podSelector and vmSelector exclude each other in one peer; give two peers")
        return None
    namespaces = OWN_NAMESPACE if fields["namespaceSelector"] is None else fields["namespaceSelector"]
    found = _selected(namespaces, fields)
    if not found and fields["namespaceSelector"] is not None:
        found = (WorkloadMember(namespaces),)
    if fields["ipBlocks"]:
        found += (Addresses(tuple(item["cidr"] for item in fields["ipBlocks"])),)
    return found


_PEERS = Field(listed(_peer))
_TARGETS = Field(listed(_target))
RULE: Mapping[str, Field] = {
    "name": Field(text(255, empty=True), default=""),
    "action": Field(choice(_ACTIONS), required=True),
    "direction": Field(choice(_DIRECTIONS), required=True),
    "appliedTo": _TARGETS,
    "sources": _PEERS,
    "destinations": _PEERS,
    "from": _PEERS,
    "to": _PEERS,
    "ports": Field(listed(ports(PORT))),
}
_SIDES = {Direction.IN: ("sources", "from"), Direction.OUT: ("destinations", "to")}


def _rule(cursor: Cursor) -> tuple[dict[str, Any], Cursor] | None:
    before = len(cursor.problems)
    values = mapping(cursor, RULE)
    if values is None or values["direction"] is None:
        return None
    for direction, names in _SIDES.items():
        if direction is not values["direction"]:
            for key in names:
                if values[key]:
                    cursor.member(key).problem(f"{key} is for rules of the other direction")
    return None if len(cursor.problems) > before else (values, cursor)


SPEC: Mapping[str, Field] = {
    "priority": Field(integer(0, MAXIMUM_PRIORITY, "a priority"), default=0),
    "appliedTo": _TARGETS,
    "rules": Field(listed(_rule), default=()),
}


def security_policy_read(cursor: Cursor, findings: list[Finding]) -> tuple[Policy, ...]:
    """The policy; none after reporting what is wrong. Warnings go to the list."""
    whole = whole_read(cursor, SPEC, namespaced=True)
    if whole is None:
        return ()
    meta, spec = whole
    path = f"sp/{meta.namespace}/{meta.name}"
    for values, rule in spec["rules"]:
        older, newer = _SIDES[values["direction"]]
        if values[older] and values[newer]:
            message = f"{older} has no effect: it is the older name of {newer}, which is given too"
            findings.append(Finding("no-effect", rule.member(older).place, message))
    rules = tuple(_model_rule(path, index, meta, *item) for index, item in enumerate(spec["rules"]))
    policy = Policy(
        path=path,
        tier=Tier.APPLICATION,
        number=spec["priority"],
        kind=PolicyKind.SECURITY_POLICY_CR,
        namespace=meta.namespace,
        name=meta.name,
        rules=rules,
        applied_to=_targets(spec["appliedTo"], meta),
        place=cursor.place,
    )
    return (policy,)


def _targets(targets: tuple[tuple[Term, ...], ...] | None, meta: Meta) -> Peers:
    """ANY where there are none: each rule's own Applied-To holds then, which is never ANY."""
    return peers(tuple(term for target in targets or () for term in target), meta.namespace)


def _model_rule(path: str, index: int, meta: Meta, values: dict[str, Any], cursor: Cursor) -> Rule:
    older, newer = _SIDES[values["direction"]]
    side = tuple(term for item in values[newer] or values[older] or () for term in item)
    chosen = _targets(values["appliedTo"], meta)
    if chosen.is_any:
        chosen = Peers(in_namespace((WorkloadMember(OWN_NAMESPACE, EVERYTHING),), meta.namespace))
    is_in = values["direction"] is Direction.IN
    return Rule(
        path=f"{path}/{index}",
        id=values["name"] or str(index),
        number=0,
        action=values["action"],
        sources=peers(side, meta.namespace) if is_in else ANY_PEERS,
        destinations=ANY_PEERS if is_in else peers(side, meta.namespace),
        services=(Service("", values["ports"], cursor.place),) if values["ports"] else (),
        direction=values["direction"],
        applied_to=chosen,
        place=cursor.place,
    )
