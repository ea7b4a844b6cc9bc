# SPDX-License-Identifier: Apache-2.0
"""ClusterNetworkPolicy: the expectations of network-policy-api's conformance tests, through the reachability matrix.

The edits that its tests make on the way are not part of the data; `EDITS` writes them out from what the cases say
("ensure rule ordering is respected": the rules about the same peer change places). With them all 159 are comparable;
what is left out, manifests that select nodes, is named below.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfw.errors import PolicyError
from tests.support.kube import loaded, pairs, pod

EXPECTED = 159
BASE = Path("network-policy-api", "conformance")
NODES = "experimental-egress-selector-rules.yaml"  # peers by nodes and domain names: refused
ADDRESSES = {"serverPodRavenclaw.Status.PodIP": "network-policy-conformance-ravenclaw/luna-lovegood-"}
Documents = list[dict[str, Any]]


def manifests(file: Path) -> Documents:
    """A manifest, as a copy that may be edited."""
    return copy.deepcopy(_manifests(file))


@cache
def _manifests(file: Path) -> Documents:
    """Templates of host ports become numbers."""
    text = re.sub(r"\{\{ index \.HostNetworkPorts ([0-9]+) \}\}", r"3434\1", file.read_text(encoding="utf-8"))
    return [item for item in yaml.safe_load_all(text) if item]


def cluster(file: Path) -> Iterator[dict[str, Any]]:
    """Namespaces as they are; the pods that the StatefulSets make."""
    number = 0
    for item in manifests(file):
        if item["kind"] != "StatefulSet":
            yield item
            continue
        template, where = item["spec"]["template"], item["metadata"]["namespace"]
        for index in range(item["spec"]["replicas"]):
            number += 1
            made = pod(f"{where}/{item['metadata']['name']}-{index}", f"10.244.0.{number}")
            made["metadata"]["labels"] = template["metadata"]["labels"]
            yield {**made, "spec": template["spec"]}


def swap(documents: Documents, one: int, other: int) -> None:
    """Two rules of a ClusterNetworkPolicy change places, in each direction that it has."""
    for spec in (item["spec"] for item in documents if item["kind"] == "ClusterNetworkPolicy"):
        for section in ("ingress", "egress"):
            rules = spec.get(section) or []
            if len(rules) > max(one, other):
                rules[one], rules[other] = rules[other], rules[one]


def tiers(documents: Documents, edits: int) -> None:
    """allow, deny, pass about one peer: deny comes first, then pass; then pass before deny about another peer."""
    for change in ((0, 1), (0, 2), (3, 4))[:edits]:
        swap(documents, *change)


def named_port(documents: Documents, edits: int) -> None:
    """The first Accept with ports gets a named one instead."""
    assert edits == 1
    for item in (item for item in documents if item["kind"] == "ClusterNetworkPolicy"):
        for rule in (item["spec"].get("ingress") or []) + (item["spec"].get("egress") or []):
            if rule["action"] == "Accept" and "protocols" in rule:
                rule["protocols"] = [{"destinationNamedPort": "web" if "tcp" in rule["protocols"][0] else "dns"}]
                return
    raise AssertionError("no rule with ports")


def networks(documents: Documents, edits: int) -> None:
    """deny comes first; then back; then two pods are allowed by their addresses."""
    for _ in range(min(edits, 2)):
        swap(documents, 0, 1)
    if edits == 3:
        ips = {f"{p['metadata']['namespace']}/{p['metadata']['name']}": p for p in documents if p["kind"] == "Pod"}
        chosen = (
            "network-policy-conformance-ravenclaw/luna-lovegood-0",
            "network-policy-conformance-hufflepuff/cedric-diggory-0",
        )
        cidrs = [f"{ips[name]['status']['podIP']}/32" for name in chosen]
        (policy,) = (item for item in documents if item["kind"] == "ClusterNetworkPolicy")
        policy["spec"]["egress"].insert(0, {"action": "Accept", "to": [{"networks": cidrs}]})


def integration(documents: Documents, edits: int, case: str) -> None:
    """Deny becomes Pass; then (Baseline) the NetworkPolicy goes."""
    (admin,) = (
        item for item in documents if item["kind"] == "ClusterNetworkPolicy" and item["spec"]["tier"] == "Admin"
    )
    for section in ("ingress", "egress")[:edits]:
        admin["spec"][section][0]["action"] = "Pass"
    if "baseline" in case:
        documents[:] = [item for item in documents if item["kind"] != "NetworkPolicy"]


EDITS: dict[str, Callable[[Documents, int], None]] = {"NamedPort": named_port, "InlineCIDRPeers": networks}


def edited(root: Path, row: dict[str, Any]) -> Documents:
    """The cluster and the policies as they stand when this expectation is asked."""
    documents = list(cluster(root / "base" / "manifests.yaml"))
    for name in row["manifests"]:
        documents += manifests(root / name) if not name.endswith(NODES) else []
    if row["after_patches"]:
        if "Integration" in row["test"]:
            integration(documents, row["after_patches"], row["case"])
        else:
            edit = next((edit for word, edit in EDITS.items() if word in row["test"]), tiers)
            edit(documents, row["after_patches"])
    return documents


@pytest.mark.needs_shared_data("network-policy-api/conformance_expected.json")
def test_every_expectation_of_the_conformance_tests(shared_data: Path) -> None:
    rows = json.loads((shared_data / "network-policy-api" / "conformance_expected.json").read_text(encoding="utf-8"))
    wrong: list[str] = []
    answers: dict[str, Any] = {}
    for row in rows:
        documents = edited(shared_data / BASE, row)
        key = json.dumps([item for item in documents if "Policy" in item["kind"]])
        if key not in answers:
            answers[key] = pairs(*documents)
        target = row["dst"]
        if row["dst_expr"] in ADDRESSES:
            target = ADDRESSES[row["dst_expr"]] + target[-1]
        found = answers[key].allowed(row["src"], target, f"{row['proto']}/{row['port']}")
        if found is not row["allowed"]:
            wrong.append(f"{row['test']} {row['case']} ({row['after_patches']}): {row['src']} {target} {found}")
    assert not wrong, "\n".join(wrong)
    assert len(rows) == EXPECTED


@pytest.mark.needs_shared_data("network-policy-api/conformance")
def test_manifests_load_and_those_that_select_nodes_are_refused_by_name(shared_data: Path) -> None:
    count = 0
    for file in sorted((shared_data / BASE).rglob("*.yaml")):
        documents = list(cluster(file))
        if not file.name.endswith(NODES):
            loaded(*documents)
            count += 1
            continue
        with pytest.raises(PolicyError) as caught:
            loaded(*documents)
        assert {problem.place.path.rpartition(".")[2] for problem in caught.value.problems} <= {"nodes", "domainNames"}
    assert count == 19
