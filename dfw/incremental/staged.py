# SPDX-License-Identifier: Apache-2.0
"""Changes in the world in which the staged policies are in force (`PolicySet.what_if`), from the changes of the world
as it is: a staged policy stands in the place of the enforced one with its path, or beside all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeAlias

from dfw.incremental.changes import Change, Remove, Staged, Stamp
from dfw.model import Policy

Given: TypeAlias = Policy | Stamp
"""A policy as it is put: one of the model, or a template's."""
_POLICY_KINDS = (Policy, Stamp)


class StagedPolicies:
    """The staged policies by key. `enforced`: the policy in force with a key, or None."""

    def __init__(self, enforced: Callable[[str], Given | None]) -> None:
        self.of: dict[str, Given] = {}
        self._enforced = enforced

    def after(self, changes: Iterable[Change]) -> tuple[dict[str, Given], list[Change], list[Change]]:
        """What the changes make of the staged policies, what of them the world in force sees, and what the other one.
        Nothing is changed yet."""
        staged = dict(self.of)
        here: list[Change] = []
        there: list[Change] = []
        now: dict[str, Given | None] = {}
        for change in changes:
            key = policy_key(change)
            if isinstance(change, Staged):
                staged[key] = change.policy
                there.append(change.policy)
            elif isinstance(change, Remove) and change.kind is Staged:
                if staged.pop(key, None) is not None:
                    below = now[key] if key in now else self._enforced(key)
                    there.append(Remove(Policy, key) if below is None else below)
            else:
                here.append(change)
                if key:
                    now[key] = None if isinstance(change, Remove) else change  # type: ignore[assignment]
                if key not in staged:
                    there.append(change)
        return staged, here, there

    def replacing(self, things: Iterable[Change]) -> Iterator[Change]:
        """All things of the world in force, with the staged policies in their places."""
        yield from (thing for thing in things if policy_key(thing) not in self.of)
        yield from self.of.values()


def policy_key(change: Change) -> str:
    """By what the policy is known that a change is about; nothing where it is about something else."""
    thing = change.policy if isinstance(change, Staged) else change
    if isinstance(thing, Stamp):
        return thing.key
    if isinstance(thing, Policy):
        return thing.path
    return thing.key if isinstance(thing, Remove) and thing.kind in (*_POLICY_KINDS, Staged) else ""
