# SPDX-License-Identifier: Apache-2.0
"""What a simulated Supervisor is asked for: hosts, Namespaces with three policies each, and pods that are placed."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass, field
from typing import Any

from supervisor_glue.api.client import Resource
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.controllers.objects import micro_time_text, object_made
from supervisor_glue.controllers.resources import (
    CLUSTER_NETWORK_POLICIES,
    HOST_STATUSES,
    HOSTS,
    LEASES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
)
from tests.support.kube import cluster_policy
from tests.support.nodes import node, pod
from tests.support.simulated_hosts import each

APPS = ("web", "db", "other", "web")
TEAMS = 50


@dataclass
class Load:
    """How much of it. `pods`: names by Namespace."""

    hosts: int
    namespaces: int
    count: int
    pods: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number in range(self.namespaces):
            self.pods[f"ns-{number:05}"] = []
        names = list(self.pods)
        for number in range(self.count):
            self.pods[names[number % len(names)]].append(f"p{number // len(names)}")

    @property
    def cidr(self) -> str:
        """Twice as many /28 as Namespaces have."""
        bits = max(6, (2 * self.namespaces).bit_length())
        return f"10.0.0.0/{28 - bits}" if bits > 12 else f"10.244.0.0/{28 - bits}"

    def counts(self) -> dict[str, int]:
        return {
            "hosts": self.hosts,
            "namespaces": self.namespaces,
            "policies": 3 * self.namespaces,
            "pods": self.count,
        }

    def namespace(self, name: str) -> dict[str, Any]:
        return object_made(NAMESPACES, name, labels={"team": f"team-{int(name[3:]) % TEAMS}"})

    def pod(self, namespace: str, name: str) -> dict[str, Any]:
        number = int(namespace[3:]) + len(name)
        made = pod(name, namespace, labels={"app": APPS[number % 4], "tier": f"t{number % 3}"})
        del made["metadata"]["uid"]
        made["spec"]["nodeName"] = host_name(zlib.crc32(f"{namespace}/{name}".encode()) % self.hosts)
        made["spec"]["containers"][0] |= {"image": "none", "ports": [{"name": "http", "containerPort": 8080}]}
        return made

    def quarantine(self) -> dict[str, Any]:
        """Concerns each pod: nothing comes from pods with this label."""
        peer = {"pods": {"namespaceSelector": {}, "podSelector": {"matchLabels": {"quarantine": "yes"}}}}
        return cluster_policy("quarantine", ingress=[{"name": "from", "action": "Deny", "from": [peer]}])

    def policies(self, namespace: str) -> list[dict[str, Any]]:
        """Nothing comes in; web of the same Namespace comes to its db; a team comes to its web."""
        team = (int(namespace[3:]) + 1) % (TEAMS * 20)
        web = {"podSelector": {"matchLabels": {"app": "web"}}}
        others = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": f"ns-{team:05}"}}}
        http, sql = [{"port": "http", "protocol": "TCP"}], [{"port": 5432, "protocol": "TCP"}]
        specs: dict[str, dict[str, Any]] = {
            "deny": {"podSelector": {}, "policyTypes": ["Ingress"]},
            "db": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [web], "ports": sql}]},
            "web": {**web, "ingress": [{"from": [others, {"podSelector": {}}], "ports": http}]},
        }
        return [object_made(NETWORK_POLICIES, name, namespace, spec=spec) for name, spec in specs.items()]


def host_name(number: int) -> str:
    return f"esx-{number:05}"


def host_tep(number: int) -> str:
    return f"172.{16 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


async def hosts_load(client: HttpClient, load: Load) -> dict[str, str]:
    """Hosts as they are once joined: Host, Node, Lease and HostStatus. Their Hosts' uids by name."""
    uids: dict[str, str] = {}

    async def one(number: int) -> None:
        name = host_name(number)
        made = await client.create(HOSTS, object_made(HOSTS, name, spec={"tep": host_tep(number)}))
        uids[name] = made["metadata"]["uid"]
        there = node(name, "64", "256Gi")
        await client.create(NODES, there)
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
        status = {"status": {**there["status"], "conditions": [ready]}}
        await client.patch(NODES, name, status, subresource="status")
        lease = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": micro_time_text(time.time())}
        await client.create(LEASES, object_made(LEASES, name, "kube-node-lease", spec=lease), "kube-node-lease")
        await client.create(HOST_STATUSES, object_made(HOST_STATUSES, name))

    await each(one(number) for number in range(load.hosts))
    return dict(sorted(uids.items()))


async def load_all(client: HttpClient, load: Load) -> None:
    """A policy for all, Namespaces, then their policies, then their pods."""

    async def make(resource: Resource, item: dict[str, Any], namespace: str = "") -> None:
        await client.create(resource, item, namespace)

    await make(CLUSTER_NETWORK_POLICIES, load.quarantine())
    await each(make(NAMESPACES, load.namespace(name)) for name in load.pods)
    await each(make(NETWORK_POLICIES, item, name) for name in load.pods for item in load.policies(name))
    await each(make(PODS, load.pod(name, item), name) for name, names in load.pods.items() for item in names)
