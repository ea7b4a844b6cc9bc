# SPDX-License-Identifier: Apache-2.0
"""A whole host's rule sets: many vNICs with the same rules, NSX's maxima, memory given back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dfw.bench.groupgen import datacenter_generate
from dfw.bench.rulegen import rules_generate, trace_generate
from dfw.classbench import RuleTable, rule_table
from dfw.layout import NO_MATCH, RANGE_DTYPE, addresses_v4
from tests.support.brute import first_matches as brute_matches

core = pytest.importorskip("dfw.core", reason="the packet core is not built")

VNICS, RULES_A_VNIC, RULES_A_HOST = 200, 4000, 120_000  # NSX's configuration maxima: rules a vNIC, rules a host


def put_sets(classifier: Any, table: RuleTable, first: int) -> np.ndarray:
    """The table's sets under numbers from `first` on; its references to them."""
    for number, ranges in enumerate(table.sets):
        classifier.put_set(first + number, ranges)
    return (table.refs + np.uint32(first)).astype(np.uint32)


def test_vnics_with_the_same_rules_cost_what_one_costs() -> None:
    table = datacenter_generate(RULES_A_VNIC, 3)
    classifier = core.Classifier()
    refs = put_sets(classifier, table, 0)
    first = classifier.build(table.rules, refs)
    one = classifier.bytes
    others = [classifier.build(table.rules, refs) for _ in range(VNICS - 1)]
    assert classifier.bytes <= 1.2 * one
    assert {ruleset.handle for ruleset in others} == {first.handle}
    changed = table.rules[7:8].copy()
    changed["dport_lo"], changed["dport_hi"] = 12345, 12346
    of_its_own = others[0].replace(7, changed, refs)
    assert of_its_own.handle != first.handle
    assert classifier.bytes <= 1.5 * one, "a vNIC that differs in one rule shares the rest"
    keys = trace_generate(table, 2000, 4)
    assert np.array_equal(others[5].lookup(keys), first.lookup(keys))


def test_a_further_filter_holds_the_rule_set_by_itself() -> None:
    table = datacenter_generate(RULES_A_VNIC, 5)
    classifier = core.Classifier()
    first = classifier.build(table.rules, put_sets(classifier, table, 0))
    before = classifier.bytes
    second = first.shared()
    keys = trace_generate(table, 500, 6)
    wanted = first.lookup(keys)
    first.release()
    assert classifier.bytes == before
    assert np.array_equal(second.lookup(keys), wanted)
    second.release()
    assert classifier.bytes < before


def one_after_the_other(table: RuleTable) -> tuple[np.ndarray, np.ndarray]:
    """The same rules with a list of sets for each, in their order."""
    rules, refs = table.rules.copy(), list[int]()
    for rule in rules:
        for side in ("src", "dst"):
            off, count = int(rule[f"{side}_off"]), int(rule[f"{side}_n"])
            rule[f"{side}_off"] = len(refs)
            refs += table.refs[off : off + count].tolist()
    return rules, np.array(refs, np.uint32)


def test_rules_are_the_same_wherever_their_lists_of_sets_stand() -> None:
    table = datacenter_generate(300, 7)
    classifier = core.Classifier()
    refs = put_sets(classifier, table, 0)
    first = classifier.build(table.rules, refs)
    rules, apart = one_after_the_other(table)
    assert len(apart) > len(refs), "lists are shared in the table as it was made"
    assert classifier.build(rules, apart).handle == first.handle
    longer = np.concatenate([apart, apart[:3]])
    assert classifier.build(rules, longer).handle == first.handle
    for at in range(0, len(apart), 7):
        other = apart.copy()
        other[at] = (other[at] + 1) % len(table.sets)
        assert classifier.build(rules, other).handle != first.handle
    moved = rules.copy()
    at = next(i for i, rule in enumerate(rules) if rule["src_n"] > 1)
    moved["src_n"][at] -= 1
    moved["dst_off"][at] -= 1
    moved["dst_n"][at] += 1
    assert classifier.build(moved, apart).handle != first.handle, "one set is the destination's now"


def test_a_host_with_as_many_rules_as_nsx_allows() -> None:
    """120,000 rules in rule sets of 4,000, half of IPv6, each with groups of its own."""
    classifier = core.Classifier()
    tables, rulesets, at = [], [], 0
    for number in range(RULES_A_HOST // RULES_A_VNIC):
        table = datacenter_generate(RULES_A_VNIC, number, family=1 + number % 2)
        tables.append(table)
        rulesets.append(classifier.build(table.rules, put_sets(classifier, table, at)))
        at += len(table.sets)
    assert sum(len(table.rules) for table in tables) == RULES_A_HOST
    assert classifier.bytes < 256 * 2**20
    for number in (0, 1, len(tables) - 1):
        keys = trace_generate(tables[number], 600, number)
        wanted = brute_matches(tables[number], keys)
        found = rulesets[number].lookup(keys).astype(np.int64)
        assert (wanted >= 0).any()
        assert np.array_equal(np.where(found == NO_MATCH, -1, found), wanted)


def test_nested_sets_put_at_once_leave_nothing_of_the_way_there() -> None:
    """Each set changes the class of every interval inside: the classes in between are used again, not kept."""
    classifier = core.Classifier()
    empty = classifier.bytes
    for number in range(1200):
        ranges = np.zeros(1, RANGE_DTYPE)
        ranges["lo"] = addresses_v4(np.array([0x0A000000 + number], np.uint64))
        ranges["hi"] = addresses_v4(np.array([0x0AFFFFFF - number], np.uint64))
        ranges["family"] = 1
        classifier.put_set(number, ranges)
    classifier.commit()
    assert classifier.bytes - empty < 16 * 2**20


def test_what_changes_keep_for_each_other_is_bounded_and_goes_with_the_next_build() -> None:
    table = rule_table(rules_generate("fw", 10_000, 3))
    classifier = core.Classifier()
    ruleset = classifier.build(table.rules, put_sets(classifier, table, 0))
    before = classifier.bytes
    versions = []  # all in use at once: when they go, there is far more than may be kept
    for at in range(0, 10_000, 500):
        changed = table.rules[at : at + 1].copy()
        changed["dport_lo"], changed["dport_hi"] = at, at + 1 + at % 7  # versions of different sizes
        versions.append(ruleset.replace(at, changed, table.refs))
    assert classifier.bytes > before + 30 * 2**20
    for version in versions:
        version.release()
    assert before < classifier.bytes <= before + 10 * 2**20  # 8 of them kept
    ruleset.release()
    few = rule_table(rules_generate("acl", 10, 3))
    kept = classifier.build(few.rules, put_sets(classifier, few, 1 << 20))
    assert classifier.bytes < before
    kept.release()
