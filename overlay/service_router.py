# SPDX-License-Identifier: Apache-2.0
"""The service router of a Tier-0 on an Edge host: the way between the overlay and what lies outside. Pure.

Every host's distributed router hands what a Tier-0 does not know to the Tier-0's service router, over a transit segment
of its own; its card is a vNIC of the Edge host, in a network namespace that has the uplink `up0` beside it, where the
kernel routes. Static routes, no NAT. Where there is an Edge host, each Tier-0 has one; of several the first in the
inventory's order carries all. docs/decisions has the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from dfw.model import (
    Address,
    AddressRange,
    Host,
    Inventory,
    Machine,
    Peers,
    PolicySet,
    Port,
    PortMember,
    Segment,
    prefix_parse,
)

EDGE_TAG: Final = ("role", "edge")
_TOP_VNI: Final = (1 << 24) - 1  # transit segments have the last VNIs that nobody else has
_MAC: Final = "02:50:56:53:{:02x}:{:02x}"


@dataclass(frozen=True, slots=True)
class ServiceRouter:
    """A Tier-0's way out. `port`: its vNIC on the segment `transit`; `behind`: the prefixes that are reached by it."""

    gateway: str
    host: str
    port: Port
    transit: Segment
    behind: tuple[AddressRange, ...]

    @property
    def namespace(self) -> str:
        """The name of the network namespace that it routes in."""
        return f"sr-{self.gateway}"

    @property
    def routes(self) -> tuple[str, ...]:
        """Its routes into the overlay: `PREFIX via ADDRESS`, by the distributed router's address on the transit."""
        above = {subnet.family: Address(subnet.family, subnet.first + 1) for subnet in self.transit.subnets}
        return tuple(f"{prefix} via {above[prefix.family]}" for prefix in self.behind)


def host_is_edge(host: Host) -> bool:
    """Whether it carries gateways' services: its tags have role|edge, in whatever case."""
    return any((tag.scope.lower(), tag.tag.lower()) == EDGE_TAG for tag in host.tags)


def service_routers(inventory: Inventory) -> tuple[ServiceRouter, ...]:
    """The service routers of an inventory: of every Tier-0, as long as there is an Edge host."""
    edge = next((host for host in inventory.hosts.values() if host_is_edge(host)), None)
    if edge is None:
        return ()
    taken = {segment.vni for segment in inventory.segments.values()}
    free = (vni for vni in range(_TOP_VNI, 0, -1) if vni not in taken)
    tops = [gateway.name for gateway in inventory.gateways.values() if gateway.tier == 0]
    return tuple(_router(inventory, name, number, edge, next(free)) for number, name in enumerate(tops))


def _router(inventory: Inventory, gateway: str, number: int, edge: Host, vni: int) -> ServiceRouter:
    # As in NSX, out of what is kept for networks between carriers' routers (RFC 6598), and a unique local prefix.
    subnets = (prefix_parse(f"100.{64 + number // 256}.{number % 256}.0/24"), prefix_parse(f"fd64:0:0:{number:x}::/64"))
    name = f"sr:{gateway}"
    transit = Segment(f"transit:{gateway}", vni, subnets, gateway)
    ips = tuple(Address(subnet.family, subnet.first + 2) for subnet in subnets)
    port = Port(name, edge.name, transit.name, name, _MAC.format(number // 256, number % 256), ips)
    members = {item.name for item in inventory.gateways.values() if gateway in (item.name, item.uplink_gateway)}
    behind = tuple(subnet for item in inventory.segments.values() if item.gateway in members for subnet in item.subnets)
    return ServiceRouter(gateway, edge.name, port, transit, behind)


def world_routed(world: PolicySet, routers: tuple[ServiceRouter, ...]) -> PolicySet:
    """The same with transit segments and service routers' vNICs, at which, as in NSX, the distributed firewall is
    not: they are on the exclusion list."""
    if not routers:
        return world
    inventory = world.inventory
    segments = {**inventory.segments, **{item.transit.name: item.transit for item in routers}}
    ports = {**inventory.ports, **{item.port.name: item.port for item in routers}}
    machines = {**inventory.machines, **{item.port.machine: Machine(item.port.machine) for item in routers}}
    known = world.excluded.terms
    excluded = world.excluded
    if known is not None:
        excluded = Peers((*known, *(PortMember(item.port.name) for item in routers)))
    return replace(
        world, inventory=replace(inventory, segments=segments, ports=ports, machines=machines), excluded=excluded
    )


def service_attachments(room: Path, inventory: Inventory) -> Mapping[str, str]:
    """By vNIC of a service router, the path of its network namespace in a lab's room."""
    return {item.port.name: str(room / item.namespace) for item in service_routers(inventory)}
