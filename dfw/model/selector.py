# SPDX-License-Identifier: Apache-2.0
"""Selectors: terms that say which ports and which addresses are members. Each term carries its own matching.

A term answers two questions, given the PolicySet `world` that resolves names:
  matches(port, world)  is this port (vNIC) a member?
  ranges(world)         which addresses are members by themselves, whoever has them?
An address belongs to a term when it lies in `ranges` or is bound to a port that matches (`PolicySet.contains`).
Ethernet rules ask a third one, of Mac terms: which MAC addresses are members by themselves (`member_macs`).
Evaluation here is the plain, slow, obvious one; dfw/membership.py has a faster one that is tested equal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeAlias

from dfw.model.address import AddressRange
from dfw.model.inventory import Machine, Port, Segment, Tag
from dfw.model.place import Place

if TYPE_CHECKING:
    from dfw.model.policyset import PolicySet

Subject: TypeAlias = Machine | Port | Segment
"""What a Condition looks at."""


class Term(Protocol):
    """What every selector term can do."""

    def matches(self, port: Port, world: PolicySet) -> bool:
        """Is this port a member?"""
        ...

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """The addresses that are members by themselves."""
        ...


class MemberType(Enum):
    """Whose property a Condition looks at (NSX Condition.member_type)."""

    VIRTUAL_MACHINE = "VirtualMachine"
    SEGMENT_PORT = "SegmentPort"
    SEGMENT = "Segment"


class ConditionKey(Enum):
    """Which property (NSX Condition.key)."""

    TAG = "Tag"
    NAME = "Name"
    OS_NAME = "OSName"
    COMPUTER_NAME = "ComputerName"
    ALL = "ALL"


class ExternalIdType(Enum):
    """Whose external id an ExternalIDExpression names."""

    VIRTUAL_MACHINE = "VirtualMachine"
    VIRTUAL_NETWORK_INTERFACE = "VirtualNetworkInterface"


class Operator(Enum):
    """How the property is compared (NSX Condition.operator), always ignoring case."""

    EQUALS = "EQUALS"
    NOTEQUALS = "NOTEQUALS"
    CONTAINS = "CONTAINS"
    STARTSWITH = "STARTSWITH"
    ENDSWITH = "ENDSWITH"
    IN = "IN"
    NOTIN = "NOTIN"
    MATCHES = "MATCHES"


# A negative operator is the complement of its positive one.
POSITIVE = {Operator.NOTEQUALS: Operator.EQUALS, Operator.NOTIN: Operator.IN}


MAXIMUM_PATTERN = 256
MAXIMUM_REPEATS = 3
_ATOM = re.compile(r"(?P<atom>[^\\()\[\]{}?*+|]|\\[^\w\s]|\[\^?[^\[\]\\]+\]|\|)(?P<repeat>[*+?]?)", re.DOTALL)


@lru_cache(maxsize=4096)
def _pattern(wanted: str) -> re.Pattern[str]:
    return re.compile(wanted, re.DOTALL)


def pattern_check(pattern: str) -> None:
    """Is this a pattern of Operator.MATCHES? Raises ValueError.

    A regular expression for the whole text, ignoring case: letters, `.`, `[...]`, escaped punctuation, each with `*`,
    `+` or `?`, and `|` between alternatives. Groups and more than MAXIMUM_REPEATS repeats are refused: they can take
    exponential time.
    """
    if len(pattern) > MAXIMUM_PATTERN:
        raise ValueError(f"a pattern of {len(pattern)} characters is too long (at most {MAXIMUM_PATTERN})")
    at = repeats = 0
    while at < len(pattern):
        found = _ATOM.match(pattern, at)
        if found is None or (found["atom"] == "|" and found["repeat"]):
            raise ValueError(f"{pattern!r} is not a pattern that we take: {pattern[at]!r} at character {at + 1}")
        repeats += bool(found["repeat"])
        at = found.end()
    if repeats > MAXIMUM_REPEATS:
        raise ValueError(f"{pattern!r} is not a pattern that we take: more than {MAXIMUM_REPEATS} of *, + and ?")
    try:
        _pattern(pattern.casefold())
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a pattern: {error.msg}") from None


def text_matches(operator: Operator, actual: str, wanted: str) -> bool:
    """Compare under a positive operator; both texts are already case-folded."""
    match operator:
        case Operator.EQUALS:
            return actual == wanted
        case Operator.CONTAINS:
            return wanted in actual
        case Operator.STARTSWITH:
            return actual.startswith(wanted)
        case Operator.ENDSWITH:
            return actual.endswith(wanted)
        case Operator.IN:
            return actual in [item.strip() for item in wanted.split(",")]
        case Operator.MATCHES:
            return _pattern(wanted).fullmatch(actual) is not None
        case _:
            raise AssertionError(operator)


def tag_matches(tag: Tag, operator: Operator, value: str, scope_differs: bool = False) -> bool:
    """Does one tag match `scope|tag` under a positive operator?

    NSX: `scope|tag`; `|tag` or `tag` alone: any scope; `scope|`: that scope with any or no tag. The operator concerns
    the tag part; the scope is compared for equality, or (scope_operator NOTEQUALS) for being another one.
    """
    scope, bar, wanted = value.casefold().partition("|")
    if not bar:
        scope, wanted = "", scope
    if scope and (tag.scope.casefold() == scope) is scope_differs:
        return False
    if bar and scope and not wanted:
        return True
    return text_matches(operator, tag.tag.casefold(), wanted)


@dataclass(frozen=True, slots=True)
class Condition:
    """NSX Condition. A negative operator is the exact complement of its positive one: no tag may match."""

    member_type: MemberType
    key: ConditionKey
    operator: Operator
    value: str
    scope_differs: bool = False

    def matches(self, port: Port, world: PolicySet) -> bool:
        """Ask the port, its machine or its segment, as member_type says."""
        positive = POSITIVE.get(self.operator, self.operator)
        found = self._found(positive, port, world)
        return found if positive is self.operator else not found

    def _found(self, operator: Operator, port: Port, world: PolicySet) -> bool:
        if self.key is ConditionKey.ALL:
            return True
        inventory = world.inventory
        subject: Subject
        match self.member_type:
            case MemberType.VIRTUAL_MACHINE:
                subject = inventory.machine_of(port)
            case MemberType.SEGMENT_PORT:
                subject = port
            case MemberType.SEGMENT:
                subject = inventory.segment_of(port)
        if self.key is ConditionKey.TAG:
            return any(tag_matches(tag, operator, self.value, self.scope_differs) for tag in subject.tags)
        attribute = {
            ConditionKey.NAME: "name",
            ConditionKey.OS_NAME: "os_name",
            ConditionKey.COMPUTER_NAME: "computer_name",
        }[self.key]
        return text_matches(operator, str(getattr(subject, attribute, "")).casefold(), self.value.casefold())

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """None: a condition selects ports."""
        return ()


@dataclass(frozen=True, slots=True)
class Addresses:
    """Raw addresses, prefixes and ranges (NSX IPAddressExpression, Kubernetes ipBlock)."""

    items: tuple[AddressRange, ...]

    def matches(self, port: Port, world: PolicySet) -> bool:
        """False: addresses alone make no vNIC a member (NSX: they are invalid in Applied-To)."""
        return False

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """The ranges themselves."""
        return self.items


@dataclass(frozen=True, slots=True)
class MacAddresses:
    """MAC addresses (NSX MACAddressExpression): members for Ethernet rules only. Layer-3 rules see nobody in them."""

    items: tuple[str, ...]

    def matches(self, port: Port, world: PolicySet) -> bool:
        """False: as addresses, MACs alone make no vNIC a member (NSX: invalid in Applied-To)."""
        return False

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class ExternalIds:
    """The machines or vNICs with these external ids, exactly (NSX ExternalIDExpression)."""

    member_type: ExternalIdType
    items: tuple[str, ...]

    def matches(self, port: Port, world: PolicySet) -> bool:
        """Ask the port or its machine. Without an external id nothing is a member."""
        is_machine = self.member_type is ExternalIdType.VIRTUAL_MACHINE
        external_id = world.inventory.machine_of(port).external_id if is_machine else port.external_id
        return bool(external_id) and external_id in self.items

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class PortMember:
    """The port with this name (NSX PathExpression with a segment port's path)."""

    name: str

    def matches(self, port: Port, world: PolicySet) -> bool:
        """By name, exactly."""
        return port.name == self.name

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class SegmentMember:
    """All ports of a segment (NSX PathExpression with a segment's path)."""

    name: str

    def matches(self, port: Port, world: PolicySet) -> bool:
        """By the segment's name, exactly."""
        return port.segment == self.name

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """None."""
        return ()


@dataclass(frozen=True, slots=True)
class GroupMember:
    """All members of another group. Front ends refuse cycles, so the recursion ends."""

    path: str

    def matches(self, port: Port, world: PolicySet) -> bool:
        """As the group's own expression says."""
        return world.group_selects(self.path, port)

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """As the group's own expression says."""
        return world.group_ranges(self.path)


@dataclass(frozen=True, slots=True)
class AnyOf:
    """Members of any of the terms; of none where there are no terms."""

    terms: tuple[Term, ...] = ()

    def matches(self, port: Port, world: PolicySet) -> bool:
        """Any of them."""
        return any(term.matches(port, world) for term in self.terms)

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """All of theirs."""
        return [item for term in self.terms for item in term.ranges(world)]


@dataclass(frozen=True, slots=True)
class AllOf:
    """Ports that match all the terms. Front ends admit only terms that select ports (NSX joins addresses by OR)."""

    terms: tuple[Term, ...]

    def matches(self, port: Port, world: PolicySet) -> bool:
        """All of them; an empty conjunction selects every port."""
        return all(term.matches(port, world) for term in self.terms)

    def ranges(self, world: PolicySet) -> Iterable[AddressRange]:
        """None: see the class."""
        return ()


def member_macs(term: Term, world: PolicySet) -> frozenset[str]:
    """The MAC addresses that are members by themselves; those of member vNICs are the caller's to add."""
    match term:
        case MacAddresses(items):
            return frozenset(items)
        case GroupMember(path):
            return member_macs(world.groups[path].expression, world)
        case AnyOf(terms):
            return frozenset().union(*(member_macs(item, world) for item in terms))
        case _:
            return frozenset()


@dataclass(frozen=True, slots=True)
class Group:
    """A named selector. `path` is its NSX path."""

    path: str
    expression: Term
    place: Place | None = field(default=None, compare=False, repr=False)

    @property
    def id(self) -> str:
        """Last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Peers:
    """One side of a rule, or an Applied-To. `terms` None is ANY; an empty tuple is nobody."""

    terms: tuple[Term, ...] | None = None

    @property
    def is_any(self) -> bool:
        """True for ANY (as Applied-To: the whole distributed firewall)."""
        return self.terms is None


ANY_PEERS = Peers(None)
NOBODY = Peers(())
