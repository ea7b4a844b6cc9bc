# SPDX-License-Identifier: Apache-2.0
"""A compiled policy that follows changes: what each vNIC's table and each address set is now, and what changed.

The result is what `compile_policy` gives for the same world, but for the numbers: a rule, a set and a port keep theirs
while they exist. `apply` touches what depends on the changes: the Selections that could mean a changed port, the sets
and tables of those whose members moved, the tables where an edited policy is in force.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dfw.compile import EXCLUDED_RULES, AddressSet, CompiledRule, RuleTable, rule_described
from dfw.compile_ether import EtherCompiled, ether_compile
from dfw.incremental.changes import Change, Delta, Staged, Thing
from dfw.incremental.intake import Intake, instance_given
from dfw.incremental.ports import Ports
from dfw.incremental.selections import Kind, Resolver, Selection, Selections, Shift
from dfw.incremental.sets import Sets, refilled
from dfw.incremental.staged import StagedPolicies
from dfw.incremental.tables import Tables
from dfw.incremental.templates import Instance, PlainEntry, head_pack, template_compile
from dfw.incremental.units import Units, Work
from dfw.layout import RANGE_DTYPE, RULE_DTYPE
from dfw.membership import Membership
from dfw.model import (
    EXCLUDED_POLICY,
    EffectiveRule,
    FloodLimits,
    Policy,
    PolicySet,
    TimerBinding,
    Timers,
    default_policy,
    ether_rules_for_tap,
)

_MANY = 10_000  # changes in one apply from which on the garbage collector waits


class Profiles(NamedTuple):
    """The session timers and the flood limits of a vNIC; None where no binding says."""

    timers: Timers | None
    flood: FloodLimits | None


_NONE = Profiles(None, None)


class PolicyState:
    """A policy in force, resolved and compiled. Change it with `apply` only.

    `what_if`: the state of the world in which the staged policies are in force; None while there are none. `shared`:
    Selections of a state whose templates are used here too."""

    def __init__(self, default: Policy | None = None, shared: Selections | None = None) -> None:
        self.revision = 0
        self.what_if: PolicyState | None = None
        self.ports = Ports()
        self.selections = Selections(self.ports, shared)
        self.sets = Sets(self.ports)
        self.tables = Tables(self.ports)
        self.ether = EtherCompiled((), {}, ether_compile(PolicySet(), Membership(PolicySet()), (), 0).tap)
        self._profiles: dict[str, Profiles] = {}
        self._everywhere = Profiles(Timers(), FloodLimits())
        self.units = Units(self.ports, self.selections, self.sets, self.tables)
        self.intake = Intake(self.ports, self.selections, self.units, self.tables)
        self._staged = StagedPolicies(self.intake.policy_at)
        self._exclude(Instance(template_compile((EXCLUDED_POLICY,), self.selections.meaning)))
        self.apply([default_policy() if default is None else default])

    def _exclude(self, instance: Instance) -> None:
        self.units.number(instance, None)
        assert len(instance.template.rules) == len(EXCLUDED_RULES)
        entries = [entry for part in instance.template.parts for entry in part.entries]
        self.tables.excluded_data = b"".join(
            head_pack(instance.base + entry.rule, 0, 0, 0, 0) + entry.tail
            for entry in entries
            if isinstance(entry, PlainEntry)
        )

    # What there is now.

    def table(self, port: str) -> RuleTable:
        """The rules of a vNIC. Raises KeyError."""
        table = self.tables.of[self.ports.slot_of[port]]
        assert table is not None
        return RuleTable(np.frombuffer(table.data, dtype=RULE_DTYPE), self.sets.set_refs())

    def address_set(self, number: int) -> AddressSet:
        """A set that entries refer to. Raises KeyError. (Its members by port number are not told.)"""
        found = self.sets.of[number]
        return AddressSet(number, found.name, np.frombuffer(found.packed, dtype=RANGE_DTYPE))

    def rule(self, number: int) -> CompiledRule:
        """What is known of a rule that a table's entry names."""
        return self.units.rule_owner[number].rule(number)

    def profiles_of(self, port: str) -> Profiles:
        """The session timers and the flood limits of a vNIC."""
        own = self._profiles.get(port, _NONE)
        return Profiles(own.timers or self.intake.timers, own.flood or self.intake.flood)

    def policies(self) -> Iterator[Policy]:
        """All policies in force, in no particular order, the default section too."""
        for instance in self.units.of.values():
            yield from instance.policies()
        yield from self.intake.layer2.values()

    # Changes.

    def apply(self, changes: Iterable[Change]) -> Delta:
        """Put all the changes in force, as one; staged policies in `what_if` only. Raises UnsupportedError; then
        nothing has changed. Later changes of one apply to the same thing replace earlier ones.
        """
        changes = list(changes)
        with collector_paused(len(changes) >= _MANY):
            if self.what_if is None and Staged not in set(map(type, changes)):
                self.intake.prepare(changes)
                return self._applied(changes)
            return self._applied_twice(changes)

    def _applied(self, changes: Iterable[Change]) -> Delta:
        work = Work()
        self.intake.take(changes, work)
        self.units.stamp(work)
        return self._settled(work)

    def _applied_twice(self, changes: Iterable[Change]) -> Delta:
        """In the world in force, and in the one with the staged policies."""
        staged, here, there = self._staged.after(changes)
        if self.what_if is None:
            self.intake.prepare([*here, *staged.values()])
        else:
            self.intake.prepare(here)
            self.what_if.intake.prepare(there)
        delta = self._applied(here)
        self._staged.of = staged
        if not staged:
            self.what_if = None
            return delta
        if self.what_if is None:
            self.what_if = PolicyState(shared=self.selections)
            there = list(self._staged.replacing(self._things()))
            self.what_if.intake.prepare(there)
        return replace(delta, what_if=self.what_if._applied(there))

    def _things(self) -> Iterator[Thing]:
        yield from self.intake.things()
        yield from map(instance_given, self.units.of.values())

    # What follows from the changes.

    def _settled(self, work: Work) -> Delta:
        world = self.intake.world()
        resolver = Resolver(self.ports, world, self.intake.namespace_labels)
        self.tables.grow()
        shifts = self._shifts(work, world, resolver)
        slots = self._moved(work, shifts)
        sets = self.sets.refresh(shifts)
        for selection in list(self.selections.drop_idle()):
            self.sets.drop(selection)
            for slot in selection.members:
                self.tables.member_of[slot].remove(selection)
        for slot in work.gone:
            self.tables.drop(slot)
        tables = self.tables.update(slots)
        sets = self.sets.without_dropped(sets)
        self.revision += 1
        delta = Delta(
            self.revision,
            sets,
            tables,
            frozenset(name for name in work.gone.values() if name not in self.ports.slot_of),
            self._bound(work, shifts),
            self._layer2_made(work, shifts),
        )
        self.ports.recycle()
        self.sets.rest()
        self.units.rest()
        return delta

    def _shifts(self, work: Work, world: PolicySet, resolver: Resolver) -> dict[Selection, Shift]:
        """How the Selections changed; fresh ones have their members, and are in `member_of`, after it."""
        if work.machines or work.segments:
            for slot, machine_port in list(self.ports):
                if machine_port.machine in work.machines or machine_port.segment in work.segments:
                    work.before.setdefault(slot, self.intake.now(slot))
        shifts: dict[Selection, Shift] = {}
        fresh = self.selections.fresh
        if len(fresh) < len(self.selections):
            for slot, before in work.before.items():
                self.selections.shown(slot, before, self.intake.now(slot), world, shifts)
        for selection in self.selections.using(work.groups, world) if work.groups else []:
            if selection.uses and selection not in fresh:
                shift = refilled(selection, self.selections.resolve(selection, resolver), resolver)
                known = shifts.get(selection)
                if known is not None:
                    shift.joined += known.joined
                    shift.left += known.left
                shifts[selection] = shift
        resolve, member_of = self.selections.resolve, self.tables.member_of
        for selection in fresh:
            shifts.pop(selection, None)
            if not selection.uses:  # put and taken out in the same apply
                selection.members = set()
                continue
            kind = selection.meaning.kind
            if kind is not Kind.FIXED:
                selection.members = resolve(selection, resolver)
                for slot in selection.members:
                    member_of[slot].append(selection)
            if kind is Kind.FIXED or kind is Kind.OTHER:
                selection.fixed = resolver.fixed(selection.meaning.term)
        return shifts

    def _moved(self, work: Work, shifts: Mapping[Selection, Shift]) -> set[int]:
        """Keep `member_of`; the ports whose tables may be different."""
        slots, member_of, ports = work.slots, self.tables.member_of, self.ports.ports
        for selection in self.tables.excluded:
            if selection in self.selections.fresh:
                slots |= selection.members
        self.selections.fresh.clear()
        for selection, shift in shifts.items():
            members = selection.members
            for slot in shift.joined:
                if slot in members and selection not in member_of[slot]:
                    member_of[slot].append(selection)
            for slot in shift.left:
                if slot not in members and selection in member_of[slot]:
                    member_of[slot].remove(selection)
            if selection.parts or selection in self.tables.excluded:
                slots.update(shift.joined)
                slots.update(shift.left)
        slots.update(work.before)
        slots -= work.gone.keys()
        if len(slots) < len(self.ports.slot_of):
            for selection in work.scopes:
                slots |= selection.members
        if work.everyone:
            slots.update(slot for slot, _ in self.ports)
        return {slot for slot in slots if ports[slot] is not None}

    def _bound(self, work: Work, shifts: Mapping[Selection, Shift]) -> frozenset[str]:
        """Profiles of the ports that a binding selects; the first binding of a kind wins. Whose are others now."""
        if not work.bindings and not any(
            item in shifts for _, found in self.intake.bindings.values() for item in found
        ):
            return frozenset()
        profiles: dict[str, Profiles] = {}
        ordered = sorted(self.intake.bindings.values(), key=lambda item: (item[0].number, item[0].path))
        for binding, selections in ordered:
            for slot in set().union(*(selection.members for selection in selections)):
                port = self.ports.ports[slot]
                assert port is not None
                known = profiles.get(port.name, _NONE)
                if isinstance(binding, TimerBinding):
                    profiles[port.name] = known._replace(timers=known.timers or binding.timers)
                else:
                    profiles[port.name] = known._replace(flood=known.flood or binding.limits)
        before, everywhere = self._profiles, self._everywhere
        self._profiles, self._everywhere = profiles, Profiles(self.intake.timers, self.intake.flood)
        names: Set[str] = self.ports.slot_of.keys()
        if everywhere == self._everywhere:
            names = names & (before.keys() | profiles.keys())
        return frozenset(name for name in names if before.get(name, everywhere) != profiles.get(name, self._everywhere))

    def _layer2_made(self, work: Work, shifts: Mapping[Selection, Shift]) -> bool:
        """Layer-2 rules are few: all their lists are made anew when anything that they could look at changed."""
        if not (self.intake.layer2 or self.ether.tables) or not (work.layer2 or work.before or work.groups or shifts):
            return False
        world = self.intake.world()
        rules = ether_rules_for_tap(world)
        owner = _Layer2Rules(len(self.units.rule_owner), rules)
        self.ether = ether_compile(world, Membership(world), rules, owner.first)
        self.units.rule_owner += [owner] * len(rules)
        return True


@dataclass(frozen=True, slots=True)
class _Layer2Rules:
    first: int
    rules: list[EffectiveRule]

    def rule(self, number: int) -> CompiledRule:
        return rule_described(number, self.rules[number - self.first])


@contextmanager
def collector_paused(paused: bool = True) -> Iterator[None]:
    """While very many objects are made: the collector would look through all of them again and again for nothing."""
    was_enabled = paused and gc.isenabled()
    if was_enabled:
        gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextmanager
def collector_spared() -> Iterator[None]:
    """What is there now stays as long as this lasts: the collector need not look through it again and again. Then it
    does: what is left in circles goes."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
