# SPDX-License-Identifier: Apache-2.0
"""The Supervisor's document: what is asked for. What cannot be read is a PolicyError with its place; what is missing or
does not fit is for the checks to say.

The names are those of vCenter's EnableSpec (pod_cidrs, service_cidr, master_management_network) where it has one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from dfw.documents import Document, documents_read
from dfw.errors import PolicyError, Problem
from dfw.fields import Cursor, Field, Read, boolean, choice, identifier, integer, listed, mapping, parsed, text
from dfw.model import Address, AddressRange, Place, address_parse, prefix_parse

API_VERSION: Final = "palisade.internal/v1alpha1"
KIND: Final = "Supervisor"
PROFILES: Final = ("vsphere7", "current")
_VERSION: Final = re.compile(r"\d+(\.\d+){1,3}")


@dataclass(frozen=True, slots=True)
class Edge:
    """A machine that carries service routers. `host`: the compute host that it is on, empty: it is apart."""

    name: str
    fqdn: str = ""
    address: Address | None = None
    host: str = ""
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class EdgeCluster:
    """The Edges, by the name of their cluster."""

    name: str
    edges: tuple[Edge, ...] = ()


@dataclass(frozen=True, slots=True)
class Switch:
    """A distributed switch."""

    name: str
    version: str = ""
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class Pool:
    """Addresses for TEPs."""

    name: str
    cidr: AddressRange | None = None
    gateway: Address | None = None


@dataclass(frozen=True, slots=True)
class Vlan:
    """A network of the underlay. `pool`: the name of its IP pool; `cidr`: an uplink's own network."""

    vlan: int | None = None
    pool: str = ""
    cidr: AddressRange | None = None


@dataclass(frozen=True, slots=True)
class Management:
    """Where the control plane's nodes are managed. `count` addresses from `start` on: floating, nodes, one for
    upgrades."""

    port_group: str = ""
    cidr: AddressRange | None = None
    gateway: Address | None = None
    start: Address | None = None
    count: int = 5


@dataclass(frozen=True, slots=True)
class SupervisorSpec:
    """What is asked for; None and empty where it is not said."""

    name: str
    profile: str = "vsphere7"
    hosts: tuple[str, ...] = ()
    nodes: int = 3
    switch: Switch | None = None
    host_tep: Vlan | None = None
    edge_tep: Vlan | None = None
    edge_uplink: Vlan | None = None
    pools: tuple[Pool, ...] = ()
    edge_cluster: EdgeCluster | None = None
    tier0: str = ""
    management: Management | None = None
    ntp: tuple[str, ...] = ()
    pod_cidrs: tuple[AddressRange, ...] = ()
    service_cidr: AddressRange | None = None
    ingress_cidrs: tuple[AddressRange, ...] = ()
    egress_cidrs: tuple[AddressRange, ...] = ()
    namespace_prefix: int = 28
    is_isolated: bool = False
    written: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The spec as it was written, for the API."""

    @property
    def mtu(self) -> int:
        """What the underlay between TEPs has to carry."""
        return max(LEAST_MTU, (self.switch.mtu if self.switch else None) or 0)


LEAST_MTU: Final = 1600


def _version(value: str) -> str:
    if not _VERSION.fullmatch(value):
        raise ValueError(f"{value!r} is no version such as 7.0.3")
    return value


def _record(table: dict[str, Field], make: Any) -> Read:
    """Reads a mapping by a table; `make` gets its values by keyword."""

    def read(cursor: Cursor) -> Any:
        values = mapping(cursor, table)
        if values is None or any(field.required and values[key] is None for key, field in table.items()):
            return None
        return make(**values)

    return read


def _given(read: Read) -> Read:
    """What is empty is missing, which is for the checks to say, beside everything else that is."""
    return lambda cursor: None if cursor.value == "" else read(cursor)


_NAME: Final = Field(_given(identifier), default="")
_CIDR: Final = _given(parsed(prefix_parse))
_ADDRESS: Final = _given(parsed(address_parse))
_CIDRS: Final = Field(listed(parsed(prefix_parse)), default=())
_VLAN: Final = Field(integer(0, 4094, "a VLAN"))

_edge: Final = _record(
    {
        "name": _NAME,
        "fqdn": Field(_given(text(253)), default=""),
        "address": Field(_ADDRESS),
        "host": _NAME,
        "shared": Field(boolean, default=False),
    },
    lambda shared, **rest: Edge(**rest, is_shared=shared),
)
_edge_cluster: Final = _record({"name": _NAME, "edges": Field(listed(_edge), default=())}, EdgeCluster)
_switch: Final = _record(
    {"name": _NAME, "version": Field(_given(parsed(_version)), default=""), "mtu": Field(integer(68, 65535, "an MTU"))},
    Switch,
)
_pool: Final = _record({"name": _NAME, "cidr": Field(_CIDR), "gateway": Field(_ADDRESS)}, Pool)
_tep: Final = _record({"vlan": _VLAN, "ip_pool": _NAME}, lambda vlan, ip_pool: Vlan(vlan, ip_pool))
_uplink: Final = _record({"vlan": _VLAN, "cidr": Field(_CIDR)}, lambda vlan, cidr: Vlan(vlan, cidr=cidr))
_networks: Final = _record({"host_tep": Field(_tep), "edge_tep": Field(_tep), "edge_uplink": Field(_uplink)}, dict)
_management: Final = _record(
    {
        "port_group": Field(_given(text(255)), default=""),
        "cidr": Field(_CIDR),
        "gateway": Field(_ADDRESS),
        "starting_address": Field(_ADDRESS),
        "address_count": Field(integer(1, 1024, "a number of addresses"), default=5),
    },
    lambda port_group, cidr, gateway, starting_address, address_count: Management(
        port_group, cidr, gateway, starting_address, address_count
    ),
)
_SPEC: Final = {
    "profile": Field(choice({name: name for name in PROFILES}), default="vsphere7"),
    "hosts": Field(listed(identifier, maximum=10_000), default=()),
    "control_plane_count": Field(integer(1, 3, "a number of nodes: 1 or 3"), default=3),
    "distributed_switch": Field(_switch),
    "networks": Field(_networks, default={}),
    "ip_pools": Field(listed(_pool), default=()),
    "edge_cluster": Field(_edge_cluster),
    "tier0_gateway": _NAME,
    "management_network": Field(_management),
    "ntp_servers": Field(listed(text(253)), default=()),
    "pod_cidrs": _CIDRS,
    "service_cidr": Field(_CIDR),
    "ingress_cidrs": _CIDRS,
    "egress_cidrs": _CIDRS,
    "namespace_subnet_prefix": Field(integer(8, 29, "a prefix length"), default=28),
    "default_isolation": Field(choice({"none": False, "isolated": True}), default=False),
}
_ENVELOPE: Final = {
    "apiVersion": Field(choice({API_VERSION: API_VERSION}), required=True),
    "kind": Field(choice({KIND: KIND}), required=True),
    "metadata": Field(lambda cursor: cursor, required=True),
    "spec": Field(lambda cursor: cursor, required=True),
    "status": Field(lambda cursor: cursor),
}


def spec_load(file: str) -> SupervisorSpec:
    """The Supervisor of a file, which has nothing else. Raises PolicyError, OSError."""
    return spec_read(documents_read([file]), file)


def spec_read(documents: Sequence[Document], file: str = "-") -> SupervisorSpec:
    """The Supervisor of these documents. Raises PolicyError: everything that cannot be read."""
    problems: list[Problem] = []
    if not documents:
        raise PolicyError([Problem(Place(file, 1, 1, ""), f"there is no document of kind {KIND}")])
    for other in documents[1:]:
        problems.append(Problem(other.place(other.root), "one Supervisor is enabled at a time: one document in a file"))
    spec = _read(Cursor(documents[0], documents[0].root, "", problems))
    if problems or spec is None:
        raise PolicyError(problems)
    return spec


def _read(cursor: Cursor) -> SupervisorSpec | None:
    envelope = mapping(cursor, _ENVELOPE)
    if envelope is None or envelope["spec"] is None or envelope["metadata"] is None:
        return None
    metadata = mapping(envelope["metadata"], {"name": Field(identifier, required=True)}, ignore=lambda key: True)
    values = mapping(envelope["spec"], _SPEC)
    if metadata is None or values is None or metadata["name"] is None:
        return None
    if values["control_plane_count"] == 2:
        envelope["spec"].member("control_plane_count").problem("2 is not a number of nodes: 1 or 3")
    networks = values["networks"]
    return SupervisorSpec(
        name=metadata["name"],
        profile=values["profile"],
        hosts=tuple(dict.fromkeys(values["hosts"])),
        nodes=values["control_plane_count"],
        switch=values["distributed_switch"],
        host_tep=networks.get("host_tep"),
        edge_tep=networks.get("edge_tep"),
        edge_uplink=networks.get("edge_uplink"),
        pools=values["ip_pools"],
        edge_cluster=values["edge_cluster"],
        tier0=values["tier0_gateway"],
        management=values["management_network"],
        ntp=values["ntp_servers"],
        pod_cidrs=values["pod_cidrs"],
        service_cidr=values["service_cidr"],
        ingress_cidrs=values["ingress_cidrs"],
        egress_cidrs=values["egress_cidrs"],
        namespace_prefix=values["namespace_subnet_prefix"],
        is_isolated=values["default_isolation"],
        written=envelope["spec"].node.plain(),
    )
