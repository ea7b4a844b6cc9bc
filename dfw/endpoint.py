# SPDX-License-Identifier: Apache-2.0
"""Ends of a connection as people name them (CONTRACT section 2), and services as `tcp/80`.

`ns/name` a pod, `name` a port (vNIC), an address, a CIDR, `group:ID`, `any`; `outside:` before an address or CIDR says
that no vNIC is meant. Shared by explain, matrix, policy tests
and the lab's probe. Pure; every mistake is an EndpointError with what would be right.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    Address,
    AddressRange,
    Family,
    GroupMember,
    Peers,
    PolicySet,
    Port,
    address_parse,
    prefix_parse,
    ranges_merge,
)

ANY = "any"
GROUP_PREFIX = "group:"
OUTSIDE_PREFIX = "outside:"
PROTOCOLS = {
    "tcp": PROTO_TCP,
    "udp": PROTO_UDP,
    "sctp": PROTO_SCTP,
    "icmp": PROTO_ICMP,
    "icmpv6": PROTO_ICMPV6,
    "igmp": 2,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ospf": 89,
    "vrrp": 112,
}
# Where `any` looks for an address outside all segments: documentation prefixes (RFC 5737, RFC 3849) first.
_OUTSIDE = tuple(
    prefix_parse(text)
    for text in ("203.0.113.0/24", "198.51.100.0/24", "192.0.2.0/24", "0.0.0.0/0", "2001:db8:ffff::/48", "2000::/3")
)
_MAXIMUM_GUESSES = 4000


class EndpointError(ValueError):
    """What was written names no end of a connection; the message says what would."""


class Peer(NamedTuple):
    """One concrete end: a vNIC with one of its addresses, or (`port` None) an address that no vNIC has."""

    port: Port | None
    address: Address

    @property
    def name(self) -> str:
        """The vNIC's name, else the address."""
        return str(self.address) if self.port is None else self.port.name

    def __str__(self) -> str:
        return str(self.address) if self.port is None else f"{self.port.name} ({self.address})"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`text` as written; its vNICs, and addresses that no vNIC has."""

    text: str
    ports: tuple[Port, ...] = ()
    outside: tuple[Address, ...] = ()

    def peers(self, family: Family | None = None) -> Iterator[Peer]:
        """Every vNIC with each of its addresses, then the addresses outside; of one family, or of both."""
        for port in self.ports:
            yield from (Peer(port, address) for address in port.ips if family in (None, address.family))
        yield from (Peer(None, address) for address in self.outside if family in (None, address.family))


def endpoint_parse(text: str, world: PolicySet) -> Endpoint:
    """What `text` names in this policy and inventory. Raises EndpointError.

    An address that a vNIC has is that vNIC. A CIDR is every vNIC with an address in it, and one of its addresses that
    no vNIC has. `any` is every vNIC, and for each family one address outside all segments.
    """
    inventory = world.inventory
    if text == ANY:
        return Endpoint(text, tuple(inventory), outside_addresses(world))
    if text.startswith(GROUP_PREFIX):
        return _group(text, world)
    if text.startswith(OUTSIDE_PREFIX):
        return _outside(text, world)
    if text in inventory.ports:
        return Endpoint(text, (inventory.ports[text],))
    if "/" in text and _is_prefix(text):
        return _prefix(text, world)
    try:
        address = address_parse(text)
    except ValueError:
        raise EndpointError(_unknown(text, world)) from None
    bound = inventory.ports_at(address)
    if len(bound) > 1:
        names = " or ".join(port.name for port in bound)
        raise EndpointError(f"{text} may be that of {names}; name the vNIC")
    return Endpoint(text, (_with(bound[0], (address,)),)) if bound else Endpoint(text, (), (address,))


def _outside(text: str, world: PolicySet) -> Endpoint:
    found = endpoint_parse(text.removeprefix(OUTSIDE_PREFIX), world)
    if found.ports or not found.outside:
        names = ", ".join(port.name for port in found.ports[:3]) or "no free address"
        raise EndpointError(f"{text} is not outside: {names} is there")
    return Endpoint(text, (), found.outside)


def _with(port: Port, ips: tuple[Address, ...]) -> Port:
    """The port as if it had only these of its addresses."""
    return replace(port, ips=ips)


def _is_prefix(text: str) -> bool:
    base, _, length = text.partition("/")
    if not length.isdigit():
        return False
    try:
        address_parse(base)
    except ValueError:
        return False
    return True


def _prefix(text: str, world: PolicySet) -> Endpoint:
    try:
        prefix = prefix_parse(text)
    except ValueError as error:
        raise EndpointError(str(error)) from None
    inside = [
        _with(port, ips) for port in world.inventory if (ips := tuple(ip for ip in port.ips if prefix.contains(ip)))
    ]
    taken = [AddressRange(ip.family, ip.value, ip.value) for port in inside for ip in port.ips]
    free = _first_free(prefix, taken)
    return Endpoint(text, tuple(inside), () if free is None else (free,))


def _group(text: str, world: PolicySet) -> Endpoint:
    name = text.removeprefix(GROUP_PREFIX)
    paths = [name] if name in world.groups else [path for path in world.groups if path.endswith(f"/{name}")]
    if len(paths) != 1:
        if paths:
            raise EndpointError(f"{text} could be {' or '.join(paths)}; write the path")
        known = [path.rpartition("/")[2] for path in world.groups]
        raise EndpointError(f"there is no group {name!r}{_nearest(name, known)}")
    peers = Peers((GroupMember(paths[0]),))
    ports = world.members(peers)
    ranges = ranges_merge(world.group_ranges(paths[0]))
    bound = [AddressRange(ip.family, ip.value, ip.value) for port in world.inventory for ip in port.ips]
    also = {port.name for port in ports}
    more = [
        _with(port, ips)
        for port in world.inventory
        if port.name not in also and (ips := tuple(ip for ip in port.ips if any(item.contains(ip) for item in ranges)))
    ]
    free = [_first_free(item, bound) for item in ranges]
    return Endpoint(text, (*ports, *more), tuple(address for address in free if address is not None))


def _first_free(within: AddressRange, taken: Iterable[AddressRange]) -> Address | None:
    """The first address of a range that is in none of the others; None where there is none.

    Network and broadcast addresses of an IPv4 prefix are left out where it has others.
    """
    length = within.prefix_length
    has_ends = length is not None and within.last - within.first >= 2
    first, last = (within.first + 1, within.last - 1) if has_ends else (within.first, within.last)
    candidate = first
    for item in ranges_merge(item for item in taken if item.family is within.family):
        if item.first <= candidate <= item.last:
            candidate = item.last + 1
    return Address(within.family, candidate) if candidate <= last else None


def outside_addresses(world: PolicySet) -> tuple[Address, ...]:
    """For each family one address that is in no segment's subnet and that no vNIC has."""
    inventory = world.inventory
    taken = [subnet for segment in inventory.segments.values() for subnet in segment.subnets]
    taken += [AddressRange(ip.family, ip.value, ip.value) for port in inventory for ip in port.ips]
    found: dict[Family, Address] = {}
    for pool in _OUTSIDE:
        if pool.family not in found and (address := _first_free(pool, taken)) is not None:
            found[pool.family] = address
    return tuple(found.values())


def _unknown(text: str, world: PolicySet) -> str:
    forms = "a vNIC, ns/name of a pod, an address, a CIDR, group:ID or any"
    return f"{text!r} is no vNIC of the inventory and no address{_nearest(text, world.inventory.ports)}; write {forms}"


def _nearest(text: str, choices: Iterable[str]) -> str:
    some = list(islice(choices, _MAXIMUM_GUESSES))
    # A pod without its namespace is the likeliest mistake, and unlike the right name in its letters.
    pods = [name for name in some if name.endswith(f"/{text}")]
    found = pods or difflib.get_close_matches(text, some, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def protocol_parse(text: str) -> int:
    """An IP protocol by name or number. Raises EndpointError."""
    word = text.lower()
    if word in PROTOCOLS:
        return PROTOCOLS[word]
    if word in ("icmp6", "ipv6-icmp"):
        return PROTO_ICMPV6
    if word.isdigit() and len(word) <= 3 and int(word) <= 255:
        return int(word)
    raise EndpointError(f"{text!r} is not a protocol: {', '.join(PROTOCOLS)}, or a number (0-255)")


def protocol_name(protocol: int) -> str:
    """The name of an IP protocol, else its number."""
    return next((name for name, number in PROTOCOLS.items() if number == protocol), str(protocol))


def port_parse(text: str) -> int:
    """A transport port. Raises EndpointError."""
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535:
        return int(text)
    raise EndpointError(f"{text!r} is not a port (0-65535)")
