# SPDX-License-Identifier: Apache-2.0
"""Policies compiled once and stamped often: a template holds the entries of a policy's rules without the numbers of
rules and sets, and without the namespace; an instance of it has them.

What differs between policies that are otherwise the same (label selectors, CIDRs) may stand in a template as marks, so
that the same front end reads the policy once for all of them (dfw/kube/decoded.py).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from dfw.capabilities import unsupported_features
from dfw.compile import CompiledRule, entry_rows, matches_nobody, rule_described, service_entries
from dfw.errors import UnsupportedError
from dfw.incremental.marks import NO_MARKS, Hole, Marks
from dfw.incremental.selections import OWN, Derived, Meaning, NamedPortHolders, Part, Selection
from dfw.layout import RULE_DTYPE
from dfw.model import (
    Addresses,
    AnyOf,
    EffectiveRule,
    GroupMember,
    NamedPort,
    Peers,
    Policy,
    PolicySet,
    PortRange,
    Rule,
    ServiceEntry,
    Term,
    Tier,
    WorkloadMember,
)

_HEAD = struct.Struct("=5I")
_TAIL = struct.Struct("=5H10B")
assert _HEAD.size + _TAIL.size == RULE_DTYPE.itemsize
head_pack = _HEAD.pack
"""The first fields of pal_rule: the rule, and both sides' runs of sets."""
Intern: TypeAlias = Callable[[Term | NamedPortHolders], Meaning]

MAXIMUM_KNOWN = 100_000  # fillings that an item remembers


class Item:
    """A term that a policy uses. `where`: the namespace it is used in (None: the instance's own). `meaning` is known
    here where the term holds no marks."""

    __slots__ = ("_is_block", "_known", "_marks", "_numbers", "meaning", "term", "where")

    def __init__(self, term: Term, where: str | None, marks: Marks) -> None:
        self.term = term
        self.where = where
        self.meaning: Meaning | None = None
        self._marks = marks
        self._numbers = marks.within(term)
        self._is_block = bool(self._numbers) and isinstance(term, Addresses) and len(term.items) == 1
        self._known: dict[Hole | tuple[Hole, ...], Meaning] = {}

    @property
    def is_marked(self) -> bool:
        """Does it depend on the instance's holes?"""
        return bool(self._numbers)

    def filled(self, holes: Sequence[Hole], intern: Intern) -> Meaning:
        """The meaning in an instance with these holes."""
        numbers = self._numbers
        if self._is_block:
            hole = holes[numbers[0]]
            if hole.meaning is None:
                hole.meaning = intern(Addresses((hole.value,)))  # type: ignore[arg-type]
            return hole.meaning
        key = holes[numbers[0]] if len(numbers) == 1 else tuple(holes[number] for number in numbers)
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= MAXIMUM_KNOWN:
                self._known.clear()
            found = self._known[key] = intern(self._marks.filled(self.term, holes))
        return found


class NamedEntry(NamedTuple):
    """A service entry with a named port: an entry of the table for each number that the name has. `destinations`: as
    items; None is ANY."""

    rule: int
    source: int
    destinations: tuple[int, ...] | None
    is_excluded: bool
    name: str
    protocol: int
    tails: Callable[[int], list[bytes]]


class PlainEntry(NamedTuple):
    """An entry of the table: rule and sides by their numbers in the template, and the other fields as they are."""

    rule: int
    source: int
    destination: int
    tail: bytes


@dataclass(frozen=True, slots=True)
class PartTemplate:
    """Consecutive rules of a policy with one Applied-To (`scope`: items; None is ANY). `order`: how the policy's key of
    order begins; namespace, name and `index` follow. `plain`: the entries, where none is for a named port."""

    policy: int
    index: int
    order: tuple[int, ...]
    scope: tuple[int, ...] | None
    entries: tuple[PlainEntry | NamedEntry, ...]
    plain: tuple[PlainEntry, ...] | None


@dataclass(frozen=True, slots=True)
class PolicyTemplate:
    """Policies that come and go together. `sides`: distinct ones as items, the first being ANY; `rules`: by number;
    `named_keys`: the named ports that entries depend on.

    `prefix`: with what policy and rule paths begin that an instance has otherwise (`np/NAMESPACE/NAME`); empty where
    there is nothing to change. `kind`: the first word of it.
    """

    policies: tuple[Policy, ...]
    items: tuple[Item, ...]
    sides: tuple[tuple[int, ...], ...]
    rules: tuple[EffectiveRule, ...]
    parts: tuple[PartTemplate, ...]
    named_keys: frozenset[tuple[str, int]]
    prefix: str = ""
    kind: str = ""
    marks: Marks = NO_MARKS


class Instance:
    """A template in force. `base`: the number of its first rule; `selections`: those of the items, in their order;
    `runs`, `derived`: what it uses of the address sets (dfw/incremental/sets.py)."""

    __slots__ = ("base", "derived", "holes", "name", "namespace", "parts", "runs", "selections", "template")

    def __init__(
        self, template: PolicyTemplate, namespace: str = "", name: str = "", holes: tuple[Hole, ...] = ()
    ) -> None:
        self.template = template
        self.namespace = namespace
        self.name = name
        self.holes = holes
        self.base = -1
        self.selections: list[Selection] = []
        self.parts: list[Part] = []
        self.runs: tuple[tuple[int, ...], ...] = ()
        self.derived: tuple[Derived, ...] = ()

    def policies(self) -> tuple[Policy, ...]:
        """The model's policies, as the front end reads them one by one."""
        if not self.template.prefix:
            return self.template.policies
        return tuple(map(self._policy, self.template.policies))

    def rule(self, number: int) -> CompiledRule:
        """What is known of one of its rules, by its number in the state."""
        found = self.template.rules[number - self.base]
        if not self.template.prefix:
            return rule_described(number, found)
        policy = replace(found.policy, path=self.path(found.policy.path))
        rule = replace(found.rule, path=self.path(found.rule.path))
        return rule_described(number, replace(found, policy=policy, rule=rule))

    def rule_path(self, index: int) -> str:
        """The path of a rule by its place in the template."""
        return self.path(self.template.rules[index].rule.path)

    def path(self, path: str) -> str:
        """A path of the template's with namespace and name in it."""
        prefix = self.template.prefix
        if not prefix:
            return path
        assert path.startswith(prefix)
        kind = self.template.kind
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{kind}/{where}{self.name}{path[len(prefix) :]}"

    def _policy(self, policy: Policy) -> Policy:
        rules = tuple(
            replace(
                rule,
                path=self.path(rule.path),
                sources=self._peers(rule.sources, policy.namespace),
                destinations=self._peers(rule.destinations, policy.namespace),
                applied_to=self._peers(rule.applied_to, policy.namespace),
            )
            for rule in policy.rules
        )
        return replace(
            policy,
            path=self.path(policy.path),
            namespace=self.namespace,
            name=self.name,
            rules=rules,
            applied_to=self._peers(policy.applied_to, policy.namespace),
        )

    def _peers(self, peers: Peers, standing_in: str) -> Peers:
        if peers.terms is None:
            return peers
        terms = []
        for term in peers.terms:
            if isinstance(term, WorkloadMember) and term.namespaces == standing_in:
                term = replace(term, namespaces=self.namespace)
            terms.append(self.template.marks.filled(term, self.holes))
        return Peers(tuple(dict.fromkeys(terms)))


def template_compile(
    policies: Sequence[Policy], intern: Intern, *, prefix: str = "", marks: Marks = NO_MARKS
) -> PolicyTemplate:
    """The template of layer-3 policies that come and go together. Raises UnsupportedError, before anything is changed.

    `marks`: values in the policies that stand for what an instance brings. With `prefix` an instance has its own
    namespace and name.
    """
    for policy in policies:
        unsupported = unsupported_features(PolicySet((policy,)))
        if unsupported:
            effective, feature = unsupported[0]
            raise UnsupportedError("native", f"{feature} (rule {effective.rule.path})")
    return _Builder(intern, marks, prefix).build(policies)


class _Builder:
    def __init__(self, intern: Intern, marks: Marks, prefix: str) -> None:
        self.intern = intern
        self.prefix = prefix
        self.marks = marks
        self.items: dict[tuple[Term, str | None], int] = {}
        self.made: list[Item] = []
        self.sides: dict[tuple[int, ...], int] = {(): 0}
        self.rules: list[EffectiveRule] = []

    def build(self, policies: Sequence[Policy]) -> PolicyTemplate:
        parts: list[PartTemplate] = []
        for number, policy in enumerate(policies):
            if policy.tier is not Tier.ETHERNET:
                parts += self._parts(number, policy)
        rules, sides = tuple(self.rules), tuple(self.sides)
        named = (entry for part in parts for entry in part.entries if isinstance(entry, NamedEntry))
        keys = frozenset((entry.name, entry.protocol) for entry in named)
        return PolicyTemplate(
            tuple(policies),
            tuple(self.made),
            sides,
            rules,
            tuple(parts),
            keys,
            self.prefix,
            self.prefix.partition("/")[0],
            self.marks,
        )

    def _parts(self, number: int, policy: Policy) -> Iterator[PartTemplate]:
        scope: tuple[int, ...] | None = None
        entries: list[PlainEntry | NamedEntry] = []
        index = 0
        for rule in policy.rules:
            if rule.disabled:
                continue
            item = EffectiveRule(policy, rule, rule.direction)
            own = self._scope(item.applied_to)
            if entries and own != scope:
                yield _part(policy, number, index, scope, entries)
                index, entries = index + 1, []
            scope = own
            rule_number = len(self.rules)
            self.rules.append(item)
            if not matches_nobody(rule):
                entries += self._entries(rule_number, item)
        if entries:
            yield _part(policy, number, index, scope, entries)

    def _scope(self, peers: Peers) -> tuple[int, ...] | None:
        return None if peers.terms is None else tuple(dict.fromkeys(map(self._item, peers.terms)))

    def _item(self, term: Term) -> int:
        """The number of a term in the template; a namespace's own workloads are used by all namespaces alike."""
        where: str | None = ""
        if isinstance(term, WorkloadMember) and isinstance(term.namespaces, str):
            # Only a policy's own namespace is ever named.
            where = None if self.prefix else term.namespaces
            term = replace(term, namespaces=OWN)
        key = (term, where)
        found = self.items.get(key)
        if found is None:
            found = self.items[key] = len(self.made)
            item = Item(term, where, self.marks)
            if not item.is_marked:
                item.meaning = self.intern(term)
            self.made.append(item)
        return found

    def _side(self, peers: Peers) -> int:
        """One set for each group or label selector, one for everything else (as dfw/compile.py has it)."""
        if peers.terms is None:
            return 0
        side = self._side_items(peers.terms)
        return self.sides.setdefault(side, len(self.sides))

    def _side_items(self, terms: Sequence[Term]) -> tuple[int, ...]:
        shared = [term for term in terms if isinstance(term, GroupMember | WorkloadMember)]
        others = [term for term in terms if not isinstance(term, GroupMember | WorkloadMember)]
        found = list(map(self._item, shared))
        if others or not shared:
            only = others[0] if len(others) == 1 and isinstance(others[0], Addresses) else AnyOf(tuple(others))
            found.append(self._item(only))
        return tuple(dict.fromkeys(found))

    def _entries(self, number: int, item: EffectiveRule) -> Iterator[PlainEntry | NamedEntry]:
        rule = item.rule
        source, destination = self._side(rule.sources), self._side(rule.destinations)
        for entry in service_entries(item):
            if not entry.destination_port_name:
                for row in entry_rows(0, item, entry):
                    yield PlainEntry(number, source, destination, _TAIL.pack(*row[1:], 0))
                continue
            assert entry.protocol is not None, "a named port has a protocol"
            terms = rule.destinations.terms
            yield NamedEntry(
                number,
                source,
                None if terms is None else tuple(dict.fromkeys(map(self._item, terms))),
                rule.destinations_excluded,
                entry.destination_port_name,
                entry.protocol,
                _named_tails(item, rule, entry),
            )


def _named_tails(item: EffectiveRule, rule: Rule, entry: ServiceEntry) -> Callable[[int], list[bytes]]:
    plain = replace(item, rule=replace(rule, destinations_excluded=False))

    def tails(port: int) -> list[bytes]:
        resolved = replace(entry, destination_port_name="", destination_ports=(PortRange(port, port),))
        return [_TAIL.pack(*row[1:], 0) for row in entry_rows(0, plain, resolved)]

    return tails


def _part(
    policy: Policy,
    number: int,
    index: int,
    scope: tuple[int, ...] | None,
    entries: Sequence[PlainEntry | NamedEntry],
) -> PartTemplate:
    plain = tuple(entry for entry in entries if isinstance(entry, PlainEntry))
    order = tuple(map(int, policy.order_key[:4]))
    return PartTemplate(number, index, order, scope, tuple(entries), plain if len(plain) == len(entries) else None)


def named_holders(name: str, protocol: int, number: int) -> NamedPortHolders:
    """The term for those that have a named port."""
    return NamedPortHolders(NamedPort(name, protocol, number))
