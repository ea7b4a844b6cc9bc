# SPDX-License-Identifier: Apache-2.0
"""A small cluster as objects of the API, changed at random; and the same as documents, for a compile from nothing."""

from __future__ import annotations

import copy
from dataclasses import replace
from random import Random
from typing import Any

from dfw.assign import usual_mac
from dfw.documents import document_of
from dfw.load import load_documents
from dfw.model import PolicySet, address_parse, prefix_parse
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
from supervisor_glue.controllers.span import Span
from supervisor_glue.controllers.vnics import POD_LABEL, port_name
from tests.support.random_clusters import a_cluster_policy, a_network_policy, a_security_policy

STAGED = "palisade.internal/staged"
SETTINGS = Settings(api=(address_parse("10.50.0.6"),), protected=(prefix_parse("10.50.0.0/28"),))
NAMES = ("x", "y", "z")
SEGMENTS_OF = {"x": "10.1.0", "y": "10.2.0", "z": "10.3.0"}
LABELS = ({}, {"app": "a"}, {"app": "b", "tier": "db"}, {"app": "web"}, {"tier": "A"})


class World:
    """Objects as the API has them, told to a Span; and as documents, for a compile from nothing. `stages`: some
    policies are staged, and half of the hosts count them."""

    def __init__(self, random: Random, *, stages: bool = False) -> None:
        self.random, self.span, self.stages = random, Span(SETTINGS), stages
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
            more = {"enforcer": "nftables"} if self.stages and number > 2 else {}
            self.put(HOSTS, object_made(HOSTS, f"h{number}", spec={"tep": f"172.16.0.{number}", **more}))
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
            item = make(random, random.randrange(4))
            if self.stages and random.random() < 0.4:
                item["metadata"].setdefault("annotations", {})[STAGED] = random.choice(["true", "true", "delete"])
            self.put(resource, item)
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
