# SPDX-License-Identifier: Apache-2.0
"""What hosts are told by increments is what a compile from nothing gives, whatever changed; and little is sent."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest

from dfw.assign import usual_mac
from dfw.documents import document_of
from dfw.load import load_documents
from dfw.model import PolicySet, address_parse, prefix_parse
from overlay.hoststate import StateError
from overlay.span import resolve_span
from overlay.span_parts import parts_assemble
from supervisor_glue.api.client import Resource
from supervisor_glue.controllers.objects import object_key, object_made
from supervisor_glue.controllers.postures import posture_policy, system_policies
from supervisor_glue.controllers.resources import (
    CLUSTER_NETWORK_POLICIES,
    GATEWAYS,
    HOSTS,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    PORTS,
    SECURITY_POLICIES,
    SEGMENTS,
)
from supervisor_glue.controllers.settings import ISOLATION, Settings
from supervisor_glue.controllers.span import HostChange, Span
from supervisor_glue.controllers.vnics import POD_LABEL, port_name
from tests.conftest import LONG
from tests.support.host_states import meaning
from tests.support.patience import PATIENCE
from tests.support.random_clusters import a_cluster_policy, a_network_policy, a_security_policy

SETTINGS = Settings(api=(address_parse("10.50.0.6"),), protected=(prefix_parse("10.50.0.0/28"),))
NAMES = ("x", "y", "z")
SEGMENTS_OF = {"x": "10.1.0", "y": "10.2.0", "z": "10.3.0"}
LABELS = ({}, {"app": "a"}, {"app": "b", "tier": "db"}, {"app": "web"}, {"tier": "A"})


def run(work: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


class World:
    """Objects as the API has them, told to a Span; and as documents, for a compile from nothing."""

    def __init__(self, random: Random) -> None:
        self.random, self.span = random, Span(SETTINGS)
        self.objects: dict[tuple[Resource, str], Any] = {}
        self.revision = 0

    def put(self, resource: Resource, item: Any) -> None:
        self.revision += 1
        item = copy.deepcopy(item)
        item["metadata"]["resourceVersion"] = str(self.revision)
        key = resource, object_key(item)
        self.span.intent.change(resource, self.objects.get(key), item)
        self.objects[key] = item

    def remove(self, resource: Resource, key: str) -> None:
        old = self.objects.pop((resource, key), None)
        if old is not None:
            self.revision += 1
            gone = copy.deepcopy(old)
            gone["metadata"]["resourceVersion"] = str(self.revision)
            self.span.intent.change(resource, gone, None)

    def begin(self) -> None:
        for number in range(1, 5):
            self.put(HOSTS, object_made(HOSTS, f"h{number}", spec={"tep": f"172.16.0.{number}"}))
        self.put(GATEWAYS, object_made(GATEWAYS, "t0", spec={"tier": 0}))
        self.put(GATEWAYS, object_made(GATEWAYS, "t1-z", spec={"tier": 1}))
        for name in ("x", "y"):
            self.put(GATEWAYS, object_made(GATEWAYS, f"t1-{name}", spec={"tier": 1, "tier0": "t0"}))
        for number, name in enumerate(NAMES):
            subnet = f"{SEGMENTS_OF[name]}.0/24"
            spec = {"vni": 5000 + number, "subnets": [subnet], "gateway": f"t1-{name}"}
            self.put(SEGMENTS, object_made(SEGMENTS, f"seg-{name}-0", spec=spec))
            self.put(NAMESPACES, object_made(NAMESPACES, name))

    def pod(self, namespace: str, number: int) -> None:
        """A pod and its Port, on some host, with some labels."""
        name, host = f"p{number}", f"h{self.random.randint(1, 4)}"
        address = f"{SEGMENTS_OF[namespace]}.{number + 10}"
        made = object_made(PODS, name, namespace, labels=self.random.choice(LABELS))
        ports = [{"containerPort": 80, "name": self.random.choice(["web", "dns"])}]
        made["spec"] = {"nodeName": host, "containers": [{"name": "main", "ports": ports}]}
        made["status"] = {"podIP": address, "podIPs": [{"ip": address}]}
        port = object_made(
            PORTS,
            port_name(namespace, name),
            spec={
                "host": host,
                "segment": f"seg-{namespace}-0",
                "mac": usual_mac(f"{namespace}/{name}"),
                "ips": [address],
                "namespace": namespace,
                "external_id": "u",
            },
        )
        port["metadata"]["annotations"] = {POD_LABEL: name}
        self.put(PODS, made)
        self.put(PORTS, port)

    def step(self) -> None:
        """One change of some kind."""
        random = self.random
        draw, namespace, number = random.random(), random.choice(NAMES), random.randrange(6)
        if draw < 0.3:
            self.pod(namespace, number)
        elif draw < 0.4:
            self.remove(PODS, f"{namespace}/p{number}")
            self.remove(PORTS, port_name(namespace, f"p{number}"))
        elif draw < 0.5:
            key = PODS, f"{namespace}/p{number}"
            if key in self.objects:
                item = copy.deepcopy(self.objects[key])
                item["metadata"]["labels"] = random.choice(LABELS)
                self.put(PODS, item)
        elif draw < 0.75:
            resource, make = random.choice(
                [
                    (NETWORK_POLICIES, a_network_policy),
                    (CLUSTER_NETWORK_POLICIES, a_cluster_policy),
                    (SECURITY_POLICIES, a_security_policy),
                ]
            )
            self.put(resource, make(random, random.randrange(4)))
        elif draw < 0.87:
            policies = [key for key in self.objects if key[0] in _POLICIES]
            if policies:
                self.remove(*random.choice(policies))
        elif draw < 0.95:
            item = object_made(NAMESPACES, namespace, labels=random.choice(LABELS))
            if random.random() < 0.4:
                item["metadata"]["annotations"] = {ISOLATION: random.choice(["isolated", "none", "what"])}
            self.put(NAMESPACES, item)
        else:
            uplink = random.choice([{"tier0": "t0"}, {}])
            self.put(GATEWAYS, object_made(GATEWAYS, f"t1-{namespace}", spec={"tier": 1, **uplink}))

    def world(self) -> PolicySet:
        """Read as files are."""
        documents = [
            document_of(_written(item), f"{resource.plural} {key}")
            for (resource, key), item in self.objects.items()
            if resource != PORTS
        ]
        world = load_documents(documents).world
        isolated = [
            posture_policy(key, SETTINGS)
            for (resource, key), item in self.objects.items()
            if resource == NAMESPACES and item["metadata"].get("annotations", {}).get(ISOLATION) == "isolated"
        ]
        return replace(world, policies=(*world.policies, *isolated, *system_policies(SETTINGS)))


_POLICIES = (NETWORK_POLICIES, CLUSTER_NETWORK_POLICIES, SECURITY_POLICIES)


def _written(item: Any) -> Any:
    meta = {key: value for key, value in item["metadata"].items() if key != "resourceVersion"}
    return {**item, "metadata": meta}


class Mirror:
    """What an agent has, by the changes that it was told."""

    def __init__(self, host: str) -> None:
        self.host, self.parts, self.revision, self.bytes = host, dict[str, bytes](), 0, 0

    def take(self, change: HostChange) -> None:
        for key, part in change.parts.items():
            # Nothing is sent twice, but for what a segment's new routing domain says again.
            assert self.parts.get(key) != part.data or key.startswith(("tep/", "segment/", "gateway/"))
            self.parts[key] = part.data
            self.bytes += len(part.data)
        for key in change.gone:
            del self.parts[key]
        assert change.revision >= self.revision
        self.revision = change.revision


@pytest.mark.parametrize("seed", range(40 if LONG else 2))
def test_increments_are_what_a_compile_from_nothing_gives(seed: int) -> None:
    async def body() -> None:
        world = World(Random(seed))
        world.begin()
        span = world.span
        await span.compile()
        mirrors = {host: Mirror(host) for host in ("h1", "h2", "h3", "h4")}
        watches = {host: span.watch(host) for host in mirrors}
        for _ in range(30):
            for _ in range(world.random.choice([1, 1, 5])):
                world.step()
            told = await span.compile()
            expected = resolve_span(world.world(), world.revision, {})
            for host, mirror in mirrors.items():
                now = {key: part.data for key, part in span.parts(host).items()}
                while mirror.parts != now:
                    mirror.take(await anext(watches[host]))
                    assert host in told or mirror.revision == world.revision
                state = parts_assemble(host, mirror.parts, world.revision)
                assert meaning(state) == meaning(expected[host])
            fresh = World(Random(0))
            for (resource, _), item in world.objects.items():
                fresh.span.intent.change(resource, None, item)
            await fresh.span.compile()
            for host in mirrors:  # after a change of leader an agent has what it needs: names and hashes are the same
                assert fresh.span.parts(host) == span.parts(host)
        for watch in watches.values():
            await watch.aclose()  # type: ignore[attr-defined]

    run(body)


def test_an_agent_that_comes_back_gets_what_differs_only() -> None:
    async def body() -> None:
        world = World(Random(3))
        world.begin()
        for number in range(6):
            for name in NAMES:
                world.pod(name, number)
        await world.span.compile()
        mirror = Mirror("h1")
        watch = world.span.watch("h1")
        mirror.take(await anext(watch))
        await watch.aclose()  # type: ignore[attr-defined]
        world.put(NETWORK_POLICIES, a_network_policy(Random(1), 1))
        world.remove(PODS, "x/p0")
        world.remove(PORTS, "x.p0")
        await world.span.compile()
        known = {key: part.hash for key, part in world.span.parts("h1").items() if mirror.parts.get(key) == part.data}
        everything = world.span.parts("h1")
        hashes = {key: known.get(key, "0" * 32) for key in mirror.parts}
        again = world.span.watch("h1", hashes)
        change = await anext(again)
        await again.aclose()  # type: ignore[attr-defined]
        assert set(change.parts) == set(everything) - set(known)
        assert set(change.gone) == set(mirror.parts) - set(everything)

    run(body)


def test_a_burst_is_one_compile_and_a_label_sends_what_it_changes_to_whom_it_concerns() -> None:
    async def body() -> None:
        world = World(Random(7))
        world.begin()
        for number in range(6):
            world.pod("x", number)
        policy = {"podSelector": {}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "new"}}}]}]}
        world.put(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "x", spec=policy))
        span = world.span
        await span.compile()
        before = {host: span.parts(host) for host in ("h1", "h2", "h3", "h4")}
        item = copy.deepcopy(world.objects[PODS, "x/p1"])
        item["metadata"]["labels"] = {"app": "new"}
        world.put(PODS, item)
        compiles = span.compiles
        told = await span.compile()
        assert span.compiles == compiles + 1
        with_pods = {item["spec"]["nodeName"] for (resource, _), item in world.objects.items() if resource == PODS}
        assert told == with_pods
        for host in with_pods:
            changed = {key for key, part in span.parts(host).items() if before[host].get(key) != part}
            assert len(changed) == 1 and all(key.startswith("set/") for key in changed)
        assert span.touched["np/x/n"] == world.revision
        world.objects[PODS, "x/p1"]["status"]["conditions"] = []  # a status says nothing
        span.intent.change(PODS, item, world.objects[PODS, "x/p1"])
        assert not span.intent.is_dirty

    run(body)


def test_one_object_that_is_wrong_keeps_what_it_said_and_stops_nobody_else() -> None:
    async def body() -> None:
        world = World(Random(9))
        world.begin()
        world.pod("x", 1)
        good = object_made(NETWORK_POLICIES, "n", "x", spec={"podSelector": {}})
        world.put(NETWORK_POLICIES, good)
        await world.span.compile()
        host = world.objects[PODS, "x/p1"]["spec"]["nodeName"]
        before = world.span.parts(host)
        bad = {"podSelector": {}, "ingress": [{"ports": [{"port": 700000}]}]}
        world.put(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "n", "x", spec=bad))
        world.put(NETWORK_POLICIES, object_made(NETWORK_POLICIES, "m", "x", spec={"podSelector": {}}))
        await world.span.compile()
        assert "700000" in world.span.intent.refused[NETWORK_POLICIES, "x/n"]
        assert world.span.policies_on[host].keys() > {"np/x/n", "np/x/m"}
        assert world.span.parts(host) != before
        world.put(NETWORK_POLICIES, good)
        world.remove(NETWORK_POLICIES, "x/m")
        await world.span.compile()
        assert world.span.parts(host) == before and not world.span.intent.refused

    run(body)


def test_a_part_that_this_version_does_not_know_is_refused() -> None:
    async def body() -> None:
        world = World(Random(1))
        world.begin()
        world.pod("x", 1)
        await world.span.compile()
        host = world.objects[PODS, "x/p1"]["spec"]["nodeName"]
        parts = {key: part.data for key, part in world.span.parts(host).items()}
        parts_assemble(host, parts, 1)
        key = next(key for key in parts if key.startswith("vnic/"))
        for spoiled in (
            {**parts, "novelty/x": b"{}"},
            {**parts, key: parts[key][:-1] + b',"novelty":1}'},
            {name: data for name, data in parts.items() if not name.startswith("table/")},
            {**parts, f"host/{host}": b'{"tep":"172.16.0.1","version":2}'},
        ):
            with pytest.raises(StateError):
                parts_assemble(host, spoiled, 1)

    run(body)
