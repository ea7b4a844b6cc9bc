# SPDX-License-Identifier: Apache-2.0
"""What someone who replays a capture should know before they believe the answer. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dfw.explain_text import rule_name
from dfw.model import ANY_PEERS, PolicySet, rules_for_tap

_NAMES_SHOWN: Final = 3


def inventory_lacks(world: PolicySet) -> Iterator[str]:
    """What a policy means otherwise than written where there is no inventory: a capture that is dropped whole, or
    passes whole, is mostly that."""
    groups = [path.rpartition("/")[2] for path in world.groups if not world.group_ranges(path)]
    if groups:
        yield f"without an inventory nobody is in {_some(groups, 'group')}"
    rules = [rule_name(item.rule.path) for item in rules_for_tap(world) if item.applied_to != ANY_PEERS]
    if rules:
        yield f"without an inventory one filter on a wire judges, whatever the Applied-To of {_some(rules, 'rule')}"


def _some(names: list[str], what: str) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    if len(names) == 1:
        return f"the {what} {shown}"
    return f"the {what}s {shown}" + (f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else "")
