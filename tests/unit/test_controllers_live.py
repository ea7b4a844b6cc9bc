# SPDX-License-Identifier: Apache-2.0
"""All controllers against the API server itself, over TLS: from a Namespace and pods to what hosts are told, and back
to nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from overlay.span_parts import parts_assemble
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.process import ApiProcess
from supervisor_glue.api.process import Settings as ApiSettings
from supervisor_glue.api.status import ApiError
from supervisor_glue.controllers import span as span_module
from supervisor_glue.controllers.informer import Informer, Views
from supervisor_glue.controllers.intent import LOOKED_AT
from supervisor_glue.controllers.objects import condition_of, micro_time_text, object_made, status_of
from supervisor_glue.controllers.resources import (
    ALLOCATIONS,
    GATEWAYS,
    HOST_STATUSES,
    HOSTS,
    LEASES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    PORTS,
    SEGMENTS,
)
from supervisor_glue.controllers.run import controllers_work
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.span import Span
from tests.support.api_twin import ApiTwin
from tests.support.controlling import until_async
from tests.support.nodes import node, pod
from tests.support.patience import PATIENCE

COUNT = 14  # more than one /28 has room for


async def until_so(is_so: Callable[[], Awaitable[Any]], what: str, running: asyncio.Task[None]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (found := await is_so()):
        assert time.monotonic() < end, what
        if running.done():
            running.result()
        await asyncio.sleep(0.05)
    return found


async def hosts_make(client: HttpClient) -> None:
    for number, host in enumerate(("h1", "h2"), 1):
        await client.create(HOSTS, object_made(HOSTS, host, spec={"tep": f"172.16.0.{number}"}))
        made = node(host)
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
        await client.create(NODES, made)
        await client.patch(NODES, host, {"status": {**made["status"], "conditions": [ready]}}, subresource="status")
        spec = {"holderIdentity": host, "leaseDurationSeconds": 40, "renewTime": micro_time_text(time.time())}
        await client.create(LEASES, object_made(LEASES, host, "kube-node-lease", spec=spec), "kube-node-lease")
        await client.create(HOST_STATUSES, object_made(HOST_STATUSES, host))


def test_from_a_namespace_to_what_hosts_are_told_and_back_to_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        process = await ApiProcess.start(ApiSettings(tmp_path, (("127.0.0.1", 0),)))
        process.kubeconfig(tmp_path / "kubeconfig")
        spans: list[Span] = []

        @contextmanager
        def serve(span: Span) -> Iterator[None]:
            spans.append(span)
            yield

        try:
            async with HttpClient.of_file(tmp_path / "kubeconfig", "test") as client:
                running = asyncio.create_task(
                    controllers_work(client, Settings(silence=PATIENCE * 2), process.authority, serve)
                )
                try:
                    await lives(client, spans, running)
                finally:
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
        finally:
            await process.stop()

    asyncio.run(asyncio.wait_for(body(), 2 * PATIENCE))


async def lives(client: HttpClient, spans: list[Span], running: asyncio.Task[None]) -> None:
    await hosts_make(client)
    await client.create(NAMESPACES, object_made(NAMESPACES, "shop"))
    for number in range(COUNT):
        made = pod(f"p{number}", labels={"app": "web"})
        del made["metadata"]["uid"]
        made["spec"]["containers"][0]["image"] = "none"
        await client.create(PODS, made, "shop")
    isolated = {"podSelector": {}, "policyTypes": ["Ingress"]}
    await client.create(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "shop", spec=isolated), "shop")

    async def all_addressed() -> Any:
        pods = (await client.list(PODS, "shop")).items
        return pods if all(status_of(item).get("podIP") for item in pods) else None

    pods = await until_so(all_addressed, "pods have no addresses", running)
    addresses = {status_of(item)["podIP"] for item in pods}
    assert len(addresses) == COUNT and {item["spec"]["nodeName"] for item in pods} == {"h1", "h2"}

    async def told() -> Any:
        for host in ("h1", "h2"):
            parts = {key: part.data for key, part in spans[0].parts(host).items()}
            here = {f"shop/{item['metadata']['name']}" for item in pods if item["spec"]["nodeName"] == host}
            if {key[5:] for key in parts if key.startswith("vnic/")} != here:
                return None
            state = parts_assemble(host, parts, spans[0].revision)
            if {item.ip for item in state.neighbours} != addresses:
                return None
            assert {item.path for item in state.rules} > {"np/shop/n/isolation-ingress"}
        return True

    await until_so(told, "hosts are not told", running)

    async def realized() -> Any:
        for host in ("h1", "h2"):
            now = {"status": {"realizedRevision": spans[0].revision}}
            await client.patch(HOST_STATUSES, host, now, subresource="status")
        condition = condition_of(await client.get(NETWORK_POLICIES, "n", "shop"), "Realized")
        return condition is not None and condition["status"] == "True"

    await until_so(realized, "it is not realized", running)
    await owned(client)
    await client.delete(NAMESPACES, "shop")

    async def gone() -> Any:
        for item in (await client.list(PODS, "shop")).items:  # as their hosts do when they have ended
            try:
                await client.delete(PODS, item["metadata"]["name"], "shop", grace=0)
            except ApiError as error:
                assert error.code == 404
        return "shop" not in {item["metadata"]["name"] for item in (await client.list(NAMESPACES)).items}

    await until_so(gone, "the Namespace is still there", running)
    left = [
        item["metadata"]["name"]
        for of in (PORTS, SEGMENTS, GATEWAYS, ALLOCATIONS)
        for item in (await client.list(of)).items
    ]
    assert [name for name in left if "shop" in name] == []


async def owned(client: HttpClient) -> None:
    """What controllers see has no managedFields; what they write from it leaves those that there are."""
    view = Informer(client, LEASES)
    watching = asyncio.create_task(view.run())
    await view.synced.wait()
    other = HttpClient(client.config, "controller")
    async with other:
        for number, way in enumerate(("listed", "watched")):
            seen = view.get("h1", "kube-node-lease")
            assert seen is not None and "managedFields" not in seen["metadata"], way
            made = await other.update(LEASES, {**seen, "spec": {**seen["spec"], "leaseTransitions": number + 1}})
            assert {entry["manager"] for entry in made["metadata"]["managedFields"]} == {"test", "controller"}, way
            end = time.monotonic() + PATIENCE
            while not view.is_at(made):
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def test_what_changes_fast_is_compiled_at_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiles leave room for what changes things; the last change is in them as the first."""
    monkeypatch.setattr(span_module, "REST", 1e9)  # as if each had taken very long
    monkeypatch.setattr(span_module, "MOST_REST", 0.5)

    async def body() -> None:
        server = ApiTwin()
        await server.create(HOSTS, object_made(HOSTS, "h1", spec={"tep": "172.16.0.1"}))
        views, span = Views(server), Span(Settings())
        span.connect(views)
        tasks = [asyncio.create_task(views[resource].run()) for resource in LOOKED_AT]
        tasks.append(asyncio.create_task(span.run(views)))
        try:
            await span.computed()
            before = span.compiles
            for number in range(20):
                await server.patch(HOSTS, "h1", {"spec": {"tep": f"172.16.0.{number}"}})
                await asyncio.sleep(0.004)  # longer than changes are gathered
            await until_async(lambda: span.revision == server.revision, "the last change is not compiled")
            assert span.compiles - before < 10
            assert b"172.16.0.19" in span.parts("h1")["host/h1"].data
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(asyncio.wait_for(body(), PATIENCE))
