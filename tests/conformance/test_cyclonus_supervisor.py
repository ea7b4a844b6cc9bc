# SPDX-License-Identifier: Apache-2.0
"""Cases of Cyclonus under a Supervisor: real kubectl makes namespaces, pods and policies, real connections judge them.

One lab of two hosts has the cases' cluster more than once (`WORLDS`), each Namespace with the world's number behind its
name, and a round judges a case in each: hosts report what is in force once a second. Policies of one world select the
other's pods as peers, but nobody there is asked. Addresses are the Supervisor's own: where a case means all pods'
network it is the Pod CIDR here, and where it means the part with the pods of x, y, z, it is these Namespaces' blocks.
"""

from __future__ import annotations

import copy
import gzip
import ipaddress
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from dfw import cli
from dfw.model import PROTO_SCTP, PROTO_TCP, PROTO_UDP, Family
from dfw.schema import schema_files
from overlay.connect import Attempt, apply_attempts
from supervisor_glue.api.leg import LEG
from supervisor_glue.controllers.resources import NETWORK_POLICIES, PODS
from tests.conformance.test_cyclonus import VERDICTS
from tests.support.kube import namespace, pod
from tests.support.supervisor_lab import SupervisorLab, holds, supervisor_lab

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
    pytest.mark.needs_shared_data("cyclonus/cases.jsonl.gz"),
]
CASES, JUDGEMENTS = 106, 46_884
REPRESENTATIVE = 30  # in a bounded run
WORLDS = ("1", "2", "3")
HOSTS = ("esx-1", "esx-2")
NUMBERS = {"TCP": PROTO_TCP, "UDP": PROTO_UDP, "SCTP": PROTO_SCTP}
POD_CIDR = "10.244.0.0/20"
BLOCK = 28
SILENCE = (0.2, 1.0, 4.0, 15.0)
"""Seconds until silence counts; what should arrive is tried again: a busy machine loses packets too."""
AT_ONCE = 700  # connections
NAME_LABEL = "kubernetes.io/metadata.name"


def cases_read(data: Path) -> list[dict[str, Any]]:
    with gzip.open(data / "cyclonus" / "cases.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def representative(cases: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """So many of those with one step, evenly: their generator goes through one feature after the other."""
    simple = [case for case in cases if len(case["steps"]) == 1]
    return [simple[at * len(simple) // REPRESENTATIVE] for at in range(REPRESENTATIVE)]


def cluster(step: Mapping[str, Any], world: str) -> list[dict[str, Any]]:
    """A step's Namespaces and pods in a world, the pods in turn on both hosts."""
    found = [namespace(name + world, **_named(own, world)) for name, own in step["namespaces"].items()]
    for at, item in enumerate(step["pods"]):
        ports = [(port["name"], port["port"], port["protocol"]) for port in item["Ports"]]
        made = pod(f"{item['Namespace']}{world}/{item['Name']}", ports=ports, labels=item["Labels"])
        made["spec"]["containers"][0]["image"] = "host"
        made["spec"] |= {
            "nodeSelector": {"kubernetes.io/hostname": HOSTS[at % 2]},
            "terminationGracePeriodSeconds": 0,
        }
        del made["status"]
        found.append(made)
    return found


def policies(step: Mapping[str, Any], world: str, blocks: Sequence[str]) -> list[dict[str, Any]]:
    """A step's policies in a world. `blocks`: where its pods of x, y and z have their addresses."""
    found = []
    for policy in step["policies_in_force"] or ():
        made = {"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", **copy.deepcopy(policy)}
        made["metadata"] = {"name": policy["metadata"]["name"], "namespace": policy["metadata"]["namespace"] + world}
        made["spec"] = _moved(made["spec"], world, blocks)
        found.append(made)
    return found


def _named(labels: Mapping[str, str], world: str) -> dict[str, str]:
    return {key: value + world if key == NAME_LABEL else value for key, value in labels.items()}


def _moved(item: Any, world: str, blocks: Sequence[str]) -> Any:
    """A policy's spec with the names and addresses of a world."""
    if isinstance(item, list):
        return [_moved(each, world, blocks) for each in item]
    if not isinstance(item, dict):
        return item
    if "cidr" in item:
        moved = {"192.168.1.0/24": [POD_CIDR], "192.168.1.0/28": blocks}
        (cidr,) = moved.get(item["cidr"], [item["cidr"]])
        return {"cidr": cidr, "except": [own for each in item.get("except", ()) for own in moved[each]]}
    if item.get("key") == NAME_LABEL:
        return {**item, "values": [value + world for value in item["values"]]}
    return {key: _moved(value, world, blocks) for key, value in _named(item, world).items()}


def ready(lab: SupervisorLab, count: int) -> dict[str, str]:
    """So many pods, once all are ready: their addresses."""
    items = lab.reaches(PODS, lambda items: len(items) == count and all(holds(item, "Ready") for item in items))
    names = (f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in items)
    return {name: item["status"]["podIP"] for name, item in zip(names, items, strict=True)}


def judged(lab: SupervisorLab, steps: Mapping[str, Mapping[str, Any]], addresses: Mapping[str, str]) -> list[str]:
    """Every pair of every world's step: what is otherwise than Cyclonus says."""
    places = lab.view().pods
    rows = []
    for world, step in steps.items():
        for row in step["expected"]:
            if row["from"] == row["to"]:
                continue  # a pod always reaches itself
            sender, receiver = _world_name(row["from"], world), _world_name(row["to"], world)
            near = sender.partition("/")[0] == receiver.partition("/")[0]
            ends = places[sender].netns, places[receiver].netns
            protocol = NUMBERS[row["protocol"]]
            rows.append((row, Attempt(*ends, Family.IPV4, protocol, row["port"], addresses[receiver], near)))
    todo = [attempt for _, attempt in rows]
    allowed = {id(attempt) for row, attempt in rows if VERDICTS[row["result"]]}
    for seconds in SILENCE:
        apply_attempts(todo, seconds, lambda: None, AT_ONCE)
        todo = [item for item in todo if item.short or (id(item) in allowed and not item.arrived)]
        for item in todo:
            item.short, item.said = False, 0
        if not todo:
            break
    return [f"{row}, but arrived: {item.arrived}" for row, item in rows if item.arrived is not VERDICTS[row["result"]]]


def _world_name(name: str, world: str) -> str:
    where, _, own = name.partition("/")
    return f"{where}{world}/{own}"


def rounds(cases: Sequence[dict[str, Any]]) -> Iterator[dict[str, dict[str, Any]]]:
    """By world: as many cases at a time as there are worlds."""
    for start in range(0, len(cases), len(WORLDS)):
        yield dict(zip(WORLDS, cases[start : start + len(WORLDS)], strict=False))


def test_live_pods_of_a_supervisor_reach_what_cyclonus_says(
    shared_data: Path, long_run: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    cases = cases_read(shared_data)
    simple = [case for case in cases if len(case["steps"]) == 1]
    wrong: list[str] = []
    count = 0
    with supervisor_lab() as lab:
        lab.apply(item for world in WORLDS for item in cluster(cases[0]["steps"][0], world))
        addresses = ready(lab, 9 * len(WORLDS))
        blocks = {world: _blocks(addresses, world) for world in WORLDS}
        for chosen in rounds(simple if long_run else representative(cases)):
            steps = {world: case["steps"][0] for world, case in chosen.items()}
            made = [item for world, step in steps.items() for item in policies(step, world, blocks[world])]
            lab.apply(made)
            lab.reaches(NETWORK_POLICIES, lambda items: all(holds(item, "Realized") for item in items))
            wrong += judged(lab, steps, addresses)
            count += sum(row["from"] != row["to"] for step in steps.values() for row in step["expected"])
            lab.delete(made)
        lab.apply(policies(cases[0]["steps"][0], WORLDS[0], blocks[WORLDS[0]]))
        lab.reaches(NETWORK_POLICIES, lambda items: len(items) == 1 and holds(items[0], "Realized"))
        commands_agree(capfd, addresses)
        lab.kubectl("delete", "networkpolicy", "-n", f"z{WORLDS[0]}", "--all")
        for case in (case for case in cases if long_run and len(case["steps"]) > 1):
            wrong += steps_judged(lab, case, WORLDS[0], blocks[WORLDS[0]])
            count += sum(row["from"] != row["to"] for step in case["steps"] for row in step["expected"])
    assert not wrong, "\n".join(wrong[:20])
    assert count == (JUDGEMENTS if long_run else REPRESENTATIVE * 9 * 8 * 6)


def commands_agree(capfd: pytest.CaptureFixture[str], addresses: Mapping[str, str]) -> None:
    """`lab probe`, `lab status`, `lab exec` and `show` with the first case's policy in force: it isolates one pod."""

    def told(*arguments: str) -> Any:
        capfd.readouterr()
        status = cli.run([*arguments, "-o", "json"])
        said = json.loads(capfd.readouterr().out)
        assert status == 0, (
            said if arguments[1] == "status" else [r for r in said if r.get("expected") != r.get("observed")]
        )
        return said

    target = f"z{WORLDS[0]}/a"
    rows = told("lab", "probe", "-q", "--ports", "tcp/80,sctp/81")
    assert len(rows) == 2 * len(addresses) ** 2
    denied = [row for row in rows if row["observed"] == "denied"]
    assert denied and {target} == {end for row in denied for end in (row["from"], row["to"]) if end == target}
    assert all(target in (row["from"], row["to"]) for row in denied)
    status = told("lab", "status")
    jsonschema.validate(status, json.loads(schema_files()["lab-status"].read_text()))
    assert {item["name"] for item in status["pods"] if item["state"] == "running"} == set(addresses)
    known = {*addresses, LEG}  # the control plane's own vNIC is one, too, and no pod's
    assert status["supervisor"]["server"].startswith("https://")
    assert sum(host["vnics"] for host in status["hosts"]) == len(known) == 28
    assert f"np/z{WORLDS[0]}/base/ingress/0" in {row["rule_path"] for row in told("show", "rules")}
    assert {row["vnic"] for row in told("show", "vnics")} == known
    line = [sys.executable, "-m", "dfw", "lab", "exec", target, "--", "sh", "-c", "hostname; exit 3"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (3, "a\n"), done.stderr


def steps_judged(lab: SupervisorLab, case: Mapping[str, Any], world: str, blocks: Sequence[str]) -> list[str]:
    """A case with several steps: Namespaces and their pods come and go between them."""
    wrong: list[str] = []
    for step in case["steps"]:
        items = cluster(step, world)
        wanted = {item["metadata"]["name"] for item in items if item["kind"] == "Namespace"}
        for action in step["actions"]:
            if action["DeleteNamespace"]:
                lab.kubectl("delete", "namespace", action["DeleteNamespace"]["Namespace"] + world)
        lab.apply(items)
        lab.apply(policies(step, world, blocks))
        assert wanted
        addresses = ready(lab, len(step["pods"]) + 9 * (len(WORLDS) - 1))
        lab.reaches(NETWORK_POLICIES, lambda items: all(holds(item, "Realized") for item in items))
        wrong += judged(lab, {world: step}, addresses)
    return wrong


def _blocks(addresses: Mapping[str, str], world: str) -> list[str]:
    own = (address for name, address in addresses.items() if name.partition("/")[0].endswith(world))
    return sorted({str(ipaddress.ip_network(f"{address}/{BLOCK}", strict=False)) for address in own})
