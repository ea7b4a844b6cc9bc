# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom by policy: the compiled tables evaluated for all pairs of workloads at once.

Evaluates the same arrays that the packet core loads, with numpy, so that a million pairs take seconds. A judgement is
three-valued: where a workload's addresses were only assumed and a rule looks at addresses, both outcomes are followed
(dfw/reach_walk.py), and where they differ the answer is unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dfw.compile import Compiled, compile_policy
from dfw.layout import RangeArray
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, Address, Direction, Family, PolicySet, Port
from dfw.reach_ether import ether_refused
from dfw.reach_walk import ALLOWED, DENIED, MAYBE, NO, NO_RULE, UNKNOWN, YES, Codes, RuleNumbers, Walk, candidates

__all__ = ["ALLOWED", "DENIED", "NO_RULE", "PING", "UNKNOWN", "Reach", "Reachability", "Service"]


class Service(NamedTuple):
    """What is asked for: the first packet of a connection to this port, from an ephemeral one; or PING."""

    protocol: int
    port: int

    def of(self, family: Family) -> Service:
        """The same in an address family: IPv6 has an echo request of its own."""
        return _PING_6 if self == PING and family is Family.IPV6 else self


# An echo request: ICMP's type and code stand where others have their port, as in the compiled tables (RFC 792, 4443).
PING = Service(PROTO_ICMP, 8 << 8)
_PING_6 = Service(PROTO_ICMPV6, 128 << 8)


@dataclass(frozen=True, slots=True)
class Reach:
    """Judgements of one service: rows are senders, columns receivers, both in the inventory's order.

    `egress`, `ingress`: ALLOWED, DENIED or UNKNOWN; `egress_rule`, `ingress_rule`: index of the rule in
    `Compiled.rules` that decided, NO_RULE where none did or it is not known which.
    """

    egress: Codes
    ingress: Codes
    egress_rule: RuleNumbers
    ingress_rule: RuleNumbers

    @property
    def allowed(self) -> Codes:
        """Passes both. DENIED by either is DENIED, whatever is unknown of the other."""
        denied = (self.egress == DENIED) | (self.ingress == DENIED)
        allowed = (self.egress == ALLOWED) & (self.ingress == ALLOWED)
        return np.where(denied, DENIED, np.where(allowed, ALLOWED, UNKNOWN)).astype(np.uint8)

    @property
    def rule(self) -> RuleNumbers:
        """What decided: the sender's rule where it refused, else the receiver's."""
        return np.where(self.egress == DENIED, self.egress_rule, self.ingress_rule)


class Reachability:
    """All pairs of an inventory's workloads under a policy. Raises UnsupportedError, as the compiler does."""

    def __init__(self, world: PolicySet) -> None:
        self.compiled: Compiled = compile_policy(world)
        self.ports: tuple[Port, ...] = tuple(world.inventory)
        self._primary = np.array([int(port.ips[0].family) if port.ips else 0 for port in self.ports], dtype=np.uint8)
        self._has = {
            family: np.array([_address(port, family) is not None for port in self.ports], dtype=np.bool_)
            for family in Family
        }
        self._members: dict[Family, Codes] = {}
        self._walked: dict[tuple[Family, Direction, int, bytes], tuple[Codes, RuleNumbers]] = {}
        self._own: list[list[int]] = [[] for _ in self.compiled.tables]
        for number, port in enumerate(self.ports):
            self._own[self.compiled.table_of[port.name]].append(number)

    def judge(self, service: Service) -> Reach:
        """Every pair for one service, in the sender's first family that the receiver has too.

        A pair without a common family is DENIED both ways; with a workload that has no address at all, UNKNOWN.
        """
        shape = (len(self.ports), len(self.ports))
        sides = {
            direction: (np.full(shape, DENIED, np.uint8), np.full(shape, NO_RULE, np.uint32))
            for direction in (Direction.OUT, Direction.IN)
        }
        family_of = self.families
        for family in Family:
            pairs = family_of == family
            if not pairs.any():
                continue
            for direction, (codes, rules) in sides.items():
                found, by = self._direction(family, direction, service)
                if self.compiled.ether.tables:
                    refused, ether_by = ether_refused(self.compiled.ether, self.ports, direction, family)
                    found, by = np.where(refused, DENIED, found).astype(np.uint8), np.where(refused, ether_by, by)
                np.copyto(codes, found, where=pairs)
                np.copyto(rules, by, where=pairs)
        nowhere = self._primary == 0
        for codes, _ in sides.values():
            codes[nowhere, :] = UNKNOWN
            codes[:, nowhere] = UNKNOWN
        (egress, egress_rule), (ingress, ingress_rule) = sides[Direction.OUT], sides[Direction.IN]
        return Reach(egress, ingress, egress_rule, ingress_rule)

    @cached_property
    def families(self) -> npt.NDArray[np.uint8]:
        """The family in which a pair talks: the sender's first, else its other; 0 for none in common."""
        both = {family: self._has[family][:, None] & self._has[family][None, :] for family in Family}
        first = self._primary[:, None]
        v4, v6 = both[Family.IPV4], both[Family.IPV6]
        prefers_v6 = first == Family.IPV6
        return np.where(v6 & (prefers_v6 | ~v4), int(Family.IPV6), np.where(v4, int(Family.IPV4), 0)).astype(np.uint8)

    def _direction(self, family: Family, direction: Direction, service: Service) -> tuple[Codes, RuleNumbers]:
        """The judgements at the senders (OUT) or at the receivers (IN)."""
        count = len(self.ports)
        codes = np.full((count, count), DENIED, np.uint8)
        rules = np.full((count, count), NO_RULE, np.uint32)
        for number, (table, own) in enumerate(zip(self.compiled.tables, self._own, strict=True)):
            chosen = candidates(table, family, direction, *service.of(family))
            key = (family, direction, number, chosen.tobytes())
            if key not in self._walked:
                members = self._membership(family)
                sides = (members[:, own], members) if direction is Direction.OUT else (members, members[:, own])
                self._walked[key] = Walk(table, *sides).run(chosen)
            found, by = self._walked[key]
            if direction is Direction.OUT:
                codes[own], rules[own] = found, by
            else:
                codes[:, own], rules[:, own] = found, by
        return codes, rules

    def _membership(self, family: Family) -> Codes:
        """For each address set (rows) and port (columns): is the port's address a member? NO, YES or MAYBE."""
        if family in self._members:
            return self._members[family]
        known = np.flatnonzero(self._has[family])
        addresses = [_address(self.ports[number], family) for number in known]
        keys = _keys(item.value for item in addresses if item is not None)
        found = np.full((len(self.compiled.sets), len(self.ports)), NO, np.uint8)
        assumed = [number for number, port in enumerate(self.ports) if port.ips_assumed]
        for item in self.compiled.sets:
            found[item.set_id, known] = np.where(_inside(item.ranges, family, keys), YES, NO)
            if item.is_fixed:
                for number in assumed:
                    found[item.set_id, number] = YES if number in item.members else MAYBE
        self._members[family] = found
        return found


def _address(port: Port, family: Family) -> Address | None:
    return next((ip for ip in port.ips if ip.family is family), None)


def _keys(values: Iterable[int]) -> npt.NDArray[np.object_]:
    return np.array(list(values), dtype=object)


def _inside(ranges: RangeArray, family: Family, keys: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    """Which of the addresses lie in the sorted, disjoint ranges of a set."""
    own = ranges[ranges["family"] == int(family)]
    if not len(own) or not len(keys):
        return np.zeros(len(keys), np.bool_)
    size = family.bits // 8
    first = _keys(int.from_bytes(row[:size].tobytes(), "big") for row in own["lo"])
    last = _keys(int.from_bytes(row[:size].tobytes(), "big") for row in own["hi"])
    at = np.searchsorted(first, keys, side="right") - 1
    return np.asarray((at >= 0) & (last[np.maximum(at, 0)] >= keys), dtype=np.bool_)
