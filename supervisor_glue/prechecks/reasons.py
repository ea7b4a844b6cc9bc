# SPDX-License-Identifier: Apache-2.0
"""Every reason why a Supervisor cannot be enabled: its id, and its sentence with `{0}`, `{1}` for the arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

PREFIX: Final = "vcenter.wcp."

MESSAGES: Final[Mapping[str, str]] = {
    "cluster.hosts.missing": "Supervisor {0} names no hosts.",
    "cluster.hosts.too_few": "Supervisor {0} has {1} hosts; {2} control plane nodes need a host each.",
    "host.not_prepared": "Host {0} is not prepared: {1}.",
    "host.version.incompatible": "Host {0} runs version {1}, the Supervisor {2}: at most one minor version apart.",
    "host.tep.missing": "Host {0} has no TEP.",
    "host.tep.not_in_pool": "The TEP {1} of host {0} is not in the IP pool {2} ({3}).",
    "host.tep.unreachable": "Host {0} does not reach the TEP {2} of host {1} with packets of {3} bytes: {4}.",
    "edge_cluster.missing": "There is no Edge cluster.",
    "edge_cluster.name.missing": "The Edge cluster has no name.",
    "edge_cluster.empty": "Edge cluster {0} has no Edges.",
    "edge.name.missing": "Edge {0} of the Edge cluster has no name.",
    "edge.duplicate": "Edge cluster {0} has {1} twice.",
    "edge.fqdn.missing": "Edge {0} has no FQDN.",
    "edge.fqdn.invalid": "The FQDN {1} of Edge {0} is not a fully qualified domain name.",
    "edge.address.missing": "Edge {0} has no address.",
    "edge.not_apart": "Edge {0} is on compute host {1} and is not marked shared.",
    "tier0.missing": "There is no Tier-0 gateway.",
    "network.missing": "The network {0} is missing.",
    "network.vlan.missing": "The network {0} has no VLAN.",
    "network.vlan.duplicate": "The networks {0} and {1} have the same VLAN {2}.",
    "network.pool.missing": "The network {0} names no IP pool.",
    "network.pool.unknown": "The network {0} names the IP pool {1}, which does not exist.",
    "network.pool.shared": "The networks {0} and {1} use the same IP pool {2}.",
    "network.cidr.missing": "The network {0} has no CIDR.",
    "ip_pool.too_few": "There are {0} IP pools; two are required, for the TEPs of hosts and of Edges.",
    "ip_pool.name.missing": "IP pool {0} has no name.",
    "ip_pool.duplicate": "There are two IP pools {0}.",
    "ip_pool.cidr.missing": "IP pool {0} has no CIDR.",
    "ip_pool.gateway.missing": "IP pool {0} has no gateway.",
    "ip_pool.gateway.outside": "The gateway {1} of IP pool {0} is not in {2}.",
    "switch.missing": "There is no distributed switch.",
    "switch.name.missing": "The distributed switch has no name.",
    "switch.version.missing": "Distributed switch {0} has no version.",
    "switch.version.incompatible": "Distributed switch {0} has version {1}; {2} or later is required.",
    "switch.mtu.missing": "Distributed switch {0} has no MTU.",
    "switch.mtu.too_small": "Distributed switch {0} has an MTU of {1}; {2} or more is required.",
    "management.missing": "There is no management network.",
    "management.port_group.missing": "The management network names no port group.",
    "management.cidr.missing": "The management network has no CIDR.",
    "management.gateway.missing": "The management network has no gateway.",
    "management.gateway.outside": "The gateway {0} is not in the management network {1}.",
    "management.addresses.missing": "The management network has no starting address.",
    "management.addresses.too_few": "The management network has {0} consecutive addresses; {1} are required.",
    "management.addresses.outside": "The management addresses {0} to {1} are not all usable in {2}.",
    "management.addresses.gateway": "The management addresses {0} to {1} include the gateway {2}.",
    "ntp.missing": "There is no NTP server.",
    "ntp.not_an_address": "NTP server {0} is a name; an address is required.",
    "cidr.missing": "The {0} CIDR is missing.",
    "cidr.too_small": "The {0} CIDR {1} is too small: /{2} or larger is required.",
    "cidr.namespace_prefix": "The Pod CIDR {0} has no room for a Namespace's /{1}.",
    "cidr.not_in_uplink": "The {0} CIDR {1} is not in the Edge uplink's network {2}.",
    "cidr.overlap": "{0} {1} overlaps {2} {3}.",
}

LATER: Final[Mapping[str, str]] = {
    "edge.later": "Edge cluster {0} is checked now, and used when Services and load balancing are there.",
    "cidr.ingress.later": "The Ingress CIDR is checked now, and used when Services and load balancing are there.",
    "cidr.egress.later": "The Egress CIDR is checked now, its addresses are reserved, and used when Edges translate.",
    "cidr.service.later": "The Service CIDR is checked now, and used when Services are there.",
    "control_plane.later": "{0} control plane nodes are placed now; the first one serves until several can.",
}


@dataclass(frozen=True, slots=True, order=True)
class Reason:
    """One of `MESSAGES` or `LATER`, with its arguments."""

    id: str
    args: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        """The sentence."""
        return (MESSAGES.get(self.id) or LATER[self.id]).format(*self.args)

    def as_object(self) -> dict[str, Any]:
        """As vCenter's LocalizableMessage."""
        return {"id": PREFIX + self.id, "default_message": self.message, "args": list(self.args)}


def called(name: str, number: int = 0) -> str:
    """What something is called in a reason: what has no name, by which of them it is."""
    return name or (f"number {number}" if number else "without a name")


def reason(name: str, *args: object) -> Reason:
    """A reason with its arguments as text."""
    return Reason(name, tuple(map(str, args)))
