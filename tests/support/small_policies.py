# SPDX-License-Identifier: Apache-2.0
"""Random policies over at most 2^15 packets, and what lint and diff must say of them, by looking at every packet.

The small world fills the whole one: an address stands for an eighth of IPv4, a port for an eighth of all ports, and the
third protocol for all but TCP and UDP. So what holds for each of the packets here holds for each that there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from random import Random
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dfw.model import (
    ANY_PEERS,
    NOBODY,
    PROTO_TCP,
    PROTO_UDP,
    Action,
    Addresses,
    AddressRange,
    Alg,
    Direction,
    EffectiveRule,
    Family,
    Inventory,
    Machine,
    Peers,
    Place,
    Policy,
    PolicyKind,
    PolicySet,
    Port,
    PortMember,
    PortRange,
    Rule,
    Segment,
    Service,
    ServiceEntry,
    Tier,
    rules_for_tap,
)
from dfw.witness import Witness

Masks = npt.NDArray[np.bool_]
ADDRESS_BITS, PORT_BITS = 29, 13  # of what one small value stands for
PLACE = Place("f", 1, 1, "")
IPV4 = frozenset({Family.IPV4})
TIERS = (Tier.EMERGENCY, Tier.INFRASTRUCTURE, Tier.ADMIN, Tier.ENVIRONMENT, Tier.APPLICATION, Tier.BASELINE)
SYN, ACK = 0x02, 0x10
OTHER = 3


class Shape(NamedTuple):
    """How many vNICs and source addresses; destinations, ports and protocols are always 8, 8, 3."""

    vnics: int
    sources: int


SHAPES = (Shape(1, 8), Shape(2, 4))


def inventory(shape: Shape) -> Inventory:
    """vNICs v0 and v1."""
    names = [f"v{number}" for number in range(shape.vnics)]
    ports = {name: Port(name, "h", "s", name, f"02:00:00:00:00:0{at}") for at, name in enumerate(names)}
    return Inventory(segments={"s": Segment("s", 1)}, machines={name: Machine(name) for name in names}, ports=ports)


def _block(first: int, last: int, bits: int) -> tuple[int, int]:
    return first << bits, (last + 1 << bits) - 1


def _peers(random: Random, most: int) -> Peers:
    if random.random() < 0.35:
        return ANY_PEERS
    ranges = []
    for _ in range(random.choice((1, 1, 2))):
        first = random.randrange(most)
        last = min(most - 1, first + random.choice((0, 0, 1, 3)))
        step = 8 // most
        ranges.append(AddressRange(Family.IPV4, *_block(first * step, last * step + step - 1, ADDRESS_BITS)))
    return Peers((Addresses(tuple(ranges)),))


def _ports(random: Random) -> tuple[PortRange, ...]:
    if random.random() < 0.45:
        return ()
    first = random.randrange(8)
    return (PortRange(*_block(first, min(7, first + random.choice((0, 1, 3))), PORT_BITS)),)


def _entry(random: Random) -> ServiceEntry:
    protocol = random.choice((PROTO_TCP, PROTO_TCP, PROTO_UDP))
    alg = Alg.FTP if protocol == PROTO_TCP and random.random() < 0.15 else Alg.NONE
    flags = {"tcp_mask": SYN | ACK, "tcp_value": SYN} if protocol == PROTO_TCP and random.random() < 0.1 else {}
    sources = _ports(random) if random.random() < 0.3 else ()
    return ServiceEntry(protocol, sources, _ports(random), alg=alg, **flags)


def a_rule(random: Random, name: str, tier: Tier, shape: Shape) -> Rule:
    """One rule; ANY is frequent, so that rules meet."""
    actions = [Action.ALLOW, Action.ALLOW, Action.DROP, Action.DROP, Action.REJECT]
    actions += {Tier.ADMIN: [Action.PASS] * 2, Tier.BASELINE: [Action.PASS]}.get(tier, [])
    actions += [Action.JUMP_TO_APPLICATION] * 2 if tier is Tier.ENVIRONMENT else []
    sources, destinations = _peers(random, shape.sources), _peers(random, 8)
    entries = [_entry(random) for _ in range(random.choice((0, 0, 1, 1, 2, 3)))]
    scope = ANY_PEERS if random.random() < 0.7 else Peers((PortMember(f"v{random.randrange(shape.vnics)}"),))
    return Rule(
        f"p/{name}",
        name,
        0,
        random.choice(actions),
        sources,
        destinations,
        not sources.is_any and random.random() < 0.2,
        not destinations.is_any and random.random() < 0.2,
        (Service("", tuple(entries)),) if entries else (),
        random.choice((Direction.IN_OUT, Direction.IN_OUT, Direction.IN, Direction.OUT)),
        IPV4,
        applied_to=scope,
        persist=random.random() < 0.05,
        place=PLACE,
    )


def small_world(random: Random, most_rules: int = 7) -> tuple[PolicySet, Shape]:
    """One to four policies in different tiers, and a default section, written in the documents or not."""
    shape = random.choice(SHAPES)
    tiers = sorted(random.sample(TIERS, random.choice((1, 1, 2, 3, 4))))
    policies = []
    count = random.randint(2, most_rules)
    homes = sorted(random.choice(tiers) for _ in range(count))
    for tier in tiers:
        rules = tuple(a_rule(random, f"r{number}", tier, shape) for number, home in enumerate(homes) if home is tier)
        rules = tuple(_repeated(random, rules))
        policies.append(
            Policy(
                f"p{tier}",
                tier,
                0,
                rules=rules,
                stateful=random.random() < 0.85,
                tcp_strict=random.random() < 0.7,
                place=PLACE,
            )
        )
    excluded = Peers((PortMember("v1"),)) if shape.vnics == 2 and random.random() < 0.1 else NOBODY
    default = default_section(random.choice((Action.ALLOW, Action.DROP)), random.random() < 0.5)
    return PolicySet(tuple(policies), inventory=inventory(shape), default=default, excluded=excluded), shape


def _repeated(random: Random, rules: tuple[Rule, ...]) -> list[Rule]:
    """Some rules match what an earlier one matches: that is what lint is about."""
    found: list[Rule] = []
    for rule in rules:
        if found and random.random() < 0.15:
            same = random.choice(found)
            rule = replace(same, path=rule.path, id=rule.id, action=random.choice((same.action, rule.action)))
        found.append(rule)
    return found


def default_section(action: Action, is_known: bool) -> Policy:
    """One rule. `is_known`: a document says so."""
    rule = Rule("default/all", "all", 1, action, families=IPV4)
    place = PLACE if is_known else None
    return Policy("default", Tier.DEFAULT, 0, PolicyKind.DEFAULT, rules=(rule,), tcp_strict=False, place=place)


class Services:
    """The transport headers, in one order: TCP with SYN, TCP with ACK, UDP (ports from and to), the other."""

    def __init__(self) -> None:
        rows = [
            (protocol, flags, s, d)
            for protocol, flags in ((6, SYN), (6, ACK), (17, 0))
            for s in range(8)
            for d in range(8)
        ]
        self.rows = [*rows, (OTHER, 0, 0, 0)]
        self.protocol, self.flags, self.sport, self.dport = (
            np.array(column) for column in zip(*self.rows, strict=True)
        )
        self.is_later = (self.protocol == 6) & (self.flags == ACK)

    def mask(self, entry: ServiceEntry) -> Masks:
        found = self.protocol == entry.protocol
        for ports, values in ((entry.source_ports, self.sport), (entry.destination_ports, self.dport)):
            if ports:
                inside = [
                    ((values << PORT_BITS) >= item.first) & ((values << PORT_BITS) <= item.last) for item in ports
                ]
                found = found & np.any(inside, axis=0)
        return found & ((self.flags & entry.tcp_mask) == entry.tcp_value)


SERVICES = Services()


@dataclass
class Small:
    """Every packet of a small world and what its rules make of it.

    Axes: vNIC and direction, source, destination, service.
    """

    world: PolicySet
    shape: Shape

    @cached_property
    def items(self) -> list[EffectiveRule]:
        return rules_for_tap(self.world)

    @cached_property
    def matches(self) -> list[Masks]:
        """Of each rule; False everywhere at the vNICs of the exclusion list."""
        return [self._matches(item) for item in self.items]

    @cached_property
    def algs(self) -> list[Masks | None]:
        return [self._alg(item.rule) for item in self.items]

    def vnics(self, item: EffectiveRule) -> Masks:
        """Where a rule is programmed: (vNIC, IN), (vNIC, OUT)."""
        found = []
        for port in self.world.inventory:
            on = self.world.selects(item.applied_to, port) and not self.world.selects(self.world.excluded, port)
            found += [on and bool(item.rule.direction & way) for way in (Direction.IN, Direction.OUT)]
        return np.array(found, dtype=np.bool_)

    def _side(self, peers: Peers, excluded: bool, count: int) -> Masks:
        if peers.terms is None:
            return np.ones(count, dtype=np.bool_)
        values = np.arange(count, dtype=np.int64) * (8 // count) << ADDRESS_BITS
        ranges = self.world.address_ranges(peers)
        found = np.any([(values >= item.first) & (values <= item.last) for item in ranges], axis=0)
        return np.asarray(found ^ excluded, dtype=np.bool_)

    def _matches(self, item: EffectiveRule) -> Masks:
        rule = item.rule
        entries = [entry for service in rule.services for entry in service.entries]
        services = (
            np.any([SERVICES.mask(entry) for entry in entries], axis=0)
            if entries
            else np.ones(len(SERVICES.rows), bool)
        )
        sources = self._side(rule.sources, rule.sources_excluded, self.shape.sources)
        destinations = self._side(rule.destinations, rule.destinations_excluded, 8)
        first = self.vnics(item)[:, None] & sources[None, :]
        second = destinations[:, None] & services[None, :]
        return np.asarray(first[:, :, None, None] & second[None, None, :, :], dtype=np.bool_)

    @staticmethod
    def _alg(rule: Rule) -> Masks | None:
        """The services that an ALG entry matches first."""
        entries = [entry for service in rule.services for entry in service.entries]
        if all(entry.alg is Alg.NONE for entry in entries):
            return None
        found, seen = np.zeros(len(SERVICES.rows), bool), np.zeros(len(SERVICES.rows), bool)
        for entry in entries:
            mask = SERVICES.mask(entry) & ~seen
            found |= mask & (entry.alg is not Alg.NONE)
            seen |= mask
        return found

    @property
    def nothing(self) -> Masks:
        return np.zeros((2 * self.shape.vnics, self.shape.sources, 8, len(SERVICES.rows)), dtype=np.bool_)

    def outcomes(self, at: int, unknown: bool) -> npt.NDArray[np.int16]:
        """What a rule would make of each service, as a number; equal numbers are the same."""
        item = self.items[at]
        if unknown and item.policy.kind is PolicyKind.DEFAULT:
            return np.full(len(SERVICES.rows), -2, dtype=np.int16)
        if item.rule.action is not Action.ALLOW or not item.stateful:
            return np.full(len(SERVICES.rows), list(Action).index(item.rule.action), dtype=np.int16)
        alg = self.algs[at]
        found = np.full(len(SERVICES.rows), 10 + 100 * item.rule.persist, dtype=np.int16)
        found += 1 * (SERVICES.is_later & item.tcp_strict)
        return found if alg is None else found + 2 * alg


class Walk(NamedTuple):
    """`decider`: the rule that decides about each packet, -1 for none; `reached`: of each rule, the packets that come
    as far; `taker`: of each rule, what keeps each packet from it, -1 where nothing does."""

    decider: npt.NDArray[np.int16]
    reached: list[Masks]
    taker: list[npt.NDArray[np.int16]]


def walk(small: Small, without: frozenset[int] = frozenset()) -> Walk:
    """Judge every packet, as if some rules were not there."""
    shape = small.nothing.shape
    decider, last = np.full(shape, -1, dtype=np.int16), np.full(shape, -1, dtype=np.int16)
    resume = np.zeros(shape, dtype=np.int16)
    reached: list[Masks] = []
    taker: list[npt.NDArray[np.int16]] = []
    for at, item in enumerate(small.items):
        asked = (decider < 0) & (resume <= int(item.tier))
        taker.append(np.where(decider >= 0, decider, np.where(resume > int(item.tier), last, -1)))
        mine = small.matches[at] & asked
        reached.append(mine)
        if at in without:
            continue
        if item.resume_tier is None:
            decider[mine] = at
        else:
            resume[mine], last[mine] = int(item.resume_tier), at
    return Walk(decider, reached, taker)


def judgements(small: Small, found: Walk, unknown: bool) -> npt.NDArray[np.int16]:
    """The outcome of each packet."""
    out = np.full(small.nothing.shape, -1 if unknown else list(Action).index(Action.DROP), dtype=np.int16)
    for at in range(len(small.items)):
        mine = found.decider == at
        out = np.where(mine, small.outcomes(at, unknown)[None, None, None, :], out)
    return out


Expected = dict[tuple[str, str], frozenset[str]]
"""(kind, path of the rule) -> the paths of the rules named."""


def expected_findings(small: Small) -> Expected:
    """What lint must find, no more and no less."""
    found: Expected = {}
    unknown = small.world.default.place is None
    whole = walk(small)
    paths = [item.rule.path for item in small.items]
    never: set[int] = set()
    subjects = [at for at, item in enumerate(small.items) if item.policy.kind is not PolicyKind.DEFAULT]
    for at in subjects:
        item, match = small.items[at], small.matches[at]
        if not match.any():
            never.add(at)
            if small.vnics(item).any():
                found["unreachable", paths[at]] = frozenset()
        elif not whole.reached[at].any():
            never.add(at)
            by = set(np.unique(whole.taker[at][match]).tolist())
            others = any(small.items[other].rule.action is not item.rule.action for other in by)
            kind = "unreachable" if _is_behind(small, at) else "shadowed" if others else "redundant"
            found[kind, paths[at]] = frozenset(paths[other] for other in by)
    before = judgements(small, whole, unknown)
    for at in subjects:
        if at in never:
            continue
        again, alone = walk(small, frozenset({*never, at})), walk(small, frozenset({at}))
        if all(np.array_equal(judgements(small, some, unknown), before) for some in (again, alone)):
            by = set(np.unique(again.decider[whole.reached[at]]).tolist()) - {-1}
            found["redundant", paths[at]] = frozenset(paths[other] for other in by)
    for place, at in enumerate(subjects):
        for other in reversed(subjects[:place]):
            one, two = small.items[at].rule.action, small.items[other].rule.action
            opposite = one.is_final and two.is_final and (one is Action.ALLOW) is not (two is Action.ALLOW)
            if opposite and small.matches[at].any() and np.array_equal(small.matches[at], small.matches[other]):
                found["contradicting", paths[at]] = frozenset({paths[other]})
                break
    return found


def _is_behind(small: Small, at: int) -> bool:
    item = small.items[at]
    tier = int(item.tier)
    later = frozenset(n for n, other in enumerate(small.items) if int(other.tier) >= tier)
    taken = walk(small, later).taker[at] >= 0
    return bool(taken[small.vnics(item)].all())


def packet_index(witness: Witness, shape: Shape) -> tuple[int, int, int, int]:
    """Where a witness stands among the packets."""
    vnic = 0 if witness.vnic is None else int(witness.vnic[1:])
    side = 2 * vnic + (0 if witness.direction is Direction.IN else 1)
    source, destination = witness.source.value >> ADDRESS_BITS, witness.destination.value >> ADDRESS_BITS
    source //= 8 // shape.sources
    if witness.protocol not in (6, 17):
        return side, source, destination, len(SERVICES.rows) - 1
    flags = 0 if witness.protocol == 17 else SYN if witness.tcp_flags & (SYN | ACK) == SYN else ACK
    row = (witness.protocol, flags, witness.sport >> PORT_BITS, witness.dport >> PORT_BITS)
    return side, source, destination, SERVICES.rows.index(row)
