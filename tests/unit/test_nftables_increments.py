# SPDX-License-Identifier: Apache-2.0
"""A ruleset that takes over what has not changed is the one that is rendered from nothing, after any series of changes,
and what it took over are the same objects."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfw.compile import AddressSet, Compiled, compile_policy
from dfw.layout import RANGE_DTYPE
from dfw.load import load
from dfw.model import (
    Action,
    Address,
    Addresses,
    Family,
    FloodLimits,
    Group,
    GroupMember,
    Inventory,
    Machine,
    Peers,
    PolicySet,
    Port,
    Segment,
    Timers,
    range_parse,
)
from dfw.nftables import plan_update, render_ruleset, ruleset_sorted
from dfw.nftables.render import Rendered, SomeTables
from dfw.nftables.rows import tables_flat
from dfw.nftables.ruleset import ElementSet, RangesKnown, Ruleset
from tests.conftest import LONG
from tests.support.oracle_bench import policies, rule
from tests.support.random_policies import worlds
from tests.unit.test_nftables import HERE


def compiled(world: PolicySet) -> Compiled:
    return compile_policy(replace(world, timers=Timers(), timer_bindings=(), flood=FloodLimits(), flood_bindings=()))


def shuffled(tables: Compiled, draw: random.Random) -> SomeTables:
    """The same policy with other numbers for rules, sets and tables, as another revision of a host's state has."""
    rules, sets = (draw.sample(range(len(some)), len(some)) for some in (tables.rules, tables.sets))
    of_rule, of_set = (np.array([order.index(at) for at in range(len(order))], np.uint32) for order in (rules, sets))
    order = draw.sample(range(len(tables.tables)), len(tables.tables))
    made = []
    for at in order:
        table = tables.tables[at]
        entries = table.entries.copy()
        if len(entries):
            entries["rule"] = of_rule[entries["rule"]]
        # A host's state has a list of references for each table.
        own = of_set[table.set_refs] if len(sets) else table.set_refs
        pad = draw.randrange(3)
        for side in ("src", "dst"):
            entries[f"{side}_off"] += np.where(entries[f"{side}_n"] > 0, pad, 0).astype(np.uint32)
        made.append(replace(table, entries=entries, set_refs=np.concatenate([np.zeros(pad, np.uint32), own])))
    return SomeTables(
        [tables.rules[at] for at in rules],
        [tables.sets[at] for at in sets],
        made,
        {name: order.index(at) for name, at in tables.table_of.items()},
    )


@given(st.lists(worlds(), min_size=2, max_size=4), st.randoms(use_true_random=False))
@settings(max_examples=300 if LONG else 25)
def test_any_series_is_rendered_as_from_nothing(drawn: list[PolicySet], draw: random.Random) -> None:
    series = []
    for world in drawn:
        rules = [
            replace(
                policy,
                rules=tuple(
                    replace(rule, logged=not rule.logged, action=draw.choice((rule.action, Action.DROP)))
                    if draw.random() < 0.2
                    else rule
                    for rule in policy.rules
                    if draw.random() < 0.7
                ),
            )
            for policy in world.policies
        ]
        ports = {name: port for name, port in world.inventory.ports.items() if draw.random() < 0.7}
        others = {
            name: replace(port, ips=(Address(Family.IPV4, draw.randrange(1, 9)),)) if draw.random() < 0.3 else port
            for name, port in world.inventory.ports.items()
        }
        series += [world, replace(world, policies=tuple(rules)), world]
        series += [replace(world, inventory=replace(world.inventory, ports=some)) for some in (ports, others)]
    last: Rendered | None = None
    for world in series:
        tables = shuffled(compiled(world), draw)
        vnics = draw.sample(list(world.inventory.ports), len(world.inventory.ports))
        now = render_ruleset(tables, vnics, before=last)
        assert now == render_ruleset(tables, vnics, names=None if last is None else last.names)
        again = render_ruleset(tables, vnics, before=now)
        assert again == now and not plan_update(now.ruleset, again.ruleset)
        last = now


def test_what_has_not_changed_is_taken_over() -> None:
    world = load([str(HERE / "in.yaml")]).world
    names = [port.name for port in world.inventory]
    first = render_ruleset(compile_policy(world), names)
    again = render_ruleset(shuffled(compile_policy(world), random.Random(1)), names, before=first)
    assert again.names == first.names and again.memo.tables
    assert ruleset_sorted(again.ruleset) == ruleset_sorted(first.ruleset)
    assert all(again.memo.tables[at] is part for at, part in first.memo.tables.items())
    assert all(any(item is one for one in first.ruleset.sets) for item in again.ruleset.sets if item.name[:3] == "set")
    # A rule of one table changes: the others' stay.
    policies = tuple(
        replace(policy, rules=tuple(replace(rule, logged=True) for rule in policy.rules)) for policy in world.policies
    )
    other = render_ruleset(compile_policy(replace(world, policies=policies)), names, before=first)
    assert any(other.memo.tables[at] is not part for at, part in first.memo.tables.items())
    assert other.ruleset != first.ruleset


def test_another_rule_id_is_another_log_text() -> None:
    world = load([str(HERE / "in.yaml")]).world
    names = [port.name for port in world.inventory]
    tables = compile_policy(world)
    first = render_ruleset(tables, names)
    renamed = replace(tables, rules=tuple(replace(rule, rule_id=rule.rule_id + 7) for rule in tables.rules))
    assert render_ruleset(renamed, names, before=first) == render_ruleset(renamed, names, names=first.names)
    assert render_ruleset(renamed, names, before=first).ruleset != first.ruleset


@pytest.mark.parametrize("changes", range(8 if LONG else 4))
def test_a_set_of_thousands_changes_as_if_it_were_made_anew(changes: int) -> None:
    draw = random.Random(changes)
    numbers = set(draw.sample(range(1 << 20), 5000))
    world = load([str(HERE / "in.yaml")]).world
    tables = compile_policy(world)
    names = [port.name for port in world.inventory]
    at = next(number for number, item in enumerate(tables.sets) if item.name and len(item.ranges))

    def with_numbers(some: set[int]) -> Compiled:
        rows = np.zeros(len(some), dtype=RANGE_DTYPE)
        for row, value in zip(rows, sorted(some), strict=True):
            row["lo"][:4] = row["hi"][:4] = list(value.to_bytes(4, "big"))
        rows["family"] = int(Family.IPV4)
        sets = list(tables.sets)
        sets[at] = AddressSet(at, sets[at].name, rows)
        return replace(tables, sets=tuple(sets))

    last = render_ruleset(with_numbers(numbers), names)
    for _ in range(6):
        gone = set(draw.sample(sorted(numbers), draw.choice((0, 1, 2, 700))))
        come = {draw.randrange(1 << 20) for _ in range(draw.choice((0, 1, 900)))}
        numbers = (numbers - gone) | come
        now = render_ruleset(with_numbers(numbers), names, before=last)
        assert now == render_ruleset(with_numbers(numbers), names, names=last.names)
        (change,) = plan_update(last.ruleset, now.ruleset).sets or (None,)
        assert_planned_as_from_nothing(last.ruleset, now.ruleset)
        before, wanted = (
            {
                pair
                for item in some.ruleset.sets
                if item.family is Family.IPV4 and len(item.ranges) > 999
                for pair in item.ranges
            }
            for some in (last, now)
        )
        assert (
            (set(), set()) == (before - wanted, wanted - before)
            if change is None
            else (
                set(change.removed),
                set(change.added),
            )
            == (before - wanted, wanted - before)
        )
        last = now


def assert_planned_as_from_nothing(old: Ruleset, new: Ruleset) -> None:
    """What the rendering knows of sets that it changed makes no other plan than reading them, and it knows of each."""
    known = {item.name: item for item in old.sets}
    for item in new.sets:
        before = known.get(item.name)
        if before is not None and before is not item and before.family is not None:
            assert item.same_as(before) is not None and before.same_as(item) is None
        read = ElementSet(item.name, item.family, item.ranges)
        assert (read, read.is_interval, read.same_as(item)) == (item, item.is_interval, None)
    bare = [replace(some, sets=tuple(replace(item, known=None) for item in some.sets)) for some in (old, new)]
    assert plan_update(*bare) == plan_update(old, new)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_known_of_a_set_is_so(seed: int) -> None:
    draw = random.Random(f"known {seed}")
    last = render_ruleset(_one_rule("a", "10.9.0.0/24 10.9.2.1"), ["v"])
    for _ in range(25):
        hosts = [f"10.9.{draw.randrange(9)}.{draw.choice((0, 7))}" for _ in range(draw.randrange(1, 6))]
        members = " ".join(f"{text}/24" if text.endswith(".0") and draw.random() < 0.5 else text for text in hosts)
        now = render_ruleset(_one_rule("a", members), ["v"], before=last)
        assert_planned_as_from_nothing(last.ruleset, now.ruleset)
        last = now


def test_what_is_known_of_other_ranges_is_not_believed() -> None:
    pairs = ((1, 1), (4, 9))
    item = ElementSet("a", Family.IPV4, pairs, RangesKnown(pairs, 1, ((1, 1),), 1, 0))
    assert item.is_interval and item.same_as(ElementSet("a", Family.IPV4, pairs[:1])) is None
    assert not replace(item, ranges=((3, 3),)).is_interval and replace(item, name="b").is_interval


@pytest.mark.parametrize("sizes", [(0, 1), (1, 0), (1000, 1000), (2500, 2501), (3000, 1999), (1001, 3001)])
def test_sets_of_whole_thousands_are_told_apart(sizes: tuple[int, int]) -> None:
    draw = random.Random(str(sizes))
    one, other = (tuple((n, n) for n in sorted(draw.sample(range(6000), size))) for size in sizes)
    for old, new in ((one, other), (other[: len(one)], other), (one, one[len(one) // 2 :])):
        sets = [Ruleset("t", (ElementSet("a", Family.IPV4, ranges),)) for ranges in (old, new)]
        found = plan_update(*sets).sets
        removed, added = tuple(sorted(set(old) - set(new))), tuple(sorted(set(new) - set(old)))
        assert [(item.removed, item.added) for item in found] == ([(removed, added)] if old != new else [])


@pytest.mark.parametrize("at", [0, 999, 1000, 1001, 1999, 2000, 2001, 2999])
def test_one_element_that_is_another_is_found(at: int) -> None:
    old = tuple((2 * n, 2 * n) for n in range(3000))
    new = (*old[:at], (2 * at + 1, 2 * at + 1), *old[at + 1 :])
    sets = [Ruleset("t", (ElementSet("a", Family.IPV4, ranges),)) for ranges in (old, new)]
    (change,) = plan_update(*sets).sets
    assert (change.removed, change.added) == ((old[at],), (new[at],))


def _one_rule(group: str, members: str) -> Compiled:
    """One rule for a group; two other rules keep both groups in use."""
    sources = {"a": "10.0.0.1", "b": "10.0.0.2", group: members}
    items = {name: Addresses(tuple(range_parse(text) for text in members.split())) for name, members in sources.items()}
    groups = {f"/g/{name}": Group(f"/g/{name}", item) for name, item in items.items()}
    peers = [Peers((GroupMember(f"/g/{name}"),)) for name in (group, "a", "b")]
    world = policies(*(rule(f"r{n}", sources=some) for n, some in enumerate(peers)))
    inventory = Inventory(
        segments={"s": Segment("s", 1)},
        machines={"m": Machine("m")},
        ports={"v": Port("v", "h", "s", "m", "06:00:00:00:00:01", ips=(Address(Family.IPV4, 9),))},
    )
    return compile_policy(replace(world, groups=groups, inventory=inventory))


def test_a_rule_for_another_group_is_another_rule() -> None:
    # Same entries, other sets; then a group that is no hash any more, one that has no address of a family, and back.
    series = [("a", "10.0.0.1"), ("b", "10.0.0.2"), ("b", "10.0.0.0/24"), ("b", "fd00::1"), ("b", "10.0.0.2 fd00::1")]
    last = render_ruleset(_one_rule(*series[0]), ["v"])
    for group, members in (*series, *series):
        now = render_ruleset(_one_rule(group, members), ["v"], before=last)
        assert now == render_ruleset(_one_rule(group, members), ["v"], names=last.names)
        assert (group, members) == series[0] or now.ruleset != last.ruleset
        last = now


@given(st.lists(worlds(), min_size=1, max_size=3), st.randoms(use_true_random=False))
@settings(max_examples=100 if LONG else 10)
def test_tables_in_a_row_are_the_tables(drawn: list[PolicySet], draw: random.Random) -> None:
    # Some share their list of references, others have their own.
    tables = [table for world in drawn for table in (*compiled(world).tables, *shuffled(compiled(world), draw).tables)]
    draw.shuffle(tables)
    rows = tables_flat(tables)
    for at, table in enumerate(tables):
        assert rows.entries[rows.bounds[at] : rows.bounds[at + 1]].tobytes() == table.entries.tobytes()
        for side, refs in rows.refs.items():
            pairs = table.entries[[f"{side}_off", f"{side}_n"]].tolist()
            wanted = [ref for offset, count in pairs for ref in table.set_refs[offset : offset + count].tolist()]
            assert refs[rows.ref_bounds[side][at] : rows.ref_bounds[side][at + 1]].tolist() == wanted
    assert len(rows.bounds) == len(tables) + 1 and rows.bounds[-1] == len(rows.entries)
