# SPDX-License-Identifier: Apache-2.0
"""The lab with its real agents: what pods reach over the wire is what the policy says, before and after a migration."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfw import cli
from dfw.schema import schema_files
from tests.support.lab_command import SMALL
from tests.support.leftovers import list_leftovers

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_mount, pytest.mark.needs_tun]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory for labs; nothing is left of them afterwards."""
    place = Path(tempfile.mkdtemp(prefix="pal-", dir="/tmp"))
    monkeypatch.setenv("PALISADE_RUN", str(place / "run"))
    before = list_leftovers(place / "run")
    try:
        yield place / "run"
    finally:
        cli.run(["lab", "down", "--all"])
        after = list_leftovers(place / "run")
        shutil.rmtree(place)
    assert after == before


def probe(capfd: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    """`lab probe`, every pair as the policy says."""
    capfd.readouterr()
    status = cli.run(["lab", "probe", "-q", "-o", "json", *arguments])
    rows: list[dict[str, Any]] = json.loads(capfd.readouterr().out)
    assert [row for row in rows if row["expected"] != row["observed"]] == []
    assert status == 0
    jsonschema.validate(rows, json.loads(schema_files()["lab-probe"].read_text()))
    assert {row["observed"] for row in rows} == {"allowed", "denied"}
    return rows


@pytest.mark.needs_ipv6
def test_what_is_reached_is_what_the_policy_says(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["lab", "up", "-q"]) == 0
    four = probe(capfd, "--ports", "tcp/80,tcp/3306,udp/53,icmp")
    assert len(four) == 8 * 8 * 4 and {row["family"] for row in four} == {"IPv4"}
    assert cli.run(["lab", "migrate", "web-1", "esx-2"]) == 0
    six = probe(capfd, "--family", "6", "--ports", "tcp/80,udp/53,icmp")
    assert len(six) == 8 * 8 * 3 and {row["family"] for row in six} == {"IPv6"}
    pings = [row for row in (*four, *six) if row["protocol"] == "ICMP"]
    assert len(pings) == 2 * 8 * 8 and {row["observed"] for row in pings} == {"allowed", "denied"}
    verdicts = {(row["from"], row["to"], row["port"]): row["observed"] for row in four}
    assert all(verdicts[row["from"], row["to"], row["port"]] == row["observed"] for row in six)


APART = """\
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: a}, {name: b}]
gateways: [{name: t0, tier: 0}, {name: red, tier0: t0}, {name: green, tier0: t0}, {name: blue}]
segments:
  - {name: red, subnets: [10.1.1.0/24], gateway: red}
  - {name: green, subnets: [10.1.2.0/24], gateway: green}
  - {name: blue, subnets: [10.1.1.0/24], gateway: blue}
  - {name: alone, subnets: [10.1.3.0/24]}
ports:
  - {name: red-1, host: a, segment: red, ips: [10.1.1.11]}
  - {name: red-2, host: b, segment: red, ips: [10.1.1.12]}
  - {name: green-1, host: b, segment: green, ips: [10.1.2.11]}
  - {name: blue-1, host: b, segment: blue, ips: [10.1.1.11]}
  - {name: blue-2, host: a, segment: blue, ips: [10.1.1.12]}
  - {name: alone-1, host: a, segment: alone, ips: [10.1.3.11]}
"""


def test_gateways_that_nothing_joins_are_apart_also_where_their_addresses_are_the_same(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lab.yaml").write_text(APART)
    assert cli.run(["lab", "up", "-q", str(tmp_path / "lab.yaml")]) == 0
    rows = probe(capfd, "--ports", "tcp/80,udp/53,icmp", "--timeout", "0.5")
    together = [{"red-1", "red-2", "green-1"}, {"blue-1", "blue-2"}, {"alone-1"}]
    for row in rows:
        joined = any({row["from"], row["to"]} <= group for group in together)
        assert row["observed"] == ("allowed" if joined else "denied"), row
        assert joined or row["by"] is None


def test_a_pod_moves_to_another_host_and_stays_there(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "lab.yaml"
    file.write_text(SMALL)

    def lab(*arguments: str) -> str:
        capfd.readouterr()
        assert cli.run(["lab", *arguments]) == 0
        return capfd.readouterr().out

    lab("up", str(file))
    before = json.loads(lab("status", "-o", "json"))
    assert "moved from a to b" in lab("migrate", "one", "b")
    after = json.loads(lab("status", "-o", "json"))
    assert [pod["host"] for pod in after["pods"]] == ["b", "b"]
    assert [(pod["pid"], pod["netns"]) for pod in after["pods"]] == [(p["pid"], p["netns"]) for p in before["pods"]]
    assert [host["vnics"] for host in after["hosts"]] == [0, 2]
    assert {host["revision_realized"] for host in after["hosts"]} == {after["revision"]}
    assert "is on b already" in lab("migrate", "one", "b")
    assert "as it was" in lab("up", str(file))
