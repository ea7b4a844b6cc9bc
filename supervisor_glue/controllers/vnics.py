# SPDX-License-Identifier: Apache-2.0
"""A placed pod gets a vNIC: an address of its Namespace's blocks, a MAC address, a Port; gone, it gives them back.

A Port is its Namespace's (owners of what has no namespace can have none either), and says in `external_id` which pod's
it is, by uid: a new pod of the same name gets a new Port.
"""

from __future__ import annotations

import asyncio
import time
from hashlib import sha256
from typing import Any, ClassVar, Final

from dfw.assign import free_mac
from dfw.model import address_parse
from supervisor_glue.api.client import Client
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.controller import Controller, Now, Triggers
from supervisor_glue.controllers.informer import Index, Views
from supervisor_glue.controllers.ipam import address_choice
from supervisor_glue.controllers.namespace_plan import (
    NAMESPACE_LABEL,
    PODS_POOL,
    Block,
    blocks_of,
    needs_address,
    segment_name,
)
from supervisor_glue.controllers.objects import (
    is_deleted,
    key_split,
    labels_of,
    name_of,
    namespace_of,
    object_key,
    object_made,
    owner_reference,
    spec_of,
    status_of,
    uid_of,
)
from supervisor_glue.controllers.resources import ALLOCATIONS, NAMESPACES, PODS, PORTS, SEGMENTS

LONGEST_NAME: Final = 253
POD_LABEL: Final = "palisade.internal/pod"


def port_name(namespace: str, pod: str) -> str:
    """A pod's Port: a Namespace's name holds no dot, so that no two pods share one."""
    name = f"{namespace}.{pod}"
    return name if len(name) <= LONGEST_NAME else f"{name[:220]}-{sha256(name.encode()).hexdigest()[:16]}"


class VnicController(Controller):
    """Keys are pods (`namespace/name`)."""

    name: ClassVar[str] = "vnics"

    def __init__(self, client: Client, views: Views, now: Now = time.time) -> None:
        super().__init__(client, views, now)
        self._allocations = Index(views[ALLOCATIONS], lambda item: [str(spec_of(item).get("namespace"))])
        self._pods = Index(views[PODS], lambda item: [namespace_of(item)])
        self._written: dict[str, Object] = {}  # Allocations that the view may not have yet
        self._locks: dict[str, asyncio.Lock] = {}
        self._ports = Index(views[PORTS], lambda item: [str(spec_of(item).get("namespace"))])

    def triggers(self) -> Triggers:
        views = self.views

        def port_pod(port: Object) -> list[str]:
            name = port["metadata"].get("annotations", {}).get(POD_LABEL)
            return [f"{spec_of(port).get('namespace')}/{name}"] if name else []

        def allocation_pods(item: Object) -> list[str]:
            """Those that had of it and are gone, and those that wait; the others have what they need."""
            if spec_of(item).get("pool") != PODS_POOL:
                return []
            namespace = str(spec_of(item).get("namespace"))
            gone = set()
            for taken in (spec_of(item).get("addresses") or {}).values():
                pod = views[PODS].get(taken["pod"], namespace)
                if pod is None or uid_of(pod) != taken.get("uid"):
                    gone.add(f"{namespace}/{taken['pod']}")
            return sorted(gone.union(self._waiting(namespace)))

        return {
            PODS: lambda item: [object_key(item)],
            PORTS: port_pod,
            ALLOCATIONS: allocation_pods,
            SEGMENTS: lambda item: self._waiting(labels_of(item).get(NAMESPACE_LABEL, "")),
            NAMESPACES: lambda item: self._waiting(name_of(item)),
        }

    def _waiting(self, namespace: str) -> list[str]:
        return [object_key(pod) for pod in self._pods[namespace] if not status_of(pod).get("podIP")]

    async def reconcile(self, key: str) -> float | None:
        namespace, name = key_split(key)
        pod = self.views[PODS].get(name, namespace)
        port = self.views[PORTS].get(port_name(namespace, name))
        wanted = pod if pod is not None and needs_address(pod) else None
        if port is not None and spec_of(port).get("external_id") != (uid_of(wanted) if wanted else None):
            if name_of(port) == port_name(namespace, name) and port["metadata"].get("annotations", {}).get(POD_LABEL):
                await self.deleted(PORTS, port)  # its address is free when it is gone, which calls us
            return None
        owner = self.views[NAMESPACES].get(namespace)
        async with self._locks.setdefault(namespace, asyncio.Lock()):  # pods of one Namespace take of the same objects
            await self._give_back(namespace, name, wanted)
            if wanted is None or owner is None or is_deleted(owner):
                return None
            found = await self._address(namespace, wanted)
        if found is None:
            return None  # the Namespace's next block calls us
        address, block = found
        segment = segment_name(namespace, block.number)
        if self.views[SEGMENTS].get(segment) is None:
            return None
        if port is None:
            port = await self._port(owner, wanted, address, segment)
            if port is None:
                return 0.1  # there is one that the view does not have yet
        elif spec_of(port).get("host") != spec_of(wanted)["nodeName"] and not is_deleted(port):
            changed = {**port, "spec": {**spec_of(port), "host": spec_of(wanted)["nodeName"]}}
            await self.client.update(PORTS, changed)
        if status_of(wanted).get("podIPs") != [{"ip": address}]:
            told = {"status": {"podIP": address, "podIPs": [{"ip": address}]}, "metadata": {"uid": uid_of(wanted)}}
            await self.client.patch(PODS, name, told, namespace, "status")
        return None

    async def _port(self, owner: Object, pod: Object, address: str, segment: str) -> Object | None:
        namespace, name = name_of(owner), name_of(pod)
        macs = {str(spec_of(item).get("mac")): name_of(item) for item in self._ports[namespace]}
        made = object_made(
            PORTS,
            port_name(namespace, name),
            spec={
                "host": spec_of(pod)["nodeName"],
                "segment": segment,
                "mac": free_mac(port_name(namespace, name), macs),
                "ips": [address],
                "namespace": namespace,
                "external_id": uid_of(pod),
            },
            owner=owner_reference(NAMESPACES, owner),
            labels={NAMESPACE_LABEL: namespace},
        )
        made["metadata"]["annotations"] = {POD_LABEL: name}
        return await self.created(PORTS, made)

    async def _address(self, namespace: str, pod: Object) -> tuple[str, Block] | None:
        """The pod's address, which is taken now if it has none; None where there is no room."""
        allocations = {name_of(item): item for item in self._known(namespace)}
        blocks = blocks_of(allocations.values())
        uid = uid_of(pod)
        for block in blocks:
            for address, taken in block.taken.items():
                if taken.get("uid") == uid:
                    return address, block
        for block in blocks:
            used = {address_parse(address) for address in block.taken}
            choice = None if block.closed else address_choice(block.subnet, f"{name_of(pod)}/{uid}", used)
            if choice is not None:
                addresses = {**block.taken, str(choice): {"pod": name_of(pod), "uid": uid}}
                await self._write(allocations[block.name], addresses)
                return str(choice), block
        return None

    async def _give_back(self, namespace: str, name: str, pod: Object | None) -> None:
        """Free what pods of this name took, but for this one."""
        uid = uid_of(pod) if pod is not None else None
        for allocation in self._known(namespace):
            addresses = spec_of(allocation).get("addresses") or {}
            kept = {
                address: taken
                for address, taken in addresses.items()
                if taken.get("pod") != name or taken.get("uid") == uid
            }
            if len(kept) != len(addresses):
                await self._write(allocation, kept)

    def _known(self, namespace: str) -> list[Object]:
        """The Namespace's Allocations, as the view has them or as they were written here after that."""
        found = []
        for item in self._allocations[namespace]:
            written = self._written.get(name_of(item))
            if written is not None and _revision(written) <= _revision(item):
                del self._written[name_of(item)]
                written = None
            found.append(written or item)
        return found

    async def _write(self, allocation: Object, addresses: dict[str, Any]) -> None:
        """At the revision that we saw: nobody else has taken the same meanwhile."""
        changed = {**allocation, "spec": {**spec_of(allocation), "addresses": addresses}}
        self._written.pop(name_of(allocation), None)  # where that is refused, the view will know better
        self._written[name_of(allocation)] = await self.client.update(ALLOCATIONS, changed)


def _revision(item: Object) -> int:
    return int(item["metadata"]["resourceVersion"])
