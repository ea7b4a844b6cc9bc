# SPDX-License-Identifier: Apache-2.0
"""Policy assertions: each sentence of docs/policy-tests.md about when one holds, fails or errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dfw.policytest.assertions import PolicyUnderTest
from dfw.policytest.errors import PolicyTestError
from dfw.policytest.settings import Sources, sources_find
from dfw.policytest.worlds import Worlds
from dfw.probe import DisagreementError

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
FILES = (str(SHOP / "policy.yaml"), str(SHOP / "inventory.yaml"))
RULES = "/infra/domains/default/security-policies/"


def under_test(*files: str, folder: Path = SHOP, worlds: Worlds | None = None, **options: Any) -> PolicyUnderTest:
    worlds = worlds or Worlds()
    return PolicyUnderTest(worlds, worlds.subject(Sources(files or FILES, **options)), "test_it", folder)


@pytest.fixture(scope="module")
def shop() -> PolicyUnderTest:
    return under_test()


def written(folder: Path, text: str, name: str = "p.yaml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


INVENTORY = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
gateways: [{name: t0, tier: 0}, {name: t1, tier: 1, tier0: t0}, {name: t2, tier: 1, tier0: t0}, {name: alone, tier: 1}]
segments:
  - {name: a, subnets: [10.1.0.0/24], gateway: t1}
  - {name: b, subnets: [10.2.0.0/24], gateway: t2}
  - {name: c, subnets: [10.3.0.0/24], gateway: alone}
  - {name: d, subnets: ["2001:db8:d::/64"]}
ports:
  - {name: a-1, segment: a, ips: [10.1.0.1]}
  - {name: a-2, segment: a, ips: [10.1.0.2]}
  - {name: b-1, segment: b, ips: [10.2.0.1]}
  - {name: c-1, segment: c, ips: [10.3.0.1]}
  - {name: d-1, segment: d, ips: ["2001:db8:d::1"]}
---
resource_type: Group
id: nobody
expression: [{resource_type: Condition, member_type: SegmentPort, key: Tag, operator: EQUALS, value: no}]
---
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: off, disabled: true, action: DROP}
  - {id: no, action: DROP}
"""


# -- what holds and what fails


def test_allowed_holds_and_fails(shop: PolicyUnderTest) -> None:
    shop.assert_allowed("app-1", "db-1", "tcp/3306")
    with pytest.raises(AssertionError) as caught:
        shop.assert_allowed("web-1", "db-1", "tcp/3306")
    message = str(caught.value)
    first = message.splitlines()[0]
    assert first.startswith(
        "web-1 (10.1.1.11) -> db-1 (10.1.3.11), tcp/3306: expected allowed, but it is denied (REJECT)"
    )
    assert "by shop/rules/shop-to-db (" in first and "policy.yaml:90)" in first
    assert "group shop > web: machine web-1 has the tag app|web (Tag EQUALS app|web)" in message


def test_denied_fails_with_packet_rule_and_reasons(shop: PolicyUnderTest) -> None:
    with pytest.raises(AssertionError) as caught:
        shop.assert_denied("any", "db-1", "tcp/3306", except_from="app-1")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("app-2 (10.1.2.12) -> db-1 (10.1.3.11), tcp/3306: expected denied, but it is allowed by")
    assert "shop/rules/app-to-db (" in lines[0] and "policy.yaml:88)" in lines[0]
    assert lines[1] == "in assert_denied('any', 'db-1', 'tcp/3306'): 2 of its 16 packets"
    assert any("machine app-2 has the tag app|app" in line for line in lines)


def test_by_names_the_rule(shop: PolicyUnderTest) -> None:
    shop.assert_allowed("app-1", "db-1", "tcp/3306", by=RULES + "shop/rules/app-to-db")
    shop.assert_allowed("app-1", "db-1", "tcp/3306", by="app-to-db")
    shop.assert_denied("web-1", "db-1", "tcp/3306", by="shop/rules/shop-to-db")
    with pytest.raises(
        AssertionError, match=r"expected allowed by shop/rules/web-to-app \(.*87\), but it is allowed by"
    ):
        shop.assert_allowed("app-1", "db-1", "tcp/3306", by="web-to-app")
    # A denial by another rule proves something else: it errors.
    with pytest.raises(
        PolicyTestError, match=r"expected denied by shop/rules/rest .*, but it is denied .REJECT. by shop/"
    ):
        shop.assert_denied("web-1", "db-1", "tcp/3306", by="shop/rules/rest")


def test_by_may_be_either_filter_of_what_is_allowed(tmp_path: Path) -> None:
    policy = under_test(*_two_sides(tmp_path))
    for rule in ("egress/rules/out", "ingress/rules/in"):
        policy.assert_allowed("a-1", "b-1", "tcp/80", by=rule)


def _two_sides(folder: Path) -> tuple[str]:
    text = INVENTORY[: INVENTORY.index("---\nresource_type: SecurityPolicy")]
    for name, direction in (("egress", "OUT"), ("ingress", "IN")):
        rule = f"{{id: {direction.lower()}, direction: {direction}, action: ALLOW}}"
        text += f"---\n{{resource_type: SecurityPolicy, id: {name}, category: Application, rules: [{rule}]}}\n"
    return (written(folder, text),)


@pytest.mark.parametrize(
    ("by", "message"),
    [("no-such", "no such rule"), ("shop/rules/app-to-dbs", "did you mean"), ("rules/web-to-ap", "did you mean")],
)
def test_by_must_name_a_rule(shop: PolicyUnderTest, by: str, message: str) -> None:
    with pytest.raises(PolicyTestError, match=message):
        shop.assert_allowed("app-1", "db-1", "tcp/3306", by=by)


def test_by_must_name_one_rule(tmp_path: Path) -> None:
    policy = "resource_type: SecurityPolicy\nid: {}\ncategory: Application\nrules: [{{id: rest, action: DROP}}]\n"
    file = written(tmp_path, policy.format("one") + "---\n" + policy.format("two"))
    with pytest.raises(PolicyTestError, match=r"could be one/rules/rest or two/rules/rest; write more of the path"):
        under_test(FILES[1], file).assert_denied("web-1", "db-1", "tcp/1", by="rest")


def test_a_disabled_rule_never_decides(tmp_path: Path) -> None:
    policy = under_test(written(tmp_path, INVENTORY))
    policy.assert_denied("a-1", "b-1", "tcp/80", by="p/rules/no")
    with pytest.raises(PolicyTestError, match="which is disabled"):
        policy.assert_denied("a-1", "b-1", "tcp/80", by="p/rules/off")


# -- a denial must prove something


@pytest.mark.parametrize(
    "ends", [("group:nobody", "b-1"), ("b-1", "group:nobody"), ("10.1.0.99", "b-1"), ("b-1", "10.7.0.0/16")]
)
def test_a_denial_needs_workloads_at_both_ends(tmp_path: Path, ends: tuple[str, str]) -> None:
    with pytest.raises(PolicyTestError, match="resolves to no workload"):
        under_test(written(tmp_path, INVENTORY)).assert_denied(*ends, "tcp/80")


def test_outside_says_that_no_workload_is_meant(tmp_path: Path) -> None:
    policy = under_test(written(tmp_path, INVENTORY))
    policy.assert_denied("outside:10.7.0.0/16", "b-1", "tcp/80")
    policy.assert_denied("b-1", "outside:192.0.2.1", "tcp/80")
    with pytest.raises(PolicyTestError, match=r"outside:10.1.0.1 is not outside: a-1 is there"):
        policy.assert_denied("outside:10.1.0.1", "b-1", "tcp/80")
    with pytest.raises(PolicyTestError, match=r"write outside:10.7.0.0/16"):
        policy.assert_denied("10.7.0.0/16", "b-1", "tcp/80")


def test_without_an_inventory_nobody_is_a_workload() -> None:
    policy = under_test(str(SHOP / "open.yaml"))
    policy.assert_allowed("192.0.2.1", "192.0.2.2", "icmp,tcp/80", by="open/rules/everything")
    with pytest.raises(PolicyTestError, match="there is no inventory"):
        policy.assert_denied("10.1.1.11", "10.1.3.11", "tcp/3306")


def test_routing_stays(tmp_path: Path) -> None:
    policy = under_test(written(tmp_path, INVENTORY))
    policy.assert_denied("a-1", "a-2", "tcp/80")
    policy.assert_denied("a-1", "b-1", "tcp/80")  # two Tier-1s at one Tier-0
    with pytest.raises(PolicyTestError, match="no gateway joins their segments"):
        policy.assert_denied("a-1", "c-1", "tcp/80")
    with pytest.raises(PolicyTestError, match=r"a-1 .10.1.0.1. -> c-1"):
        policy.assert_denied("any", "c-1", "tcp/80")


def test_the_address_family_stays(tmp_path: Path) -> None:
    with pytest.raises(PolicyTestError, match="expands to no pairs: the ends have no address family in common"):
        under_test(written(tmp_path, INVENTORY)).assert_denied("a-1", "d-1", "tcp/80")


def test_what_no_rule_refuses_proves_nothing(shop: PolicyUnderTest) -> None:
    # An echo reply without a question is refused whatever the rules say.
    with pytest.raises(PolicyTestError, match=r"refused if every rule says ALLOW.*icmp-state"):
        shop.assert_denied("web-1", "app-1", "icmp/0")
    shop.assert_denied("web-1", "app-1", "icmp/13", by="shop/rules/rest")


def test_an_assertion_without_pairs_errors(shop: PolicyUnderTest) -> None:
    for ask in (shop.assert_allowed, shop.assert_denied):
        with pytest.raises(PolicyTestError, match="expands to no pairs: both ends are the same"):
            ask("web-1", "web-1", "tcp/80")
        with pytest.raises(PolicyTestError, match="expands to no pairs: every end is excepted"):
            ask("web-1", "db-1", "tcp/80", except_from="any")
        with pytest.raises(PolicyTestError, match="expands to no pairs: no receiver has a port named web"):
            ask("web-1", "db-1", "web")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("web-9", "db-1", "tcp/80"), "did you mean web-"),
        (("web-1", "db-1", "tcp"), "write tcp/443"),
        (("web-1", "db-1", "tcp/70000"), "not a port"),
        (("web-1", "db-1", "icmp/300"), "not an ICMP type"),
        (("web-1", "db-1", "gre/4"), "has no ports"),
        (("web-1", "db-1", "tpc/80"), "not a protocol"),
        (("web-1", "db-1", ""), "no service is named"),
        (((), "db-1", "tcp/80"), "is no end"),
        (("group:wbe", "db-1", "tcp/80"), "there is no group"),
    ],
)
def test_what_is_not_understood_errors(shop: PolicyUnderTest, arguments: tuple[str, str, str], message: str) -> None:
    with pytest.raises(PolicyTestError, match=message):
        shop.assert_allowed(*arguments)
    with pytest.raises(
        PolicyTestError, match="exept_from= is nothing that an assertion knows; there are by, except_from"
    ):
        shop.assert_denied("any", "db-1", "tcp/80", exept_from="web-1")  # type: ignore[call-arg]
    with pytest.raises(PolicyTestError, match="family is 4 or 6"):
        shop.assert_allowed("web-1", "db-1", "tcp/80", family=5)


# -- ends and services


def test_ends_of_all_kinds(shop: PolicyUnderTest) -> None:
    shop.assert_allowed(["10.1.2.11", "2001:db8:2::12"], "group:db", "tcp/3306")
    shop.assert_denied("10.1.1.0/24", "db-1", "tcp/3306", except_from="web-3")
    shop.assert_denied("any", "db-1", "tcp/3306", except_from=["10.1.2.0/24", "2001:db8:2::/64"])
    shop.assert_denied("0.0.0.0/0", "db-1", "tcp/3306", except_from="group:app", family=4)
    with pytest.raises(AssertionError):
        shop.assert_denied("any", "db-1", "tcp/3306", except_from=["10.1.2.0/24"])  # IPv6 is left


def test_both_families_are_asked(tmp_path: Path) -> None:
    text = (SHOP / "policy.yaml").read_text()
    only4 = text.replace("id: app-to-db,", "id: app-to-db, ip_protocol: IPV4,")
    assert only4 != text
    policy = under_test(FILES[1], written(tmp_path, only4))
    policy.assert_allowed("app-1", "db-1", "tcp/3306", family=4)
    with pytest.raises(AssertionError, match=r"app-1 .2001:db8:2::11. -> db-1"):
        policy.assert_allowed("app-1", "db-1", "tcp/3306")


def test_services_of_all_kinds(shop: PolicyUnderTest) -> None:
    shop.assert_allowed("web-1", "app-1", ["tcp/8080", "tcp/8443"])
    shop.assert_allowed("web-1", "app-1", "icmp,icmpv6")
    shop.assert_denied("web-1", "app-1", "gre", by="shop/rules/rest")
    shop.assert_denied("web-1", "app-1", "sctp/80,udp/53,47")
    shop.assert_allowed("dns-1", "app-1", "udp/4000", sport=53)


def test_ports_by_name(tmp_path: Path) -> None:
    pod = """
apiVersion: v1
kind: Pod
metadata: {{name: {0}, namespace: x, labels: {{app: {0}}}}}
spec: {{containers: [{{name: c, image: i, ports: [{{name: web, containerPort: {1}}}]}}]}}
status: {{podIP: 10.1.0.{2}}}
---
"""
    policy = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: n, namespace: x}
spec: {podSelector: {}, ingress: [{ports: [{port: web}]}]}
"""
    file = written(tmp_path, pod.format("a", 80, 1) + pod.format("b", 8080, 2) + policy)
    under = under_test(file)
    under.assert_allowed("any", "any", "web")
    under.assert_allowed("x/a", "x/b", "tcp/8080", by="np/x/n-allow/ingress/0" if _has(under, "n-allow") else None)
    under.assert_denied("x/a", "x/b", "tcp/80")


def _has(under: PolicyUnderTest, word: str) -> bool:
    return any(f"/{word}/" in path for path in under._subject.rules)


def test_the_default_section_and_the_time(tmp_path: Path) -> None:
    under_test(*FILES, default_action="DROP").assert_denied(
        "web-1", "outside:192.0.2.1", "tcp/443", by="default/egress"
    )
    under_test().assert_allowed("web-1", "outside:192.0.2.1", "tcp/443", by="default/egress")


def test_an_assumed_address_is_not_known(tmp_path: Path) -> None:
    pods = "{{apiVersion: v1, kind: Pod, metadata: {{name: {0}, namespace: x}}, spec: {{containers: []}}}}\n---\n"
    policy = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: n, namespace: x}
spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 100.64.0.0/10}}]}]}
"""
    file = written(tmp_path, pods.format("a") + pods.format("b") + policy)
    for ask in (under_test(file).assert_allowed, under_test(file).assert_denied):
        with pytest.raises(PolicyTestError, match="an address that no manifest gives"):
            ask("x/a", "x/b", "tcp/80")


def test_staged_policies_as_if_in_force(tmp_path: Path) -> None:
    staged = INVENTORY.replace("SecurityPolicy\nid: p\n", "SecurityPolicy\nid: p\nstaged: true\n")
    assert staged != INVENTORY
    file = written(tmp_path, staged)
    under_test(file).assert_allowed("a-1", "b-1", "tcp/80", by="default/ingress")
    under_test(file, staged=True).assert_denied("a-1", "b-1", "tcp/80", by="p/rules/no")


# -- the packet core has the last word


def test_the_packet_core_confirms(monkeypatch: pytest.MonkeyPatch) -> None:
    worlds = Worlds()
    policy = under_test(worlds=worlds)
    policy.assert_allowed("app-1", "db-1", "tcp/3306")
    policy.assert_denied("any", "db-1", "tcp/3306", except_from="group:app")
    worlds.confirm()
    policy.assert_denied("web-1", "db-1", "tcp/3306")
    import dfw.policytest.worlds as module

    honest = module.judge_core
    monkeypatch.setattr(module, "judge_core", lambda world, probes, at: honest(module.allow_all(world), probes, at))
    with pytest.raises(DisagreementError, match="the packet core to"):
        worlds.confirm()
    monkeypatch.setattr(module, "allow_all", lambda world: world)
    monkeypatch.setattr(module, "judge_core", honest)
    policy.assert_denied("web-1", "db-1", "tcp/3306")
    with pytest.raises(DisagreementError, match="refused where every rule says ALLOW"):
        worlds.confirm()


# -- which policy


def test_the_nearest_palisade_toml(tmp_path: Path) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "palisade.toml").write_text(
        '[test]\npolicy = "p.yaml"\ninventory = ["i.yaml"]\ndefault-action = "DROP"\n'
    )
    (tmp_path / "a" / "palisade.toml").write_text("[replay]\nworkers = 2\n")  # says nothing about tests
    found = sources_find(deep, None, {})
    assert found == Sources((str(tmp_path / "p.yaml"), str(tmp_path / "i.yaml")), "DROP")
    given = sources_find(
        deep, None, {"policy": ["q.yaml"], "inventory": [], "default_action": None, "at": "2026-01-01T00:00"}
    )
    assert given.files == (str(Path.cwd() / "q.yaml"), str(tmp_path / "i.yaml"))
    assert given.at == "2026-01-01T00:00"
    marked = sources_find(deep, (("m.yaml", "../n.yaml"), {"default_action": "REJECT"}), {})
    assert marked == Sources((str(deep / "m.yaml"), str(tmp_path / "a" / "n.yaml")), "REJECT")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no policy is named"),
        ("[test]\npolicy = 3\n", "is a list of files"),
        ("[test]\npolicy = ['p']\ndefault_action = 'PASS'\n", "one of ALLOW, DROP, REJECT"),
        ("[test]\npolicy = ['p']\nat = 3\n", "at is a text"),
        ("[test]\npolicy = ['p']\nstaged = 1\n", "staged is true or false"),
        ("[test\n", "palisade.toml"),
    ],
)
def test_a_bad_palisade_toml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "palisade.toml").write_text(text)
    with pytest.raises(PolicyTestError, match=message):
        sources_find(tmp_path, None, {})


@pytest.mark.parametrize(
    "marker", [((), {}), ((3,), {}), (("p.yaml",), {"tap": True}), (("p",), {"default_action": "x"})]
)
def test_a_bad_marker(tmp_path: Path, marker: tuple[tuple[str, ...], dict[str, str]]) -> None:
    with pytest.raises(PolicyTestError, match="palisade_policy"):
        sources_find(tmp_path, marker, {})
