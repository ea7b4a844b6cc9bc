# SPDX-License-Identifier: Apache-2.0
"""A store filled as controllers leave it, without the requests: what hosts are told of it is the same, and it is there
in a tenth of the time. Run as a program: `python -m tests.support.simulated_direct DATA HOSTS NAMESPACES PODS`."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dfw.assign import usual_mac
from dfw.model import prefix_parse
from supervisor_glue.api.client import Resource
from supervisor_glue.api.kinds import BY_NAME
from supervisor_glue.api.process import ApiProcess, Settings
from supervisor_glue.controllers.ipam import block_at
from supervisor_glue.controllers.namespace_plan import gateway_name, segment_name
from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import (
    CLUSTER_NETWORK_POLICIES,
    GATEWAYS,
    HOST_STATUSES,
    HOSTS,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    PORTS,
    SEGMENTS,
)
from supervisor_glue.controllers.settings import NAMESPACE_PREFIX
from supervisor_glue.controllers.settings import Settings as ControllerSettings
from supervisor_glue.controllers.vnics import POD_LABEL, port_name
from tests.support.simulated_hosts import each
from tests.support.simulated_objects import Load, host_name, host_tep

Made = tuple[Resource, str, dict[str, Any]]


def hosts_of(load: Load) -> Iterator[Made]:
    for number in range(load.hosts):
        yield HOSTS, "", object_made(HOSTS, host_name(number), spec={"tep": host_tep(number)})
        yield HOST_STATUSES, "", object_made(HOST_STATUSES, host_name(number))


def networks_of(load: Load) -> Iterator[Made]:
    """Namespaces, each with its gateway and a block of its own."""
    settings = ControllerSettings(pod_cidrs=(prefix_parse(load.cidr),))
    yield GATEWAYS, "", object_made(GATEWAYS, settings.tier0, spec={"tier": 0})
    for number, name in enumerate(load.pods):
        yield NAMESPACES, "", load.namespace(name)
        gateway = gateway_name(name)
        yield GATEWAYS, "", object_made(GATEWAYS, gateway, spec={"tier": 1, "tier0": settings.tier0})
        subnet = block_at(settings.pod_cidrs, NAMESPACE_PREFIX, number)
        spec = {"vni": settings.first_vni + number, "subnets": [str(subnet)], "gateway": gateway}
        yield SEGMENTS, "", object_made(SEGMENTS, segment_name(name, 0), spec=spec)


def pods_of(load: Load) -> Iterator[Made]:
    """Pods with their Ports, and policies."""
    yield CLUSTER_NETWORK_POLICIES, "", load.quarantine()
    pools = (prefix_parse(load.cidr),)
    for number, (namespace, names) in enumerate(load.pods.items()):
        for policy in load.policies(namespace):
            yield NETWORK_POLICIES, namespace, policy
        block = str(block_at(pools, NAMESPACE_PREFIX, number)).partition("/")[0]
        head, _, last = block.rpartition(".")
        for place, name in enumerate(names):
            made, address = load.pod(namespace, name), f"{head}.{int(last) + 3 + place}"
            yield PODS, namespace, made | {"status": {"podIP": address, "podIPs": [{"ip": address}]}}
            spec = {"host": made["spec"]["nodeName"], "segment": segment_name(namespace, 0), "ips": [address]}
            spec |= {"mac": usual_mac(f"{namespace}/{name}"), "namespace": namespace, "external_id": "simulated"}
            port = object_made(PORTS, port_name(namespace, name), spec=spec)
            port["metadata"]["annotations"] = {POD_LABEL: name}
            yield PORTS, "", port


async def fill(data: Path, load: Load) -> dict[str, str]:
    """Into the store of this directory; the Hosts' uids."""
    process = await ApiProcess.start(Settings(data, (("127.0.0.1", 0),)))
    uids: dict[str, str] = {}

    async def put(resource: Resource, namespace: str, item: dict[str, Any]) -> None:
        status = item.get("status")

        def finish(old: object, new: dict[str, Any]) -> dict[str, Any]:
            return new | {"status": status} if status else new

        made = await process.objects.create(BY_NAME[resource], namespace, item, finish)
        if resource == HOSTS:
            uids[made.name] = made.item["metadata"]["uid"]

    try:
        for some in (hosts_of(load), networks_of(load), pods_of(load)):
            await each((put(*made) for made in some), 256)
    finally:
        await process.stop()
    return dict(sorted(uids.items()))


if __name__ == "__main__":
    where, *counts = sys.argv[1:]
    print(json.dumps(asyncio.run(fill(Path(where), Load(*map(int, counts))))))
