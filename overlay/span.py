# SPDX-License-Identifier: Apache-2.0
"""Which host needs what: from the whole of the intent to a state for each host. Pure.

A host's span: its own vNICs; their segments, and all segments that are routed together with them (the distributed
router takes a packet to the destination's segment on the sender's host); every workload of those segments; the rules of
its own vNICs' tables and the address sets that these refer to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import astuple
from typing import NamedTuple, TypedDict

import numpy as np
from msgspec.structs import replace

from dfw.assign import PODS_SEGMENT
from dfw.compile import Compiled, RuleTable, compile_policy
from dfw.compile_ether import EtherTable
from dfw.enforcer import timer_seconds
from dfw.model import (
    GENEVE,
    NFTABLES,
    VXLAN,
    Address,
    AddressRange,
    Family,
    Gateway,
    Host,
    Inventory,
    PolicySet,
    Port,
    Segment,
)
from dfw.nftables import refuse_unsupported
from overlay.hoststate import (
    GUARDS,
    ROUTE_CONNECTED,
    ROUTE_GATEWAY,
    ROUTE_VIA,
    BfdState,
    EtherState,
    HostState,
    InterfaceState,
    NeighbourState,
    RouteState,
    RuleState,
    SegmentState,
    SetState,
    StagedState,
    TableState,
    TepState,
    VnicState,
)
from overlay.service_router import ServiceRouter, service_routers, world_routed

UNDERLAY_MTU = 1700
WORKLOAD_MTU = 1500
ON_LINK = {Family.IPV4: "0.0.0.0", Family.IPV6: "::"}  # a default route without a gateway
GENEVE_OPTIONS = 16  # room that is kept for options (docs/geneve-options.md)


def overhead(family: Family) -> int:
    """Bytes that Geneve puts around an inner IP packet, the outer IP header's included (RFC 8926)."""
    return (20 if family is Family.IPV4 else 40) + 8 + 8 + GENEVE_OPTIONS + 14


def gateway_address(subnet: AddressRange) -> Address | None:
    """A gateway's address on a subnet: the first, as dfw/assign.py leaves it free. None where there is no room."""
    return Address(subnet.family, subnet.first + 1) if subnet.last - subnet.first >= 3 else None


def resolve_span(
    world: PolicySet,
    revision: int,
    attachments: Mapping[str, str],
    *,
    underlay_mtu: int = UNDERLAY_MTU,
) -> dict[str, HostState]:
    """The state of every host. `attachments`: by port, the path of the network namespace where its card is to be.

    Raises UnsupportedError where the packet core cannot express the policy.
    """
    _refuse_unsupported(world)
    routers = service_routers(world.inventory)
    world = world_routed(world, routers)
    compiled = compile_policy(world)
    inventory = world.inventory
    fabric = Fabric(inventory, routers)
    states = {
        host.name: HostSpan(fabric, compiled, host, attachments, underlay_mtu).state(revision)
        for host in inventory.hosts.values()
    }
    counting = [host for host in inventory.hosts.values() if host.enforcer == NFTABLES]
    if world.staged and counting:
        staged = compile_policy(world.what_if)
        for host in counting:
            would = HostSpan(fabric, staged, host, attachments, underlay_mtu).state(revision)
            states[host.name] = replace(states[host.name], staged=staged_state(would))
    return states


def staged_state(would: HostState) -> StagedState:
    """What a host is to count, from the state that it would have if the staged policies were in force."""
    ether_of = tuple(vnic.ether for vnic in would.vnics) if would.ether else ()
    tables = tuple(vnic.table for vnic in would.vnics)
    return StagedState(would.rules, would.sets, would.tables, tables, would.ether, ether_of)


def _refuse_unsupported(world: PolicySet) -> None:
    """Raises UnsupportedError: a host's kernel is to judge what it can't (decision 0020)."""
    if any(host.enforcer == NFTABLES for host in world.inventory.hosts.values()):
        refuse_unsupported(world)


def encapsulation(one: Host, other: Host) -> str:
    """What two hosts speak with each other: Geneve (RFC 8926); VXLAN (RFC 7348) where one of them speaks that only."""
    return GENEVE if {_speaks(one), _speaks(other)} == {GENEVE} else VXLAN


def _speaks(host: Host) -> str:
    return host.encapsulation or (VXLAN if host.enforcer == NFTABLES else GENEVE)


def tep_state(host: Host, other: Host) -> TepState:
    """Another host's TEP as a host sees it."""
    spoken = encapsulation(host, other)
    bfd = spoken == GENEVE and NFTABLES not in (host.enforcer, other.enforcer)
    return TepState(other.name, str(other.tep), spoken, bfd)


class Fabric:
    """What is the same for all hosts: who routes for whom, and who is where."""

    def __init__(self, inventory: Inventory, routers: tuple[ServiceRouter, ...]) -> None:
        self.inventory = inventory
        self.router_of = {item.gateway: item for item in routers}
        self.router_at = {item.port.name: item for item in routers}
        self.ports_of: dict[str, list[Port]] = {name: [] for name in inventory.segments}
        self.segments_of: dict[str, list[Segment]] = {name: [] for name in inventory.gateways}
        self.ports_on: dict[str, list[Port]] = {name: [] for name in inventory.hosts}
        for port in inventory:
            self.ports_of[port.segment].append(port)
            self.ports_on[port.host].append(port)
        for segment in inventory.segments.values():
            if segment.gateway is not None:
                self.segments_of[segment.gateway].append(segment)

    def top(self, gateway: str) -> str:
        """The Tier-0 above, or the gateway itself: it names the routing domain."""
        own = self.inventory.gateways[gateway]
        return own.uplink_gateway or own.name

    def domain(self, gateway: str) -> list[Gateway]:
        """All gateways that a packet may pass from this one: its Tier-0 and that one's other Tier-1s."""
        top = self.top(gateway)
        return [item for item in self.inventory.gateways.values() if item.name == top or item.uplink_gateway == top]

    def segments_near(self, ports: Iterable[Port]) -> list[Segment]:
        """The segments of these ports, and those that are routed together with them, in the inventory's order."""
        wanted: set[str] = set()
        for name in {port.segment for port in ports}:
            wanted.add(name)
            gateway = self.inventory.segments[name].gateway
            if gateway is not None:
                wanted.update(item.name for near in self.domain(gateway) for item in self.segments_of[near.name])
        return [segment for name, segment in self.inventory.segments.items() if name in wanted]


class Forwarding(NamedTuple):
    """The fields of a HostState by which it forwards."""

    segments: tuple[SegmentState, ...]
    gateways: tuple[str, ...]
    neighbours: tuple[NeighbourState, ...]
    interfaces: tuple[InterfaceState, ...]
    routes: tuple[RouteState, ...]
    teps: tuple[TepState, ...]


class ForwardingSpan:
    """What one host forwards by."""

    def __init__(self, fabric: Fabric, host: Host) -> None:
        self.fabric, self.host = fabric, host
        self.own = fabric.ports_on[host.name]
        self.segments = fabric.segments_near(self.own)
        self.number_of = {segment.name: number for number, segment in enumerate(self.segments)}
        self.gateways = list(dict.fromkeys(near.name for name in self._routers() for near in fabric.domain(name)))
        self.gateway_number = {name: number for number, name in enumerate(self.gateways)}
        self.teps = {
            name: number
            for number, name in enumerate(
                dict.fromkeys(
                    port.host
                    for segment in self.segments
                    for port in fabric.ports_of[segment.name]
                    if port.host != host.name
                )
            )
        }

    def forwarding(self) -> Forwarding:
        """All of it."""
        hosts = self.fabric.inventory.hosts
        return Forwarding(
            segments=tuple(self._segment(segment) for segment in self.segments),
            gateways=tuple(self.gateways),
            neighbours=tuple(self._neighbours()),
            interfaces=tuple(self._interfaces()),
            routes=tuple(self._routes()),
            teps=tuple(tep_state(self.host, hosts[name]) for name in self.teps),
        )

    def _routers(self) -> Iterable[str]:
        """One gateway of each routing domain."""
        of_top: dict[str, str] = {}
        for segment in self.segments:
            if segment.gateway is not None:
                of_top.setdefault(self.fabric.top(segment.gateway), segment.gateway)
        return of_top.values()

    def _segment(self, segment: Segment) -> SegmentState:
        replicas = dict.fromkeys(port.host for port in self.fabric.ports_of[segment.name] if port.host in self.teps)
        return SegmentState(
            segment.name,
            segment.vni,
            None if segment.gateway is None else self.gateway_number[segment.gateway],
            tuple(self.teps[name] for name in replicas),
        )

    def _neighbours(self) -> Iterable[NeighbourState]:
        for segment in self.segments:
            number = self.number_of[segment.name]
            for port in self.fabric.ports_of[segment.name]:
                here = port.host == self.host.name
                vnic, tep = (port.name, None) if here else (None, self.teps[port.host])
                for ip in port.ips or (None,):
                    yield NeighbourState(number, port.mac, None if ip is None else str(ip), vnic, tep)

    def _interfaces(self) -> Iterable[InterfaceState]:
        for segment in self.segments:
            if segment.gateway is None:
                continue
            for address in map(gateway_address, segment.subnets):
                if address is not None:
                    gateway = self.gateway_number[segment.gateway]
                    yield InterfaceState(gateway, self.number_of[segment.name], str(address))

    def _routes(self) -> Iterable[RouteState]:
        """A gateway knows its own segments; a Tier-1 hands the rest to its Tier-0, which knows all of its Tier-1s', and
        hands the rest to its service router."""
        everything = {Family.IPV4: "0.0.0.0/0", Family.IPV6: "::/0"}
        for name, number in self.gateway_number.items():
            gateway = self.fabric.inventory.gateways[name]
            for segment in self.fabric.segments_of[name]:
                for subnet in segment.subnets:
                    yield RouteState(number, str(subnet), ROUTE_CONNECTED, self.number_of[segment.name])
            router = self.fabric.router_of.get(name)
            if router is not None:
                for ip in router.port.ips:
                    yield RouteState(
                        number, everything[ip.family], ROUTE_VIA, self.number_of[router.transit.name], str(ip)
                    )
            if gateway.uplink_gateway is not None:
                above = self.gateway_number[gateway.uplink_gateway]
                for prefix in everything.values():
                    yield RouteState(number, prefix, ROUTE_GATEWAY, above)
                for segment in self.fabric.segments_of[name]:
                    for subnet in segment.subnets:
                        yield RouteState(above, str(subnet), ROUTE_GATEWAY, number)


class HostSpan(ForwardingSpan):
    """All that one host is told."""

    def __init__(
        self,
        fabric: Fabric,
        compiled: Compiled,
        host: Host,
        attachments: Mapping[str, str],
        underlay_mtu: int,
    ) -> None:
        super().__init__(fabric, host)
        self.compiled = compiled
        self.attachments, self.underlay_mtu = attachments, underlay_mtu
        self.rules = _Kept()
        self.sets = _Kept()
        self.tables = _Kept()
        self.ether = _Kept()

    def state(self, revision: int) -> HostState:
        vnics = tuple(self._vnic(port) for port in self.own)
        tables = tuple(self._table(self.compiled.tables[number]) for number in self.tables.items)
        ether = tuple(self._ether(self.compiled.ether.tables[number]) for number in self.ether.items)
        return HostState(
            host=self.host.name,
            revision=revision,
            tep=str(self.host.tep),
            underlay_mtu=self.underlay_mtu,
            bfd=BfdState(self.host.bfd_interval, self.host.bfd_multiple),
            enforcer=self.host.enforcer,
            vnics=vnics,
            **self.forwarding()._asdict(),
            rules=tuple(self._rule(number) for number in self.rules.items),
            sets=tuple(self._set(number) for number in self.sets.items),
            tables=tables,
            ether=ether,
        )

    def _vnic(self, port: Port) -> VnicState:
        ether = self.compiled.ether.table_of.get(port.name)
        router = self.fabric.router_at.get(port.name)
        network = vnic_network(port, self.fabric.inventory.segments[port.segment], self.host, self.underlay_mtu)
        if router is not None:
            network["gateways"] = ()  # its default is the uplink's
        return VnicState(
            name=port.name,
            mac=port.mac,
            segment=self.number_of[port.segment],
            table=self.tables.number(self.compiled.table_of[port.name]),
            timers=tuple(timer_seconds(self.compiled.timers_of.get(port.name, self.compiled.timers))),
            ether=None if ether is None else self.ether.number(ether),
            flood=astuple(self.compiled.flood_of.get(port.name, self.compiled.flood)),
            netns=self.attachments.get(port.name),
            guards=GUARDS if router is None else (),  # what it sends comes from all the world
            routes=() if router is None else router.routes,
            **network,
        )

    def _table(self, table: RuleTable) -> TableState:
        entries = table.entries.copy()
        wanted, entries["rule"] = np.unique(entries["rule"], return_inverse=True)
        numbers = np.array([self.rules.number(int(number)) for number in wanted], dtype=np.uint32)
        if len(entries):
            entries["rule"] = numbers[entries["rule"]]
        refs: list[int] = []
        places: dict[tuple[int, int], int] = {}
        for side in ("src", "dst"):
            for row in np.flatnonzero(entries[f"{side}_n"]):
                run = (int(entries[f"{side}_off"][row]), int(entries[f"{side}_n"][row]))
                if run not in places:
                    places[run] = len(refs)
                    refs += (self.sets.number(int(item)) for item in table.set_refs[run[0] : run[0] + run[1]])
                entries[f"{side}_off"][row] = places[run]
            entries[f"{side}_off"][entries[f"{side}_n"] == 0] = 0
        return TableState(entries.tobytes(), np.array(refs, dtype=np.uint32).tobytes())

    def _ether(self, table: EtherTable) -> EtherState:
        entries = table.entries.copy()
        for row in range(len(entries)):
            entries["rule"][row] = self.rules.number(int(entries["rule"][row]))
        return EtherState(entries.tobytes(), table.macs.tobytes())

    def _rule(self, number: int) -> RuleState:
        rule = self.compiled.rules[number]
        return RuleState(rule.rule_id, rule.path, rule.policy, rule.tier.name, rule.action.name, rule.logged, rule.tag)

    def _set(self, number: int) -> SetState:
        item = self.compiled.sets[number]
        return SetState(item.name, item.ranges.tobytes())


class VnicNetwork(TypedDict):
    """The fields of a VnicState that a card is configured by."""

    ips: tuple[str, ...]
    gateways: tuple[str, ...]
    mtu: int


def vnic_network(port: Port, segment: Segment, host: Host, underlay_mtu: int) -> VnicNetwork:
    """A vNIC's addresses, its default routes, and what it may send in one packet.

    Addresses that no subnet of the segment holds (Pods' as their manifests have them) know no neighbour by their
    length: without a gateway either, all the world is on their link.
    """
    subnets = {subnet.family: subnet for subnet in segment.subnets}
    if segment.gateway is not None:
        gateways = [str(address) for address in map(gateway_address, segment.subnets) if address is not None]
    else:
        families = dict.fromkeys(ip.family for ip in port.ips)
        gateways = [ON_LINK[family] for family in families if segment.name == PODS_SEGMENT or family not in subnets]
    return {
        "ips": tuple(f"{ip}/{_length(ip, subnets.get(ip.family))}" for ip in port.ips),
        "gateways": tuple(gateways),
        "mtu": min(WORKLOAD_MTU, underlay_mtu - overhead(host.tep.family)),
    }


class _Kept:
    """Numbers of the whole that are needed here, each with its own number here, in order of first use."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}

    @property
    def items(self) -> tuple[int, ...]:
        return tuple(self._of)

    def number(self, item: int) -> int:
        return self._of.setdefault(item, len(self._of))


def _length(ip: Address, subnet: AddressRange | None) -> int:
    """The length to configure an address with; one outside its segment's subnet stands alone."""
    if subnet is None or subnet.prefix_length is None or not subnet.contains(ip):
        return ip.family.bits
    return subnet.prefix_length
