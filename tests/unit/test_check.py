# SPDX-License-Identifier: Apache-2.0
"""`palisade check`: errors, warnings, exit statuses, and that every shadow is one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfw.capabilities import NATIVE_ALGS
from dfw.check import check_files
from dfw.cli import run
from dfw.documents import documents_parse
from dfw.errors import PolicyError, UnsupportedError
from dfw.findings import Finding
from dfw.lint import lint
from dfw.load import load_documents
from dfw.model import Alg

Run = Callable[..., subprocess.CompletedProcess[str]]
INVENTORY = {
    "apiVersion": "palisade.internal/v1alpha1",
    "kind": "Inventory",
    "ports": [
        {"name": "a", "ips": ["10.0.0.1"], "tags": [{"scope": "app", "tag": "web"}]},
        {"name": "b", "ips": ["10.0.0.2"], "tags": [{"scope": "app", "tag": "db"}]},
    ],
}


def group(name: str, value: str) -> dict[str, Any]:
    term = {"resource_type": "Condition", "member_type": "SegmentPort", "key": "Tag", "operator": "EQUALS"}
    return {"resource_type": "Group", "id": name, "expression": [{**term, "value": value}]}


def policy(*rules: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"resource_type": "SecurityPolicy", "id": "p", "category": "Application", "rules": list(rules), **fields}


def rule(name: str = "r", **fields: Any) -> dict[str, Any]:
    return {"id": name, "action": "ALLOW", "services": ["HTTP"], **fields}


def warnings(*documents: dict[str, Any]) -> list[Finding]:
    return lint(load_documents(documents_parse("\n".join(map(json.dumps, documents)).encode(), "f.json")))


def kinds(*documents: dict[str, Any]) -> list[str]:
    return [finding.kind for finding in warnings(*documents)]


def test_nothing_to_complain_of() -> None:
    web = group("web", "app|web")
    assert (
        kinds(INVENTORY, web, policy(rule(source_groups=["web"]), rule("rest", services=["ANY"], action="DROP"))) == []
    )


def test_equal_sequence_numbers() -> None:
    assert kinds(policy(rule()), policy(rule("s", services=["SSH"]), id="q")) == ["equal-sequence-numbers"]
    assert kinds(policy(rule()), policy(rule("s", services=["SSH"]), id="q", sequence_number=1)) == []
    assert kinds(policy(rule()), policy(rule("s", services=["SSH"]), id="q", category="Emergency")) == []
    both = [rule("a", sequence_number=1), rule("b", sequence_number=1, services=["SSH"])]
    (found,) = warnings(policy(*both))
    assert (found.kind, found.rule_path.endswith("p/rules/b")) == ("equal-sequence-numbers", True)


def test_empty_groups_and_rules_programmed_nowhere_need_an_inventory() -> None:
    documents = [group("none", "app|none"), policy(rule(source_groups=["none"], scope=["none"]))]
    assert kinds(INVENTORY, *documents) == ["empty-group", "programmed-nowhere"]
    assert kinds(*documents) == []
    nobody = {"resource_type": "Group", "id": "nobody"}
    assert kinds(nobody, policy(rule(source_groups=["nobody"]))) == ["empty-group", "unreachable"]


def test_unused() -> None:
    service = {
        "resource_type": "Service",
        "id": "s",
        "service_entries": [{"resource_type": "IGMPTypeServiceEntry"}],
    }
    assert kinds(INVENTORY, group("web", "app|web"), service, policy(rule())) == ["unused", "unused"]


@pytest.mark.parametrize(
    ("entry", "services", "expected"),
    [
        ({"l4_protocol": "TCP", "destination_ports": ["21"]}, [], ["alg-port"]),
        ({"l4_protocol": "TCP", "destination_ports": ["80", "20-21"]}, [], ["alg-port"]),
        ({"l4_protocol": "UDP", "destination_ports": ["69"]}, [], ["alg-port"]),
        ({"l4_protocol": "UDP", "destination_ports": ["21"]}, [], []),
        ({"l4_protocol": "TCP", "destination_ports": ["1-1023"]}, [], []),
        ({"l4_protocol": "TCP", "destination_ports": ["21"]}, ["FTP"], []),
    ],
)
def test_ports_of_algs_by_number(entry: dict[str, Any], services: list[str], expected: list[str]) -> None:
    service = {"resource_type": "Service", "id": "s"}
    service["service_entries"] = [{"resource_type": "L4PortSetServiceEntry", "id": "e", **entry}]
    assert kinds(service, policy(rule(services=[*services, "s"]))) == expected
    assert kinds(service, policy(rule(services=[*services, "s"], action="DROP"))) == []


def test_any_any() -> None:
    assert kinds(policy(rule(services=["ANY"]))) == ["any-any"]
    assert kinds(policy(rule(services=["ANY"], action="DROP"))) == []
    assert kinds(policy(rule(services=["ANY"], disabled=True))) == []


def test_what_a_packet_can_show_is_shown() -> None:
    """Of rules in which nothing is wrong but their place or width: a packet that they match, or both of them."""

    def shown(*documents: dict[str, Any]) -> list[tuple[str, int | None]]:
        found = warnings(INVENTORY, *documents)
        return [(item.kind, item.packet["destination_port"] if item.packet else None) for item in found]

    assert shown(policy(rule(services=["ANY"]))) == [("any-any", 40000)]
    ports = {"resource_type": "L4PortSetServiceEntry", "l4_protocol": "TCP", "destination_ports": ["20-25"]}
    assert shown(policy(rule(services=["ANY"], service_entries=[ports]))) == [("alg-port", 21)]
    both = [rule("a", sequence_number=1, services=["HTTP", "SSH"]), rule("b", sequence_number=1, action="DROP")]
    assert ("equal-sequence-numbers", 80) in shown(policy(*both))
    apart = [both[0], {**both[1], "services": ["HTTPS"]}]
    assert shown(policy(*apart)) == [("equal-sequence-numbers", None)], "their order does not matter"
    other = [rule("c", services=["SSH"]), rule("d", services=["HTTP"], action="DROP")]
    assert ("equal-sequence-numbers", 80) in shown(policy(rule("a", services=["SSH", "HTTP"])), policy(*other, id="q"))


# -- the verb


@pytest.fixture
def files(tmp_path: Path) -> Callable[..., str]:
    def write(name: str, *documents: dict[str, Any]) -> str:
        file = tmp_path / name
        file.write_text("\n".join(map(json.dumps, documents)), encoding="utf-8")
        return str(file)

    return write


def test_exit_statuses(files: Callable[..., str]) -> None:
    clean = files("clean.json", policy(rule()))
    odd = files("odd.json", policy(rule(services=["ANY"])))
    bad = files("bad.json", policy(rule(action="PERMIT")))
    assert run(["check", clean]) == 0
    assert run(["check", "--strict", clean]) == 0
    assert run(["check", odd]) == 0
    assert run(["check", "--strict", odd]) == 1
    for arguments in ((bad,), ("--strict", bad), (clean, bad), (clean, "absent.json")):
        assert run(["check", *arguments]) == 2
    assert run(["check"]) == 2


def test_errors_stand_on_stderr_one_a_line(palisade: Run, files: Callable[..., str]) -> None:
    bad = files("bad.json", policy(rule(action="PERMIT"), rule("s", direction="UP")))
    done = palisade("check", bad)
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"{bad}:1:")
    assert "rules[0].action: 'PERMIT' is not one of ALLOW" in lines[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["clean", "odd", "bad"])
def test_json_has_its_schema(palisade: Run, files: Callable[..., str], name: str) -> None:
    documents = {
        "clean": [policy(rule())],
        "odd": [INVENTORY, group("none", "x|y"), policy(rule("a"), rule("b"))],
        "bad": [policy(rule(action="PERMIT"))],
    }
    done = palisade("check", "-o", "json", files("f.json", *documents[name]))
    schema = json.loads(palisade("schema", "check").stdout)
    found = json.loads(done.stdout)
    jsonschema.validate(found, schema)
    assert found["ok"] is (name != "bad")
    assert bool(found["warnings"]) is (name == "odd")


def test_standard_input() -> None:
    text = json.dumps(policy(rule(action="PERMIT")))
    done = subprocess.run(
        [sys.executable, "-m", "dfw", "check", "-"], input=text, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("-:1:")


def test_what_the_core_cannot_do_is_an_error_with_its_place(
    files: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(NATIVE_ALGS, Alg.FTP)
    found = check_files((files("f.json", policy(rule(services=["FTP"]))),))
    (error,) = found["errors"]
    assert (error["line"], error["path"]) == (1, "rules[0]")
    assert "the ALG FTP is not supported by the packet core" in error["message"]


def test_nothing_heavy_is_imported(files: Callable[..., str]) -> None:
    code = "import sys; from dfw.cli import run; run(sys.argv[1:]); print('\\n'.join(sys.modules), file=sys.stderr)"
    arguments = [sys.executable, "-c", code, "check", files("f.json", INVENTORY, policy(rule()))]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert not set(done.stderr.split()) & {"numpy", "numba", "pyarrow", "pydantic", "rich", "_palisade_core"}


def test_the_example_is_without_warnings(root_folder: Path) -> None:
    shop = root_folder / "examples" / "shop"
    found = check_files(tuple(str(shop / name) for name in ("policy.yaml", "inventory.yaml")))
    assert (found["errors"], found["warnings"]) == ([], [])
    assert found["counts"]["rules"] >= 10


def test_errors_say_what_they_carry() -> None:
    error = PolicyError.at("f", 3, 4, "a.b", "no")
    assert (str(error), error.file, error.line, error.column, error.path, error.message) == (
        "f:3:4: a.b: no",
        "f",
        3,
        4,
        "a.b",
        "no",
    )
    with pytest.raises(ValueError, match="at least one"):
        PolicyError([])
    assert str(UnsupportedError("native", "x")) == "the enforcer native does not support x"


def test_more_layer_2_entries_than_a_filter_takes(files: Callable[..., str]) -> None:
    rules = [{"id": f"r{number}", "action": "DROP"} for number in range(129)]
    both, inventory = policy(*rules, category="Ethernet"), files("i.json", INVENTORY)
    scoped = [{**item, "scope": ["web" if at % 2 else "db"]} for at, item in enumerate(rules)]
    groups = (group("web", "app|web"), group("db", "app|db"))
    [error] = check_files((files("p.json", both), inventory))["errors"]
    assert error["message"] == "129 layer-2 entries at a (at most 128) are not supported by the packet core"
    assert error["line"] == 1
    assert check_files((files("q.json", policy(*scoped, category="Ethernet"), *groups), inventory))["errors"] == []
    assert check_files((files("p.json", both),))["errors"] == []
