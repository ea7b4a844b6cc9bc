# SPDX-License-Identifier: Apache-2.0
"""Large clusters as a decoder of the Kubernetes API's JSON gives them: plain dicts, made from a seed.

Small namespaces, as in Antrea's controller benchmark: pods of two to four applications, and in turn three kinds of
policies (who may reach an application, where it may go, and that nothing else passes). Names, labels, ports, networks
and nodes are drawn so that hardly two namespaces say the same thing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, TypeAlias
from zlib import crc32

import msgspec

Decoded: TypeAlias = dict[str, Any]
"""One object of the API, decoded."""

APPLICATIONS = tuple(f"{first}-{second}" for first in ("web", "db", "cache", "queue", "auth") for second in range(40))
PORTS = (("http", 8080), ("https", 8443), ("grpc", 9090), ("sql", 5432), ("amqp", 5672), ("metrics", 9100))
PODS_A_NODE = 110
HOSTILE_SHARE = 10  # in a hostile cluster, one policy in so many looks at the pods of all namespaces
_BIG_LABEL = ("scrape", "yes")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the API server would list. `nodes`: how many hosts the pods are spread over."""

    namespaces: list[Decoded]
    pods: list[Decoded]
    policies: list[Decoded]
    nodes: int

    def __iter__(self) -> Iterator[Decoded]:
        yield from self.namespaces
        yield from self.pods
        yield from self.policies


def make_cluster(namespaces: int, policies: int, pods: int, *, seed: int, hostile: bool = False) -> Cluster:
    """`pods` and `policies` spread evenly over `namespaces`.

    `hostile`: one policy in ten looks at the pods of all namespaces, and half of all pods are one group that is used.
    """
    random = Random(seed)
    nodes = max(1, -(-pods // PODS_A_NODE))
    names = [f"team-{number:05d}-{random.randrange(1 << 20):05x}" for number in range(namespaces)]
    applications = [random.sample(APPLICATIONS, 3) for _ in names]
    made = _Objects(random, names, applications, nodes, hostile)
    return Cluster(
        _listed(map(made.namespace, range(namespaces))),
        _listed(map(made.pod, range(pods))),
        _listed(map(made.policy, range(policies))),
        nodes,
    )


def _listed(items: Iterable[Decoded]) -> list[Decoded]:
    """In the order in which the API server lists: by namespace, then name."""
    texts = [(item["metadata"].get("namespace", ""), item["metadata"]["name"], _encode(item)) for item in items]
    return [msgspec.json.decode(text) for _, _, text in sorted(texts)]


def _decoded(item: Decoded) -> Decoded:
    """As a decoder gives it: no two objects share a part."""
    found: Decoded = msgspec.json.decode(_encode(item))
    return found


@dataclass(frozen=True, slots=True)
class _Objects:
    random: Random
    names: list[str]
    applications: list[list[str]]
    nodes: int
    hostile: bool

    def namespace(self, number: int) -> Decoded:
        name = self.names[number]
        labels = {"kubernetes.io/metadata.name": name, "team": f"team-{number % 500}"}
        return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}

    def pod(self, number: int) -> Decoded:
        at, index = number % len(self.names), number // len(self.names)
        application = self.applications[at][index % 2]
        labels = {"app": application, "pod-template-hash": f"{crc32(f'{at} {application}'.encode()):08x}"}
        if self.hostile and number % 2 == 0:
            labels[_BIG_LABEL[0]] = _BIG_LABEL[1]
        name, port = PORTS[self.random.randrange(len(PORTS))]
        value = (100 << 24) + (64 << 16) + number + 2
        address = ".".join(str(byte) for byte in value.to_bytes(4, "big"))
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{application}-{number:06d}", "namespace": self.names[at], "labels": labels},
            "spec": {
                "nodeName": f"node-{self.random.randrange(self.nodes):04d}",
                "containers": [{"name": "main", "ports": [{"name": name, "containerPort": port, "protocol": "TCP"}]}],
            },
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        }

    def policy(self, number: int) -> Decoded:
        at, index = number % len(self.names), number // len(self.names)
        first, second = self.applications[at][:2]
        port = {"protocol": "TCP", "port": PORTS[self.random.randrange(len(PORTS))][1]}
        kind = index % 3
        if kind == 0:
            peer: Decoded = {"podSelector": {"matchLabels": {"app": second}}}
            if self.hostile and at % HOSTILE_SHARE < 3:  # three of ten of a third of all
                peer = self._wide_peer(number)
            spec: Decoded = {
                "podSelector": {"matchLabels": {"app": first}},
                "policyTypes": ["Ingress"],
                "ingress": [{"from": [peer], "ports": [port]}],
            }
        elif kind == 1:
            cidr = f"10.{self.random.randrange(256)}.{self.random.randrange(256)}.0/24"
            spec = {
                "podSelector": {"matchLabels": {"app": second}},
                "policyTypes": ["Egress"],
                "egress": [{"to": [{"ipBlock": {"cidr": cidr}}], "ports": [port]}],
            }
        else:
            spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
        return {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"policy-{index}", "namespace": self.names[at]},
            "spec": spec,
        }

    def _wide_peer(self, number: int) -> Decoded:
        """Pods of all namespaces: the large group, or an application wherever it runs."""
        label = {_BIG_LABEL[0]: _BIG_LABEL[1]}
        if number % 4:
            label = {"app": self.random.choice(APPLICATIONS)}
        return {"namespaceSelector": {}, "podSelector": {"matchLabels": label}}


def changed_pod(cluster: Cluster, at: int, number: int, hostile: bool) -> Decoded:
    """One pod more in a namespace, of an application that is there; `hostile`: in the large group too."""
    namespace = cluster.namespaces[at]["metadata"]["name"]
    first = cluster.pods[at * len(cluster.pods) // len(cluster.namespaces)]  # of the same namespace, or of one near
    labels = {"app": first["metadata"]["labels"]["app"]}
    if hostile:
        labels[_BIG_LABEL[0]] = _BIG_LABEL[1]
    address = f"172.20.{number // 256}.{2 * number % 256}"
    return _decoded(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"one-more-{number}", "namespace": namespace, "labels": labels},
            "spec": {"nodeName": "node-0000", "containers": [{"name": "main"}]},
            "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
        }
    )


def changed_policy(
    cluster: Cluster, at: int, number: int, hostile: bool, *, port: int = 8080, group: str = ""
) -> Decoded:
    """A policy of one rule more in a namespace: from an application of it; `hostile`: from the large group; `group`:
    from an application in all namespaces."""
    peer: Decoded = {"podSelector": {"matchLabels": {"app": f"client-{number}"}}}
    if hostile or group:
        label = {"app": group} if group else {_BIG_LABEL[0]: _BIG_LABEL[1]}
        peer = {"namespaceSelector": {}, "podSelector": {"matchLabels": label}}
    spec = {
        "podSelector": {},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [peer], "ports": [{"protocol": "TCP", "port": port}]}],
    }
    namespace = cluster.namespaces[at]["metadata"]["name"]
    name = f"one-more-{'group' if group else 'rule'}-{number}"
    metadata = {"name": name, "namespace": namespace}
    return _decoded({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": metadata, "spec": spec})
