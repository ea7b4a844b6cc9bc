# SPDX-License-Identifier: Apache-2.0
"""The kinds that the API serves: a table. Discovery, OpenAPI, routes, storage and roles are made from its rows.

Names, short names and categories are Kubernetes' own (`kubectl api-resources` of 1.37), ClusterNetworkPolicy's from
network-policy-api, SecurityPolicy's from nsx-operator.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from supervisor_glue.api.client import Resource

OURS: Final = "palisade.internal"
SPAN: Final = "span.palisade.internal"
ALL_VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")
READ_WRITE: Final = ("get", "patch", "update")


@dataclass(frozen=True, slots=True)
class Subresource:
    """A part of an object under a path of its own. `kind`: what is sent there, where it is no object of the kind."""

    name: str
    verbs: tuple[str, ...]
    kind: str = ""
    group_version: str = ""


STATUS: Final = Subresource("status", READ_WRITE)


@dataclass(frozen=True)
class Kind:
    """A row. `custom`: one that Kubernetes serves by a CustomResourceDefinition (no strategic merge patch, list items
    with kind). `stored`: false for what is only asked (a review)."""

    group: str
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    custom: bool = False
    stored: bool = True
    generation: bool = False  # metadata.generation counts changes of spec
    returned: bool = False  # a DELETE answers with the object

    @cached_property
    def singular(self) -> str:
        return self.kind.lower()

    @cached_property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @cached_property
    def resource(self) -> Resource:
        return Resource(self.group, self.version, self.plural)

    @cached_property
    def list_kind(self) -> str:
        return self.kind + "List"

    @cached_property
    def prefix(self) -> str:
        """Of the keys of its objects in the store."""
        return f"/kubernetes/{self.group or 'core'}/{self.plural}/"

    @cached_property
    def head(self) -> bytes:
        """How an object of it begins as JSON."""
        return f'{{"kind":"{self.kind}","apiVersion":"{self.group_version}",'.encode()

    def key(self, namespace: str, name: str) -> str:
        """Where an object lies in the store."""
        return f"{self.prefix}{namespace}/{name}" if self.namespaced else self.prefix + name

    def subresource(self, name: str) -> Subresource | None:
        return next((item for item in self.subresources if item.name == name), None)

    @property
    def has_status(self) -> bool:
        return STATUS in self.subresources


def _core(kind: str, plural: str, **rest: object) -> Kind:
    return Kind("", "v1", kind, plural, **rest)  # type: ignore[arg-type]


def _ours(kind: str, plural: str, **rest: object) -> Kind:
    options: dict[str, object] = {
        "custom": True,
        "generation": True,
        "subresources": (STATUS,),
        "categories": ("palisade",),
    }
    return Kind(OURS, "v1alpha1", kind, plural, **(options | rest))  # type: ignore[arg-type]


_RBAC: Final = "rbac.authorization.k8s.io"
_AUTHORIZATION: Final = "authorization.k8s.io"

KINDS: Final[tuple[Kind, ...]] = (
    _core("ConfigMap", "configmaps", short=("cm",)),
    _core("Event", "events", short=("ev",)),
    _core(
        "Namespace",
        "namespaces",
        namespaced=False,
        short=("ns",),
        subresources=(Subresource("finalize", ("update",)), STATUS),
        verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
        returned=True,
    ),
    _core("Node", "nodes", namespaced=False, short=("no",), subresources=(STATUS,)),
    _core(
        "Pod",
        "pods",
        short=("po",),
        categories=("all",),
        subresources=(
            Subresource("attach", ("create", "get"), "PodAttachOptions", "v1"),
            Subresource("binding", ("create",), "Binding", "v1"),
            Subresource("eviction", ("create",), "Eviction", "policy/v1"),
            Subresource("exec", ("create", "get"), "PodExecOptions", "v1"),
            Subresource("log", ("get",)),
            STATUS,
        ),
        generation=True,
        returned=True,
    ),
    _core("Secret", "secrets"),
    _core(
        "ServiceAccount",
        "serviceaccounts",
        short=("sa",),
        subresources=(Subresource("token", ("create",), "TokenRequest", "authentication.k8s.io/v1"),),
        returned=True,
    ),
    Kind(
        _AUTHORIZATION,
        "v1",
        "LocalSubjectAccessReview",
        "localsubjectaccessreviews",
        verbs=("create",),
        stored=False,
    ),
    Kind(
        _AUTHORIZATION,
        "v1",
        "SelfSubjectAccessReview",
        "selfsubjectaccessreviews",
        namespaced=False,
        verbs=("create",),
        stored=False,
    ),
    Kind(
        _AUTHORIZATION,
        "v1",
        "SelfSubjectRulesReview",
        "selfsubjectrulesreviews",
        namespaced=False,
        verbs=("create",),
        stored=False,
    ),
    Kind(
        _AUTHORIZATION,
        "v1",
        "SubjectAccessReview",
        "subjectaccessreviews",
        namespaced=False,
        verbs=("create",),
        stored=False,
    ),
    Kind(
        "authentication.k8s.io",
        "v1",
        "SelfSubjectReview",
        "selfsubjectreviews",
        namespaced=False,
        verbs=("create",),
        stored=False,
    ),
    Kind(
        "certificates.k8s.io",
        "v1",
        "CertificateSigningRequest",
        "certificatesigningrequests",
        namespaced=False,
        short=("csr",),
        subresources=(Subresource("approval", READ_WRITE), STATUS),
    ),
    Kind("coordination.k8s.io", "v1", "Lease", "leases"),
    Kind(
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        short=("netpol",),
        subresources=(STATUS,),  # Kubernetes' has none: here it says whether it is in force
        generation=True,
    ),
    Kind(_RBAC, "v1", "ClusterRole", "clusterroles", namespaced=False),
    Kind(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False),
    Kind(_RBAC, "v1", "Role", "roles"),
    Kind(_RBAC, "v1", "RoleBinding", "rolebindings"),
    Kind(
        "policy.networking.k8s.io",
        "v1alpha2",
        "ClusterNetworkPolicy",
        "clusternetworkpolicies",
        namespaced=False,
        short=("cnp",),
        subresources=(STATUS,),
        custom=True,
        generation=True,
    ),
    Kind(
        "crd.nsx.vmware.com",
        "v1alpha1",
        "SecurityPolicy",
        "securitypolicies",
        subresources=(STATUS,),
        custom=True,
        generation=True,
    ),
    _ours("Allocation", "allocations", namespaced=False),
    _ours("Gateway", "gateways", namespaced=False),
    _ours("Host", "hosts", namespaced=False, subresources=(Subresource("agent", ("create", "get")), STATUS)),
    _ours("HostStatus", "hoststatuses", namespaced=False),
    _ours("Machine", "machines", namespaced=False),
    _ours("Port", "ports", namespaced=False),
    _ours("Segment", "segments", namespaced=False),
    _ours("Supervisor", "supervisors", namespaced=False),
)

BY_NAME: Final = {(kind.group, kind.version, kind.plural): kind for kind in KINDS}
BY_KIND: Final = {(kind.group, kind.version, kind.kind): kind for kind in KINDS}
STORED: Final = tuple(kind for kind in KINDS if kind.stored)
NAMESPACES: Final = BY_NAME["", "v1", "namespaces"]
PODS: Final = BY_NAME["", "v1", "pods"]
NODES: Final = BY_NAME["", "v1", "nodes"]
HOSTS: Final = BY_NAME[OURS, "v1alpha1", "hosts"]


def groups() -> dict[str, list[str]]:
    """Versions by group, the core's (``""``) left out, in the table's order."""
    found: dict[str, list[str]] = {}
    for kind in KINDS:
        if kind.group and kind.version not in found.setdefault(kind.group, []):
            found[kind.group].append(kind.version)
    return found


def kinds_of(group: str, version: str) -> Iterable[Kind]:
    return (kind for kind in KINDS if (kind.group, kind.version) == (group, version))
