# SPDX-License-Identifier: Apache-2.0
"""A host's state into the packet core: rule sets, address sets, fabric; staged, then committed in one step.

Only what has changed is staged: a filter whose rules and groups are as before keeps its epoch, and its connections are
not judged again. Numbers of filters and rules stay with what they name for as long as it is there, restarts included,
because connections in the table's file refer to them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from dfw.core import CoreError, Engine, Host
from dfw.layout import ETHER_DTYPE, RANGE_DTYPE, RULE_DTYPE
from overlay.fabric import render_fabric
from overlay.hoststate import HostState, StateError, VnicState


class Memory(msgspec.Struct):
    """What the next process must know of this one. `filters`: vNIC -> number and incarnation; `rules`: path -> number;
    `epoch`: none after it was given out; `boot`: of the machine, by whose clock the connections' deadlines count."""

    filters: dict[str, tuple[int, int]] = {}
    rules: dict[str, int] = {}
    epoch: int = 0
    boot: str = ""


@dataclass(slots=True)
class _Filter:
    """What a filter was staged with last."""

    table: tuple[bytes, bytes, tuple[int, ...]] = (b"", b"", ())
    sets: frozenset[int] = frozenset()
    ether: tuple[bytes, bytes] = (b"", b"")
    flood: tuple[int, ...] = (0, 0, 0, 0)


@dataclass(slots=True)
class _Sets:
    """Address sets in the core: by key, a number and the content."""

    number: dict[tuple[str, int] | bytes, int] = field(default_factory=dict)
    content: dict[int, bytes] = field(default_factory=dict)
    free: list[int] = field(default_factory=list)


class HostEnforcer:
    """One host's filters and fabric. `save` is called with the memory before each commit."""

    def __init__(self, engine: Engine, host: Host, memory: Memory, save: Callable[[Memory], None]) -> None:
        self.engine, self.host, self.memory, self.save = engine, host, memory, save
        self.staged: dict[str, _Filter] = {}
        self.sets = _Sets()
        self.logged: list[int] = []
        self.state: HostState | None = None
        self.dead: frozenset[str] = frozenset()  # TEPs that get no copies of frames for many
        for name, (number, incarnation) in memory.filters.items():
            try:
                engine.adopt(number, incarnation)
            except CoreError:
                memory.filters[name] = (number, 0)
        engine.set_epoch(memory.epoch)

    def number(self, vnic: str) -> int | None:
        """The number of a vNIC's filter."""
        known = self.memory.filters.get(vnic)
        return None if known is None else known[0]

    def set_dead(self, dead: frozenset[str]) -> None:
        """These TEPs get no copies from here on, all others do. Raises CoreError: then all is as before."""
        before, self.dead = self.dead, dead
        try:
            if self.state is not None and dead != before:
                self.commit(self.state)
        except (CoreError, StateError):
            self.dead = before
            raise

    def commit(self, state: HostState) -> int:
        """Put a state in force, in one step for every packet. Returns the epoch.

        Raises CoreError, StateError: then what was in force stays.
        """
        before = dict(self.memory.filters)
        rules_before = dict(self.memory.rules)
        try:
            return self._commit(state)
        except (CoreError, StateError):
            self.memory.filters, self.memory.rules = before, rules_before
            self.logged = [-1]
            self.staged.clear()  # what is staged half-way is staged anew, whole, by the next commit
            raise

    def _commit(self, state: HostState) -> int:
        names = {vnic.name for vnic in state.vnics}
        for gone in [name for name in self.memory.filters if name not in names]:
            self.engine.remove(self.memory.filters.pop(gone)[0])
            self.staged.pop(gone, None)
        for vnic in state.vnics:
            self._number_filter(vnic.name)
        rules = self._rule_numbers(state)
        logged = sorted(int(rules[at]) for at, rule in enumerate(state.rules) if rule.logged)
        if logged != self.logged:
            self.engine.stage_logged(logged)
            self.logged = logged
        sets, changed = self._put_sets(state)
        for vnic in state.vnics:
            self._stage(state, vnic, rules, sets, changed)
        numbers = {name: number for name, (number, _) in self.memory.filters.items()}
        self.host.stage(render_fabric(state, numbers, self.dead))
        for name, (number, _) in self.memory.filters.items():
            self.memory.filters[name] = (number, self.engine.incarnation(number))
        self.memory.epoch += 2  # one commit takes one, or two where the number wraps
        self.save(self.memory)
        epoch = self.engine.commit()
        self.memory.epoch = max(self.memory.epoch, epoch)
        self._forget_sets(set(sets.tolist()))
        self.state = state
        return epoch

    def _number_filter(self, name: str) -> None:
        if name in self.memory.filters:
            return
        taken = {number for number, _ in self.memory.filters.values()}
        number = next((n for n in range(self.engine.options.filters) if n not in taken), None)
        if number is None:
            raise StateError(f"this agent takes at most {self.engine.options.filters} vNICs")
        self.memory.filters[name] = (number, 0)

    def _rule_numbers(self, state: HostState) -> npt.NDArray[np.uint32]:
        """The core's number of each rule of the state."""
        known = self.memory.rules
        missing = [rule.path for rule in state.rules if rule.path not in known]
        if len(known) + len(missing) > self.engine.options.rules:
            here = {rule.path for rule in state.rules}
            for path in [path for path in known if path not in here]:
                del known[path]
        if len(known) + len(missing) > self.engine.options.rules:
            raise StateError(f"this agent takes at most {self.engine.options.rules} rules")
        taken = set(known.values())
        fresh = (number for number in range(self.engine.options.rules) if number not in taken)
        known.update(zip(missing, fresh, strict=False))
        return np.array([known[rule.path] for rule in state.rules] or [0], dtype=np.uint32)

    def _put_sets(self, state: HostState) -> tuple[npt.NDArray[np.uint32], set[int]]:
        """The core's number of each set of the state, and those whose content is another than before."""
        numbers: list[int] = []
        changed: set[int] = set()
        seen: Counter[str] = Counter()
        for item in state.sets:
            key = (item.name, seen[item.name]) if item.name else item.ranges
            seen[item.name] += 1
            number = self.sets.number.get(key)
            if number is None:
                number = self.sets.free.pop() if self.sets.free else len(self.sets.number)
                self.sets.number[key] = number
            if self.sets.content.get(number) != item.ranges:
                self.engine.classifier.put_set(number, _rows(item.ranges, RANGE_DTYPE))
                self.sets.content[number] = item.ranges
                changed.add(number)
            numbers.append(number)
        return np.array(numbers or [0], dtype=np.uint32), changed

    def _forget_sets(self, used: set[int]) -> None:
        for key in [key for key, number in self.sets.number.items() if number not in used]:
            number = self.sets.number.pop(key)
            del self.sets.content[number]
            self.sets.free.append(number)

    def _stage(
        self,
        state: HostState,
        vnic: VnicState,
        rules: npt.NDArray[np.uint32],
        sets: npt.NDArray[np.uint32],
        changed: set[int],
    ) -> None:
        number = self.memory.filters[vnic.name][0]
        known = self.staged.setdefault(vnic.name, _Filter())
        table = state.tables[vnic.table]
        entries, refs = _rows(table.entries, RULE_DTYPE), _rows(table.refs, np.dtype(np.uint32))
        entries["rule"] = rules[entries["rule"]]
        refs = sets[refs]
        wanted = (entries.tobytes(), refs.tobytes(), vnic.timers)
        used = frozenset(refs.tolist())
        if known.table != wanted or used & changed:
            ruleset = self.engine.classifier.build_staged(entries, np.ascontiguousarray(refs))
            self.engine.stage(number, ruleset, vnic.timers)
            known.table, known.sets = wanted, used
        if known.flood != vnic.flood:
            self.engine.stage_flood(number, vnic.flood)
            known.flood = vnic.flood
        ether = (b"", b"")
        if vnic.ether is not None:
            layer2 = _rows(state.ether[vnic.ether].entries, ETHER_DTYPE)
            layer2["rule"] = rules[layer2["rule"]]
            ether = (layer2.tobytes(), state.ether[vnic.ether].macs)
        if known.ether != ether:
            self.engine.stage_ether(number, _rows(ether[0], ETHER_DTYPE), _rows(ether[1], np.dtype(np.uint64)))
            known.ether = ether


def _rows(data: bytes, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """A copy that may be written. Raises StateError where the bytes are no whole number of rows."""
    if len(data) % dtype.itemsize:
        raise StateError(f"{len(data)} bytes are no rows of {dtype.itemsize}")
    return np.frombuffer(data, dtype=dtype).copy()
