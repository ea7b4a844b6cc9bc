# SPDX-License-Identifier: Apache-2.0
"""Every check at once: what is asked for against what there is. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from dfw.model import AddressRange, address_parse
from supervisor_glue.prechecks.addresses import (
    cidr_reasons,
    management_reasons,
    network_reasons,
    ntp_reasons,
    overlap_reasons,
)
from supervisor_glue.prechecks.placement import Placed, plan_placement
from supervisor_glue.prechecks.reasons import Reason, called, reason
from supervisor_glue.prechecks.spec import LEAST_MTU, EdgeCluster, SupervisorSpec, Switch

LEAST_SWITCH: Final = (7, 0)
_NEAR: Final = 8  # of many hosts each is measured with so many before and after it
_LABEL: Final = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
_FQDN: Final = re.compile(rf"{_LABEL}(\.{_LABEL})+\.?")


@dataclass(frozen=True, slots=True)
class Path:
    """From a host to another's TEP. `problem`: why packets of the size asked for do not arrive; empty: they do."""

    host: str
    tep: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What a host's agent says. `problem`: why it is not prepared; empty: it is. `vnics`: how much it has to do."""

    problem: str = ""
    version: str = ""
    tep: str = ""
    vnics: int = 0
    paths: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is. `version`: the Supervisor's own; `segments`: those that hosts have, by name."""

    version: str
    hosts: Mapping[str, HostFacts] = field(default_factory=dict)
    segments: tuple[tuple[str, AddressRange], ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """The answer. `later`: what was checked and is not used yet; `nodes`: where the control plane would be."""

    spec: SupervisorSpec
    reasons: tuple[Reason, ...]
    later: tuple[Reason, ...]
    nodes: tuple[Placed, ...]

    @property
    def is_compatible(self) -> bool:
        """Nothing is in the way."""
        return not self.reasons

    def as_object(self) -> dict[str, Any]:
        """As `-o json` shows it: vCenter's compatibility item, and what is ours beside it."""
        return {
            "cluster": self.spec.name,
            "compatible": self.is_compatible,
            "incompatibility_reasons": [item.as_object() for item in self.reasons],
            "profile": self.spec.profile,
            "used_later": [item.as_object() for item in self.later],
            "control_plane": [node.as_object() for node in self.nodes],
        }


def compatibility(spec: SupervisorSpec, facts: Facts) -> Report:
    """All reasons why not, in the order of the checks, each once."""
    reasons = chain(
        _cluster(spec),
        *(_host(spec, facts, name) for name in spec.hosts),
        _edges(spec),
        () if spec.tier0 else (reason("tier0.missing"),),
        network_reasons(spec),
        _switch(spec.switch),
        management_reasons(spec.management),
        ntp_reasons(spec.ntp),
        cidr_reasons(spec),
        overlap_reasons(spec, facts.segments),
    )
    prepared = [name for name in spec.hosts if name in facts.hosts and not facts.hosts[name].problem]
    load = {name: facts.hosts[name].vnics for name in prepared}
    return Report(spec, tuple(dict.fromkeys(reasons)), tuple(_later(spec)), plan_placement(spec, load))


def _cluster(spec: SupervisorSpec) -> Iterator[Reason]:
    if not spec.hosts:
        yield reason("cluster.hosts.missing", spec.name)
    elif len(spec.hosts) < spec.nodes:
        yield reason("cluster.hosts.too_few", spec.name, len(spec.hosts), spec.nodes)


def _host(spec: SupervisorSpec, facts: Facts, name: str) -> Iterator[Reason]:
    host = facts.hosts.get(name, HostFacts("no agent of this name is known"))
    if host.problem:
        yield reason("host.not_prepared", name, host.problem)
        return
    if not versions_fit(host.version, facts.version):
        yield reason("host.version.incompatible", name, host.version or "unknown", facts.version)
    if not host.tep:
        yield reason("host.tep.missing", name)
        return
    pools = {pool.name: pool.cidr for pool in spec.pools}
    pool = pools.get(spec.host_tep.pool) if spec.host_tep else None
    if spec.host_tep is not None and pool is not None and not pool.contains(address_parse(host.tep)):
        yield reason("host.tep.not_in_pool", name, host.tep, spec.host_tep.pool, pool)
    measured = {path.host: path for path in host.paths}
    near = measured_with(spec.hosts, name)
    for other in spec.hosts:
        if other not in near and other not in measured:
            continue
        there = facts.hosts.get(other)
        if other == name or there is None or there.problem or not there.tep:
            continue
        path = measured.get(other, Path(other, there.tep, "it does not know that host"))
        if path.problem:
            yield reason("host.tep.unreachable", name, other, path.tep, spec.mtu, path.problem)


def measured_with(hosts: Sequence[str], name: str) -> frozenset[str]:
    """The hosts to whose TEPs a host's way is measured, and back: all others, or of many those that stand near it."""
    at = hosts.index(name)
    return frozenset(hosts[max(at - _NEAR, 0) : at + _NEAR + 1]) - {name}


def versions_fit(one: str, other: str) -> bool:
    """The same major version, and minor ones at most one apart."""

    def parts(version: str) -> tuple[int, int] | None:
        found = re.match(r"(\d+)\.(\d+)", version)
        return (int(found[1]), int(found[2])) if found else None

    first, second = parts(one), parts(other)
    return first is not None and second is not None and first[0] == second[0] and abs(first[1] - second[1]) <= 1


def _edges(spec: SupervisorSpec) -> Iterator[Reason]:
    cluster = spec.edge_cluster
    if cluster is None:
        yield reason("edge_cluster.missing")
        return
    if not cluster.name:
        yield reason("edge_cluster.name.missing")
    if not cluster.edges:
        yield reason("edge_cluster.empty", called(cluster.name))
    yield from _twice(cluster)
    for number, edge in enumerate(cluster.edges, 1):
        name = called(edge.name, number)
        if not edge.name:
            yield reason("edge.name.missing", name)
        if not edge.fqdn:
            yield reason("edge.fqdn.missing", name)
        elif not _FQDN.fullmatch(edge.fqdn):
            yield reason("edge.fqdn.invalid", name, edge.fqdn)
        if edge.address is None:
            yield reason("edge.address.missing", name)
        host = edge.host or (edge.name if edge.name in spec.hosts else "")
        if host in spec.hosts and not edge.is_shared:
            yield reason("edge.not_apart", name, host)


def _twice(cluster: EdgeCluster) -> Iterator[Reason]:
    for values in (
        [edge.name for edge in cluster.edges if edge.name],
        [edge.fqdn.lower().rstrip(".") for edge in cluster.edges if edge.fqdn],
        [str(edge.address) for edge in cluster.edges if edge.address],
    ):
        for value in dict.fromkeys(value for value in values if values.count(value) > 1):
            yield reason("edge.duplicate", called(cluster.name), value)


def _switch(switch: Switch | None) -> Iterator[Reason]:
    if switch is None:
        yield reason("switch.missing")
        return
    name = called(switch.name)
    if not switch.name:
        yield reason("switch.name.missing")
    if not switch.version:
        yield reason("switch.version.missing", name)
    elif tuple(int(part) for part in switch.version.split("."))[:2] < LEAST_SWITCH:
        yield reason("switch.version.incompatible", name, switch.version, ".".join(map(str, LEAST_SWITCH)))
    if switch.mtu is None:
        yield reason("switch.mtu.missing", name)
    elif switch.mtu < LEAST_MTU:
        yield reason("switch.mtu.too_small", name, switch.mtu, LEAST_MTU)


def _later(spec: SupervisorSpec) -> Iterator[Reason]:
    if spec.edge_cluster is not None:
        yield reason("edge.later", called(spec.edge_cluster.name))
    if spec.service_cidr is not None:
        yield reason("cidr.service.later")
    if spec.ingress_cidrs:
        yield reason("cidr.ingress.later")
    if spec.egress_cidrs:
        yield reason("cidr.egress.later")
    if spec.nodes > 1:
        yield reason("control_plane.later", spec.nodes)
