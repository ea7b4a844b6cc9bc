# SPDX-License-Identifier: Apache-2.0
"""The NSX front end: what documents mean. What they compile to is in tests/golden."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfw.catalogue import catalogue_find, catalogue_ids
from dfw.documents import documents_parse
from dfw.errors import PolicyError
from dfw.load import Loaded, load_documents
from dfw.model import (
    Action,
    Alg,
    Direction,
    Family,
    PortRange,
    Rule,
    ServiceEntry,
    Tag,
    Tier,
    Timers,
    address_parse,
    rules_for,
    rules_for_tap,
)
from dfw.model.selector import Operator, tag_matches
from dfw.nsx.security_policy import RULE

INVENTORY = {
    "apiVersion": "palisade.internal/v1alpha1",
    "kind": "Inventory",
    "segments": [{"name": "lan", "subnets": ["10.0.0.0/24"]}],
    "machines": [{"name": "m", "tags": [{"scope": "os", "tag": "Linux"}]}],
    "ports": [
        {"name": "a", "ips": ["10.0.0.1"], "machine": "m", "tags": [{"scope": "App", "tag": "Web"}]},
        {"name": "b", "ips": ["10.0.0.2"], "machine": "m", "tags": [{"scope": "", "tag": "lone"}]},
        {"name": "c", "ips": ["10.0.0.3"], "labels": {"App": "Web"}},
    ],
}


def loaded(*documents: Mapping[str, Any]) -> Loaded:
    return load_documents(documents_parse("\n".join(map(json.dumps, documents)).encode(), "f.json"))


def policy(*rules: Mapping[str, Any], **fields: Any) -> dict[str, Any]:
    return {"resource_type": "SecurityPolicy", "id": "p", "category": "Application", "rules": list(rules), **fields}


def rule(**fields: Any) -> dict[str, Any]:
    return {"id": "r", "action": "ALLOW", **fields}


def only_rule(*documents: Mapping[str, Any]) -> Rule:
    (found,) = loaded(*documents).world.policies
    (only,) = found.rules
    return only


def group(name: str, *expression: Mapping[str, Any]) -> dict[str, Any]:
    return {"resource_type": "Group", "id": name, "expression": list(expression)}


def condition(value: str, member: str = "VirtualMachine", operator: str = "EQUALS", key: str = "Tag") -> dict[str, Any]:
    return {"resource_type": "Condition", "member_type": member, "key": key, "operator": operator, "value": value}


def members(*documents: Mapping[str, Any], name: str = "g") -> set[str]:
    world = loaded(INVENTORY, *documents).world
    path = f"/infra/domains/default/groups/{name}"
    return {port.name for port in world.inventory if world.group_selects(path, port)}


def refusals(*documents: Mapping[str, Any]) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        loaded(*documents)
    return [f"{problem.place.path}: {problem.message}" for problem in caught.value.problems]


# -- groups


def test_machine_tags_are_its_own_and_those_of_its_ports() -> None:
    assert members(group("g", condition("app|web"))) == {"a", "b"}
    assert members(group("g", condition("os|linux"))) == {"a", "b"}
    assert members(group("g", condition("app|web", "SegmentPort"))) == {"a"}


def test_labels_are_never_matched_as_tags() -> None:
    assert "c" not in members(group("g", condition("App|Web", "SegmentPort")))


@pytest.mark.parametrize(
    ("value", "operator", "differs", "tag", "matches"),
    [
        ("app|web", "EQUALS", False, Tag("APP", "WEB"), True),
        ("app|web", "EQUALS", False, Tag("app", "web2"), False),
        ("app|web", "EQUALS", False, Tag("", "web"), False),
        ("|web", "EQUALS", False, Tag("anything", "Web"), True),
        ("web", "EQUALS", False, Tag("anything", "Web"), True),
        ("app|", "EQUALS", False, Tag("app", "anything"), True),
        ("app|", "EQUALS", False, Tag("app", ""), True),
        ("app|", "EQUALS", False, Tag("other", ""), False),
        ("app|we", "STARTSWITH", False, Tag("app", "Web"), True),
        ("app|EB", "ENDSWITH", False, Tag("app", "Web"), True),
        ("app|e", "CONTAINS", False, Tag("app", "Web"), True),
        ("app|db, web", "IN", False, Tag("app", "web"), True),
        ("app|db,webs", "IN", False, Tag("app", "web"), False),
        ("app|web", "EQUALS", True, Tag("other", "web"), True),
        ("app|web", "EQUALS", True, Tag("app", "web"), False),
        ("straße|ß", "EQUALS", False, Tag("STRASSE", "SS"), True),
        ("a|b|c", "EQUALS", False, Tag("a", "b|c"), True),
    ],
)
def test_tag_matching(value: str, operator: str, differs: bool, tag: Tag, matches: bool) -> None:
    assert tag_matches(tag, Operator(operator), value, differs) is matches


def test_negative_operators_are_complements() -> None:
    everyone = {"a", "b", "c"}
    for negative, positive in (("NOTEQUALS", "EQUALS"), ("NOTIN", "IN")):
        for value in ("app|web", "os|", "|lone", "nothing"):
            found = members(group("g", condition(value, operator=negative)))
            assert found == everyone - members(group("g", condition(value, operator=positive)))


def test_and_binds_closer_than_or() -> None:
    both = {"resource_type": "ConjunctionOperator", "conjunction_operator": "AND"}
    either = {"resource_type": "ConjunctionOperator", "conjunction_operator": "OR"}
    port = "SegmentPort"
    terms = [
        condition("c", port, key="Name"),
        either,
        condition("app|web", port),
        both,
        condition("a", port, key="Name"),
    ]
    assert members(group("g", *terms)) == {"a", "c"}
    terms[4] = condition("b", port, key="Name")
    assert members(group("g", *terms)) == {"c"}


def test_addresses_make_no_member_but_are_matched() -> None:
    addresses = {"resource_type": "IPAddressExpression", "ip_addresses": ["10.0.0.3", "192.0.2.0/24"]}
    world = loaded(INVENTORY, group("g", addresses), policy(rule(source_groups=["g"]))).world
    (only,) = world.policies[0].rules
    assert not world.members(only.sources)
    for text, inside in (("10.0.0.3", True), ("192.0.2.255", True), ("192.0.3.0", False), ("::", False)):
        assert world.contains(only.sources, address_parse(text)) is inside


def test_groups_nested_in_many_ways_cost_no_more_than_once() -> None:
    documents = [group("g0", condition("app|web"))]
    for number in range(1, 30):
        below = f"g{number - 1}"
        paths = {"resource_type": "PathExpression", "paths": [below, below]}
        documents.append(
            group(f"g{number}", paths, {"resource_type": "ConjunctionOperator", "conjunction_operator": "OR"}, paths)
        )
    assert members(*documents, name="g29") == {"a", "b"}


def test_nesting_is_bounded() -> None:
    documents = [group("g0", condition("app|web"))]
    for number in range(1, 5000):
        documents.append(group(f"g{number}", {"resource_type": "PathExpression", "paths": [f"g{number - 1}"]}))
    assert "levels deep" in refusals(*documents)[0]


def test_forward_references_and_paths() -> None:
    path = "/infra/domains/prod/groups/web"
    there = {**group("web", condition("app|web")), "path": path}
    for name in ("web", path):
        found = only_rule(policy(rule(source_groups=[name])), there)
        assert [getattr(term, "path", None) for term in found.sources.terms or ()] == [path]
    both = [there, {**group("web"), "path": "/infra/domains/test/groups/web"}]
    assert "could be" in refusals(policy(rule(source_groups=["web"])), *both)[0]
    assert only_rule(policy(rule(source_groups=["web"])), *both, group("web")).sources.terms is not None


# -- services


def test_catalogue() -> None:
    ids = list(catalogue_ids())
    assert len(ids) >= 80
    services = [catalogue_find(name) for name in ids]
    assert all(service is not None and service.entries for service in services)
    ftp = ServiceEntry(protocol=6, destination_ports=(PortRange(21, 21),), alg=Alg.FTP)
    assert getattr(catalogue_find("/infra/services/FTP"), "entries", None) == (ftp,)
    assert catalogue_find("ICMP ALL") == catalogue_find("ICMP-ALL")
    assert catalogue_find("http") is None


@pytest.mark.parametrize(
    ("name", "family", "protocol", "port", "matches"),
    [
        ("MySQL", 1, 6, 3306, True),
        ("MySQL", 2, 6, 3306, True),
        ("MySQL", 1, 17, 3306, False),
        ("DNS", 1, 17, 53, True),
        ("DNS", 1, 6, 53, True),
        ("DNS-UDP", 1, 6, 53, False),
        ("VNC", 1, 6, 5999, True),
        ("VNC", 1, 6, 6000, False),
        ("TCP-ALL", 1, 6, 1, True),
        ("SCTP-ALL", 1, 132, 9, True),
        ("GRE", 1, 47, 0, True),
    ],
)
def test_catalogue_services_match(name: str, family: int, protocol: int, port: int, matches: bool) -> None:
    service = catalogue_find(name)
    assert service is not None
    assert any(entry.matches(Family(family), protocol, 4000, port) for entry in service.entries) is matches


def test_icmp_entries_match_type_and_code_in_their_family() -> None:
    service = catalogue_find("ICMP_Echo_Request")
    assert service is not None
    (entry,) = service.entries
    assert entry.matches(Family.IPV4, 1, 8, 0)
    assert not entry.matches(Family.IPV4, 1, 0, 0)
    assert not entry.matches(Family.IPV6, 1, 8, 0)


def test_tcp_flags() -> None:
    syn_only = ServiceEntry(protocol=6, tcp_mask=0x12, tcp_value=0x02)
    assert syn_only.matches(Family.IPV4, 6, 1, 2, 0x02)
    assert not syn_only.matches(Family.IPV4, 6, 1, 2, 0x12)


def test_a_document_may_replace_a_built_in_service() -> None:
    entry = {"resource_type": "L4PortSetServiceEntry", "l4_protocol": "TCP", "destination_ports": ["8081"]}
    mine = {"resource_type": "Service", "id": "HTTP", "service_entries": [entry]}
    found = loaded(mine, policy(rule(services=["HTTP"])))
    assert found.world.policies[0].rules[0].services[0].entries[0].destination_ports == (PortRange(8081, 8081),)
    assert [finding.kind for finding in found.findings] == ["hides-built-in"]


# -- policies and rules


def test_defaults() -> None:
    found = only_rule(policy(rule()))
    assert found.sources.is_any
    assert found.destinations.is_any
    assert found.applied_to.is_any
    assert found.services == ()
    assert found.direction is Direction.IN_OUT
    assert found.families == {Family.IPV4, Family.IPV6}
    assert not (found.logged or found.disabled or found.sources_excluded or found.destinations_excluded)


def test_null_is_absent() -> None:
    nulls = {key: None for key in RULE if key not in ("id", "action")}
    assert only_rule(policy(rule(**nulls))) == only_rule(policy(rule()))


def test_what_a_server_sends_back_is_accepted() -> None:
    echoed = {"_revision": 3, "_create_time": 1, "relative_path": "p", "unique_id": "u", "is_default": False}
    assert only_rule({**policy({**rule(), **echoed}), **echoed}) == only_rule(policy(rule()))


def test_any_is_any_in_every_spelling() -> None:
    found = only_rule(policy(rule(source_groups=["any"], destination_groups=["Any"], services=["ANY"], scope=["dfw"])))
    assert found == only_rule(policy(rule()))


def test_strictness() -> None:
    def effective(**fields: Any) -> tuple[bool, bool]:
        first = rules_for_tap(loaded(policy(rule(), **fields)).world)[0]
        return first.stateful, first.tcp_strict

    assert effective() == (True, True)
    assert effective(tcp_strict=False) == (True, False)
    assert effective(stateful=False) == (False, False)
    assert effective(stateful=False, tcp_strict=True) == (False, False)


def test_default_section() -> None:
    world = loaded(policy(rule())).world
    last = rules_for_tap(world)[-4:]
    assert [item.rule.path for item in last] == ["default/nd", "default/dhcp", "default/ingress", "default/egress"]
    assert [item.rule.number for item in last] == [3, 4, 2, 5]
    assert not any(item.tcp_strict for item in last)
    assert [item.stateful for item in last] == [False, False, True, True]
    drop = load_documents([], default_action=Action.DROP).world
    assert [item.rule.action for item in rules_for_tap(drop)] == [Action.ALLOW, Action.ALLOW, Action.DROP, Action.DROP]


def test_default_action_of_the_call_beats_the_document() -> None:
    section = {
        "resource_type": "SecurityPolicy",
        "id": "default-layer3-section",
        "rules": [{"id": "default-layer3-rule", "action": "DROP", "logged": True}],
    }
    documents = documents_parse(json.dumps(section).encode(), "f.json")
    assert {item.rule.action for item in rules_for_tap(load_documents(documents).world)[2:]} == {Action.DROP}
    allowed = rules_for_tap(load_documents(documents, default_action=Action.ALLOW).world)[2:]
    assert {(item.rule.action, item.rule.logged) for item in allowed} == {(Action.ALLOW, True)}


def test_rule_numbers() -> None:
    world = loaded(
        policy(rule(), {**rule(), "id": "s", "rule_id": 1003}, {**rule(), "id": "t", "disabled": True}),
    ).world
    # The third would be 1003, which a document holds.
    assert [item.number for item in world.policies[0].rules] == [1001, 1003, 1004]
    twice = policy(rule(rule_id=2000), {**rule(), "id": "s", "rule_id": 2000})
    assert "already that of" in refusals(twice)[0]


def test_policy_scope_overrides_rule_scope() -> None:
    web, lone = group("web", condition("app|web", "SegmentPort")), group("lone", condition("|lone", "SegmentPort"))
    found = loaded(INVENTORY, web, lone, policy(rule(scope=["web"]), scope=["lone"]))
    world = found.world
    on = {port.name for port in world.inventory if rules_for(world, port)[0].rule.id == "r"}
    assert on == {"b"}
    assert [finding.kind for finding in found.findings] == ["no-effect"]


def test_rules_of_a_tap_ignore_direction_and_scope() -> None:
    web = group("web", condition("app|web", "SegmentPort"))
    world = loaded(web, policy(rule(scope=["web"], direction="OUT"), {**rule(), "id": "off", "disabled": True})).world
    found = rules_for_tap(world)
    assert [item.rule.id for item in found] == ["r", "nd", "dhcp", "ingress", "egress"]
    assert {item.direction for item in found} == {Direction.IN_OUT}


def test_jumps_and_where_they_resume() -> None:
    world = loaded(policy(rule(action="JUMP_TO_APPLICATION"), category="Environment")).world
    jump, *rest = rules_for_tap(world)
    assert jump.resume_tier is Tier.APPLICATION
    assert all(item.resume_tier is None for item in rest)


NUMBERS = st.integers(0, 3)
KEYS = st.lists(
    st.tuples(
        st.sampled_from(["Emergency", "Infrastructure", "Environment", "Application", ""]),
        NUMBERS,
        st.text("ab", min_size=1, max_size=2),
    ),
    max_size=6,
    unique_by=lambda key: key[2],
)


@given(KEYS, st.randoms())
def test_order_does_not_depend_on_the_order_of_documents(keys: list[tuple[str, int, str]], random: Any) -> None:
    def paths(documents: list[dict[str, Any]]) -> list[str]:
        return [item.path.rpartition("/")[2] for item in loaded(*documents).world.policies]

    documents = [policy(rule(), category=c, sequence_number=n, id=i) for c, n, i in keys]
    tiers = ["Emergency", "Infrastructure", "Environment", "Application", ""]
    expected = [i for c, n, i in sorted(keys, key=lambda key: (tiers.index(key[0]), key[1], key[2]))]
    assert paths(documents) == expected
    random.shuffle(documents)
    assert paths(documents) == expected


@given(st.lists(NUMBERS, min_size=1, max_size=6))
def test_rules_by_number_then_position(numbers: list[int]) -> None:
    rules = [rule(id=f"r{9 - place}", sequence_number=number) for place, number in enumerate(numbers)]
    (found,) = loaded(policy(*rules)).world.policies
    expected = [rules[place]["id"] for place in sorted(range(len(numbers)), key=lambda place: (numbers[place], place))]
    assert [item.id for item in found.rules] == expected


def test_timers() -> None:
    profile = {
        "resource_type": "PolicyFirewallSessionTimerProfile",
        "id": "t",
        "tcp_established": 120,
        "udp_single": None,
    }
    assert loaded(profile).world.timers == Timers(tcp_established=120)
    assert Timers() == Timers(120, 30, 43200, 120, 45, 20, 60, 30, 60, 20, 10)


def test_pairs_of_ports_are_bounded() -> None:
    ports = [str(2 * number) for number in range(1, 1025)]
    entry = {"resource_type": "L4PortSetServiceEntry", "l4_protocol": "TCP", "destination_ports": ports}
    service = {"resource_type": "Service", "id": "s", "service_entries": [{**entry, "source_ports": ports}]}
    half, third = policy(rule(services=["s"]), rule(id="q", services=["s"])), rule(id="t", service_entries=[entry])
    assert loaded(service, half).world.policies
    with pytest.raises(PolicyError) as caught:
        loaded(service, {**half, "rules": [*half["rules"], third]})
    assert [str(problem.place.path) + ": " + problem.message for problem in caught.value.problems] == [
        "rules[2]: with the 1024 entries of this rule (one for each pair of port ranges) there are more than 2097152; "
        "write ranges, or fewer services"
    ]


def test_nested_services_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfw.nsx.service.MAXIMUM_ENTRIES", 6)
    numbers = [{"resource_type": "IPProtocolServiceEntry", "protocol_number": number} for number in (47, 50, 51)]
    nested = [{"resource_type": "NestedServiceServiceEntry", "nested_service_path": "s"}]
    services = [{"resource_type": "Service", "id": "s", "service_entries": numbers}]
    services += [{"resource_type": "Service", "id": f"t{number}", "service_entries": nested} for number in range(4)]
    assert len(loaded(*services[:2]).world.services) == 2
    with pytest.raises(PolicyError) as caught:
        loaded(*services)
    assert [problem.message for problem in caught.value.problems] == [
        "with this service, services have more than 6 entries"
    ]
