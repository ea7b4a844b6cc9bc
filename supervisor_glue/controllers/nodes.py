# SPDX-License-Identifier: Apache-2.0
"""A host that falls silent is not ready, and its pods are replaced elsewhere.

A host says that it lives by renewing its Lease in kube-node-lease. How long it has been silent is counted here, from
when a renewal was last *seen*: hosts' clocks are not compared with ours, and a controller that has just begun waits a
whole time (https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller).

vSphere restarts the Pods of a host that failed on another one; so do we: what a pod was is written down first (a
ConfigMap in kube-system), so that no end of ours in between can lose it. Pods that somebody controls are only deleted,
and so are those that have ended.

A Node that has been deleted may come back: a host that lives makes it anew, which it is told by its Lease's going. If
it does not, its pods are replaced after a while (Kubernetes: pod garbage collection of orphans). A silent Node whose
Host has been deleted (nobody can speak for it any more) is deleted, as Kubernetes does with a machine that its cloud
knows no more (https://kubernetes.io/docs/concepts/architecture/cloud-controller/#node-controller).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar, Final

from supervisor_glue.api.client import Client
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.controller import Controller, NotThereError, Now, Triggers, there
from supervisor_glue.controllers.events import Recorder
from supervisor_glue.controllers.informer import Index, Views
from supervisor_glue.controllers.leader import SYSTEM_NAMESPACE
from supervisor_glue.controllers.namespace_plan import ENDED
from supervisor_glue.controllers.objects import (
    condition_of,
    conditions_with,
    is_deleted,
    labels_of,
    name_of,
    namespace_of,
    object_made,
    spec_of,
    status_of,
    uid_of,
)
from supervisor_glue.controllers.resources import CONFIG_MAPS, HOSTS, LEASES, NODES, PODS
from supervisor_glue.controllers.select import tolerates
from supervisor_glue.controllers.settings import Settings

LEASE_NAMESPACE: Final = "kube-node-lease"
UNREACHABLE: Final = "node.kubernetes.io/unreachable"
NOT_READY: Final = "node.kubernetes.io/not-ready"
REPLACING: Final = "palisade.internal/replacing"
_TOLD: Final = "Kubelet stopped posting node status."
_KEPT: Final = ("name", "namespace", "labels", "annotations")


class NodeController(Controller):
    """Keys are Nodes' names. `clock`: seconds, monotonic."""

    name: ClassVar[str] = "nodes"

    def __init__(
        self,
        client: Client,
        views: Views,
        settings: Settings,
        now: Now = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(client, views, now)
        self.settings, self._clock = settings, clock
        self.events = Recorder(client, "node-controller", now)
        self._pods = Index(views[PODS], lambda item: [str(spec_of(item).get("nodeName") or "")])
        self._heard: dict[str, tuple[str, float]] = {}  # what was last heard, and when
        self._missing: dict[str, float] = {}  # Nodes that are not there: since when

    def triggers(self) -> Triggers:
        return {
            NODES: lambda item: [name_of(item)],
            HOSTS: lambda item: [name_of(item)],
            LEASES: lambda item: [name_of(item)] if namespace_of(item) == LEASE_NAMESPACE else [],
            PODS: lambda item: [str(spec_of(item)["nodeName"])] if spec_of(item).get("nodeName") else [],
        }

    async def reconcile(self, key: str) -> float | None:
        node = self.views[NODES].get(key)
        if node is None:
            self._heard.pop(key, None)
            return await self._gone(key)
        self._missing.pop(key, None)
        silent = self._silent(node)
        if silent < self.settings.silence:
            ready = condition_of(node, "Ready")
            is_ready = ready is not None and ready.get("status") == "True"
            await self._taint(node, () if is_ready else ((NOT_READY, "NoSchedule"),))
            return self.settings.silence - silent
        if await self._is_disowned(node):
            await self.deleted(NODES, node)
            self.log.warning("no-host", node=key)
            return None
        ready = condition_of(node, "Ready")
        if ready is None or ready.get("status") != "Unknown":
            conditions = conditions_with(node, "Ready", "Unknown", "NodeStatusUnknown", _TOLD, self.now())
            node = await self.client.update(
                NODES, {**node, "status": {**status_of(node), "conditions": conditions}}, "status"
            )
            self.log.warning("silent", node=key, seconds=round(silent))
            self.aside(
                self.events.record(NODES, node, "Normal", "NodeNotReady", f"Node {key} status is now: NodeNotReady")
            )
        await self._taint(node, ((UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")))
        again: float | None = None
        for pod in self._pods[key]:
            left = _patience(pod) - (silent - self.settings.silence)
            if left <= 0:
                await self._replace(pod)
            elif left != float("inf"):
                again = left if again is None else min(again, left)
        return again

    async def _gone(self, key: str) -> float | None:
        """A Node that is not there: a host that lives is told so, and what was placed there does not wait for ever."""
        lease, pods = self.views[LEASES].get(key, LEASE_NAMESPACE), list(self._pods[key])
        if lease is None and not pods:
            self._missing.pop(key, None)
            return None
        with suppress(NotThereError):
            await there(self.client.get(NODES, key))
            return 1.0  # the view is behind
        if lease is not None:
            await self.deleted(LEASES, lease)
        left = self._missing.setdefault(key, self._clock()) + self.settings.quarantine - self._clock()
        if left > 0:
            return left
        for pod in pods:
            await self._replace(pod)
        return None

    async def _is_disowned(self, node: Object) -> bool:
        """Whether there is no Host of its name (any more): as the server has it, not as a view."""
        if self.views[HOSTS].get(name_of(node)) is not None:
            return False
        with suppress(NotThereError):
            await there(self.client.get(HOSTS, name_of(node)))
            return False
        return True

    def _silent(self, node: Object) -> float:
        """Seconds since a sign of life was seen; of a Node that never had a Lease, since its status changed."""
        name, now = name_of(node), self._clock()
        lease = self.views[LEASES].get(name, LEASE_NAMESPACE)
        ready = condition_of(node, "Ready") or {}
        heard = str(spec_of(lease).get("renewTime")) if lease is not None else str(ready.get("lastHeartbeatTime"))
        known = self._heard.get(name)
        if known is None or known[0] != heard:
            known = self._heard[name] = (heard, now)
        return now - known[1]

    async def _taint(self, node: Object, wanted: tuple[tuple[str, str], ...]) -> None:
        taints = list(spec_of(node).get("taints") or ())
        kept = [taint for taint in taints if taint.get("key") not in (UNREACHABLE, NOT_READY)]
        have = {(taint["key"], taint.get("effect")) for taint in taints if taint not in kept}
        if have != set(wanted):
            new = [*kept, *({"key": key, "effect": effect} for key, effect in wanted)]
            await self.client.update(NODES, {**node, "spec": {**spec_of(node), "taints": new}})

    async def _replace(self, pod: Object) -> None:
        """Its host cannot say that it has ended: it is deleted at once, after what it was has been written down."""
        controlled = any(owner.get("controller") for owner in pod["metadata"].get("ownerReferences") or ())
        if not controlled and not is_deleted(pod) and status_of(pod).get("phase") not in ENDED:
            made = object_made(
                CONFIG_MAPS, f"replacing-{uid_of(pod)}", SYSTEM_NAMESPACE, labels={REPLACING: spec_of(pod)["nodeName"]}
            )
            made["data"] = {"pod": json.dumps(pod_anew(pod)), "uid": uid_of(pod)}
            await self.created(CONFIG_MAPS, made, SYSTEM_NAMESPACE)
        try:
            await there(self.client.delete(PODS, name_of(pod), namespace_of(pod), uid=uid_of(pod), grace=0))
        except NotThereError:
            return
        self.log.warning("evicted", pod=f"{namespace_of(pod)}/{name_of(pod)}", host=spec_of(pod)["nodeName"])


class ReplacementController(Controller):
    """Makes pods anew that were written down; keys are the ConfigMaps' names."""

    name: ClassVar[str] = "replacements"

    def triggers(self) -> Triggers:
        return {
            CONFIG_MAPS: lambda item: [name_of(item)] if REPLACING in labels_of(item) else [],
            PODS: lambda item: [f"replacing-{uid_of(item)}"],
        }

    async def reconcile(self, key: str) -> float | None:
        written = self.views[CONFIG_MAPS].get(key, SYSTEM_NAMESPACE)
        if written is None or is_deleted(written):
            return None
        pod: Object = json.loads(written["data"]["pod"])
        namespace = namespace_of(pod)
        try:
            found = await there(self.client.get(PODS, name_of(pod), namespace))
        except NotThereError:
            try:
                await self.client.create(PODS, pod, namespace)
                self.log.info("replaced", pod=f"{namespace}/{name_of(pod)}")
            except ApiError as error:
                if error.code < 500 and error.code not in (409, 429):
                    self.log.warning("not-replaced", pod=f"{namespace}/{name_of(pod)}", error=error.message)
                elif error.reason != "AlreadyExists":
                    raise
        else:
            if uid_of(found) == written["data"]["uid"]:
                return 1.0  # the old one is still there
        try:
            await there(self.client.delete(CONFIG_MAPS, key, SYSTEM_NAMESPACE, uid=uid_of(written)))
        except NotThereError:
            pass
        return None


def pod_anew(pod: Object) -> Object:
    """A pod as its author gave it: without what the cluster has added to say where and how it runs."""
    meta = {key: value for key, value in pod["metadata"].items() if key in _KEPT}
    spec = {key: value for key, value in spec_of(pod).items() if key != "nodeName"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def _patience(pod: Object) -> float:
    """Seconds for which a pod stays on a host that does not answer: for ever where it tolerates that, none where it
    says nothing."""
    taint: Mapping[str, Any] = {"key": UNREACHABLE, "effect": "NoExecute"}
    tolerating = [item for item in spec_of(pod).get("tolerations") or () if tolerates((item,), taint)]
    if not tolerating:
        return 0.0
    times = [float(item["tolerationSeconds"]) for item in tolerating if item.get("tolerationSeconds") is not None]
    return min(times) if times else float("inf")
