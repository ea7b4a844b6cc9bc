# SPDX-License-Identifier: Apache-2.0
"""Why a packet was judged as it was at one filter: the rule, its fields, the rules above that did not match. Pure.

A third evaluation of the model, rule by rule and field by field, beside the oracle's scan and the compiled tables;
whoever explains asserts that all three name the same rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from dfw.endpoint import protocol_name
from dfw.member_reason import Reason, port_reason, side_reason
from dfw.model import (
    ANY_ENTRY,
    EXCLUDED_POLICY,
    PROTO_ICMP,
    PROTO_ICMPV6,
    Action,
    Direction,
    EffectiveRule,
    Family,
    Peers,
    PolicyKind,
    PolicySet,
    Port,
    PortRange,
    Service,
    ServiceEntry,
    Tier,
    ether_rules_for,
    ether_rules_for_tap,
)
from dfw.probe import Probe

FIELDS = ("order", "schedule", "disabled", "applied_to", "direction", "family", "source", "destination", "service")
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rule above the one that decided, and by which of its fields it did not (`why`: field -> sentence).

    `near`: it would have decided but for one field.
    """

    effective: EffectiveRule
    why: dict[str, str]
    near: bool


@dataclass(frozen=True, slots=True)
class Match:
    """A rule that matches, and what of each field made it so."""

    effective: EffectiveRule
    source: Reason
    destination: Reason
    service: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """One filter's rules on one packet. `match` None: no rule matched. `passed`: rules that matched and handed on
    (JUMP_TO_APPLICATION, PASS), in order."""

    match: Match | None
    passed: tuple[Match, ...] = ()
    skipped: tuple[Skipped, ...] = field(default=())

    @property
    def is_default(self) -> bool:
        """Did the default section decide?"""
        return self.match is None or self.match.effective.policy.kind is PolicyKind.DEFAULT


def explain_at(world: PolicySet, port: Port | None, direction: Direction, probe: Probe, above: int = 3) -> Explanation:
    """What the rules at a vNIC (None: on a tap) say of a packet.

    `above`: how many of the rules just above the deciding one are explained; those that failed by one field only are
    explained wherever they stand, as many again.
    """
    refused = _layer2(world, port, direction, probe)
    if refused is not None:
        return Explanation(refused)
    passed: list[Match] = []
    others: list[EffectiveRule] = []
    decided: Match | None = None
    resume = Tier.ETHERNET
    by = ""
    orders: dict[int, str] = {}
    for item in _candidates(world, port):
        if item.tier < resume:
            orders[len(others)] = f"{by} goes on in {resume.name.capitalize()}"
        elif not _obstacles(world, port, direction, probe, item):
            found = _match(world, probe, item)
            if item.resume_tier is None:
                decided = found
                break
            resume = item.resume_tier
            by = f"{item.rule.id} ({item.rule.action.value})"
            passed.append(found)
            continue
        others.append(item)
    chosen = _chosen(world, port, direction, probe, others, orders, above)
    return Explanation(decided, tuple(passed), chosen)


def _layer2(world: PolicySet, port: Port | None, direction: Direction, probe: Probe) -> Match | None:
    """The layer-2 rule that drops the frame; None where it goes on to layer 3."""
    for item in ether_rules_for_tap(world) if port is None else ether_rules_for(world, port):
        rule = item.rule
        source, destination = probe.macs
        sides = [
            _mac_reason(world, peers, mac, excluded)
            for peers, mac, excluded in (
                (rule.sources, source, rule.sources_excluded),
                (rule.destinations, destination, rule.destinations_excluded),
            )
        ]
        types = [entry.ether_type for service in rule.services for entry in service.entries]
        if not item.direction & direction or (types and probe.ether_type not in types):
            continue
        if all(side.member for side in sides):
            service = f"EtherType {probe.ether_type:#06x}" if types else "any"
            return None if rule.action is Action.ALLOW else Match(item, sides[0], sides[1], service)
    return None


def _mac_reason(world: PolicySet, peers: Peers, mac: str, excluded: bool) -> Reason:
    if peers.terms is None:
        return Reason(True, "any")
    inside = mac in world.macs(peers)
    return _negated(Reason(inside, f"MAC {mac} is {'' if inside else 'not '}a member"), excluded)


def _candidates(world: PolicySet, port: Port | None) -> Iterator[EffectiveRule]:
    """All rules in order of judgement, those that are disabled or programmed elsewhere too."""
    policies = replace(world, at=None).ordered
    if port is not None and world.selects(world.excluded, port):
        policies = (EXCLUDED_POLICY,)
    for policy in policies:
        if policy.tier is not Tier.ETHERNET:
            for rule in policy.rules:
                yield EffectiveRule(policy, rule, Direction.IN_OUT if port is None else rule.direction)


def _obstacles(
    world: PolicySet, port: Port | None, direction: Direction, probe: Probe, item: EffectiveRule, *, every: bool = False
) -> list[str]:
    """The fields by which the rule does not match; unless `every`, at most the first one found."""
    rule = item.rule
    found: list[str] = []

    def sides() -> Iterator[tuple[str, bool]]:
        schedule = item.policy.schedule
        yield "schedule", schedule is None or world.at is None or schedule.is_active(world.at)
        yield "disabled", not rule.disabled
        yield "direction", bool(item.direction & direction)
        yield "family", probe.family in rule.families
        yield "service", _entry_of(world, item, probe) is not None
        yield "applied_to", port is None or world.selects(item.applied_to, port)
        for name, peers, peer, excluded in (
            ("source", rule.sources, probe.source, rule.sources_excluded),
            ("destination", rule.destinations, probe.destination, rule.destinations_excluded),
        ):
            yield name, peers.is_any or world.contains(peers, peer.address) is not excluded

    for name, fits in sides():
        if not fits:
            found.append(name)
            if not every:
                break
    return found


def _chosen(
    world: PolicySet,
    port: Port | None,
    direction: Direction,
    probe: Probe,
    others: list[EffectiveRule],
    orders: dict[int, str],
    above: int,
) -> tuple[Skipped, ...]:
    """Which of the rules passed over are worth telling: the nearest, and near misses."""
    told: dict[int, Skipped] = {}
    near = 0
    for index in range(len(others) - 1, -1, -1):
        is_nearest = len(others) - index <= above
        if not is_nearest and near >= above:
            break
        item = others[index]
        names = _obstacles(world, port, direction, probe, item, every=True)
        is_near = len(names) + (index in orders) == 1
        if is_nearest or is_near:
            near += is_near and not is_nearest
            why = {"order": orders[index]} if index in orders else {}
            why |= {name: _why(world, port, direction, probe, item, name) for name in names}
            told[index] = Skipped(item, {name: why[name] for name in FIELDS if name in why}, is_near)
    return tuple(told[index] for index in sorted(told))


def _match(world: PolicySet, probe: Probe, item: EffectiveRule) -> Match:
    return Match(
        item,
        _negated(side_reason(world, item.rule.sources, probe.source.address), item.rule.sources_excluded),
        _negated(
            side_reason(world, item.rule.destinations, probe.destination.address), item.rule.destinations_excluded
        ),
        _service_text(world, item, probe),
    )


def _negated(reason: Reason, excluded: bool) -> Reason:
    return Reason(not reason.member, f"excluded are others: {reason.text}") if excluded else reason


def _why(
    world: PolicySet, port: Port | None, direction: Direction, probe: Probe, item: EffectiveRule, name: str
) -> str:
    """Why one field does not fit, in a sentence."""
    rule = item.rule
    match name:
        case "schedule":
            assert item.policy.schedule is not None
            return f"the schedule {item.policy.schedule.path.rpartition('/')[2]} is not active at this time"
        case "disabled":
            return "the rule is disabled"
        case "direction":
            return f"the rule is for {item.direction.name}, the packet goes {direction.name}"
        case "family":
            return f"the rule is for {_families(rule.families)}, the packet is {probe.family.name}"
        case "service":
            wanted = [service_text(service) for service in rule.services[:_SHOWN]]
            more = f" and {len(rule.services) - _SHOWN} more" if len(rule.services) > _SHOWN else ""
            return f"{probe.service} is not {' or '.join(wanted)}{more}"
        case "applied_to":
            assert port is not None
            return f"not programmed here: {port_reason(world, item.applied_to, port).text}"
        case _:
            is_source = name == "source"
            excluded = rule.sources_excluded if is_source else rule.destinations_excluded
            peers, peer = (rule.sources, probe.source) if is_source else (rule.destinations, probe.destination)
            reason = side_reason(world, peers, peer.address)
            return f"it is excluded: {reason.text}" if excluded else reason.text


def _families(families: frozenset[Family]) -> str:
    return " and ".join(family.name for family in sorted(families))


# -- services


def _entry_of(world: PolicySet, item: EffectiveRule, probe: Probe) -> tuple[Service | None, ServiceEntry] | None:
    """The first service entry that matches, and its service; None where none does."""
    if not item.rule.services:
        return None, ANY_ENTRY
    named_ports = world.named_ports(probe.destination.address)
    for service in item.rule.services:
        for entry in service.entries:
            ports = probe.sport, probe.dport
            if entry.matches(probe.family, probe.protocol, *ports, probe.tcp_flags, named_ports):
                return service, entry
    return None


def _service_text(world: PolicySet, item: EffectiveRule, probe: Probe) -> str:
    found = _entry_of(world, item, probe)
    assert found is not None
    service, entry = found
    if service is None:
        return "any"
    return f"{service_name(service)} ({entry_text(entry)})" if service.path else entry_text(entry)


def service_name(service: Service) -> str:
    """Last part of the path; empty for inline entries."""
    return service.path.rpartition("/")[2]


def service_text(service: Service) -> str:
    """`MySQL (tcp 3306)`; inline entries as they are."""
    entries = ", ".join(entry_text(entry) for entry in service.entries[:_SHOWN])
    entries += f" and {len(service.entries) - _SHOWN} more" if len(service.entries) > _SHOWN else ""
    return f"{service_name(service)} ({entries})" if service.path else entries or "an empty list of services"


def entry_text(entry: ServiceEntry) -> str:
    """One service entry: `tcp 443`, `udp from 53`, `icmp 8`, `FTP tcp 21`, `any`."""
    if entry.protocol is None:
        return "any"
    parts = [entry.alg.value] if entry.alg.value != "NONE" else []
    parts.append(protocol_name(entry.protocol))
    if entry.protocol in (PROTO_ICMP, PROTO_ICMPV6) and entry.icmp_type is not None:
        parts.append(str(entry.icmp_type) + ("" if entry.icmp_code is None else f"/{entry.icmp_code}"))
    if entry.source_ports:
        parts.append(f"from {_ranges_text(entry.source_ports)}")
    if entry.destination_ports:
        parts.append(("to " if entry.source_ports else "") + _ranges_text(entry.destination_ports))
    if entry.destination_port_name:
        parts.append(f"port {entry.destination_port_name}")
    if entry.tcp_mask:
        parts.append(f"flags {entry.tcp_value:#04x}/{entry.tcp_mask:#04x}")
    return " ".join(parts)


def _ranges_text(ranges: tuple[PortRange, ...]) -> str:
    shown = [str(item.first) if item.first == item.last else f"{item.first}-{item.last}" for item in ranges[:_SHOWN]]
    return ",".join(shown) + (",..." if len(ranges) > _SHOWN else "")
