# SPDX-License-Identifier: Apache-2.0
"""What one apply has found to do, and policies put in force and taken out of it."""

from __future__ import annotations

from typing import Protocol

from dfw.compile import CompiledRule
from dfw.incremental.ports import Before, Ports
from dfw.incremental.selections import Derived, Part, Selection, Selections
from dfw.incremental.sets import Sets
from dfw.incremental.tables import Tables
from dfw.incremental.templates import (
    Instance,
    NamedEntry,
    PartTemplate,
    PlainEntry,
    head_pack,
    named_holders,
)


class RuleOwner(Protocol):
    """Who knows the rule with a number."""

    def rule(self, number: int) -> CompiledRule:
        """What is known of it."""
        ...


class Work:
    """What one apply has found to do so far. `before`: of ports that may be judged otherwise; `numbers`: what named
    ports stood for; `scopes`: Selections whose parts changed; `slots`: ports that may have another table."""

    def __init__(self) -> None:
        self.before: dict[int, Before] = {}
        self.gone: dict[int, str] = {}
        self.groups: set[str] = set()
        self.machines: set[str] = set()
        self.segments: set[str] = set()
        self.numbers: dict[tuple[str, int], frozenset[int]] = {}
        self.scopes: dict[Selection, None] = {}
        self.slots: set[int] = set()
        self.everyone = False
        self.bindings = False
        self.layer2 = False
        self.policies: list[tuple[str, Instance | None]] = []


class Units:
    """The policies in force by key, and the numbers of their rules."""

    def __init__(self, ports: Ports, selections: Selections, sets: Sets, tables: Tables) -> None:
        self.ports = ports
        self.selections = selections
        self.sets = sets
        self.tables = tables
        self.of: dict[str, Instance] = {}
        self.rule_owner: list[RuleOwner] = []
        self._dynamic: dict[tuple[str, int], dict[Instance, None]] = {}
        self._free: dict[int, list[int]] = {}
        self._resting: list[Instance] = []

    def stamp(self, work: Work) -> None:
        """Put policies in the place of those with the same key; they see the ports of after the change."""
        for named, numbers in work.numbers.items():
            if numbers != self.ports.named.get(named, {}).keys():
                for user in list(self._dynamic.get(named, ())):
                    self._retire(user, work)
                    self._put_in_force(user, work)
        for key, instance in work.policies:
            old = self.of.pop(key, None)
            if old is not None:
                self._retire(old, work)
            if instance is not None:
                self.number(instance, old)
                self._put_in_force(instance, work)
                self.of[key] = instance
            elif old is not None:
                self._resting.append(old)

    def rest(self) -> None:
        """After an apply: the numbers of rules that are gone may be given to others."""
        for instance in self._resting:
            self._free.setdefault(len(instance.template.rules), []).append(instance.base)
        self._resting.clear()

    def number(self, instance: Instance, old: Instance | None) -> None:
        """Numbers for the rules: the old ones where the rules are the same ones, by their paths."""
        count = len(instance.template.rules)
        if old is not None and (
            old.template is instance.template
            or [old.rule_path(index) for index in range(len(old.template.rules))]
            == [instance.rule_path(index) for index in range(count)]
        ):
            instance.base = old.base
        else:
            if old is not None:
                self._resting.append(old)
            free = self._free.get(count)
            instance.base = free.pop() if free else len(self.rule_owner)
        self.rule_owner[instance.base : instance.base + count] = [instance] * count

    def _put_in_force(self, instance: Instance, work: Work) -> None:
        template, holes = instance.template, instance.holes
        acquire, namespace = self.selections.acquire, instance.namespace
        selections = []
        of, intern = self.selections.of, self.selections.meaning
        for item in template.items:
            meaning = item.meaning or item.filled(holes, intern)
            where = namespace if item.where is None else item.where
            there = of.get(where)
            known = None if there is None else there.get(meaning)
            if known is None:
                known = acquire(meaning, where)
            else:
                known.uses += 1
            selections.append(known)
        instance.selections = selections
        sides = [(0, 0)]
        runs: list[tuple[int, ...]] = []
        for side in template.sides[1:]:
            if len(side) == 1:
                shared = selections[side[0]].set or self.sets.set_of(selections[side[0]])
                sides.append((shared.reference, 1) if shared.reference >= 0 else self.sets.single(shared))
            else:
                numbers = tuple(dict.fromkeys([self.sets.set_of(selections[index]).number for index in side]))
                sides.append(self.sets.run(numbers))
                runs.append(numbers)
        instance.runs = tuple(runs)
        for key in template.named_keys:
            self._dynamic.setdefault(key, {})[instance] = None
        derived: list[Derived] = []
        parts = []
        for part in template.parts:
            if instance.name:
                order = (part.order, namespace, instance.name, part.index)
            else:
                policy = template.policies[part.policy]
                order = (part.order, policy.namespace, policy.name or policy.path, part.index)
            scope: tuple[Selection, ...] | None = None
            if part.scope is not None:
                one = len(part.scope) == 1
                scope = (selections[part.scope[0]],) if one else tuple([selections[index] for index in part.scope])
            made = Part(order, self._entries(instance, part, sides, derived), scope)
            parts.append(made)
            if scope is None:
                self.tables.everywhere.append(made)
                work.everyone = True
            else:
                for selection in scope:
                    selection.parts.append(made)
                    work.scopes[selection] = None
        instance.parts = parts
        instance.derived = tuple(derived)

    def _entries(
        self, instance: Instance, part: PartTemplate, sides: list[tuple[int, int]], derived: list[Derived]
    ) -> bytes:
        base = instance.base
        if part.plain is not None:
            if len(part.plain) == 1:
                rule, source, destination, tail = part.plain[0]
                return head_pack(base + rule, *sides[source], *sides[destination]) + tail
            return b"".join(
                [
                    head_pack(base + rule, *sides[source], *sides[destination]) + tail
                    for rule, source, destination, tail in part.plain
                ]
            )
        found = []
        for entry in part.entries:
            if isinstance(entry, PlainEntry):
                found.append(head_pack(base + entry.rule, *sides[entry.source], *sides[entry.destination]) + entry.tail)
            else:
                for number in sorted(self.ports.named.get((entry.name, entry.protocol), ())):
                    at = self._named(instance, entry, number, derived)
                    head = head_pack(base + entry.rule, *sides[entry.source], *at)
                    found += [head + tail for tail in entry.tails(number)]
        return b"".join(found)

    def _named(self, instance: Instance, entry: NamedEntry, number: int, derived: list[Derived]) -> tuple[int, int]:
        """The run of those destinations of a rule that have a named port with this number."""
        meaning = self.selections.meaning(named_holders(entry.name, entry.protocol, number))
        holders = self.selections.acquire(meaning, "")
        instance.selections.append(holders)
        if entry.destinations is None:
            return self.sets.single(self.sets.set_of(holders))
        destinations = tuple([instance.selections[index] for index in entry.destinations])
        derived.append(self.sets.derived(holders, destinations, entry.is_excluded))
        return self.sets.single(self.sets.set_of(derived[-1]))

    def _retire(self, instance: Instance, work: Work) -> None:
        for part in instance.parts:
            if part.scope is None:
                self.tables.everywhere.remove(part)
                work.everyone = True
            else:
                for selection in part.scope:
                    selection.parts.remove(part)
                    work.scopes[selection] = None
        for numbers in instance.runs:
            self.sets.release(numbers)
        for derived in instance.derived:
            self.sets.release_derived(derived)
        for selection in instance.selections:
            self.selections.release(selection)
        for key in instance.template.named_keys:
            self._dynamic[key].pop(instance, None)
