# SPDX-License-Identifier: Apache-2.0
"""Hosts that renew their Leases when told, and the controllers that look at them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from supervisor_glue.api.client import Client
from supervisor_glue.controllers.controller import Controller
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.nodes import NodeController, ReplacementController
from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import HOSTS, LEASES, NAMESPACES, NODES, PODS
from supervisor_glue.controllers.scheduler import SchedulerController
from supervisor_glue.controllers.settings import Settings
from tests.support.api_twin import ApiTwin
from tests.support.nodes import node

SETTINGS = Settings(silence=40.0, quarantine=40.0)
STAYS = [{"key": "node.kubernetes.io/unreachable", "operator": "Exists"}]


class Hosts:
    """A server with two hosts that renew their Leases when told, and a clock."""

    def __init__(self) -> None:
        self.server, self.seconds = ApiTwin(), 0.0
        self.controllers: list[Controller] = []

    def make(self, client: Client, views: Views) -> Sequence[Controller]:
        nodes = NodeController(client, views, SETTINGS, clock=lambda: self.seconds)
        self.controllers = [nodes, ReplacementController(client, views), SchedulerController(client, views)]
        return self.controllers

    async def begin(self) -> None:
        for name in ("shop", "kube-system", "kube-node-lease"):
            await self.server.create(NAMESPACES, object_made(NAMESPACES, name))
        for name in ("h1", "h2"):
            made = node(name)
            made["status"]["conditions"] = [
                {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
            ]
            await self.server.create(NODES, made)
            await self.server.create(HOSTS, object_made(HOSTS, name, spec={}))
            lease = object_made(LEASES, name, "kube-node-lease", spec={"renewTime": "0"})
            await self.server.create(LEASES, lease, "kube-node-lease")

    async def renew(self, *hosts: str) -> None:
        for host in hosts:
            await self.server.patch(LEASES, host, {"spec": {"renewTime": str(self.seconds)}}, "kube-node-lease")

    def look(self) -> None:
        """What `add_after` does when the time has come."""
        for name in ("h1", "h2"):
            self.controllers[0].queue.add(name)

    def taints(self, host: str) -> set[tuple[str, str]]:
        spec = self.server.objects[NODES, "", host]["spec"]
        return {(item["key"], item["effect"]) for item in spec.get("taints") or ()}


async def pod_put(server: ApiTwin, made: Any, **meta: Any) -> None:
    item = {**made, "metadata": {**made["metadata"], **meta}}
    item["metadata"].pop("uid", None)
    await server.create(PODS, item, "shop")
