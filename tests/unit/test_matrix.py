# SPDX-License-Identifier: Apache-2.0
"""`palisade matrix`: rows, named ports, what is unknown, families, and the table."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
from click.testing import CliRunner

from dfw.matrix import Asked, Matrix, matrix, ports_parse
from dfw.reach import Reachability
from dfw.schema import schema_files
from tests.support.kube import cluster_policy, labels, loaded, namespace, network_policy, pairs, pod

WEB = (("web", 80, "TCP"), ("dns", 53, "UDP"))


def rows(ports: str, *documents: Any) -> list[dict[str, Any]]:
    """The rows, by both ways of making them, as the schema has them."""
    answer = Matrix(Reachability(loaded(*documents).world), ports_parse(ports))
    stream = io.StringIO()
    answer.write_json(stream)
    found: list[dict[str, Any]] = json.loads(stream.getvalue())
    assert found == list(answer.rows())
    schema = json.loads(schema_files()["matrix"].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(found)
    return found


def test_rows_are_every_pair_for_every_port_with_the_rule_that_decided() -> None:
    found = rows(
        "tcp/80,udp/53",
        pod("x/a", "10.0.0.1", app="a"),
        pod("x/b", "10.0.0.2", app="b"),
        network_policy("x/p", podSelector=labels(app="a"), ingress=[{"ports": [{"port": 80}]}]),
    )
    assert [(row["from"], row["to"], row["protocol"]) for row in found] == [
        (one, other, protocol) for one in ("x/a", "x/b") for other in ("x/a", "x/b") for protocol in ("TCP", "UDP")
    ]
    by = {(row["from"], row["to"], row["protocol"]): row for row in found}
    assert by["x/b", "x/a", "TCP"] == {
        "from": "x/b",
        "to": "x/a",
        "protocol": "TCP",
        "port": 80,
        "port_name": None,
        "allowed": True,
        "egress": True,
        "ingress": True,
        "by": "np/x/p/ingress/0",
    }
    refused = by["x/b", "x/a", "UDP"]
    assert (refused["allowed"], refused["egress"], refused["ingress"]) == (False, True, False)
    assert refused["by"] == "np/x/p/isolation-ingress"
    assert by["x/a", "x/a", "UDP"]["allowed"], "a workload reaches itself"
    assert by["x/a", "x/b", "UDP"]["by"] == "default/ingress"


def test_a_named_port_is_each_receivers_own_and_a_receiver_without_it_has_no_row() -> None:
    found = rows(
        "web",
        pod("x/a", "10.0.0.1", ports=WEB),
        pod("x/b", "10.0.0.2", ports=[("web", 8080, "TCP"), ("web", 8081, "UDP")]),
        pod("x/c", "10.0.0.3"),
    )
    asked = {(row["to"], row["protocol"], row["port"]) for row in found if row["from"] == "x/c"}
    assert asked == {("x/a", "TCP", 80), ("x/b", "TCP", 8080), ("x/b", "UDP", 8081)}


def test_an_address_that_was_only_assumed_leaves_the_answer_open_where_it_matters() -> None:
    documents = [
        pod("x/known", "10.0.0.1", app="a"),
        pod("x/silent", app="b"),
        network_policy("x/p", podSelector=labels(app="a"), ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]),
    ]
    answer = pairs(*documents)
    assert answer.judge("x/silent", "x/known", "TCP", 80) == (None, True, None)
    assert answer.by("x/silent", "x/known", "TCP", 80) is None
    by_label = network_policy(
        "x/q", podSelector=labels(app="a"), ingress=[{"from": [{"podSelector": labels(app="b")}]}]
    )
    assert pairs(*documents, by_label).judge("x/silent", "x/known", "TCP", 80) == (True, True, True)
    refused = cluster_policy("no", ingress=[{"action": "Deny", "from": [{"namespaces": {}}]}])
    assert pairs(*documents, refused).judge("x/silent", "x/known", "TCP", 80) == (False, True, False)


def test_a_pair_talks_in_the_senders_first_family_that_the_receiver_has() -> None:
    answer = pairs(
        pod("x/four", "10.0.0.4"),
        pod("x/both", "fd00::b", "10.0.0.11"),
        pod("x/six", "fd00::6"),
        cluster_policy("no", egress=[{"action": "Deny", "to": [{"networks": ["fd00::/64"]}]}]),
    )
    assert answer.allowed("x/four", "x/both"), "over IPv4, its only family"
    assert answer.allowed("x/both", "x/six") is False
    assert answer.allowed("x/four", "x/six") is False, "no family in common"


def test_a_ping_is_an_echo_request_of_the_pairs_family() -> None:
    inventory = {
        "apiVersion": "palisade.internal/v1alpha1",
        "kind": "Inventory",
        "ports": [
            {"name": "four", "ips": ["10.0.0.4"]},
            {"name": "both", "ips": ["fd00::b", "10.0.0.11"]},
            {"name": "six", "ips": ["fd00::6"]},
        ],
    }

    def asked(protocol: str, kind: int) -> set[tuple[str, str]]:
        entry = {"resource_type": "ICMPTypeServiceEntry", "protocol": protocol, "icmp_type": kind}
        service = {"resource_type": "Service", "id": "ping", "service_entries": [entry]}
        rules = [{"id": "ping", "services": ["ping"], "action": "ALLOW"}, {"id": "rest", "action": "DROP"}]
        policy = {"resource_type": "SecurityPolicy", "id": "p", "category": "Application", "rules": rules}
        found = rows("icmp", inventory, service, policy)
        assert {(row["protocol"], row["port"]) for row in found} == {("ICMP", None)}
        return {(row["from"], row["to"]) for row in found if row["allowed"] and row["from"] != row["to"]}

    assert asked("ICMPv4", 8) == {("four", "both"), ("both", "four")}
    assert asked("ICMPv6", 128) == {("both", "six"), ("six", "both")}
    assert asked("ICMPv4", 0) == asked("ICMPv6", 129) == set()


def test_a_workload_without_any_address_is_unknown() -> None:
    inventory = {
        "apiVersion": "palisade.internal/v1alpha1",
        "kind": "Inventory",
        "ports": [{"name": "a", "ips": ["10.0.0.1"]}, {"name": "b", "ips": []}],
    }
    assert pairs(inventory).judge("a", "b", "TCP", 80) == (None, None, None)


@pytest.mark.parametrize("text", ["tcp/0", "tcp/65536", "80", "icmp/8", "", "tcp/", "UPPER", "icmp/8/0", "a" * 16])
def test_ports_are_refused_by_name(text: str) -> None:
    with pytest.raises(click.BadParameter):
        ports_parse(text)


def test_ports_are_read() -> None:
    assert ports_parse("TCP/80, sctp/9,icmp,web") == (
        Asked("TCP/80", 6, 80),
        Asked("sctp/9", 132, 9),
        Asked("icmp", 1),
        Asked("web", name="web"),
    )


def test_the_command_prints_a_grid_and_says_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    documents = [namespace("x"), pod("x/a", "10.0.0.1", ports=WEB), pod("x/b", "10.0.0.2"), network_policy("x/deny")]
    path.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": documents}), encoding="utf-8")
    done = CliRunner().invoke(matrix, ["--policy", str(path), "--ports", "tcp/80,web"])
    assert done.exit_code == 0
    grids = done.output.split("\n\n")
    assert grids[0].splitlines()[1:] == ["      1 2", "1 x/a . X", "2 x/b X ."]
    assert grids[1].splitlines()[1:] == ["      1 2", "1 x/a .", "2 x/b X"]
    path.write_text(json.dumps(namespace("x")), encoding="utf-8")
    done = CliRunner().invoke(matrix, ["--policy", str(path)])
    assert done.exit_code == 2
    assert "there are no workloads" in done.output
