# SPDX-License-Identifier: Apache-2.0
"""The enforcer nftables: its exact text; loaded and read back it is the same; what it refuses, and with which words.

Rulesets are loaded into a network namespace of the test's own.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dfw.compile import compile_policy
from dfw.errors import EnvironmentLacksError, UnsupportedError
from dfw.load import load
from dfw.model import Action, Alg, Family, FloodLimits, PolicySet, PortRange, ServiceEntry, Timers
from dfw.nftables import (
    Ruleset,
    plan_update,
    refuse_unsupported,
    render_ruleset,
    render_wire,
    ruleset_parse,
    ruleset_sorted,
    ruleset_text,
)
from dfw.nftables import load as kernel
from dfw.nftables.entry import entries_joined, ranges_merged
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.ruleset import Chain, ChainRule, ElementSet, Hook
from tests.conftest import LONG
from tests.support.oracle_bench import TCP, policies, rule
from tests.support.random_policies import worlds

HERE = Path(__file__).parent / "golden" / "nftables"
CORPUS = sorted((Path(__file__).parent.parent / "golden").glob("[0-9]*"))


def in_kernel(test: Callable[..., None]) -> Callable[..., None]:
    """The marks of a test that loads a ruleset."""
    for mark in (pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tool("nft")):
        test = mark(test)
    return test


@pytest.fixture
def namespace() -> Iterator[PrivateNamespace]:
    """An empty network namespace."""
    with PrivateNamespace() as found:
        yield found


def rendered(world: PolicySet, *, tap: bool = False, zones: dict[str, int] | None = None) -> Ruleset:
    refuse_unsupported(world)
    compiled = compile_policy(world)
    if tap:
        return render_wire(compiled.rules, compiled.sets, compiled.tap).ruleset
    return render_ruleset(compiled, [port.name for port in world.inventory], zones=zones).ruleset


def read_back(namespace: PrivateNamespace, ruleset: Ruleset) -> Ruleset:
    namespace.run(lambda: kernel.apply_ruleset(ruleset))
    return namespace.run(lambda: kernel.read_ruleset(ruleset.table))


# The text


def test_the_text_of_a_ruleset() -> None:
    # To write it anew: PYTHONPATH=. python -m tests.unit.test_nftables
    assert ruleset_text(rendered(load([str(HERE / "in.yaml")]).world)) == (HERE / "expected.json").read_text()


def test_counters_name_the_rules_of_the_policy() -> None:
    world = load([str(HERE / "in.yaml")]).world
    found = render_ruleset(compile_policy(world), [port.name for port in world.inventory])
    assert set(found.rule_of) < set(found.ruleset.counters)
    paths = [item.path for item in found.rule_of.values()]
    assert "/infra/domains/default/security-policies/shop/rules/sql" in paths and len(set(paths)) == len(paths)
    used = json.dumps([chain_rule.expressions for chain in found.ruleset.chains for chain_rule in chain.rules])
    assert all(f'{{"counter": "{name}"}}' in used for name in found.rule_of)


def test_ports_are_put_together_where_they_are_a_product() -> None:
    ports = tuple(PortRange(*ends) for ends in ((80, 80), (81, 90), (443, 443)))
    entry = ServiceEntry(protocol=TCP, source_ports=(PortRange(1, 1), PortRange(3, 4)), destination_ports=ports)
    compiled = compile_policy(policies(rule("a", Action.ALLOW, entry)))
    (first, *_) = entries_joined(compiled.tap)
    assert (first.source_ports, first.destination_ports) == (((1, 1), (3, 4)), ((80, 90), (443, 443)))
    assert ranges_merged([(5, 9), (1, 4), (7, 8), (11, 11)]) == ((1, 9), (11, 11))


# Loaded and read back


@in_kernel
def test_loaded_and_read_back_the_golden_ruleset_is_the_same(namespace: PrivateNamespace) -> None:
    ruleset = rendered(load([str(HERE / "in.yaml")]).world, zones={"br-a": 1, "br-b": 2})
    assert ruleset_sorted(read_back(namespace, ruleset)) == ruleset_sorted(ruleset)


@in_kernel
def test_loaded_and_read_back_the_corpus_is_the_same(namespace: PrivateNamespace) -> None:
    known, refused = 0, 0
    for case in CORPUS:
        world = load(sorted(map(str, case.glob("in*")))).world
        try:
            refuse_unsupported(world)
        except UnsupportedError:
            refused += 1
            continue
        for ruleset in (rendered(world, tap=True), rendered(world))[0 if LONG else known % 2 :][: 2 if LONG else 1]:
            assert ruleset_sorted(read_back(namespace, ruleset)) == ruleset_sorted(ruleset), case.name
        known += 1
    assert known >= 20 and refused <= 6


@in_kernel
@given(worlds(), st.booleans())
@settings(max_examples=300 if LONG else 10)
def test_loaded_and_read_back_drawn_policies_are_the_same(world: PolicySet, tap: bool) -> None:
    plain = replace(world, timer_bindings=(), flood=FloodLimits(), flood_bindings=())
    ruleset = rendered(plain, tap=tap)
    with PrivateNamespace() as namespace:
        assert ruleset_sorted(read_back(namespace, ruleset)) == ruleset_sorted(ruleset)


@in_kernel
def test_loaded_and_read_back_sets_are_the_same(namespace: PrivateNamespace) -> None:
    draw = random.Random("sets")
    sets = []
    for number in range(60):
        family = draw.choice(list(Family))
        top = (1 << family.bits) - 1
        ends = sorted(
            {draw.choice((0, 1, 255, top, draw.getrandbits(family.bits), draw.getrandbits(8))) for _ in range(9)}
        )
        pairs = list(zip(ends[::2], ends[1::2], strict=False))
        ranges = [(first, last - 1) for first, last in pairs] if number % 3 else [(end, end) for end in ends]
        if number % 3 == 2:
            size = 1 << draw.randrange(1, 20)
            ranges = [(size * 7, size * 8 - 1), (size * 9, size * 9)]
        sets.append(ElementSet(f"set{number}", family, tuple(ranges)))
    whole = [ElementSet(f"all-{family}", family, ((0, (1 << family.bits) - 1),)) for family in Family]
    ruleset = Ruleset("palisade", sets=(*sets, *whole, ElementSet("none", Family.IPV4, ())))
    assert ruleset_sorted(read_back(namespace, ruleset)) == ruleset_sorted(ruleset)


@in_kernel
def test_a_refused_ruleset_changes_nothing(namespace: PrivateNamespace) -> None:
    good = Ruleset("palisade", chains=(Chain("a", (ChainRule(({"accept": None},), "first"),)),))
    bad = Ruleset("palisade", chains=(Chain("a", (ChainRule(({"goto": {"target": "nowhere"}},)),)),))
    assert read_back(namespace, good) == good
    with pytest.raises(kernel.LoadError, match=r"^nftables refused the ruleset: .*No such file or directory$"):
        namespace.run(lambda: kernel.apply_ruleset(bad))
    assert namespace.run(lambda: kernel.read_ruleset("palisade")) == good
    with namespace.run(lambda: kernel.RulesetLink("palisade")) as link:
        link.delete()
        link.delete()
    with pytest.raises(kernel.LoadError, match="No such file or directory"):
        namespace.run(lambda: kernel.read_ruleset("palisade"))


@in_kernel
def test_another_table_and_another_namespace_are_left_alone(namespace: PrivateNamespace) -> None:
    other = Ruleset("other", chains=(Chain("a", (), Hook("forward", 5, "accept")),))
    mine = Ruleset("palisade", chains=(Chain("a", ()),))
    with PrivateNamespace() as second:
        assert read_back(namespace, other) == other and read_back(namespace, mine) == mine
        assert namespace.run(lambda: kernel.read_ruleset("other")) == other
        with pytest.raises(kernel.LoadError):
            second.run(lambda: kernel.read_ruleset("palisade"))
    with pytest.raises(kernel.LoadError):
        PrivateNamespace().run(lambda: kernel.read_ruleset("palisade"))


@in_kernel
def test_without_the_binding_the_command_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """And without the command the binding."""
    whole = rendered(load([str(HERE / "in.yaml")]).world)
    more = replace(whole, counters=(*whole.counters, "more"))
    bad = replace(whole, chains=(*whole.chains, Chain("bad", (ChainRule(({"counter": "none"},)),))))
    text = "table inet other { chain c { counter accept; }; }\n"
    found = []
    for without in ("nothing", "binding", "command"):
        with monkeypatch.context() as patched, PrivateNamespace() as inside:
            if without == "binding":
                patched.setattr(kernel, "_binding", lambda: None)
            elif without == "command":
                pytest.importorskip("nftables", reason="needs python3-nftables")
                patched.setenv("PATH", "/nowhere")
            with inside.run(lambda: kernel.RulesetLink("palisade")) as link:
                link.apply(whole)
                link.update(plan_update(whole, more))
                with pytest.raises(
                    kernel.LoadError, match=r"^nftables refused the ruleset: .*No such file or directory"
                ):
                    link.apply(bad)
                link.check(text)
                assert link.other_read("inet", "other") is None
                link.run(text)
                with pytest.raises(kernel.LoadError, match=r"^nftables refused the ruleset: .*rror"):
                    link.run("no words of nft")
                found.append((ruleset_sorted(link.read()), link.other_read("inet", "other"), set(link.counters())))
    assert found == [found[0]] * 3 and found[0][0] == ruleset_sorted(more)


def test_without_nft_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_binding", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(EnvironmentLacksError, match="no command nft"):
        kernel.apply_ruleset(Ruleset("palisade"))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"nftables": 5}', '{"nftables": [{"set": {"table": "t"}}]}'])
def test_what_is_no_list_of_a_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a list of nftables objects"):
        ruleset_parse(text, "t")


def test_what_we_never_make_is_refused() -> None:
    strange = {"nftables": [{"flowtable": {"family": "inet", "table": "t", "name": "f"}}]}
    with pytest.raises(ValueError, match="the table t has a flowtable, which we never make"):
        ruleset_parse(json.dumps(strange), "t")


# What is refused

_ENTRY = ServiceEntry(protocol=TCP, destination_ports=(PortRange(111, 111),), alg=Alg.SUN_RPC_TCP)
_RPC = rule("rpc", Action.ALLOW, _ENTRY)


@pytest.mark.parametrize(
    ("world", "words"),
    [
        (policies(_RPC), "the ALG SUN_RPC_TCP (rule /p/rules/rpc)"),
        (policies(timers=Timers(udp_single=12)), "session timers other than the default"),
        (replace(policies(), flood=FloodLimits(udp_active=5)), "flood protection"),
    ],
)
def test_what_is_refused_and_how(world: PolicySet, words: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        refuse_unsupported(world)
    assert str(caught.value).startswith(f"the enforcer nftables does not support {words}")


def test_a_disabled_rule_is_not_refused() -> None:
    refuse_unsupported(policies(replace(_RPC, disabled=True)))


if __name__ == "__main__":
    (HERE / "expected.json").write_text(ruleset_text(rendered(load([str(HERE / "in.yaml")]).world)))
