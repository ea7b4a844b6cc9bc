# SPDX-License-Identifier: Apache-2.0
"""The collections that controllers look at. Our own kinds have no namespace; all that belongs to a Namespace says so
in `metadata.ownerReferences` and in its spec."""

from __future__ import annotations

from typing import Final

from supervisor_glue.api.client import Resource
from supervisor_glue.api.kinds import KINDS, OURS, STORED


def _own(plural: str) -> Resource:
    return Resource(OURS, "v1alpha1", plural)


NAMESPACES: Final = Resource("", "v1", "namespaces")
PODS: Final = Resource("", "v1", "pods")
NODES: Final = Resource("", "v1", "nodes")
EVENTS: Final = Resource("", "v1", "events")
CONFIG_MAPS: Final = Resource("", "v1", "configmaps")
SECRETS: Final = Resource("", "v1", "secrets")
SERVICE_ACCOUNTS: Final = Resource("", "v1", "serviceaccounts")
LEASES: Final = Resource("coordination.k8s.io", "v1", "leases")
ROLES: Final = Resource("rbac.authorization.k8s.io", "v1", "roles")
ROLE_BINDINGS: Final = Resource("rbac.authorization.k8s.io", "v1", "rolebindings")
NETWORK_POLICIES: Final = Resource("networking.k8s.io", "v1", "networkpolicies")
CLUSTER_NETWORK_POLICIES: Final = Resource("policy.networking.k8s.io", "v1alpha2", "clusternetworkpolicies")
SECURITY_POLICIES: Final = Resource("crd.nsx.vmware.com", "v1alpha1", "securitypolicies")
HOSTS: Final = _own("hosts")
SEGMENTS: Final = _own("segments")
GATEWAYS: Final = _own("gateways")
MACHINES: Final = _own("machines")
PORTS: Final = _own("ports")
HOST_STATUSES: Final = _own("hoststatuses")
ALLOCATIONS: Final = _own("allocations")
"""What was taken of a pool: a block of pod addresses (and which of them), or an egress address. Its name is what was
taken, so that nobody else can take it."""

KIND_OF: Final = {kind.resource: kind.kind for kind in KINDS}
"""What an object of each collection is called."""
_LATE: Final = (PODS, ROLE_BINDINGS, ROLES, SERVICE_ACCOUNTS, SECRETS, CONFIG_MAPS, LEASES, EVENTS)
IN_NAMESPACES: Final = (
    PODS,
    *(kind.resource for kind in STORED if kind.namespaced and kind.resource not in _LATE),
    *_LATE[1:],
)
"""Collections whose objects are in Namespaces, in the order in which they go when their Namespace does: pods while
their policies still hold, events last."""


def api_version(resource: Resource) -> str:
    """As objects of the collection have it."""
    return f"{resource.group}/{resource.version}" if resource.group else resource.version
