# SPDX-License-Identifier: Apache-2.0
"""Kubernetes documents for tests, and what a policy says of pairs of workloads."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dfw.documents import documents_parse
from dfw.load import Loaded, load_documents
from dfw.model import Family, PolicySet
from dfw.reach import Reach, Reachability, Service

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}


def namespace(name: str, **labels: str) -> dict[str, Any]:
    """A Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(
    name: str,
    *ips: str,
    ports: Sequence[tuple[str, int, str]] = (),
    labels: Mapping[str, str] | None = None,
    **more: str,
) -> dict[str, Any]:
    """A Pod called `namespace/name`; ports are (name, number, protocol)."""
    where, _, own = name.partition("/")
    containers = [{"name": "c", "ports": [{"name": n, "containerPort": p, "protocol": k} for n, p, k in ports]}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": own, "namespace": where, "labels": {**(labels or {}), **more}},
        "spec": {"containers": containers},
        "status": {"podIP": ips[0], "podIPs": [{"ip": ip} for ip in ips]} if ips else {},
    }


def network_policy(name: str, **spec: Any) -> dict[str, Any]:
    """A NetworkPolicy called `namespace/name`; without podSelector it selects all."""
    where, _, own = name.partition("/")
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": own, "namespace": where},
        "spec": {"podSelector": {}, **spec},
    }


def cluster_policy(name: str, tier: str = "Admin", priority: int = 10, **spec: Any) -> dict[str, Any]:
    """A ClusterNetworkPolicy; without subject it concerns every pod."""
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": tier, "priority": priority, "subject": {"namespaces": {}}, **spec},
    }


def security_policy(name: str, *rules: Mapping[str, Any], **spec: Any) -> dict[str, Any]:
    """nsx-operator's SecurityPolicy, called `namespace/name`."""
    where, _, own = name.partition("/")
    return {
        "apiVersion": "crd.nsx.vmware.com/v1alpha1",
        "kind": "SecurityPolicy",
        "metadata": {"name": own, "namespace": where},
        "spec": {"priority": 10, **spec, "rules": list(rules)},
    }


def labels(**equal: str) -> dict[str, Any]:
    """A label selector."""
    return {"matchLabels": equal}


def loaded(*documents: Any) -> Loaded:
    """The documents, read as one file. Raises PolicyError."""
    return load_documents(documents_parse("\n".join(map(json.dumps, documents)).encode(), "f.json"))


class Pairs:
    """Verdicts on pairs of workloads by name."""

    def __init__(self, world: PolicySet) -> None:
        self.reachability = Reachability(world)
        self._number = {port.name: number for number, port in enumerate(self.reachability.ports)}
        self._judged: dict[Service, Reach] = {}

    def judge(self, sender: str, receiver: str, protocol: str, port: int) -> tuple[bool | None, ...]:
        """(allowed, egress, ingress); None is unknown."""
        reach = self._reach(protocol, port)
        at = self._number[sender], self._number[receiver]
        values = (False, True, None)
        return values[reach.allowed[at]], values[reach.egress[at]], values[reach.ingress[at]]

    def family(self, sender: str, receiver: str) -> Family | None:
        """The family in which a pair is judged."""
        found = int(self.reachability.families[self._number[sender], self._number[receiver]])
        return Family(found) if found else None

    def by(self, sender: str, receiver: str, protocol: str, port: int) -> str | None:
        """Path of the rule that decided."""
        number = int(self._reach(protocol, port).rule[self._number[sender], self._number[receiver]])
        rules = self.reachability.compiled.rules
        return rules[number].path if number < len(rules) else None

    def allowed(self, sender: str, receiver: str, service: str = "tcp/80") -> bool | None:
        """The verdict alone."""
        protocol, _, port = service.partition("/")
        return self.judge(sender, receiver, protocol.upper(), int(port))[0]

    def _reach(self, protocol: str, port: int) -> Reach:
        service = Service(PROTOCOLS[protocol], port)
        if service not in self._judged:
            self._judged[service] = self.reachability.judge(service)
        return self._judged[service]


def pairs(*documents: Any) -> Pairs:
    """Verdicts under these documents."""
    return Pairs(loaded(*documents).world)
