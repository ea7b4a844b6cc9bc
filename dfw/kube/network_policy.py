# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy (networking.k8s.io/v1) -> model policies.

Each becomes two, under nsx-operator's names: `<name>-allow` with its rules, and `<name>-isolation`, which drops what
no policy allowed in the directions for which it selects a pod. All allow rules stand before all isolation (SEMANTICS,
Order), so traffic passes if any policy allows it, as Kubernetes has it. Labels match as Kubernetes matches them, and
none of NSX's limits holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dfw.fields import Cursor, Field, choice, listed, mapping
from dfw.findings import Finding
from dfw.kube.metadata import Meta, envelope, meta_read
from dfw.kube.peers import peer, peers
from dfw.kube.ports import port_table, ports
from dfw.kube.selector import selector
from dfw.model import (
    ANY_PEERS,
    EVERYTHING,
    Action,
    Direction,
    Peers,
    Policy,
    PolicyKind,
    Rule,
    Service,
    Tier,
    WorkloadMember,
)

ALLOW_NUMBER, ISOLATION_NUMBER = 2010, 2090
PORT = port_table("TCP", "UDP", "SCTP")
_DIRECTIONS = {"Ingress": Direction.IN, "Egress": Direction.OUT}
_SECTIONS = (("ingress", "from", Direction.IN), ("egress", "to", Direction.OUT))


RULES: Mapping[str, Mapping[str, Field]] = {
    section: {"ports": Field(listed(ports(PORT))), side: Field(listed(peer))} for section, side, _ in _SECTIONS
}


def _placed(cursor: Cursor, table: Mapping[str, Field]) -> tuple[dict[str, Any], Cursor] | None:
    before = len(cursor.problems)
    values = mapping(cursor, table)
    return None if values is None or len(cursor.problems) > before else (values, cursor)


SPEC: Mapping[str, Field] = {
    "podSelector": Field(selector),
    "policyTypes": Field(listed(choice(_DIRECTIONS), maximum=2)),
    "ingress": Field(listed(lambda item: _placed(item, RULES["ingress"]))),
    "egress": Field(listed(lambda item: _placed(item, RULES["egress"]))),
}


def network_policy_read(cursor: Cursor, findings: list[Finding]) -> tuple[Policy, ...]:
    """The two policies; none after reporting what is wrong."""
    parts = envelope(cursor)
    if parts is None:
        return ()
    meta = meta_read(cursor, parts, namespaced=True)
    before = len(cursor.problems)
    spec: dict[str, Any] = {}
    if parts["spec"] is not None:
        spec = mapping(parts["spec"], SPEC) or {}
    if meta is None or len(cursor.problems) > before:
        return ()
    if spec.get("podSelector") is None:
        message = "podSelector is missing, which selects every pod of the namespace; write podSelector: {} to mean that"
        findings.append(Finding("selects-all", cursor.place, message))
    return _policies(cursor, meta, spec, findings)


def _policies(cursor: Cursor, meta: Meta, spec: dict[str, Any], findings: list[Finding]) -> tuple[Policy, ...]:
    directions = spec.get("policyTypes") or (Direction.IN, *([Direction.OUT] if spec.get("egress") else []))
    chosen = Peers((WorkloadMember(meta.namespace, spec.get("podSelector") or EVERYTHING),))
    path = f"np/{meta.namespace}/{meta.name}"
    allow: list[Rule] = []
    for section, side, direction in _SECTIONS:
        rules = spec.get(section) or ()
        if rules and direction not in directions:
            message = f"the {section} rules of {path} have no effect: policyTypes does not name {section.capitalize()}"
            findings.append(Finding("no-effect", rules[0][1].place, message))
            continue
        allow += _allow_rules(meta, f"{path}/{section}", rules, side, direction)
    isolation = [
        Rule(
            f"{path}/isolation-{section}",
            f"isolation-{section}",
            0,
            Action.DROP,
            direction=direction,
            place=cursor.place,
        )
        for section, _, direction in _SECTIONS
        if direction in directions
    ]
    return (
        _policy(cursor, meta, "allow", ALLOW_NUMBER, chosen, allow),
        _policy(cursor, meta, "isolation", ISOLATION_NUMBER, chosen, isolation),
    )


def _allow_rules(
    meta: Meta, path: str, rules: Iterable[tuple[dict[str, Any], Cursor]], side: str, direction: Direction
) -> Iterable[Rule]:
    for index, (values, cursor) in enumerate(rules):
        entries = values["ports"]
        yield Rule(
            path=f"{path}/{index}",
            id=f"{path.rpartition('/')[2]}/{index}",
            number=0,
            action=Action.ALLOW,
            sources=peers(values[side], meta.namespace) if direction is Direction.IN else ANY_PEERS,
            destinations=peers(values[side], meta.namespace) if direction is Direction.OUT else ANY_PEERS,
            services=(Service("", entries, cursor.place),) if entries else (),
            direction=direction,
            place=cursor.place,
        )


def _policy(cursor: Cursor, meta: Meta, part: str, number: int, chosen: Peers, rules: Iterable[Rule]) -> Policy:
    return Policy(
        path=f"np/{meta.namespace}/{meta.name}-{part}",
        tier=Tier.APPLICATION,
        number=number,
        kind=PolicyKind.NETWORK_POLICY,
        namespace=meta.namespace,
        name=meta.name,
        rules=tuple(rules),
        applied_to=chosen,
        place=cursor.place,
    )
