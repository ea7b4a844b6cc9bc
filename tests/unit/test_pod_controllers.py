# SPDX-License-Identifier: Apache-2.0
"""A pod gets a host, an address and a Port; whatever happens, no two have the same, and nothing is left of the gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import Any

from dfw.model import address_parse, prefix_parse
from supervisor_glue.api.client import Client
from supervisor_glue.api.status import ApiError
from supervisor_glue.controllers.controller import Controller
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.namespace_plan import NAMESPACE_LABEL
from supervisor_glue.controllers.namespaces import NamespaceController
from supervisor_glue.controllers.objects import condition_of, object_made, owner_reference
from supervisor_glue.controllers.resources import ALLOCATIONS, EVENTS, NAMESPACES, NODES, PODS, PORTS, SEGMENTS
from supervisor_glue.controllers.scheduler import SchedulerController
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.vnics import VnicController, port_name
from tests.support.api_twin import ApiTwin
from tests.support.controlling import names, one, running
from tests.support.nodes import node, pod
from tests.support.patience import PATIENCE

SETTINGS = Settings(pod_cidrs=(prefix_parse("10.244.0.0/16"),), tier0="t0")


def run(work: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


def all_three(client: Client, views: Views) -> Sequence[Controller]:
    return [
        NamespaceController(client, views, SETTINGS),
        SchedulerController(client, views),
        VnicController(client, views),
    ]


async def put(server: ApiTwin, item: Any) -> None:
    made = {**item, "metadata": {key: value for key, value in item["metadata"].items() if key != "uid"}}
    if item["kind"] == "Node":
        await server.create(NODES, made)
    else:
        await server.create(PODS, made, item["metadata"]["namespace"])


async def cluster(server: ApiTwin, *hosts: str) -> None:
    await server.create(NAMESPACES, object_made(NAMESPACES, "shop"))
    for name in hosts:
        await put(server, node(name))


def consistent(server: ApiTwin) -> None:
    """What holds whenever nothing is left to do."""
    pods = {key[1:]: item for key, item in server.objects.items() if key[0] == PODS}
    ports = {key[2]: item for key, item in server.objects.items() if key[0] == PORTS}
    placed = {key: item for key, item in pods.items() if item["spec"].get("nodeName")}
    assert set(ports) == {port_name(*key) for key in placed}
    for (namespace, name), item in placed.items():
        port = ports[port_name(namespace, name)]
        assert port["spec"]["host"] == item["spec"]["nodeName"]
        assert port["spec"]["external_id"] == item["metadata"]["uid"]
        assert item["status"]["podIPs"] == [{"ip": address} for address in port["spec"]["ips"]]
        segment = server.objects[SEGMENTS, "", port["spec"]["segment"]]
        address = address_parse(item["status"]["podIP"])
        assert prefix_parse(segment["spec"]["subnets"][0]).contains(address)
    addresses = Counter(address for port in ports.values() for address in port["spec"]["ips"])
    macs = Counter((port["spec"]["segment"], port["spec"]["mac"]) for port in ports.values())
    assert set(addresses.values()) | set(macs.values()) <= {1}
    taken = {
        address: entry["uid"]
        for key, item in server.objects.items()
        if key[0] == ALLOCATIONS
        for address, entry in (item["spec"].get("addresses") or {}).items()
    }
    assert taken == {item["status"]["podIP"]: item["metadata"]["uid"] for item in placed.values()}


def test_a_pod_is_placed_gets_an_address_and_says_so() -> None:
    async def body() -> None:
        server = ApiTwin()
        await cluster(server, "h1", "h2")
        async with running(server, all_three) as settled:
            for number in range(4):
                await put(server, pod(f"web-{number}", labels={"app": "web"}))
            await put(server, pod("on-host", hostNetwork=True))
            await settled()
            where = Counter(item["spec"]["nodeName"] for key, item in server.objects.items() if key[0] == PODS)
            assert set(where) == {"h1", "h2"}
            assert not (server.objects[PODS, "shop", "on-host"]["status"]).get("podIP")
            await server.delete(PODS, "on-host", "shop")
            await settled()
            consistent(server)
            told = [item for key, item in server.objects.items() if key[0] == EVENTS]
            assert {item["reason"] for item in told} == {"Scheduled"} and len(told) == 5
            quiet = server.revision
            await asyncio.sleep(0.02)
            assert server.revision == quiet
            old = server.objects[PODS, "shop", "web-0"]
            await server.delete(PODS, "web-0", "shop")
            await put(server, pod("web-0", labels={"app": "web"}))  # at once: the same name, another pod
            await settled()
            consistent(server)
            assert server.objects[PODS, "shop", "web-0"]["metadata"]["uid"] != old["metadata"]["uid"]

    run(body)


def test_a_pod_that_fits_nowhere_says_why_and_goes_where_there_is_room() -> None:
    async def body() -> None:
        server = ApiTwin()
        await cluster(server, "h1")
        async with running(server, all_three) as settled:
            await put(server, pod("big", cpu="3"))
            await settled()
            await put(server, pod("more", cpu="3"))
            await settled()
            more = server.objects[PODS, "shop", "more"]
            condition = condition_of(more, "PodScheduled") or {}
            why = "0/1 nodes are available: 1 Insufficient cpu."
            assert (condition["status"], condition["reason"], condition["message"]) == ("False", "Unschedulable", why)
            event = one(item for key, item in server.objects.items() if key[0] == EVENTS and item["type"] == "Warning")
            assert event["reason"] == "FailedScheduling" and event["message"] == why
            await server.delete(PODS, "big", "shop")
            await settled()
            assert server.objects[PODS, "shop", "more"]["spec"]["nodeName"] == "h1"
            await put(server, pod("third", cpu="2"))
            await settled()
            assert "nodeName" not in server.objects[PODS, "shop", "third"]["spec"]
            await put(server, node("h2"))
            await settled()
            assert server.objects[PODS, "shop", "third"]["spec"]["nodeName"] == "h2"
            consistent(server)

    run(body)


def test_nobody_takes_of_a_block_that_is_given_back() -> None:
    async def body() -> None:
        server = ApiTwin()
        await cluster(server, "h1")
        async with running(server, lambda client, views: [VnicController(client, views)]) as settled:
            owner = owner_reference(NAMESPACES, server.objects[NAMESPACES, "", "shop"])
            spec = {
                "pool": "pods",
                "block": "10.244.0.0/28",
                "namespace": "shop",
                "number": 0,
                "vni": 7,
                "addresses": {},
            }
            made = object_made(ALLOCATIONS, "pods-10.244.0.0-28", spec={**spec, "closed": True}, owner=owner)
            await server.create(ALLOCATIONS, made)
            segment = object_made(SEGMENTS, "seg-shop-0", spec={"vni": 7}, labels={NAMESPACE_LABEL: "shop"})
            await server.create(SEGMENTS, segment)
            await put(server, pod("p", nodeName="h1"))
            await settled()
            assert names(server, PORTS) == []
            await server.patch(ALLOCATIONS, "pods-10.244.0.0-28", {"spec": {"closed": None}})
            await settled()
            assert names(server, PORTS) == ["shop.p"]

    run(body)


def test_any_history_leaves_a_consistent_whole() -> None:
    """Pods and Namespaces come and go at random, one request of twenty fails, controllers end and begin anew."""

    async def body() -> None:
        for seed in range(3):
            random = Random(seed)
            server = ApiTwin()
            await cluster(server, "h1", "h2", "h3")
            server.fail = partial(sometimes, random)  # type: ignore[assignment]
            for _ in range(3):
                async with running(server, all_three):
                    for _ in range(60):
                        namespace, name = random.choice(["shop", "a", "b"]), f"p{random.randrange(20)}"
                        draw = random.random()
                        if draw < 0.1:
                            await really(partial(server.create, NAMESPACES, object_made(NAMESPACES, namespace)))
                        elif draw < 0.14:
                            await really(partial(server.delete, NAMESPACES, namespace))
                        elif draw < 0.4:
                            await really(partial(server.delete, PODS, name, namespace))
                        else:
                            await really(partial(put, server, pod(name, namespace, cpu="10m")))
                        if random.random() < 0.2:
                            await asyncio.sleep(0.002 * random.random())
            server.fail = lambda verb, resource: None
            async with running(server, all_three) as settled:
                await settled()
                consistent(server)
                assert all(item["spec"].get("nodeName") for key, item in server.objects.items() if key[0] == PODS)
                for name in names(server, NAMESPACES):
                    await server.delete(NAMESPACES, name)
                await settled()
            assert names(server, NAMESPACES, PODS, PORTS, SEGMENTS, ALLOCATIONS, EVENTS) == []

    run(body)


def sometimes(random: Random, verb: str, resource: Any) -> Exception | None:
    return ConnectionError("cut") if random.random() < 0.05 else None


async def really(work: Callable[[], Awaitable[Any]]) -> None:
    """Until it is done or refused."""
    while True:
        try:
            await work()
            return
        except ConnectionError:
            pass
        except ApiError:
            return
