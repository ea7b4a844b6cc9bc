# SPDX-License-Identifier: Apache-2.0
"""What an object has where its author is silent, as Kubernetes fills it in.

Source: k8s.io/kubernetes/pkg/apis/*/v1/defaults.go, by the answers of a real API server.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import Object

_PATIENCE: Final = 300  # seconds that a pod stays on a host that has fallen silent
_NOT_READY: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def object_default(kind: Kind, item: Object) -> None:
    """Fill in, in place."""
    fill = _FILLS.get((kind.group, kind.kind))
    if fill is not None:
        fill(item)


def _pod(item: Object) -> None:
    spec = item.setdefault("spec", {})
    if not isinstance(spec, dict):
        return
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("enableServiceLinks", True)
    if "serviceAccountName" in spec:
        spec.setdefault("serviceAccount", spec["serviceAccountName"])
    for field in ("initContainers", "containers"):
        for container in _objects(spec.get(field)):
            _container(container)
    for volume in _objects(spec.get("volumes")):
        for source in ("configMap", "secret", "projected", "downwardAPI"):
            if isinstance(volume.get(source), dict):
                volume[source].setdefault("defaultMode", 0o644)


def pod_admit(spec: dict[str, Any]) -> None:
    """What admission adds to a new pod's spec (Priority, DefaultTolerationSeconds), in place."""
    spec.setdefault("priority", 0)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    tolerations = spec.get("tolerations") or []
    for key in _NOT_READY:
        known = any(
            item.get("key", key) in (key, "") and item.get("effect", "NoExecute") in ("NoExecute", "")
            for item in _objects(tolerations)
        )
        if not known:
            more = {"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": _PATIENCE}
            tolerations = [*tolerations, more]
    if tolerations:
        spec["tolerations"] = tolerations


def _container(container: dict[str, Any]) -> None:
    container.setdefault("resources", {})
    resources = container["resources"]
    if isinstance(resources, dict) and isinstance(resources.get("limits"), dict):
        requests = resources.setdefault("requests", {})
        for name, value in resources["limits"].items():
            requests.setdefault(name, value)
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    image = container.get("image")
    if image and isinstance(image, str):
        tag = image.rpartition("/")[2].partition(":")[2]
        container.setdefault(
            "imagePullPolicy", "Always" if tag in ("", "latest") and "@" not in image else "IfNotPresent"
        )
    for port in _objects(container.get("ports")):
        port.setdefault("protocol", "TCP")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        probe = container.get(name)
        if isinstance(probe, dict):
            for field, value in _PROBE:
                probe.setdefault(field, value)
            if isinstance(probe.get("httpGet"), dict):
                probe["httpGet"].setdefault("scheme", "HTTP")
                probe["httpGet"].setdefault("path", "/")
    for variable in _objects(container.get("env")):
        source = variable.get("valueFrom")
        if isinstance(source, dict) and isinstance(source.get("fieldRef"), dict):
            source["fieldRef"].setdefault("apiVersion", "v1")


_PROBE: Final = (("timeoutSeconds", 1), ("periodSeconds", 10), ("successThreshold", 1), ("failureThreshold", 3))


def _network_policy(item: Object) -> None:
    spec = item.setdefault("spec", {})
    if not isinstance(spec, dict):
        return
    spec.setdefault("podSelector", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for rule in (*_objects(spec.get("ingress")), *_objects(spec.get("egress"))):
        for port in _objects(rule.get("ports")):
            port.setdefault("protocol", "TCP")


def _secret(item: Object) -> None:
    item.setdefault("type", "Opaque")
    text = item.pop("stringData", None)
    if isinstance(text, dict):
        import base64

        data = item["data"] if isinstance(item.get("data"), dict) else item.setdefault("data", {})
        for name, value in text.items():
            data[name] = base64.b64encode(str(value).encode()).decode()


def _binding(item: Object) -> None:
    reference = item.get("roleRef")
    if isinstance(reference, dict):
        reference.setdefault("apiGroup", "rbac.authorization.k8s.io")
    for subject in _objects(item.get("subjects")):
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _role(item: Object) -> None:
    item.setdefault("rules", None)


def _event(item: Object) -> None:
    item.setdefault("source", {})
    item.setdefault("firstTimestamp", None)
    item.setdefault("lastTimestamp", None)
    item.setdefault("eventTime", None)
    item.setdefault("reportingComponent", "")
    item.setdefault("reportingInstance", "")


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


_FILLS: Final[dict[tuple[str, str], Callable[[Object], None]]] = {
    ("", "Pod"): _pod,
    ("", "Secret"): _secret,
    ("", "Event"): _event,
    ("networking.k8s.io", "NetworkPolicy"): _network_policy,
    ("rbac.authorization.k8s.io", "Role"): _role,
    ("rbac.authorization.k8s.io", "ClusterRole"): _role,
    ("rbac.authorization.k8s.io", "RoleBinding"): _binding,
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): _binding,
}
