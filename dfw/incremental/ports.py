# SPDX-License-Identifier: Apache-2.0
"""The ports (vNICs) by number, and the indexes that answer which of them a selector could mean.

A port keeps its number while it exists. An index by a label's key is made when the first selector asks for it, and is
kept up to date from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, groupby
from typing import NamedTuple

from dfw.incremental.label_column import LabelColumn
from dfw.incremental.packed import address_flat
from dfw.model import LabelOperator, LabelRequirement, LabelSelector, NamedPort, Port

NamedKey = tuple[str, int]
"""Name and protocol of a named port."""
_NOBODY: frozenset[int] = frozenset()
_NO_LABELS: dict[str, str] = {}


class Before(NamedTuple):
    """What a port was before a change: its object (None: there was none), its addresses, its namespace's labels."""

    port: Port | None
    flat: tuple[int, ...]
    namespace_labels: Mapping[str, str]


class Ports:
    """All ports. `ports`, `flat` (addresses as numbers, see dfw/incremental/packed.py) and `labels` (of those in a
    namespace) by number."""

    def __init__(self) -> None:
        self.slot_of: dict[str, int] = {}
        self.ports: list[Port | None] = []
        self.flat: list[tuple[int, ...]] = []
        self.labels: list[dict[str, str]] = []
        self.of_namespace: dict[str, set[int]] = {}
        self.owners: dict[int, tuple[int, ...]] = {}
        self.named: dict[NamedKey, dict[int, set[int]]] = {}
        self._by_label: dict[str, LabelColumn] = {}
        self._free: list[int] = []
        self._resting: list[int] = []

    def __iter__(self) -> Iterator[tuple[int, Port]]:
        return ((slot, port) for slot, port in enumerate(self.ports) if port is not None)

    def put(self, port: Port) -> int:
        """Add a port, or replace the one of that name; returns its number."""
        name, ips, namespace = port.name, port.ips, port.namespace
        slot = self.slot_of.get(name)
        flat = (address_flat(ips[0]),) if len(ips) == 1 else tuple(map(address_flat, ips))
        labels = _labels_of(port)
        if slot is None and not self._free:
            slot = len(self.ports)
            self.ports.append(port)
            self.flat.append(flat)
            self.labels.append(labels)
        else:
            if slot is None:
                slot = self._free.pop()
            else:
                self._forget(slot)
            self.ports[slot] = port
            self.flat[slot] = flat
            self.labels[slot] = labels
        self.slot_of[name] = slot
        owners = self.owners
        for value in flat:
            owners[value] = (*owners[value], slot) if value in owners else (slot,)
        for item in port.named_ports:
            key = (item.name, item.protocol)
            self.named.setdefault(key, {}).setdefault(item.number, set()).add(slot)
        if namespace is not None:
            there = self.of_namespace.get(namespace)
            if there is None:
                self.of_namespace[namespace] = {slot}
            else:
                there.add(slot)
        for label, column in self._by_label.items():
            column.put(slot, labels.get(label))
        return slot

    def put_new(self, ports: Sequence[Port]) -> range | None:
        """Add many, all at once; their numbers. None, and nothing is done, where this needs `put`: one of them is there
        already, two have the same name, or numbers are free that would have to be given first."""
        names = [port.name for port in ports]
        if self._free or not self.slot_of.keys().isdisjoint(names) or len({*names}) < len(names):
            return None
        slots = range(len(self.ports), len(self.ports) + len(ports))
        self.slot_of.update(zip(names, slots, strict=True))
        self.ports += ports
        labels = list(map(_labels_of, ports))
        self.labels += labels
        flat = [tuple(map(address_flat, port.ips)) for port in ports]
        self.flat += flat
        owners = self.owners
        values = list(chain.from_iterable(flat))
        if len(values) == len(flat) == len({*values}) and all(flat) and owners.keys().isdisjoint(values):
            owners.update(zip(values, zip(slots), strict=True))  # each is the only one with its address
        else:
            for slot, its in zip(slots, flat, strict=True):
                for value in its:
                    owners[value] = (*owners[value], slot) if value in owners else (slot,)
        for slot, port in zip(slots, ports, strict=True):
            for item in port.named_ports:
                numbers = self.named.setdefault((item.name, item.protocol), {})
                numbers.setdefault(item.number, set()).add(slot)
        at = slots.start
        for namespace, run in groupby([port.namespace for port in ports]):
            here = range(at, at + len(list(run)))
            at = here.stop
            if namespace is None:
                continue
            there = self.of_namespace.get(namespace)
            if there is None:
                self.of_namespace[namespace] = set(here)
            else:
                there.update(here)
        for label, column in self._by_label.items():
            for slot, own in zip(slots, labels, strict=True):
                column.put(slot, own.get(label))
        return slots

    def remove(self, name: str) -> int:
        """Take a port out; its number is given again only after `recycle`. Raises KeyError."""
        slot = self.slot_of.pop(name)
        self._forget(slot)
        self.ports[slot] = None
        self.flat[slot] = ()
        self.labels[slot] = _NO_LABELS
        self._resting.append(slot)
        return slot

    def recycle(self) -> None:
        """Give the numbers of ports that are gone to others from here on."""
        self._free += self._resting
        self._resting.clear()

    def _forget(self, slot: int) -> None:
        port = self.ports[slot]
        assert port is not None
        for value in self.flat[slot]:
            left = tuple(other for other in self.owners[value] if other != slot)
            if left:
                self.owners[value] = left
            else:
                del self.owners[value]
        for item in port.named_ports:
            numbers = self.named[item.name, item.protocol]
            numbers[item.number].discard(slot)
            if not numbers[item.number]:
                del numbers[item.number]
        if port.namespace is not None:
            there = self.of_namespace[port.namespace]
            there.discard(slot)
            if not there:
                del self.of_namespace[port.namespace]
        for label, column in self._by_label.items():
            column.remove(slot, self.labels[slot].get(label))

    def having(self, item: NamedPort) -> set[int] | frozenset[int]:
        """The ports with this named port."""
        return self.named.get((item.name, item.protocol), {}).get(item.number, _NOBODY)

    def labelled(self, labels: LabelSelector) -> set[int] | None:
        """The ports in namespaces whose labels meet the requirements; None: all of them."""
        if not labels.requirements:
            return None
        wanted = [self._having(item) for item in labels.requirements if _is_positive(item)]
        found: set[int] = set.intersection(*sorted(wanted, key=len)) if wanted else self.namespaced()
        for item in labels.requirements:
            if not _is_positive(item):
                found = found - self._having(item)
        return found

    def namespaced(self) -> set[int]:
        """All ports that are in a namespace."""
        return set().union(*self.of_namespace.values())

    def _having(self, item: LabelRequirement) -> set[int]:
        column = self._by_label.get(item.key)
        if column is None:
            column = self._by_label[item.key] = LabelColumn(item.key, self.labels)
        if item.operator not in (LabelOperator.IN, LabelOperator.NOT_IN):
            return column.present()
        return column.having(item.values[0]) if len(item.values) == 1 else column.having_any(item.values)


def _labels_of(port: Port) -> dict[str, str]:
    """The labels that a selector may ask for; NSX's ports, which are in no namespace, have none."""
    if port.namespace is None:
        return _NO_LABELS
    labels = port.labels
    return labels if type(labels) is dict else dict(labels)


def _is_positive(item: LabelRequirement) -> bool:
    return item.operator in (LabelOperator.IN, LabelOperator.EXISTS)


class PortsByName(Mapping[str, Port]):
    """The ports as an inventory holds them, in the order of their numbers; nothing is copied."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports

    def __getitem__(self, name: str) -> Port:
        found = self._ports.ports[self._ports.slot_of[name]]
        assert found is not None
        return found

    def __iter__(self) -> Iterator[str]:
        return (port.name for _, port in self._ports)

    def __len__(self) -> int:
        return len(self._ports.slot_of)
