# SPDX-License-Identifier: Apache-2.0
"""From one PolicySet to another as changes: what file mode applies when its files are read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dfw.incremental.changes import Change, Clock, Exclusion, Remove, Staged
from dfw.model import FloodBinding, Group, Machine, Namespace, Policy, PolicySet, Port, Segment, TimerBinding

_NOTHING = PolicySet()


def world_changes(after: PolicySet, before: PolicySet = _NOTHING) -> list[Change]:
    """What turns the state of `before` (default: of nothing) into that of `after`."""
    changes: list[Change] = []
    if before.at != after.at:
        changes.append(Clock(after.at))
    for kind, field in ((Namespace, "namespaces"), (Machine, "machines"), (Segment, "segments"), (Port, "ports")):
        changes += _differences(kind, getattr(before.inventory, field), getattr(after.inventory, field))
    changes += _differences(Group, before.groups, after.groups)
    changes += _differences(Policy, _by_path(before.policies), _by_path(after.policies))
    changes += _differences(TimerBinding, _by_path(before.timer_bindings), _by_path(after.timer_bindings))
    changes += _differences(FloodBinding, _by_path(before.flood_bindings), _by_path(after.flood_bindings))
    if before.default != after.default:
        changes.append(after.default)
    old, new = _by_path(before.staged), _by_path(after.staged)
    changes += [Remove(Staged, path) for path in old if path not in new]
    changes += [Staged(policy) for path, policy in new.items() if old.get(path) != policy]
    if before.excluded != after.excluded:
        changes.append(Exclusion(after.excluded))
    if before.timers != after.timers:
        changes.append(after.timers)
    if before.flood != after.flood:
        changes.append(after.flood)
    return changes


def _by_path(items: Iterable[Any]) -> Mapping[str, Any]:
    return {item.path: item for item in items}


def _differences(kind: type[Any], before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in before:
        if name not in after:
            yield Remove(kind, name)
    for name, item in after.items():
        if before.get(name) != item:
            yield item
