# SPDX-License-Identifier: Apache-2.0
"""Many packets judged by a policy at once, rule by rule, and again by a policy with one rule changed. Pure.

Each rule has a column: for every judgement (one packet at one filter) whether it matches, NO, MAYBE or YES. The first
YES decides. A changed rule is a changed column, and only the judgements that it touches are decided again: this is what
makes hundreds of mutations a matter of seconds. MAYBE: the rule looks at addresses, and nobody said which address the
workload has (dfw/reach_walk.py does the same for `matrix`).

First packets of connections only; what the packet core keeps between packets is none of this module's business. What it
says of the rules is held against the packet core at the end of every test session (worlds.py).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from dfw.membership import Membership
from dfw.model import (
    EXCLUDED_POLICY,
    Action,
    Address,
    AddressRange,
    Direction,
    EffectiveRule,
    Family,
    Peers,
    PolicySet,
    Rule,
    ServiceEntry,
    Tier,
)
from dfw.model import Service as RuleService
from dfw.probe import Probe
from dfw.reach_walk import ALLOWED, DENIED, MAYBE, NO, UNKNOWN, YES, Codes

NOBODY: Final = -1  # no rule: nothing judged, or none matched
UNSURE: Final = -2  # it is not known which rule
_MAY_ALLOW, _MAY_DENY = 1, 2
_CODES = np.array([DENIED, ALLOWED, DENIED, UNKNOWN], np.uint8)
Numbers = npt.NDArray[np.int64]


class ServiceKey(NamedTuple):
    """What a rule's services look at, as ServiceEntry.matches takes it."""

    family: Family
    protocol: int
    source: int
    destination: int
    tcp_flags: int


class Verdicts(NamedTuple):
    """For each judgement: ALLOWED, DENIED or UNKNOWN, and the number of the rule that decided. `passed`: the rules that
    some judgement met on its way and that handed on (JUMP_TO_APPLICATION, PASS, layer 2's ALLOW), by judgement."""

    codes: Codes
    rules: Numbers
    passed: dict[int, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Points:
    """Packets at filters, by number. `out_at`, `in_at`: the judgement of each packet going OUT (or on the wire) and
    coming IN; NOBODY where there is none. `port`: the filter's vNIC, NOBODY for the wire."""

    probes: Sequence[Probe]
    out_at: Numbers
    in_at: Numbers
    probe: Numbers
    port: Numbers
    direction: npt.NDArray[np.uint8]

    @property
    def count(self) -> int:
        """Of judgements."""
        return len(self.probe)


def points_of(world: PolicySet, probes: Sequence[Probe], has_inventory: bool) -> Points:
    """Where packets are judged: OUT at the sender's vNIC, IN at the receiver's; without an inventory, on a wire."""
    numbers = {name: number for number, name in enumerate(world.inventory.ports)}
    rows: list[tuple[int, int, int]] = []
    places: list[list[int]] = [[], []]
    for at, probe in enumerate(probes):
        if not has_inventory:
            places[0].append(len(rows))
            places[1].append(NOBODY)
            rows.append((at, NOBODY, int(Direction.IN_OUT)))
            continue
        ends = zip((probe.source, probe.destination), (Direction.OUT, Direction.IN), places, strict=True)
        for peer, direction, place in ends:
            place.append(NOBODY if peer.port is None else len(rows))
            if peer.port is not None:
                rows.append((at, numbers[peer.port.name], int(direction)))
    columns = np.array(rows, dtype=np.int64).reshape(-1, 3)
    out_at, in_at = (np.array(place, dtype=np.int64) for place in places)
    return Points(probes, out_at, in_at, columns[:, 0], columns[:, 1], columns[:, 2].astype(np.uint8))


def rules_in_order(world: PolicySet, has_inventory: bool) -> list[EffectiveRule]:
    """All enabled rules as they are judged, layer 2 first; last, what stands at the vNICs of the exclusion list."""
    policies = (*world.ordered, EXCLUDED_POLICY) if has_inventory and world.excluded.terms != () else world.ordered
    return [
        EffectiveRule(policy, rule, rule.direction if has_inventory else Direction.IN_OUT)
        for policy in policies
        for rule in policy.rules
        if not rule.disabled
    ]


class Resolved:
    """What a policy's rules resolve to, whatever the packets: found once for many a Judge."""

    def __init__(self, world: PolicySet, has_inventory: bool) -> None:
        self.world = world
        self.has_inventory = has_inventory
        self.rules = rules_in_order(world, has_inventory)
        self._membership = Membership(world)
        self.excluded = self._of_ports(world.excluded)
        self._applied: dict[Peers, npt.NDArray[np.bool_]] = {}
        self._sides: dict[Peers, Side] = {}

    def _of_ports(self, peers: Peers) -> npt.NDArray[np.bool_]:
        """Which vNICs are members; one more row, for the wire, where Applied-To is not looked at."""
        found = np.zeros(len(self._membership.ports) + 1, np.bool_)
        found[list(self._membership.members(peers))] = True
        return found

    def applied(self, peers: Peers) -> npt.NDArray[np.bool_]:
        """At which vNICs, and (always) on the wire, rules with this Applied-To are programmed."""
        if peers not in self._applied:
            applied = self._of_ports(peers) & ~self.excluded
            applied[-1] = True
            self._applied[peers] = applied
        return self._applied[peers]

    def side(self, peers: Peers) -> Side:
        """The addresses of a rule's side, which is not ANY."""
        if peers not in self._sides:
            assert peers.terms is not None
            ranges = self._membership.addresses(peers.terms)
            members = self._membership.members(peers) if self._membership.is_fixed(peers.terms) else None
            self._sides[peers] = Side(ranges, [(item.family, item.first) for item in ranges], members)
        return self._sides[peers]

    def contains(self, peers: Peers, address: Address) -> bool:
        """Is this address a member of a rule's side?"""
        return peers.is_any or self.side(peers).contains(address)


class Side(NamedTuple):
    """Sorted, disjoint ranges, with their beginnings. `members`: the vNICs that are members whatever their addresses;
    None where no address is a member by itself."""

    ranges: tuple[AddressRange, ...]
    first: list[tuple[Family, int]]
    members: frozenset[int] | None

    def contains(self, address: Address) -> bool:
        """Is this address a member?"""
        at = bisect_right(self.first, (address.family, address.value)) - 1
        return at >= 0 and self.ranges[at].contains(address)


class Judge:
    """A policy's rules over some packets."""

    def __init__(self, resolved: Resolved, probes: Sequence[Probe]) -> None:
        self._resolved = resolved
        world = self.world = resolved.world
        self.rules = resolved.rules
        self.points = points = points_of(world, probes, resolved.has_inventory)
        self._addresses: dict[Address, int] = {}
        owners: list[int] = []  # of addresses that were only assumed: their port's number
        ends = np.zeros((2, len(probes)), np.int64)
        services: dict[ServiceKey, int] = {}
        service = np.zeros(len(probes), np.int64)
        family = np.zeros(len(probes), np.uint8)
        numbers = {name: number for number, name in enumerate(world.inventory.ports)}
        for at, probe in enumerate(probes):
            for side, peer in enumerate((probe.source, probe.destination)):
                number = self._addresses.setdefault(peer.address, len(self._addresses))
                if number == len(owners):
                    is_assumed = peer.port is not None and peer.port.ips_assumed
                    owners.append(numbers[peer.name] if is_assumed else NOBODY)
                ends[side, at] = number
            family[at] = int(probe.family)
            key = ServiceKey(probe.family, probe.protocol, probe.sport, probe.dport, probe.tcp_flags)
            service[at] = services.setdefault(key, len(services))
        self._owners = owners
        self._source, self._destination = ends[0][points.probe], ends[1][points.probe]
        self._service, self._family = service[points.probe], family[points.probe]
        self._services = list(services)
        self._keys = list(self._addresses)
        self._inside: dict[Peers, Codes] = {}
        self._served: dict[tuple[RuleService, ...], npt.NDArray[np.bool_]] = {}
        self.columns: list[Codes] = [self.column(item) for item in self.rules]

    # -- columns

    def column(self, item: EffectiveRule) -> Codes:
        """For each judgement: does this rule match?"""
        rule = item.rule
        fits = (self.points.direction & int(item.direction)) != 0
        fits &= self._applies(item)
        if item.tier is Tier.ETHERNET:
            return np.where(fits & self._layer2(rule), YES, NO).astype(np.uint8)
        families = np.zeros(4, np.bool_)
        families[[int(family) for family in rule.families]] = True
        fits &= families[self._family]
        if rule.services and fits.any():
            fits &= self._serves(rule.services)
        found = np.where(fits, YES, NO).astype(np.uint8)
        for peers, excluded, at in (
            (rule.sources, rule.sources_excluded, self._source),
            (rule.destinations, rule.destinations_excluded, self._destination),
        ):
            if not peers.is_any and fits.any():
                inside = self._members(peers)[at]
                found = np.minimum(found, YES - inside if excluded else inside)
        return found

    def _applies(self, item: EffectiveRule) -> npt.NDArray[np.bool_]:
        if item.policy is EXCLUDED_POLICY:
            return self._resolved.excluded[self.points.port]
        return self._resolved.applied(item.applied_to)[self.points.port]

    def _members(self, peers: Peers) -> Codes:
        """For each address: is it a member?"""
        found = self._inside.get(peers)
        if found is None:
            side = self._resolved.side(peers)
            found = np.array([YES if side.contains(address) else NO for address in self._keys], np.uint8)
            if side.members is not None:
                for number, owner in enumerate(self._owners):
                    if owner != NOBODY:
                        found[number] = YES if owner in side.members else MAYBE
            self._inside[peers] = found
        return found

    def _serves(self, services: tuple[RuleService, ...]) -> npt.NDArray[np.bool_]:
        """For each judgement: is its service one of these?"""
        found = self._served.get(services)
        if found is None:
            entries = list(dict.fromkeys(entry for service in services for entry in service.entries))
            plain = [entry for entry in entries if not entry.destination_port_name]
            named = [entry for entry in entries if entry.destination_port_name]
            table = [any(entry.matches(*key) for entry in plain) for key in self._services]
            found = np.array(table, np.bool_)[self._service]
            if named:
                at = np.stack([self._service, self._destination], axis=1)
                pairs, back = np.unique(at, axis=0, return_inverse=True)
                answers = [self._serves_named(named, *map(int, pair)) for pair in pairs]
                found |= np.array(answers, np.bool_)[back.reshape(-1)]
            self._served[services] = found
        return found

    def _serves_named(self, entries: Iterable[ServiceEntry], service: int, destination: int) -> bool:
        named = self.world.named_ports(self._keys[destination])
        return any(entry.matches(*self._services[service], named) for entry in entries)

    def _layer2(self, rule: Rule) -> npt.NDArray[np.bool_]:
        """For each judgement: does a layer-2 rule match the frame?"""
        types = {entry.ether_type for service in rule.services for entry in service.entries}
        sides = [None if peers.is_any else self.world.macs(peers) for peers in (rule.sources, rule.destinations)]
        excluded = (rule.sources_excluded, rule.destinations_excluded)
        found = [
            (not rule.services or probe.ether_type in types)
            and all(
                members is None or (mac in members) is not out
                for members, mac, out in zip(sides, probe.macs, excluded, strict=True)
            )
            for probe in self.points.probes
        ]
        return np.array(found, np.bool_)[self.points.probe]

    # -- verdicts

    def decide(self, rules: Sequence[EffectiveRule], columns: Sequence[Codes], at: Numbers | None = None) -> Verdicts:
        """The verdicts of these rules in this order; `at`: of these judgements only."""
        count = self.points.count if at is None else len(at)
        still, layer2 = np.ones(count, np.bool_), np.ones(count, np.bool_)
        outcome, tier = np.zeros(count, np.uint8), np.zeros(count, np.uint8)
        by = np.full(count, NOBODY, np.int64)
        passed: dict[int, npt.NDArray[np.bool_]] = {}
        for number, (item, whole) in enumerate(zip(rules, columns, strict=True)):
            column = whole if at is None else whole[at]
            matched = still & (column != NO) & (tier <= int(item.tier))
            if item.tier is Tier.ETHERNET:
                matched &= layer2
                layer2 &= ~matched
                if item.rule.action is Action.ALLOW:
                    passed[number] = matched  # goes on to layer 3
                    continue
            if not matched.any():
                continue
            sure = matched & (column == YES)
            by[matched & (by == NOBODY)] = UNSURE
            if item.resume_tier is not None:
                # What follows depends on whether it matched: not worth following twice.
                outcome[matched & ~sure] |= _MAY_ALLOW | _MAY_DENY
                still &= ~(matched & ~sure)
                tier[sure] = int(item.resume_tier)
                by[sure & (outcome == 0)] = NOBODY
                passed[number] = sure
                continue
            by[sure & (outcome == 0)] = number
            outcome[matched] |= _MAY_ALLOW if item.rule.action is Action.ALLOW else _MAY_DENY
            still &= ~sure
            if not still.any():
                break
        outcome[still] |= _MAY_DENY
        return Verdicts(_CODES[outcome], by, passed)

    def verdicts(self) -> Verdicts:
        """Of the policy as it is."""
        return self.decide(self.rules, self.columns)


class Answers(NamedTuple):
    """For each packet: does it arrive; the number of the rule that decided (the sender's where it refused, else the
    receiver's), and of the rules that let it pass before (NOBODY: none)."""

    codes: Codes
    decided: Numbers
    before: Numbers

    def part(self, start: int, end: int) -> Answers:
        """The answers about the packets start..end-1."""
        return Answers(self.codes[start:end], self.decided[start:end], self.before[start:end])


def answers_of(points: Points, verdicts: Verdicts) -> Answers:
    """Judgements at filters as answers about packets: it arrives where every filter on its way lets it pass."""
    padded_codes = np.append(verdicts.codes, np.uint8(ALLOWED))  # [-1]: no filter there
    padded_rules = np.append(verdicts.rules, NOBODY)
    out_codes, in_codes = padded_codes[points.out_at], padded_codes[points.in_at]
    out_rules, in_rules = padded_rules[points.out_at], padded_rules[points.in_at]
    denied = (out_codes == DENIED) | (in_codes == DENIED)
    allowed = (out_codes == ALLOWED) & (in_codes == ALLOWED)
    codes = np.where(denied, DENIED, np.where(allowed, ALLOWED, UNKNOWN)).astype(np.uint8)
    at_sender = (out_codes == DENIED) | (points.in_at == NOBODY)
    return Answers(codes, np.where(at_sender, out_rules, in_rules), np.where(at_sender, NOBODY, out_rules))
