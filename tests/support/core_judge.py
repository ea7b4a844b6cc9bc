# SPDX-License-Identifier: Apache-2.0
"""Many packets by many fields through the packet core's classifier at one vNIC: to confirm what lint and diff say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt

from dfw.compile import compile_policy
from dfw.judge_batch import BatchJudge, Packet, keys_of, packet_of
from dfw.layout import KEY_DTYPE
from dfw.membership import Membership
from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_TCP,
    PROTOCOLS_WITH_PORTS,
    Address,
    Direction,
    Family,
    PolicySet,
    PortRange,
    Rule,
    rules_for_tap,
)
from dfw.witness import Witness

SYN, ACK = 0x02, 0x10


def core_judge(world: PolicySet, vnic: str | None) -> BatchJudge:
    """The rules of a vNIC in the core."""
    return BatchJudge(compile_policy(world), vnic)


def key_of(witness: Witness) -> npt.NDArray[np.void]:
    """A witness as a key of the core."""
    return keys_of([packet_of(witness)])


def corner_keys(world: PolicySet, family: Family, random: Random, most: int) -> npt.NDArray[np.void]:
    """Packets at the edges of everything that the rules name, and just outside: all combinations, or `most` of them."""
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
    rows = []
    for source, destination, protocol, sport, dport, flags, direction in chosen:
        ends = Address(family, source), Address(family, destination)
        if protocol not in PROTOCOLS_WITH_PORTS:
            is_icmp = protocol == (PROTO_ICMP if family is Family.IPV4 else PROTO_ICMPV6)
            sport, dport = 0, (sport & 255) << 8 | (dport & 255) if is_icmp else 0
        rows.append(Packet(*ends, protocol, sport, dport, flags, direction))
    return np.unique(keys_of(rows))


def _entries(rule: Rule) -> list[Any]:
    return [entry for service in rule.services for entry in service.entries]


def _edges(values: set[int], ranges: Iterable[PortRange]) -> None:
    for item in ranges:
        values |= {item.first, item.last, max(0, item.first - 1), min(65535, item.last + 1)}


def random_keys(keys: npt.NDArray[np.void], random: Random, count: int) -> npt.NDArray[np.void]:
    """`count` packets with each field drawn by itself from those of these, or at random."""
    source = np.random.default_rng(random.getrandbits(64))
    found = np.zeros(count, dtype=KEY_DTYPE)
    for name in ("src", "dst", "sport", "dport", "proto", "family", "dir"):
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
    flags = np.array([SYN, ACK, SYN | ACK], dtype=np.uint8)
    found["tcp_flags"] = np.where(found["proto"] == PROTO_TCP, flags[source.integers(0, 3, count)], 0)
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
