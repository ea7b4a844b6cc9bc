# SPDX-License-Identifier: Apache-2.0
"""A PolicySet is everything that decides about packets, and the one place that knows the order of rules.

`rules_for` and `rules_for_tap` are the meaning of SEMANTICS "Order": the compiler and the oracle share them, and
nothing else of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from dfw.model.address import Address, AddressRange
from dfw.model.flood import FloodLimits
from dfw.model.inventory import Inventory, NamedPort, Port
from dfw.model.policy import EXCLUDED_POLICY, Policy, Rule, default_policy
from dfw.model.schedule import Schedule
from dfw.model.selector import NOBODY, Group, Peers, member_macs
from dfw.model.service import Service
from dfw.model.timers import Timers
from dfw.model.words import Action, Direction, PolicyKind, Tier


@dataclass(frozen=True, slots=True)
class EffectiveRule:
    """A rule in its policy, where it is judged. `direction` differs from the rule's own on a tap (any)."""

    policy: Policy
    rule: Rule
    direction: Direction

    @property
    def tier(self) -> Tier:
        """The policy's tier."""
        return self.policy.tier

    @property
    def stateful(self) -> bool:
        """Does an ALLOW or REJECT keep a connection? The rule's own word where it has one, else the policy's."""
        return self.policy.stateful if self.rule.stateful is None else self.rule.stateful

    @property
    def tcp_strict(self) -> bool:
        """Must a TCP connection begin with a SYN? Only stateful policies can be strict (NSX)."""
        return self.policy.tcp_strict and self.stateful

    @property
    def applied_to(self) -> Peers:
        """The policy's Applied-To where it has one, else the rule's (NSX: the policy's overrides)."""
        return applied_to(self.policy, self.rule)

    @property
    def resume_tier(self) -> Tier | None:
        """Where the search goes on after a match: None for final actions, else the first tier still to be judged.

        Rules of lower tiers than this are skipped. JUMP_TO_APPLICATION goes to Application; PASS to the next tier.
        """
        match self.rule.action:
            case Action.JUMP_TO_APPLICATION:
                return Tier.APPLICATION
            case Action.PASS:
                return Tier(self.tier + 1)
            case _:
                return None


def applied_to(policy: Policy, rule: Rule) -> Peers:
    """Which vNICs a rule is programmed on: the policy's Applied-To unless that is ANY, else the rule's."""
    return rule.applied_to if policy.applied_to.is_any else policy.applied_to


@dataclass(frozen=True, slots=True)
class TimerBinding:
    """Session timers for the vNICs of a group (NSX's profile binding map); `path` is the map's."""

    path: str
    number: int
    peers: Peers
    timers: Timers


@dataclass(frozen=True, slots=True)
class FloodBinding:
    """Flood protection for the vNICs of a group (NSX's profile binding map); `path` is the map's."""

    path: str
    number: int
    peers: Peers
    limits: FloodLimits


@dataclass(frozen=True)
class PolicySet:
    """Policies, groups and services by path, the default section, timers and the inventory.

    Policies may be given in any order; `ordered` has them as they are judged. `excluded`: the ports of the exclusion
    list, at which no policy is in force. `timers` and `flood` hold where no binding does. `at`: seconds since the
    epoch; policies whose schedule is not active then are left out. None: schedules are not looked at, and every policy
    stands. `staged`: policies that are not in force; `what_if` is the world in which they are.
    """

    policies: tuple[Policy, ...] = ()
    groups: Mapping[str, Group] = field(default_factory=dict)
    services: Mapping[str, Service] = field(default_factory=dict)
    inventory: Inventory = field(default_factory=Inventory)
    default: Policy = field(default_factory=default_policy)
    timers: Timers = field(default_factory=Timers)
    excluded: Peers = NOBODY
    timer_bindings: tuple[TimerBinding, ...] = ()
    flood: FloodLimits = field(default_factory=FloodLimits)
    flood_bindings: tuple[FloodBinding, ...] = ()
    at: float | None = None
    staged: tuple[Policy, ...] = ()

    @cached_property
    def what_if(self) -> PolicySet:
        """The world with the staged policies in force: each in the place of the enforced one of its path, if any.

        A staged policy without rules leaves that place empty. Rules keep their paths; those of one path, their number.
        """
        replaced = {policy.path for policy in self.staged}
        kept = [policy for policy in self.policies if policy.path not in replaced]
        defaults = [policy for policy in self.staged if policy.kind is PolicyKind.DEFAULT]
        added = [policy for policy in self.staged if policy.kind is not PolicyKind.DEFAULT]
        default = defaults[0] if defaults else self.default
        return replace(self, policies=(*kept, *added), default=default, staged=())

    @property
    def schedules(self) -> tuple[Schedule, ...]:
        """The schedules of all policies, each once."""
        return tuple(dict.fromkeys(policy.schedule for policy in self.policies if policy.schedule is not None))

    @cached_property
    def timer_bindings_ordered(self) -> tuple[TimerBinding, ...]:
        """The bindings in order: of those that select a vNIC the first one counts."""
        return tuple(sorted(self.timer_bindings, key=lambda item: (item.number, item.path)))

    def timers_for(self, port: Port) -> Timers:
        """The session timers at a vNIC: of the first binding that selects it, by (sequence_number, path)."""
        for binding in self.timer_bindings_ordered:
            if self.selects(binding.peers, port):
                return binding.timers
        return self.timers

    @cached_property
    def flood_bindings_ordered(self) -> tuple[FloodBinding, ...]:
        """The bindings in order: of those that select a vNIC the first one counts."""
        return tuple(sorted(self.flood_bindings, key=lambda item: (item.number, item.path)))

    def flood_for(self, port: Port) -> FloodLimits:
        """The flood protection at a vNIC: of the first binding that selects it, by (sequence_number, path)."""
        for binding in self.flood_bindings_ordered:
            if self.selects(binding.peers, port):
                return binding.limits
        return self.flood

    @cached_property
    def ordered(self) -> tuple[Policy, ...]:
        """All policies in force, in order of judgement, the default section last."""
        now = self.at
        standing = [
            policy
            for policy in self.policies
            if now is None or policy.schedule is None or policy.schedule.is_active(now)
        ]
        return tuple(sorted((*standing, self.default), key=lambda policy: policy.order_key))

    @cached_property
    def _known(self) -> dict[tuple[str, str], bool]:
        return {}

    @cached_property
    def _known_ranges(self) -> dict[str, tuple[AddressRange, ...]]:
        return {}

    def group_selects(self, path: str, port: Port) -> bool:
        """Is this port a member of the group? Remembered, so that groups nested in many ways cost no more than once."""
        key = (path, port.name)
        if key not in self._known:
            self._known[key] = self.groups[path].expression.matches(port, self)
        return self._known[key]

    def group_ranges(self, path: str) -> tuple[AddressRange, ...]:
        """The addresses that are members of the group by themselves; each range once."""
        if path not in self._known_ranges:
            self._known_ranges[path] = tuple(dict.fromkeys(self.groups[path].expression.ranges(self)))
        return self._known_ranges[path]

    def selects(self, peers: Peers, port: Port) -> bool:
        """Is this port a member (as for Applied-To)? ANY selects every port."""
        return peers.terms is None or any(term.matches(port, self) for term in peers.terms)

    def contains(self, peers: Peers, address: Address) -> bool:
        """Is this address a member: by itself, or as that of a member port? ANY contains every address."""
        if peers.terms is None:
            return True
        bound = self.inventory.ports_at(address)
        return any(
            any(item.contains(address) for item in term.ranges(self)) or any(term.matches(port, self) for port in bound)
            for term in peers.terms
        )

    def named_ports(self, address: Address) -> frozenset[NamedPort]:
        """The named ports of the workloads to which this address is bound."""
        return frozenset(item for port in self.inventory.ports_at(address) for item in port.named_ports)

    def macs(self, peers: Peers) -> frozenset[str]:
        """All member MAC addresses: by themselves, and of member vNICs. Not defined for ANY (ValueError)."""
        if peers.terms is None:
            raise ValueError("ANY has no list of MAC addresses")
        by_themselves = frozenset().union(*(member_macs(term, self) for term in peers.terms))
        return by_themselves | {port.mac for port in self.members(peers)}

    def members(self, peers: Peers) -> tuple[Port, ...]:
        """The member ports, in the inventory's order."""
        return tuple(port for port in self.inventory if self.selects(peers, port))

    def address_ranges(self, peers: Peers) -> tuple[AddressRange, ...]:
        """All member addresses, in no particular order, possibly overlapping. Not defined for ANY (ValueError)."""
        if peers.terms is None:
            raise ValueError("ANY has no list of addresses")
        by_themselves = [item for term in peers.terms for item in term.ranges(self)]
        bound = [AddressRange(ip.family, ip.value, ip.value) for port in self.members(peers) for ip in port.ips]
        return (*by_themselves, *bound)


def rules_for(world: PolicySet, port: Port) -> list[EffectiveRule]:
    """The layer-3 rules programmed on a vNIC, in order of judgement: enabled, and Applied-To selects the port.

    At a port of the exclusion list there is one rule instead of all others, which passes everything without state.
    """
    if world.selects(world.excluded, port):
        return [EffectiveRule(EXCLUDED_POLICY, rule, rule.direction) for rule in EXCLUDED_POLICY.rules]
    return [
        EffectiveRule(policy, rule, rule.direction)
        for policy in world.ordered
        if policy.tier is not Tier.ETHERNET
        for rule in policy.rules
        if not rule.disabled and world.selects(applied_to(policy, rule), port)
    ]


def ether_rules_for(world: PolicySet, port: Port) -> list[EffectiveRule]:
    """The layer-2 rules programmed on a vNIC, in order of judgement. None at a port of the exclusion list."""
    if world.selects(world.excluded, port):
        return []
    return [
        EffectiveRule(policy, rule, rule.direction)
        for policy in world.ordered
        if policy.tier is Tier.ETHERNET
        for rule in policy.rules
        if not rule.disabled and world.selects(applied_to(policy, rule), port)
    ]


def ether_rules_for_tap(world: PolicySet) -> list[EffectiveRule]:
    """The layer-2 rules of a filter on a wire: all enabled ones."""
    return [
        EffectiveRule(policy, rule, Direction.IN_OUT)
        for policy in world.ordered
        if policy.tier is Tier.ETHERNET
        for rule in policy.rules
        if not rule.disabled
    ]


def rules_for_tap(world: PolicySet) -> list[EffectiveRule]:
    """The rules of a filter on a wire (`replay --tap`): all enabled ones, whatever their direction and Applied-To."""
    return [
        EffectiveRule(policy, rule, Direction.IN_OUT)
        for policy in world.ordered
        if policy.tier is not Tier.ETHERNET
        for rule in policy.rules
        if not rule.disabled
    ]
