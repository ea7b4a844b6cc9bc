# SPDX-License-Identifier: Apache-2.0
"""Staged policies beside the packet core: an engine of their own, which judges the same packets and never acts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dfw.core import EngineOptions, Replay, StagedRules
from dfw.enforcer import NativeEnforcer
from dfw.model import Inventory, PolicySet
from dfw.schedule_clock import always
from dfw.staged import Names, RuleName, StagedChanges, directions_of


class StagedBeside:
    """The world with the staged policies in force, for a replay. Raises UnsupportedError, CoreError.

    `keep_flows`: what flow records say of it is wanted.
    """

    def __init__(
        self, world: PolicySet, inventory: Inventory | None, options: EngineOptions, *, keep_flows: bool
    ) -> None:
        self.enforcer = NativeEnforcer(inventory, replace(options, flows=False))
        self.enforcer.commit(always(world.what_if))
        self.rules = StagedRules(self.enforcer.engine, self.enforcer.rule_json(), keep_flows)
        self.changes = StagedChanges(keep_flows)
        self._policies = [policy.path for policy in world.staged]

    def take(self, replay: Replay) -> None:
        """The changes that the replay has found since."""
        self.changes.add(replay.changes())

    def restart(self) -> None:
        """Everything begins anew: another repetition."""
        self.changes = StagedChanges(self.changes.keep_flows)

    def names(self, enforcer: NativeEnforcer, files: Sequence[str]) -> Names:
        """What the numbers in changes mean."""
        rules, staged = (
            [RuleName(rule.rule_id, rule.path) for rule in item.rules] for item in (enforcer, self.enforcer)
        )
        vnics = enforcer.inventory is not None
        return Names(rules, staged, enforcer.filters, files, directions_of(vnics), self._policies)
