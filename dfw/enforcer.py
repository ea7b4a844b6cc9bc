# SPDX-License-Identifier: Apache-2.0
"""The `native` enforcer: a compiled policy into the packet core, staged and committed in one step.

Rules keep their number, and address sets theirs, over all commits of one enforcer: a connection that was allowed under
an older policy still names its rule, and no set changes its meaning under rules in force.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace

import numpy as np

from dfw.compile import Compiled, CompiledRule, RuleTable, compile_policy
from dfw.compile_ether import EtherCompiled, EtherTable
from dfw.core import NO_FILTER, Engine, EngineOptions, Ruleset
from dfw.layout import BINDING_DTYPE, ETHER_DTYPE, SEGMENT
from dfw.model import Inventory, PolicySet, Port, Timers, mac_packed

TAP = "tap"
_EMPTY = np.zeros(0, dtype=np.uint32)


def timer_seconds(timers: Timers) -> list[int]:
    """NSX's session timers in the core's order (enum pal_timer)."""
    names = (
        *("tcp_first_packet", "tcp_opening", "tcp_established", "tcp_closing", "tcp_finwait", "tcp_closed"),
        *("udp_first_packet", "udp_single", "udp_multiple", "icmp_first_packet", "icmp_error_reply"),
    )
    return [int(getattr(timers, name)) for name in names]


@dataclass(slots=True)
class _Numbers:
    """Numbers for things that must keep theirs."""

    of: dict[object, int]

    def number(self, what: object) -> int:
        return self.of.setdefault(what, len(self.of))


class NativeEnforcer:
    """A policy in the packet core: at a tap (`inventory` None), or at every vNIC of the inventory."""

    def __init__(self, inventory: Inventory | None, options: EngineOptions) -> None:
        self.inventory = inventory
        self.ports: tuple[Port, ...] = () if inventory is None else tuple(inventory)
        self.filters: tuple[str, ...] = (TAP,) if inventory is None else tuple(port.name for port in self.ports)
        self.engine = Engine(replace(options, filters=max(1, len(self.filters))))
        self.rules: list[CompiledRule] = []
        self._rules = _Numbers({})
        self._sets = _Numbers({})
        self._ether: set[int] = set()

    def commit(self, world: PolicySet) -> Compiled:
        """Compile and put in force, for all filters at once. Raises UnsupportedError, CoreError: nothing changes."""
        compiled = compile_policy(world)
        wire = compiled.ether.tap if self.inventory is None else None  # which may refuse, so before anything is staged
        numbers = np.array([self._rule(rule) for rule in compiled.rules] or [0], dtype=np.uint32)
        sets = self._put_sets(compiled)
        built: dict[int, Ruleset] = {}  # filters with the same rules share one rule set, built once
        for number, name in enumerate(self.filters):
            at = 0 if self.inventory is None else compiled.table_of[name]
            if at in built:
                ruleset = built[at].shared()
            else:
                table = compiled.tap if self.inventory is None else compiled.tables[at]
                ruleset = self.engine.classifier.build_staged(*_renumbered(table, numbers, sets))
                built[at] = ruleset
            timers = timer_seconds(compiled.timers_of.get(name, compiled.timers))
            self.engine.stage(number, ruleset, timers, tap=self.inventory is None)
            self.engine.stage_flood(number, astuple(compiled.flood_of.get(name, compiled.flood)))
            self._stage_ether(number, wire or self._ether_of(name, compiled.ether), numbers)
        self.engine.commit()
        return compiled

    @staticmethod
    def _ether_of(name: str, ether: EtherCompiled) -> EtherTable | None:
        at = ether.table_of.get(name)
        return None if at is None else ether.tables[at]

    def _stage_ether(
        self, number: int, table: EtherTable | None, numbers: np.ndarray[tuple[int], np.dtype[np.uint32]]
    ) -> None:
        """The layer-2 rules of one filter; none where it has none, and had none."""
        if table is None or not len(table.entries):
            if number in self._ether:
                self.engine.stage_ether(number, np.zeros(0, dtype=ETHER_DTYPE), np.zeros(0, dtype=np.uint64))
                self._ether.discard(number)
            return
        entries = table.entries.copy()
        entries["rule"] = numbers[entries["rule"]]
        self.engine.stage_ether(number, entries, table.macs)
        self._ether.add(number)

    def _rule(self, rule: CompiledRule) -> int:
        number = self._rules.number(rule.path)
        if number == len(self.rules):
            self.rules.append(rule)
        else:
            self.rules[number] = rule
        return number

    def _put_sets(self, compiled: Compiled) -> np.ndarray[tuple[int], np.dtype[np.uint32]]:
        ids = []
        for item in compiled.sets:
            known = len(self._sets.of)
            number = self._sets.number((item.name, item.ranges.tobytes()))
            if number == known:
                self.engine.classifier.put_set(number, item.ranges)
            ids.append(number)
        return np.array(ids or [0], dtype=np.uint32)

    def rule_json(self) -> list[str]:
        """What a verdict line says of each rule, by number."""
        return [f'"rule": {rule.rule_id}, "rule_path": {json.dumps(rule.path)}' for rule in self.rules]

    def filter_json(self) -> list[str]:
        """What a verdict line says of each filter, by number."""
        return [f'"vnic": {json.dumps(name)}' for name in self.filters]

    def bindings(self) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """MAC and IP addresses -> filter: outside tunnels, and for each VNI of a port's routing domain; its segment."""
        rows: list[tuple[bytes, int, int, int]] = []
        domains = {} if self.inventory is None else _domains(self.inventory)
        for number, port in enumerate(self.ports):
            own, domain = domains[port.name]
            rows += [(mac_packed(port.mac), 0, vrf, number) for vrf in (0, *own)]
            rows += [
                (address.packed, 1 if len(address.packed) == 4 else 2, vrf, number)
                for address in port.ips
                for vrf in (0, *domain)
            ]
        rows += [(b"", SEGMENT, domains[port.name][0][0], number) for number, port in enumerate(self.ports)]
        found = np.zeros(len(rows), dtype=BINDING_DTYPE)
        for at, (address, family, vrf, number) in enumerate(rows):
            found[at] = (np.frombuffer(address.ljust(16, b"\0"), np.uint8), family, vrf, number)
        assert len(self.filters) < NO_FILTER
        return found


def _domains(inventory: Inventory) -> Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]:
    """For each port: the VNI of its segment, and of all segments on its gateway, as the core's VRF (1 + VNI)."""
    by_gateway: dict[str, list[int]] = {}
    for segment in inventory.segments.values():
        if segment.gateway is not None:
            by_gateway.setdefault(segment.gateway, []).append(1 + segment.vni)
    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for port in inventory:
        segment = inventory.segment_of(port)
        own = (1 + segment.vni,)
        found[port.name] = (own, own if segment.gateway is None else tuple(by_gateway[segment.gateway]))
    return found


def _renumbered(
    table: RuleTable,
    numbers: np.ndarray[tuple[int], np.dtype[np.uint32]],
    sets: np.ndarray[tuple[int], np.dtype[np.uint32]],
) -> tuple[np.ndarray[tuple[int], np.dtype[np.void]], np.ndarray[tuple[int], np.dtype[np.uint32]]]:
    entries = table.entries.copy()
    entries["rule"] = numbers[entries["rule"]]
    refs = sets[table.set_refs] if len(table.set_refs) else _EMPTY
    return entries, np.ascontiguousarray(refs)
