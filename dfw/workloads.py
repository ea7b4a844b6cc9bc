# SPDX-License-Identifier: Apache-2.0
"""Which workloads Kubernetes label selectors resolve to, for all of them at once, by indexes.

The same answers as `WorkloadMember.matches`. Each distinct term is resolved once, so that policies which select the
same workloads share one set; a namespace's own selectors look at its own workloads only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dfw.model import (
    EVERYTHING,
    Inventory,
    LabelOperator,
    LabelRequirement,
    LabelSelector,
    Namespaces,
    Port,
    WorkloadMember,
)

_NOBODY: frozenset[int] = frozenset()


class LabelIndex:
    """Numbers of objects by label: a requirement costs a look-up for each of its values, not for each object."""

    def __init__(self, labels: Iterable[Mapping[str, str]]) -> None:
        self._values: dict[str, dict[str, set[int]]] = {}
        count = 0
        for number, own in enumerate(labels):
            count = number + 1
            for key, value in own.items():
                self._values.setdefault(key, {}).setdefault(value, set()).add(number)
        self.everything = frozenset(range(count))

    def select(self, selector: LabelSelector) -> frozenset[int]:
        """Numbers of the objects that the selector holds for."""
        found: frozenset[int] | set[int] = self.everything
        refused: set[int] = set()
        for item in selector.requirements:
            having = self._having(item)
            if item.operator in (LabelOperator.IN, LabelOperator.EXISTS):
                found = found & having
            else:
                refused |= having
        return frozenset(found - refused) if refused else frozenset(found)

    def _having(self, item: LabelRequirement) -> set[int]:
        """The objects that have the key with one of the values; with any, where there are none."""
        values = self._values.get(item.key, {})
        wanted = item.values if item.operator in (LabelOperator.IN, LabelOperator.NOT_IN) else tuple(values)
        return set().union(*(values.get(value, ()) for value in wanted))


class Workloads:
    """Resolves `WorkloadMember` terms over numbered ports."""

    def __init__(self, inventory: Inventory, ports: Sequence[Port]) -> None:
        self._inventory = inventory
        self._ports = ports
        self._of_namespace: dict[str, list[int]] = {}
        for number, port in enumerate(ports):
            if port.namespace is not None:
                self._of_namespace.setdefault(port.namespace, []).append(number)
        self._names = tuple(self._of_namespace)
        self._namespace_index: LabelIndex | None = None
        self._port_index: LabelIndex | None = None
        self._known: dict[WorkloadMember, frozenset[int]] = {}
        self._known_namespaces: dict[LabelSelector, frozenset[int]] = {}

    def members(self, term: WorkloadMember) -> frozenset[int]:
        """Numbers of the ports that are members."""
        found = self._known.get(term)
        if found is None:
            found = self._known[term] = self._resolved(term)
        return found

    def _resolved(self, term: WorkloadMember) -> frozenset[int]:
        if isinstance(term.namespaces, str):
            own = self._of_namespace.get(term.namespaces, ())
            found = frozenset(number for number in own if term.labels.holds(self._ports[number].labels))
        else:
            found = self._in_namespaces(term.namespaces)
            if found and term.labels != EVERYTHING:
                if self._port_index is None:
                    self._port_index = LabelIndex(port.labels for port in self._ports)
                found &= self._port_index.select(term.labels)
        if term.machines_only:
            found = frozenset(number for number in found if not self._ports[number].is_pod)
        return found

    def _in_namespaces(self, namespaces: Namespaces) -> frozenset[int]:
        """The ports of the namespaces that have these labels."""
        assert isinstance(namespaces, LabelSelector)
        found = self._known_namespaces.get(namespaces)
        if found is None:
            if self._namespace_index is None:
                self._namespace_index = LabelIndex(map(self._inventory.namespace_labels, self._names))
            names = (self._names[number] for number in self._namespace_index.select(namespaces))
            found = _NOBODY.union(*(self._of_namespace[name] for name in names))
            self._known_namespaces[namespaces] = found
        return found
