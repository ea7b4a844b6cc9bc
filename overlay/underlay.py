# SPDX-License-Identifier: Apache-2.0
"""The wires between a lab's hosts: four networks, each a bridge in a namespace of its own, which routes between them.

Hosts' TEPs, Edge hosts' TEPs, Edge hosts' uplinks, and what lies outside. A host reaches the first by `ul0`; an Edge
host (one with the tag role|edge) has `ul0` in the second, and each service router that it carries has `up0` in the
third. Who tests the way out is in the namespace `outside`. Nothing comes from the last two into the first two.
Pure but for `apply_*`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from dfw.errors import EnvironmentLacksError, PolicyError, Problem
from dfw.model import NATIVE, NFTABLES, Address, AddressRange, Family, Host, Inventory, address_parse
from dfw.model.place import Place
from overlay.namespace import namespace_entered
from overlay.service_router import ServiceRouter, host_is_edge, service_routers

if TYPE_CHECKING:
    from pyroute2 import IPRoute

UNDERLAY: Final = "underlay"
OUTSIDE: Final = "outside"
TEP_WIRE: Final = "ul0"
HOST_TEP: Final = "host-tep"
EDGE_TEP: Final = "edge-tep"
EDGE_UPLINK: Final = "edge-uplink"
DEFAULT_MTU: Final = 1700  # NSX's: 1500 for workloads, and room for Geneve with options
_SCOPE_LINK: Final = 253  # linux/rtnetlink.h
_KEPT_FROM: Final = 10  # priority of a rule, before those of the kernel
_OFFLOADS: Final = ("tx-checksum-ip-generic", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
_ONLINK: Final = 4  # RTNH_F_ONLINK: the gateway answers on this wire
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# For the networks that no document names, the first that nothing else uses: for documentation (RFC 5737, 3849, 9637).
_FREE4: Final = tuple(ipaddress.ip_network(f"{prefix}.0/24") for prefix in ("192.0.2", "198.51.100", "203.0.113"))
_FREE6: Final = tuple(ipaddress.ip_network(f"{prefix}::/64") for prefix in ("2001:db8:fe", "2001:db8:ff", "3fff:fe"))


@dataclass(frozen=True, slots=True)
class Bridge:
    """One network: a bridge in the underlay's namespace. `addresses`: the router's, with prefix lengths. `routes`:
    `PREFIX via ADDRESS`, by neighbours on it. `kept_from`: prefixes that nothing that comes from here gets to."""

    name: str
    addresses: tuple[str, ...]
    routes: tuple[str, ...] = ()
    kept_from: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Interface:
    """A wire from a namespace into a network.

    `links`: prefixes whose addresses are on the wire itself. `gateways`: where everything else goes, at most one of
    each family. A TEP's wire has no address: what becomes of the TEP is the agent's, by tier (overlay/uplink.py).
    `is_card`: packets leave it as they would leave a card, cut and with their checksums.
    """

    namespace: str
    name: str
    network: str
    addresses: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    is_card: bool = False

    @property
    def key(self) -> str:
        """Its name among all interfaces of the lab."""
        return f"{self.namespace}/{self.name}"

    @property
    def peer(self) -> str:
        """The name of its other end, in the underlay's namespace."""
        return "p" + sha256(self.key.encode()).hexdigest()[:14]


@dataclass(frozen=True, slots=True)
class Underlay:
    """All wires. `mtu`: bytes of an IP packet, the same on all of them."""

    mtu: int
    bridges: tuple[Bridge, ...]
    interfaces: tuple[Interface, ...]


def host_namespace(host: str) -> str:
    """The name of a host's namespace."""
    return f"host-{host}"


def plan_underlay(inventory: Inventory, *, mtu: int = DEFAULT_MTU, ipv6: bool = True) -> Underlay:
    """The wires for an inventory's hosts. `ipv6`: whether this machine speaks it.

    Raises PolicyError where TEPs of hosts and of Edge hosts lie in one network, or prefixes that are reached from
    outside overlap; EnvironmentLacksError where a TEP needs IPv6 and there is none.
    """
    hosts = list(inventory.hosts.values())
    if not ipv6 and any(host.tep.family is Family.IPV6 for host in hosts):
        raise EnvironmentLacksError(
            "no IPv6 in this kernel, and a host's TEP has an IPv6 address", "sysctl net.ipv6.conf.all.disable_ipv6=0"
        )
    groups = {
        HOST_TEP: [host for host in hosts if not host_is_edge(host)],
        EDGE_TEP: [host for host in hosts if host_is_edge(host)],
    }
    networks = {name: _tep_networks(members) for name, members in groups.items()}
    _separate(groups[EDGE_TEP], networks)
    service = service_routers(inventory)
    _distinct(service)
    taken = [network for found in networks.values() for network in found]
    taken += [_network_of(subnet) for segment in inventory.segments.values() for subnet in segment.subnets]
    for name in (EDGE_UPLINK, OUTSIDE):
        networks[name] = []
        for candidates in (_FREE4, _FREE6) if ipv6 else (_FREE4,):
            network = next((item for item in candidates if not _overlapping(item, taken)), None)
            if network is not None:
                networks[name].append(network)
                taken.append(network)
    used = {str(host.tep) for host in hosts}
    routers = {name: [_router(network, used) for network in found] for name, found in networks.items()}
    interfaces = []
    uplinks: dict[str, list[str]] = {}
    for number, item in enumerate(service):
        addresses = tuple(_address(network, 11 + number) for network in networks[EDGE_UPLINK])
        uplinks[item.gateway] = [text.partition("/")[0] for text in addresses]
        above = tuple(text.partition("/")[0] for text in routers[EDGE_UPLINK] if text)
        interfaces.append(Interface(item.namespace, "up0", EDGE_UPLINK, addresses, (), above))
    inward = tuple(
        f"{prefix} via {address}"
        for item in service
        for prefix in item.behind
        for address in uplinks[item.gateway]
        if address_parse(address).family is prefix.family
    )
    teps = tuple(str(network) for name in groups for network in networks[name])
    bridges = tuple(
        Bridge(
            name,
            tuple(filter(None, found)),
            inward if name == EDGE_UPLINK else (),
            teps if name in (EDGE_UPLINK, OUTSIDE) else (),
        )
        for name, found in routers.items()
    )
    for name, members in groups.items():
        for host in members:
            gateways = _gateways(routers[name], host.tep.family)
            network = next(item for item in networks[name] if ipaddress.ip_address(str(host.tep)) in item)
            # A kernel's VXLAN leaves sums and cuts to a card. Nobody makes up for that where a socket is the other TEP.
            is_card = host.enforcer == NFTABLES and any(other.enforcer == NATIVE for other in hosts)
            links = (str(network),)
            interfaces.append(Interface(host_namespace(host.name), TEP_WIRE, name, (), links, gateways, is_card))
    outside = tuple(_address(network, 10) for network in networks[OUTSIDE])
    gateways = tuple(text.partition("/")[0] for text in routers[OUTSIDE] if text)
    interfaces.append(Interface(OUTSIDE, "eth0", OUTSIDE, outside, (), gateways))
    return Underlay(mtu, bridges, tuple(interfaces))


def _network_of(subnet: AddressRange) -> Network:
    return ipaddress.ip_network(str(subnet))


def _overlapping(network: Network, others: Iterable[Network]) -> bool:
    return any(network.version == other.version and network.overlaps(other) for other in others)


def _tep_networks(hosts: Sequence[Host]) -> list[Network]:
    """The smallest network of each family that holds all TEPs, at most a /24 or a /64 of it."""
    found: list[Network] = []
    for family, longest in ((Family.IPV4, 24), (Family.IPV6, 64)):
        numbers = [host.tep.value for host in hosts if host.tep.family is family]
        if numbers:
            length = min(longest, family.bits - (min(numbers) ^ max(numbers)).bit_length())
            base = min(numbers) >> (family.bits - length) << (family.bits - length)
            found.append(ipaddress.ip_network(f"{Address(family, base)}/{length}"))
    return found


def _separate(edges: Sequence[Host], networks: dict[str, list[Network]]) -> None:
    problems = []
    for host in edges:
        address = ipaddress.ip_address(str(host.tep))
        if any(address.version == item.version and address in item for item in networks[HOST_TEP]) or any(
            _overlapping(item, networks[HOST_TEP]) for item in networks[EDGE_TEP]
        ):
            place = host.place or Place("-", 1, 1)
            message = f"the TEP {host.tep} of the Edge host {host.name} lies in the network of the other hosts' TEPs"
            problems.append(Problem(place, f"{message} ({', '.join(map(str, networks[HOST_TEP]))}); give it another"))
    if problems:
        raise PolicyError(problems)


def _distinct(service: Sequence[ServiceRouter]) -> None:
    """Nobody outside could tell two networks with the same addresses apart."""
    problems = []
    seen: list[tuple[Network, str]] = []
    for item in service:
        for prefix in map(_network_of, item.behind):
            other = next((name for known, name in seen if _overlapping(prefix, [known])), None)
            if other is not None:
                message = f"{prefix} of the Tier-0 {item.gateway} is reached from outside, and overlaps one of {other}"
                problems.append(Problem(Place("-", 1, 1), message))
            seen.append((prefix, item.gateway))
    if problems:
        raise PolicyError(problems)


def _router(network: Network, used: set[str]) -> str:
    """The router's address with its length: the first that no TEP has; empty where there is none."""
    first = int(network.network_address)
    for number in range(first + 1, min(first + 5000, int(network.broadcast_address))):
        address = type(network.network_address)(number)
        if str(address) not in used:
            return f"{address}/{network.prefixlen}"
    return ""


def _gateways(routers: Sequence[str], family: Family) -> tuple[str, ...]:
    addresses = [text.partition("/")[0] for text in routers if text]
    return tuple(text for text in addresses if address_parse(text).family is family)


def _address(network: Network, number: int) -> str:
    return f"{network.network_address + number}/{network.prefixlen}"


# ---- effects: by pyroute2, in the thread that calls ----------------------------------------------------------------


def _links_in(stack: ExitStack, namespace: Path) -> IPRoute:
    """Netlink in a namespace: a socket stays where it was made."""
    from pyroute2 import IPRoute

    with namespace_entered(namespace):
        return stack.enter_context(IPRoute())


def _set(name: str, value: int) -> None:
    """A setting of the namespace that this thread lives in; none where the kernel has no such thing (IPv6 off)."""
    path = Path("/proc/sys/net", name)
    if path.exists():
        path.write_text(str(value), encoding="ascii")


def apply_bridges(room: Path, bridges: Iterable[Bridge], mtu: int) -> None:
    """Make networks in the underlay's namespace, which exists."""
    with ExitStack() as stack:
        links = _links_in(stack, room / UNDERLAY)
        with namespace_entered(room / UNDERLAY):
            for name in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
                _set(name, 1)
            # No packet filter has a rule here, and the way through its hooks is not short.
            for name in ("iptables", "ip6tables", "arptables"):
                _set(f"bridge/bridge-nf-call-{name}", 0)
        for bridge in bridges:
            settings = {"br_stp_state": 0, "br_forward_delay": 0, "br_mcast_snooping": 0}
            links.link("add", ifname=bridge.name, kind="bridge", mtu=mtu, **settings)
            index = links.link_lookup(ifname=bridge.name)[0]
            _address_all(links, room / UNDERLAY, bridge.name, index, bridge.addresses, bridge.addresses)
            links.link("set", index=index, state="up")
            for prefix in bridge.kept_from:
                links.rule("add", iifname=bridge.name, **_ruled(prefix), action="FR_ACT_PROHIBIT", priority=_KEPT_FROM)
            for route in bridge.routes:
                prefix, _, gateway = route.partition(" via ")
                links.route("add", dst=prefix, gateway=gateway, oif=index, flags=_ONLINK)


def _ruled(prefix: str) -> dict[str, Any]:
    network = ipaddress.ip_network(prefix)
    family = AF_INET if network.version == 4 else AF_INET6
    return {"dst": str(network.network_address), "dst_len": network.prefixlen, "family": family}


def _rules_end(links: IPRoute, name: str) -> None:
    """Take away what was ruled about a network: rules stay where their interface goes."""
    for family in (AF_INET, AF_INET6):
        for rule in links.get_rules(family=family):
            if rule.get("iifname") == name:
                links.rule("del", iifname=name, priority=_KEPT_FROM, family=family)


def apply_interfaces(room: Path, interfaces: Sequence[Interface], mtu: int, told: Callable[[str], None]) -> None:
    """Lay wires; the namespaces and bridges exist. `told` is called with each one's key."""
    with ExitStack() as stack:
        underlay = _links_in(stack, room / UNDERLAY)
        bridges = {name: underlay.link_lookup(ifname=name)[0] for name in {item.network for item in interfaces}}
        by_namespace: dict[str, list[Interface]] = {}
        for interface in interfaces:
            by_namespace.setdefault(interface.namespace, []).append(interface)
        for namespace, items in by_namespace.items():
            with ExitStack() as inner:
                links = _links_in(inner, room / namespace)
                with open(room / namespace, encoding="ascii") as there:
                    for item in items:
                        peer = {"ifname": item.name, "net_ns_fd": there.fileno(), "mtu": mtu}
                        underlay.link("add", ifname=item.peer, kind="veth", mtu=mtu, peer=peer)
                        _finish(links, room / namespace, item)
                        if item.is_card:
                            _offloads_end(room / namespace, item.name)
                        with namespace_entered(room / UNDERLAY):
                            _set(f"ipv6/conf/{item.peer}/disable_ipv6", 1)
                        index = underlay.link_lookup(ifname=item.peer)[0]
                        underlay.link("set", index=index, master=bridges[item.network], state="up")
                        told(item.key)


def _finish(links: IPRoute, namespace: Path, item: Interface) -> None:
    index = links.link_lookup(ifname=item.name)[0]
    _address_all(links, namespace, item.name, index, item.addresses, (*item.addresses, *item.links))
    links.link("set", index=index, state="up")
    for prefix in item.links:
        links.route("add", dst=prefix, oif=index, scope=0 if ":" in prefix else _SCOPE_LINK)
    for gateway in item.gateways:
        everything = "::/0" if ":" in gateway else "0.0.0.0/0"
        links.route("add", dst=everything, gateway=gateway, oif=index, flags=_ONLINK)


def _offloads_end(namespace: Path, name: str) -> None:
    from pyroute2 import Ethtool

    with namespace_entered(namespace), Ethtool() as tool:
        found = tool.get_features(name)
        for feature in _OFFLOADS:
            found.features[feature].enable = False
        tool.set_features(name, found)


def _address_all(
    links: IPRoute, namespace: Path, name: str, index: int, addresses: Iterable[str], prefixes: Iterable[str]
) -> None:
    """Addresses, and no IPv6 (router solicitations, multicast reports) where none of the prefixes needs it."""
    with namespace_entered(namespace):
        _set(f"ipv6/conf/{name}/disable_ipv6", 0 if any(":" in text for text in prefixes) else 1)
        _set(f"ipv6/conf/{name}/accept_ra", 0)
        _set(f"ipv6/conf/{name}/accept_dad", 0)  # these addresses are ours; usable at once
    for text in addresses:
        address, _, length = text.partition("/")
        links.addr("add", index=index, address=address, prefixlen=int(length))


def apply_interfaces_end(room: Path, interfaces: Iterable[Interface]) -> None:
    """Take wires away, both ends. No error where there is none."""
    wanted = list(interfaces)
    if wanted:
        with ExitStack() as stack:
            links = _links_in(stack, room / UNDERLAY)
            for item in wanted:
                for index in links.link_lookup(ifname=item.peer):
                    links.link("del", index=index)


def apply_bridges_end(room: Path, names: Iterable[str]) -> None:
    """Take networks away. No error where there is none."""
    wanted = list(names)
    if wanted:
        with ExitStack() as stack:
            links = _links_in(stack, room / UNDERLAY)
            for name in wanted:
                _rules_end(links, name)
                for index in links.link_lookup(ifname=name):
                    links.link("del", index=index)


def read_links(namespace: Path) -> Iterator[dict[str, Any]]:
    """The links of a namespace: name, whether it is up, MTU and addresses."""
    with ExitStack() as stack:
        links = _links_in(stack, namespace)
        addresses: dict[int, list[str]] = {}
        for item in links.get_addr():
            addresses.setdefault(item["index"], []).append(f"{item.get('address')}/{item['prefixlen']}")
        for item in links.get_links():
            own = addresses.get(item["index"], [])
            up = item.get("state") == "up"
            yield {"name": item.get("ifname"), "up": up, "mtu": item.get("mtu"), "addresses": own}
