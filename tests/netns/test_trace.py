# SPDX-License-Identifier: Apache-2.0
"""Traceflow in a lab of the shop: what a packet meets there is what `explain` says at each vNIC; and what is staged."""

from __future__ import annotations

import json
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfw import cli
from dfw.explain_run import probes_of
from dfw.load import load
from dfw.model import PolicySet
from dfw.probe import judge_both
from dfw.schema import schema_files
from overlay.enter import run_in
from overlay.show import read_hosts
from overlay.trace import follow
from overlay.which_agents import lab_sockets
from tests.support.patience import PATIENCE

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
    pytest.mark.needs_ipv6,
    pytest.mark.needs_tool("nsenter", "unshare"),
]
SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
PACKETS = (("tcp", 80), ("tcp", 8080), ("tcp", 3306), ("tcp", 22), ("udp", 53), ("icmp", None))


@pytest.fixture(scope="module")
def world() -> PolicySet:
    return load([str(SHOP / "inventory.yaml"), str(SHOP / "policy.yaml")]).world


@pytest.fixture(scope="module")
def run() -> Iterator[Path]:
    """A running lab of the shop; where labs are kept."""
    folder = Path(tempfile.mkdtemp(prefix="pal-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALISADE_RUN", str(folder / "run"))
        try:
            assert cli.run(["lab", "up", str(SHOP / "inventory.yaml"), str(SHOP / "policy.yaml")]) == 0
            yield folder / "run"
        finally:
            cli.run(["lab", "down", "--all"])
            shutil.rmtree(folder)


@pytest.mark.parametrize("family", ["4", "6"])
def test_every_pair_meets_what_explain_says(run: Path, world: PolicySet, family: str) -> None:
    sockets = lab_sockets(None)
    asked = []
    for source in world.inventory.ports:
        for target in world.inventory.ports:
            for proto, dport in PACKETS:
                if source == target or (proto == "icmp" and family == "6"):
                    continue
                options = {"proto": proto, "dport": None if dport is None else str(dport), "family": family}
                empty = {"sport": None, "icmp_type": None, "icmp_code": 0}
                (probe,) = probes_of(world, source=source, destination=target, **options, **empty)  # type: ignore[arg-type]
                asked.append((source, target, probe))
    expected = judge_both(world, [probe for _, _, probe in asked], world.inventory)
    outcomes = set()
    before = counts(sockets)
    for mark, ((source, target, probe), verdicts) in enumerate(zip(asked, expected, strict=True), 10000 * int(family)):
        host = world.inventory.ports[source].host
        assert host is not None
        request = {"do": "trace", "vnic": source, "dst": str(probe.destination.address), "mark": mark}
        rows = follow(sockets, host, request | {"proto": probe.protocol, "sport": probe.sport, "dport": probe.dport})
        met = [(row["vnic"], row["dir"], row["verdict"], row["rule_path"]) for row in rows if row["stage"] == "filter"]
        wanted = [(found.vnic, found.dir, found.verdict, found.rule_path) for found in verdicts]
        assert met == wanted, (source, target, probe.service, rows)
        arrives = all(found.verdict == "ALLOW" for found in verdicts)
        assert (rows[-1]["stage"] == "delivered") is arrives
        crosses = world.inventory.ports[target].host != host
        outcomes.add((len(met), arrives, crosses and any(row["stage"] == "received" for row in rows)))
    assert {(2, True, True), (2, True, False), (1, False, False)} <= outcomes
    assert counts(sockets) == before, "no rule has counted any of them"


def counts(sockets: dict[str, Path]) -> dict[tuple[str, str], int]:
    """Hits of the policy's rules; not of the one that stops all that a pod's kernel says by itself, too."""
    answers = read_hosts(sockets, {"do": "show", "what": "counters"})
    rows = [(host, row) for host, answer in answers.items() for row in answer["rows"]]
    return {(host, row["rule_path"]): row["hits"] for host, row in rows if "/shop/rules/" in row["rule_path"]}


def test_the_command_says_where_it_went(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def trace(*arguments: str, status: int = 0) -> Any:
        capfd.readouterr()
        assert cli.run(["trace", *arguments, "-o", "json"]) == status
        data = json.loads(capfd.readouterr().out)
        jsonschema.validate(data, json.loads(schema_files()["trace"].read_text()))
        return data

    answer = trace("--from", "web-1", "--to", "app-2", "--dport", "8080")
    rows = answer["observations"]
    way = ["sent", "filter", "route", "forwarded", "encapsulated", "received", "forwarded", "filter", "delivered"]
    assert [row["stage"] for row in rows] == way and answer["arrived"]
    assert (rows[2]["gateway"], rows[2]["route"], rows[2]["route_kind"]) == ("t1-shop", "10.1.2.0/24", "connected")
    assert (rows[4]["segment"], rows[4]["vni"], rows[4]["tep"]) == ("app", 5002, "172.16.0.12")
    assert (rows[5]["host"], rows[5]["remote_host"], rows[8]["vnic"]) == ("esx-2", "esx-1", "app-2")
    assert trace("--from", "web-1", "--to", "10.1.1.1", "--proto", "icmp")["observations"][-1]["stage"] == "answered"
    lost = trace("--from", "app-1", "--to", "203.0.113.9", "--dport", "80", status=1)
    assert not lost["arrived"]
    assert cli.run(["trace", "--from", "web-1", "--to", "db-1", "--dport", "3306"]) == 1
    text = capfd.readouterr().out
    assert text.startswith("web-1 -> db-1 (10.1.3.11): does not arrive") and "web-1 OUT" in text
    for wrong in (["--from", "nobody"], ["--dport", "80", "--from", "web-1", "--to", "nowhere"], ["--from", "web-1"]):
        assert cli.run(["trace", "--to", "db-1", *wrong]) == 2


STAGED = """
resource_type: SecurityPolicy
id: closing
category: Emergency
staged: true
rules: [{id: no-app, services: [port-8080], action: DROP}]
---
resource_type: Service
id: port-8080
service_entries: [{resource_type: L4PortSetServiceEntry, l4_protocol: TCP, destination_ports: ["8080"]}]
"""


def test_staged_policies_say_which_open_connections_they_would_cut(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def flows(status: int = 0) -> Any:
        capfd.readouterr()
        assert cli.run(["show", "flows", "--staged", "-o", "json"]) == status
        rows = json.loads(capfd.readouterr().out)
        jsonschema.validate(rows, json.loads(schema_files()["show"].read_text()))
        return rows

    assert cli.run(["show", "flows", "--staged"]) == 2
    assert "no policy of lab lab is staged" in capfd.readouterr().err
    (tmp_path / "staged.yaml").write_text(STAGED)
    assert cli.run(["apply", "-q", str(SHOP / "policy.yaml"), str(tmp_path / "staged.yaml")]) == 0
    capfd.readouterr()
    assert cli.run(["lab", "status", "-o", "json"]) == 0
    netns = {pod["name"]: pod["netns"] for pod in json.loads(capfd.readouterr().out)["pods"]}
    ends = []
    for source, target, address, port in (("web-1", "app-2", "10.1.2.12", 8080), ("app-1", "db-1", "10.1.3.11", 3306)):
        with run_in(netns[target], lambda port=port: socket.create_server(("", port))) as listener:  # type: ignore[misc]
            client = run_in(netns[source], lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            client.settimeout(PATIENCE)
            client.connect((address, port))  # nothing is refused yet
            ends += [client, listener.accept()[0]]
    rows = flows()
    assert sorted((row["host"], row["vnic"], row["dir"]) for row in rows) == [
        ("esx-1", "web-1", "OUT"), ("esx-2", "app-2", "IN")
    ]  # fmt: skip
    assert {(row["dst"], row["dport"], row["staged"]) for row in rows} == {("10.1.2.12", 8080, "refused")}
    # In force they are cut, and the other one is not.
    (tmp_path / "staged.yaml").write_text(STAGED.replace("staged: true\n", ""))
    assert cli.run(["apply", "-q", str(SHOP / "policy.yaml"), str(tmp_path / "staged.yaml")]) == 0
    for sender, receiver, arrives in ((ends[0], ends[1], False), (ends[2], ends[3], True)):
        sender.sendall(b"x")
        receiver.settimeout(PATIENCE if arrives else 0.5)
        try:
            assert (receiver.recv(1) == b"x") is arrives
        except TimeoutError:
            assert not arrives
    for one in ends:  # by a reset: what was refused would be said again and again, and counted while others count
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
    assert cli.run(["apply", "-q", str(SHOP / "policy.yaml")]) == 0
