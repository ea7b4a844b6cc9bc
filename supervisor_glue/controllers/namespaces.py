# SPDX-License-Identifier: Apache-2.0
"""Namespaces: networks while they are there, and nothing of them afterwards.

A Namespace that is deleted goes in this order: all objects in it, pods first; then ports, segments, the gateway, what
was taken of the pools; then itself. Nothing new can begin in it meanwhile: the API refuses, and nothing is made for it
here.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import ClassVar, Final

from supervisor_glue.api.client import Client, Resource
from supervisor_glue.api.status import Object
from supervisor_glue.controllers import namespace_plan as plan
from supervisor_glue.controllers.controller import Controller, NotThereError, Now, Triggers, there
from supervisor_glue.controllers.informer import Index, Views
from supervisor_glue.controllers.ipam import block_choices, block_count, single_choices
from supervisor_glue.controllers.objects import (
    FINALIZER,
    condition_of,
    conditions_with,
    is_deleted,
    name_of,
    namespace_of,
    object_made,
    owner_uids,
    spec_of,
    status_of,
    uid_of,
    with_finalizer,
    without_finalizer,
)
from supervisor_glue.controllers.resources import (
    ALLOCATIONS,
    GATEWAYS,
    IN_NAMESPACES,
    NAMESPACES,
    PODS,
    PORTS,
    SEGMENTS,
)
from supervisor_glue.controllers.settings import Settings

KUBERNETES: Final = "kubernetes"  # spec.finalizers of every Namespace
WITHOUT_NETWORK: Final = frozenset(("kube-system", "kube-public", "kube-node-lease"))
"""Have a network only while there is a pod in them."""
READY: Final = "NetworkReady"
LOOK_AGAIN: Final = 1.0


class PoolEmptyError(Exception):
    """Nothing is left to give: the message says of what."""


class NamespaceController(Controller):
    """Keys are Namespaces' names."""

    name: ClassVar[str] = "namespaces"

    def __init__(self, client: Client, views: Views, settings: Settings, now: Now = time.time) -> None:
        super().__init__(client, views, now)
        self.settings = settings
        self._made: dict[str, Object] = {}  # Allocations that the view may not have yet
        self._pods = Index(views[PODS], lambda item: [namespace_of(item)])
        self._taken = Index(views[ALLOCATIONS], lambda item: [str(spec_of(item).get("namespace"))])
        self._vnis = Index(views[SEGMENTS], lambda item: [str(spec_of(item).get("vni"))])
        self._egresses = Index(views[ALLOCATIONS], lambda item: [str(spec_of(item).get("pool"))])

    def triggers(self) -> Triggers:
        def owner(item: Object) -> Iterable[str]:
            name = spec_of(item).get("namespace") or (item["metadata"].get("labels") or {}).get(plan.NAMESPACE_LABEL)
            return (str(name),) if name else ()

        return {
            NAMESPACES: lambda item: [name_of(item)],
            PODS: lambda item: [namespace_of(item)],
            GATEWAYS: owner,
            SEGMENTS: owner,
            PORTS: owner,
            ALLOCATIONS: owner,
        }

    async def reconcile(self, key: str) -> float | None:
        namespace = self.views[NAMESPACES].get(key)
        if namespace is None:
            return None
        if is_deleted(namespace):
            return await self._gone(namespace)
        finalized = with_finalizer(namespace, FINALIZER)
        if finalized is not namespace:
            await self.client.update(NAMESPACES, finalized)
            return None  # the change brings us back
        pods = self._pods[key]
        if key in WITHOUT_NETWORK and not pods:
            return None
        await self._tier0()
        try:
            blocks = await self._blocks(namespace, pods)
            egress = await self._egress(namespace)
        except PoolEmptyError as error:
            await self._condition(namespace, "False", "PoolExhausted", str(error))
            return 30.0  # another's end does not call us
        for resource, wanted in plan.plan_networks(namespace, blocks, self.settings):
            await self.ensured(resource, wanted)
        segments = ", ".join(
            f"segment {plan.segment_name(key, block.number)} {block.subnet} (VNI {block.vni})" for block in blocks
        )
        reserved = f", egress address {egress} (reserved)" if egress else ""
        await self._condition(namespace, "True", "Ready", f"gateway {plan.gateway_name(key)}, {segments}{reserved}")
        return None

    async def _tier0(self) -> None:
        """The Tier-0 that all Tier-1s are connected to; nobody owns it."""
        if self.views[GATEWAYS].get(self.settings.tier0) is None:
            await self.created(GATEWAYS, object_made(GATEWAYS, self.settings.tier0, spec={"tier": 0}))

    # What is taken of the pools.

    def _allocations(self, namespace: Object) -> list[Object]:
        """Its own: not those of one of its name that was there before."""
        view = self.views[ALLOCATIONS]
        for name, item in list(self._made.items()):
            if view.is_at(item):
                del self._made[name]
        found = [*self._taken[name_of(namespace)], *self._made.values()]
        return [item for item in found if uid_of(namespace) in owner_uids(item)]

    async def _blocks(self, namespace: Object, pods: list[Object]) -> list[plan.Block]:
        """The Namespace's blocks, one more where pods have no room, one less where an empty one is too many."""
        key = name_of(namespace)
        blocks = plan.blocks_of(self._allocations(namespace))
        served = {taken.get("uid") for block in blocks for taken in block.taken.values()}
        waiting = sum(plan.needs_address(pod) and not is_deleted(pod) and uid_of(pod) not in served for pod in pods)
        number = plan.plan_more(blocks, waiting)
        while number is not None:
            made = await self._take_block(namespace, number)
            blocks = sorted([*blocks, plan.allocation_block(made)], key=lambda block: block.number)
            number = plan.plan_more(blocks, waiting)
        surplus = plan.plan_fewer(blocks, waiting)
        if surplus is not None:
            await self._give_back(key, surplus)
        return [block for block in blocks if not block.closed and block is not surplus]

    async def _give_back(self, namespace: str, block: plan.Block) -> None:
        """Closed at the revision at which it was empty: no pod can have just taken of it. Then it can go."""
        allocation = self.views[ALLOCATIONS].get(block.name)
        if allocation is None:
            return
        if not block.closed:
            closed = {**allocation, "spec": {**spec_of(allocation), "closed": True}}
            allocation = await self.client.update(ALLOCATIONS, closed)
        segment = self.views[SEGMENTS].get(plan.segment_name(namespace, block.number))
        if segment is not None:
            await self.deleted(SEGMENTS, segment)
        await self.deleted(ALLOCATIONS, allocation)

    async def _take_block(self, namespace: Object, number: int) -> Object:
        settings, key = self.settings, f"{name_of(namespace)}/{number}"
        view = self.views[ALLOCATIONS]
        prefix, pools = settings.namespace_prefix, settings.pod_cidrs
        for index in block_choices(pools, prefix, key, ()):
            wanted = plan.block_allocation(namespace, number, index, settings)
            seen = view.get(name_of(wanted))
            if seen is not None and spec_of(seen).get("namespace") != name_of(namespace):
                continue  # one of ours may be gone already: the API knows
            vni = str(wanted["spec"]["vni"])
            if any(name_of(item) != plan.segment_name(name_of(namespace), number) for item in self._vnis[vni]):
                continue
            made = await self._take(wanted)
            if made is not None:
                self.log.info("block-taken", namespace=name_of(namespace), block=made["spec"]["block"])
                return made
        raise PoolEmptyError(f"no /{prefix} of the Pod CIDR is left ({block_count(pools, prefix)} in all)")

    async def _egress(self, namespace: Object) -> str:
        """The Namespace's egress address; nothing where there is no pool."""
        pools = self.settings.egress_cidrs
        if not pools:
            return ""
        for item in self._allocations(namespace):
            if spec_of(item).get("pool") == plan.EGRESS_POOL:
                return str(spec_of(item)["block"])
        taken = {str(spec_of(item)["block"]) for item in self._egresses[plan.EGRESS_POOL]}
        for address in single_choices(pools, name_of(namespace), taken):
            made = await self._take(plan.egress_allocation(namespace, str(address)))
            if made is not None:
                return str(address)
        raise PoolEmptyError("no address of the Egress CIDR is left")

    async def _take(self, wanted: Object) -> Object | None:
        """Make the Allocation, or find that we did; None where another has it."""
        made = await self.created(ALLOCATIONS, wanted)
        if made is None:
            try:
                found = await there(self.client.get(ALLOCATIONS, name_of(wanted)))
            except NotThereError:
                return None
            same = owner_uids(found) == owner_uids(wanted) and spec_of(found).get("number") == spec_of(wanted).get(
                "number"
            )
            if not same or is_deleted(found):
                return None
            made = found
        self._made[name_of(made)] = made
        return made

    # The end.

    async def _gone(self, namespace: Object) -> float | None:
        key = name_of(namespace)
        for resource in IN_NAMESPACES:
            remaining = (await self.client.list(resource, key)).items
            for item in remaining:
                await self.deleted(resource, item)
            if remaining and resource == PODS:  # their hosts have to end them
                message = f"Some resources are remaining: pods. has {len(remaining)} resource instances"
                await self._condition(namespace, "True", "SomeResourcesRemain", message, "NamespaceContentRemaining")
                return LOOK_AGAIN
            if remaining and (await self.client.list(resource, key)).items:
                return LOOK_AGAIN
        for resource in (PORTS, SEGMENTS, GATEWAYS, ALLOCATIONS):
            mine = await self._mine(resource, namespace)
            for item in mine:
                await self.deleted(resource, item)
            if mine:
                return LOOK_AGAIN  # or sooner: they call us when they are gone
        freed = without_finalizer(namespace, FINALIZER)
        if freed is not namespace:
            namespace = await self.client.update(NAMESPACES, freed)
        spec = dict(spec_of(namespace))
        if KUBERNETES in (spec.get("finalizers") or ()):
            spec["finalizers"] = [value for value in spec["finalizers"] if value != KUBERNETES]
            await self.client.update(NAMESPACES, {**namespace, "spec": spec}, "finalize")
        self.log.info("namespace-gone", namespace=key)
        return None

    async def _mine(self, resource: Resource, namespace: Object) -> list[Object]:
        """The server is asked: the view may not have what was made a moment ago, and nothing may be left when the
        Namespace's name is free again."""
        key = name_of(namespace)
        labelled = (await self.client.list(resource, labels=f"{plan.NAMESPACE_LABEL}={key}")).items
        if resource != PORTS:
            return labelled
        known = {uid_of(item) for item in labelled}
        written_by_users = [item for item in self.views[PORTS] if spec_of(item).get("namespace") == key]
        return labelled + [item for item in written_by_users if uid_of(item) not in known]

    async def _condition(self, namespace: Object, status: str, reason: str, message: str, kind: str = READY) -> None:
        old = condition_of(namespace, kind)
        if old and (old.get("status"), old.get("reason"), old.get("message")) == (status, reason, message):
            return
        conditions = conditions_with(namespace, kind, status, reason, message, self.now())
        changed = {**namespace, "status": {**status_of(namespace), "conditions": conditions}}
        await self.client.update(NAMESPACES, changed, "status")
