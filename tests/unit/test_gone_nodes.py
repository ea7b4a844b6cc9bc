# SPDX-License-Identifier: Apache-2.0
"""Nodes that are deleted: what was placed there, the host that lives on, and Hosts that are deleted."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import HOSTS, LEASES, NAMESPACES, NODES, PODS
from supervisor_glue.spherelet import node as spherelet_node
from supervisor_glue.spherelet.node import NodeTask
from supervisor_glue.spherelet.settings import Settings
from tests.support.api_twin import ApiTwin
from tests.support.controlling import names, running, until_async
from tests.support.nodes import pod
from tests.support.patience import PATIENCE
from tests.support.silent_hosts import STAYS, Hosts, pod_put


def run(work: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


def test_a_deleted_nodes_pods_are_replaced_unless_it_comes_back() -> None:
    async def body() -> None:
        hosts = Hosts()
        server = hosts.server
        await hosts.begin()
        async with running(server, hosts.make) as settled:
            await pod_put(server, pod("bare", nodeName="h1"))
            await pod_put(server, pod("elsewhere", nodeName="h2"))
            owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": True}
            await pod_put(server, pod("controlled", nodeName="h1"), ownerReferences=[owner])
            ended = pod("ended", nodeName="h1")
            ended["status"] = {"phase": "Succeeded"}
            await pod_put(server, ended)
            await settled()
            old = server.objects[PODS, "shop", "bare"]["metadata"]["uid"]
            made = server.objects[NODES, "", "h1"]

            async def passed(seconds: float) -> None:
                hosts.seconds += seconds
                await hosts.renew("h2")
                await settled()
                hosts.look()
                await settled()

            await server.delete(NODES, "h1")
            await settled()
            assert (LEASES, "kube-node-lease", "h1") not in server.objects  # so that a host that lives knows it
            await passed(39.0)
            assert names(server, PODS) == ["bare", "controlled", "elsewhere", "ended"]
            made["metadata"].pop("uid")
            await server.create(NODES, made)  # it lives
            await passed(2.0)
            assert server.objects[PODS, "shop", "bare"]["metadata"]["uid"] == old
            await server.delete(NODES, "h1")
            await settled()
            await passed(39.0)  # counted anew
            assert server.objects[PODS, "shop", "bare"]["metadata"]["uid"] == old
            await passed(2.0)
            assert names(server, PODS) == ["bare", "elsewhere"]  # what has ended is not begun again
            anew = server.objects[PODS, "shop", "bare"]
            assert anew["metadata"]["uid"] != old and anew["spec"]["nodeName"] == "h2"

    run(body)


def test_a_silent_node_goes_with_its_host() -> None:
    async def body() -> None:
        hosts = Hosts()
        server = hosts.server
        await hosts.begin()
        async with running(server, hosts.make) as settled:
            await pod_put(server, pod("bare", nodeName="h1", tolerations=STAYS))
            await settled()
            await server.delete(HOSTS, "h1")
            hosts.seconds += 39.0
            await hosts.renew("h2")
            await settled()
            hosts.look()
            await settled()
            assert names(server, NODES) == ["h1", "h2"]  # it may have joined again
            for _ in range(2):
                hosts.seconds += 41.0
                await hosts.renew("h2")
                await settled()
                hosts.look()
                await settled()
            assert names(server, NODES) == ["h2"]
            assert server.objects[PODS, "shop", "bare"]["spec"]["nodeName"] == "h2"

    run(body)


def test_a_host_that_lives_makes_its_node_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told by its Lease's going, not at its next report."""
    monkeypatch.setattr(spherelet_node, "RENEW_SECONDS", 0.01)

    async def body() -> None:
        server = ApiTwin()
        await server.create(NAMESPACES, object_made(NAMESPACES, "kube-node-lease"))
        task = NodeTask(server, Settings(host="h1", run=tmp_path, room=tmp_path))
        working = asyncio.create_task(task.run())
        await task.known.wait()
        await server.delete(NODES, "h1")
        await server.delete(LEASES, "h1", "kube-node-lease")
        await until_async(lambda: names(server, NODES, LEASES) == ["h1", "h1"], "it is not there again")
        working.cancel()

    run(body)
