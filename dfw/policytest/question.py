# SPDX-License-Identifier: Apache-2.0
"""What an assertion asks: the packets that it stands for, and what is expected of them. Pure.

Every pair of ends, in each address family that both have. A workload's packets to itself never meet a filter and are
left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dfw.endpoint import (
    ANY,
    GROUP_PREFIX,
    OUTSIDE_PREFIX,
    Endpoint,
    EndpointError,
    Peer,
    endpoint_parse,
    port_parse,
    protocol_name,
    protocol_parse,
)
from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTOCOLS_WITH_PORTS,
    Address,
    AddressRange,
    Family,
    PolicySet,
    Port,
    prefix_parse,
)
from dfw.policytest.errors import PolicyTestError
from dfw.policytest.rules import rule_find
from dfw.probe import EPHEMERAL_PORT, Probe

MAXIMUM_PAIRS = 200_000
ECHO = {PROTO_ICMP: 8, PROTO_ICMPV6: 128}
Ends = str | Sequence[str]


class Service(NamedTuple):
    """What is sent: `name` set is a port that the receiver calls so; ICMP: type and code, as Probe has them."""

    text: str
    protocol: int = 0
    sport: int = 0
    dport: int = 0
    family: Family | None = None
    name: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One assertion. `by`: the path of the rule that is to decide; `text`: the call, for messages."""

    text: str
    allowed: bool
    probes: tuple[Probe, ...]
    by: str | None = None

    @property
    def is_plain(self) -> bool:
        """Do the rules alone decide about all of its packets? Not about ICMP that belongs to something else."""
        return all(probe_is_plain(probe) for probe in self.probes)


def probe_is_plain(probe: Probe) -> bool:
    """Can this packet begin a connection, whatever came before it? Then the first rule that matches decides."""
    if probe.protocol in ECHO:
        return probe.is_icmp and (probe.sport, probe.dport) == (ECHO[probe.protocol], 0)
    return probe.protocol in PROTOCOLS_WITH_PORTS


def question_make(
    world: PolicySet,
    *,
    allowed: bool,
    source: Ends,
    destination: Ends,
    service: Ends,
    by: str | None = None,
    except_from: Ends = (),
    except_to: Ends = (),
    family: int | None = None,
    sport: int | None = None,
    verb: str = "",
) -> Question:
    """The question that an assertion asks. `verb`: what the test called, else assert_allowed or assert_denied.

    Raises PolicyTestError: not understood, no workload, or no pairs.
    """
    text = _call(verb or ("assert_allowed" if allowed else "assert_denied"), source, destination, service)
    try:
        sources, destinations = _endpoints(world, source), _endpoints(world, destination)
        services = services_parse(service, sport)
        excluded = [[_covers(world, item) for item in _listed(ends)] for ends in (except_from, except_to)]
    except EndpointError as error:
        raise PolicyTestError(f"{text}: {error}") from None
    if family not in (None, 4, 6):
        raise PolicyTestError(f"{text}: family is 4 or 6, not {family!r}")
    path = None if by is None else rule_find(world, by)
    if not allowed:
        for end in (*sources, *destinations):
            _need_workload(text, end, world)
    wanted = {None: None, 4: Family.IPV4, 6: Family.IPV6}[family]
    probes = tuple(_probes(text, sources, destinations, services, excluded, wanted))
    if not probes:
        raise PolicyTestError(f"{text}: expands to no pairs: {_why_none(sources, destinations, services, wanted)}")
    return Question(text, allowed, probes, path)


def _listed(ends: Ends) -> tuple[str, ...]:
    return (ends,) if isinstance(ends, str) else tuple(ends)


def _call(name: str, source: Ends, destination: Ends, service: Ends) -> str:
    shown = [repr(item if isinstance(item, str) else list(item)) for item in (source, destination, service)]
    return f"{name}({', '.join(shown)})"


def _endpoints(world: PolicySet, ends: Ends) -> list[Endpoint]:
    names = _listed(ends)
    if not names or not all(isinstance(name, str) for name in names):
        raise EndpointError(f"{ends!r} is no end: write a vNIC, ns/name of a pod, an address, a CIDR, group:ID or any")
    return [endpoint_parse(name, world) for name in names]


def _need_workload(text: str, end: Endpoint, world: PolicySet) -> None:
    """A denial of nobody proves nothing: a typing error in an address would pass for ever."""
    if end.ports or end.text.startswith(OUTSIDE_PREFIX):
        return
    if not world.inventory.ports:
        raise PolicyTestError(f"{text}: {end.text} resolves to no workload: there is no inventory")
    if end.text.startswith(GROUP_PREFIX) or not end.outside:
        raise PolicyTestError(f"{text}: {end.text} resolves to no workload, so its denial proves nothing")
    raise PolicyTestError(
        f"{text}: {end.text} resolves to no workload, so its denial proves nothing; "
        f"if an address outside is meant, write {OUTSIDE_PREFIX}{end.text}"
    )


class _Covers(NamedTuple):
    """Who is excepted: these vNICs with these addresses, and every address in these ranges."""

    peers: frozenset[tuple[str, Address]]
    ranges: tuple[AddressRange, ...]
    everybody: bool

    def has(self, peer: Peer) -> bool:
        """Is this end excepted?"""
        if self.everybody:
            return True
        if peer.port is not None and (peer.port.name, peer.address) in self.peers:
            return True
        return peer.port is None and any(item.contains(peer.address) for item in self.ranges)


def _covers(world: PolicySet, text: str) -> _Covers:
    end = endpoint_parse(text, world)
    peers = frozenset((peer.port.name, peer.address) for peer in end.peers() if peer.port is not None)
    ranges = [AddressRange(address.family, address.value, address.value) for address in end.outside]
    bare = text.removeprefix(OUTSIDE_PREFIX)
    if text.startswith(GROUP_PREFIX):
        name = text.removeprefix(GROUP_PREFIX)
        paths = [name] if name in world.groups else [path for path in world.groups if path.endswith(f"/{name}")]
        ranges += world.group_ranges(paths[0])
    elif "/" in bare and text not in world.inventory.ports:
        ranges.append(prefix_parse(bare))
    return _Covers(peers, tuple(ranges), text == ANY)


def ends_cover(world: PolicySet, ends: Ends) -> Callable[[Address], bool]:
    """Whether an address is one of these ends'. Raises PolicyTestError."""
    try:
        covers = [_covers(world, name) for name in _listed(ends)]
    except EndpointError as error:
        raise PolicyTestError(str(error)) from None

    def has(address: Address) -> bool:
        peers = [Peer(port, address) for port in world.inventory.ports_at(address)] or [Peer(None, address)]
        return any(item.has(peer) for item in covers for peer in peers)

    return has


def services_parse(service: Ends, sport: int | None = None) -> list[Service]:
    """`tcp/80`, `udp/53,tcp/53`, `icmp`, `icmp/3/4`, `gre`, a port's name. Raises EndpointError."""
    texts = [part.strip() for item in _listed(service) for part in str(item).split(",")]
    if not any(texts):
        raise EndpointError("no service is named: write tcp/443, udp/53, icmp or a port's name")
    return [_service(text, EPHEMERAL_PORT if sport is None else port_parse(str(sport))) for text in texts]


def _service(text: str, sport: int) -> Service:
    name, slash, rest = text.partition("/")
    try:
        protocol = protocol_parse(name)
    except EndpointError:
        if slash or not name.replace("-", "").isalnum() or len(name) > 15:
            raise
        return Service(text, name=name, sport=sport)
    if protocol in PROTOCOLS_WITH_PORTS:
        if not slash:
            raise EndpointError(f"{text} has ports: write {text}/443")
        return Service(text, protocol, sport, port_parse(rest))
    if protocol in ECHO:
        family = Family.IPV4 if protocol == PROTO_ICMP else Family.IPV6
        kind, _, code = rest.partition("/")
        numbers = (kind or str(ECHO[protocol]), code or "0")
        if not all(item.isascii() and item.isdigit() and int(item) <= 255 for item in numbers):
            raise EndpointError(f"{text!r} is not an ICMP type and code, such as icmp/8 or icmp/3/1")
        return Service(text, protocol, int(numbers[0]), int(numbers[1]), family)
    if slash:
        raise EndpointError(f"{protocol_name(protocol)} has no ports: write {name}")
    return Service(text, protocol)


def _probes(
    text: str,
    sources: Iterable[Endpoint],
    destinations: Iterable[Endpoint],
    services: Sequence[Service],
    excluded: Sequence[Sequence[_Covers]],
    wanted: Family | None,
) -> Iterator[Probe]:
    senders, receivers = (
        [peer for peer in _peers(ends, wanted) if not any(item.has(peer) for item in out)]
        for ends, out in zip((sources, destinations), excluded, strict=True)
    )
    if len(senders) * len(receivers) * len(services) > MAXIMUM_PAIRS:
        raise PolicyTestError(f"{text}: more than {MAXIMUM_PAIRS} packets; ask about fewer ends at once")
    for service in services:
        for sender in senders:
            for receiver in receivers:
                if sender.address.family is not receiver.address.family or sender.name == receiver.name:
                    continue
                if service.family in (None, sender.address.family):
                    yield from _probe(sender, receiver, service)


def _peers(ends: Iterable[Endpoint], wanted: Family | None) -> Iterable[Peer]:
    """The ends' vNICs with their addresses and the addresses outside, each once."""
    return {(peer.name, peer.address): peer for end in ends for peer in end.peers(wanted)}.values()


def _probe(sender: Peer, receiver: Peer, service: Service) -> Iterator[Probe]:
    if not service.name:
        yield Probe(sender, receiver, service.protocol, service.sport, service.dport)
        return
    for item in receiver.port.named_ports if receiver.port is not None else ():
        if item.name == service.name:
            yield Probe(sender, receiver, item.protocol, service.sport, item.number)


def _why_none(
    sources: Sequence[Endpoint], destinations: Sequence[Endpoint], services: Sequence[Service], wanted: Family | None
) -> str:
    ends = [list(_peers(side, wanted)) for side in (sources, destinations)]
    for side, found in zip((sources, destinations), ends, strict=True):
        if not found:
            return f"{' and '.join(end.text for end in side)} has no address" + (f" of {wanted.name}" if wanted else "")
    names = [{peer.name for peer in side} for side in ends]
    if names[0] == names[1] and len(names[0]) == 1:
        return "both ends are the same"
    families = [{peer.address.family for peer in side} for side in ends]
    if not families[0] & families[1]:
        return "the ends have no address family in common"
    if any(item.name for item in services):
        return f"no receiver has a port named {' or '.join(item.name for item in services if item.name)}"
    return "every end is excepted, or of the wrong family"


def ports_of(probes: Iterable[Probe]) -> dict[str, Port]:
    """The vNICs at the ends of packets, by name."""
    return {end.port.name: end.port for probe in probes for end in (probe.source, probe.destination) if end.port}
