# SPDX-License-Identifier: Apache-2.0
"""Staged policies under nftables: the exact text; loaded and read back it is the same; what is refused; what is
counted, and that nothing in force changes by it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfw.compile import compile_policy
from dfw.errors import UnsupportedError
from dfw.load import load
from dfw.model import Action, Alg, FloodLimits, PolicySet, PortRange, ServiceEntry, Tier, Timers
from dfw.nftables import (
    Names,
    Rendered,
    Ruleset,
    plan_update,
    refuse_unsupported,
    render_ruleset,
    render_wire,
    ruleset_sorted,
    ruleset_text,
    vnic_mark,
    wire_tables,
)
from dfw.nftables import load as kernel
from dfw.nftables.judge import KernelJudge, decisions_logged
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.render import Memo
from dfw.nftables.ruleset import Chain
from dfw.nftables.staged import CUT, PASSES_TOO, STAGED, WOULD_PASS
from tests.conftest import LONG
from tests.support.oracle_bench import ACK, SYN, TCP, A, B, policies, rule, tcp, udp
from tests.support.random_policies import worlds
from tests.support.staged_draw import staged_draw
from tests.unit.test_nftables import HERE, in_kernel, namespace, read_back  # noqa: F401 (a fixture)
from tests.unit.test_nftables_batch import assert_the_same

FILES = [str(HERE / name) for name in ("in.yaml", "staged.yaml")]
WIRE = vnic_mark(1, 0)
WEB = ServiceEntry(protocol=TCP, destination_ports=(PortRange(80, 80),))


def rendered(world: PolicySet, *, tap: bool = False, before: Rendered | None = None) -> Rendered:
    """With the staged policies, if there are any."""
    refuse_unsupported(world)
    now, then = compile_policy(world), compile_policy(world.what_if) if world.staged else None
    if tap:
        staged = None if then is None else wire_tables(then.rules, then.sets, then.tap)
        return render_wire(now.rules, now.sets, now.tap, staged=staged)
    return render_ruleset(now, [port.name for port in world.inventory], before=before, staged=then)


def drawn(world: PolicySet, seed: int) -> PolicySet:
    """A drawn policy without what nftables refuses, and staged ones beside it."""
    plain = replace(world, timers=Timers(), timer_bindings=(), flood=FloodLimits(), flood_bindings=())
    return staged_draw(random.Random(seed), [plain])


def staged_chains(ruleset: Ruleset) -> list[Chain]:
    return [chain for chain in ruleset.chains if STAGED in chain.name]


# The text


def test_the_text_of_a_ruleset() -> None:
    # To write it anew: PYTHONPATH=. python -m tests.unit.test_nftables_staged
    assert ruleset_text(rendered(load(FILES).world).ruleset) == (HERE / "expected-staged.json").read_text()


def test_nothing_is_there_where_nothing_is_staged() -> None:
    ruleset = rendered(load(FILES[:1]).world).ruleset
    assert STAGED not in ruleset_text(ruleset)


def test_what_is_in_force_is_written_as_without() -> None:
    world = load(FILES).world
    beside, alone = (rendered(item).ruleset for item in (world, replace(world, staged=())))
    assert [chain for chain in beside.chains if STAGED not in chain.name] == list(alone.chains)
    assert [item for item in beside.maps if STAGED not in item.name] == list(alone.maps)
    assert set(beside.counters) > set(alone.counters) and beside.helpers == alone.helpers


def test_counters_name_the_staged_rules() -> None:
    found = rendered(load(FILES).world)
    assert {item.path.rpartition("/")[2] for item in found.staged_of.values()} >= {"files", "sql", "refuse"}
    assert all(name.startswith(STAGED) for name in found.staged_of) and not set(found.staged_of) & set(found.rule_of)
    assert {*found.rule_of, *found.staged_of} < set(found.ruleset.counters)
    by_path = {item.path: item.action for item in found.staged_of.values()}
    assert by_path["/infra/domains/default/security-policies/shop/rules/sql"] is Action.REJECT


_SETS_MARK = ({"meta": {"key": "mark"}}, {"ct": {"key": "mark"}})


def acts(chain: Chain) -> Iterator[Any]:
    """What could change a packet's way, or say something."""
    if chain.hook is not None and chain.hook.policy != "accept":
        yield chain.hook
    for own in chain.rules:
        for item in own.expressions:
            ((kind, value),) = item.items()
            if kind in ("match", "counter", "accept", "vmap"):
                continue
            if kind in ("goto", "jump") and value["target"].startswith(STAGED):
                continue
            if (
                kind == "mangle"
                and value["key"] in _SETS_MARK
                and value["value"]
                in (
                    {"|": [_SETS_MARK[0], 0x8000]},
                    *({"|": [_SETS_MARK[1], bits]} for bits in (4, 8, 12, 16)),
                )
            ):
                continue
            yield item


@given(worlds(), st.integers(), st.booleans())
@settings(max_examples=200 if LONG else 15)
def test_no_staged_rule_can_act(world: PolicySet, seed: int, tap: bool) -> None:
    ruleset = rendered(drawn(world, seed), tap=tap).ruleset
    found = staged_chains(ruleset)
    assert [item for chain in found for item in acts(chain)] == []
    # And nothing in force leads there, or asks for what they remember.
    others = [chain for chain in ruleset.chains if chain not in found]
    assert STAGED not in str([chain.rules for chain in others])


# Loaded and read back


@in_kernel
def test_loaded_and_read_back_the_golden_ruleset_is_the_same(namespace: PrivateNamespace) -> None:  # noqa: F811
    ruleset = rendered(load(FILES).world).ruleset
    assert ruleset_sorted(read_back(namespace, ruleset)) == ruleset_sorted(ruleset)


@in_kernel
@given(worlds(), st.integers(), st.booleans())
@settings(max_examples=100 if LONG else 6)
def test_loaded_and_read_back_drawn_policies_are_the_same(world: PolicySet, seed: int, tap: bool) -> None:
    ruleset = rendered(drawn(world, seed), tap=tap).ruleset
    with PrivateNamespace() as inside:
        assert ruleset_sorted(read_back(inside, ruleset)) == ruleset_sorted(ruleset)


@in_kernel
def test_rules_by_netlink_itself_are_those_of_libnftables() -> None:
    assert_the_same(rendered(load(FILES).world).ruleset)


# Increments


@in_kernel
@given(st.lists(st.integers(), min_size=2, max_size=4), worlds())
@settings(max_examples=60 if LONG else 5)
def test_any_series_is_as_from_nothing_and_as_the_kernel_has_it(seeds: list[int], world: PolicySet) -> None:
    series = [drawn(world, seed) for seed in seeds]
    plain = replace(series[0], staged=())
    bases = [replace(item, policies=plain.policies, default=plain.default) for item in series]
    last = rendered(plain)
    with PrivateNamespace() as inside, inside.run(lambda: kernel.RulesetLink("palisade")) as link:
        link.apply(last.ruleset)
        for item in (*bases, plain, bases[0]):
            now = rendered(item, before=last)
            assert now == _from_names(item, last)
            link.update(plan_update(last.ruleset, now.ruleset))
            assert ruleset_sorted(link.read()) == ruleset_sorted(now.ruleset)
            last = now


def _from_names(world: PolicySet, last: Rendered) -> Rendered:
    now, then = compile_policy(world), compile_policy(world.what_if) if world.staged else None
    return render_ruleset(now, [port.name for port in world.inventory], names=last.names, staged=then)


def test_a_staged_rule_changes_its_own_chain_only() -> None:
    world = load(FILES).world
    first = rendered(world)
    (shop,) = world.staged
    logged = replace(shop, rules=(replace(shop.rules[0], action=Action.DROP), *shop.rules[1:]))
    other = rendered(replace(world, staged=(logged,)), before=first)
    update = plan_update(first.ruleset, other.ruleset)
    assert update and all(STAGED in str(command) for command in (*update.before, *update.after))
    assert not update.sets and other.memo.tables == first.memo.tables


def test_staged_rules_keep_their_counters_over_a_process_and_from_an_earlier_version() -> None:
    world = load(FILES).world
    (shop,) = world.staged
    first = rendered(replace(world, staged=(replace(shop, rules=shop.rules[::-1]),)))
    kept = replace(first, names=msgspec.json.decode(msgspec.json.encode(first.names), type=Names), memo=Memo())
    again = rendered(world, before=kept)
    of_path = [{rule.path: name for name, rule in item.staged_of.items()} for item in (first, again)]
    assert of_path[0] == of_path[1] != {rule.path: name for name, rule in rendered(world).staged_of.items()}
    before = msgspec.to_builtins(first.names)
    del before["staged_tables"], before["staged_rules"]
    assert rendered(world, before=replace(kept, names=msgspec.convert(before, Names))).staged_of


def test_groups_are_the_same_sets_in_both_worlds() -> None:
    world = load(FILES).world
    alone, beside = rendered(replace(world, staged=())), rendered(world)
    mine = {item.ranges for item in alone.ruleset.sets}
    assert len(beside.ruleset.sets) == len({item.ranges for item in beside.ruleset.sets} | mine)


# What is refused


@pytest.mark.parametrize(
    ("item", "tier", "words"),
    [
        (
            rule("rpc", Action.ALLOW, replace(WEB, alg=Alg.SUN_RPC_TCP)),
            Tier.APPLICATION,
            "the ALG SUN_RPC_TCP (staged rule /p/rules/rpc)",
        ),
    ],
)
def test_what_is_refused_and_how(item: Any, tier: Tier, words: str) -> None:
    world = policies(rule("any"))
    staged = replace(world.policies[0], rules=(item,), tier=tier, staged=True)
    refuse_unsupported(replace(world, staged=(replace(staged, rules=(replace(item, disabled=True),)),)))
    with pytest.raises(UnsupportedError) as caught:
        refuse_unsupported(replace(world, staged=(staged,)))
    assert str(caught.value) == f"the enforcer nftables does not support {words}"


# What is counted


def staged_world(now: Action, then: Action) -> PolicySet:
    """The web by one action in force and by another one staged; all else is dropped."""
    world = policies(rule("web", now, WEB), rule("end", Action.DROP))
    staged = replace(world.policies[0], rules=(rule("web", then, WEB), rule("end", Action.DROP)), staged=True)
    return replace(world, staged=(staged,))


def handshake(port: int) -> list[bytes]:
    return [
        tcp(A, B, (port, 80), SYN, 100),
        tcp(B, A, (80, port), SYN | ACK, 500, 101),
        tcp(A, B, (port, 80), ACK, 101, 501),
    ]


def counted(judge: KernelJudge) -> dict[str, int]:
    with judge.inside().run(lambda: kernel.RulesetLink("palisade")) as link:
        return {name: packets for name, (packets, _) in link.counters().items() if packets and STAGED in name}


IN_JUDGE = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tun,
    pytest.mark.needs_tool("nft", "ip"),
    pytest.mark.needs_kernel_judge,
]


def in_judge(test: Any) -> Any:
    for mark in IN_JUDGE:
        test = mark(test)
    return test


@in_judge
@pytest.mark.parametrize(
    ("now", "then", "delivered", "expected"),
    [
        # The answer begins nothing where the SYN was refused; the ACK after it might, and is asked about.
        (Action.ALLOW, Action.DROP, 3, {"staged-rule0": 2, "staged-rule1": 2, CUT: 3}),
        (Action.ALLOW, Action.REJECT, 3, {"staged-rule0": 2, "staged-rule1": 2, CUT: 3}),
        # A connection that both allow is asked about once.
        (Action.ALLOW, Action.ALLOW, 3, {"staged-rule0": 1, "staged-rule1": 1, WOULD_PASS: 3, PASSES_TOO: 3}),
        # The kernel has no connection of what is refused in force: its ACK is asked about like its SYN.
        (Action.DROP, Action.ALLOW, 0, {"staged-rule0": 2, "staged-rule1": 2, WOULD_PASS: 2}),
    ],
)
def test_what_would_have_been_is_counted(now: Action, then: Action, delivered: int, expected: dict[str, int]) -> None:
    ruleset = rendered(staged_world(now, then), tap=True)
    assert [ruleset.staged_of[f"staged-rule{number}"].action for number in (0, 1)] == [then, Action.DROP]
    with KernelJudge(decisions_logged(ruleset.ruleset)) as judge:
        answers = [judge.judge(packet, WIRE) for packet in (*handshake(1000), udp(A, B, (1, 9)))]
        found = counted(judge)
    assert sum(answer.delivered for answer in answers) == delivered
    assert answers[-1].delivered == 0
    assert sum(answer.made for answer in answers) == 0  # nobody is answered by a staged REJECT
    assert found == expected


if __name__ == "__main__":
    (HERE / "expected-staged.json").write_text(ruleset_text(rendered(load(FILES).world).ruleset))
