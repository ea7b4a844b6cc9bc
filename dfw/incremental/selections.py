# SPDX-License-Identifier: Apache-2.0
"""What the selectors in use resolve to, kept up to date as ports, namespaces and groups change.

A Meaning is a term of the model without the namespace that it is used in; a Selection is a Meaning in a namespace, with
its members. Equal selectors are one Selection, however many rules, scopes and policies use it. A changed port is shown
only to the Selections that could mean it, before or after: those of its namespace, and of the others those that are
filed under one of its labels or of its namespace's. NSX's terms are asked one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum, auto
from itertools import chain
from typing import NamedTuple, TypeAlias

from dfw.incremental.packed import range_flat
from dfw.incremental.ports import Before, Ports
from dfw.membership import Membership
from dfw.model import (
    Addresses,
    AddressRange,
    AllOf,
    AnyOf,
    GroupMember,
    LabelOperator,
    LabelSelector,
    MacAddresses,
    NamedPort,
    Peers,
    PolicySet,
    Port,
    Term,
    WorkloadMember,
)

Holds: TypeAlias = Callable[[Mapping[str, str]], bool]
OWN = ""
"""The namespace of a WorkloadMember that stands for whichever namespace its policy lives in (dfw/kube/peers.py)."""


_NO_SELECTIONS: Mapping[Meaning, Selection] = {}


class NamedPortHolders(NamedTuple):
    """The ports that have a named port: what an `ANY` destination means in a rule for one."""

    port: NamedPort


class Kind(Enum):
    """How a Meaning is resolved."""

    OWN = auto()  # workloads of one namespace
    GLOBAL = auto()  # workloads of namespaces by label
    NAMED = auto()  # holders of a named port
    FIXED = auto()  # addresses alone: no port is a member, whatever happens
    OTHER = auto()  # NSX's terms


class Meaning:
    """A term, interned: one object for equal terms. `equal`: the one label that a selector asks for, if it is no more
    than that; `holds`, `namespaces_hold`: selectors as functions, None where they hold for everything; `uses`: how
    many Selections there are of it, in all states that share it."""

    __slots__ = ("equal", "holds", "kind", "namespaces_hold", "term", "uses")

    def __init__(self, term: Term | NamedPortHolders) -> None:
        self.term = term
        self.uses = 0
        self.equal: tuple[str, str] | None = None
        self.holds: Holds | None = None
        self.namespaces_hold: Holds | None = None
        if type(term) is Addresses:
            self.kind = Kind.FIXED
        elif isinstance(term, NamedPortHolders):
            self.kind = Kind.NAMED
        elif not isinstance(term, WorkloadMember):
            self.kind = Kind.FIXED if _is_fixed(term) else Kind.OTHER
        else:
            self.equal = _equality(term.labels)
            self.holds = _predicate(term.labels)
            self.kind = Kind.OWN
            if isinstance(term.namespaces, LabelSelector):
                self.kind = Kind.GLOBAL
                self.namespaces_hold = _predicate(term.namespaces)

    @property
    def name(self) -> str:
        """What the address set is called: a group's path, or nothing."""
        return self.term.path if isinstance(self.term, GroupMember) else ""


def _is_fixed(term: object) -> bool:
    """Is this a list of addresses and nothing else?"""
    if isinstance(term, AnyOf):
        return all(map(_is_fixed, term.terms))
    return isinstance(term, Addresses | MacAddresses)


def _predicate(selector: LabelSelector) -> Holds | None:
    """The selector as a function; None where it holds for everything."""
    equal = _equality(selector)
    if equal is not None:
        key, value = equal
        return lambda labels: labels.get(key) == value
    return selector.holds if selector.requirements else None


def _equality(selector: LabelSelector) -> tuple[str, str] | None:
    """Key and value of a selector that asks for one label."""
    if len(selector.requirements) == 1:
        only = selector.requirements[0]
        if only.operator is LabelOperator.IN and len(only.values) == 1:
            return only.key, only.values[0]
    return None


class Selection:
    """A Meaning in a namespace (empty where it has its own), and which ports are its members.

    `uses`: how many policies refer to it. `parts`: what it is the Applied-To of (see dfw/incremental/templates.py).
    `set`: its address set, where rules refer to one. `derived`: sets that are computed from it.
    """

    __slots__ = ("derived", "fixed", "meaning", "members", "namespace", "number", "parts", "set", "uses")

    def __init__(self, meaning: Meaning, namespace: str, number: int) -> None:
        self.meaning = meaning
        self.namespace = namespace
        self.number = number
        self.members: set[int] = set()
        self.fixed: tuple[tuple[int, int], ...] = ()
        self.uses = 0
        self.parts: list[Part] = []
        self.set: SharedSet | None = None
        self.derived: list[Derived] | None = None

    def holds(self, port: Port, namespace_labels: Mapping[str, str], world: PolicySet) -> bool:
        """Is this port a member?"""
        meaning = self.meaning
        term = meaning.term
        if meaning.kind is Kind.NAMED:
            assert isinstance(term, NamedPortHolders)
            return term.port in port.named_ports
        if meaning.kind is Kind.OTHER:
            assert not isinstance(term, NamedPortHolders)
            return term.matches(port, world)
        assert isinstance(term, WorkloadMember)
        if port.namespace is None or (term.machines_only and port.is_pod):
            return False
        if meaning.holds is not None and not meaning.holds(port.labels):
            return False
        if meaning.kind is Kind.OWN:
            return port.namespace == self.namespace
        return meaning.namespaces_hold is None or meaning.namespaces_hold(namespace_labels)


class Part:
    """Rules of one policy with one Applied-To, as entries of a table. `order`: parts are judged by ascending order."""

    __slots__ = ("data", "order", "scope")

    def __init__(self, order: tuple[object, ...], data: bytes, scope: tuple[Selection, ...] | None) -> None:
        self.order = order
        self.data = data
        self.scope = scope


class Derived:
    """The destinations of a rule for a named port: of the holders of one number, those that are destinations (or, where
    `is_excluded`, that are not)."""

    __slots__ = ("destinations", "holders", "is_excluded", "set", "uses")

    def __init__(self, holders: Selection, destinations: tuple[Selection, ...], is_excluded: bool) -> None:
        self.holders = holders
        self.destinations = destinations
        self.is_excluded = is_excluded
        self.set: SharedSet | None = None
        self.uses = 0


class SharedSet:
    """An address set: its number, the group's path, the records, and where a table's entry finds it alone."""

    __slots__ = ("name", "number", "packed", "reference", "source")

    def __init__(self, number: int, name: str, source: Selection | Derived) -> None:
        self.number = number
        self.name = name
        self.source = source
        self.packed = b""
        self.reference = -1


class Shift:
    """How a Selection changed: ports that joined and left, and addresses that came and went."""

    __slots__ = ("came", "is_refilled", "joined", "left", "went")

    def __init__(self) -> None:
        self.joined: list[int] = []
        self.left: list[int] = []
        self.came: list[int] = []
        self.went: list[int] = []
        self.is_refilled = False


class Selections:
    """All Selections in use, filed by what a port must have to be meant. `of`: by namespace (the Kind OWN only), or
    nothing, and Meaning. `shared`: whose Meanings are used too."""

    def __init__(self, ports: Ports, shared: Selections | None = None) -> None:
        self.ports = ports
        self.of: dict[str, dict[Meaning, Selection]] = {}
        self.fresh: dict[Selection, None] = {}
        self.idle: list[Selection] = []
        self._meanings: dict[Term | NamedPortHolders, Meaning] = {} if shared is None else shared._meanings
        self._by_label: dict[tuple[str, str], dict[Selection, None]] = {}
        self._by_namespace_label: dict[tuple[str, str], dict[Selection, None]] = {}
        self._always: dict[Selection, None] = {}
        self._others: dict[Selection, None] = {}
        self._next = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Selection]:
        return chain.from_iterable(there.values() for there in self.of.values())

    def meaning(self, term: Term | NamedPortHolders) -> Meaning:
        """The one object for equal terms. The namespace of a WorkloadMember is the caller's to take out."""
        found = self._meanings.get(term)
        if found is None:
            found = self._meanings[term] = Meaning(term)
        return found

    def acquire(self, meaning: Meaning, namespace: str) -> Selection:
        """The Selection, used once more."""
        there = self.of.get(namespace)
        if there is None:
            there = self.of[namespace] = {}
        found = there.get(meaning)
        if found is None:
            found = there[meaning] = Selection(meaning, namespace, self._next)
            meaning.uses += 1
            self._next += 1
            self._count += 1
            self.fresh[found] = None
            if meaning.kind is not Kind.OWN and meaning.kind is not Kind.FIXED:
                for file in self._files(found):
                    file[found] = None
        found.uses += 1
        return found

    def release(self, selection: Selection) -> None:
        """Used once less; `drop_idle` ends those that nobody uses."""
        selection.uses -= 1
        if not selection.uses:
            self.idle.append(selection)

    def drop_idle(self) -> Iterator[Selection]:
        """Forget the Selections that nobody uses any more, and name them."""
        for selection in dict.fromkeys(self.idle):
            if selection.uses:
                continue
            meaning = selection.meaning
            meaning.uses -= 1
            there = self.of[selection.namespace]
            del there[meaning]
            self._count -= 1
            if not there:
                del self.of[selection.namespace]
            if meaning.kind is not Kind.OWN:
                for file in self._files(selection):
                    del file[selection]
                if not meaning.uses and self._meanings.get(meaning.term) is meaning:
                    del self._meanings[meaning.term]
            yield selection
        self.idle.clear()

    def _files(self, selection: Selection) -> list[dict[Selection, None]]:
        """Where a Selection is filed: a port that has none of these can be no member."""
        term = selection.meaning.term
        if not isinstance(term, WorkloadMember):
            return [] if selection.meaning.kind is Kind.FIXED else [self._others]  # addresses: nobody is shown to them
        assert isinstance(term.namespaces, LabelSelector)
        for selector, files in ((term.labels, self._by_label), (term.namespaces, self._by_namespace_label)):
            wanted = [item for item in selector.requirements if item.operator is LabelOperator.IN]
            if wanted:
                chosen = min(wanted, key=lambda item: len(item.values))
                return [files.setdefault((chosen.key, value), {}) for value in chosen.values]
        return [self._always]

    def _candidates(self, before: Before) -> Iterable[Selection]:
        """The Selections that could mean a port."""
        port = before.port
        if port is None or port.namespace is None:
            return ()
        found = [
            self.of.get(port.namespace, _NO_SELECTIONS).values() if port.namespace else (),
            *(self._by_label.get(item, ()) for item in port.labels.items()),
            *(self._by_namespace_label.get(item, ()) for item in before.namespace_labels.items()),
            self._always,
        ]
        return chain.from_iterable(found)

    def shown(self, slot: int, before: Before, now: Before, world: PolicySet, shifts: dict[Selection, Shift]) -> None:
        """A port changed: who is it a member of now? Fresh Selections are not asked; `resolve` does that."""
        candidates = dict.fromkeys(chain(self._candidates(before), self._candidates(now), self._others))
        port = now.port
        for selection in candidates:
            was = slot in selection.members
            is_member = port is not None and selection.holds(port, now.namespace_labels, world)
            if not was and not is_member:
                continue
            if was and is_member and before.flat == now.flat:
                continue
            shift = shifts.get(selection)
            if shift is None:
                shift = shifts[selection] = Shift()
            if was:
                shift.went += before.flat
                if not is_member:
                    selection.members.discard(slot)
                    shift.left.append(slot)
            if is_member:
                shift.came += now.flat
                if not was:
                    selection.members.add(slot)
                    shift.joined.append(slot)

    def resolve(self, selection: Selection, resolver: Resolver) -> set[int]:
        """Who is a member, from nothing."""
        meaning, ports = selection.meaning, self.ports
        term = meaning.term
        if isinstance(term, NamedPortHolders):
            return set(ports.having(term.port))
        if not isinstance(term, WorkloadMember):
            return set() if meaning.kind is Kind.FIXED else resolver.members(term)
        if meaning.kind is Kind.OWN:
            found = ports.of_namespace.get(selection.namespace, set())
            holds, table = meaning.holds, ports.ports
            if meaning.equal is not None:  # the usual selector, without a call for each port
                key, value = meaning.equal
                found = {slot for slot in found if table[slot].labels.get(key) == value}  # type: ignore[union-attr]
            elif holds is not None:
                found = {slot for slot in found if holds(table[slot].labels)}  # type: ignore[union-attr]
            else:
                found = set(found)
        else:
            found = resolver.in_namespaces(meaning, ports.labelled(term.labels))
        if term.machines_only:
            found = {slot for slot in found if not ports.ports[slot].is_pod}  # type: ignore[union-attr]
        return found

    def using(self, paths: Iterable[str], world: PolicySet) -> list[Selection]:
        """The Selections whose members depend on one of these groups."""
        wanted = frozenset(paths)
        return [item for item in self._others if not wanted.isdisjoint(groups_of(item.meaning.term, world))]


def groups_of(term: object, world: PolicySet) -> frozenset[str]:
    """Paths of all groups that a term names, and that those name."""
    if isinstance(term, GroupMember):
        group = world.groups.get(term.path)
        return frozenset((term.path,)) | (frozenset() if group is None else groups_of(group.expression, world))
    if isinstance(term, AnyOf | AllOf):
        return frozenset().union(*(groups_of(item, world) for item in term.terms))
    return frozenset()


class Resolver:
    """Answers for one moment: terms of NSX by their own indexes (made when first asked), namespaces by their labels."""

    def __init__(self, ports: Ports, world: PolicySet, namespace_labels: Callable[[str], Mapping[str, str]]) -> None:
        self.ports = ports
        self.world = world
        self.namespace_labels = namespace_labels
        self._membership: Membership | None = None
        self._slots: list[int] = []
        self._known: dict[Holds, set[str]] = {}

    def members(self, term: Term) -> set[int]:
        """Members of an NSX term."""
        if self._membership is None:
            self._membership = Membership(self.world)
            self._slots = [self.ports.slot_of[port.name] for port in self._membership.ports]
        return {self._slots[number] for number in self._membership.members(Peers((term,)))}

    def fixed(self, term: object) -> tuple[tuple[int, int], ...]:
        """The addresses that are members by themselves."""
        if isinstance(term, WorkloadMember | NamedPortHolders):
            return ()
        ranges: Iterable[AddressRange] = term.ranges(self.world)  # type: ignore[attr-defined]
        return tuple(map(range_flat, ranges))

    def in_namespaces(self, meaning: Meaning, candidates: set[int] | None) -> set[int]:
        """Those of the candidates (None: all) that are in a namespace which the meaning is about."""
        holds = meaning.namespaces_hold
        if holds is None:
            return self.ports.namespaced() if candidates is None else set(candidates)
        names = self._known.get(holds)
        if names is None:
            names = self._known[holds] = {
                name for name in self.ports.of_namespace if holds(self.namespace_labels(name))
            }
        if candidates is None:
            return set().union(*(self.ports.of_namespace[name] for name in names))
        ports = self.ports.ports
        return {slot for slot in candidates if (port := ports[slot]) is not None and port.namespace in names}
