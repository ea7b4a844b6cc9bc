# SPDX-License-Identifier: Apache-2.0
"""The rules of vNICs as staged policies would have them, for the hosts that count those: where the kernel enforces."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping

from dfw.incremental import Delta
from dfw.model import NFTABLES, Host
from supervisor_glue.controllers.groups import Group, HeldSets, Part, part_made
from supervisor_glue.controllers.intent import Intent
from supervisor_glue.controllers.vnic_rules import VnicRules


class StagedRules:
    """Of the world in which the staged policies are in force, as long as there is one. A host's parts are made by
    `tell` for each of its vNICs, then `told`."""

    def __init__(self, intent: Intent) -> None:
        self._intent = intent
        self._rules: VnicRules | None = None
        self._held = HeldSets()
        self._telling: set[int] = set()

    def follow(self, delta: Delta | None) -> set[str]:
        """After a change, of that world too: the hosts whose staged tables are others now, or gone."""
        state = self._intent.state.what_if
        counting = {name for name, host in self._intent.hosts.items() if host.enforcer == NFTABLES}
        if self._rules is None or self._rules.state is not state:
            is_other = self._rules is not None or state is not None
            self._rules, self._held = None if state is None else VnicRules(state), HeldSets()
            return counting if is_other else set()
        self._rules.forget_unused()
        if delta is not None and delta.layer2:
            return counting
        ports = (self._intent.ports.get(name) for name in (delta.tables if delta is not None else ()))
        return {port.host for port in ports if port is not None} & counting

    def sets_changed(self, delta: Delta | None, own: Mapping[str, Group]) -> set[str]:
        """Tell of address sets whose members changed; the hosts that have them."""
        found: set[str] = set()
        if delta is None or self._rules is None:
            return found
        for number in delta.sets.keys() & self._held.on.keys() & self._rules.state.sets.of.keys():
            key, part, change = self._rules.set_changed(number)
            found.update(host for host in self._held.on[number] if own[host].put_part(key, part, change))
        return found

    def tell(self, host: Host | None, vnic: str, parts: MutableMapping[str, Part]) -> tuple[str | None, str | None]:
        """A vNIC's table and layer-2 list among the parts of its host; their names, None where nothing is counted."""
        if self._rules is None or host is None or host.enforcer != NFTABLES:
            return None, None
        table, ether = self._rules.table(vnic), self._rules.ether(vnic)
        parts[table.key] = table.part
        self._telling.update(table.sets)
        if ether is None:
            return table.key, None
        parts[ether[0]] = part_made(*ether)
        return table.key, ether[0]

    def told(self, host: str, parts: MutableMapping[str, Part]) -> None:
        """All vNICs of a host have been told: with the sets of their tables it is complete."""
        sets, self._telling = self._telling, set()
        if self._rules is not None:
            parts.update({self._rules.set_key(number): self._rules.set_part(number) for number in sets})
        self._held.hold(host, sets)
