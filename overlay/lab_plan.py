# SPDX-License-Identifier: Apache-2.0
"""What a lab shall be, and what has to be done for it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256

from dfw.errors import PolicyError, Problem
from dfw.model import NATIVE, NFTABLES, PolicySet
from dfw.model.place import Place
from overlay.lab_record import LabRecord, MoveRecord
from overlay.pod import PodSpec, pod_hash
from overlay.service_router import service_routers
from overlay.underlay import OUTSIDE, UNDERLAY, Bridge, Interface, Underlay, host_namespace, plan_underlay


@dataclass(frozen=True, slots=True)
class PodPlan:
    """A pod: where it is, and what it runs."""

    name: str
    host: str
    netns: str
    spec: PodSpec


@dataclass(frozen=True, slots=True)
class LabPlan:
    """All that a lab consists of. `intent`: a hash of what the files say."""

    name: str
    intent: str
    underlay: Underlay
    hosts: tuple[str, ...]
    pods: tuple[PodPlan, ...]
    routers: tuple[str, ...] = ()  # namespaces of service routers
    kernel_hosts: frozenset[str] = frozenset()  # whose enforcer is nftables

    def enforcer(self, host: str) -> str:
        """What judges packets there."""
        return NFTABLES if host in self.kernel_hosts else NATIVE

    @property
    def namespaces(self) -> tuple[str, ...]:
        """Names of all namespaces."""
        hosts = map(host_namespace, self.hosts)
        return (UNDERLAY, OUTSIDE, *hosts, *self.routers, *(pod.netns for pod in self.pods))


@dataclass(frozen=True, slots=True)
class Changes:
    """What differs between a lab as it is and as it shall be. `old`: to be taken away, `new`: to be made; `told`: lines
    about what the hosts are told, where somebody wants to know."""

    new_namespaces: tuple[str, ...] = ()
    old_namespaces: tuple[str, ...] = ()
    new_bridges: tuple[Bridge, ...] = ()
    old_bridges: tuple[str, ...] = ()
    new_interfaces: tuple[Interface, ...] = ()
    old_interfaces: tuple[Interface, ...] = ()
    new_hosts: tuple[str, ...] = ()
    old_hosts: tuple[str, ...] = ()
    new_pods: tuple[PodPlan, ...] = ()
    old_pods: tuple[str, ...] = ()
    intent: bool = False
    told: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return any(True for _ in self.lines())

    def lines(self) -> Iterator[str]:
        """What would be done, a line a thing, in the order in which it is done."""
        yield from (f"- pod {name}" for name in self.old_pods)
        yield from (f"- agent of host {name}" for name in self.old_hosts)
        yield from (f"- interface {item.key}" for item in self.old_interfaces)
        yield from (f"- network {name}" for name in self.old_bridges)
        yield from (f"- namespace {name}" for name in self.old_namespaces)
        yield from (f"+ namespace {name}" for name in self.new_namespaces)
        yield from (f"+ network {item.name} {' '.join(item.addresses)}".rstrip() for item in self.new_bridges)
        yield from (f"+ interface {item.key} in {item.network}" for item in self.new_interfaces)
        yield from (f"+ agent of host {name}" for name in self.new_hosts)
        if self.intent:
            yield "~ what the hosts are told"
            yield from (f"    {line}" for line in self.told)
        yield from (f"+ pod {pod.name} on {pod.host}" for pod in self.new_pods)


def lab_world(world: PolicySet) -> PolicySet:
    """A policy as a lab has it: addresses that were only assumed are now the pods' own."""
    ports = {name: replace(port, ips_assumed=False) for name, port in world.inventory.ports.items()}
    return replace(world, inventory=replace(world.inventory, ports=ports))


def world_encapsulated(world: PolicySet, speaks: str) -> PolicySet:
    """The policy with what the tunnels of those hosts speak whose kernels forward, and whose Host does not say it."""
    hosts = {
        name: replace(host, encapsulation=speaks) if host.enforcer == NFTABLES and host.encapsulation is None else host
        for name, host in world.inventory.hosts.items()
    }
    return replace(world, inventory=replace(world.inventory, hosts=hosts))


def world_moved(world: PolicySet, moved: Mapping[str, MoveRecord]) -> PolicySet:
    """The policy with migrated pods where they are, as long as the files have them where they were."""
    ports = dict(world.inventory.ports)
    for name, move in moved.items():
        port = ports.get(name)
        if port is not None and port.host == move.written and move.host in world.inventory.hosts:
            ports[name] = replace(port, host=move.host)
    return replace(world, inventory=replace(world.inventory, ports=ports))


def plan_lab(
    name: str, world: PolicySet, specs: Mapping[str, PodSpec], intent: str, *, mtu: int, ipv6: bool, file: str = "-"
) -> LabPlan:
    """The lab for a policy and its inventory, of which `file` is the first.

    Raises PolicyError where there is nothing to bring up, or as plan_underlay does; EnvironmentLacksError.
    """
    inventory = world.inventory
    if not inventory.ports and not inventory.hosts:
        told = "there are no hosts and no workloads: give an Inventory, or Pods"
        raise PolicyError([Problem(Place(file, 1, 1), told)])
    pods = tuple(
        PodPlan(port.name, port.host, f"pod-{pod_hash(port.name)}", specs.get(port.name, PodSpec()))
        for port in inventory
    )
    underlay = plan_underlay(inventory, mtu=mtu, ipv6=ipv6)
    routers = tuple(item.namespace for item in service_routers(inventory))
    kernel_hosts = frozenset(host.name for host in inventory.hosts.values() if host.enforcer == NFTABLES)
    return LabPlan(name, intent, underlay, tuple(inventory.hosts), pods, routers, kernel_hosts)


def intent_hash(inputs: Iterable[tuple[str, bytes]]) -> str:
    """A hash of files and their contents."""
    whole = sha256()
    for file, data in inputs:
        whole.update(f"{file}\0{len(data)}\0".encode() + data)
    return whole.hexdigest()


def plan_changes(record: LabRecord, plan: LabPlan) -> Changes:
    """From a lab as it is (`record` holds only what is really there) to the plan."""
    wanted_pods = {pod.name: pod for pod in plan.pods}
    moved = {
        name for name, pod in record.pods.items() if name in wanted_pods and pod.host != wanted_pods[name].host
    }  # the files move it: a new one there
    old_pods = [
        name
        for name, pod in record.pods.items()
        if name not in wanted_pods
        or name in moved
        or (pod.process and (pod.spec != wanted_pods[name].spec or pod.netns not in record.namespaces))
    ]
    new_pods = [
        pod
        for pod in plan.pods
        if pod.name in old_pods or pod.name not in record.pods or record.pods[pod.name].process is None
    ]
    gone = {record.pods[name].netns for name in old_pods if name in moved}
    there = [name for name in record.namespaces if name not in gone]
    new_namespaces = tuple(name for name in plan.namespaces if name not in there)
    lost = {UNDERLAY} & set(new_namespaces)

    bridges = {item.name: item for item in plan.underlay.bridges}
    remade = bool(lost) or record.mtu != plan.underlay.mtu
    new_bridges = tuple(item for item in bridges.values() if remade or record.bridges.get(item.name) != item)
    changed = {item.name for item in new_bridges}
    interfaces = {item.key: item for item in plan.underlay.interfaces}
    new_interfaces = tuple(
        item
        for item in interfaces.values()
        if record.interfaces.get(item.key) != item or item.network in changed or item.namespace in new_namespaces
    )
    relaid = {item.key for item in new_interfaces}
    old_interfaces = tuple(item for key, item in record.interfaces.items() if key not in interfaces or key in relaid)
    rewired = {item.namespace for item in new_interfaces}
    old_hosts = [
        name
        for name, host in record.hosts.items()
        if name not in plan.hosts
        or (host.agent and (host_namespace(name) in rewired or host.enforcer != plan.enforcer(name)))
    ]
    new_hosts = [
        name for name in plan.hosts if name in old_hosts or name not in record.hosts or record.hosts[name].agent is None
    ]
    return Changes(
        new_namespaces,
        tuple(name for name in record.namespaces if name not in plan.namespaces or name in gone),
        new_bridges,
        tuple(name for name in record.bridges if name not in bridges or name in changed),
        new_interfaces,
        old_interfaces,
        tuple(new_hosts),
        tuple(old_hosts),
        tuple(new_pods),
        tuple(old_pods),
        record.intent != plan.intent or bool(new_namespaces),
    )
