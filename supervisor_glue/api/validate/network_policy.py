# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicy (k8s.io/kubernetes/pkg/apis/networking/validation)."""

from __future__ import annotations

from typing import Any, Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import Cause, Object
from supervisor_glue.api.validate.words import (
    forbidden,
    invalid,
    network_of,
    objects,
    port_name_wrong,
    port_wrong,
    required,
    selector_check,
    unsupported,
)

PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_TYPES: Final = ("Egress", "Ingress")


def network_policy_check(kind: Kind, item: Object) -> list[Cause]:
    spec = item.get("spec") or {}
    found = selector_check(spec.get("podSelector"), "spec.podSelector")
    for direction, side in (("ingress", "from"), ("egress", "to")):
        for place, rule in enumerate(objects(spec.get(direction))):
            at = f"spec.{direction}[{place}]"
            for number, port in enumerate(objects(rule.get("ports"))):
                found += _port_check(port, f"{at}.ports[{number}]")
            for number, peer in enumerate(objects(rule.get(side))):
                found += _peer_check(peer, f"{at}.{side}[{number}]")
    types = spec.get("policyTypes") or []
    if len(types) > 2:
        return [*found, invalid("spec.policyTypes", types, "may not specify more than two policyTypes")]
    for place, name in enumerate(types):
        if name not in _TYPES:
            found.append(unsupported(f"spec.policyTypes[{place}]", name, _TYPES))
    return found


def _port_check(port: dict[str, Any], at: str) -> list[Cause]:
    found = []
    protocol, number, end = port.get("protocol"), port.get("port"), port.get("endPort")
    if protocol is not None and protocol not in PROTOCOLS:
        found.append(unsupported(f"{at}.protocol", protocol, PROTOCOLS))
    if isinstance(number, int):
        found += [invalid(f"{at}.port", number, why) for why in port_wrong(number)]
        if end is not None:
            if end < number:
                found.append(invalid(f"{at}.endPort", end, "must be greater than or equal to `port`"))
            found += [invalid(f"{at}.endPort", end, why) for why in port_wrong(end)]
    elif number is not None:
        if end is not None:
            found.append(forbidden(f"{at}.endPort", "may not be specified when `port` is non-numeric"))
        found += [invalid(f"{at}.port", number, why) for why in port_name_wrong(number)]
    elif end is not None:
        found.append(forbidden(f"{at}.endPort", "may not be specified when `port` is not specified"))
    return found


def _peer_check(peer: dict[str, Any], at: str) -> list[Cause]:
    found = []
    given = 0
    for field in ("podSelector", "namespaceSelector"):
        if peer.get(field) is not None:
            given += 1
            found += selector_check(peer[field], f"{at}.{field}")
    block = peer.get("ipBlock")
    if block is not None:
        if given:
            found.append(forbidden(at, "may not specify both ipBlock and another peer"))
        given += 1
        found += _block_check(block, f"{at}.ipBlock")
    if not given:
        found.append(required(at, "must specify a peer"))
    return found


def _block_check(block: dict[str, Any], at: str) -> list[Cause]:
    text = block.get("cidr") or ""
    if not text:
        return [required(f"{at}.cidr")]
    told = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
    whole = network_of(text)
    if whole is None:
        return [invalid(f"{at}.cidr", text, told)]
    found = []
    for place, part in enumerate(block.get("except") or ()):
        network = network_of(part)
        if network is None:
            found.append(invalid(f"{at}.except[{place}]", part, told))
        elif (
            network.version != whole.version
            or network.prefixlen <= whole.prefixlen
            or not whole.network_address <= network.network_address <= whole.broadcast_address  # type: ignore[operator]
        ):
            found.append(invalid(f"{at}.except[{place}]", part, "must be a strict subset of `cidr`"))
    return found
