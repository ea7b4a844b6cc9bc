# SPDX-License-Identifier: Apache-2.0
"""Pod → host: which hosts can have it (filter), and which of these is best (score). Pure.

Filters, their order and their sentences are those of kube-scheduler's default plugins; a host is refused with the words
of the first that refuses. https://kubernetes.io/docs/reference/scheduling/config/#scheduling-plugins
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from operator import add, sub
from typing import Any, Final
from zlib import crc32

from supervisor_glue.api.status import Object
from supervisor_glue.controllers.objects import labels_of, name_of, namespace_of, spec_of, status_of
from supervisor_glue.controllers.quantity import milli, whole
from supervisor_glue.controllers.select import label_selects, node_term_selects, tolerates

ENOUGH: Final = 50
"""So many hosts that can have it are compared; where there are very many, the others are not looked at."""
MAXIMUM_PODS: Final = 110
_HARD: Final = ("NoSchedule", "NoExecute")
USUAL: Final = {"cpu": "100m", "memory": "200Mi"}
"""What a container that asks for nothing counts for in the score (kube-scheduler's util.GetNonzeroRequests)."""


@dataclass(frozen=True, slots=True)
class Requests:
    """What a pod wants, and what is left on a host: thousandths of processors, bytes, pods; and as the score takes the
    first two, where nobody asks for nothing."""

    cpu: int = 0
    memory: int = 0
    pods: int = 1
    scored_cpu: int = 0
    scored_memory: int = 0

    def __add__(self, other: Requests) -> Requests:
        return self._with(other, add)

    def __sub__(self, other: Requests) -> Requests:
        return self._with(other, sub)

    def at_least(self, other: Requests) -> Requests:
        """The larger of each."""
        return self._with(other, max)

    def _with(self, other: Requests, how: Callable[[int, int], int]) -> Requests:
        return Requests(
            how(self.cpu, other.cpu),
            how(self.memory, other.memory),
            how(self.pods, other.pods),
            how(self.scored_cpu, other.scored_cpu),
            how(self.scored_memory, other.scored_memory),
        )


NONE: Final = Requests(0, 0, 0)


@dataclass(frozen=True, slots=True)
class HostRoom:
    """A host as the scheduler sees it: its Node, the pods on it, and those of them that want others kept away."""

    node: Object
    capacity: Requests
    used: Requests = NONE
    pods: Sequence[Object] = ()
    apart: Sequence[Object] = ()

    @property
    def name(self) -> str:
        return name_of(self.node)

    @property
    def labels(self) -> Mapping[str, str]:
        return labels_of(self.node)


@dataclass(frozen=True)
class Cluster:
    """All hosts, and the labels of Namespaces."""

    hosts: Sequence[HostRoom]
    namespaces: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a pod goes; `host` None: nowhere, and `message` is why, in the scheduler's own words."""

    host: str | None
    message: str = ""


def requests_of(pod: Object) -> Requests:
    """What its containers ask for together, or an init container alone, if that is more. Raises ValueError."""
    spec = spec_of(pod)
    running = _summed(spec.get("containers") or ())
    sidecars, most = NONE, NONE
    for container in spec.get("initContainers") or ():
        own = _requests(container)
        if container.get("restartPolicy") == "Always":
            sidecars = sidecars + own
            own = sidecars
        else:
            own = own + sidecars
        most = most.at_least(own)
    overhead = _asked(spec.get("overhead") or {}, {})
    return (running + sidecars).at_least(most) + overhead + Requests(pods=1)


def _summed(containers: Iterable[Mapping[str, Any]]) -> Requests:
    total = NONE
    for container in containers:
        total = total + _requests(container)
    return total


def _requests(container: Mapping[str, Any]) -> Requests:
    resources = container.get("resources") or {}
    return _asked({**(resources.get("limits") or {}), **(resources.get("requests") or {})}, USUAL)


def _asked(wanted: Mapping[str, Any], usual: Mapping[str, str]) -> Requests:
    scored = {**usual, **wanted}
    return Requests(
        milli(wanted.get("cpu", 0)),
        whole(wanted.get("memory", 0)),
        0,
        milli(scored.get("cpu", 0)),
        whole(scored.get("memory", 0)),
    )


def capacity_of(node: Object) -> Requests:
    """What a Node has for pods; a Node that does not say has nothing. Raises ValueError."""
    status = status_of(node)
    given = status.get("allocatable") or status.get("capacity") or {}
    return Requests(milli(given.get("cpu", 0)), whole(given.get("memory", 0)), whole(given.get("pods", MAXIMUM_PODS)))


def choose(pod: Object, cluster: Cluster) -> Choice:
    """The best host of those that can have it. Raises ValueError where the pod's requests are no quantities."""
    if not cluster.hosts:
        return Choice(None, "no nodes available to schedule pods")
    wanted = requests_of(pod)
    filters = Filters(pod, wanted, cluster)
    start = crc32(f"{namespace_of(pod)}/{name_of(pod)}".encode()) % len(cluster.hosts)
    refusals: Counter[str] = Counter()
    fitting: list[HostRoom] = []
    for step in range(len(cluster.hosts)):
        host = cluster.hosts[(start + step) % len(cluster.hosts)]
        reasons = filters.reasons(host)
        refusals.update(reasons)
        if not reasons:
            fitting.append(host)
            if len(fitting) >= ENOUGH:
                break
    if not fitting:
        told = ", ".join(sorted(f"{count} {reason}" for reason, count in refusals.items()))
        return Choice(None, f"0/{len(cluster.hosts)} nodes are available: {told}.")
    scores = Scores(pod, wanted, filters)
    best = max(fitting, key=lambda host: (scores.of(host), -len(host.pods), crc32(host.name.encode()), host.name))
    return Choice(best.name)


class Filters:
    """Whether a host can have the pod."""

    def __init__(self, pod: Object, wanted: Requests, cluster: Cluster) -> None:
        self.pod, self.spec, self.wanted, self.cluster = pod, spec_of(pod), wanted, cluster
        affinity = self.spec.get("affinity") or {}
        self.node_affinity = affinity.get("nodeAffinity") or {}
        self.near = affinity.get("podAffinity") or {}
        self.apart = affinity.get("podAntiAffinity") or {}
        self.tolerations = self.spec.get("tolerations") or ()
        self.ports = set(_host_ports(pod))
        self.near_terms = [_Term(self, term) for term in self.near.get(_REQUIRED) or ()]
        self.apart_terms = [_Term(self, term) for term in self.apart.get(_REQUIRED) or ()]
        self.spread = [
            _Spread(self, item)
            for item in self.spec.get("topologySpreadConstraints") or ()
            if item.get("whenUnsatisfiable", "DoNotSchedule") == "DoNotSchedule"
        ]
        self._refusing = list(self._refused_by_others())

    def reasons(self, host: HostRoom) -> list[str]:
        """Why not: the first filter that refuses; empty where it can."""
        for refuse in self._FILTERS:
            found = refuse(self, host)
            if found:
                return found
        return []

    def _unschedulable(self, host: HostRoom) -> list[str]:
        taint = {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}
        if spec_of(host.node).get("unschedulable") and not tolerates(self.tolerations, taint):
            return ["node(s) were unschedulable"]
        return []

    def _taints(self, host: HostRoom) -> list[str]:
        for taint in spec_of(host.node).get("taints") or ():
            if taint.get("effect") in _HARD and not tolerates(self.tolerations, taint):
                return [f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"]
        return []

    def selects_node(self, host: HostRoom) -> bool:
        """nodeSelector and the required node affinity."""
        selector = self.spec.get("nodeSelector") or {}
        if any(host.labels.get(key) != value for key, value in selector.items()):
            return False
        required = self.node_affinity.get(_REQUIRED)
        if required is None:
            return True
        return any(node_term_selects(term, host.name, host.labels) for term in required.get("nodeSelectorTerms") or ())

    def _affinity(self, host: HostRoom) -> list[str]:
        return [] if self.selects_node(host) else ["node(s) didn't match Pod's node affinity/selector"]

    def _host_ports(self, host: HostRoom) -> list[str]:
        if self.ports and any(not self.ports.isdisjoint(_host_ports(pod)) for pod in host.pods):
            return ["node(s) didn't have free ports for the requested pod ports"]
        return []

    def _resources(self, host: HostRoom) -> list[str]:
        left = host.capacity - host.used
        found = []
        if self.wanted.pods > left.pods:
            found.append("Too many pods")
        if self.wanted.cpu and self.wanted.cpu > left.cpu:
            found.append("Insufficient cpu")
        if self.wanted.memory and self.wanted.memory > left.memory:
            found.append("Insufficient memory")
        return found

    def _spreads(self, host: HostRoom) -> list[str]:
        for spread in self.spread:
            if spread.key not in host.labels:
                return ["node(s) didn't match pod topology spread constraints (missing required label)"]
            if not spread.holds(host):
                return ["node(s) didn't match pod topology spread constraints"]
        return []

    def _pods(self, host: HostRoom) -> list[str]:
        for term in self.near_terms:
            if term.key not in host.labels or not (term.has(host) or self._is_first(term)):
                return ["node(s) didn't match pod affinity rules"]
        if any(term.has(host) for term in self.apart_terms):
            return ["node(s) didn't match pod anti-affinity rules"]
        if any(host.labels.get(key) == value for key, value in self._refusing):
            return ["node(s) didn't satisfy existing pods anti-affinity rules"]
        return []

    def _is_first(self, term: _Term) -> bool:
        """The first pod of a group that wants to be together may go anywhere, if it is one of that group itself."""
        return not any(other.domains for other in self.near_terms) and term.selects(self.pod)

    def _refused_by_others(self) -> Iterator[tuple[str, str]]:
        """Domains of pods that do not want this one near them."""
        for host in self.cluster.hosts:
            for other in host.apart:
                for written in apart_terms(other):
                    key = written.get("topologyKey", "")
                    value = host.labels.get(key)
                    if value is not None and term_selects(written, other, self.pod, self.cluster.namespaces):
                        yield key, value

    _FILTERS: Final[tuple[Callable[[Any, HostRoom], list[str]], ...]] = (
        _unschedulable,
        _taints,
        _affinity,
        _host_ports,
        _resources,
        _spreads,
        _pods,
    )


_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def apart_terms(pod: Object) -> Sequence[Mapping[str, Any]]:
    """The pods that this one must not be near."""
    affinity = spec_of(pod).get("affinity") or {}
    return (affinity.get("podAntiAffinity") or {}).get(_REQUIRED) or ()


def host_room(node: Object, used: Requests, pods: Sequence[Object]) -> HostRoom:
    """A host with these pods; a Node that says nonsense has no room."""
    try:
        capacity = capacity_of(node)
    except ValueError:
        capacity = NONE
    return HostRoom(node, capacity, used, pods, [pod for pod in pods if apart_terms(pod)])


def term_selects(
    term: Mapping[str, Any], owner: Object, pod: Object, namespaces: Mapping[str, Mapping[str, str]]
) -> bool:
    """A PodAffinityTerm of one pod: does it mean the other? Without namespaces: those of its owner's."""
    names, selector = term.get("namespaces") or (), term.get("namespaceSelector")
    where = namespace_of(pod)
    if not names and selector is None:
        within = where == namespace_of(owner)
    else:
        within = where in names or label_selects(selector, namespaces.get(where, {}))
    return within and label_selects(term.get("labelSelector"), labels_of(pod))


class _Term:
    """A required term: `domains` are the values of its key where a pod is that it means."""

    def __init__(self, filters: Filters, term: Mapping[str, Any]) -> None:
        self.filters, self.term = filters, term
        self.key: str = term.get("topologyKey", "")
        self.domains = {
            host.labels[self.key]
            for host in filters.cluster.hosts
            if self.key in host.labels and any(map(self.selects, host.pods))
        }

    def selects(self, pod: Object) -> bool:
        return term_selects(self.term, self.filters.pod, pod, self.filters.cluster.namespaces)

    def has(self, host: HostRoom) -> bool:
        return host.labels.get(self.key) in self.domains


class _Spread:
    """A constraint that has to hold: how many pods that it means are in each domain of hosts that the pod selects."""

    def __init__(self, filters: Filters, item: Mapping[str, Any]) -> None:
        self.key: str = item["topologyKey"]
        self.skew: int = item["maxSkew"]
        self.counts: dict[str, int] = {}
        selector, namespace = item.get("labelSelector"), namespace_of(filters.pod)
        self.itself = int(label_selects(selector, labels_of(filters.pod)))
        for host in filters.cluster.hosts:
            if self.key in host.labels and filters.selects_node(host):
                meant = sum(
                    namespace_of(pod) == namespace and label_selects(selector, labels_of(pod)) for pod in host.pods
                )
                domain = host.labels[self.key]
                self.counts[domain] = self.counts.get(domain, 0) + meant
        least = min(self.counts.values(), default=0)
        domains = item.get("minDomains") or 1
        self.least = 0 if len(self.counts) < domains else least

    def holds(self, host: HostRoom) -> bool:
        return self.counts.get(host.labels[self.key], 0) + self.itself - self.least <= self.skew


class Scores:
    """How good a host is, 0 to 100 for each point of view, weighted as kube-scheduler does."""

    def __init__(self, pod: Object, wanted: Requests, filters: Filters) -> None:
        self.pod, self.wanted, self.filters = pod, wanted, filters
        self.preferred = filters.node_affinity.get(_PREFERRED) or ()
        together = [
            (item["weight"], _Term(filters, item["podAffinityTerm"])) for item in filters.near.get(_PREFERRED) or ()
        ]
        apart = [
            (-item["weight"], _Term(filters, item["podAffinityTerm"])) for item in filters.apart.get(_PREFERRED) or ()
        ]
        self.terms = together + apart

    def of(self, host: HostRoom) -> float:
        """Spread first: pods of one Namespace with the same labels go to different hosts."""
        after = host.used + self.wanted
        shares = [
            min(1.0, used / has)
            for used, has in ((after.scored_cpu, host.capacity.cpu), (after.scored_memory, host.capacity.memory))
            if has
        ]
        free = 100 * (1 - sum(shares) / len(shares)) if shares else 0.0
        balance = 100 * (1 - (max(shares) - min(shares)) / 2) if shares else 0.0
        alike = sum(
            namespace_of(other) == namespace_of(self.pod) and labels_of(other) == labels_of(self.pod)
            for other in host.pods
        )
        likes: int = sum(
            item["weight"]
            for item in self.preferred
            if node_term_selects(item.get("preference") or {}, host.name, host.labels)
        )
        pods = sum(weight for weight, term in self.terms if term.has(host))
        dislikes = sum(
            taint.get("effect") == "PreferNoSchedule" and not tolerates(self.filters.tolerations, taint)
            for taint in spec_of(host.node).get("taints") or ()
        )
        total: float = free + balance + 2 * 100 / (1 + alike) + 2 * min(likes, 100) + 2 * pods - 3 * 100 * dislikes
        return total


def _host_ports(pod: Object) -> Iterator[tuple[str, int]]:
    for container in spec_of(pod).get("containers") or ():
        for port in container.get("ports") or ():
            if port.get("hostPort"):
                yield port.get("protocol") or "TCP", port["hostPort"]
