# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes front end: what manifests become, what is passed over, and what `check` says of them."""

from __future__ import annotations

from typing import Any

from dfw.lint import lint
from dfw.model import Family, NamedPort, PolicyKind, Tier, WorkloadMember
from dfw.oracle import Options, Replay
from dfw.probe import ETHERNET, Probe, frame_of
from tests.support.kube import cluster_policy, labels, loaded, namespace, network_policy, pairs, pod, security_policy


def kinds(*documents: Any) -> list[str]:
    return [item.kind for item in lint(loaded(*documents))]


def test_a_pod_is_a_vnic_with_its_labels_addresses_and_named_ports() -> None:
    made = pod("x/a", "10.0.0.1", "fd00::1", ports=[("web", 80, "TCP"), ("web", 53, "UDP")], app="a")
    made["spec"]["initContainers"] = [
        {"restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]},
        {"ports": [{"name": "gone", "containerPort": 10}]},
    ]
    made["spec"]["nodeName"] = "esx-1"
    hosts = {
        "apiVersion": "palisade.internal/v1alpha1",
        "kind": "Inventory",
        "hosts": [{"name": "esx-1"}, {"name": "b"}],
    }
    port = loaded(made, hosts).world.inventory.ports["x/a"]
    assert (port.host, port.namespace, dict(port.labels), port.is_pod) == ("esx-1", "x", {"app": "a"}, True)
    assert [str(ip) for ip in port.ips] == ["10.0.0.1", "fd00::1"]
    assert set(port.named_ports) == {NamedPort("web", 6, 80), NamedPort("web", 17, 53), NamedPort("side", 6, 9)}
    assert not port.ips_assumed


def test_pods_without_a_vnic_are_none() -> None:
    host = pod("x/host", "10.0.0.1")
    host["spec"]["hostNetwork"] = True
    ended = pod("x/ended", "10.0.0.2")
    ended["status"]["phase"] = "Succeeded"
    assert not loaded(host, ended).world.inventory.ports


def test_an_address_that_a_manifest_lacks_is_the_same_every_time_and_warned_of() -> None:
    found = loaded(pod("x/a"))
    port = found.world.inventory.ports["x/a"]
    assert port.ips_assumed
    assert port.ips == loaded(pod("x/b"), pod("x/a")).world.inventory.ports["x/a"].ips
    assert str(port.ips[0]).startswith("100.")
    assert [item.kind for item in found.findings] == ["assumed-address"]


def test_a_namespace_has_its_name_as_a_label_with_and_without_a_manifest() -> None:
    inventory = loaded(namespace("x", team="red"), pod("y/a", "10.0.0.1")).world.inventory
    assert dict(inventory.namespace_labels("x")) == {"team": "red", "kubernetes.io/metadata.name": "x"}
    assert dict(inventory.namespace_labels("y")) == {"kubernetes.io/metadata.name": "y"}


def test_lists_are_their_items_with_and_without_kinds_of_their_own() -> None:
    plain = {key: value for key, value in pod("x/a", "10.0.0.1").items() if key not in ("kind", "apiVersion")}
    world = loaded(
        {"apiVersion": "v1", "kind": "PodList", "items": [plain]},
        {"apiVersion": "v1", "kind": "List", "items": [network_policy("x/p")]},
    ).world
    assert list(world.inventory.ports) == ["x/a"]
    assert [policy.path for policy in world.policies] == ["np/x/p-allow", "np/x/p-isolation"]


def test_what_is_no_policy_is_passed_over_with_a_warning() -> None:
    found = loaded(
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}},
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}},
        {"apiVersion": "crd.nsx.vmware.com/v1alpha1", "kind": "Subnet", "metadata": {"name": "s"}},
    )
    assert [item.kind for item in found.findings] == ["ignored"] * 3
    assert "give the pods themselves" in found.findings[1].message


def test_policy_types_default_as_the_api_has_them() -> None:
    def isolated(**spec: Any) -> list[str]:
        world = loaded(network_policy("x/p", **spec)).world
        return [rule.id for policy in world.policies for rule in policy.rules if rule.id.startswith("isolation")]

    assert isolated() == ["isolation-ingress"]
    assert isolated(egress=[]) == ["isolation-ingress"]
    assert isolated(egress=[{}]) == ["isolation-ingress", "isolation-egress"]
    assert isolated(policyTypes=[], egress=[{}]) == ["isolation-ingress", "isolation-egress"]
    assert isolated(policyTypes=["Egress"], ingress=[{}]) == ["isolation-egress"]


def test_what_has_no_effect_is_said() -> None:
    assert "no-effect" in kinds(network_policy("x/p", policyTypes=["Egress"], ingress=[{}]))
    without = network_policy("x/p")
    del without["spec"]["podSelector"]
    assert "selects-all" in kinds(without)


def test_the_newer_name_of_a_rules_side_wins() -> None:
    rule = {"action": "allow", "direction": "in", "sources": [{"podSelector": {}}], "from": [{"vmSelector": {}}]}
    found = loaded(security_policy("x/p", rule))
    assert [item.kind for item in found.findings] == ["no-effect"]
    (peer,) = found.world.policies[0].rules[0].sources.terms or ()
    assert isinstance(peer, WorkloadMember) and peer.machines_only


def test_rule_paths_and_order_keys_are_those_of_the_contract() -> None:
    world = loaded(
        network_policy("x/p", ingress=[{}, {}], egress=[{}]),
        cluster_policy("c", "Baseline", 7, ingress=[{"action": "Pass", "from": [{"namespaces": {}}]}]),
        security_policy("y/s", {"action": "allow", "direction": "in"}, {"action": "drop", "direction": "out"}),
    ).world
    assert [rule.path for policy in world.ordered[:-1] for rule in policy.rules] == [
        *("sp/y/s/0", "sp/y/s/1"),
        *("np/x/p/ingress/0", "np/x/p/ingress/1", "np/x/p/egress/0"),
        *("np/x/p/isolation-ingress", "np/x/p/isolation-egress"),
        "cnp/c/ingress/0",
    ]
    assert [(policy.tier, policy.kind, policy.number) for policy in world.ordered[:-1]] == [
        (Tier.APPLICATION, PolicyKind.SECURITY_POLICY_CR, 10),
        (Tier.APPLICATION, PolicyKind.NETWORK_POLICY, 2010),
        (Tier.APPLICATION, PolicyKind.NETWORK_POLICY, 2090),
        (Tier.BASELINE, PolicyKind.CLUSTER_NETWORK_POLICY, 7),
    ]


def test_a_named_port_shadows_nothing_that_has_a_number() -> None:
    documents = [
        pod("x/a", "10.0.0.1", ports=[("web", 80, "TCP")]),
        network_policy("x/p", ingress=[{"ports": [{"port": "web"}]}, {"ports": [{"port": 443}]}]),
    ]
    assert not {"shadowed", "redundant"} & set(kinds(*documents))
    found = pairs(*documents, pod("x/b", "10.0.0.2"))
    assert found.by("x/b", "x/a", "TCP", 443) == "np/x/p/ingress/1"


def test_a_rule_that_passes_counts_a_hit_and_no_packet() -> None:
    world = loaded(
        namespace("x"),
        pod("x/a", "10.0.0.1", app="a"),
        pod("x/b", "10.0.0.2"),
        cluster_policy("c", ingress=[{"action": "Pass", "from": [{"namespaces": {}}]}]),
        network_policy("x/p", ingress=[{"from": [{"podSelector": labels(app="a")}]}]),
    ).world
    from dfw.endpoint import endpoint_parse

    ends = [next(endpoint_parse(name, world).peers(Family.IPV4)) for name in ("x/a", "x/b")]
    frame = frame_of(Probe(ends[0], ends[1], 6, 40000, 80))
    replay = Replay(world, world.inventory, Options(tap=False))
    replay.feed(1, 0, frame, len(frame), ETHERNET)
    replay.finish()
    counts = {item.rule_path: (item.hits, item.packets) for item in replay.rule_statistics()}
    assert counts["cnp/c/ingress/0"] == (1, 0)
    assert counts["np/x/p/ingress/0"] == (1, 1)
