# SPDX-License-Identifier: Apache-2.0
"""Hosts that fall silent, owners that go, and what is realized."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from random import Random
from typing import Any

import pytest

from supervisor_glue.api.client import Client
from supervisor_glue.controllers.collector import FOREGROUND, ORPHAN, CollectorController
from supervisor_glue.controllers.controller import Controller
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.objects import condition_of, object_made, owner_reference
from supervisor_glue.controllers.realized import PATIENCE as PATIENCE_SECONDS
from supervisor_glue.controllers.realized import REFRESH_SECONDS, RealizedController
from supervisor_glue.controllers.resources import (
    CONFIG_MAPS,
    GATEWAYS,
    HOST_STATUSES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    SECRETS,
    SEGMENTS,
)
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.span import Span
from tests.support.api_twin import ApiTwin
from tests.support.api_world import World
from tests.support.controlling import names, running, until_async
from tests.support.nodes import pod
from tests.support.patience import PATIENCE
from tests.support.silent_hosts import STAYS, Hosts, pod_put


def run(work: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


def test_a_silent_hosts_pods_are_replaced_elsewhere_and_it_comes_back() -> None:
    async def body() -> None:
        hosts = Hosts()
        server = hosts.server
        await hosts.begin()
        async with running(server, hosts.make) as settled:
            await settled()
            await pod_put(server, pod("bare", labels={"app": "x"}, nodeName="h1"))
            await pod_put(server, pod("stays", nodeName="h1", tolerations=STAYS))
            await pod_put(server, pod("elsewhere", nodeName="h2"))
            owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": True}
            await pod_put(server, pod("controlled", nodeName="h1"), ownerReferences=[owner])
            for _ in range(3):
                hosts.seconds += 30.0
                await hosts.renew("h1", "h2")
                await settled()
                hosts.look()
                await settled()
            assert hosts.taints("h1") == set() and len(names(server, PODS)) == 4
            old = server.objects[PODS, "shop", "bare"]["metadata"]["uid"]
            hosts.seconds += 39.0
            await hosts.renew("h2")
            await settled()
            hosts.look()
            await settled()
            assert hosts.taints("h1") == set()  # not yet
            hosts.seconds += 2.0
            hosts.look()
            await settled()
            ready = condition_of(server.objects[NODES, "", "h1"], "Ready") or {}
            assert (ready["status"], ready["reason"]) == ("Unknown", "NodeStatusUnknown")
            key = "node.kubernetes.io/unreachable"
            assert hosts.taints("h1") == {(key, "NoSchedule"), (key, "NoExecute")} and hosts.taints("h2") == set()
            assert names(server, PODS) == ["bare", "elsewhere", "stays"] and names(server, CONFIG_MAPS) == []
            anew = server.objects[PODS, "shop", "bare"]
            assert anew["metadata"]["uid"] != old and anew["spec"]["nodeName"] == "h2"
            assert anew["metadata"]["labels"] == {"app": "x"}
            await hosts.renew("h1")  # it is back, and says that it is ready
            conditions = [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}]
            await server.patch(NODES, "h1", {"status": {"conditions": conditions}}, subresource="status")
            await settled()
            assert hosts.taints("h1") == set()

    run(body)


@pytest.mark.parametrize("verb", ["create", "delete"])
def test_a_pod_that_is_being_replaced_is_not_lost_whatever_fails_in_between(verb: str) -> None:
    async def body() -> None:
        hosts = Hosts()
        server = hosts.server
        await hosts.begin()
        failures = 0

        def fail(asked: str, resource: Any) -> Exception | None:
            nonlocal failures
            if asked == verb and resource == PODS and failures < 3:
                failures += 1
                return ConnectionError("cut")
            return None

        async with running(server, hosts.make) as settled:
            await settled()
            await pod_put(server, pod("bare", nodeName="h1"))
            await settled()
            server.fail = fail
            hosts.seconds += 41.0
            await hosts.renew("h2")
            await settled()
            hosts.look()
            await until_async(lambda: failures == 3, "nothing failed")
            assert names(server, CONFIG_MAPS) != [] or (PODS, "shop", "bare") in server.objects
        hosts.seconds = 100.0
        async with running(server, hosts.make) as settled:  # others go on
            await settled()
            hosts.seconds += 41.0
            await hosts.renew("h2")
            await settled()
            hosts.look()
            await until_async(
                lambda: server.objects.get((PODS, "shop", "bare"), {}).get("spec", {}).get("nodeName") == "h2",
                "it is not replaced",
            )
            await until_async(lambda: names(server, CONFIG_MAPS) == [], "it is still written down")

    run(body)


def collector(client: Client, views: Views) -> Sequence[Controller]:
    return [CollectorController(client, views)]


def test_dependents_go_with_their_last_owner() -> None:
    async def body() -> None:
        server = ApiTwin()
        first = await server.create(GATEWAYS, object_made(GATEWAYS, "a"))
        second = await server.create(GATEWAYS, object_made(GATEWAYS, "b"))
        both = object_made(SEGMENTS, "both", owner=owner_reference(GATEWAYS, first))
        both["metadata"]["ownerReferences"].append({**owner_reference(GATEWAYS, second), "controller": False})
        one = await server.create(SEGMENTS, object_made(SEGMENTS, "one", owner=owner_reference(GATEWAYS, first)))
        await server.create(SEGMENTS, both)
        await server.create(NAMESPACES, object_made(NAMESPACES, "shop"))
        below = object_made(SECRETS, "below", "shop", owner=owner_reference(SEGMENTS, one))
        await server.create(SECRETS, below, "shop")
        unknown = {"apiVersion": "example.com/v1", "kind": "What", "name": "w", "uid": "w"}
        await server.create(SEGMENTS, object_made(SEGMENTS, "unknown", owner=unknown))
        async with running(server, collector) as settled:
            await settled()
            assert names(server, SEGMENTS, SECRETS) == ["below", "both", "one", "unknown"]
            await server.delete(GATEWAYS, "a")
            await settled()
            assert names(server, SEGMENTS, SECRETS) == ["both", "unknown"]
            await server.delete(GATEWAYS, "b")
            await settled()
            assert names(server, SEGMENTS, SECRETS) == ["unknown"]

    run(body)


@pytest.mark.parametrize(("finalizer", "left"), [(FOREGROUND, ["held"]), (ORPHAN, ["free", "held"])])
def test_foreground_waits_for_dependents_and_orphan_leaves_them(finalizer: str, left: list[str]) -> None:
    async def body() -> None:
        server = ApiTwin()
        made = object_made(GATEWAYS, "a")
        made["metadata"]["finalizers"] = [finalizer]
        owner = owner_reference(GATEWAYS, await server.create(GATEWAYS, made))
        held = object_made(SEGMENTS, "held", owner=owner)
        held["metadata"]["finalizers"] = ["somebody/else"]
        await server.create(SEGMENTS, held)
        await server.create(SEGMENTS, object_made(SEGMENTS, "free", owner=owner))
        async with running(server, collector) as settled:
            await server.delete(GATEWAYS, "a")
            await settled()
            assert names(server, SEGMENTS) == left
            assert names(server, GATEWAYS) == (["a"] if finalizer == FOREGROUND else [])
            item = server.objects[SEGMENTS, "", "held"]
            await server.update(SEGMENTS, {**item, "metadata": {**item["metadata"], "finalizers": []}})
            await settled()
            assert names(server, GATEWAYS) == []
            assert names(server, SEGMENTS) == ([] if finalizer == FOREGROUND else left)

    run(body)


def test_an_object_is_realized_when_all_its_hosts_are_there() -> None:
    async def body() -> None:
        world = World(Random(2))
        world.begin()
        for number in range(6):
            world.pod("x", number)
        policy = object_made(NETWORK_POLICIES, "n", "x", spec={"podSelector": {}, "policyTypes": ["Ingress"]})
        server = ApiTwin()
        for (resource, _), item in world.objects.items():
            await server.create(resource, item, item["metadata"].get("namespace", ""))
        spans: list[Span] = []
        ticks = count(1000.0, 0.4)  # a write, and what follows it at once, are too near to each other

        def make(client: Client, views: Views) -> Sequence[Controller]:
            spans.append(Span(Settings()))
            spans[0].connect(views)
            return [RealizedController(client, views, spans[0], lambda: next(ticks))]

        def condition() -> Any:
            return condition_of(server.objects[NETWORK_POLICIES, "x", "n"], "Realized") or {}

        async def report(host: str, revision: int) -> None:
            if (HOST_STATUSES, "", host) not in server.objects:
                await server.create(HOST_STATUSES, object_made(HOST_STATUSES, host))
            await server.patch(HOST_STATUSES, host, {"status": {"realizedRevision": revision}}, subresource="status")

        async with running(server, make):
            span = spans[0]
            compiling = asyncio.create_task(_compile_forever(span))
            await server.create(NETWORK_POLICIES, policy, "x")
            await until_async(lambda: condition().get("status") == "False", "nothing is said")
            hosts = sorted(span.hosts_of("np/x/n"))
            assert condition()["message"] == f"{len(hosts)} of {len(hosts)} hosts behind: {', '.join(hosts)}"
            wanted = server.objects[NETWORK_POLICIES, "x", "n"]["status"]["inputRevision"]
            for host in hosts[:-1]:
                await report(host, wanted)
            await report(hosts[-1], wanted - 1)
            await until_async(lambda: condition()["message"].startswith("1 of "), "the others are still missing")
            await report(hosts[-1], wanted)
            await until_async(lambda: condition()["status"] == "True", "it is not realized")
            assert condition()["message"] == f"in force on {len(hosts)} hosts"
            assert span.touched["np/x/n"] == wanted  # what is written there is no change of intent
            await server.patch(NETWORK_POLICIES, "n", {"spec": {"podSelector": {"matchLabels": {"a": "b"}}}}, "x")
            await until_async(lambda: span.touched["np/x/n"] > wanted, "the change is not seen")
            compiling.cancel()

    run(body)


# Seconds as there are now. They are rounded: with what is held back, and less themselves, they are more than that.
NOW = 1_795_741_200.1


@pytest.mark.parametrize("is_slow", [False, True])
def test_what_is_realized_is_written_at_once(is_slow: bool) -> None:
    """A "not yet" is held back a little, so that one write is enough. Where it was written nevertheless, the other
    follows without waiting for the end of that second; how many hosts are behind meanwhile does not."""

    async def body() -> None:
        assert NOW + PATIENCE_SECONDS - NOW > PATIENCE_SECONDS
        world = World(Random(2))
        world.begin()
        for number in range(6):
            world.pod("x", number)
        server = ApiTwin()
        for (resource, _), item in world.objects.items():
            await server.create(resource, item, item["metadata"].get("namespace", ""))
        spans: list[Span] = []
        clock = [NOW]
        said: list[str] = []

        def make(client: Client, views: Views) -> Sequence[Controller]:
            spans.append(Span(Settings()))
            spans[0].connect(views)
            views[NETWORK_POLICIES].handle(
                lambda old, new: said.append((condition_of(new or {}, "Realized") or {}).get("status", ""))
            )
            return [RealizedController(client, views, spans[0], lambda: clock[0])]

        async def report(host: str, revision: int) -> None:
            if (HOST_STATUSES, "", host) not in server.objects:
                await server.create(HOST_STATUSES, object_made(HOST_STATUSES, host))
            await server.patch(HOST_STATUSES, host, {"status": {"realizedRevision": revision}}, subresource="status")

        async with running(server, make):
            span = spans[0]
            compiling = asyncio.create_task(_compile_forever(span))
            spec = {"podSelector": {}, "policyTypes": ["Ingress"]}
            await server.create(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "x", spec=spec), "x")
            await until_async(lambda: bool(span.touched.get("np/x/n")), "it is not compiled")
            if is_slow:

                def later() -> (
                    bool
                ):  # not at one stroke: the controller may look only after it, and would wait for ever
                    clock[0] += PATIENCE_SECONDS / 10
                    return said[-1] == "False"

                await until_async(later, "nothing is said")
            hosts = sorted(span.hosts_of("np/x/n"))
            assert len(hosts) > 1
            for host in hosts:
                await asyncio.sleep(0.02)
                await report(host, span.touched["np/x/n"])
            await until_async(lambda: said[-1] == "True", "it is not realized")
            assert said == (["", "False", "True"] if is_slow else ["", "True"])
            compiling.cancel()

    run(body)


def test_a_revision_alone_is_written_later() -> None:
    """A policy's pods are touched by it and say nothing new: their writes must not come in the way of its own."""

    async def body() -> None:
        world = World(Random(2))
        world.begin()
        for number in range(6):
            world.pod("x", number)
        server = ApiTwin()
        for (resource, _), item in world.objects.items():
            await server.create(resource, item, item["metadata"].get("namespace", ""))
        made: list[Any] = []
        clock = [NOW]

        def make(client: Client, views: Views) -> Sequence[Controller]:
            made.append(Span(Settings()))
            made[0].connect(views)
            made.append(RealizedController(client, views, made[0], lambda: clock[0]))
            return [made[1]]

        def written() -> Any:
            return (server.objects[NETWORK_POLICIES, "x", "n"].get("status") or {}).get("inputRevision")

        async with running(server, make):
            span, controller = made
            compiling = asyncio.create_task(_compile_forever(span))

            async def in_force() -> int:
                for host in sorted(span.hosts_of("np/x/n")):
                    if (HOST_STATUSES, "", host) not in server.objects:
                        await server.create(HOST_STATUSES, object_made(HOST_STATUSES, host))
                    status = {"realizedRevision": span.touched["np/x/n"]}
                    await server.patch(HOST_STATUSES, host, {"status": status}, subresource="status")
                return int(span.touched["np/x/n"])

            chosen = [{"from": [{"podSelector": {"matchLabels": {"app": "q"}}}]}]
            spec = {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": chosen}
            await server.create(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "x", spec=spec), "x")
            await until_async(lambda: bool(span.touched.get("np/x/n")), "it is not compiled")
            first = await in_force()
            await until_async(lambda: written() == first, "it is not realized")
            name = next(name for resource, namespace, name in server.objects if (resource, namespace) == (PODS, "x"))
            await server.patch(PODS, name, {"metadata": {"labels": {"app": "q"}}}, "x")
            await until_async(lambda: span.touched["np/x/n"] > first, "the change is not seen")
            second = await in_force()
            await until_async(lambda: written() == second or "np/x/n" in controller._stale, "it is not looked at")
            assert written() == first
            clock[0] += 2 * REFRESH_SECONDS
            await until_async(lambda: written() == second, "the revision is never written")
            compiling.cancel()

    run(body)


async def _compile_forever(span: Span) -> None:
    while True:
        await asyncio.sleep(0.005)
        if span.intent.is_dirty:
            await span.compile()
