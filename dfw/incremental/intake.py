# SPDX-License-Identifier: Apache-2.0
"""What there is besides policies (ports, namespaces, groups and so on), and the first half of an apply: changes are
taken in and noted as work; nothing is resolved or compiled yet, except what can be refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any

from dfw.errors import UnsupportedError
from dfw.incremental.changes import Binding, Change, Clock, Exclusion, Remove, Staged, Stamp, Thing
from dfw.incremental.ports import Before, NamedKey, Ports, PortsByName
from dfw.incremental.selections import Selection, Selections
from dfw.incremental.tables import Tables
from dfw.incremental.templates import Instance, PolicyTemplate, template_compile
from dfw.incremental.units import Units, Work
from dfw.model import (
    NAMESPACE_NAME_LABEL,
    Action,
    AnyOf,
    Condition,
    ConditionKey,
    FloodBinding,
    FloodLimits,
    Group,
    Inventory,
    Machine,
    MemberType,
    Namespace,
    Operator,
    Peers,
    Policy,
    PolicySet,
    Port,
    Rule,
    Segment,
    Tier,
    TimerBinding,
    Timers,
)

_NO_LABELS: Mapping[str, str] = {}
_ABSENT = Before(None, (), _NO_LABELS)
_EVERYONE = Condition(MemberType.VIRTUAL_MACHINE, ConditionKey.ALL, Operator.EQUALS, "")


class _Machines(dict[str, Machine]):
    """A port without a described machine has one of its name."""

    def __missing__(self, name: str) -> Machine:
        return Machine(name)


class _Segments(dict[str, Segment]):
    """A segment that nobody described has no tags."""

    def __missing__(self, name: str) -> Segment:
        return Segment(name, 0)


class _Groups(dict[str, Group]):
    """A group that is not there has no members."""

    def __missing__(self, path: str) -> Group:
        return Group(path, AnyOf())


class Intake:
    """The objects by name or path. `layer2`: policies of Ethernet rules; `bindings`: of profiles, by what
    they bind and their path."""

    def __init__(self, ports: Ports, selections: Selections, units: Units, tables: Tables) -> None:
        self.ports = ports
        self.selections = selections
        self.units = units
        self.tables = tables
        self.namespaces: dict[str, Namespace] = {}
        self.machines = _Machines()
        self.segments = _Segments()
        self.groups = _Groups()
        self.timers = Timers()
        self.flood = FloodLimits()
        self.at: float | None = None
        self.excluded = Peers(())
        self.layer2: dict[str, Policy] = {}
        self.bindings: dict[tuple[type[Binding], str], tuple[Binding, tuple[Selection, ...]]] = {}
        self._scheduled: dict[str, Policy] = {}
        self._ready: dict[int, PolicyTemplate] = {}  # of the policies of the changes that are being taken
        self._takers: Mapping[type[Any], Callable[[str, Any, Work], None]] = {
            Port: self._port,
            Namespace: self._namespace,
            Machine: lambda key, thing, work: work.machines.add(_put(self.machines, key, thing)),
            Segment: lambda key, thing, work: work.segments.add(_put(self.segments, key, thing)),
            Group: self._group,
            Policy: self._policy,
            Stamp: lambda key, thing, work: work.policies.append((key, None)),
            Staged: lambda key, thing, work: None,  # nothing is staged: see dfw/incremental/staged.py
            Exclusion: self._exclusion,
            TimerBinding: partial(self._binding, TimerBinding),
            FloodBinding: partial(self._binding, FloodBinding),
            Timers: self._timers,
            FloodLimits: self._flood,
            Clock: self._clock,
        }

    def world(self) -> PolicySet:
        """The model's view of now, for terms that ask it; of policies it knows those of layer 2. Nothing is copied."""
        inventory = Inventory(
            segments=self.segments,
            machines=self.machines,
            ports=PortsByName(self.ports),
            namespaces=self.namespaces,
        )
        policies = tuple(self.layer2.values())
        return PolicySet(policies, self.groups, {}, inventory, excluded=self.excluded, at=self.at)

    def things(self) -> Iterator[Thing]:
        """What would put all this in force in another state: everything but the policies that `units` holds."""
        if self.at is not None:
            yield Clock(self.at)
        yield from self.namespaces.values()
        yield from self.machines.values()
        yield from self.segments.values()
        yield from (port for _, port in self.ports)
        yield from self.groups.values()
        yield from self.layer2.values()
        yield from (policy for path, policy in self._scheduled.items() if path not in self.units.of)
        yield Exclusion(self.excluded)
        yield from (binding for binding, _ in self.bindings.values())
        yield self.timers
        yield self.flood

    def policy_at(self, key: str) -> Policy | Stamp | None:
        """The policy with this path, or the template's with this key, as it was put; None where there is none."""
        found: Policy | Stamp | None = self.layer2.get(key) or self._scheduled.get(key)
        instance = self.units.of.get(key)
        return found if found is not None or instance is None else instance_given(instance)

    def namespace_labels(self, name: str) -> Mapping[str, str]:
        """The labels of a namespace; one that nobody described has only its name."""
        known = self.namespaces.get(name)
        return {NAMESPACE_NAME_LABEL: name} if known is None else known.labels

    def now(self, slot: int) -> Before:
        """A port as it is."""
        port = self.ports.ports[slot]
        labels = _NO_LABELS if port is None or port.namespace is None else self.namespace_labels(port.namespace)
        return Before(port, self.ports.flat[slot], labels)

    def take(self, changes: Iterable[Change], work: Work) -> None:
        """Take the changes in, which `prepare` has seen."""
        for kind, run in groupby(changes, type):
            if kind is Port:
                self._ports(list(run), work)  # type: ignore[arg-type]
            elif kind is Stamp:
                work.policies += [(change.key, Instance(*change)) for change in run]  # type: ignore[union-attr, misc]
            else:
                self._others(run, work)
        self._ready.clear()

    def _others(self, changes: Iterable[Change], work: Work) -> None:
        for change in changes:
            kind = type(change)
            if isinstance(change, Remove):
                self._takers[change.kind](change.key, None, work)
            else:
                self._takers[kind](str(getattr(change, "path", None) or getattr(change, "name", "")), change, work)

    def prepare(self, changes: Iterable[Change]) -> None:
        """Refuse what the packet core cannot express, before anything is touched. Raises UnsupportedError."""
        self._ready.clear()
        at = self.at
        for change in changes:
            kind = type(change)
            if kind is Clock:
                at = change.at  # type: ignore[union-attr]
                if at is None and self._scheduled:
                    raise UnsupportedError("native", f"schedules without a time ({next(iter(self._scheduled))})")
            elif kind is Policy:
                schedule = change.schedule  # type: ignore[union-attr]
                if schedule is not None and at is None:
                    raise UnsupportedError("native", f"a schedule without a time ({schedule.path})")
                self._ready[id(change)] = self._template(change)  # type: ignore[arg-type]

    def _template(self, policy: Policy) -> PolicyTemplate:
        return self._ready.get(id(policy)) or template_compile((policy,), self.selections.meaning)

    def _ports(self, new: Sequence[Port], work: Work) -> None:
        """Ports that are put, one after the other or, where all are new, at once."""
        named = {key: frozenset(self.ports.named.get(key, ())) for key in _named_keys(new)} if len(new) > 1 else {}
        slots = self.ports.put_new(new) if len(new) > 1 else None
        if slots is None:
            for port in new:
                self._port(port.name, port, work)
            return
        for key, numbers in named.items():
            work.numbers.setdefault(key, numbers)
        work.before.update(dict.fromkeys(slots, _ABSENT))

    def _port(self, name: str, new: Port | None, work: Work) -> None:
        ports, before = self.ports, _ABSENT
        slot = ports.slot_of.get(name)
        named = () if new is None else new.named_ports
        if slot is not None:
            before = self.now(slot)
            old = before.port
            assert old is not None
            if old == new:
                return
            named = () if named == old.named_ports else (*named, *old.named_ports)
        elif new is None:
            return
        for item in named:
            key = (item.name, item.protocol)
            if key not in work.numbers:
                work.numbers[key] = frozenset(ports.named.get(key, ()))
        if new is None:
            slot = ports.remove(name)
            work.gone[slot] = name
        else:
            slot = ports.put(new)
        work.before.setdefault(slot, before)

    def _namespace(self, name: str, new: Namespace | None, work: Work) -> None:
        old = self.namespace_labels(name)
        _put(self.namespaces, name, new)
        if self.namespace_labels(name) != old:
            for slot in self.ports.of_namespace.get(name, ()):
                work.before.setdefault(slot, Before(self.ports.ports[slot], self.ports.flat[slot], old))

    def _group(self, path: str, new: Group | None, work: Work) -> None:
        if self.groups.get(path) != new:
            work.groups.add(_put(self.groups, path, new))

    def _policy(self, path: str, new: Policy | None, work: Work) -> None:
        self._scheduled.pop(path, None)
        if self.layer2.pop(path, None) is not None:
            work.layer2 = True
        if new is None:
            work.policies.append((path, None))
            return
        if new.schedule is not None:
            self._scheduled[path] = new
        if new.tier is Tier.ETHERNET:
            self.layer2[path] = new
            work.layer2 = True
        work.policies.append((path, Instance(self._template(new)) if self._is_active(new) else None))

    def _is_active(self, policy: Policy) -> bool:
        return policy.tier is not Tier.ETHERNET and (
            policy.schedule is None or self.at is None or policy.schedule.is_active(self.at)
        )

    def _exclusion(self, _: str, new: Exclusion | None, work: Work) -> None:
        peers = Peers(()) if new is None else new.peers
        old, self.tables.excluded = self.tables.excluded, self._acquired(peers)
        for selection in old:
            self.selections.release(selection)
            work.slots |= selection.members
        self.excluded = peers
        work.layer2 = True
        work.scopes.update(dict.fromkeys(self.tables.excluded))

    def _acquired(self, peers: Peers) -> tuple[Selection, ...]:
        """The Selections of a list that belongs to no policy; ANY is a Selection of everyone."""
        terms = (_EVERYONE,) if peers.terms is None else peers.terms
        template = template_compile((_holder(Peers(terms)),), self.selections.meaning)
        part = template.parts[0]
        found = []
        for index in part.scope or ():
            item = template.items[index]
            assert item.meaning is not None
            found.append(self.selections.acquire(item.meaning, item.where or ""))
        return tuple(found)

    def _binding(self, kind: type[Binding], path: str, new: Binding | None, work: Work) -> None:
        _, old = self.bindings.pop((kind, path), (None, ()))
        for selection in old:
            self.selections.release(selection)
        if new is not None:
            self.bindings[kind, path] = (new, self._acquired(new.peers))
        work.bindings = True

    def _timers(self, _: str, new: Timers | None, work: Work) -> None:
        self.timers = Timers() if new is None else new
        work.bindings = True

    def _flood(self, _: str, new: FloodLimits | None, work: Work) -> None:
        self.flood = FloodLimits() if new is None else new
        work.bindings = True

    def _clock(self, _: str, new: Clock | None, work: Work) -> None:
        self.at = None if new is None else new.at
        for path, policy in self._scheduled.items():
            if policy.tier is Tier.ETHERNET:
                work.layer2 = True
            elif self._is_active(policy) != (path in self.units.of):
                work.policies.append((path, Instance(self._template(policy)) if self._is_active(policy) else None))


def _named_keys(ports: Iterable[Port]) -> set[NamedKey]:
    """The named ports that some have."""
    distinct = {id(port.named_ports): port.named_ports for port in ports}  # many have the very same ones
    return {(item.name, item.protocol) for items in distinct.values() for item in items}


def _holder(peers: Peers) -> Policy:
    """A policy that is never in force, to compile an Applied-To of its own."""
    return Policy("", Tier.DEFAULT, 0, rules=(Rule("", "", 0, Action.ALLOW),), applied_to=peers)


def instance_given(instance: Instance) -> Policy | Stamp:
    """What was put to have this in force."""
    if instance.template.prefix:
        return Stamp(instance.template, instance.namespace, instance.name, instance.holes)
    return instance.template.policies[0]


def _put(table: dict[str, Any], key: str, thing: Any) -> str:
    """Put or remove; the key."""
    if thing is None:
        table.pop(key, None)
    else:
        table[key] = thing
    return key
