# SPDX-License-Identifier: Apache-2.0
"""What a host forwards by, as the packet core takes it: rows of palisade_live.h from a host's state. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfw.core import Fabric
from dfw.layout_live import (
    ADDRESS_DTYPE,
    ENCAP_GENEVE,
    ENCAP_VXLAN,
    GUARD_DHCP,
    GUARD_RA,
    GUARD_SPOOF,
    INTERFACE_DTYPE,
    NEIGHBOUR_DTYPE,
    NO_INDEX,
    ROUTE_DTYPE,
    SEGMENT_DTYPE,
    TEP_DTYPE,
    UPLINK,
    VNIC_DTYPE,
)
from dfw.layout_live import ROUTE_BLACKHOLE as BLACKHOLE
from dfw.layout_live import ROUTE_CONNECTED as CONNECTED
from dfw.layout_live import ROUTE_GATEWAY as GATEWAY
from dfw.layout_live import ROUTE_VIA as VIA
from dfw.model import GENEVE, VXLAN, mac_packed
from overlay.hoststate import ROUTE_BLACKHOLE, ROUTE_CONNECTED, ROUTE_GATEWAY, ROUTE_VIA, HostState

GUARDS: Final = {"spoof": GUARD_SPOOF, "dhcp": GUARD_DHCP, "ra": GUARD_RA}
ENCAPS: Final = {GENEVE: ENCAP_GENEVE, VXLAN: ENCAP_VXLAN}
_NO_ADDRESS: Final = (np.zeros(16, np.uint8), 0)
ROUTE_KINDS: Final = {
    ROUTE_CONNECTED: CONNECTED,
    ROUTE_VIA: VIA,
    ROUTE_GATEWAY: GATEWAY,
    ROUTE_BLACKHOLE: BLACKHOLE,
}


def render_fabric(state: HostState, number_of: Mapping[str, int], dead: Set[str] = frozenset()) -> Fabric:
    """The fabric of a host. `number_of`: the filter's number of each vNIC; `dead`: TEPs that get no copies."""
    addresses: list[tuple[bytes, int]] = []
    vnics = []
    arriving = {vnic.name: vnic.arriving for vnic in state.vnics if vnic.arriving is not None}
    for vnic in state.vnics:
        if vnic.arriving is not None:
            continue
        own = [_address(str(ip_interface(ip).ip)) for ip in vnic.ips]
        guards = sum(GUARDS[guard] for guard in vnic.guards)
        row = (number_of[vnic.name], vnic.segment, len(addresses), len(own), guards, _mac(vnic.mac), vnic.mtu)
        vnics.append(row)
        addresses += own
    replicas: list[int] = []
    segments = []
    for segment in state.segments:
        gateway = NO_INDEX if segment.gateway is None else segment.gateway
        segments.append((segment.vni, gateway, len(replicas), len(segment.replicas), int(segment.learn)))
        replicas += segment.replicas
    neighbours = []
    for item in state.neighbours:
        tep = item.tep if item.vnic is None else arriving.get(item.vnic)
        place = (number_of[item.vnic], NO_INDEX) if tep is None and item.vnic is not None else (UPLINK, tep)
        neighbours.append((*_optional(item.ip), item.segment, *place, _mac(item.mac), 0))
    routes = []
    for route in state.routes:
        address, family, length = _prefix(route.prefix)
        next_hop, _ = _optional(route.next_hop)
        kind = ROUTE_KINDS[route.kind]
        routes.append((address, next_hop, family, length, route.gateway, kind, route.target))
    return Fabric(
        vnics=_table(vnics, VNIC_DTYPE),
        segments=_table(segments, SEGMENT_DTYPE),
        neighbours=_table(neighbours, NEIGHBOUR_DTYPE),
        interfaces=_table(((*_address(i.ip), i.gateway, i.segment) for i in state.interfaces), INTERFACE_DTYPE),
        routes=_table(routes, ROUTE_DTYPE),
        teps=_table(((*_address(tep.ip), int(tep.ip in dead), ENCAPS[tep.encap]) for tep in state.teps), TEP_DTYPE),
        addresses=_table(addresses, ADDRESS_DTYPE),
        replicas=np.array(replicas, dtype=np.uint32),
        gateways=len(state.gateways),
        underlay_mtu=state.underlay_mtu,
        gateway_mac=mac_packed(state.gateway_mac),
    )


# A fabric is rendered anew with each change, of addresses that are nearly all as before.
@lru_cache(maxsize=1 << 16)
def _address(text: str) -> tuple[Any, int]:
    address = ip_address(text)
    return np.frombuffer(address.packed.ljust(16, b"\0"), np.uint8), 1 if address.version == 4 else 2


@lru_cache(maxsize=1 << 14)
def _prefix(text: str) -> tuple[Any, int, int]:
    prefix = ip_network(text)
    return (*_address(str(prefix.network_address)), prefix.prefixlen)


def _optional(text: str | None) -> tuple[Any, int]:
    return _NO_ADDRESS if text is None else _address(text)


@lru_cache(maxsize=1 << 16)
def _mac(text: str) -> Any:
    return np.frombuffer(mac_packed(text), np.uint8)


def _table(rows: Iterable[tuple[Any, ...]], dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    rows = list(rows)
    found = np.zeros(len(rows), dtype=dtype)
    for at, row in enumerate(rows):
        found[at] = row
    return found
