# SPDX-License-Identifier: Apache-2.0
"""The enforcer nftables changes what differs and nothing else; after any series of changes the kernel has what a full
load would have put there."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfw.compile import compile_policy
from dfw.model import Family, FloodLimits, PolicySet, Timers
from dfw.nftables import Names, Rendered, Ruleset, plan_update, render_ruleset, ruleset_sorted
from dfw.nftables import load as kernel
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.ruleset import Chain, ChainRule, ElementSet, Hook
from tests.conftest import LONG
from tests.support.random_policies import worlds
from tests.unit.test_nftables import in_kernel, namespace, read_back  # noqa: F401 (a fixture)


def rendered(world: PolicySet, names: Names | None = None) -> Rendered:
    plain = replace(world, timers=Timers(), timer_bindings=(), flood=FloodLimits(), flood_bindings=())
    return render_ruleset(compile_policy(plain), [port.name for port in world.inventory], names=names)


def moved(old: Ruleset, new: Ruleset, inside: PrivateNamespace) -> Ruleset:
    """What the kernel has after the update."""
    with inside.run(lambda: kernel.RulesetLink(new.table)) as link:
        link.update(plan_update(old, new))
        return link.read()


@in_kernel
@given(st.lists(worlds(), min_size=2, max_size=5), st.randoms(use_true_random=False))
@settings(max_examples=200 if LONG else 6)
def test_any_series_of_policies_ends_as_a_full_load_does(drawn: list[PolicySet], draw: random.Random) -> None:
    # Between two strange policies come parts of one: rules and vNICs gone and back again.
    series = []
    for world in drawn:
        ports = dict(world.inventory.ports)
        some = {name: port for name, port in ports.items() if draw.random() < 0.7}
        rules = [
            replace(policy, rules=tuple(rule for rule in policy.rules if draw.random() < 0.7))
            for policy in world.policies
        ]
        series += [world, replace(world, policies=tuple(rules))]
        series += [replace(world, inventory=replace(world.inventory, ports=some)), world]
    with PrivateNamespace() as inside, inside.run(lambda: kernel.RulesetLink("palisade")) as link:
        last = rendered(series[0])
        link.apply(last.ruleset)
        for world in series[1:]:
            now = rendered(world, last.names)
            link.update(plan_update(last.ruleset, now.ruleset))
            assert ruleset_sorted(link.read()) == ruleset_sorted(now.ruleset)
            assert not plan_update(now.ruleset, now.ruleset)
            last = now


@in_kernel
def test_any_series_of_elements_ends_as_it_should(namespace: PrivateNamespace) -> None:  # noqa: F811
    draw = random.Random("elements")

    def some(number: int) -> ElementSet:
        kind = (Family.IPV4, Family.IPV6, None)[number % 3]
        bits = 16 if kind is None else kind.bits
        top = (1 << bits) - 1
        numbers = {
            draw.choice((0, 1, 255, top, top - 1, draw.getrandbits(8), draw.getrandbits(bits))) for _ in range(24)
        }
        ends = sorted(numbers)
        if number % 2:
            return ElementSet(f"set{number}", kind, tuple((end, end) for end in ends))
        pairs = [(first, last) for first, last in zip(ends[::2], ends[1::2], strict=False) if first < last]
        return ElementSet(f"set{number}", kind, tuple(draw.sample(pairs, len(pairs) - 1) if len(pairs) > 3 else pairs))

    def sorted_ranges(item: ElementSet) -> ElementSet:
        # Ranges that touch are one to the kernel.
        return replace(item, ranges=tuple(sorted(item.ranges)))

    last = Ruleset("palisade", sets=tuple(sorted_ranges(some(number)) for number in range(12)))
    assert read_back(namespace, last).sets
    for _ in range(60 if LONG else 12):
        now = Ruleset("palisade", sets=tuple(sorted_ranges(some(number)) for number in range(12)))
        if any(item.is_interval != old.is_interval for item, old in zip(now.sets, last.sets, strict=True)):
            continue
        assert moved(last, now, namespace) == now
        last = now


@in_kernel
def test_what_somebody_else_did_is_seen_and_mended(namespace: PrivateNamespace) -> None:  # noqa: F811
    want = Ruleset(
        "palisade",
        (ElementSet("a", None, ((1, 5), (9, 9))),),
        counters=("n",),
        chains=(Chain("c", (ChainRule(({"counter": "n"}, {"accept": None})),), Hook("forward", 0, "drop")),),
    )
    assert read_back(namespace, want) == want
    link = namespace.run(lambda: kernel.RulesetLink("palisade"))
    before = link.generation()
    assert link.generation() == before
    empty = replace(want, chains=(replace(want.chains[0], rules=()),))
    assert moved(want, empty, namespace) == empty
    assert link.generation() != before
    link.close()
    assert moved(empty, want, namespace) == want
    # Planned from what is not there: refused, and nothing has changed.
    with pytest.raises(kernel.LoadError):
        moved(replace(want, sets=(ElementSet("a", None, ((70, 71),)),)), want, namespace)
    assert namespace.run(lambda: kernel.read_ruleset("palisade")) == want


def test_what_no_update_can_do_is_refused() -> None:
    def one(**parts: object) -> Ruleset:
        return replace(Ruleset("t"), **parts)

    a, b = (ElementSet("a", None, (ends,)) for ends in ((1, 1), (1, 2)))
    with pytest.raises(ValueError, match="the set a as another kind"):
        plan_update(one(sets=(a,)), one(sets=(b,)))
    with pytest.raises(ValueError, match="the base chain c at another hook"):
        plan_update(one(chains=(Chain("c", ()),)), one(chains=(Chain("c", (), Hook("forward", 0, "drop")),)))
    with pytest.raises(ValueError, match="tables t and u"):
        plan_update(one(), Ruleset("u"))
