# SPDX-License-Identifier: Apache-2.0
"""What there is to protect: hosts, gateways, segments, machines and ports (vNICs).

Objects refer to each other by name; an Inventory resolves the names. All are values: a change makes a new object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, NamedTuple

from dfw.model.address import Address, AddressRange
from dfw.model.place import Place


class Tag(NamedTuple):
    """An NSX tag. Either part may be empty; comparison ignores case (see selector.py)."""

    scope: str
    tag: str


GENEVE: Final = "geneve"
VXLAN: Final = "vxlan"
ENCAPSULATIONS: Final = (GENEVE, VXLAN)
NATIVE: Final = "native"
NFTABLES: Final = "nftables"
ENFORCERS: Final = (NATIVE, NFTABLES)


@dataclass(frozen=True, slots=True)
class Host:
    """A transport node. `tep`: its tunnel endpoint on the underlay. `bfd_interval` (milliseconds), `bfd_multiple`: as
    in NSX's BFD profiles; interval 0: no BFD. `enforcer`: what judges its vNICs' packets, of ENFORCERS.
    `encapsulation`: of ENCAPSULATIONS, what its tunnels speak; None: Geneve, or where its kernel enforces VXLAN, which
    every kernel has."""

    name: str
    tep: Address
    tags: tuple[Tag, ...] = ()
    bfd_interval: int = 1000
    bfd_multiple: int = 3
    enforcer: str = NATIVE
    encapsulation: str | None = None
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Gateway:
    """A Tier-0 (tier 0) or Tier-1 (tier 1) gateway; `uplink_gateway`: the Tier-0 that a Tier-1 is connected to."""

    name: str
    tier: int
    uplink_gateway: str | None = None
    tags: tuple[Tag, ...] = ()
    place: Place | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> str:
        """NSX path."""
        return f"/infra/tier-{self.tier}s/{self.name}"


@dataclass(frozen=True, slots=True)
class Segment:
    """An overlay layer-2 network. `vni`: 1..2^24-1 (RFC 8926); `subnets`: at most one of each family."""

    name: str
    vni: int
    subnets: tuple[AddressRange, ...] = ()
    gateway: str | None = None
    tags: tuple[Tag, ...] = ()
    place: Place | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> str:
        """NSX path."""
        return f"/infra/segments/{self.name}"


@dataclass(frozen=True, slots=True)
class Machine:
    """A virtual machine. `tags` holds its own and those of its ports (CONTRACT section 2); `external_id`: vCenter's."""

    name: str
    os_name: str = ""
    computer_name: str = ""
    tags: tuple[Tag, ...] = ()
    external_id: str = ""
    place: Place | None = field(default=None, compare=False, repr=False)


class NamedPort(NamedTuple):
    """A port of a pod's container that has a name. `protocol`: IANA number (TCP, UDP or SCTP)."""

    name: str
    protocol: int
    number: int


NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"


@dataclass(frozen=True, slots=True)
class Namespace:
    """A Kubernetes namespace. `labels` hold its own name too, as the API server sees to."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    place: Place | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Port:
    """A vNIC on a segment port. A Kubernetes pod has one too: `namespace` set, `name` is then `namespace/pod`.

    `labels` are Kubernetes labels, matched exactly and only by Kubernetes selectors; `tags` are NSX's. `external_id`:
    the virtual network interface's.
    `ips_assumed`: nobody said which addresses it has; they were assigned here.
    """

    name: str
    host: str
    segment: str
    machine: str
    mac: str
    ips: tuple[Address, ...] = ()
    tags: tuple[Tag, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None
    external_id: str = ""
    named_ports: tuple[NamedPort, ...] = ()
    ips_assumed: bool = False
    place: Place | None = field(default=None, compare=False, repr=False)

    @property
    def path(self) -> str:
        """NSX path."""
        return f"/infra/segments/{self.segment}/ports/{self.name}"

    @property
    def is_pod(self) -> bool:
        """True for a pod's vNIC; what an inventory lists cannot have a `/` in its name."""
        return self.namespace is not None and self.name.startswith(f"{self.namespace}/")


@dataclass(frozen=True)
class Inventory:
    """Everything by name, in the order in which it was listed."""

    hosts: Mapping[str, Host] = field(default_factory=dict)
    gateways: Mapping[str, Gateway] = field(default_factory=dict)
    segments: Mapping[str, Segment] = field(default_factory=dict)
    machines: Mapping[str, Machine] = field(default_factory=dict)
    ports: Mapping[str, Port] = field(default_factory=dict)
    namespaces: Mapping[str, Namespace] = field(default_factory=dict)

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """The labels of a namespace; one that nobody described has only its name (CONTRACT section 2)."""
        known = self.namespaces.get(name)
        return {NAMESPACE_NAME_LABEL: name} if known is None else known.labels

    @cached_property
    def _ports_by_address(self) -> Mapping[Address, tuple[Port, ...]]:
        found: dict[Address, list[Port]] = {}
        for port in self.ports.values():
            for address in port.ips:
                found.setdefault(address, []).append(port)
        return {address: tuple(ports) for address, ports in found.items()}

    def ports_at(self, address: Address) -> tuple[Port, ...]:
        """The ports to which this address is bound (several where segments reuse addresses)."""
        return self._ports_by_address.get(address, ())

    def machine_of(self, port: Port) -> Machine:
        """The machine that a port belongs to. The inventory loader makes one for a port without."""
        return self.machines[port.machine]

    def segment_of(self, port: Port) -> Segment:
        """The segment that a port is attached to."""
        return self.segments[port.segment]

    def __iter__(self) -> Iterator[Port]:
        return iter(self.ports.values())
