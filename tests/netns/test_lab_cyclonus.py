# SPDX-License-Identifier: Apache-2.0
"""NetworkPolicies of Cyclonus in a running lab: what its pods reach over the wire is what Cyclonus' simulator says.

One lab of two hosts and nine pods; each case changes its policies only. Observed are real connections; `lab probe`
itself compares them with `palisade matrix`, this test with the case's own verdicts.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfw import cli
from tests.netns.test_lab_probe import run  # noqa: F401 - a fixture
from tests.support.kube import namespace, pod

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_mount, pytest.mark.needs_tun]
HOSTS = ("esx-1", "esx-2")
VERDICTS = {"allowed": "allowed", "blocked": "denied"}
CASES = range(3, 106, 5) if "PALISADE_LONG" in os.environ else (20, 73)


def steps(data: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The chosen cases: description and their last step."""
    with gzip.open(data / "cyclonus" / "cases.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            if number in CASES:
                case = json.loads(line)
                yield case["description"], case["steps"][-1]


def manifests(step: Mapping[str, Any]) -> str:
    """A step's cluster, its pods in turn on both hosts; no segment is given for their addresses."""
    hosts = [{"name": name, "tep": f"172.16.0.{11 + at}"} for at, name in enumerate(HOSTS)]
    found: list[dict[str, Any]] = [{"apiVersion": "palisade.internal/v1alpha1", "kind": "Inventory", "hosts": hosts}]
    found += [namespace(name, **own) for name, own in step["namespaces"].items()]
    for at, item in enumerate(step["pods"]):
        ports = [(port["name"], port["port"], port["protocol"]) for port in item["Ports"]]
        made = pod(f"{item['Namespace']}/{item['Name']}", item["IP"], ports=ports, labels=item["Labels"])
        made["spec"]["nodeName"] = HOSTS[at % 2]
        found.append(made)
    for policy in step["policies_in_force"] or ():
        found.append({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **policy})
    return yaml.safe_dump_all(found)


@pytest.mark.needs_shared_data("cyclonus/cases.jsonl.gz")
def test_live_pods_reach_what_cyclonus_says(
    run: Path,  # noqa: F811
    shared_data: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "cluster.yaml"
    wrong: list[str] = []
    judged = 0
    for description, step in steps(shared_data):
        file.write_text(manifests(step))
        assert cli.run(["lab", "up", "-q", str(file)]) == 0, capfd.readouterr().err
        capfd.readouterr()
        status = cli.run(["lab", "probe", "-q", "-o", "json", "--ports", "tcp/80,tcp/81,udp/80,udp/81"])
        rows = json.loads(capfd.readouterr().out)
        assert status == 0, [row for row in rows if row["expected"] != row["observed"]][:5]
        found = {(row["from"], row["to"], row["protocol"], row["port"]): row["observed"] for row in rows}
        for row in step["expected"]:
            key = row["from"], row["to"], row["protocol"], row["port"]
            if row["protocol"] == "SCTP" or row["from"] == row["to"]:
                continue  # a pod always reaches itself
            judged += 1
            if found[key] != VERDICTS[row["result"]]:
                wrong.append(f"{description}: {row} but {found[key]}")
    assert not wrong, "\n".join(wrong[:20])
    assert judged == len(CASES) * 9 * 8 * 4
