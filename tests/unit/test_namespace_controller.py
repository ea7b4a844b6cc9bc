# SPDX-License-Identifier: Apache-2.0
"""A Namespace becomes a gateway, segments and addresses of its own; deleted, it leaves nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from random import Random
from typing import Any

from dfw.model import prefix_parse
from supervisor_glue.api.client import Client
from supervisor_glue.api.status import ApiError
from supervisor_glue.controllers.controller import Controller
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.namespaces import NamespaceController
from supervisor_glue.controllers.objects import condition_of, object_made
from supervisor_glue.controllers.resources import (
    ALLOCATIONS,
    CONFIG_MAPS,
    GATEWAYS,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    SEGMENTS,
)
from supervisor_glue.controllers.settings import Settings
from tests.support.api_twin import ApiTwin
from tests.support.controlling import names, running
from tests.support.patience import PATIENCE

SETTINGS = Settings(pod_cidrs=(prefix_parse("10.244.0.0/16"),), egress_cidrs=(prefix_parse("10.9.0.0/24"),), tier0="t0")


def run(work: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


def only_namespaces(client: Client, views: Views, settings: Settings = SETTINGS) -> Sequence[Controller]:
    return [NamespaceController(client, views, settings)]


async def namespace_make(server: ApiTwin, name: str) -> None:
    await server.create(NAMESPACES, object_made(NAMESPACES, name))


async def pod_make(server: ApiTwin, namespace: str, name: str, **spec: Any) -> None:
    made = object_made(PODS, name, namespace, spec={"containers": [{"name": "main"}], **spec})
    await server.create(PODS, made, namespace)


def test_a_namespace_gets_its_tier1_a_segment_and_an_egress_address() -> None:
    async def body() -> None:
        server = ApiTwin()
        await namespace_make(server, "shop")
        await namespace_make(server, "kube-system")  # no pod there: no network
        async with running(server, only_namespaces) as settled:
            await settled()
            assert names(server, GATEWAYS) == ["t0", "t1-shop"] and names(server, SEGMENTS) == ["seg-shop-0"]
            gateway = server.objects[GATEWAYS, "", "t1-shop"]
            segment = server.objects[SEGMENTS, "", "seg-shop-0"]
            assert gateway["spec"] == {"tier": 1, "tier0": "t0"}
            subnet = prefix_parse(segment["spec"]["subnets"][0])
            assert subnet.prefix_length == 28 and segment["spec"]["gateway"] == "t1-shop"
            index = (subnet.first - prefix_parse("10.244.0.0/16").first) // 16
            assert segment["spec"]["vni"] == SETTINGS.first_vni + index
            uid = server.objects[NAMESPACES, "", "shop"]["metadata"]["uid"]
            assert gateway["metadata"]["ownerReferences"][0]["uid"] == uid
            told = condition_of(server.objects[NAMESPACES, "", "shop"], "NetworkReady")
            assert told is not None and told["status"] == "True" and str(subnet) in told["message"]
            assert "egress address 10.9.0." in told["message"]
            before = server.revision
            await server.update(SEGMENTS, {**segment, "spec": {**segment["spec"], "vni": 5}})
            await settled()
            assert server.objects[SEGMENTS, "", "seg-shop-0"]["spec"] == segment["spec"]  # changed back
            assert server.revision == before + 2  # and nothing else was written

    run(body)


def test_another_block_when_the_first_is_full_and_back_when_it_is_not_needed() -> None:
    async def body() -> None:
        server = ApiTwin()
        await namespace_make(server, "shop")
        async with running(server, only_namespaces) as settled:
            for number in range(14):  # a /28 has room for 13
                await pod_make(server, "shop", f"p{number}", nodeName="h1")
            await pod_make(server, "shop", "on-host", nodeName="h1", hostNetwork=True)
            await pod_make(server, "shop", "nowhere")
            await settled()
            assert names(server, SEGMENTS) == ["seg-shop-0", "seg-shop-1"]
            await server.delete(PODS, "p3", "shop")
            await settled()
            assert names(server, SEGMENTS) == ["seg-shop-0"]
            assert [name for name in names(server, ALLOCATIONS) if name.startswith("pods-")] != []
            assert len(names(server, ALLOCATIONS)) == 2

    run(body)


def test_a_deleted_namespace_leaves_nothing_and_goes_last() -> None:
    async def body() -> None:
        server = ApiTwin()
        await namespace_make(server, "shop")
        await pod_make(server, "shop", "p", nodeName="h1")
        held = server.objects[PODS, "shop", "p"]
        async with running(server, only_namespaces) as settled:
            await settled()
            await server.update(PODS, {**held, "metadata": {**held["metadata"], "finalizers": ["host/stopping"]}})
            await server.create(CONFIG_MAPS, object_made(CONFIG_MAPS, "c", "shop"), "shop")
            await server.create(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "shop", spec={}), "shop")
            await server.delete(NAMESPACES, "shop")
            await settled()
            shop = server.objects[NAMESPACES, "", "shop"]
            assert shop["status"]["phase"] == "Terminating"
            remaining = condition_of(shop, "NamespaceContentRemaining")
            assert remaining is not None and remaining["message"] == (
                "Some resources are remaining: pods. has 1 resource instances"
            )
            # The pod still runs: its policies and its network are there.
            assert names(server, NETWORK_POLICIES) == ["n"] and names(server, SEGMENTS) == ["seg-shop-0"]
            try:
                await pod_make(server, "shop", "q")
                raise AssertionError("nothing begins in a Namespace that ends")
            except ApiError as error:
                assert error.code == 403
            pod = server.objects[PODS, "shop", "p"]
            await server.update(PODS, {**pod, "metadata": {**pod["metadata"], "finalizers": []}})
            await settled()
            assert names(server, NAMESPACES, SEGMENTS, ALLOCATIONS, PODS, CONFIG_MAPS, NETWORK_POLICIES) == []
            assert names(server, GATEWAYS) == ["t0"]
            gone = [happened.key[0] for happened in server.log if happened.type == "DELETED"]
            order = [PODS, NETWORK_POLICIES, CONFIG_MAPS, SEGMENTS, GATEWAYS, ALLOCATIONS, NAMESPACES]
            assert list(dict.fromkeys(gone)) == order
            await namespace_make(server, "shop")  # the name is free
            await settled()
            assert names(server, SEGMENTS) == ["seg-shop-0"]

    run(body)


def test_what_another_has_taken_is_not_taken_again() -> None:
    """Others' Allocations that the view does not show yet: the API refuses a second one of the name."""

    async def body() -> None:
        server, fresh = ApiTwin(), ApiTwin()
        await namespace_make(fresh, "shop")
        async with running(fresh, only_namespaces) as settled:
            await settled()
        taken = [item for (of, _, _), item in fresh.objects.items() if of == ALLOCATIONS]

        def race(verb: str, resource: Any) -> None:
            """Somebody else was quicker, by a moment."""
            if verb == "create" and resource == ALLOCATIONS and not names(server, ALLOCATIONS):
                for item in taken:
                    theirs = {**item, "metadata": {**item["metadata"], "ownerReferences": []}}
                    server.objects[ALLOCATIONS, "", item["metadata"]["name"]] = theirs

        server.fail = race
        await namespace_make(server, "shop")
        async with running(server, only_namespaces) as settled:
            await settled()
            mine = server.objects[SEGMENTS, "", "seg-shop-0"]["spec"]["subnets"]
            assert mine and mine != fresh.objects[SEGMENTS, "", "seg-shop-0"]["spec"]["subnets"]
            assert len(names(server, ALLOCATIONS)) == 4

    run(body)


def test_a_pool_that_is_empty_says_so_and_serves_again_what_comes_back() -> None:
    async def body() -> None:
        server = ApiTwin()
        tiny = Settings(pod_cidrs=(prefix_parse("10.244.0.0/27"),), tier0="t0")
        for name in ("a", "b", "c"):
            await namespace_make(server, name)
        async with running(server, lambda client, views: only_namespaces(client, views, tiny)) as settled:
            await settled()
            every = ("a", "b", "c")
            told = {name: condition_of(server.objects[NAMESPACES, "", name], "NetworkReady") or {} for name in every}
            without = [name for name, condition in told.items() if condition["status"] == "False"]
            assert len(without) == 1 and told[without[0]]["message"] == "no /28 of the Pod CIDR is left (2 in all)"
            await server.delete(NAMESPACES, next(name for name in told if name not in without))
            await settled()
            await server.patch(NAMESPACES, without[0], {"metadata": {"labels": {"look": "again"}}})
            await settled()
            assert names(server, SEGMENTS) == [f"seg-{name}-0" for name in names(server, NAMESPACES)]

    run(body)


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


def networks(server: ApiTwin) -> dict[str, Any]:
    """What controllers made, without revisions, times and uids."""
    found = {}
    for (resource, namespace, name), item in server.objects.items():
        if resource in (GATEWAYS, SEGMENTS, ALLOCATIONS):
            found[resource.plural, namespace, name] = item["spec"]
    return found


def test_any_history_ends_in_what_a_fresh_start_gives() -> None:
    """Creates, deletes, requests that fail, controllers that end and begin anew: the objects are those that controllers
    make who see only the final intent."""

    async def body() -> None:
        for seed in range(4):
            random = Random(seed)
            server = ApiTwin()
            server.fail = lambda verb, resource, random=random: (  # type: ignore[misc]
                ConnectionError("cut") if random.random() < 0.05 else None
            )

            for _ in range(4):
                async with running(server, only_namespaces) as settled:
                    for _ in range(25):
                        name = f"n{random.randrange(6)}"
                        if random.random() < 0.4:
                            await really(partial(server.delete, NAMESPACES, name))
                        else:
                            await really(partial(namespace_make, server, name))
                        if random.random() < 0.3:
                            await asyncio.sleep(0.001 * random.random())
            server.fail = lambda verb, resource: None
            async with running(server, only_namespaces) as settled:
                await settled()
            fresh = ApiTwin()
            for name in names(server, NAMESPACES):
                await namespace_make(fresh, name)
            async with running(fresh, only_namespaces) as settled:
                await settled()
            if names(server, NAMESPACES):
                assert networks(server) == networks(fresh)
            else:
                assert names(server, SEGMENTS, ALLOCATIONS) == []

    run(body)
