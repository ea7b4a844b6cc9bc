# SPDX-License-Identifier: Apache-2.0
"""What a host says of its vNICs stands in their Pods' conditions."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from itertools import count
from random import Random

from supervisor_glue.api.client import Client
from supervisor_glue.controllers.controller import Controller
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.objects import condition_of, object_made
from supervisor_glue.controllers.realized import RealizedController
from supervisor_glue.controllers.resources import HOST_STATUSES, NETWORK_POLICIES, PODS
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.span import Span
from tests.support.api_twin import ApiTwin
from tests.support.api_world import World
from tests.support.controlling import running, until_async
from tests.unit.test_node_controllers import _compile_forever, run


def test_a_report_that_changes_nothing_wakes_nobody() -> None:
    """What all hosts have waits for all: looked at for each report, it was their number squared."""

    async def body() -> None:
        world = World(Random(2))
        world.begin()
        for number in range(8):
            world.pod("x", number)
        server = ApiTwin()
        for (resource, _), item in world.objects.items():
            await server.create(resource, item, item["metadata"].get("namespace", ""))
        policy = object_made(NETWORK_POLICIES, "n", "x", spec={"podSelector": {}, "policyTypes": ["Ingress"]})
        await server.create(NETWORK_POLICIES, policy, "x")
        spans: list[Span] = []
        looked: Counter[str] = Counter()

        class Counting(RealizedController):
            async def reconcile(self, key: str) -> float | None:
                looked[key] += 1
                return await super().reconcile(key)

        def make(client: Client, views: Views) -> Sequence[Controller]:
            spans.append(Span(Settings()))
            spans[0].connect(views)
            return [Counting(client, views, spans[0], lambda: 1000.0)]

        def status() -> str:
            return str((condition_of(server.objects[NETWORK_POLICIES, "x", "n"], "Realized") or {}).get("status"))

        async with running(server, make) as settled:
            await settled()
            await spans[0].compile()
            await until_async(lambda: looked["np/x/n"], "nobody looks")
            hosts = sorted(spans[0].hosts_of("np/x/n"))
            assert len(hosts) > 2
            for host in hosts:
                await server.create(HOST_STATUSES, object_made(HOST_STATUSES, host))
            await settled()
            before = looked["np/x/n"]
            wanted = spans[0].touched["np/x/n"]
            for revision in range(wanted):
                for host in hosts:
                    told = {"status": {"realizedRevision": revision}}
                    await server.patch(HOST_STATUSES, host, told, subresource="status")
            await settled()
            assert looked["np/x/n"] == before
            for host in hosts:
                told = {"status": {"realizedRevision": wanted}}
                await server.patch(HOST_STATUSES, host, told, subresource="status")
            await until_async(lambda: status() == "True", "it is not realized")

    run(body)


def test_a_pod_with_whose_vnic_something_is_wrong_is_not_realized() -> None:
    async def body() -> None:
        world = World(Random(2))
        world.begin()
        for number in range(2):
            world.pod("x", number)
        server = ApiTwin()
        for (resource, _), item in world.objects.items():
            await server.create(resource, item, item["metadata"].get("namespace", ""))
        spans: list[Span] = []
        ticks = count(1000.0, 0.4)

        def make(client: Client, views: Views) -> Sequence[Controller]:
            spans.append(Span(Settings()))
            spans[0].connect(views)
            return [RealizedController(client, views, spans[0], lambda: next(ticks))]

        def said(name: str) -> tuple[str, ...]:
            found = condition_of(server.objects[PODS, "x", name], "Realized") or {}
            return tuple(found.get(key, "") for key in ("status", "reason", "message"))

        async def report(problems: dict[str, str]) -> None:
            for host in ("h1", "h2", "h3", "h4"):
                if (HOST_STATUSES, "", host) not in server.objects:
                    await server.create(HOST_STATUSES, object_made(HOST_STATUSES, host))
                mine = {name: text for name, text in problems.items() if host in spans[0].hosts_of(f"vnic/{name}")}
                status = {"realizedRevision": spans[0].revision + 1000, "problems": None}
                await server.patch(HOST_STATUSES, host, {"status": status}, subresource="status")
                await server.patch(HOST_STATUSES, host, {"status": {"problems": mine}}, subresource="status")

        fine, wrong = ("True", "InForce", "in force on 1 host"), "it passes nothing: the enforcer does not support it"
        async with running(server, make):
            compiling = asyncio.create_task(_compile_forever(spans[0]))
            await until_async(lambda: said("p1")[0] == "False", "nothing is said")
            await report({"x/p0": wrong})
            await until_async(lambda: said("p0") == ("False", "Problem", wrong), "the problem is not told")
            await until_async(lambda: said("p1") == fine, "the other pod has none")
            await report({})
            await until_async(lambda: said("p0") == fine, "it is told for ever")
            compiling.cancel()

    run(body)
