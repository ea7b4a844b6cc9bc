# SPDX-License-Identifier: Apache-2.0
"""Transactions by netlink itself: rules stand in the kernel byte by byte as libnftables puts them there, and what is
refused changes nothing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings

from dfw.load import load
from dfw.model import FloodLimits, PolicySet, Timers
from dfw.nftables import Ruleset, plan_update, ruleset_sorted
from dfw.nftables import load as kernel
from dfw.nftables.attributes import attributes_read, text_make
from dfw.nftables.batch import INET, update_messages
from dfw.nftables.bytecode import rule_encode
from dfw.nftables.namespace import PrivateNamespace
from dfw.nftables.netlink import DONE, DUMP, NetfilterSocket
from dfw.nftables.ruleset import Chain, ChainRule, ElementSet, Helper, Hook, VerdictMap
from tests.conftest import LONG
from tests.support.random_policies import worlds
from tests.unit.test_nftables import HERE, in_kernel, namespace, rendered  # noqa: F401 (a fixture)

_GET_RULE, _OURS = 7, 10 << 8


class RuleReader(NetfilterSocket):
    """Reads rules as the kernel has them."""

    def rules(self, family: int = INET) -> dict[str, list[tuple[bytes, bytes]]]:
        """Expressions and user data of each rule of the table, by chain."""
        found: dict[str, list[tuple[bytes, bytes]]] = {}
        asked = self.ask(_OURS | _GET_RULE, DUMP, text_make(1, "palisade"), family)
        while True:
            for kind, body in asked:
                if kind == DONE:
                    return found
                values = dict(attributes_read(body[4:]))
                chain = values[2].rstrip(b"\0").decode()
                found.setdefault(chain, []).append((values.get(4, b""), values.get(7, b"")))
            asked = self.answers()


def rules_in(inside: PrivateNamespace) -> dict[str, list[tuple[bytes, bytes]]]:
    reader = inside.run(RuleReader)
    try:
        return reader.rules()
    finally:
        reader.close()


def assert_the_same(ruleset: Ruleset) -> None:
    """Every chain of a vNIC's table, by us and by libnftables."""
    own = {chain.name for chain in ruleset.chains if chain.name.startswith(("table", "staged-table"))}
    others = tuple(chain for chain in ruleset.chains if chain.name not in own)
    less = replace(ruleset, chains=others, maps=tuple(VerdictMap(item.name, item.chains[:1]) for item in ruleset.maps))
    with PrivateNamespace() as inside, PrivateNamespace() as other:
        other.run(lambda: kernel.apply_ruleset(ruleset))
        with inside.run(lambda: kernel.RulesetLink("palisade")) as link:
            link.apply(
                replace(
                    less,
                    sets=(),
                    counters=tuple(name for name in less.counters if not re.fullmatch(r"(staged-)?rule\d+", name)),
                )
            )
            update = plan_update(replace(less, sets=(), counters=link.read().counters), ruleset)
            assert bool(update_messages(update)) is bool(own)  # none of it is left to libnftables
            link.update(update)
        ours, theirs = (
            {name: rules for name, rules in rules_in(where).items() if name in own} for where in (inside, other)
        )
        assert ours == theirs and (ours or not own)


@in_kernel
def test_rules_of_the_golden_ruleset_are_those_of_libnftables() -> None:
    assert_the_same(rendered(load([str(HERE / "in.yaml")]).world))


@in_kernel
@given(worlds())
@settings(max_examples=200 if LONG else 8)
def test_rules_of_drawn_policies_are_those_of_libnftables(world: PolicySet) -> None:
    assert_the_same(
        rendered(replace(world, timers=Timers(), timer_bindings=(), flood=FloodLimits(), flood_bindings=()))
    )


WRONG = (
    {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "ttl"}}, "right": 1}},
    {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": {"set": [1, 2]}}},
    {"match": {"op": "!=", "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, 3]}, "right": 1}},
    {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "new"}},
    {"log": {"prefix": "x", "group": 1, "snaplen": 5}},
    {"counter": {"packets": 0, "bytes": 0}},
    {"masquerade": None},
)


@pytest.mark.parametrize("expression", WRONG, ids=str)
def test_what_no_vnics_table_has_is_left_to_libnftables(expression: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^a (match|field|statement) "):
        rule_encode([expression])


@in_kernel
def test_helpers_and_base_chains_come_by_libnftables(namespace: PrivateNamespace) -> None:  # noqa: F811
    helper = Helper("ftp", "ftp", "tcp")
    rule = ChainRule(({"ct helper": "ftp"}, {"accept": None}), "why")
    old, new = Ruleset("palisade"), Ruleset("palisade", chains=(Chain("c", (rule,)),), helpers=(helper,))
    update = plan_update(old, new)
    with pytest.raises(ValueError, match="add ct helper"):
        update_messages(update)
    with namespace.run(lambda: kernel.RulesetLink("palisade")) as link:
        link.apply(old)
        link.update(update)
        assert link.read() == new


@in_kernel
def test_a_transaction_that_is_refused_changes_nothing(namespace: PrivateNamespace) -> None:  # noqa: F811
    ports = ElementSet("p", None, ((80, 90),))
    chains = (Chain("end", (ChainRule(({"drop": None},)),)), Chain("c", (ChainRule(({"goto": {"target": "end"}},)),)))
    base = Chain("b", (ChainRule(({"jump": {"target": "c"}},)),), Hook("forward", 0, "accept"))
    have = Ruleset("palisade", (ports,), (VerdictMap("m", ((1, "c"),)),), ("n",), (*chains, base))
    with namespace.run(lambda: kernel.RulesetLink("palisade")) as link:
        link.apply(have)
        # In the middle of the transaction, something refers to what is not there; at its end, there is a loop.
        for wrong in ({"counter": "none"}, {"jump": {"target": "c"}}):
            changed = replace(have, chains=(chains[0], Chain("c", (ChainRule((wrong,)),)), base))
            with pytest.raises(kernel.LoadError, match="nftables refused the change"):
                link.update(plan_update(have, replace(changed, counters=("n", "m"))))
            assert ruleset_sorted(link.read()) == ruleset_sorted(have)
        # And the socket is still good.
        more = replace(have, counters=("n", "m"), maps=(VerdictMap("m", ((1, "end"), (2, "c"))),))
        link.update(plan_update(have, more))
        assert ruleset_sorted(link.read()) == ruleset_sorted(more)
