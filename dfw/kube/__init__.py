# SPDX-License-Identifier: Apache-2.0
"""The Kubernetes front end: Namespace, Pod, NetworkPolicy, ClusterNetworkPolicy and nsx-operator's SecurityPolicy.

Documents -> model objects. Labels are matched as Kubernetes matches them; what a selector resolves to is the model's
business (dfw/model/labels.py), not this package's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from dfw.assign import Draft
from dfw.fields import Cursor
from dfw.findings import Finding
from dfw.kube.cluster_network_policy import cluster_network_policy_read
from dfw.kube.kinds import KUBE_KINDS, ignored_kind
from dfw.kube.metadata import DELETE, staging_read
from dfw.kube.namespace import namespace_read
from dfw.kube.network_policy import network_policy_read
from dfw.kube.pod import Pod, pod_read
from dfw.kube.security_policy import security_policy_read
from dfw.model import Namespace, Policy

__all__ = ["KUBE_KINDS", "KubeObjects", "ignored_kind", "kube_load"]


class KubeObjects(NamedTuple):
    """What the documents define. `pods`: drafts of their vNICs, by name, for the inventory to complete."""

    namespaces: Mapping[str, Namespace]
    pods: tuple[tuple[str, Draft], ...]
    policies: tuple[Policy, ...]


def kube_load(documents: Iterable[tuple[str, Cursor]], findings: list[Finding]) -> KubeObjects:
    """All Kubernetes documents together, each with its kind. Problems go where cursors say, warnings to the list."""
    namespaces: dict[str, Namespace] = {}
    pods: list[tuple[str, Draft]] = []
    policies: dict[tuple[str, bool], Policy] = {}
    for kind, cursor in documents:
        found: tuple[Policy, ...] = ()
        match kind:
            case "Namespace":
                namespace = namespace_read(cursor)
                if namespace is not None and namespaces.setdefault(namespace.name, namespace) is not namespace:
                    cursor.problem(f"the namespace {namespace.name} was already given")
            case "Pod":
                pod = pod_read(cursor)
                if pod is not None:
                    pods.append((pod.name, _draft(pod, findings)))
            case "NetworkPolicy":
                found = network_policy_read(cursor, findings)
            case "ClusterNetworkPolicy":
                found = cluster_network_policy_read(cursor)
            case "SecurityPolicy":
                found = security_policy_read(cursor, findings)
        staging = staging_read(cursor) if found else None
        if staging is not None:
            found = tuple(replace(item, staged=True, rules=() if staging == DELETE else item.rules) for item in found)
        for policy in found:
            first = policies.setdefault((policy.path, policy.staged), policy)
            if first is not policy:
                where = f" at {first.place.file}:{first.place.line}" if first.place else ""
                cursor.problem(f"{kind} {policy.namespace or policy.name} was already given{where}")
                break
    return KubeObjects(namespaces, tuple(pods), tuple(policies.values()))


def _draft(pod: Pod, findings: list[Finding]) -> Draft:
    """A pod's vNIC as the inventory completes it: host, segment, MAC, and addresses where the manifest has none."""
    if pod.ips is None:
        message = f"the pod {pod.name} has no address (status.podIP); one is assumed"
        findings.append(Finding("assumed-address", pod.cursor.place, message))
    return Draft(
        {
            **dict.fromkeys(("host", "segment", "machine", "mac")),
            "name": pod.name,
            "ips": pod.ips,
            "tags": (),
            "external_id": "",
            "labels": pod.meta.labels,
            "namespace": pod.meta.namespace,
            "named_ports": pod.named_ports,
            "node": pod.node,
        },
        pod.cursor,
    )
