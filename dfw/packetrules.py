# SPDX-License-Identifier: Apache-2.0
"""The rules of policies as boxes of packets. Pure.

`RuleReader` resolves one policy set; `packet_spaces` makes the axes for one or several of them, so that their rules can
be compared; `Space.rows` are then the rules of one of them in one family, in order of judgement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dfw.membership import Membership
from dfw.model import (
    ANY_ENTRY,
    EXCLUDED_POLICY,
    Action,
    Addresses,
    AddressRange,
    Alg,
    AllOf,
    AnyOf,
    Direction,
    EffectiveRule,
    Family,
    GroupMember,
    Peers,
    PolicySet,
    PortRange,
    Schedule,
    ServiceEntry,
    Term,
    ranges_intersect,
    ranges_subtract,
    rules_for_tap,
)
from dfw.packetservice import ServiceAxis
from dfw.packetset import Box
from dfw.packetspace import EVERY_ADDRESS, AddressAxis, RangePool, Ranges, Side, Symbols, VnicAxis

_NOTHING: frozenset[str] = frozenset()


class Outcome(NamedTuple):
    """What becomes of a packet: all that another rule in this one's place would have to have, too.

    `unknown`: not 0 for a rule of which it is not known; like no other's.
    """

    action: Action
    stateful: bool = False
    tcp_strict: bool = False
    alg: Alg = Alg.NONE
    persist: bool = False
    unknown: int = 0


NO_RULE = Outcome(Action.DROP)
"""Where no rule matches (`no-rule`)."""


def outcome_of(item: EffectiveRule, alg: Alg) -> Outcome:
    """Only an ALLOW with state knows more than its action."""
    if item.rule.action is not Action.ALLOW or not item.stateful:
        return Outcome(item.rule.action)
    return Outcome(Action.ALLOW, True, item.tcp_strict, alg, item.rule.persist)


class Scope(NamedTuple):
    """An Applied-To list: vNICs by number (None: everywhere), and unresolved members."""

    vnics: frozenset[int] | None
    symbols: frozenset[str] = _NOTHING


class Part(NamedTuple):
    """What a rule matches by some of its service entries. `is_exact`: no more and no less."""

    alg: Alg
    sources: Mapping[Family, Side]
    destinations: Mapping[Family, Side]
    entries: tuple[ServiceEntry, ...]
    is_exact: bool = True


class ReadRule(NamedTuple):
    """A rule with its members resolved."""

    item: EffectiveRule
    scope: Scope
    direction: Direction
    parts: tuple[Part, ...]


class Row(NamedTuple):
    """A rule, or what of it has one outcome, in one family. `number`: of the rule in its list; `resume`: the tier where
    the search goes on, 0 where it ends. Not `is_exact`: it may match less."""

    number: int
    tier: int
    resume: int
    outcome: Outcome
    boxes: tuple[Box, ...]
    is_exact: bool
    schedule: Schedule | None


def is_static(world: PolicySet, term: Term, seen: frozenset[str] = frozenset()) -> bool:
    """True where the term's members do not depend on the inventory."""
    match term:
        case Addresses():
            return True
        case GroupMember(path):
            return path in seen or is_static(world, world.groups[path].expression, seen | {path})
        case AnyOf(terms):
            return all(is_static(world, item, seen) for item in terms)
        case AllOf():
            return False
        case _:
            return False


@dataclass
class RuleReader:
    """Resolves the rules of a policy set. `known`: there is an inventory; without one, what depends on it is a symbol.

    `tap`: one filter on a wire. `vnics`: the numbers that the vNICs have in the comparison, by name; `pool`: common to
    the readers that are compared.
    """

    world: PolicySet
    known: bool
    tap: bool = False
    vnics: Mapping[str, int] | None = None
    pool: RangePool = field(default_factory=RangePool)
    membership: Membership = field(init=False)
    _numbers: list[int | None] | None = field(default=None, init=False)
    _excluded: frozenset[int] = field(default=frozenset(), init=False)
    _sides: dict[tuple[Peers, bool], Mapping[Family, Side]] = field(default_factory=dict, init=False)
    _scopes: dict[Peers, Scope] = field(default_factory=dict, init=False)
    _terms: dict[Term, Mapping[Family, Ranges]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.membership = Membership(self.world)
        if self.vnics is not None:
            self._numbers = [self.vnics.get(port.name) for port in self.membership.ports]
        if self.known and not self.tap:
            self._excluded = self._numbered(self.membership.members(self.world.excluded))

    def _numbered(self, members: frozenset[int]) -> frozenset[int]:
        if self._numbers is None:
            return members
        return frozenset(number for at in members if (number := self._numbers[at]) is not None)

    def rules(self) -> list[ReadRule]:
        """All enabled layer-3 rules, in order of judgement; first the one of the vNICs on the exclusion list."""
        found: list[ReadRule] = []
        if self._excluded:
            rule = EXCLUDED_POLICY.rules[0]
            item = EffectiveRule(EXCLUDED_POLICY, rule, rule.direction)
            found.append(ReadRule(item, Scope(self._excluded), rule.direction, self._parts(item)))
        found += map(self.rule, rules_for_tap(self.world))
        return found

    def rule(self, item: EffectiveRule) -> ReadRule:
        """One rule of the policy set."""
        direction = item.direction if self.tap else item.rule.direction
        return ReadRule(item, self._scope(item.applied_to), direction, self._parts(item))

    def _symbols(self, terms: Iterable[Term]) -> frozenset[str]:
        if self.known or self.tap:
            return _NOTHING
        return frozenset(_name(term) for term in terms if not is_static(self.world, term))

    def _scope(self, peers: Peers) -> Scope:
        if self.tap or (peers.terms is None and not self._excluded):
            return Scope(None)
        if peers not in self._scopes:
            if self.known or peers.terms is None:
                self._scopes[peers] = Scope(self._numbered(self.membership.members(peers)) - self._excluded)
            else:
                self._scopes[peers] = Scope(frozenset(), self._symbols(peers.terms))
        return self._scopes[peers]

    def _side(self, peers: Peers, excluded: bool) -> Mapping[Family, Side]:
        if (peers, excluded) not in self._sides:
            if peers.terms is None:
                both = dict.fromkeys(Family, EVERY_ADDRESS)
            else:
                symbols = self._symbols(peers.terms)
                sets = [self._term(term) for term in peers.terms]
                both = {family: Side(tuple(item[family] for item in sets), symbols, excluded) for family in Family}
            self._sides[peers, excluded] = both
        return self._sides[peers, excluded]

    def _term(self, term: Term) -> Mapping[Family, Ranges]:
        if term not in self._terms:
            ranges = self.membership.addresses((term,))
            self._terms[term] = {family: self.pool.ranges(ranges, family) for family in Family}
        return self._terms[term]

    def _parts(self, item: EffectiveRule) -> tuple[Part, ...]:
        rule = item.rule
        sources = self._side(rule.sources, rule.sources_excluded)
        destinations = self._side(rule.destinations, rule.destinations_excluded)
        families = sorted(rule.families)
        here = {family: sources[family] for family in families}, {family: destinations[family] for family in families}
        if not rule.services:
            return (Part(Alg.NONE, *here, (ANY_ENTRY,)),)
        found: list[Part] = []
        for entry in dict.fromkeys(entry for service in rule.services for entry in service.entries):
            if entry.destination_port_name:
                found += self._named(item, here[0], entry)
            elif found and found[-1].alg is entry.alg and found[-1].destinations is here[1]:
                found[-1] = found[-1]._replace(entries=(*found[-1].entries, entry))
            else:
                found.append(Part(entry.alg, *here, (entry,)))
        return tuple(found)

    def _named(self, item: EffectiveRule, sources: Mapping[Family, Side], entry: ServiceEntry) -> Iterator[Part]:
        """A named port: for each number that it stands for, the destinations where it does."""
        rule, protocol = item.rule, entry.protocol
        assert protocol is not None, "a named port has a protocol"
        if not (self.known or self.tap):
            anywhere = dict.fromkeys(sources, EVERY_ADDRESS)
            yield Part(entry.alg, sources, anywhere, (ServiceEntry(protocol=protocol),), is_exact=False)
            return
        for number, members in self.membership.named_ports(entry.destination_port_name, protocol).items():
            ranges: Sequence[AddressRange] = self.membership.addresses_of(members)
            if rule.destinations.terms is not None:
                own = self.membership.addresses(rule.destinations.terms)
                ranges = (ranges_subtract if rule.destinations_excluded else ranges_intersect)(ranges, own)
            destinations = {family: Side((self.pool.ranges(ranges, family),)) for family in sources}
            ports = (PortRange(number, number),)
            resolved = ServiceEntry(protocol, entry.source_ports, ports, families=entry.families, alg=entry.alg)
            yield Part(entry.alg, sources, destinations, (resolved,))


def _name(term: Term) -> str:
    return term.path.rpartition("/")[2] if isinstance(term, GroupMember) else repr(term)


@dataclass(frozen=True, slots=True)
class Space:
    """The axes in one family, common to all rules that are compared."""

    family: Family
    vnics: VnicAxis
    sources: AddressAxis
    destinations: AddressAxis
    services: ServiceAxis

    @property
    def everything(self) -> Box:
        """All packets."""
        return Box(self.vnics.full, self.sources.full, self.destinations.full, self.services.full)

    @property
    def weight(self) -> int:
        """How much wider than a few machine words a box is."""
        return 1 + (self.vnics.size + self.sources.size + self.destinations.size + self.services.size) // 4096

    def rows(self, rules: Sequence[ReadRule]) -> list[Row]:
        """The rules in this family; a rule that matches nothing has no row."""
        found: list[Row] = []
        for number, rule in enumerate(rules):
            vnics = self.vnics.mask(*rule.scope, rule.direction)
            if not vnics:
                continue
            for part in rule.parts:
                box = self._box(vnics, part)
                if box is None:
                    continue
                outcome = outcome_of(rule.item, part.alg)
                last = found[-1] if found else None
                if last and (last.number, last.outcome, last.is_exact) == (number, outcome, part.is_exact):
                    found[-1] = last._replace(boxes=(*last.boxes, box))
                    continue
                tier, resume = int(rule.item.tier), int(rule.item.resume_tier or 0)
                schedule = rule.item.policy.schedule
                found.append(Row(number, tier, resume, outcome, (box,), part.is_exact, schedule))
        return found

    def _box(self, vnics: int, part: Part) -> Box | None:
        if self.family not in part.sources:
            return None
        source, destination = part.sources[self.family], part.destinations[self.family]
        if source.is_nothing or destination.is_nothing:
            return None
        sources, destinations = self.sources.mask(source), self.destinations.mask(destination)
        services = self.services.mask(part.entries)
        return Box(vnics, sources, destinations, services) if sources and destinations and services else None


def packet_spaces(readers: Sequence[tuple[RuleReader, Sequence[ReadRule]]]) -> dict[Family, Space]:
    """The axes for the rules of these policy sets together. Raises BudgetError where there are too many classes."""
    rules = [rule for _, some in readers for rule in some]
    leaving = [rule for rule in rules if rule.item.resume_tier is not None]
    scopes = [rule.scope for rule in rules]
    symbols = Symbols(
        (name for scope in scopes for name in scope.symbols),
        (name for rule in leaving for name in rule.scope.symbols),
    )
    first = readers[0][0]
    count = None if not first.known else len(first.vnics if first.vnics is not None else first.membership.ports)
    vnics = VnicAxis(count, (scope.vnics for scope in scopes if scope.vnics is not None), symbols, first.tap)
    found: dict[Family, Space] = {}
    for family in Family:
        parts = [part for rule in rules for part in rule.parts if family in part.sources]
        apart = [part for rule in leaving for part in rule.parts if family in part.sources]
        ends: list[AddressAxis] = []
        for side in (_source, _destination):
            sides = [side(part, family) for part in parts]
            free = (one for one in sides if one.excluded)
            names = {name for one in (*free, *(side(part, family) for part in apart)) for name in one.symbols}
            ways = Symbols((name for one in sides for name in one.symbols), names)
            ends.append(AddressAxis(family, sides, ways, 1 + len(ends)))
        services = ServiceAxis(family, (entry for part in parts for entry in part.entries))
        found[family] = Space(family, vnics, ends[0], ends[1], services)
    return found


def _source(part: Part, family: Family) -> Side:
    return part.sources[family]


def _destination(part: Part, family: Family) -> Side:
    return part.destinations[family]
