# SPDX-License-Identifier: Apache-2.0
"""Checks of addresses: CIDRs large enough and apart, pools, the management network. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Final, NamedTuple

from dfw.model import Address, AddressRange, address_parse
from supervisor_glue.prechecks.reasons import Reason, called, reason
from supervisor_glue.prechecks.spec import Management, Pool, SupervisorSpec, Vlan

ADDRESSES: Final = 5
"""Of the management network: floating, three nodes, one for the rolling upgrade."""


class Limits(NamedTuple):
    """The longest prefixes that are large enough."""

    pod: int
    service: int
    ingress: int
    egress: int


LIMITS: Final = {"vsphere7": Limits(24, 16, 27, 27), "current": Limits(23, 16, 30, 30)}


class Named(NamedTuple):
    """A network, by what it is called in messages. `holds`: others that may lie in it."""

    name: str
    cidr: AddressRange
    holds: frozenset[str] = frozenset()


def cidr_reasons(spec: SupervisorSpec) -> Iterator[Reason]:
    """Pod, Service, Ingress and Egress."""
    limits = LIMITS[spec.profile]
    service = () if spec.service_cidr is None else (spec.service_cidr,)
    kinds = (
        ("Pod", spec.pod_cidrs, limits.pod),
        ("Service", service, limits.service),
        ("Ingress", spec.ingress_cidrs, limits.ingress),
        ("Egress", spec.egress_cidrs, limits.egress),
    )
    for name, cidrs, longest in kinds:
        if not cidrs:
            yield reason("cidr.missing", name)
        for cidr in cidrs:
            if _length(cidr) > _longest(cidr, longest):
                yield reason("cidr.too_small", name, cidr, _longest(cidr, longest))
    for cidr in spec.pod_cidrs:
        if _length(cidr) > _longest(cidr, spec.namespace_prefix):
            yield reason("cidr.namespace_prefix", cidr, _longest(cidr, spec.namespace_prefix))
    uplink = spec.edge_uplink.cidr if spec.edge_uplink else None
    for name, cidrs, _ in kinds[2:]:
        for cidr in cidrs:
            if uplink is not None and not _holds(uplink, cidr):
                yield reason("cidr.not_in_uplink", name, cidr, uplink)


def overlap_reasons(spec: SupervisorSpec, segments: Sequence[tuple[str, AddressRange]] = ()) -> Iterator[Reason]:
    """Nothing shares an address but what lies in the Edge uplink's network by intention. `segments`: those that hosts
    have already, by name."""
    for one, other in combinations([*_named(spec), *(Named(f"segment {name}", cidr) for name, cidr in segments)], 2):
        is_meant = other.name in one.holds or one.name in other.holds
        are_segments = one.name.startswith("segment ") and other.name.startswith("segment ")
        if not is_meant and not are_segments and _overlap(one.cidr, other.cidr):
            yield reason("cidr.overlap", one.name, one.cidr, other.name, other.cidr)


def _named(spec: SupervisorSpec) -> Iterator[Named]:
    groups = (
        ("Pod CIDR", spec.pod_cidrs),
        ("Service CIDR", () if spec.service_cidr is None else (spec.service_cidr,)),
        ("Ingress CIDR", spec.ingress_cidrs),
        ("Egress CIDR", spec.egress_cidrs),
    )
    for name, cidrs in groups:
        yield from (Named(name, cidr) for cidr in cidrs)
    if spec.edge_uplink and spec.edge_uplink.cidr:
        yield Named("Edge uplink", spec.edge_uplink.cidr, frozenset({"Ingress CIDR", "Egress CIDR"}))
    if spec.management and spec.management.cidr:
        yield Named("management network", spec.management.cidr)
    for number, pool in enumerate(spec.pools, 1):
        if pool.cidr:
            yield Named(f"IP pool {called(pool.name, number)}", pool.cidr)


def network_reasons(spec: SupervisorSpec) -> Iterator[Reason]:
    """The three networks of the underlay and the two pools."""
    networks = {"host_tep": spec.host_tep, "edge_tep": spec.edge_tep, "edge_uplink": spec.edge_uplink}
    for name, network in networks.items():
        if network is None:
            yield reason("network.missing", name)
        elif network.vlan is None:
            yield reason("network.vlan.missing", name)
    known = [(name, network) for name, network in networks.items() if network is not None]
    for (one, first), (other, second) in combinations(known, 2):
        if first.vlan is not None and first.vlan == second.vlan:
            yield reason("network.vlan.duplicate", one, other, first.vlan)
    if spec.edge_uplink is not None and spec.edge_uplink.cidr is None:
        yield reason("network.cidr.missing", "edge_uplink")
    yield from _pool_use(spec)
    yield from _pools(spec.pools)


def _pool_use(spec: SupervisorSpec) -> Iterator[Reason]:
    names = {pool.name for pool in spec.pools}
    users: list[tuple[str, Vlan]] = [
        (name, network)
        for name, network in (("host_tep", spec.host_tep), ("edge_tep", spec.edge_tep))
        if network is not None
    ]
    for name, network in users:
        if not network.pool:
            yield reason("network.pool.missing", name)
        elif network.pool not in names:
            yield reason("network.pool.unknown", name, network.pool)
    if len(users) == 2 and users[0][1].pool and users[0][1].pool == users[1][1].pool:
        yield reason("network.pool.shared", users[0][0], users[1][0], users[0][1].pool)


def _pools(pools: Sequence[Pool]) -> Iterator[Reason]:
    names = [pool.name for pool in pools if pool.name]
    if len(pools) - len(names) + len(set(names)) < 2:
        yield reason("ip_pool.too_few", len(pools))
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield reason("ip_pool.duplicate", name)
    for number, pool in enumerate(pools, 1):
        name = called(pool.name, number)
        if not pool.name:
            yield reason("ip_pool.name.missing", name)
        if pool.cidr is None:
            yield reason("ip_pool.cidr.missing", name)
        if pool.gateway is None:
            yield reason("ip_pool.gateway.missing", name)
        elif pool.cidr is not None and not _usable(pool.cidr, pool.gateway):
            yield reason("ip_pool.gateway.outside", name, pool.gateway, pool.cidr)


def management_reasons(network: Management | None) -> Iterator[Reason]:
    """The management network and its five addresses."""
    if network is None:
        yield reason("management.missing")
        return
    if not network.port_group:
        yield reason("management.port_group.missing")
    if network.cidr is None:
        yield reason("management.cidr.missing")
    if network.gateway is None:
        yield reason("management.gateway.missing")
    elif network.cidr is not None and not _usable(network.cidr, network.gateway):
        yield reason("management.gateway.outside", network.gateway, network.cidr)
    if network.count < ADDRESSES:
        yield reason("management.addresses.too_few", network.count, ADDRESSES)
    if network.start is None:
        yield reason("management.addresses.missing")
        return
    first, last = network.start, management_address(network.start, network.count - 1)
    if network.cidr is not None and not (_usable(network.cidr, first) and last and _usable(network.cidr, last)):
        yield reason("management.addresses.outside", first, last or "beyond all addresses", network.cidr)
    gateway = network.gateway
    is_gateway = gateway is not None and last is not None and gateway.family is first.family
    if is_gateway and gateway is not None and last is not None and first.value <= gateway.value <= last.value:
        yield reason("management.addresses.gateway", first, last, gateway)


def management_address(start: Address, number: int) -> Address | None:
    """The address so many after the first; None: there is none."""
    value = start.value + number
    return Address(start.family, value) if value < 1 << start.family.bits else None


def ntp_reasons(servers: Sequence[str]) -> Iterator[Reason]:
    """Addresses: the control plane has no name service when it first needs the time."""
    if not servers:
        yield reason("ntp.missing")
    for server in servers:
        try:
            address_parse(server)
        except ValueError:
            yield reason("ntp.not_an_address", server)


def _length(cidr: AddressRange) -> int:
    length = cidr.prefix_length
    assert length is not None  # a prefix was read
    return length


def _longest(cidr: AddressRange, length: int) -> int:
    """A prefix length of IPv4; of IPv6 the one with as many addresses."""
    return length + cidr.family.bits - 32


def _holds(outer: AddressRange, inner: AddressRange) -> bool:
    return outer.family is inner.family and outer.first <= inner.first and inner.last <= outer.last


def _overlap(one: AddressRange, other: AddressRange) -> bool:
    return one.family is other.family and one.first <= other.last and other.first <= one.last


def _usable(cidr: AddressRange, address: Address) -> bool:
    """An address that a machine can have there: not the network's own, nor IPv4's broadcast."""
    if not cidr.contains(address):
        return False
    is_wide = cidr.last - cidr.first > 1
    is_broadcast = address.family.bits == 32 and address.value == cidr.last
    return not is_wide or (address.value != cidr.first and not is_broadcast)
