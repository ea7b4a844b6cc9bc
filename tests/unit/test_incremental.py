# SPDX-License-Identifier: Apache-2.0
"""Incremental compile: after any changes the state equals a compile from nothing, and says exactly what changed."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfw.compile import compile_policy
from dfw.errors import UnsupportedError
from dfw.incremental import Delta, PolicyState, Remove, Staged
from dfw.incremental.canonical import canonical_compiled, canonical_state
from dfw.incremental.packed import packed_ranges
from dfw.incremental.worlds import world_changes
from dfw.model import AnyOf, Group, Policy, PolicySet, Schedule, ranges_merge, ranges_subtract
from tests.support.kube import loaded, network_policy, pod
from tests.support.random_clusters import cluster, policies
from tests.support.random_policies import worlds

LONG = bool(os.environ.get("PALISADE_LONG"))
FIELDS = (
    *("inventory", "policies", "groups", "excluded", "default"),
    *("timers", "timer_bindings", "flood", "flood_bindings"),
)
EXAMPLES = 2000 if LONG else 20


def unnumbered(policy: Policy) -> Policy:
    """Without rule ids, which in file mode move with the rules above."""
    return replace(policy, rules=tuple(replace(rule, number=0) for rule in policy.rules))


def follow(state: PolicyState, before: PolicySet, after: PolicySet) -> None:
    """Apply what differs; the state is then as compiled from nothing, and the delta is exact."""
    tables, sets = contents(state)
    profiles = {name: state.profiles_of(name) for name in state.ports.slot_of}
    other = state.what_if
    old_other = None if other is None else contents(other)
    delta = state.apply(world_changes(after, before))
    compiled = compile_policy(after)
    assert canonical_state(state) == canonical_compiled(compiled)
    assert (state.what_if is None) == (delta.what_if is None) == (not after.staged)
    if state.what_if is not None and delta.what_if is not None:
        assert canonical_state(state.what_if) == canonical_compiled(compile_policy(after.what_if))
        assert other is None or other is state.what_if
        check_delta(state.what_if, delta.what_if, *(old_other or ({}, {})))
    now = {name: state.profiles_of(name) for name in state.ports.slot_of}
    assert now == {
        name: (compiled.timers_of.get(name, compiled.timers), compiled.flood_of.get(name, compiled.flood))
        for name in now
    }
    assert {name for name, old in profiles.items() if now.get(name, old) != old} <= delta.profiles <= now.keys()
    check_delta(state, delta, tables, sets)


def test_a_policy_that_comes_while_as_many_ports_go_or_change_as_stay_as_they_are() -> None:
    """The ports that are gone counted as ports: the others, which were all that there are, were not looked at."""
    one, two, gone = (pod(f"x/{name}", f"10.1.0.{number}") for number, name in enumerate(("one", "two", "gone"), 1))
    isolated = network_policy("x/n", policyTypes=["Ingress"])
    before, after = loaded(one, two, gone).world, loaded(one, pod("x/two", "10.1.0.4"), isolated).world
    state = PolicyState()
    follow(state, PolicySet(), before)
    follow(state, before, after)


def contents(state: PolicyState) -> tuple[dict[str, bytes], dict[int, bytes]]:
    """Tables by vNIC and sets by number, as bytes."""
    tables = {name: state.tables.of[slot].data for name, slot in state.ports.slot_of.items()}  # type: ignore[union-attr]
    return tables, {number: item.packed for number, item in state.sets.of.items()}


def check_delta(state: PolicyState, delta: Delta, tables: dict[str, bytes], sets: dict[int, bytes]) -> None:
    now = {name: state.tables.of[slot].data for name, slot in state.ports.slot_of.items()}  # type: ignore[union-attr]
    assert delta.gone == tables.keys() - now.keys()
    assert {name for name, data in now.items() if tables.get(name) != data} <= delta.tables
    assert delta.tables <= now.keys()
    new = {number: item.packed for number, item in state.sets.of.items()}
    different = {number for number in sets.keys() | new.keys() if sets.get(number) != new.get(number)}
    assert delta.sets.keys() == different
    for number, change in delta.sets.items():
        old_ranges, new_ranges = (packed_ranges(found.get(number, b"")) for found in (sets, new))
        assert change.added == ranges_subtract(new_ranges, old_ranges)
        assert change.removed == ranges_subtract(old_ranges, new_ranges)
        assert ranges_merge(new_ranges) == new_ranges


def step(random: Random, documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One to three of the documents are drawn again, taken away or put there."""
    changed = list(documents)
    for _ in range(random.randint(1, 3)):
        fresh = cluster(random) + policies(random)
        kind = random.random()
        if kind < 0.6:
            keys = {key(item): item for item in fresh}
            at = random.randrange(len(changed))
            changed[at] = keys.get(key(changed[at]), changed[at])
        elif kind < 0.8:
            kept = ("Inventory", "Group")  # others refer to them
            spare = [item for item in changed if item.get("kind", item.get("resource_type")) not in kept]
            if spare:
                changed.remove(random.choice(spare))
        else:
            there = {key(item) for item in changed}
            changed += [item for item in fresh if key(item) not in there][: random.randint(1, 3)]
    return changed


def key(item: dict[str, Any]) -> str:
    meta = item.get("metadata", {})
    kind = item.get("kind", item.get("resource_type"))
    return f"{kind} {meta.get('namespace')} {meta.get('name', item.get('id'))}"


def world_of(documents: list[dict[str, Any]]) -> PolicySet:
    world = loaded(*documents).world
    return replace(world, policies=tuple(map(unnumbered, world.policies)), default=unnumbered(world.default))


def staged_beside(random: Random, world: PolicySet, documents: list[dict[str, Any]]) -> PolicySet:
    """Some policies are staged: others of the same documents' kinds, changed and emptied ones of those in force."""
    others = [item for item in documents if item.get("kind", item.get("resource_type")) in ("Inventory", "Group")]
    pool = {policy.path: policy for policy in world_of(others + policies(random)).policies}
    for policy in random.sample(world.policies, min(2, len(world.policies))):
        pool[policy.path] = replace(policy, rules=random.choice([(), policy.rules[:1], policy.rules[::-1]]))
    chosen = random.sample(list(pool.values()), random.randint(0, min(3, len(pool))))
    if random.random() < 0.2:
        chosen.append(replace(world.default, rules=world.default.rules[:3]))
    return replace(world, staged=tuple(replace(policy, staged=True) for policy in chosen))


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_staged_policies_change(seed: int) -> None:
    """Staged, changed, put in force, taken back, while everything else changes too."""
    random = Random(seed)
    documents = cluster(random) + policies(random)
    state, before = PolicyState(), PolicySet()
    for _ in range(random.randint(2, 6)):
        after = world_of(documents)
        kept = random.random() < 0.3
        after = replace(after, staged=before.staged) if kept else staged_beside(random, after, documents)
        follow(state, before, after)
        before = after
        if random.random() < 0.7:
            documents = step(random, documents)
    follow(state, before, PolicySet())
    assert state.what_if is None and not state.sets.of and not state.selections.of


@pytest.mark.parametrize("is_other_there", [False, True])
def test_a_refused_staged_policy_changes_nothing(is_other_there: bool) -> None:
    random = Random(1)
    world = world_of(cluster(random) + policies(random))
    state = PolicyState()
    staged = Staged(replace(world.policies[0], rules=(), staged=True))
    state.apply([*world_changes(world), *([staged] if is_other_there else [])])
    before, other = contents(state), state.what_if
    before_other = None if other is None else contents(other)
    scheduled = replace(world.policies[1], schedule=Schedule("/s", date(2026, 1, 1), date(2026, 12, 31)), staged=True)
    with pytest.raises(UnsupportedError, match="a schedule without a time"):
        state.apply([Remove(Policy, world.policies[0].path), Staged(scheduled)])
    assert contents(state) == before and state.what_if is other
    assert other is None or contents(other) == before_other
    state.apply([Remove(Staged, "nobody knows this"), Remove(Staged, world.policies[0].path)])
    assert state.what_if is None and contents(state) == before


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**32))
def test_documents_of_all_kinds_change(seed: int) -> None:
    random = Random(seed)
    documents = cluster(random) + policies(random)
    state, before = PolicyState(), PolicySet()
    for _ in range(random.randint(2, 6)):
        after = world_of(documents)
        follow(state, before, after)
        before, documents = after, step(random, documents)
    follow(state, before, PolicySet())
    assert not state.sets.of and not state.selections.of


@settings(max_examples=EXAMPLES)
@given(st.lists(worlds(), min_size=2, max_size=4), st.integers(0, 2**32))
def test_groups_exclusions_and_profiles_change(drawn: list[PolicySet], seed: int) -> None:
    random = Random(seed)
    groups = {f"/g/{number}": Group(f"/g/{number}", AnyOf()) for number in range(3)}
    current = replace(drawn[0], groups={**groups, **drawn[0].groups})
    state, before = PolicyState(), PolicySet()
    follow(state, before, current)
    for other in drawn[1:]:
        before = current
        for field in random.sample(FIELDS, 3):
            value = getattr(other, field)
            current = replace(current, **{field: {**groups, **value} if field == "groups" else value})
        if random.random() < 0.3:
            ports = {name: port for name, port in current.inventory.ports.items() if random.random() < 0.7}
            current = replace(current, inventory=replace(current.inventory, ports=ports))
        follow(state, before, current)
