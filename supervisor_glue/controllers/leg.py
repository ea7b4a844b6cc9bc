# SPDX-License-Identifier: Apache-2.0
"""The way from pods to the API: the control plane's leg on a segment of the Supervisor's own.

An API server that has a network namespace on a host says so by a Port that names that host and nothing else. Here it
gets the rest: a block of the Pod CIDR, a segment at a Tier-1 of the Supervisor's own, the block's first address. All of
it is the Port's, and goes with it. Where the API is to be found then stands where Kubernetes' kubeadm writes it, in the
ConfigMap `cluster-info` (https://kubernetes.io/docs/reference/setup-tools/kubeadm/implementation-details/).
"""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import ClassVar, Final

import yaml

from dfw.assign import free_mac
from dfw.model import Address, address_parse
from dfw.model.address import range_of_address
from supervisor_glue.api.client import Client
from supervisor_glue.api.leg import LEG
from supervisor_glue.api.status import Object
from supervisor_glue.auth.node import CLUSTER_INFO, PUBLIC
from supervisor_glue.controllers import namespace_plan as plan
from supervisor_glue.controllers.controller import Controller, Now, Triggers
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.ipam import block_choices, usable
from supervisor_glue.controllers.objects import (
    is_deleted,
    name_of,
    object_made,
    owner_reference,
    owner_uids,
    spec_of,
    uid_of,
)
from supervisor_glue.controllers.resources import ALLOCATIONS, CONFIG_MAPS, GATEWAYS, PORTS, SEGMENTS
from supervisor_glue.controllers.settings import Settings

GATEWAY: Final = "supervisor"


def api_addresses(ports: Iterable[Object]) -> tuple[Address, ...]:
    """Where pods reach the API, as the leg's Port among these says; nothing where it has no address yet."""
    for port in ports:
        if name_of(port) == LEG and not is_deleted(port):
            return tuple(map(address_parse, spec_of(port).get("ips") or ()))
    return ()


def settings_with_leg(settings: Settings, ports: Iterable[Object]) -> Settings:
    """What controllers are told where the control plane has a leg: its addresses are kept from pods but for the API."""
    api = api_addresses(ports) or settings.api
    protected = (*settings.protected, *map(range_of_address, api))
    return replace(settings, api=api, protected=tuple(dict.fromkeys(protected)))


class LegController(Controller):
    """Its only key is the Port. `authority`: the CA's certificate as PEM, by which the API is known."""

    name: ClassVar[str] = "leg"

    def __init__(
        self, client: Client, views: Views, settings: Settings, authority: bytes = b"", now: Now = time.time
    ) -> None:
        super().__init__(client, views, now)
        self.settings, self._authority = settings, authority

    def triggers(self) -> Triggers:
        def named(*names: str) -> Callable[[Object], Iterable[str]]:
            return lambda item: [LEG] if name_of(item) in names else []

        return {
            PORTS: named(LEG),
            SEGMENTS: named(LEG),
            GATEWAYS: named(GATEWAY, self.settings.tier0),
            CONFIG_MAPS: named(CLUSTER_INFO),
        }

    async def reconcile(self, key: str) -> float | None:
        port = self.views[PORTS].get(LEG)
        if port is None or is_deleted(port):
            return None
        allocation = await self._allocation(port)
        if allocation is None:
            return 30.0  # the Pod CIDR is full: another's end does not call us
        block = plan.allocation_block(allocation)
        room = usable(block.subnet)
        assert room is not None
        address = str(Address(room.family, room.first))
        if self.views[GATEWAYS].get(self.settings.tier0) is None:
            await self.created(GATEWAYS, object_made(GATEWAYS, self.settings.tier0, spec={"tier": 0}))
        owner = owner_reference(PORTS, port)
        gateway = {"tier": 1, "tier0": self.settings.tier0}
        await self.ensured(GATEWAYS, object_made(GATEWAYS, GATEWAY, spec=gateway, owner=owner))
        segment = {"vni": block.vni, "subnets": [str(block.subnet)], "gateway": GATEWAY}
        await self.ensured(SEGMENTS, object_made(SEGMENTS, LEG, spec=segment, owner=owner))
        wanted = {"host": spec_of(port).get("host"), "segment": LEG, "mac": free_mac(LEG, {}), "ips": [address]}
        if dict(spec_of(port)) != wanted:
            await self.client.update(PORTS, {**port, "spec": wanted})
            self.log.info("leg", host=wanted["host"], address=address)
        await self._cluster_info(owner, address)
        return None

    async def _allocation(self, port: Object) -> Object | None:
        """The block that is the leg's; taken now where there is none yet, None where none is left."""
        listed = self.views[ALLOCATIONS]
        for item in listed:
            if owner_uids(item) == [uid_of(port)] and not is_deleted(item):
                return item
        settings = self.settings
        for index in block_choices(settings.pod_cidrs, settings.namespace_prefix, LEG, ()):
            wanted = plan.leg_allocation(owner_reference(PORTS, port), index, settings)
            if listed.get(name_of(wanted)) is None:
                made = await self.created(ALLOCATIONS, wanted)
                if made is not None:
                    return made
                found = await self.client.get(ALLOCATIONS, name_of(wanted))
                if owner_uids(found) == owner_uids(wanted):
                    return found
        self.log.warning("leg.no-block", pools=[str(pool) for pool in settings.pod_cidrs])
        return None

    async def _cluster_info(self, owner: Object, address: str) -> None:
        host = f"[{address}]" if ":" in address else address
        cluster: Object = {"server": f"https://{host}:{self.settings.api_port}"}
        if self._authority:
            cluster["certificate-authority-data"] = b64encode(self._authority).decode("ascii")
        kubeconfig = {"apiVersion": "v1", "kind": "Config", "clusters": [{"name": "", "cluster": cluster}]}
        data = {"kubeconfig": yaml.safe_dump(kubeconfig, sort_keys=False)}
        found = self.views[CONFIG_MAPS].get(CLUSTER_INFO, PUBLIC)
        if found is None:
            wanted: Object = {**object_made(CONFIG_MAPS, CLUSTER_INFO, PUBLIC, owner=owner), "data": data}
            await self.created(CONFIG_MAPS, wanted, PUBLIC)
        elif found.get("data") != data:
            await self.client.patch(CONFIG_MAPS, CLUSTER_INFO, {"data": data}, PUBLIC)
