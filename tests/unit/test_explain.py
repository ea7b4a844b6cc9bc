# SPDX-License-Identifier: Apache-2.0
"""`palisade explain`: the verdict, the fields that made it, and the rules above; three evaluations that agree."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfw.endpoint import Peer
from dfw.explain import explain
from dfw.explain_run import explain_pairs
from dfw.model import PROTO_TCP, PROTO_UDP, PolicySet
from dfw.oracle.parse import parse
from dfw.probe import Probe, Verdict, frame_of
from dfw.schema import schema_files
from tests.support.random_policies import ADDRESSES, packets, worlds

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
FILES = ["--policy", str(SHOP / "policy.yaml"), "--inventory", str(SHOP / "inventory.yaml")]
SCHEMA = json.loads(schema_files()["explain"].read_text(encoding="utf-8"))
POLICIES = "/infra/domains/default/security-policies/"


def run(*arguments: str, files: list[str] = FILES, status: int | None = None) -> dict[str, Any]:
    """The answer, which is what its schema says; the exit status says whether it arrives."""
    done = CliRunner().invoke(explain, [*files, *arguments, "-o", "json"], standalone_mode=False)
    if done.exception is not None:
        raise done.exception
    data: dict[str, Any] = json.loads(done.output)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert done.return_value == (0 if data["allowed"] else 1)
    return data


def text(*arguments: str) -> str:
    return CliRunner().invoke(explain, [*FILES, *arguments], standalone_mode=False).output


def test_an_address_that_was_only_assumed_is_said(tmp_path: Path) -> None:
    (tmp_path / "pods.yaml").write_text("""\
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: x}
---
apiVersion: v1
kind: Pod
metadata: {name: b, namespace: x}
status: {podIP: 10.0.0.2}
""")
    words = ["--policy", str(tmp_path / "pods.yaml"), "--from", "x/a", "--to", "x/b", "--dport", "80"]
    done = CliRunner().invoke(explain, [*words, "-o", "json"], standalone_mode=False)
    data = json.loads(done.stdout)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    assert (data["from"]["assumed"], data["to"]["assumed"]) == (True, False)
    assert done.stderr.splitlines() == [
        f"palisade explain: warning: the pod x/a has no address (status.podIP); {data['from']['address']} is assumed"
    ]
    shown = CliRunner().invoke(explain, words, standalone_mode=False).stdout
    assert shown.startswith(f"x/a ({data['from']['address']}, assumed) -> x/b (10.0.0.2), tcp/80: arrives")


def test_both_vnics_and_the_groups_that_made_it() -> None:
    data = run("--from", "app-1", "--to", "db-1", "--dport", "3306")
    assert data["allowed"] is True
    assert [(step["vnic"], step["dir"], step["verdict"], step["reached"]) for step in data["steps"]] == [
        ("app-1", "OUT", "ALLOW", True),
        ("db-1", "IN", "ALLOW", True),
    ]
    for step in data["steps"]:
        assert step["rule_path"] == POLICIES + "shop/rules/app-to-db"
        assert (step["tier"], step["policy"], step["default"]) == ("Application", POLICIES + "shop", False)
        assert step["matched"]["source"] == {
            "because": "machine app-1 has the tag app|app (Tag EQUALS app|app)",
            "groups": ["/infra/domains/default/groups/app"],
        }
        assert step["matched"]["service"] == "MySQL (tcp 3306)"


def test_nested_groups_are_named_on_the_way() -> None:
    (out, beyond) = run("--from", "web-1", "--to", "db-1", "--dport", "3306")["steps"]
    groups = [path.rpartition("/")[2] for path in out["matched"]["source"]["groups"]]
    assert groups == ["shop", "web"]
    assert (out["verdict"], out["reached"], beyond["vnic"], beyond["reached"]) == ("REJECT", True, "db-1", False)


def test_rules_above_say_field_by_field_why_not() -> None:
    step = run("--from", "web-1", "--to", "db-1", "--dport", "3306")["steps"][0]
    skipped = {item["rule_path"].removeprefix(POLICIES): item for item in step["skipped"]}
    assert list(skipped["shop/rules/app-to-db"]["why"]) == ["source"]
    assert skipped["shop/rules/app-to-db"]["near"] is True
    wanted = "(web-1) is not in group app (Tag EQUALS app|app: machine web-1 has the tag app|web)"
    assert wanted in skipped["shop/rules/app-to-db"]["why"]["source"]
    assert list(skipped["shop/rules/web-to-app"]["why"]) == ["destination", "service"]
    assert skipped["shop/rules/web-to-app"]["near"] is False
    # Far above, but only its Applied-To keeps it from deciding.
    assert list(skipped["quarantine/rules/isolate"]["why"]) == ["applied_to"]
    assert run("--from", "web-1", "--to", "db-1", "--dport", "3306", "--above", "0")["steps"][0]["skipped"] == []


def test_the_default_section_decides() -> None:
    (step,) = run("--from", "web-1", "--to", "192.0.2.9", "--proto", "udp", "--dport", "9")["steps"]
    assert (step["default"], step["rule_path"], step["tier"], step["verdict"]) == (
        True,
        "default/egress",
        "Default",
        "ALLOW",
    )
    dropped = run("--from", "web-1", "--to", "192.0.2.9", "--dport", "9", "--default-action", "DROP")
    assert dropped["allowed"] is False


def test_neither_end_is_a_vnic() -> None:
    (step,) = run("--from", "192.0.2.9", "--to", "192.0.2.10", "--dport", "9")["steps"]
    assert (step["vnic"], step["dir"], step["verdict"], step["reason"]) == (None, None, "ALLOW", "no-filter")


def test_several_pairs_and_the_first_that_does_not_arrive() -> None:
    data = run("--from", "any", "--to", "group:db", "--dport", "3306")
    assert data["pairs"] == {"judged": 9, "allowed": 2}
    assert data["from"]["vnic"] == "web-1"
    assert run("--from", "10.1.2.0/24", "--to", "db-1", "--dport", "3306")["pairs"] == {"judged": 3, "allowed": 2}


def test_refused_before_any_rule() -> None:
    data = run("--from", "web-1", "--to", "db-1", "--proto", "icmp", "--icmp-type", "0")
    (out, _) = data["steps"]
    assert (out["verdict"], out["reason"]) in {("DROP", "icmp-state"), ("REJECT", "match")}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--from", "web-9", "--to", "db-1", "--dport", "1"], "did you mean web-"),
        (["--from", "web-1", "--to", "db-1"], "--dport is missing"),
        (["--from", "web-1", "--to", "web-1", "--dport", "1"], "both ends are the same"),
        (["--from", "web-1", "--to", "db-1", "--proto", "gre", "--dport", "1"], "has no ports"),
        (["--from", "web-1", "--to", "db-1", "--proto", "icmp", "--family", "6"], "belongs to IPV4"),
        (["--from", "web-1", "--to", "db-1", "--dport", "70000"], "not a port"),
        (["--from", "web-1", "--to", "db-1", "--proto", "tpc", "--dport", "1"], "not a protocol"),
        (["--from", "web-1", "--to", "192.0.2.1", "--dport", "1", "--family", "6"], "no addresses of IPV6"),
        (["--from", "web-1", "--to", "db-1", "--dport", "1", "--icmp-type", "8"], "is for icmp"),
    ],
)
def test_bad_questions(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(explain, [*FILES, *arguments], standalone_mode=False)
    assert done.return_value == 2
    assert message in done.output


def test_text_for_people() -> None:
    shown = text("--from", "web-1", "--to", "db-1", "--dport", "3306")
    assert shown.splitlines()[0] == "web-1 (10.1.1.11) -> db-1 (10.1.3.11), tcp/3306: does not arrive"
    file = SHOP / "policy.yaml"
    assert f"  rule         shop/rules/shop-to-db  (id 1012, Application, REJECT, logged; {file}:90)" in shown
    assert f"    Application    shop/rules/app-to-db  ALLOW  {file}:88  (only this kept it out)" in shown
    assert "  source       group shop > web: machine web-1 has the tag app|web (Tag EQUALS app|web)" in shown
    assert "IN at db-1, host esx-2: not reached; it would have been REJECT" in shown


def test_a_disagreement_is_loud(monkeypatch: pytest.MonkeyPatch) -> None:
    import dfw.probe

    other = (Verdict("web-1", "OUT", "ALLOW", "match", "elsewhere", "new"),)
    monkeypatch.setattr(dfw.probe, "_by_core", lambda world, frames, at: [other for _ in frames])
    done = CliRunner().invoke(
        explain, [*FILES, "--from", "web-1", "--to", "db-1", "--dport", "1"], standalone_mode=False
    )
    assert done.return_value == 2
    assert "the model and the packet core disagree" in done.output


def test_rules_that_hand_on_and_those_they_pass_over(tmp_path: Path) -> None:
    (tmp_path / "jump.yaml").write_text(
        """
resource_type: SecurityPolicy
id: zones
category: Environment
rules:
  - {id: inside, services: [HTTP], action: JUMP_TO_APPLICATION}
  - {id: nobody, action: DROP}
"""
    )
    files = [*FILES, "--policy", str(tmp_path / "jump.yaml")]
    (out, _) = run("--from", "app-1", "--to", "web-1", "--dport", "80", files=files)["steps"]
    assert (out["verdict"], out["tier"]) == ("ALLOW", "Application")
    assert [item["rule_path"] for item in out["passed"]] == [POLICIES + "zones/rules/inside"]
    skipped = {item["rule_path"].removeprefix(POLICIES): item["why"] for item in out["skipped"]}
    assert skipped["zones/rules/nobody"] == {"order": "inside (JUMP_TO_APPLICATION) goes on in Application"}
    (out, _) = run("--from", "app-1", "--to", "web-1", "--dport", "443", files=files)["steps"]
    assert (out["verdict"], out["tier"]) == ("DROP", "Environment")


def test_layer_2_comes_first(tmp_path: Path) -> None:
    (tmp_path / "l2.yaml").write_text(
        """
resource_type: SecurityPolicy
id: l2
category: Ethernet
rules:
  - {id: v6, service_entries: [{resource_type: EtherTypeServiceEntry, ether_type: 0x86dd}], action: DROP}
  - {id: to-db, destination_groups: [db], direction: IN, action: DROP}
"""
    )
    files = [*FILES, "--policy", str(tmp_path / "l2.yaml")]
    (out, beyond) = run("--from", "app-1", "--to", "db-1", "--dport", "3306", files=files)["steps"]
    assert (out["verdict"], out["tier"], beyond["verdict"], beyond["tier"]) == (
        "ALLOW",
        "Application",
        "DROP",
        "Ethernet",
    )
    assert beyond["matched"]["destination"]["because"] == "MAC 02:00:00:00:03:11 is a member"
    (out, _) = run("--from", "app-1", "--to", "db-1", "--dport", "3306", "--family", "6", files=files)["steps"]
    assert (out["verdict"], out["rule_path"], out["matched"]["service"]) == (
        *("DROP", POLICIES + "l2/rules/v6"),
        "EtherType 0x86dd",
    )


PROBES = st.builds(
    lambda packet: Probe(
        Peer(None, packet.source),
        Peer(None, packet.destination),
        packet.protocol if packet.protocol not in (1, 58) else (1 if packet.source.family == 1 else 58),
        *((packet.first, packet.second) if packet.protocol in (6, 17, 132) else (0, 0)),
    ),
    packets(),
)


def named(world: PolicySet, probe: Probe) -> Probe:
    """The probe with the vNICs that have its addresses, where one alone has it."""
    found = [(world.inventory.ports_at(peer.address), peer) for peer in (probe.source, probe.destination)]
    peers = [Peer(bound[0] if len(bound) == 1 else None, peer.address) for bound, peer in found]
    return Probe(*peers, probe.protocol, probe.sport, probe.dport)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), PROBES, st.booleans())
def test_explanation_model_and_core_name_the_same_rule(world: PolicySet, probe: Probe, tap: bool) -> None:
    probe = named(world, probe)
    clashes = any(len(world.inventory.ports_at(peer.address)) > 1 for peer in (probe.source, probe.destination))
    if probe.source.address == probe.destination.address or (clashes and not tap):
        return
    data = explain_pairs(world, [probe], not tap)
    jsonschema.Draft202012Validator(SCHEMA).validate(data)
    for step in data["steps"]:
        if step["rule_path"] is not None:
            assert step["matched"]["source"]["because"]


def test_probes_are_whole_packets() -> None:
    for family in (0, 5):
        ends = [Peer(None, ADDRESSES[family + number]) for number in (1, 2)]
        icmp = 1 if family == 0 else 58
        for protocol, sport, dport in (
            (PROTO_TCP, 1, 2),
            (PROTO_UDP, 1, 2),
            (132, 1, 2),
            (icmp, 8, 0),
            (icmp, 3, 1),
            (47, 0, 0),
        ):
            probe = Probe(ends[0], ends[1], protocol, sport, dport)
            packet = parse(frame_of(probe), 1, len(frame_of(probe)), decap=False, verify=True)
            assert packet.refusal is None
            assert (packet.source, packet.destination) == (ends[0].address.value, ends[1].address.value)
            assert packet.protocol == protocol
            if protocol in (6, 17, 132):
                assert (packet.source_port, packet.destination_port) == (sport, dport)
