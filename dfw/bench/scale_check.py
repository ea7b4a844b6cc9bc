# SPDX-License-Identifier: Apache-2.0
"""What the tables of some vNICs must be: the manifests' whole front end, and `compile_policy` for one namespace alone.

A NetworkPolicy is in force in its own namespace only, so a vNIC's table depends on its namespace's policies, and on
the pods that those name; which pods these are the model's own evaluation says, pod by pod.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from dfw.bench.clusters import Cluster, Decoded
from dfw.compile import compile_policy
from dfw.documents import document_of
from dfw.errors import PolicyError, Problem
from dfw.fields import Cursor
from dfw.incremental.canonical import Canonical, canonical_compiled
from dfw.inventory import inventory_load
from dfw.kube import kube_load
from dfw.model import Inventory, Policy, PolicySet, Port, Term, WorkloadMember


class Expected:
    """The tables of the vNICs in some of a cluster's namespaces."""

    def __init__(self, cluster: Cluster, namespaces: Collection[str]) -> None:
        policies = [item for item in cluster.policies if item["metadata"]["namespace"] in namespaces]
        wide = any("namespaceSelector" in str(item["spec"]) for item in policies)
        pods = [item for item in cluster.pods if wide or item["metadata"]["namespace"] in namespaces]
        self._inventory, found = _loaded([*cluster.namespaces, *pods, *policies])
        self._policies: dict[str, list[Policy]] = {}
        for policy in found:
            self._policies.setdefault(policy.namespace, []).append(policy)
        self._of_namespace: dict[str, list[Port]] = {}
        for port in self._inventory:
            self._of_namespace.setdefault(str(port.namespace), []).append(port)
        self._known: dict[Term, list[Port]] = {}
        self._tables: dict[str, dict[str, Canonical]] = {}

    def table(self, pod: str) -> Canonical:
        """The table of a pod, by `namespace/name`."""
        namespace = pod.partition("/")[0]
        if namespace not in self._tables:
            self._tables[namespace] = canonical_compiled(compile_policy(self._world(namespace)))
        return self._tables[namespace][pod]

    def _world(self, namespace: str) -> PolicySet:
        """The policies of a namespace, its pods, and those that its policies name."""
        policies = self._policies.get(namespace, [])
        ports = {port.name: port for port in self._of_namespace[namespace]}
        sides = (side for policy in policies for rule in policy.rules for side in (rule.sources, rule.destinations))
        for term in {term for side in sides for term in side.terms or ()}:
            if isinstance(term, WorkloadMember) and not isinstance(term.namespaces, str):
                ports |= {port.name: port for port in self._members(term)}
        known = self._inventory
        machines = {port.machine: known.machines[port.machine] for port in ports.values()}
        inventory = Inventory({}, {}, known.segments, machines, ports, known.namespaces)
        return PolicySet(tuple(policies), inventory=inventory)

    def _members(self, term: Term) -> list[Port]:
        if term not in self._known:
            world = PolicySet(inventory=self._inventory)
            self._known[term] = [port for port in self._inventory if term.matches(port, world)]
        return self._known[term]


def _loaded(objects: Iterable[Decoded]) -> tuple[Inventory, tuple[Policy, ...]]:
    problems: list[Problem] = []
    manifests = []
    for item in objects:
        document = document_of(item, "cluster")
        manifests.append((str(item["kind"]), Cursor(document, document.root, "", problems)))
    found = kube_load(manifests, [])
    inventory = inventory_load([], problems, [], found.pods, found.namespaces)
    if problems:
        raise PolicyError(problems)
    return inventory, found.policies
