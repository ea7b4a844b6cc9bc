# SPDX-License-Identifier: Apache-2.0
"""Which Kubernetes kinds are read, which are none of a firewall's business, and which must not be passed over.

Manifests come with Services, Deployments and much else; those are ignored. A kind that decides about packets and that
we do not know is an error: passing it over would enforce a weaker policy than the user wrote.
"""

from __future__ import annotations

NETWORKING = "networking.k8s.io/v1"
CLUSTER_POLICY = "policy.networking.k8s.io/v1alpha2"
NSX_OPERATOR = ("crd.nsx.vmware.com/v1alpha1", "nsx.vmware.com/v1alpha1")
KUBE_KINDS = {
    "Namespace": ("v1",),
    "Pod": ("v1",),
    "NetworkPolicy": (NETWORKING,),
    "ClusterNetworkPolicy": (CLUSTER_POLICY,),
    "SecurityPolicy": NSX_OPERATOR,
}
"""Kinds that are read, with the API versions in which they are."""

_HARMLESS = frozenset(
    (
        *("Binding", "ComponentStatus", "ConfigMap", "Endpoints", "Event", "LimitRange", "Node", "PersistentVolume"),
        *("PersistentVolumeClaim", "PodTemplate", "ReplicationController", "ResourceQuota", "Secret", "Service"),
        *("ServiceAccount", "Ingress", "IngressClass", "IPAddress", "ServiceCIDR", "VirtualMachine"),
        *("AddressBinding", "IPAddressAllocation", "IPAddressUsage", "IPBlocksInfo", "IPBlockUsage", "IPPool"),
        *("NCPSetting", "NSXError", "NSXLock", "NSXServiceAccount", "NetworkInfo", "ServiceEndpoint", "StaticRoute"),
        *("Subnet", "SubnetConnectionBindingMap", "SubnetDHCPServerStats", "SubnetIPPools", "SubnetIPReservation"),
        *("SubnetPort", "SubnetPortSetting", "SubnetSet", "VPCEndpoint", "VPCIPAddressUsage"),
        *("VPCNetworkConfiguration",),
    )
)
"""Kinds that decide about no packet, of the API groups in which there are kinds that we read: whatever else is in them
may be one of those, misspelt."""
_GROUPS_READ = frozenset(version.rpartition("/")[0] for versions in KUBE_KINDS.values() for version in versions)
_CONTROLLERS = frozenset(
    ("Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController", "Job", "CronJob")
)
_IGNORED_GROUPS = frozenset(
    (
        *("", "apps", "batch", "autoscaling", "rbac.authorization.k8s.io", "storage.k8s.io", "discovery.k8s.io"),
        *("coordination.k8s.io", "scheduling.k8s.io", "node.k8s.io", "apiextensions.k8s.io", "events.k8s.io"),
        *("admissionregistration.k8s.io", "apiregistration.k8s.io", "cert-manager.io", "networking.k8s.io"),
        *("crd.nsx.vmware.com", "nsx.vmware.com", "eas.nsx.vmware.com", "vmoperator.vmware.com"),
    )
)


def ignored_kind(version: str, kind: str) -> str | None:
    """Why documents of this kind are passed over; None where they are not."""
    group = version.rpartition("/")[0]
    if group not in _IGNORED_GROUPS or (group in _GROUPS_READ and kind not in _HARMLESS):
        return None
    if kind in _CONTROLLERS:
        return f"its pods are not known; give the pods themselves ({kind} is ignored)"
    return f"{kind} says nothing about packets and is ignored"
