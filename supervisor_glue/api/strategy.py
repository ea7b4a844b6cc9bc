# SPDX-License-Identifier: Apache-2.0
"""What is particular to a kind: what is filled in, what is checked, what a subresource may change, how it goes.

Source: the strategies of k8s.io/kubernetes/pkg/registry, by behaviour.
"""

from __future__ import annotations

from typing import Any, Final

from supervisor_glue.api.conditions import condition_made, conditions_with
from supervisor_glue.api.defaults import object_default, pod_admit
from supervisor_glue.api.kinds import STORED, Kind
from supervisor_glue.api.status import Cause, Object
from supervisor_glue.api.validate import validate_change, validate_new

DEFAULT_GRACE: Final = 30


class Strategy:
    """Of a kind without particulars."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind

    def prepare_new(self, item: Object) -> None:
        """Fill in what the author is silent about, and take out what a client does not say; in place."""
        if self.kind.has_status and self.kind.kind != "Node":
            item.pop("status", None)
        object_default(self.kind, item)

    def admit(self, item: Object) -> None:
        """Add to a new object what the server says, and no client manages; in place."""

    def prepare_change(self, old: Object, new: Object, subresource: str) -> Object:
        """What is to be stored: a subresource's own part of the new object, the rest of the old."""
        if subresource == "status":
            return self.only(old, new, "status")
        if self.kind.has_status:
            _keep(old, new, "status")
        object_default(self.kind, new)
        return new

    def only(self, old: Object, new: Object, field: str) -> Object:
        """The old object with one field of the new, and its managed fields."""
        kept = dict(old)
        _keep(new, kept, field)
        kept["metadata"] = dict(old["metadata"])
        for name in ("managedFields", "resourceVersion"):
            if name in new["metadata"]:
                kept["metadata"][name] = new["metadata"][name]
        return kept

    def validate(self, item: Object) -> list[Cause]:
        return validate_new(self.kind, item)

    def validate_change(self, old: Object, new: Object, subresource: str) -> list[Cause]:
        return validate_change(self.kind, old, new, subresource)

    def grace(self, item: Object, asked: int | None) -> int:
        """Seconds that a deleted object stays."""
        return 0

    def prepare_deletion(self, item: Object) -> None:
        """Of an object that has got its deletionTimestamp; in place."""


class NamespaceStrategy(Strategy):
    def prepare_new(self, item: Object) -> None:
        super().prepare_new(item)
        item["status"] = {"phase": "Active"}

    def admit(self, item: Object) -> None:
        name = item["metadata"].get("name", "")  # what has none is refused later
        item["metadata"]["labels"] = {**(item["metadata"].get("labels") or {}), "kubernetes.io/metadata.name": name}
        item["spec"] = {"finalizers": sorted({*(item.get("spec") or {}).get("finalizers", ()), "kubernetes"})}

    def prepare_change(self, old: Object, new: Object, subresource: str) -> Object:
        if subresource == "finalize":
            return self.only(old, new, "spec")
        new = super().prepare_change(old, new, subresource)
        if not subresource:
            new["spec"] = old.get("spec") or {}
            labels = new["metadata"].get("labels") or {}
            new["metadata"]["labels"] = {**labels, "kubernetes.io/metadata.name": old["metadata"]["name"]}
        return new

    def prepare_deletion(self, item: Object) -> None:
        item["status"] = {**(item.get("status") or {}), "phase": "Terminating"}


class PodStrategy(Strategy):
    def admit(self, item: Object) -> None:
        pod_admit(item["spec"])
        item["status"] = {"phase": "Pending", "qosClass": pod_quality(item["spec"])}

    def prepare_change(self, old: Object, new: Object, subresource: str) -> Object:
        if subresource == "binding":
            return new
        new = super().prepare_change(old, new, subresource)
        if subresource == "status":
            quality = (old.get("status") or {}).get("qosClass")
            if quality is not None:
                new["status"] = {**(new.get("status") or {}), "qosClass": quality}
        return new

    def grace(self, item: Object, asked: int | None) -> int:
        if not (item.get("spec") or {}).get("nodeName"):
            return 0
        if (item.get("status") or {}).get("phase") in ("Failed", "Succeeded"):
            return 0
        if asked is not None:
            return asked
        period = item["spec"].get("terminationGracePeriodSeconds")
        return DEFAULT_GRACE if period is None else int(period)


class RequestStrategy(Strategy):
    """A CertificateSigningRequest's spec is as it was made; who approves writes the conditions, who signs the rest."""

    def prepare_change(self, old: Object, new: Object, subresource: str) -> Object:
        if subresource == "approval":
            kept = self.only(old, new, "status")
            kept["status"] = {
                **(old.get("status") or {}),
                "conditions": (new.get("status") or {}).get("conditions", []),
            }
            return kept
        new = super().prepare_change(old, new, subresource)
        if not subresource:
            new["spec"] = old["spec"]
        return new


def pod_quality(spec: dict[str, Any]) -> str:
    """A pod's QoS class (https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/)."""
    requested: set[str] = set()
    guaranteed = True
    for container in (*spec.get("containers", ()), *spec.get("initContainers", ())):
        resources = container.get("resources") or {}
        requests, limits = resources.get("requests") or {}, resources.get("limits") or {}
        requested |= {name for name in ("cpu", "memory") if name in requests or name in limits}
        for name in ("cpu", "memory"):
            guaranteed &= name in limits and requests.get(name, limits[name]) == limits[name]
    if not requested:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def condition_set(item: Object, kind: str, status: str, now: float) -> None:
    """Set a condition of an object's status, in place; its transition time only where it changes."""
    held = item.setdefault("status", {}).get("conditions") or ()
    made = condition_made(held, kind, status, now)
    item["status"]["conditions"] = conditions_with(held, made)


def _keep(source: Object, target: Object, field: str) -> None:
    if field in source:
        target[field] = source[field]
    else:
        target.pop(field, None)


_PARTICULAR: Final[dict[tuple[str, str], type[Strategy]]] = {
    ("", "Namespace"): NamespaceStrategy,
    ("", "Pod"): PodStrategy,
    ("certificates.k8s.io", "CertificateSigningRequest"): RequestStrategy,
}
_OF: Final = {kind: _PARTICULAR.get((kind.group, kind.kind), Strategy)(kind) for kind in STORED}


def strategy_of(kind: Kind) -> Strategy:
    return _OF[kind]
