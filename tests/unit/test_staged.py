# SPDX-License-Identifier: Apache-2.0
"""Staged policies: how documents say it, what the other world is, and what every verb shows of it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw import cli
from dfw.check import check_files
from dfw.errors import PolicyError
from dfw.load import Loaded, load
from dfw.schema import schema_files
from tests.support.capture_mutations import pcap_write
from tests.support.pcap import Captured
from tests.support.replaying import (
    BACK,
    INVENTORY,
    NOW,
    POLICY,
    THERE,
    Run,
    capture,
    check_schema,
    conversation,
    frame,
    lines,
    refused,
    replayer,
)
from tests.support.wire import SYN, fragments

PATH = "/infra/domains/default/security-policies/"
TIGHTER = """\
---
resource_type: SecurityPolicy
id: p
category: Application
staged: true
rules:
  - {id: names, services: [DNS-UDP], action: ALLOW}
  - {id: mysql, services: [MySQL], action: ALLOW}
  - {id: ssh, services: [SSH], action: ALLOW}
  - {id: rest, action: DROP}
"""
NEW = """\
---
resource_type: SecurityPolicy
id: front
category: Emergency
staged: true
rules: [{id: no-web, services: [HTTP], action: REJECT}]
"""
KUBERNETES = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIP: 10.0.0.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{ports: [{port: 80}]}]
"""


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder of its own."""
    return replayer(capfd, tmp_path, monkeypatch)


def read(folder: Path, *texts: str) -> Loaded:
    path = folder / "in.yaml"
    path.write_text("\n---\n".join(text.removeprefix("---\n") for text in texts))
    return load([str(path)])


def kubernetes(annotation: str, kind: str = "NetworkPolicy") -> str:
    head = "networking.k8s.io/v1" if kind == "NetworkPolicy" else "crd.nsx.vmware.com/v1alpha1"
    spec = "{podSelector: {}, policyTypes: [Egress]}" if kind == "NetworkPolicy" else "{priority: 5}"
    return f"""\
apiVersion: {head}
kind: {kind}
metadata: {{name: web, namespace: shop, annotations: {{palisade.internal/staged: {annotation}, other: 1}}}}
spec: {spec}
"""


# Documents


def test_a_staged_version_stands_beside_the_one_in_force(tmp_path: Path) -> None:
    world = read(tmp_path, POLICY, TIGHTER, NEW).world
    assert [policy.path for policy in world.policies] == [f"{PATH}p"]
    assert [policy.path for policy in world.staged] == [f"{PATH}front", f"{PATH}p"]
    there = world.what_if
    assert [policy.path for policy in there.ordered] == [f"{PATH}front", f"{PATH}p", "default"]
    assert there.staged == ()


def test_numbers_in_force_do_not_change_and_paths_keep_theirs(tmp_path: Path) -> None:
    alone = {rule.path: rule.number for policy in read(tmp_path, POLICY).world.policies for rule in policy.rules}
    world = read(tmp_path, POLICY, TIGHTER, NEW).world
    assert {rule.path: rule.number for policy in world.policies for rule in policy.rules} == alone
    there = {rule.path: rule.number for policy in world.what_if.policies for rule in policy.rules}
    assert all(there[path] == number for path, number in alone.items() if path in there)
    assert len(set(there.values())) == len(there)
    assert min(there[f"{PATH}p/rules/ssh"], there[f"{PATH}front/rules/no-web"]) > max(alone.values())


def test_a_rule_id_may_be_that_of_the_rule_it_replaces_only(tmp_path: Path) -> None:
    in_force = POLICY.replace("id: web,", "id: web, rule_id: 4711,")
    read(tmp_path, in_force, TIGHTER.replace("id: names,", "id: names, rule_id: 4711,"))
    with pytest.raises(PolicyError, match=r"the rule_id 4711 is already that of .*p/rules/web"):
        read(tmp_path, in_force, NEW.replace("id: no-web,", "id: no-web, rule_id: 4711,"))


def test_twice_staged_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"SecurityPolicy .*front was already given at .*:1"):
        read(tmp_path, NEW, NEW)
    with pytest.raises(PolicyError, match="NetworkPolicy shop was already given"):
        read(tmp_path, kubernetes('"true"'), kubernetes("delete"))


def test_not_staged(tmp_path: Path) -> None:
    assert read(tmp_path, NEW.replace("staged: true", "staged: false")).world.staged == ()
    assert read(tmp_path, kubernetes('"false"')).world.staged == ()
    with pytest.raises(PolicyError, match=r"staged: .*yes"):
        read(tmp_path, NEW.replace("staged: true", "staged: yes"))
    for bad in ("true", "yes", "1", "''"):
        with pytest.raises(
            PolicyError, match=r"metadata.annotations.*palisade.internal/staged.*is not one of true, delete, false"
        ):
            read(tmp_path, kubernetes(bad))


def test_kubernetes_policies_and_their_removal(tmp_path: Path) -> None:
    world = read(tmp_path, KUBERNETES, kubernetes('"true"')).world
    assert [policy.path for policy in world.staged] == ["np/shop/web-allow", "np/shop/web-isolation"]
    (isolation,) = world.what_if.policies[1].rules
    assert isolation.path == "np/shop/web/isolation-egress"
    gone = read(tmp_path, KUBERNETES, kubernetes("delete")).world
    assert [rule for policy in gone.what_if.policies for rule in policy.rules] == []
    assert sum(len(policy.rules) for policy in gone.policies) == 2
    operator = read(tmp_path, kubernetes('"true"', "SecurityPolicy")).world
    assert [policy.path for policy in operator.staged] == ["sp/shop/web"]


def test_the_default_section_can_be_staged(tmp_path: Path) -> None:
    text = """\
resource_type: SecurityPolicy
id: default-layer3-section
staged: true
rules: [{id: default-layer3-rule, action: DROP}]
"""
    world = read(tmp_path, POLICY, text).world
    assert world.default.rules[-1].action.value == "ALLOW"
    assert world.what_if.default.rules[-1].action.value == "DROP"


# replay


def test_lines_flows_and_summary(run: Run) -> None:
    Path("s.yaml").write_text(POLICY + TIGHTER)
    pieces = fragments(THERE.udp(5000, 53, b"x" * 64), [16, 32], 7)
    ssh = THERE.tcp(1003, 22, 7, 0, SYN, 9000)
    frames = [*conversation(), *conversation(2000), *refused(), *map(frame, pieces), frame(ssh)]
    capture("cap.pcap", frames)
    outputs = ("--verdicts", "v.jsonl", "--flows", "f.jsonl", "-o", "json")
    done = run("cap.pcap", "--inventory", "i.yaml", *outputs, policy="s.yaml")
    staged = check_schema(done)["staged"]
    assert staged["policies"] == [f"{PATH}p"]
    assert staged["cut"] == {"flows": 2, "packets": 14, "bytes": sum(map(len, conversation())) * 2}
    assert staged["pass"] == {"flows": 2, "packets": 2, "bytes": len(refused()[0]) + len(frame(ssh))}
    assert [(flow["change"], flow["n"], flow["sport"], flow["dport"], flow["packets"]) for flow in staged["flows"]] == [
        ("cut", 1, 1000, 80, 7),
        ("cut", 8, 2000, 80, 7),
        ("pass", 15, 1001, 3306, 1),
        ("pass", 21, 1003, 22, 1),
    ]
    assert [(row["change"], row["rule_path"], row["flows"], row["packets"]) for row in staged["rules"]] == [
        ("cut", f"{PATH}p/rules/rest", 2, 14),
        ("pass", f"{PATH}p/rules/mysql", 1, 1),
        ("pass", f"{PATH}p/rules/ssh", 1, 1),
    ]
    found = lines("v.jsonl")
    assert [(line["n"], line["dir"], line["staged"] and line["staged"]["verdict"]) for line in found[:4]] == [
        (1, "OUT", "DROP"),
        (1, "IN", None),
        (2, "OUT", "DROP"),
        (2, "IN", None),
    ]
    (rejected,) = (line for line in found if line["verdict"] == "REJECT")
    assert rejected["staged"]["verdict"] == "ALLOW"
    assert [(item["vnic"], item["dir"], item["verdict"]) for item in rejected["staged_then"]] == [
        ("server", "IN", "ALLOW")
    ]
    assert [(flow["vnic"], flow["staged_verdict"], flow["staged_cut_packets"]) for flow in lines("f.jsonl")] == [
        *([("client", "DROP", 7), ("server", None, 7)] * 2),
        *([("client", "ALLOW", 0), ("server", "ALLOW", 0)]),
        *([("client", "ALLOW", 0)] * 2),
    ]
    *there, mysql, ssh = lines("f.jsonl")
    assert {flow["staged_pass_packets"] for flow in there} == {0}
    for flow, port, rule, staged_rule in ((mysql, 3306, "mysql", "mysql"), (ssh, 22, "rest", "ssh")):
        names = ("vnic", "dir", "dport", "packets", "dropped", "state", "end_reason", "staged_pass_packets")
        assert [flow[name] for name in names] == ["client", "OUT", port, 0, 1, "REFUSED", "refused", 1]
        assert flow["rule_path"] == f"{PATH}p/rules/{rule}"
        assert flow["staged_rule_path"] == f"{PATH}p/rules/{staged_rule}"
        assert flow["start"] == flow["end"] and flow["history"] == ""


def test_nothing_is_added_where_nothing_is_staged(run: Run) -> None:
    capture("cap.pcap", conversation())
    done = run("cap.pcap", "--verdicts", "v.jsonl", "--flows", "f.csv", "-o", "json")
    assert "staged" not in check_schema(done)
    assert "staged" not in Path("v.jsonl").read_text() + Path("f.csv").read_text()


def test_a_table_for_people(run: Run) -> None:
    Path("s.yaml").write_text(POLICY + TIGHTER)
    capture("cap.pcap", [*conversation(), *refused()])
    text = run("cap.pcap", policy="s.yaml").out
    assert "1 staged policy: 1 flow (7 packets) would be cut, 1 flow (1 packet) would newly pass" in text
    assert f"cut    tcp 10.0.0.1 1000 > 10.0.0.2 80          7  {PATH}p/rules/rest" in text
    capture("cap.pcap", refused()[1:])
    assert "1 staged policy: nothing would change" in run("cap.pcap", policy="s.yaml").out


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_flow_columns_in_other_formats(run: Run, ending: str) -> None:
    Path("s.yaml").write_text(POLICY + TIGHTER)
    capture("cap.pcap", [*conversation(), frame(THERE.udp(5000, 53, b"x")), *refused()])
    assert run("cap.pcap", "--inventory", "i.yaml", "--flows", f"f.{ending}", policy="s.yaml").status == 0
    if ending == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(Path("f.csv").read_text().splitlines()))
        nothing: Any = ""
    else:
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = parquet.read_table("f.parquet").to_pylist()
        nothing = None
    assert [str(row["staged_cut_packets"]) for row in rows] == ["7", "7", "0", "0", "0"]
    assert [str(row["staged_pass_packets"]) for row in rows] == ["0", "0", "0", "0", "1"]
    assert (rows[4]["state"], str(rows[4]["dropped"])) == ("REFUSED", "1")
    assert rows[0]["staged_rule_path"] == f"{PATH}p/rules/rest"
    assert rows[1]["staged_rule"] == nothing
    assert rows[2]["staged_verdict"] == "ALLOW"


def test_a_reply_tells_of_its_flow_in_the_flows_direction(run: Run) -> None:
    """The first packet that differs is an answer: the staged policy begins in the middle of the connection."""
    Path("s.yaml").write_text(
        POLICY
        + NEW.replace("rules:", "scheduler_path: later\nrules:")
        + "---\nresource_type: PolicyFirewallScheduler\nid: later\ntimezone: UTC\n"
        + "start_date: 11/14/2023\nend_date: 11/14/2023\n"
        + 'time_interval: [{start_interval: "22:30", end_interval: "23:30"}]\n'
    )
    assert NOW // 10**9 == 1_700_000_000, "22:13:20 of that day"
    seconds = (0, 1, 2, 1100, 1101, 1102, 1103)
    talk = [Captured(NOW + at * 10**9, data, len(data), 1) for at, data in zip(seconds, conversation(), strict=True)]
    Path("cap.pcap").write_bytes(pcap_write(talk))
    outputs = {}
    for backend in ("native", "oracle"):
        done = run("cap.pcap", "--verdicts", f"{backend}.v", "--backend", backend, "-o", "json", policy="s.yaml")
        assert done.status == 0, done.err
        outputs[backend] = done.json["staged"], Path(f"{backend}.v").read_bytes()
    assert outputs["native"] == outputs["oracle"]
    (flow,) = outputs["native"][0]["flows"]
    assert (flow["n"], flow["packets"]) == (4, 4)
    assert (flow["src"], flow["sport"], flow["dst"], flow["dport"]) == ("10.0.0.1", 1000, "10.0.0.2", 80)
    assert flow["staged"]["reason"] == "policy-change"


def test_repetitions_and_files_of_their_own(run: Run) -> None:
    Path("s.yaml").write_text(POLICY + TIGHTER)
    capture("a.pcap", conversation())
    capture("b.pcap", [frame(BACK.tcp(80, 1000, 501, 104, 0x10, 9000, b"200"), BACK), *conversation()])
    for more in ((), ("--each",), ("--each", "--repeat", "2")):
        found = [
            run("a.pcap", "b.pcap", *more, "--backend", name, "-o", "json", policy="s.yaml").json["staged"]
            for name in ("native", "oracle")
            if name == "native" or "--repeat" not in more
        ]
        assert all(item == found[0] for item in found)
        # Where state carries over, the second file's first packet still belongs to the first file's connection.
        assert found[0]["cut"]["flows"] == 2
        assert found[0]["cut"]["packets"] == (14 if more else 15)


@pytest.mark.parametrize("in_force", [False, True])
def test_one_world_may_decide_a_fragment_long_before_the_other(run: Run, in_force: bool) -> None:
    """Layer-2 rules drop the client's frames in one of the worlds; in the other they wait for the end of the input."""
    layer2 = """\
---
resource_type: Group
id: client
expression: [{resource_type: MACAddressExpression, mac_addresses: ["02:00:00:00:00:01"]}]
---
resource_type: SecurityPolicy
id: frames
category: Ethernet
rules: [{id: no-client, source_groups: [client], action: DROP}]
"""
    either = layer2 if in_force else layer2.replace("category:", "staged: true\ncategory:")
    staged = (
        layer2.split("---\n")[2]
        .replace("action: DROP", "action: ALLOW")
        .replace("category:", "staged: true\ncategory:")
    )
    Path("s.yaml").write_text(POLICY + either + (f"---\n{staged}" if in_force else ""))
    pieces = fragments(THERE.udp(5000, 53, b"x" * 64), [16, 32], 7)
    held = fragments(THERE.udp(5001, 53, b"y" * 64), [16], 8)
    capture("cap.pcap", [frame(held[0]), frame(pieces[0]), *conversation(), frame(pieces[2]), frame(pieces[1])])
    found = {}
    for backend in ("native", "oracle"):
        outputs = ("--verdicts", f"{backend}.v", "--flows", f"{backend}.f", "--backend", backend, "-o", "json")
        done = run("cap.pcap", "--inventory", "i.yaml", *outputs, policy="s.yaml")
        found[backend] = done.json["staged"], Path(f"{backend}.v").read_bytes(), Path(f"{backend}.f").read_bytes()
    assert found["native"] == found["oracle"]
    numbers = [line["n"] for line in lines("native.v")]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(1, 12))
    first = lines("native.v")[0]
    reasons = first["reason"], first["staged"]["reason"]
    assert reasons == (("match", "frag-incomplete") if in_force else ("frag-incomplete", "match"))
    change = "pass" if in_force else "cut"
    (datagram,) = (flow for flow in found["native"][0]["flows"] if flow["proto"] == 17)
    assert (datagram["change"], datagram["packets"], datagram["sport"], datagram["dport"]) == (change, 3, None, None)


# explain, matrix, check


def explained(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    capfd.readouterr()
    status = cli.run(["explain", "--policy", "s.yaml", "--inventory", "i.yaml", *arguments])
    return status, capfd.readouterr().out


def test_explain_shows_it_beside(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(POLICY + TIGHTER)
    ends = ("--from", "client", "--to", "server", "--dport")
    status, out = explained(capfd, *ends, "80", "-o", "json")
    data = json.loads(out)
    jsonschema.Draft202012Validator(json.loads(schema_files()["explain"].read_text("utf-8"))).validate(data)
    assert (status, data["allowed"], data["staged"]["allowed"], data["staged"]["arrives"]) == (0, True, False, False)
    assert data["staged"]["pairs"] == {"judged": 1, "allowed": 0, "changed": 1}
    assert [step["staged"]["reached"] for step in data["steps"]] == [True, False]
    assert {step["staged"]["rule_path"] for step in data["steps"]} == {f"{PATH}p/rules/rest"}
    status, text = explained(capfd, *ends, "80")
    assert status == 0
    assert "with the staged policies in force it would not arrive" in text
    assert "  staged       DROP by p/rules/rest  (id 1004, Application, DROP)" in text
    status, text = explained(capfd, *ends, "3306")
    assert status == 1
    assert "with the staged policies in force it would arrive" in text
    status, text = explained(capfd, *ends, "25")
    assert "  staged       the same" in text
    status, text = explained(capfd, "--from", "any", "--to", "any", "--dport", "22")
    assert "pairs would differ; the first is client" in text


def test_matrix_as_it_would_be(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("s.yaml").write_text(POLICY + TIGHTER)
    found = {}
    for more in ((), ("--staged",)):
        capfd.readouterr()
        assert cli.run(["matrix", "--policy", "s.yaml", "--inventory", "i.yaml", "-o", "json", *more]) == 0
        rows = json.loads(capfd.readouterr().out)
        found[more] = {row["allowed"] for row in rows if row["from"] != row["to"]}
    assert found == {(): {True}, ("--staged",): {False}}


def test_check_lints_staged_rules_as_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "i.yaml").write_text(INVENTORY)
    staged = TIGHTER.replace(
        "  - {id: rest, action: DROP}", "  - {id: all, action: DROP}\n  - {id: rest, action: DROP}"
    )
    (tmp_path / "s.yaml").write_text(POLICY + staged)
    files = (str(tmp_path / "i.yaml"), str(tmp_path / "s.yaml"))
    result = check_files(files)
    assert result["ok"]
    assert result["counts"]["policies"] == 1
    assert result["counts"]["staged policies"] == 1
    mine = [item for item in result["warnings"] if item["rule_path"] == f"{PATH}p/rules/rest"]
    assert [
        item["message"].partition(":")[0] for item in mine if "shadow" in item["kind"] or "redundant" in item["kind"]
    ] == ["with the staged policies in force"]
    # In force the same rules say nothing: no staged rule shadows them.
    (tmp_path / "s.yaml").write_text(POLICY)
    before = {item["message"] for item in check_files(files)["warnings"]}
    after = {item["message"] for item in result["warnings"] if not item["message"].startswith("with the staged")}
    assert before == after


def test_check_says_what_staged_rules_do_to_those_in_force(tmp_path: Path) -> None:
    """A staged policy that decides everything first: the rules in force would never decide, and are not wrong now."""
    (tmp_path / "i.yaml").write_text(INVENTORY)
    (tmp_path / "s.yaml").write_text(POLICY + NEW.replace("services: [HTTP], ", ""))
    files = (str(tmp_path / "i.yaml"), str(tmp_path / "s.yaml"))
    result = check_files(files)
    schema = json.loads(schema_files()["check"].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(result)
    found = {(item["kind"], item["rule_path"]): item for item in result["warnings"] if item["staged"]}
    for path in (f"{PATH}p/rules/{name}" for name in ("names", "mysql", "rest")):
        item = found["unreachable", path]
        assert item["message"].startswith("with the staged policies in force: ")
        assert item["rules"] == [f"{PATH}front/rules/no-web"] and item["packet"]
    (tmp_path / "s.yaml").write_text(POLICY)
    plain = check_files(files)["warnings"]
    assert [item for item in result["warnings"] if not item["staged"]] == plain
    assert not any(item["kind"] == "unreachable" for item in plain)
