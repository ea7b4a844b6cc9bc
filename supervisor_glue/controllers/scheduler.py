# SPDX-License-Identifier: Apache-2.0
"""Places pods: one after the other, each on what is known of all hosts, those placed a moment ago included."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar, Final

from supervisor_glue.api.client import Client
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.controller import Controller, Now, Triggers
from supervisor_glue.controllers.events import Recorder
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.namespace_plan import ENDED
from supervisor_glue.controllers.objects import (
    condition_of,
    conditions_with,
    is_deleted,
    key_split,
    labels_of,
    name_of,
    object_key,
    spec_of,
    status_of,
    uid_of,
)
from supervisor_glue.controllers.resources import NAMESPACES, NODES, PODS
from supervisor_glue.controllers.schedule import (
    NONE,
    Choice,
    Cluster,
    HostRoom,
    Requests,
    choose,
    host_room,
    requests_of,
)

SCHEDULER: Final = "default-scheduler"
SCHEDULED: Final = "PodScheduled"


class SchedulerController(Controller):
    """Keys are pods (`namespace/name`)."""

    name: ClassVar[str] = "scheduler"
    workers: ClassVar[int] = 1

    def __init__(self, client: Client, views: Views, now: Now = time.time) -> None:
        super().__init__(client, views, now)
        self.events = Recorder(client, SCHEDULER, now)
        self.placed = Placed()
        self._waiting: set[str] = set()
        views[PODS].handle(self._pod_changed)
        views[NODES].handle(self.placed.node_changed)
        views[NAMESPACES].handle(self.placed.namespace_changed)

    def triggers(self) -> Triggers:
        def waiting(item: Object) -> set[str]:
            return set(self._waiting)

        return {PODS: lambda item: [object_key(item)], NODES: waiting, NAMESPACES: waiting}

    def _pod_changed(self, old: Object | None, new: Object | None) -> None:
        self.placed.pod_changed(old, new)
        left = new is None or is_deleted(new) or status_of(new).get("phase") in ENDED
        if left and old is not None and spec_of(old).get("nodeName"):
            for key in self._waiting:  # there is room where it was
                self.queue.add(key)

    async def reconcile(self, key: str) -> float | None:
        namespace, name = key_split(key)
        pod = self.views[PODS].get(name, namespace)
        self._waiting.discard(key)
        if pod is None or not is_to_place(pod) or self.placed.host_of(pod) is not None:
            return None
        try:
            choice = choose(pod, self.placed.cluster())
        except ValueError as error:  # the API has let through what is no quantity
            choice = Choice(None, str(error))
        if choice.host is None:
            self._waiting.add(key)
            await self._refused(pod, choice.message)
            return None
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid_of(pod)},
            "target": {"apiVersion": "v1", "kind": "Node", "name": choice.host},
        }
        await self.client.create(PODS, binding, namespace, name=name, subresource="binding")
        self.placed.assume(pod, choice.host)
        self.log.info("placed", pod=key, host=choice.host)
        told = f"Successfully assigned {key} to {choice.host}"
        self.aside(self.events.record(PODS, pod, "Normal", "Scheduled", told))
        return None

    async def _refused(self, pod: Object, message: str) -> None:
        old = condition_of(pod, SCHEDULED)
        if old and (old.get("status"), old.get("message")) == ("False", message):
            return
        conditions = conditions_with(pod, SCHEDULED, "False", "Unschedulable", message, self.now())
        changed = {**pod, "status": {**status_of(pod), "conditions": conditions}}
        await self.client.update(PODS, changed, "status")
        self.aside(self.events.record(PODS, pod, "Warning", "FailedScheduling", message))


def is_to_place(pod: Object) -> bool:
    """Not yet placed, ours to place, not on its way out, and nothing holds it back."""
    spec = spec_of(pod)
    return not (
        spec.get("nodeName")
        or is_deleted(pod)
        or status_of(pod).get("phase") in ENDED
        or spec.get("schedulerName", SCHEDULER) != SCHEDULER
        or spec.get("schedulingGates")
    )


class Placed:
    """Which pods are where, and what they use there; a pod that was just bound counts before the view shows it. What is
    known of a host is made anew only when something there has changed."""

    def __init__(self) -> None:
        self._nodes: dict[str, Object] = {}
        self._on: dict[str, dict[str, Object]] = {}  # by host: by uid
        self._of: dict[str, tuple[str, Requests]] = {}  # by uid
        self._used: dict[str, Requests] = {}
        self._rooms: dict[str, HostRoom] = {}
        self._namespaces: dict[str, Mapping[str, str]] = {}

    def host_of(self, pod: Object) -> str | None:
        found = self._of.get(uid_of(pod))
        return None if found is None else found[0]

    def pod_changed(self, old: Object | None, new: Object | None) -> None:
        """A pod as the view has it. One that has been bound here may not be shown so yet."""
        if new is None or status_of(new).get("phase") in ENDED:
            self._drop(new or old)
        elif spec_of(new).get("nodeName"):
            self.assume(new, spec_of(new)["nodeName"])

    def node_changed(self, old: Object | None, new: Object | None) -> None:
        name = name_of(new or old or {})
        self._rooms.pop(name, None)
        if new is None:
            self._nodes.pop(name, None)
        else:
            self._nodes[name] = new

    def namespace_changed(self, old: Object | None, new: Object | None) -> None:
        if new is None:
            self._namespaces.pop(name_of(old or {}), None)
        else:
            self._namespaces[name_of(new)] = labels_of(new)

    def assume(self, pod: Object, host: str) -> None:
        """It is there now."""
        self._drop(pod)
        try:
            used = requests_of(pod)
        except ValueError:  # somebody else has placed it
            used = Requests()
        self._of[uid_of(pod)] = (host, used)
        self._on.setdefault(host, {})[uid_of(pod)] = pod
        self._used[host] = self._used.get(host, NONE) + used
        self._rooms.pop(host, None)

    def _drop(self, pod: Object | None) -> None:
        found = None if pod is None else self._of.pop(uid_of(pod), None)
        if pod is not None and found is not None:
            host, used = found
            del self._on[host][uid_of(pod)]
            self._used[host] = self._used[host] - used
            self._rooms.pop(host, None)

    def cluster(self) -> Cluster:
        """All hosts, in the order of their names."""
        rooms = self._rooms
        for name, node in self._nodes.items():
            if name not in rooms:
                rooms[name] = host_room(node, self._used.get(name, NONE), list(self._on.get(name, {}).values()))
        return Cluster([rooms[name] for name in sorted(self._nodes)], self._namespaces)
