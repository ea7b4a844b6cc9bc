# SPDX-License-Identifier: Apache-2.0
"""Every field of every Kubernetes table, wrong in every way: refused at its place, by PolicyError and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfw.documents import documents_parse
from dfw.errors import PolicyError
from dfw.fields import Field, ignored, shape_of
from dfw.kube import KUBE_KINDS
from dfw.kube import cluster_network_policy as cnp
from dfw.kube import network_policy as np
from dfw.kube import security_policy as sp
from dfw.kube.metadata import METADATA
from dfw.kube.peers import IP_BLOCK, PEER
from dfw.kube.pod import CONTAINER, CONTAINER_PORT, SPEC, STATUS
from dfw.kube.selector import EXPRESSION, SELECTOR
from dfw.load import load_documents
from tests.support.kube import cluster_policy, namespace, network_policy, pod, security_policy
from tests.support.wrong_fields import FILE, Kind, documents, lines_of, may_take, problems_of, text_of, wrong_values

NP = network_policy("x/p", ingress=[{"from": [{"podSelector": {}}], "ports": [{}]}], egress=[{}])
BLOCK = network_policy("x/p", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])
CNP = cluster_policy(
    "p",
    ingress=[
        {"action": "Accept", "from": [{"namespaces": {}}], "protocols": [{"tcp": {"destinationPort": {"number": 80}}}]}
    ],
    egress=[{"action": "Deny", "to": [{"networks": ["10.0.0.0/8"]}]}],
)
SP = security_policy("x/p", {"action": "allow", "direction": "in", "sources": [{"podSelector": {}}], "ports": [{}]})
POD = pod("x/p", "10.0.0.1", ports=[("web", 80, "TCP")])
PORTS: tuple[str | int, ...] = ("spec", "ingress", 0, "protocols", 0)

KINDS: dict[str, Kind] = {
    "metadata": Kind(METADATA, {"name": "p"}, namespace("p"), ("metadata",)),
    "metadata of a pod": Kind(METADATA, {"name": "p", "namespace": "x", "labels": {"a": "b"}}, POD, ("metadata",)),
    "Pod spec": Kind(SPEC, {"containers": [{"name": "c"}]}, POD, ("spec",)),
    "Pod status": Kind(STATUS, {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}, POD, ("status",)),
    "container": Kind(CONTAINER, {"name": "c"}, POD, ("spec", "containers", 0)),
    "container port": Kind(
        CONTAINER_PORT, {"containerPort": 80, "name": "web"}, POD, ("spec", "containers", 0, "ports", 0)
    ),
    "selector": Kind(SELECTOR, {"matchLabels": {"a": "b"}}, NP, ("spec", "podSelector")),
    "expression": Kind(
        EXPRESSION,
        {"key": "a", "operator": "In", "values": ["b"]},
        NP,
        ("spec", "podSelector", "matchExpressions", 0),
    ),
    "NetworkPolicy spec": Kind(np.SPEC, {"podSelector": {}, "policyTypes": ["Ingress"]}, NP, ("spec",)),
    "ingress rule": Kind(np.RULES["ingress"], {"from": []}, NP, ("spec", "ingress", 0)),
    "egress rule": Kind(np.RULES["egress"], {"to": []}, NP, ("spec", "egress", 0)),
    "port": Kind(np.PORT, {"port": 80, "endPort": 90, "protocol": "SCTP"}, NP, ("spec", "ingress", 0, "ports", 0)),
    "peer": Kind(PEER, {"podSelector": {}}, NP, ("spec", "ingress", 0, "from", 0)),
    "ipBlock": Kind(
        IP_BLOCK,
        {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]},
        BLOCK,
        ("spec", "ingress", 0, "from", 0, "ipBlock"),
    ),
    "ClusterNetworkPolicy spec": Kind(cnp.SPEC, CNP["spec"], CNP, ("spec",)),
    "cluster ingress rule": Kind(cnp.INGRESS_RULE, CNP["spec"]["ingress"][0], CNP, ("spec", "ingress", 0)),
    "cluster egress rule": Kind(cnp.EGRESS_RULE, CNP["spec"]["egress"][0], CNP, ("spec", "egress", 0)),
    "subject": Kind(cnp.SUBJECT, {"namespaces": {}}, CNP, ("spec", "subject")),
    "cluster ingress peer": Kind(cnp.INGRESS_PEER, {"namespaces": {}}, CNP, ("spec", "ingress", 0, "from", 0)),
    "cluster egress peer": Kind(cnp.EGRESS_PEER, {"networks": ["::/0"]}, CNP, ("spec", "egress", 0, "to", 0)),
    "protocol": Kind(cnp.PROTOCOL, {"destinationNamedPort": "web"}, CNP, PORTS),
    "transport": Kind(cnp.TRANSPORT, {"destinationPort": {"number": 1}}, CNP, (*PORTS, "tcp")),
    "destination port": Kind(cnp.DESTINATION_PORT, {"number": 1}, CNP, (*PORTS, "tcp", "destinationPort")),
    "range": Kind(cnp.RANGE, {"start": 1, "end": 2}, CNP, (*PORTS, "udp", "destinationPort", "range")),
    "pods": Kind(cnp.PODS, {"podSelector": {}}, CNP, ("spec", "subject", "pods")),
    "SecurityPolicy spec": Kind(sp.SPEC, {"priority": 1}, SP, ("spec",)),
    "SecurityPolicy rule": Kind(sp.RULE, {"action": "Drop", "direction": "Out"}, SP, ("spec", "rules", 0)),
    "target": Kind(sp.TARGET, {"podSelector": {}}, SP, ("spec", "appliedTo", 0)),
    "SecurityPolicy peer": Kind(sp.PEER, {"podSelector": {}}, SP, ("spec", "rules", 0, "sources", 0)),
    "ipBlocks": Kind(sp.IP_BLOCK, {"cidr": "::/0"}, SP, ("spec", "rules", 0, "sources", 0, "ipBlocks", 0)),
    "SecurityPolicy port": Kind(sp.PORT, {"port": "web"}, SP, ("spec", "rules", 0, "ports", 0)),
}
# Unions of which the document around already gives another member.
ALONE: dict[str, dict[str, Any]] = {
    "range": cluster_policy("p", ingress=[{"action": "Accept", "from": [{"namespaces": {}}], "protocols": [{}]}]),
    "pods": cluster_policy("p", subject={}),
}
for name, document in ALONE.items():
    KINDS[name] = KINDS[name]._replace(document=document)
OPEN = ("Pod spec", "Pod status", "container")  # their other fields are the kubelet's business
CASES = [(name, key) for name, kind in KINDS.items() for key, field in kind.table.items() if field.read is not ignored]


@pytest.mark.parametrize("name", KINDS)
def test_valid_objects_are_valid(name: str) -> None:
    assert problems_of(KINDS[name].wrapped(KINDS[name].valid)) == []


@pytest.mark.parametrize(("name", "key"), CASES)
def test_wrong_types_and_ranges_are_refused_at_the_field(name: str, key: str) -> None:
    kind = KINDS[name]
    at = (*kind.at, key)
    refused = 0
    for value in wrong_values(kind.table[key].read):
        document = kind.wrapped({**kind.valid, key: value})
        found = problems_of(document)
        if not found and may_take(kind.table[key].read):
            continue
        assert found, f"{value!r} was taken"
        refused += 1
        lines = lines_of(document, at)
        here = [item for item in found if item[0].startswith(text_of(at)) and item[1] in lines]
        assert here, (value, found)
        assert all(len(message) > 8 for _, _, message in here)
    assert refused >= 3


@pytest.mark.parametrize(("name", "key"), CASES)
def test_null_is_as_good_as_missing(name: str, key: str) -> None:
    kind = KINDS[name]
    without = {other: value for other, value in kind.valid.items() if other != key}
    missing = problems_of(kind.wrapped(without))
    null = problems_of(kind.wrapped({**without, key: None}))
    assert [message for _, _, message in missing] == [message for _, _, message in null]
    if kind.table[key].required:
        assert any(f"the field {key} is missing" in message for _, _, message in missing)


@pytest.mark.parametrize("name", [name for name in KINDS if name not in OPEN])
def test_an_unknown_sibling_is_refused_at_its_place(name: str) -> None:
    kind = KINDS[name]
    document = kind.wrapped({**kind.valid, "colour": 1})
    at = (*kind.at, "colour")
    found = problems_of(document)
    assert [(path, line) for path, line, _ in found] == [(text_of(at), lines_of(document, at)[0])]
    assert "unknown field 'colour'" in found[0][2]


@pytest.mark.parametrize("name", KINDS)
def test_all_of_a_documents_errors_at_once(name: str) -> None:
    kind = KINDS[name]
    wrong = {key: {"a": 1} for key, field in kind.table.items() if shape_of(field.read) is not None}
    found = {path for path, _, _ in problems_of(kind.wrapped({**kind.valid, **wrong}))}
    assert {text_of((*kind.at, key)) for key in wrong} <= found


BAD: dict[str, tuple[Mapping[str, Any], str]] = {
    "no metadata": ({**NP, "metadata": None}, "the field metadata is missing"),
    "no spec": ({key: value for key, value in CNP.items() if key != "spec"}, "the field spec is missing"),
    "a namespaced ClusterNetworkPolicy": (
        {**CNP, "metadata": {"name": "p", "namespace": "x"}},
        "metadata.namespace: this kind lives in no namespace",
    ),
    "a name with capitals": (network_policy("x/P"), "metadata.name: 'P' is not a name"),
    "a peer of nothing": (network_policy("x/p", ingress=[{"from": [{}]}]), "a peer is one of podSelector"),
    "a block beside a selector": (
        network_policy("x/p", ingress=[{"from": [{"podSelector": {}, "ipBlock": {"cidr": "::/0"}}]}]),
        "podSelector and ipBlock exclude each other",
    ),
    "host bits": (
        network_policy("x/p", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.1/8"}}]}]),
        "the prefix would be 10.0.0.0/8",
    ),
    "an exception outside": (
        network_policy("x/p", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/9"]}}]}]),
        "spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/9 does not lie in 10.0.0.0/8",
    ),
    "an exception that is all": (
        network_policy("x/p", ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]}]),
        "nothing would be left",
    ),
    "a range of a name": (
        network_policy("x/p", ingress=[{"ports": [{"port": "web", "endPort": 90}]}]),
        "endPort needs a numeric port",
    ),
    "a range backwards": (
        network_policy("x/p", ingress=[{"ports": [{"port": 90, "endPort": 80}]}]),
        "endPort 80 is less than port 90",
    ),
    "a number in quotes": (network_policy("x/p", ingress=[{"ports": [{"port": "80"}]}]), "without quotes"),
    "a port's name too long": (
        network_policy("x/p", ingress=[{"ports": [{"port": "a" * 16}]}]),
        "is not a port's name",
    ),
    "In without values": (
        network_policy("x/p", podSelector={"matchExpressions": [{"key": "a", "operator": "In"}]}),
        "In needs values",
    ),
    "Exists with values": (
        network_policy("x/p", podSelector={"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}),
        "Exists takes no values",
    ),
    "a label that is none": (network_policy("x/p", podSelector={"matchLabels": {"a b": "c"}}), "is not a label's name"),
    "a label's value that is none": (
        network_policy("x/p", podSelector={"matchLabels": {"a": "-"}}),
        "'-' is not a label's value",
    ),
    "another API version": (
        {**NP, "apiVersion": "extensions/v1beta1"},
        "extensions/v1beta1, kind 'NetworkPolicy' is not supported; its apiVersion is networking.k8s.io/v1",
    ),
    "no API version": ({**NP, "apiVersion": None}, "the field apiVersion is missing; it is networking.k8s.io/v1"),
    "a policy that we don't know": (
        {"apiVersion": "policy.networking.k8s.io/v1alpha1", "kind": "AdminNetworkPolicy", "metadata": {"name": "p"}},
        "kind 'AdminNetworkPolicy' is not supported",
    ),
    "start after end": (
        cluster_policy(
            "p",
            ingress=[
                {
                    "action": "Accept",
                    "from": [{"namespaces": {}}],
                    "protocols": [{"tcp": {"destinationPort": {"range": {"start": 2, "end": 2}}}}],
                }
            ],
        ),
        "start 2 must be less than end 2",
    ),
    "a named port of networks": (
        cluster_policy(
            "p",
            egress=[
                {"action": "Accept", "to": [{"networks": ["::/0"]}], "protocols": [{"destinationNamedPort": "web"}]}
            ],
        ),
        "networks have no named ports",
    ),
    "nodes": (cluster_policy("p", egress=[{"action": "Deny", "to": [{"nodes": {}}]}]), "nodes are not known here"),
    "domain names": (
        cluster_policy("p", egress=[{"action": "Deny", "to": [{"domainNames": ["a.example"]}]}]),
        "names are not resolved here",
    ),
    "two subjects": (
        cluster_policy("p", subject={"namespaces": {}, "pods": {"podSelector": {}}}),
        "exclude each other",
    ),
    "pods and machines in one target": (
        security_policy("x/p", appliedTo=[{"podSelector": {}, "vmSelector": {}}]),
        "podSelector and vmSelector exclude each other",
    ),
    "pods and machines in one peer": (
        security_policy("x/p", {"action": "allow", "direction": "in", "from": [{"podSelector": {}, "vmSelector": {}}]}),
        "podSelector and vmSelector exclude each other in one peer; give two peers",
    ),
    "a misspelt kind of the core": ({**POD, "kind": "Pdo"}, "kind 'Pdo' is not supported"),
    "a kind in small letters": ({**POD, "kind": "pod"}, "did you mean Pod?"),
    "a misspelt kind of nsx-operator": ({**SP, "kind": "SecurityPolcy"}, "did you mean SecurityPolicy?"),
    "the wrong side": (
        security_policy("x/p", {"action": "allow", "direction": "in", "to": [{"podSelector": {}}]}),
        "to is for rules of the other direction",
    ),
    "a target of nothing": (
        security_policy("x/p", appliedTo=[{}]),
        "a target is one of podSelector, vmSelector; none is given",
    ),
    "another's name as a label": (
        namespace("x", **{"kubernetes.io/metadata.name": "y"}),
        "is 'y', but the namespace is 'x'",
    ),
    "an address that nobody can have": (pod("x/p", "127.0.0.1"), "no unicast address that a workload can have"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_documents_by_hand(name: str) -> None:
    document, message = BAD[name]
    found = problems_of(document)
    assert any(message in f"{path}: {text}" for path, _, text in found), found


@pytest.mark.parametrize("document", [NP, CNP, SP, POD, namespace("x")], ids=lambda item: item["kind"])
def test_the_same_twice_is_refused(document: dict[str, Any]) -> None:
    assert any("was already given" in message for _, _, message in problems_of(document, document))


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["In", "10.0.0.0/8", "web"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(sorted({key for kind in KINDS.values() for key in kind.table} | {"metadata", "spec"})),
                inner,
                max_size=5,
            )
        ),
        max_leaves=15,
    ),
    st.sampled_from(sorted(KUBE_KINDS)),
)
def test_nothing_but_policy_errors_come_out_of_any_document(value: Any, kind: str) -> None:
    if not isinstance(value, dict):
        value = {"spec": value}
    item = {"metadata": {"name": "p"}, **value, "kind": kind, "apiVersion": KUBE_KINDS[kind][0]}
    try:
        load_documents(documents_parse(documents(item), FILE))
    except PolicyError as error:
        assert error.problems


def test_every_kind_is_here() -> None:
    assert set(KUBE_KINDS) == {"Namespace", "Pod", "NetworkPolicy", "ClusterNetworkPolicy", "SecurityPolicy"}
    tables = [kind.table for kind in KINDS.values()]
    for module in (np, cnp, sp):
        for value in vars(module).values():
            if isinstance(value, dict) and value and all(isinstance(item, Field) for item in value.values()):
                assert value in tables
