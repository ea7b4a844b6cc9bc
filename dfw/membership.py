# SPDX-License-Identifier: Apache-2.0
"""Which ports and addresses the selectors of a policy resolve to, for all ports at once.

The same answers as the model's own evaluation (a property test holds them equal), but by indexes: a condition looks
at each distinct tag or name once, not at each port.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from dfw.model import (
    Addresses,
    AddressRange,
    AllOf,
    AnyOf,
    Condition,
    ConditionKey,
    ExternalIds,
    ExternalIdType,
    GroupMember,
    MacAddresses,
    MemberType,
    Operator,
    Peers,
    PolicySet,
    Port,
    PortMember,
    SegmentMember,
    Tag,
    Term,
    WorkloadMember,
    range_of_address,
    ranges_merge,
)
from dfw.model.selector import POSITIVE, Subject, tag_matches, text_matches
from dfw.workloads import Workloads

_ATTRIBUTES = {
    ConditionKey.NAME: "name",
    ConditionKey.OS_NAME: "os_name",
    ConditionKey.COMPUTER_NAME: "computer_name",
}


_K = TypeVar("_K")


def _grouped(pairs: Iterable[tuple[_K, int]]) -> Mapping[_K, frozenset[int]]:
    found: dict[_K, list[int]] = {}
    for key, number in pairs:
        found.setdefault(key, []).append(number)
    return {key: frozenset(numbers) for key, numbers in found.items()}


class Membership:
    """Resolves terms against one PolicySet. Ports are numbered in the inventory's order; sets of them are frozen."""

    def __init__(self, world: PolicySet) -> None:
        self.world = world
        self.ports: tuple[Port, ...] = tuple(world.inventory)
        self.everyone = frozenset(range(len(self.ports)))
        self._numbers = {port.name: number for number, port in enumerate(self.ports)}
        self._tags: dict[MemberType, Mapping[Tag, frozenset[int]]] = {}
        self._texts: dict[tuple[MemberType, ConditionKey], Mapping[str, frozenset[int]]] = {}
        self._segments: Mapping[str, frozenset[int]] | None = None
        self._external_ids: dict[ExternalIdType, Mapping[str, frozenset[int]]] = {}
        self._members: dict[str, frozenset[int]] = {}
        self._ranges: dict[str, tuple[AddressRange, ...]] = {}
        self._workloads: Workloads | None = None
        self._named: Mapping[tuple[str, int], Mapping[int, frozenset[int]]] | None = None

    def members(self, peers: Peers) -> frozenset[int]:
        """Numbers of the ports that are members; all of them for ANY."""
        return self.everyone if peers.terms is None else self._union(peers.terms)

    def addresses(self, terms: Iterable[Term]) -> tuple[AddressRange, ...]:
        """All member addresses of the terms as sorted, disjoint ranges."""
        terms = tuple(terms)
        ranges = [item for term in terms for item in self._static(term)]
        for number in self._union(terms):
            ranges += map(range_of_address, self.ports[number].ips)
        return ranges_merge(ranges)

    def is_fixed(self, terms: Iterable[Term]) -> bool:
        """Do the terms hold addresses by themselves?"""
        return any(True for term in terms for _ in self._static(term))

    def named_ports(self, name: str, protocol: int) -> Mapping[int, frozenset[int]]:
        """For a named port: each number that it stands for, with the ports (vNICs) where it does."""
        if self._named is None:
            found: dict[tuple[str, int], dict[int, set[int]]] = {}
            for number, port in enumerate(self.ports):
                for item in port.named_ports:
                    numbers = found.setdefault((item.name, item.protocol), {})
                    numbers.setdefault(item.number, set()).add(number)
            self._named = {
                key: {number: frozenset(ports) for number, ports in sorted(numbers.items())}
                for key, numbers in found.items()
            }
        return self._named.get((name, protocol), {})

    def addresses_of(self, numbers: Iterable[int]) -> tuple[AddressRange, ...]:
        """The addresses of these ports as sorted, disjoint ranges."""
        return ranges_merge(range_of_address(ip) for number in numbers for ip in self.ports[number].ips)

    def _union(self, terms: Iterable[Term]) -> frozenset[int]:
        return frozenset().union(*(self._ports_of(term) for term in terms))

    def _ports_of(self, term: Term) -> frozenset[int]:
        match term:
            case Condition():
                return self._condition(term)
            case GroupMember(path):
                if path not in self._members:
                    self._members[path] = self._ports_of(self.world.groups[path].expression)
                return self._members[path]
            case AnyOf(terms):
                return self._union(terms)
            case AllOf(terms):
                return self.everyone.intersection(*(self._ports_of(item) for item in terms))
            case SegmentMember(name):
                return self._on_segment(name)
            case PortMember(name):
                return frozenset({self._numbers[name]} if name in self._numbers else ())
            case WorkloadMember():
                if self._workloads is None:
                    self._workloads = Workloads(self.world.inventory, self.ports)
                return self._workloads.members(term)
            case ExternalIds(member_type, items):
                found = self._external_ids_of(member_type)
                return frozenset().union(*(found.get(item, ()) for item in items))
            case Addresses() | MacAddresses():
                return frozenset()
            case _:
                return frozenset(n for n, port in enumerate(self.ports) if term.matches(port, self.world))

    def _static(self, term: Term) -> Iterable[AddressRange]:
        """The addresses that are members by themselves."""
        match term:
            case GroupMember(path):
                if path not in self._ranges:
                    self._ranges[path] = ranges_merge(self._static(self.world.groups[path].expression))
                return self._ranges[path]
            case AnyOf(terms):
                return [item for inner in terms for item in self._static(inner)]
            case _:
                return term.ranges(self.world)

    def _on_segment(self, name: str) -> frozenset[int]:
        if self._segments is None:
            self._segments = _grouped((port.segment, number) for number, port in enumerate(self.ports))
        return self._segments.get(name, frozenset())

    def _external_ids_of(self, member_type: ExternalIdType) -> Mapping[str, frozenset[int]]:
        if member_type not in self._external_ids:
            is_machine = member_type is ExternalIdType.VIRTUAL_MACHINE
            self._external_ids[member_type] = _grouped(
                (external_id, number)
                for number, port in enumerate(self.ports)
                if (external_id := (self.world.inventory.machine_of(port) if is_machine else port).external_id)
            )
        return self._external_ids[member_type]

    def _subject(self, member_type: MemberType, port: Port) -> Subject:
        inventory = self.world.inventory
        if member_type is MemberType.VIRTUAL_MACHINE:
            return inventory.machine_of(port)
        return port if member_type is MemberType.SEGMENT_PORT else inventory.segment_of(port)

    def _tags_of(self, member_type: MemberType) -> Mapping[Tag, frozenset[int]]:
        if member_type not in self._tags:
            self._tags[member_type] = _grouped(
                (Tag(tag.scope.casefold(), tag.tag.casefold()), number)
                for number, port in enumerate(self.ports)
                for tag in self._subject(member_type, port).tags
            )
        return self._tags[member_type]

    def _texts_of(self, member_type: MemberType, key: ConditionKey) -> Mapping[str, frozenset[int]]:
        if (member_type, key) not in self._texts:
            self._texts[member_type, key] = _grouped(
                (str(getattr(self._subject(member_type, port), _ATTRIBUTES[key], "")).casefold(), number)
                for number, port in enumerate(self.ports)
            )
        return self._texts[member_type, key]

    def _condition(self, condition: Condition) -> frozenset[int]:
        operator = POSITIVE.get(condition.operator, condition.operator)
        found = self._positive(condition, operator)
        return found if operator is condition.operator else self.everyone - found

    def _positive(self, condition: Condition, operator: Operator) -> frozenset[int]:
        if condition.key is ConditionKey.ALL:
            return self.everyone
        if condition.key is not ConditionKey.TAG:
            texts = self._texts_of(condition.member_type, condition.key)
            wanted = condition.value.casefold()
            if operator is Operator.EQUALS:
                return texts.get(wanted, frozenset())
            return frozenset().union(*(texts[text] for text in texts if text_matches(operator, text, wanted)))
        tags = self._tags_of(condition.member_type)
        scope, bar, value = condition.value.casefold().partition("|")
        if operator is Operator.EQUALS and bar and scope and value and not condition.scope_differs:
            return tags.get(Tag(scope, value), frozenset())
        matching = (tags[tag] for tag in tags if tag_matches(tag, operator, condition.value, condition.scope_differs))
        return frozenset().union(*matching)
