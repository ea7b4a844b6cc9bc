# SPDX-License-Identifier: Apache-2.0
"""Policies that nobody writes: the posture of an isolated Namespace, and the Supervisor's own isolation. Pure.

A posture stands just before the default section; a system rule in Infrastructure, before all that users write
(SEMANTICS, Order).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from dfw.model import (
    PROTO_TCP,
    Action,
    Addresses,
    Direction,
    Peers,
    Policy,
    PolicyKind,
    PortMember,
    PortRange,
    Rule,
    Service,
    ServiceEntry,
    Tier,
    WorkloadMember,
    default_policy,
    label_selector,
)
from dfw.model.address import range_of_address
from supervisor_glue.api.leg import LEG
from supervisor_glue.controllers.settings import Settings

SYSTEM_PATH: Final = "system/supervisor"
LEG_PATH: Final = "system/leg"


def posture_path(namespace: str) -> str:
    return f"posture/{namespace}"


def posture_policy(namespace: str, settings: Settings) -> Policy:
    """Of an isolated Namespace: its pods talk among themselves, to the API, and as neighbours and DHCP need it.

    `posture/NS/ingress` and `posture/NS/egress` are the rules that refuse the rest.
    """
    path = posture_path(namespace)
    within = Peers((WorkloadMember(namespace),))
    allowed = [
        *(rule_moved(rule, path) for rule in default_policy().rules if rule.direction is Direction.IN_OUT),
        _rule(f"{path}/ingress/0", Action.ALLOW, Direction.IN, sources=within),
        _rule(f"{path}/egress/0", Action.ALLOW, Direction.OUT, destinations=within),
    ]
    if settings.api:
        api = _rule(f"{path}/egress/1", Action.ALLOW, Direction.OUT, _api(settings), (_api_service(settings),))
        allowed.append(api)
    refused = (
        _rule(f"{path}/ingress", Action.DROP, Direction.IN),
        _rule(f"{path}/egress", Action.DROP, Direction.OUT),
    )
    return Policy(
        path, Tier.DEFAULT, 0, PolicyKind.POSTURE, namespace, namespace, rules=(*allowed, *refused), applied_to=within
    )


def system_policies(settings: Settings) -> Iterable[Policy]:
    """Pods reach the control plane's networks at the API's addresses only; whether they reach these, others decide. Who
    has come there finds the API's port and no other, and nothing begins from there."""
    if settings.api:
        yield _leg_policy(settings)
    if not settings.protected:
        return
    everyone = Peers((WorkloadMember(label_selector(())),))
    rules = []
    if settings.api:
        rules.append(_rule("system/api", Action.PASS, Direction.OUT, _api(settings), (_api_service(settings),)))
    control_plane = Peers((Addresses(settings.protected),))
    rules.append(_rule("system/control-plane", Action.DROP, Direction.OUT, control_plane))
    yield Policy(SYSTEM_PATH, Tier.INFRASTRUCTURE, 0, PolicyKind.SYSTEM, rules=tuple(rules), applied_to=everyone)


def _leg_policy(settings: Settings) -> Policy:
    """Of the control plane's own vNIC, whoever is on the other side."""
    rules = [
        replace(rule_moved(rule, LEG_PATH), path=f"{LEG_PATH}-{rule.id}")
        for rule in default_policy().rules
        if rule.direction is Direction.IN_OUT
    ]
    rules += [
        _rule(f"{LEG_PATH}-api", Action.ALLOW, Direction.IN, services=(_api_service(settings),)),
        _rule(f"{LEG_PATH}-ingress", Action.DROP, Direction.IN),
        _rule(f"{LEG_PATH}-egress", Action.DROP, Direction.OUT),
    ]
    applied_to = Peers((PortMember(LEG),))
    return Policy(LEG_PATH, Tier.INFRASTRUCTURE, 0, PolicyKind.SYSTEM, rules=tuple(rules), applied_to=applied_to)


def rule_moved(rule: Rule, path: str) -> Rule:
    """A rule of the default section as one of this policy."""
    return Rule(
        f"{path}/{rule.id}", rule.id, 0, rule.action, services=rule.services, direction=rule.direction, stateful=False
    )


def _rule(
    path: str,
    action: Action,
    direction: Direction,
    destinations: Peers | None = None,
    services: tuple[Service, ...] = (),
    sources: Peers | None = None,
) -> Rule:
    anyone = Peers(None)
    return Rule(
        path,
        path.rpartition("/")[2],
        0,
        action,
        sources=sources or anyone,
        destinations=destinations or anyone,
        services=services,
        direction=direction,
    )


def _api(settings: Settings) -> Peers:
    return Peers((Addresses(tuple(map(range_of_address, settings.api))),))


def _api_service(settings: Settings) -> Service:
    port = (PortRange(settings.api_port, settings.api_port),)
    return Service("", (ServiceEntry(protocol=PROTO_TCP, destination_ports=port),))
