# SPDX-License-Identifier: Apache-2.0
"""A real API server with something in it, and clients of it by certificate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.process import ApiProcess, Settings
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.auth.pki import client_issue
from supervisor_glue.auth.user import ADMINISTRATORS
from supervisor_glue.controllers.events import Recorder
from supervisor_glue.controllers.resources import HOSTS, NAMESPACES, NODES, PODS, SECRETS


class World:
    """A server with two hosts, each with a pod that uses a Secret, and an Event about it."""

    def __init__(self, process: ApiProcess) -> None:
        self.process = process
        self.identities: dict[str, bytes] = {}
        self.admin = self.client("admin", ADMINISTRATORS)
        self.uids: dict[str, str] = {}

    def client(self, user: str, *groups: str, uid: str = "") -> HttpClient:
        identity = client_issue(self.process.authority, user, groups, now=datetime.now(UTC), uid=uid)
        self.identities[user] = identity.certificate
        return HttpClient(Kubeconfig(self.process.url, self.process.authority.pem, user, identity), "test")

    def host(self, name: str) -> HttpClient:
        return self.client(f"system:node:{name}", "system:nodes", uid=self.uids[name])

    async def fill(self) -> None:
        for name in ("shop", "other"):
            await self.admin.create(NAMESPACES, {"metadata": {"name": name}})
        for number in (1, 2):
            host = f"esx-{number}"
            made = await self.admin.create(HOSTS, {"metadata": {"name": host}, "spec": {}})
            self.uids[host] = made["metadata"]["uid"]
            await self.admin.create(NODES, {"metadata": {"name": host}})
            await self.admin.create(SECRETS, {"metadata": {"name": f"of-{host}"}, "data": {}}, "shop")
            volumes = [{"name": "v", "secret": {"secretName": f"of-{host}"}}]
            spec = {"nodeName": host, "containers": [{"name": "c", "image": "i"}], "volumes": volumes}
            pod = await self.admin.create(PODS, {"metadata": {"name": f"on-{host}"}, "spec": spec}, "shop")
            await Recorder(self.admin, "test", time.time).record(PODS, pod, "Normal", "Made", "it was made")


def with_world(tmp_path: Path, work: Callable[[World], Awaitable[None]]) -> None:
    async def run() -> None:
        process = await ApiProcess.start(Settings(tmp_path / "data", (("127.0.0.1", 0),)))
        try:
            world = World(process)
            async with world.admin:
                await world.fill()
                await work(world)
        finally:
            await process.stop()

    asyncio.run(run())
