# SPDX-License-Identifier: Apache-2.0
"""Rules that decide nothing: every finding, and every non-finding, is what looking at each packet gives."""

from __future__ import annotations

import json
import os
from random import Random
from typing import Any

import pytest

from dfw.documents import documents_parse
from dfw.findings import Finding
from dfw.lint import lint
from dfw.load import load_documents
from dfw.packetrules import RuleReader
from dfw.rulelint import rules_judge
from tests.support.small_policies import Expected, Small, expected_findings, packet_index, small_world, walk

POLICIES, POLICIES_LONG = 150, 20_000
LONG = bool(os.environ.get("PALISADE_LONG"))


def check(seed: int) -> Expected:
    """One small world: the findings, the rules they name, and their witnesses."""
    world, shape = small_world(Random(seed))
    small = Small(world, shape)
    judged = rules_judge(RuleReader(world, known=True))
    assert not judged.undecided
    found: Expected = {
        (item.kind, item.item.rule.path): frozenset(other.rule.path for other in item.by) for item in judged.findings
    }
    expected = expected_findings(small)
    assert found == expected, f"seed {seed}"
    places = {item.rule.path: at for at, item in enumerate(small.items)}
    whole = walk(small)
    for item in judged.findings:
        if item.witness is None:
            assert item.kind == "unreachable" and not item.by
            continue
        at, packet = places[item.item.rule.path], packet_index(item.witness, shape)
        assert small.matches[at][packet], f"seed {seed}: {item.witness} is not matched by {item.item.rule.path}"
        if item.kind == "shadowed":
            taker = small.items[int(whole.taker[at][packet])]
            assert taker.rule.action is not item.item.rule.action
    return expected


def test_findings_and_non_findings_equal_brute_force() -> None:
    counts = dict.fromkeys(("unreachable", "shadowed", "redundant", "contradicting"), 0)
    for seed in range(POLICIES_LONG if LONG else POLICIES):
        for kind, _ in check(seed):
            counts[kind] += 1
    assert min(counts.values()) >= POLICIES // 30, f"the worlds hardly show anything: {counts}"


# -- documents

KINDS = ("unreachable", "shadowed", "redundant", "contradicting", "not-decided")
INVENTORY = {
    "apiVersion": "palisade.internal/v1alpha1",
    "kind": "Inventory",
    "ports": [
        {"name": "a", "ips": ["10.0.0.1"], "tags": [{"scope": "app", "tag": "web"}]},
        {"name": "b", "ips": ["10.0.0.2"], "tags": [{"scope": "app", "tag": "db"}]},
    ],
}
TERM = {"resource_type": "Condition", "member_type": "SegmentPort", "key": "Tag", "operator": "EQUALS"}
GROUPS = [
    {"resource_type": "Group", "id": name, "expression": [{**TERM, "value": f"app|{name}"}]}
    for name in ("web", "db", "app")
]


def rule(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "action": "ALLOW", "services": ["HTTP"], **fields}


def policy(*rules: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"resource_type": "SecurityPolicy", "id": "p", "category": "Application", "rules": list(rules), **fields}


def findings(*documents: dict[str, Any], inventory: bool = True) -> list[Finding]:
    every = [*([INVENTORY] if inventory else []), *GROUPS, *documents]
    found = lint(load_documents(documents_parse("\n".join(map(json.dumps, every)).encode(), "f.json")))
    return [item for item in found if item.kind in KINDS]


def shown(found: list[Finding]) -> list[str]:
    """`kind rule: rules named`."""
    return [
        f"{item.kind} {item.rule_path.rpartition('/')[2]}: {','.join(path.rpartition('/')[2] for path in item.rules)}"
        for item in found
    ]


@pytest.mark.parametrize(
    ("above", "below", "expected"),
    [
        ({}, {}, ["redundant b: a"]),
        ({}, {"action": "DROP"}, ["shadowed b: a", "contradicting b: a"]),
        ({"action": "REJECT"}, {"action": "DROP"}, ["shadowed b: a"]),
        ({"services": ["ANY"], "action": "DROP"}, {}, ["shadowed b: a"]),
        ({}, {"services": ["ANY"]}, ["redundant a: b"]),
        ({}, {"services": ["ANY"], "action": "DROP"}, []),
        ({"services": ["HTTP", "SSH"]}, {"services": ["SSH"]}, ["redundant b: a"]),
        ({"services": ["SSH"]}, {"services": ["HTTP", "SSH"]}, ["redundant a: b"]),
        ({"source_groups": ["10.0.0.0/8"]}, {"source_groups": ["10.1.0.0/16"]}, ["redundant b: a"]),
        ({"source_groups": ["10.1.0.0/16"]}, {"source_groups": ["10.0.0.0/8"]}, ["redundant a: b"]),
        ({"source_groups": ["10.0.0.0/9", "10.128.0.0/9"]}, {"source_groups": ["10.0.0.0/8"]}, ["redundant b: a"]),
        (
            {"source_groups": ["10.0.0.0/8"], "sources_excluded": True},
            {"source_groups": ["11.0.0.0/8"]},
            ["redundant b: a"],
        ),
        ({"source_groups": ["10.0.0.0/8"], "sources_excluded": True}, {"source_groups": ["10.0.0.0/8"]}, []),
        ({"direction": "IN"}, {"direction": "IN_OUT"}, ["redundant a: b"]),
        ({"direction": "IN"}, {"direction": "OUT"}, []),
        ({"direction": "IN_OUT"}, {"direction": "OUT"}, ["redundant b: a"]),
        ({"ip_protocol": "IPV4"}, {}, ["redundant a: b"]),
        ({"ip_protocol": "IPV4"}, {"source_groups": ["10.0.0.1"]}, ["redundant b: a"]),
        ({"scope": ["web"]}, {}, ["redundant a: b"]),
        ({"scope": ["web"]}, {"scope": ["db"]}, []),
        ({"scope": ["web"]}, {"scope": ["web"]}, ["redundant b: a"]),
        ({"scope": ["web", "db"]}, {}, ["redundant b: a"]),
        ({"disabled": True}, {}, []),
        ({"source_groups": ["web"]}, {"source_groups": ["10.0.0.1"]}, ["redundant b: a"]),
        ({"services": ["ICMP-ALL"]}, {"services": ["ICMP_Echo_Request"]}, ["redundant b: a"]),
        ({"services": ["ICMP_Echo_Request"]}, {"services": ["ICMP-ALL"]}, ["redundant a: b"]),
        ({}, {"source_groups": ["10.0.0.1"], "destination_groups": ["2001:db8::1"]}, ["unreachable b: "]),
        ({}, {"services": ["ICMP-ALL"], "ip_protocol": "IPV6"}, ["unreachable b: "]),
        ({"services": ["FTP"]}, {"services": ["FTP"], "action": "DROP"}, ["shadowed b: a", "contradicting b: a"]),
    ],
)
def test_two_rules(above: dict[str, Any], below: dict[str, Any], expected: list[str]) -> None:
    assert shown(findings(policy(rule("a", **above), rule("b", **below)))) == expected


def test_several_rules_cover_one_together() -> None:
    halves = [rule("a", source_groups=["10.0.0.0/9"]), rule("b", source_groups=["10.128.0.0/9"], action="DROP")]
    (found,) = findings(policy(*halves, rule("c", source_groups=["10.0.0.0/8"])))
    assert (shown([found]), found.packet and found.packet["vnic"]) == (["shadowed c: a,b"], "a")
    assert "a and b, above it, match all of its packets together" in found.message
    ports = [rule("a", services=["HTTP"]), rule("b", services=["SSH"]), rule("c", services=["HTTP", "SSH"])]
    assert shown(findings(policy(*ports))) == ["redundant c: a,b"]


def test_stateless_and_stateful_are_not_the_same() -> None:
    documents = [policy(rule("a")), policy(rule("b"), id="q", sequence_number=1, stateful=False)]
    assert shown(findings(*documents)) == ["redundant b: a"], "it never decides, and the one above does its action"
    wider = policy(rule("b", services=["ANY"]), id="q", sequence_number=1, stateful=False)
    assert shown(findings(policy(rule("a")), wider)) == []
    lenient = policy(rule("b", services=["ANY"]), id="q", sequence_number=1, tcp_strict=False)
    assert shown(findings(policy(rule("a")), lenient)) == [], "strict is about TCP"
    assert shown(findings(policy(rule("a", services=["DNS-UDP"])), lenient)) == ["redundant a: b"]


def test_the_default_section_counts_where_a_document_has_it() -> None:
    rules = policy(rule("a", action="DROP"))
    section = {
        "resource_type": "SecurityPolicy",
        "id": "default-layer3-section",
        "rules": [{"id": "default-layer3-rule", "action": "DROP"}],
    }
    assert shown(findings(rules)) == []
    assert shown(findings(rules, section)) == ["redundant a: ingress,egress"]


def test_a_rule_that_keeps_another_from_deciding_is_not_redundant() -> None:
    """Without `a`, `b` would allow what the default section drops as `a` does."""
    section = {
        "resource_type": "SecurityPolicy",
        "id": "default-layer3-section",
        "rules": [{"id": "default-layer3-rule", "action": "DROP"}],
    }
    found = findings(section, policy(rule("a", action="DROP"), rule("b")))
    assert shown(found) == ["shadowed b: a", "contradicting b: a"]


def test_a_tier_that_always_decides() -> None:
    wall = policy(rule("wall", services=["ANY"], action="DROP"), category="Emergency", id="e")
    assert shown(findings(wall, policy(rule("a")))) == ["unreachable a: wall"]
    inside = policy(rule("wall", services=["ANY"], action="DROP", scope=["web"]), category="Emergency", id="e")
    assert shown(findings(inside, policy(rule("a"), rule("b", scope=["web"])))) == ["unreachable b: wall"]


def test_rules_that_leave_their_tier() -> None:
    jump = {"action": "JUMP_TO_APPLICATION"}
    environment = policy(rule("a", **jump), rule("b"), category="Environment")
    assert shown(findings(environment)) == ["shadowed b: a"]
    decided = policy(rule("c", action="DROP"), id="q")
    assert shown(findings(policy(rule("a", **jump), category="Environment"), decided)) == ["redundant a: c"]
    needed = policy(rule("a", **jump), rule("b", services=["ANY"], action="DROP"), category="Environment")
    assert shown(findings(needed, decided)) == ["redundant a: b"], "b drops it as c does"
    assert shown(findings(needed, policy(rule("c"), id="q"))) == []


@pytest.mark.parametrize(
    ("above", "below", "expected"),
    [
        ({"source_groups": ["web"]}, {"source_groups": ["web"]}, ["redundant b: a"]),
        ({"source_groups": ["web"]}, {"source_groups": ["db"]}, []),
        ({"source_groups": ["web", "db"]}, {"source_groups": ["db"]}, ["redundant b: a"]),
        ({"source_groups": ["web"], "sources_excluded": True}, {"source_groups": ["db"]}, []),
        ({"source_groups": ["web"], "sources_excluded": True}, {"source_groups": ["web"], "action": "DROP"}, []),
        ({"source_groups": ["web"]}, {"source_groups": ["10.0.0.1"]}, []),
        ({"scope": ["web"]}, {"scope": ["web", "db"]}, ["redundant a: b"]),
        ({"scope": ["web"], "action": "DROP"}, {"scope": ["db"]}, []),
    ],
)
def test_groups_that_nobody_can_resolve_here(above: dict[str, Any], below: dict[str, Any], expected: list[str]) -> None:
    """Without an inventory: what holds whoever the members are."""
    found = findings(policy(rule("a", **above), rule("b", **below)), inventory=False)
    assert shown(found) == expected
    for item in found:
        assert ("a member of" in item.witness) is (item.packet is None)


def test_three_groups_together_need_an_inventory_to_be_empty() -> None:
    """All but web, all but db and all but app leave what is a member of all three."""
    rules = [rule(name, source_groups=[name], sources_excluded=True) for name in ("web", "db", "app")]
    assert shown(findings(policy(*rules, rule("rest", action="DROP")), inventory=False)) == []
    known = ["redundant app: web,db", "shadowed rest: web,db", "contradicting rest: app"]
    assert shown(findings(policy(*rules, rule("rest", action="DROP")))) == known


def test_a_network_policys_isolation_is_nobodys_rule() -> None:
    manifest = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "open", "namespace": "x"},
        "spec": {"podSelector": {}, "ingress": [{}]},
    }
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": "x"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
        "status": {"podIP": "10.0.0.9"},
    }
    assert shown(findings(manifest, pod)) == []


def test_what_takes_too_much_work_is_named_and_not_guessed() -> None:
    world, _ = small_world(Random(1))
    reader = RuleReader(world, known=True)
    whole = rules_judge(reader)
    none = rules_judge(reader, rule_work=1)
    assert not none.findings
    assert {item.rule.path for item in none.undecided} >= {item.item.rule.path for item in whole.findings}
    some = rules_judge(reader, whole_work=40)
    decided = {(item.kind, item.item.rule.path) for item in whole.findings}
    assert {(item.kind, item.item.rule.path) for item in some.findings} <= decided
    assert some.undecided
