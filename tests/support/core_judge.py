# SPDX-License-Identifier: Apache-2.0
"""Many packets by many fields through the packet core's classifier at one vNIC: to confirm what lint and diff say."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from dfw.compile import Compiled, compile_policy
from dfw.core import Classifier
from dfw.layout import KEY_DTYPE, NO_MATCH
from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTOCOLS_WITH_PORTS,
    Direction,
    Family,
    PolicySet,
    PortRange,
    Rule,
    rules_for_tap,
)
from dfw.witness import Witness

ALLOW, STATEFUL, STRICT, PERSIST, SYN, ACK = 0, 1, 2, 32, 0x02, 0x10


@dataclass
class CoreJudge:
    """The rule table of a vNIC (None: the tap's) in the core."""

    world: PolicySet
    vnic: str | None

    def __post_init__(self) -> None:
        self.compiled: Compiled = compile_policy(self.world)
        self.classifier = Classifier()
        for item in self.compiled.sets:
            self.classifier.put_set(item.set_id, item.ranges)
        compiled = self.compiled
        table = compiled.tap if self.vnic is None else compiled.tables[compiled.table_of[self.vnic]]
        self.entries = table.entries
        self._refs = np.ascontiguousarray(table.set_refs if len(table.set_refs) else np.zeros(1, np.uint32))
        self._built: dict[int, tuple[Any, npt.NDArray[np.int64]]] = {}

    def _from(self, tier: int) -> tuple[Any, npt.NDArray[np.int64]]:
        """The entries of this tier and later ones, and their places."""
        if tier not in self._built:
            places = np.flatnonzero(self.entries["tier"] >= tier)
            rules = np.ascontiguousarray(self.entries[places])
            self._built[tier] = self.classifier.build(rules, self._refs) if len(places) else None, places
        return self._built[tier]

    def entry_of(self, keys: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
        """The place of the entry that decides about each key, -1 for none."""
        found = np.full(len(keys), -1, dtype=np.int64)
        left, tiers = np.arange(len(keys)), np.zeros(len(keys), dtype=np.int64)
        while len(left):
            again: list[npt.NDArray[np.int64]] = []
            for tier in np.unique(tiers[left]).tolist():
                mine = left[tiers[left] == tier]
                ruleset, places = self._from(tier)
                if ruleset is None:
                    continue
                hits = ruleset.lookup(np.ascontiguousarray(keys[mine])).astype(np.int64)
                mine, hits = mine[hits != NO_MATCH], hits[hits != NO_MATCH]
                at = places[hits]
                resume = self.entries["resume"][at].astype(np.int64)
                found[mine[resume == 0]] = at[resume == 0]
                tiers[mine[resume > 0]] = resume[resume > 0]
                again.append(mine[resume > 0])
            left = np.concatenate(again) if again else left[:0]
        return found

    def path_of(self, entry: int) -> str | None:
        """Of the rule of an entry."""
        return None if entry < 0 else self.compiled.rules[int(self.entries["rule"][entry])].path

    def outcomes(self, keys: npt.NDArray[np.void]) -> npt.NDArray[np.int64]:
        """What becomes of each key, as a number: equal numbers are the same."""
        at = self.entry_of(keys)
        rows = self.entries[np.maximum(at, 0)]
        flags = rows["flags"].astype(np.int64)
        later = (keys["proto"] == PROTO_TCP) & ((keys["tcp_flags"] & (SYN | ACK)) != SYN)
        kept = STATEFUL | PERSIST | np.where(later, STRICT, 0)
        state = np.where(flags & STATEFUL, (flags & kept) | rows["alg"].astype(np.int64) << 8, 0)
        found = rows["action"].astype(np.int64) * 65536 + np.where(rows["action"] == ALLOW, state, 0)
        return np.where(at < 0, -1, found)


def key_of(witness: Witness) -> npt.NDArray[np.void]:
    """A witness as a key of the core."""
    return _keys(
        [(witness.source, witness.destination, witness.protocol, witness.sport, witness.dport, witness.tcp_flags)],
        [witness.direction],
    )


def _keys(rows: Sequence[tuple[Any, ...]], directions: Sequence[Direction]) -> npt.NDArray[np.void]:
    keys = np.zeros(len(rows), dtype=KEY_DTYPE)
    for at, (source, destination, protocol, sport, dport, flags) in enumerate(rows):
        family = source.family
        if protocol == (PROTO_ICMP if family is Family.IPV4 else PROTO_ICMPV6):
            sport, dport = 0, sport << 8 | dport
        elif protocol not in PROTOCOLS_WITH_PORTS:
            sport = dport = 0
        packed = [np.frombuffer(address.packed.ljust(16, b"\0"), np.uint8) for address in (source, destination)]
        keys[at] = (
            *packed,
            sport,
            dport,
            protocol,
            flags if protocol == PROTO_TCP else 0,
            int(family),
            int(directions[at]),
        )
    return keys


def corner_keys(world: PolicySet, family: Family, random: Random, most: int) -> npt.NDArray[np.void]:
    """Packets at the edges of everything that the rules name, and just outside: all combinations, or `most` of them."""
    from dfw.membership import Membership
    from dfw.model import Address

    membership, bits = Membership(world), family.bits
    ends: list[set[int]] = [{0, (1 << bits) - 1, 1 << bits - 2}, {0, (1 << bits) - 1, 1 << bits - 2}]
    ports: list[set[int]] = [{0, 40000, 65535}, {0, 40000, 65535}]
    protocols = {PROTO_TCP, 17, 1, 58, 132, 47}
    for item in rules_for_tap(world):
        for values, peers in zip(ends, (item.rule.sources, item.rule.destinations), strict=True):
            for piece in () if peers.terms is None else membership.addresses(peers.terms):
                if piece.family is family:
                    values |= {piece.first, piece.last, max(0, piece.first - 1), min((1 << bits) - 1, piece.last + 1)}
        for entry in _entries(item.rule):
            protocols |= set() if entry.protocol is None else {entry.protocol}
            for values, ranges in zip(ports, (entry.source_ports, entry.destination_ports), strict=True):
                _edges(values, ranges)
            if entry.icmp_type is not None:
                ports[0] |= {entry.icmp_type}
                ports[1] |= {entry.icmp_code or 0}
    for port in world.inventory:
        ports[1] |= {named.number for named in port.named_ports}
    axes = [
        *map(sorted, ends),
        sorted(protocols),
        *map(sorted, ports),
        [SYN, ACK, SYN | ACK],
        [Direction.IN, Direction.OUT],
    ]
    count = int(np.prod([len(axis) for axis in axes], dtype=np.float64))
    chosen: Iterable[tuple[Any, ...]] = product(*axes)
    if count > most:
        chosen = zip(*(random.choices(axis, k=most) for axis in axes), strict=True)
    rows, directions = [], []
    for source, destination, protocol, sport, dport, flags, direction in chosen:
        if protocol in (1, 58):
            sport, dport = sport & 255, dport & 255
        rows.append((Address(family, source), Address(family, destination), protocol, sport, dport, flags))
        directions.append(direction)
    return np.unique(_keys(rows, directions))


def _entries(rule: Rule) -> list[Any]:
    return [entry for service in rule.services for entry in service.entries]


def _edges(values: set[int], ranges: Iterable[PortRange]) -> None:
    for item in ranges:
        values |= {item.first, item.last, max(0, item.first - 1), min(65535, item.last + 1)}


def random_keys(keys: npt.NDArray[np.void], random: Random, count: int) -> npt.NDArray[np.void]:
    """`count` packets with each field drawn by itself from those of these, or at random."""
    source = np.random.default_rng(random.getrandbits(64))
    found = np.zeros(count, dtype=KEY_DTYPE)
    for name in ("src", "dst", "sport", "dport", "proto", "tcp_flags", "family", "dir"):
        found[name] = keys[name][source.integers(0, len(keys), count)]
    for name in ("sport", "dport"):
        drawn = source.integers(0, 65536, count).astype(np.uint16)
        found[name] = np.where(source.random(count) < 0.5, drawn, found[name])
    size = 4 if keys["family"][0] == Family.IPV4 else 16
    for name in ("src", "dst"):
        drawn = np.zeros((count, 16), dtype=np.uint8)
        drawn[:, :size] = source.integers(0, 256, (count, size))
        found[name] = np.where((source.random(count) < 0.2)[:, None], drawn, found[name])
    has_ports = np.isin(found["proto"], (*PROTOCOLS_WITH_PORTS,))
    is_icmp = found["proto"] == (PROTO_ICMP if size == 4 else PROTO_ICMPV6)
    found["sport"][~has_ports] = 0
    found["dport"][~has_ports & ~is_icmp] = 0
    found["tcp_flags"][found["proto"] != PROTO_TCP] = 0
    return found


def without_rule(world: PolicySet, path: str) -> PolicySet:
    """The same policies but for one rule."""
    policies = tuple(
        replace(policy, rules=tuple(rule for rule in policy.rules if rule.path != path)) for policy in world.policies
    )
    return replace(world, policies=policies)


def only_rule(world: PolicySet, path: str) -> PolicySet:
    """Nothing but one rule, and the default section."""
    policies = tuple(
        replace(policy, rules=tuple(rule for rule in policy.rules if rule.path == path)) for policy in world.policies
    )
    return replace(world, policies=policies)
