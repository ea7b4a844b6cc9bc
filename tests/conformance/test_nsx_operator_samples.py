# SPDX-License-Identifier: Apache-2.0
"""nsx-operator's samples load: its SecurityPolicies are read, the kinds of its Subnets and VPCs passed over by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dfw.load import load
from dfw.model import PolicyKind
from tests.support.kube import Pairs, loaded, namespace, pod, security_policy

FOLDERS = ("nsx-operator/test/e2e/manifest", "nsx-operator/build/yaml/samples", "nsx-operator/build/yaml/eas")
SECURITY_POLICIES, NETWORK_POLICIES = 8, 4


@pytest.mark.needs_shared_data(*FOLDERS)
def test_every_sample_loads(shared_data: Path) -> None:
    kinds: dict[PolicyKind, int] = {}
    ignored: set[str] = set()
    for folder in FOLDERS:
        for file in sorted((shared_data / folder).rglob("*.yaml")):
            found = load([str(file)])
            ignored |= {item.message.split()[0] for item in found.findings if item.kind == "ignored"}
            for policy in found.world.policies:
                kinds[policy.kind] = kinds.get(policy.kind, 0) + 1
    assert kinds == {PolicyKind.SECURITY_POLICY_CR: SECURITY_POLICIES, PolicyKind.NETWORK_POLICY: 2 * NETWORK_POLICIES}
    assert {"Subnet", "SubnetSet", "SubnetPort", "VPCNetworkConfiguration", "IPAddressAllocation"} <= ignored


@pytest.mark.needs_shared_data("nsx-operator/test/e2e/manifest/testSecurityPolicy")
def test_samples_do_what_upstream_tests_of_them(shared_data: Path) -> None:
    folder = shared_data / "nsx-operator/test/e2e/manifest/testSecurityPolicy"
    sample = load([str(folder / "match-expression.yaml")]).world
    pods = [
        pod("default/a", "10.0.0.1", k1="a1", k2="b1", user="internal"),
        pod("default/b", "10.0.0.2", k1="a1", k2="b4", user="internal"),
    ]
    cluster = loaded(namespace("default"), *pods).world
    pairs = Pairs(replace(cluster, policies=sample.policies))
    assert pairs.allowed("default/a", "default/b"), "k2 is b1: not selected"
    assert pairs.allowed("default/b", "default/a") is False


def test_named_ports_of_several_receivers_as_upstream_has_them() -> None:
    allow = {
        "direction": "out",
        "action": "allow",
        "destinations": [
            {"podSelector": {"matchLabels": {"role": "db"}}},
            {"namespaceSelector": {"matchLabels": {"role": "db"}}},
        ],
        "ports": [{"protocol": "TCP", "port": "mysql-port"}],
    }
    pairs = Pairs(
        loaded(
            namespace("db2", role="db"),
            pod("web/client", "10.0.0.1", role="web"),
            pod("web/db", "10.0.0.2", role="db", ports=[("mysql-port", 3306, "TCP")]),
            pod("db2/other", "10.0.0.3", ports=[("mysql-port", 1234, "TCP")]),
            pod("db/far", "10.0.0.4", role="db", ports=[("mysql-port", 3306, "TCP")]),
            security_policy("web/named", allow, {"direction": "out", "action": "drop"}),
        ).world
    )
    assert pairs.allowed("web/client", "web/db", "tcp/3306")
    assert pairs.allowed("web/client", "web/db", "tcp/1234") is False
    assert pairs.allowed("web/client", "db2/other", "tcp/1234")
    assert pairs.allowed("web/client", "db2/other", "tcp/3306") is False
    assert pairs.allowed("web/client", "db/far", "tcp/3306") is False, "another namespace without the label"
