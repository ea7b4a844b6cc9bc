# SPDX-License-Identifier: Apache-2.0
"""`palisade diff`: sets and samples, recorded flows and captures, exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfw.cli import run
from dfw.schema import schema_files

pytest.importorskip("dfw.core", reason="the packet core is not built")

INVENTORY = {
    "apiVersion": "palisade.internal/v1alpha1",
    "kind": "Inventory",
    "ports": [
        {"name": "web", "ips": ["10.0.0.1"], "tags": [{"scope": "app", "tag": "web"}]},
        {"name": "db", "ips": ["10.0.0.2"], "tags": [{"scope": "app", "tag": "db"}]},
    ],
}
TERM = {"resource_type": "Condition", "member_type": "SegmentPort", "key": "Tag", "operator": "EQUALS"}
GROUPS = [
    {"resource_type": "Group", "id": name, "expression": [{**TERM, "value": f"app|{name}"}]} for name in ("web", "db")
]
REST = {"id": "rest", "action": "DROP"}


def rule(**fields: Any) -> dict[str, Any]:
    return {
        "id": "r",
        "action": "ALLOW",
        "source_groups": ["web"],
        "destination_groups": ["db"],
        "services": ["MySQL"],
        **fields,
    }


@pytest.fixture
def policy(tmp_path: Path) -> Callable[..., str]:
    """Writes a policy; returns the file's name."""

    def write(name: str, *rules: dict[str, Any], documents: tuple[dict[str, Any], ...] = (), **fields: Any) -> str:
        whole = {
            "resource_type": "SecurityPolicy",
            "id": "p",
            "category": "Application",
            "rules": list(rules),
            **fields,
        }
        file = tmp_path / f"{name}.json"
        every = [*GROUPS, whole, *documents]
        file.write_text("\n".join(map(json.dumps, every)), encoding="utf-8")
        return str(file)

    return write


@pytest.fixture
def inventory(tmp_path: Path) -> str:
    file = tmp_path / "inventory.json"
    file.write_text(json.dumps(INVENTORY), encoding="utf-8")
    return str(file)


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """`diff -o json`, checked against its schema and the exit status that goes with it."""
    schema = json.loads(schema_files()["diff"].read_text(encoding="utf-8"))

    def ask(*arguments: str) -> dict[str, Any]:
        capsys.readouterr()
        status = run(["diff", *arguments, "-o", "json"])
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        jsonschema.validate(found, schema)
        assert status == (0 if found["equal"] else 1)
        return found

    return ask


def texts(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(change["change"], item["text"]) for change in found["changes"] for item in change["sets"]]


def test_the_table(policy: Any, inventory: str, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = policy("old", rule(), REST), policy("new", rule(services=["MySQL", "SSH"]), REST)
    assert run(["diff", old, "--to", new, "--inventory", inventory]) == 1
    lines = capsys.readouterr().out.splitlines()
    path = "/infra/domains/default/security-policies/p/rules"
    assert lines == [
        f"newly passes: DROP {path}/rest -> ALLOW {path}/r",
        "  tcp/22 from 10.0.0.1 to 10.0.0.2, IN and OUT at every vNIC",
        "    for example tcp 10.0.0.1 port 40000 to 10.0.0.2 port 22, OUT at web",
        "1 set of packets is judged otherwise at 2 vNICs",
    ]


def test_a_service_more(policy: Any, inventory: str, answer: Any) -> None:
    old, new = policy("old", rule(), REST), policy("new", rule(services=["MySQL", "SSH"]), REST)
    found = answer(old, "--to", new, "--inventory", inventory)
    assert texts(found) == [("passes", "tcp/22 from 10.0.0.1 to 10.0.0.2, IN and OUT at every vNIC")]
    (change,) = found["changes"]
    assert [side["rule_path"].rpartition("/")[2] for side in (change["old"], change["new"])] == ["rest", "r"]
    sample = change["sets"][0]["sample"]
    assert (sample["vnic"], sample["dir"], sample["source"], sample["destination_port"]) == (
        "web",
        "OUT",
        "10.0.0.1",
        22,
    )
    back = answer(new, "--to", old, "--inventory", inventory)
    assert texts(back) == [("refused", "tcp/22 from 10.0.0.1 to 10.0.0.2, IN and OUT at every vNIC")]


def test_what_means_the_same_is_equal(policy: Any, inventory: str, answer: Any) -> None:
    old = policy("old", rule(), rule(id="s", services=["SSH"]), REST)
    new = policy("new", rule(services=["SSH", "MySQL"]), {**REST, "id": "last"})
    found = answer(old, "--to", new, "--inventory", inventory)
    assert (found["equal"], found["changes"]) == (True, [])


ENDS, EVERYWHERE = "from 10.0.0.1 to 10.0.0.2", ", IN and OUT at every vNIC"


@pytest.mark.parametrize(
    ("before", "after", "fields", "expected"),
    [
        ({"action": "DROP"}, {"action": "REJECT"}, {}, [("refusal", f"tcp/3306 {ENDS}{EVERYWHERE}")]),
        ({}, {}, {"stateful": False}, [("state", f"tcp/3306 {ENDS}{EVERYWHERE}")]),
        ({}, {}, {"tcp_strict": False}, [("state", f"tcp/3306 (all but SYN) {ENDS}{EVERYWHERE}")]),
        ({"services": ["DNS-UDP"]}, {"services": ["DNS-UDP"]}, {"tcp_strict": False}, []),
        (
            {"services": ["ICMP_Echo_Request"]},
            {"services": ["ICMP-ALL"]},
            {},
            [("passes", f"icmp type 0-7,9-255 {ENDS}{EVERYWHERE}")],
        ),
        ({}, {"direction": "IN"}, {}, [("refused", f"tcp/3306 {ENDS}, OUT at every vNIC")]),
        ({}, {"scope": ["db"]}, {}, [("refused", f"tcp/3306 {ENDS}, IN and OUT at web")]),
        (
            {},
            {"source_groups": ["ANY"]},
            {},
            [("passes", f"tcp/3306 from 0.0.0.0-10.0.0.0, 10.0.0.2-255.255.255.255 to 10.0.0.2{EVERYWHERE}")],
        ),
    ],
)
def test_one_change(
    before: Any, after: Any, fields: Any, expected: Any, policy: Any, inventory: str, answer: Any
) -> None:
    old, new = policy("old", rule(**before), REST), policy("new", rule(**after), REST, **fields)
    assert texts(answer(old, "--to", new, "--inventory", inventory)) == expected


def test_several_files_on_both_sides(policy: Any, inventory: str, answer: Any, tmp_path: Path) -> None:
    more = tmp_path / "more.json"
    more.write_text(
        json.dumps({"resource_type": "SecurityPolicy", "id": "q", "category": "Emergency", "rules": [REST]}),
        encoding="utf-8",
    )
    old, new = policy("old", rule(), REST), policy("new", rule(), REST)
    assert answer(old, inventory, "--to", new, inventory)["equal"]
    found = answer(old, inventory, "--to", new, str(more), inventory)
    assert [change["change"] for change in found["changes"]].count("refused") >= 1


def test_without_an_inventory_one_filter_judges(policy: Any, answer: Any) -> None:
    ends = {"source_groups": ["10.0.0.1"], "destination_groups": ["10.0.0.2"]}
    old, new = policy("old", rule(**ends), REST), policy("new", rule(**ends, action="REJECT"), REST)
    found = answer(old, "--to", new)
    assert found["filter"] == "tap"
    assert texts(found) == [("refused", "tcp/3306 from 10.0.0.1 to 10.0.0.2")]


def test_inventories_that_differ(policy: Any, answer: Any) -> None:
    ports = [*INVENTORY["ports"], {"name": "web-2", "ips": ["10.0.0.3"], "tags": [{"scope": "app", "tag": "web"}]}]
    old = policy("old", rule(), REST, documents=(INVENTORY,))
    new = policy("new", rule(), REST, documents=({**INVENTORY, "ports": ports},))
    found = answer(old, "--to", new)
    assert found["vnics"] == {"compared": 2, "added": ["web-2"], "removed": []}
    assert texts(found) == [("passes", "tcp/3306 from 10.0.0.3 to 10.0.0.2, IN and OUT at every vNIC")]


def test_layer_2_rules_and_timers_are_named(policy: Any, inventory: str, answer: Any) -> None:
    ether = {
        "resource_type": "SecurityPolicy",
        "id": "e",
        "category": "Ethernet",
        "rules": [{"id": "x", "action": "DROP"}],
    }
    old, new = policy("old", rule(), REST), policy("new", rule(), REST, documents=(ether,))
    assert answer(old, "--to", new, "--inventory", inventory)["others"] == ["layer-2 rules"]


def test_bad_usage(policy: Any, inventory: str, tmp_path: Path) -> None:
    old = policy("old", rule(), REST)
    both = policy("both", rule(), REST, documents=(INVENTORY,))
    flows = tmp_path / "f.jsonl"
    flows.write_text('{"vnic": "web"}\n', encoding="utf-8")
    assert run(["diff", old]) == 2
    assert run(["diff", old, "--to"]) == 2
    assert run(["diff", "-", "--to", "-"]) == 2
    assert run(["diff", old, "--to", old, "--inventory", "-"]) == 2
    assert run(["diff", "--to", old]) == 2
    assert run(["diff", old, "--to", both]) == 2
    assert run(["diff", old, "--to", old, "--inventory", inventory, "--flows", str(flows)]) == 2
    assert run(["diff", old, "--to", old, "--inventory", inventory, "--flows", "absent.csv"]) == 2
    assert run(["diff", old, "--to", old, "--inventory", inventory, "--flows", "absent.pcap"]) == 2


@pytest.fixture(scope="module")
def shop(root_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's capture, its flows by the example's policy, and that policy without the way to the database."""
    folder = tmp_path_factory.mktemp("shop")
    example = root_folder / "examples" / "shop"
    command = [sys.executable, "-m", "scripts.demo.synthetic", str(folder)]
    subprocess.run(command, cwd=root_folder, check=True, capture_output=True)
    text = (example / "policy.yaml").read_text(encoding="utf-8")
    changed = text.replace("services: [MySQL], action: ALLOW", "services: [MySQL], action: DROP")
    assert changed != text
    (folder / "changed.yaml").write_text(changed, encoding="utf-8")
    return folder


@pytest.mark.parametrize("recorded", ["f.jsonl", "f.csv", "shop.pcap"])
def test_recorded_flows_that_change(
    recorded: str, shop: Path, root_folder: Path, answer: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two connections to the database, of both families, each seen at two vNICs."""
    policy, inventory = (str(root_folder / "examples" / "shop" / name) for name in ("policy.yaml", "inventory.yaml"))
    if recorded.startswith("f."):
        arguments = ["--policy", policy, "--inventory", inventory, "--flows", str(shop / recorded)]
        assert run(["replay", str(shop / "shop.pcap"), *arguments]) == 0
    changed, inputs = str(shop / "changed.yaml"), ("--inventory", inventory, "--flows", str(shop / recorded))
    flows = answer(policy, "--to", changed, *inputs)["flows"]
    assert flows["unknown"] == 0 and flows["examined"] > 60
    ends = sorted((item["change"], item["vnic"], item["src"], item["dport"]) for item in flows["changed"])
    sources = ("10.1.2.11", "2001:db8:2::11")
    assert ends == [("refused", vnic, source, 3306) for vnic in ("app-1", "db-1") for source in sources]
    assert run(["diff", policy, "--to", changed, *inputs]) == 1
    assert "flow newly refused: tcp 10.1.2.11 port " in capsys.readouterr().out
    assert answer(policy, "--to", policy, *inputs)["flows"]["changed"] == []
