# SPDX-License-Identifier: Apache-2.0
"""A Namespace as a network: its Tier-1 gateway, its segments, what they were given. Pure.

As vSphere with Kubernetes since 7.0 Update 1c: a Tier-1 for each Namespace, a /28 of the Pod CIDR, another when that is
full, one address of the Egress CIDR (reserved: nothing translates to it yet).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from dfw.model import AddressRange, prefix_parse
from supervisor_glue.api.status import Object
from supervisor_glue.api.validate.namespace import ISOLATED, ISOLATION, POSTURES
from supervisor_glue.controllers.ipam import block_at, usable_count
from supervisor_glue.controllers.objects import (
    annotations_of,
    is_deleted,
    name_of,
    object_made,
    owner_reference,
    spec_of,
    status_of,
)
from supervisor_glue.controllers.resources import ALLOCATIONS, GATEWAYS, NAMESPACES, SEGMENTS
from supervisor_glue.controllers.settings import Settings

PODS_POOL: Final = "pods"
EGRESS_POOL: Final = "egress"
NAMESPACE_LABEL: Final = "palisade.internal/namespace"
ENDED: Final = frozenset(("Succeeded", "Failed"))


@dataclass(frozen=True, slots=True)
class Block:
    """A subnet that a Namespace has, `number` of its own. `taken`: by address, the pod's name and uid. `closed`: it is
    being given back, and nobody takes of it."""

    name: str
    subnet: AddressRange
    number: int
    vni: int
    taken: Mapping[str, Mapping[str, str]]
    closed: bool = False


def gateway_name(namespace: str) -> str:
    return f"t1-{namespace}"


def segment_name(namespace: str, number: int) -> str:
    return f"seg-{namespace}-{number}"


def is_isolated(namespace: Object, settings: Settings) -> bool:
    """Whether a Namespace's pods talk among themselves only, unless policies say more."""
    said = annotations_of(namespace).get(ISOLATION)
    return settings.isolated if said not in POSTURES else said == ISOLATED


def needs_address(pod: Object) -> bool:
    """Whether a pod has a vNIC: it is placed, it has not ended, and does not use its host's network."""
    spec = spec_of(pod)
    return bool(spec.get("nodeName")) and not spec.get("hostNetwork") and status_of(pod).get("phase") not in ENDED


def block_allocation(namespace: Object, number: int, index: int, settings: Settings) -> Object:
    """What takes a block: nobody else can make an Allocation of this name."""
    name, spec = _block(name_of(namespace), number, index, settings)
    return _allocation(namespace, name, spec)


def leg_allocation(owner: Object, index: int, settings: Settings) -> Object:
    """The same, of a block that is no Namespace's: the control plane's leg is in it (`owner`: its Port)."""
    name, spec = _block("", 0, index, settings)
    return object_made(ALLOCATIONS, name, spec=spec, owner=owner)


def _block(namespace: str, number: int, index: int, settings: Settings) -> tuple[str, dict[str, Any]]:
    subnet = block_at(settings.pod_cidrs, settings.namespace_prefix, index)
    spec = {
        "pool": PODS_POOL,
        "block": str(subnet),
        "namespace": namespace,
        "number": number,
        "vni": settings.first_vni + index,
        "addresses": {},
    }
    return f"{PODS_POOL}-{_as_name(str(subnet))}", spec


def egress_allocation(namespace: Object, address: str) -> Object:
    """What takes an egress address."""
    spec = {"pool": EGRESS_POOL, "block": address, "namespace": name_of(namespace)}
    return _allocation(namespace, f"{EGRESS_POOL}-{_as_name(address)}", spec)


def _allocation(namespace: Object, name: str, spec: Mapping[str, Any]) -> Object:
    labels = {NAMESPACE_LABEL: name_of(namespace)}
    return object_made(ALLOCATIONS, name, spec=spec, owner=owner_reference(NAMESPACES, namespace), labels=labels)


def _as_name(text: str) -> str:
    """Addresses hold characters that names can't."""
    return text.replace("/", "-").replace(":", "-").strip("-")


def allocation_block(allocation: Object) -> Block:
    """A block as its Allocation has it."""
    spec = spec_of(allocation)
    taken, closed = spec.get("addresses") or {}, bool(spec.get("closed"))
    return Block(name_of(allocation), prefix_parse(spec["block"]), spec["number"], spec["vni"], taken, closed)


def blocks_of(allocations: Iterable[Object]) -> list[Block]:
    """The blocks among a Namespace's Allocations, in order of their numbers."""
    found = [
        allocation_block(item)
        for item in allocations
        if spec_of(item).get("pool") == PODS_POOL and not is_deleted(item)
    ]
    return sorted(found, key=lambda block: (block.number, block.name))


def plan_networks(namespace: Object, blocks: Sequence[Block], settings: Settings) -> list[tuple[Any, Object]]:
    """The gateway and the segments that a Namespace with these blocks has, each with its collection."""
    name, owner = name_of(namespace), owner_reference(NAMESPACES, namespace)
    labels = {NAMESPACE_LABEL: name}
    gateway = object_made(
        GATEWAYS, gateway_name(name), spec={"tier": 1, "tier0": settings.tier0}, owner=owner, labels=labels
    )
    segments = [
        object_made(
            SEGMENTS,
            segment_name(name, block.number),
            spec={"vni": block.vni, "subnets": [str(block.subnet)], "gateway": gateway_name(name)},
            owner=owner,
            labels=labels,
        )
        for block in blocks
    ]
    return [(GATEWAYS, gateway), *((SEGMENTS, segment) for segment in segments)]


def plan_more(blocks: Sequence[Block], waiting: int) -> int | None:
    """The number that another block has to have; None where there is room for the pods that wait for an address."""
    if waiting <= _room(blocks) and not all(block.closed for block in blocks):
        return None
    used = {block.number for block in blocks}
    return next(number for number in range(len(used) + 1) if number not in used)


def plan_fewer(blocks: Sequence[Block], waiting: int) -> Block | None:
    """A block to give back: one where that was begun, or one that is empty, not the first, and not needed."""
    for block in reversed(blocks):
        if block.closed:
            return block
    for block in reversed(blocks[1:]):
        if not block.taken and waiting <= _room(blocks) - usable_count(block.subnet):
            return block
    return None


def _room(blocks: Iterable[Block]) -> int:
    return sum(usable_count(block.subnet) - len(block.taken) for block in blocks if not block.closed)
