# SPDX-License-Identifier: Apache-2.0
"""The columns of each kind, as k8s.io/kubernetes/pkg/printers/internalversion has them (priority 1: `-o wide`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from supervisor_glue.api.status import Object

NONE: Final = "<none>"


class Column(NamedTuple):
    name: str
    type: str = "string"
    format: str = ""
    description: str = ""
    priority: int = 0

    def document(self) -> Object:
        return dict(self._asdict())


def name_column() -> Column:
    told = (
        "Name must be unique within a namespace. Is required when creating resources, although some resources may allow"
        " a client to request the generation of an appropriate name automatically. Name is primarily intended for"
        " creation idempotence and configuration definition. Cannot be updated. More info:"
        " https://kubernetes.io/docs/concepts/overview/working-with-objects/names#names"
    )
    return Column("Name", format="name", description=told)


def age_column() -> Column:
    told = (
        "CreationTimestamp is a timestamp representing the server time when this object was created. It is not"
        " guaranteed to be set in happens-before order across separate operations. Clients may not set this value. It"
        " is represented in RFC3339 form and is in UTC."
    )
    return Column("Age", description=told)


def _age(item: Object, now: float) -> str:
    from supervisor_glue.api.tables import age

    return age(item, now)


def _since(text: str | None, now: float) -> str:
    from supervisor_glue.api.metadata import time_of
    from supervisor_glue.api.tables import duration_text

    return "<unknown>" if not text else duration_text(now - time_of(text))


def _name(item: Object) -> str:
    return str(item["metadata"]["name"])


def _status(item: Object) -> Mapping[str, Any]:
    return item.get("status") or {}


def _spec(item: Object) -> Mapping[str, Any]:
    return item.get("spec") or {}


def selector_text(selector: Mapping[str, Any] | None) -> str:
    """A label selector in one line (metav1.FormatLabelSelector)."""
    if not selector:
        return NONE
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for term in selector.get("matchExpressions") or ():
        values = ",".join(sorted(term.get("values") or ()))
        told = {
            "In": f"{term['key']} in ({values})",
            "NotIn": f"{term['key']} notin ({values})",
            "Exists": term["key"],
            "DoesNotExist": f"!{term['key']}",
        }
        terms.append(told.get(term["operator"], ""))
    return ",".join(terms) or NONE


def conditions_of(item: Object) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in _status(item).get("conditions") or ()}


def realized_text(item: Object) -> str:
    """Whether it is in force on every host that needs it."""
    return conditions_of(item).get("Realized", "")


# ---- pods ---------------------------------------------------------------------------------------------------------


def pod_reason(item: Object) -> str:
    """A pod's state in one word, as `kubectl get pods` has it."""
    status = _status(item)
    reason = str(status.get("reason") or status.get("phase") or "Unknown")
    initializing = False
    many = len(_spec(item).get("initContainers") or ())
    for place, container in enumerate(status.get("initContainerStatuses") or ()):
        state = container.get("state") or {}
        ended, waiting = state.get("terminated"), state.get("waiting")
        if ended is not None and ended.get("exitCode") == 0:
            continue
        initializing = True
        if ended is not None:
            signal = f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode')}"
            reason = f"Init:{ended.get('reason') or signal}"
        elif waiting and waiting.get("reason") not in ("", None, "PodInitializing"):
            reason = f"Init:{waiting['reason']}"
        else:
            reason = f"Init:{place}/{many}"
        break
    if not initializing:
        running = False
        for container in reversed(status.get("containerStatuses") or ()):
            state = container.get("state") or {}
            if (state.get("waiting") or {}).get("reason"):
                reason = state["waiting"]["reason"]
            elif (state.get("terminated") or {}).get("reason"):
                reason = state["terminated"]["reason"]
            elif state.get("terminated"):
                ended = state["terminated"]
                reason = f"Signal:{ended['signal']}" if ended.get("signal") else f"ExitCode:{ended.get('exitCode')}"
            elif container.get("ready") and state.get("running"):
                running = True
        if reason == "Completed" and running:
            reason = "Running" if conditions_of(item).get("Ready") == "True" else "NotReady"
    if "deletionTimestamp" in item["metadata"]:
        return "Unknown" if status.get("reason") == "NodeLost" else "Terminating"
    return reason


def _pod_cells(item: Object, now: float) -> Sequence[Any]:
    status, spec = _status(item), _spec(item)
    states = status.get("containerStatuses") or ()
    ready = sum(1 for state in states if state.get("ready") and (state.get("state") or {}).get("running"))
    restarts = sum(int(state.get("restartCount") or 0) for state in states)
    last = [
        ((state.get("lastState") or {}).get("terminated") or {}).get("finishedAt")
        for state in states
        if state.get("lastState")
    ]
    told = str(restarts)
    if restarts and any(last):
        told += f" ({_since(max(text for text in last if text), now)} ago)"
    gates = spec.get("readinessGates") or ()
    known = conditions_of(item)
    passed = sum(1 for gate in gates if known.get(gate.get("conditionType")) == "True")
    return (
        _name(item),
        f"{ready}/{len(spec.get('containers') or ())}",
        pod_reason(item),
        told,
        _age(item, now),
        status.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        f"{passed}/{len(gates)}" if gates else NONE,
    )


# ---- nodes --------------------------------------------------------------------------------------------------------

_ROLE: Final = "node-role.kubernetes.io/"


def _node_cells(item: Object, now: float) -> Sequence[Any]:
    known = conditions_of(item)
    status = {"True": "Ready", "False": "NotReady"}.get(
        known.get("Ready", ""), "Unknown" if "Ready" not in known else "NotReady"
    )
    if _spec(item).get("unschedulable"):
        status += ",SchedulingDisabled"
    labels = item["metadata"].get("labels") or {}
    roles = ",".join(sorted(key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE))) or NONE
    info = _status(item).get("nodeInfo") or {}
    addresses = {entry["type"]: entry["address"] for entry in _status(item).get("addresses") or ()}
    return (
        _name(item),
        status,
        roles,
        _age(item, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", NONE),
        addresses.get("ExternalIP", NONE),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    )


def _event_cells(item: Object, now: float) -> Sequence[Any]:
    about = item.get("involvedObject") or {}
    first = item.get("firstTimestamp") or item.get("eventTime")
    last = (item.get("series") or {}).get("lastObservedTime") or item.get("lastTimestamp") or first
    source = item.get("source") or {}
    told = ", ".join(text for text in (source.get("component"), source.get("host")) if text)
    count = (item.get("series") or {}).get("count") or item.get("count") or 1
    return (
        _since(last, now),
        item.get("type", ""),
        item.get("reason", ""),
        f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}",
        about.get("fieldPath", ""),
        told or item.get("reportingComponent", ""),
        str(item.get("message", "")).strip(),
        _since(first, now),
        count,
        _name(item),
    )


def _binding_cells(item: Object, now: float) -> Sequence[Any]:
    reference = item.get("roleRef") or {}
    subjects = item.get("subjects") or ()
    named = {
        "User": [subject["name"] for subject in subjects if subject["kind"] == "User"],
        "Group": [subject["name"] for subject in subjects if subject["kind"] == "Group"],
        "ServiceAccount": [
            f"{subject.get('namespace', '')}/{subject['name']}"
            for subject in subjects
            if subject["kind"] == "ServiceAccount"
        ],
    }
    role = f"{reference.get('kind')}/{reference.get('name')}"
    return (_name(item), role, _age(item, now), *(", ".join(names) for names in named.values()))


def _request_cells(item: Object, now: float) -> Sequence[Any]:
    spec, known = _spec(item), conditions_of(item)
    told = "Denied" if "Denied" in known else "Approved" if "Approved" in known else "Pending"
    told += ",Failed" if "Failed" in known else ",Issued" if _status(item).get("certificate") else ""
    seconds = spec.get("expirationSeconds")
    from supervisor_glue.api.tables import duration_text

    return (
        _name(item),
        _age(item, now),
        spec.get("signerName") or NONE,
        spec.get("username", ""),
        NONE if seconds is None else duration_text(seconds),
        told,
    )


def _own_cells(*paths: str) -> Callable[[Object, float], Sequence[Any]]:
    """Cells of a kind of ours: name, a field each, realized, age."""

    def value(item: Object, path: str) -> Any:
        found: Any = item
        for part in path.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        return ",".join(map(str, found)) if isinstance(found, list) else found

    def cells(item: Object, now: float) -> Sequence[Any]:
        return (_name(item), *(value(item, path) for path in paths), _age(item, now))

    return cells


_RBAC: Final = "rbac.authorization.k8s.io"
_OURS: Final = "palisade.internal"
_CREATED: Final = Column("Created At", description="When it was made.")
_BINDING: Final = (
    name_column(),
    Column("Role"),
    age_column(),
    Column("Users", priority=1),
    Column("Groups", priority=1),
    Column("ServiceAccounts", priority=1),
)

COLUMNS: Final[dict[tuple[str, str], tuple[Column, ...]]] = {
    ("", "Pod"): (
        name_column(),
        Column("Ready", description="The aggregate readiness state of this pod for accepting traffic."),
        Column("Status", description="The aggregate status of the containers in this pod."),
        Column(
            "Restarts",
            description="The number of times the containers in this pod have been restarted and when the last container"
            " in this pod has restarted.",
        ),
        age_column(),
        Column("IP", priority=1),
        Column("Node", priority=1),
        Column("Nominated Node", priority=1),
        Column("Readiness Gates", priority=1),
    ),
    ("", "Namespace"): (name_column(), Column("Status", description="The status of the namespace"), age_column()),
    ("", "Node"): (
        name_column(),
        Column("Status", description="The status of the node"),
        Column("Roles", description="The roles of the node"),
        age_column(),
        Column("Version"),
        Column("Internal-IP", priority=1),
        Column("External-IP", priority=1),
        Column("OS-Image", priority=1),
        Column("Kernel-Version", priority=1),
        Column("Container-Runtime", priority=1),
    ),
    ("", "Secret"): (name_column(), Column("Type"), Column("Data"), age_column()),
    ("", "ConfigMap"): (name_column(), Column("Data"), age_column()),
    ("", "ServiceAccount"): (name_column(), Column("Secrets"), age_column()),
    ("", "Event"): (
        Column("Last Seen"),
        Column("Type"),
        Column("Reason"),
        Column("Object"),
        Column("Subobject", priority=1),
        Column("Source", priority=1),
        Column("Message"),
        Column("First Seen", priority=1),
        Column("Count", priority=1),
        Column("Name", format="name", priority=1),
    ),
    ("coordination.k8s.io", "Lease"): (name_column(), Column("Holder"), age_column()),
    ("networking.k8s.io", "NetworkPolicy"): (name_column(), Column("Pod-Selector"), age_column()),
    ("policy.networking.k8s.io", "ClusterNetworkPolicy"): (
        name_column(),
        Column("Tier"),
        Column("Priority"),
        age_column(),
    ),
    ("crd.nsx.vmware.com", "SecurityPolicy"): (name_column(), Column("Priority"), Column("Realized"), age_column()),
    (_RBAC, "Role"): (name_column(), _CREATED),
    (_RBAC, "ClusterRole"): (name_column(), _CREATED),
    (_RBAC, "RoleBinding"): _BINDING,
    (_RBAC, "ClusterRoleBinding"): _BINDING,
    ("certificates.k8s.io", "CertificateSigningRequest"): (
        name_column(),
        age_column(),
        Column("SignerName"),
        Column("Requestor"),
        Column("RequestedDuration"),
        Column("Condition"),
    ),
    (_OURS, "Host"): (name_column(), Column("TEP"), age_column()),
    (_OURS, "HostStatus"): (name_column(), Column("Realized"), age_column()),
    (_OURS, "Segment"): (name_column(), Column("VNI"), Column("Subnets"), Column("Gateway"), age_column()),
    (_OURS, "Gateway"): (name_column(), Column("Tier"), Column("Uplink"), age_column()),
    (_OURS, "Port"): (
        name_column(),
        Column("Host"),
        Column("Segment"),
        Column("IPs"),
        age_column(),
        Column("MAC", priority=1),
    ),
}

CELLS: Final[dict[tuple[str, str], Callable[[Object, float], Sequence[Any]]]] = {
    ("", "Pod"): _pod_cells,
    ("", "Namespace"): lambda item, now: (_name(item), _status(item).get("phase", ""), _age(item, now)),
    ("", "Node"): _node_cells,
    ("", "Secret"): lambda item, now: (_name(item), item.get("type", ""), len(item.get("data") or ()), _age(item, now)),
    ("", "ConfigMap"): lambda item, now: (
        _name(item),
        len(item.get("data") or ()) + len(item.get("binaryData") or ()),
        _age(item, now),
    ),
    ("", "ServiceAccount"): lambda item, now: (_name(item), len(item.get("secrets") or ()), _age(item, now)),
    ("", "Event"): _event_cells,
    ("coordination.k8s.io", "Lease"): lambda item, now: (
        _name(item),
        _spec(item).get("holderIdentity") or "",
        _age(item, now),
    ),
    ("networking.k8s.io", "NetworkPolicy"): lambda item, now: (
        _name(item),
        selector_text(_spec(item).get("podSelector")),
        _age(item, now),
    ),
    ("policy.networking.k8s.io", "ClusterNetworkPolicy"): lambda item, now: (
        _name(item),
        _spec(item).get("tier", ""),
        str(_spec(item).get("priority", "")),
        _age(item, now),
    ),
    ("crd.nsx.vmware.com", "SecurityPolicy"): lambda item, now: (
        _name(item),
        str(_spec(item).get("priority", "")),
        realized_text(item),
        _age(item, now),
    ),
    (_RBAC, "Role"): lambda item, now: (_name(item), item["metadata"].get("creationTimestamp", "")),
    (_RBAC, "ClusterRole"): lambda item, now: (_name(item), item["metadata"].get("creationTimestamp", "")),
    (_RBAC, "RoleBinding"): _binding_cells,
    (_RBAC, "ClusterRoleBinding"): _binding_cells,
    ("certificates.k8s.io", "CertificateSigningRequest"): _request_cells,
    (_OURS, "Host"): _own_cells("spec.tep"),
    (_OURS, "HostStatus"): _own_cells("status.realizedRevision"),
    (_OURS, "Segment"): _own_cells("spec.vni", "spec.subnets", "spec.gateway"),
    (_OURS, "Gateway"): _own_cells("spec.tier", "spec.uplink_gateway"),
    (_OURS, "Port"): lambda item, now: (
        _name(item),
        _spec(item).get("host", ""),
        _spec(item).get("segment", ""),
        ",".join(_spec(item).get("ips") or ()),
        _age(item, now),
        _spec(item).get("mac", ""),
    ),
}
