# SPDX-License-Identifier: Apache-2.0
"""`palisade wait --realized` under a Supervisor: which objects are meant, and which are not in force as they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from supervisor_glue.api.client import Resource
from supervisor_glue.controllers.resources import CLUSTER_NETWORK_POLICIES, NAMESPACES, NETWORK_POLICIES, PODS
from supervisor_glue.realized_wait import is_meant, read_behind
from tests.support.api_twin import ApiTwin

NP = {"metadata": {"name": "db", "namespace": "shop"}}


@pytest.mark.parametrize(
    ("what", "meant"),
    [
        ("db", True),
        ("shop/db", True),
        ("networkpolicy/db", True),
        ("NetworkPolicy/db", True),
        ("networkpolicy/shop/db", True),
        ("np/shop/db", True),
        ("/np/shop/db/", True),
        ("np/shop/db/ingress/0", True),
        ("np/shop/db/isolation-ingress", True),
        ("b", False),
        ("np/shop/d", False),
        ("np/shop/db-2", False),
        ("pod/db", False),
        ("cnp/db", False),
        ("other/db", False),
    ],
)
def test_what_an_object_is_called(what: str, meant: bool) -> None:
    assert is_meant(NETWORK_POLICIES, NP, what) is meant


def test_what_has_no_namespace_is_called_by_its_name() -> None:
    assert is_meant(CLUSTER_NETWORK_POLICIES, {"metadata": {"name": "all"}}, "cnp/all/egress/0")
    assert not is_meant(CLUSTER_NETWORK_POLICIES, {"metadata": {"name": "all"}}, "np/all")


def realized(seen: int, status: str = "True", message: str = "in force on 1 host") -> dict[str, Any]:
    return {"type": "Realized", "status": status, "message": message, "observedGeneration": seen}


async def put(twin: ApiTwin, resource: Resource, name: str, *conditions: dict[str, Any], **spec: Any) -> None:
    namespace = "" if resource == NAMESPACES else "shop"
    item = {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
    made = await twin.create(resource, item, namespace)
    if conditions:
        await twin.patch(resource, name, {"status": {"conditions": [*conditions]}}, namespace, "status")
    assert made["metadata"].get("generation", 1) == 1


def test_what_is_behind_and_why() -> None:
    async def ask() -> None:
        twin = ApiTwin()
        await put(twin, NAMESPACES, "shop")
        await put(twin, PODS, "waits-for-a-host")
        await put(twin, PODS, "host", nodeName="esx-1", hostNetwork=True)
        assert await read_behind(twin, None) == {}
        assert await read_behind(twin, "nobody") is None
        await put(twin, PODS, "new", nodeName="esx-1")
        await put(twin, NETWORK_POLICIES, "new")
        await put(twin, NETWORK_POLICIES, "pending", realized(1, "False", "1 of 2 hosts behind: esx-2"))
        generation = (await twin.get(NETWORK_POLICIES, "pending", "shop"))["metadata"].get("generation")
        await put(twin, NETWORK_POLICIES, "done", realized(generation))
        await put(twin, NETWORK_POLICIES, "changed", realized(generation + 1))
        behind = {
            "Pod shop/new": "nothing is said of it yet",
            "NetworkPolicy shop/new": "nothing is said of it yet",
            "NetworkPolicy shop/pending": "1 of 2 hosts behind: esx-2",
            "NetworkPolicy shop/changed": "it has changed since it was in force",
        }
        assert await read_behind(twin, None) == behind
        assert await read_behind(twin, "np/shop/pending/ingress/0") == {
            "NetworkPolicy shop/pending": behind["NetworkPolicy shop/pending"]
        }
        assert await read_behind(twin, "networkpolicy/done") == {}

    asyncio.run(ask())
