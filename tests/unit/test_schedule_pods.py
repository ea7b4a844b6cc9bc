# SPDX-License-Identifier: Apache-2.0
"""Where a pod goes: never where it may not be, and why nowhere in kube-scheduler's words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor_glue.api.status import Object
from supervisor_glue.controllers.quantity import milli, whole
from supervisor_glue.controllers.schedule import NONE, Choice, Cluster, HostRoom, choose, host_room, requests_of
from supervisor_glue.controllers.select import label_selects, node_term_selects, tolerates
from tests.support.nodes import HOST, node, pod

REQUIRED, PREFERRED = (
    "requiredDuringSchedulingIgnoredDuringExecution",
    "preferredDuringSchedulingIgnoredDuringExecution",
)


def room(item: Object, *pods: Object) -> HostRoom:
    used = NONE
    for other in pods:
        used = used + requests_of(other)
    return host_room(item, used, pods)


def chosen(item: Object, *rooms: HostRoom, **namespaces: Any) -> Choice:
    return choose(item, Cluster(rooms, namespaces))


def refused(item: Object, *rooms: HostRoom) -> str:
    found = chosen(item, *rooms)
    assert found.host is None
    return found.message


@pytest.mark.parametrize(
    ("text", "thousandths", "units"),
    [("100m", 100, 1), ("2", 2000, 2), ("1.5", 1500, 2), ("1Ki", 1024000, 1024), ("1e3", 10**6, 1000), ("0.0001", 1, 1),
     ("128Mi", 2**27 * 1000, 2**27), ("5G", 5 * 10**12, 5 * 10**9), (".5", 500, 1), ("1n", 1, 1)],
)  # fmt: skip
def test_quantities(text: str, thousandths: int, units: int) -> None:
    assert (milli(text), whole(text)) == (thousandths, units)


@pytest.mark.parametrize("text", ["", "1 Gi", "1gi", "x", "1mm", "e3", "0x1"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        milli(text)


def test_requests_are_the_containers_or_an_init_container_that_needs_more() -> None:
    def container(cpu: str, **rest: Any) -> dict[str, Any]:
        return {"name": "c", "resources": {"requests": {"cpu": cpu}}, **rest}

    spec = {"containers": [container("1"), container("500m")], "initContainers": [container("2")]}
    assert requests_of({"metadata": {"name": "p"}, "spec": spec}).cpu == 2000
    spec["initContainers"] = [container("1", restartPolicy="Always"), container("2")]
    assert requests_of({"metadata": {"name": "p"}, "spec": spec}).cpu == 3000
    limits = {"containers": [{"name": "c", "resources": {"limits": {"memory": "1Gi"}}}]}
    assert requests_of({"metadata": {"name": "p"}, "spec": limits}).memory == 2**30


def test_sentences() -> None:
    assert refused(pod("p")) == "no nodes available to schedule pods"
    full = room(node("a", cpu="1"), pod("x", cpu="800m"))
    tainted = room(node("b", taints=[{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]))
    cordoned = room(node("c", unschedulable=True))
    assert refused(pod("p", cpu="500m", memory="9Gi"), full, tainted, cordoned) == (
        "0/3 nodes are available: 1 Insufficient cpu, 1 Insufficient memory, "
        "1 node(s) had untolerated taint {dedicated: db}, 1 node(s) were unschedulable."
    )
    assert refused(pod("p", nodeSelector={"disk": "ssd"}), room(node("a")), room(node("b"))) == (
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    )
    assert refused(pod("p"), room(node("a", pods=1), pod("x"))) == "0/1 nodes are available: 1 Too many pods."
    term = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": HOST}
    apart = {"podAntiAffinity": {REQUIRED: [term]}}
    web = pod("web", labels={"app": "web"}, affinity=apart)
    assert refused(pod("p", affinity=apart), room(node("a"), web)) == (
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
    )
    assert refused(pod("p", labels={"app": "web"}), room(node("a"), web)) == (
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    )
    together = {"podAffinity": {REQUIRED: [term]}}
    assert refused(pod("p", affinity=together), room(node("a"))) == (
        "0/1 nodes are available: 1 node(s) didn't match pod affinity rules."
    )
    skew = {"maxSkew": 1, "topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}}
    assert refused(pod("p", topologySpreadConstraints=[skew]), room(node("a"))) == (
        "0/1 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label)."
    )


def test_affinity_between_pods() -> None:
    zone = {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "zone"}
    a, b = node("a", labels={"zone": "1"}), node("b", labels={"zone": "2"})
    web = pod("web", labels={"app": "web"})
    with_web = pod("p", affinity={"podAffinity": {REQUIRED: [zone]}})
    assert chosen(with_web, room(a), room(b, web)).host == "b"
    # Another Namespace's pod is not meant, unless the term says so.
    other = pod("p", "else", affinity={"podAffinity": {REQUIRED: [zone]}})
    assert chosen(other, room(a), room(b, web)).host is None
    wide = {**zone, "namespaceSelector": {"matchLabels": {"team": "x"}}}
    other = pod("p", "else", affinity={"podAffinity": {REQUIRED: [wide]}})
    assert chosen(other, room(a), room(b, web), shop={"team": "x"}).host == "b"
    assert chosen(other, room(a), room(b, web), shop={"team": "y"}).host is None
    # The first of a group that wants to be together.
    first = pod("p", labels={"app": "web"}, affinity={"podAffinity": {REQUIRED: [zone]}})
    assert chosen(first, room(a), room(b)).host is not None
    near = {"podAffinity": {PREFERRED: [{"weight": 100, "podAffinityTerm": zone}]}}
    assert {chosen(pod(f"p{n}", affinity=near), room(a), room(b, web)).host for n in range(8)} == {"b"}
    away = {"podAntiAffinity": {PREFERRED: [{"weight": 100, "podAffinityTerm": zone}]}}
    assert {chosen(pod(f"p{n}", affinity=away), room(a), room(b, web)).host for n in range(8)} == {"a"}


def test_node_affinity_taints_and_room() -> None:
    ssd, hdd = node("a", labels={"disk": "ssd", "gen": "7"}), node("b", labels={"disk": "hdd", "gen": "3"})

    def affine(**expression: Any) -> Object:
        terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
        return pod("p", affinity={"nodeAffinity": {REQUIRED: terms}})

    assert chosen(affine(key="disk", operator="In", values=["ssd"]), room(ssd), room(hdd)).host == "a"
    assert chosen(affine(key="disk", operator="NotIn", values=["ssd"]), room(ssd), room(hdd)).host == "b"
    assert chosen(affine(key="gen", operator="Gt", values=["5"]), room(ssd), room(hdd)).host == "a"
    assert chosen(affine(key="gen", operator="Lt", values=["5"]), room(ssd), room(hdd)).host == "b"
    assert chosen(affine(key="gpu", operator="Exists"), room(ssd), room(hdd)).host is None
    likes = {"weight": 50, "preference": {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["hdd"]}]}}
    assert chosen(pod("p", affinity={"nodeAffinity": {PREFERRED: [likes]}}), room(ssd), room(hdd)).host == "b"
    soft = node("a", taints=[{"key": "k", "effect": "PreferNoSchedule"}])
    assert chosen(pod("p"), room(soft), room(node("b"))).host == "b"
    hard = node("a", taints=[{"key": "k", "value": "v", "effect": "NoSchedule"}])
    tolerant = pod("p", tolerations=[{"key": "k", "operator": "Equal", "value": "v", "effect": "NoSchedule"}])
    assert chosen(tolerant, room(hard)).host == "a"
    assert chosen(pod("p", cpu="1"), room(node("a"), pod("x", cpu="3")), room(node("b"))).host == "b"


def test_pods_alike_are_spread_over_hosts() -> None:
    placed: dict[str, list[Object]] = {name: [] for name in "abcd"}
    for number in range(8):
        item = pod(f"web-{number}", cpu="100m", labels={"app": "web"})
        host = chosen(item, *(room(node(name), *pods) for name, pods in placed.items())).host
        assert host is not None
        placed[host].append(item)
    assert {name: len(pods) for name, pods in placed.items()} == dict.fromkeys("abcd", 2)


@pytest.mark.parametrize("processors", ["4", "100m"], ids=["room", "more than its processors"])
def test_pods_that_ask_for_nothing_are_spread_too(processors: str) -> None:
    """`kubectl run` names no requests, and gives each pod a label of its own."""
    placed: dict[str, list[Object]] = {name: [] for name in "ab"}
    for number in range(40):
        item = pod(f"p-{number}", labels={"run": f"p-{number}"})
        del item["spec"]["containers"][0]["resources"]
        host = chosen(item, *(room(node(name, cpu=processors), *pods) for name, pods in placed.items())).host
        assert host is not None
        placed[host].append(item)
    assert {name: len(pods) for name, pods in placed.items()} == {"a": 20, "b": 20}


EFFECTS = ("NoSchedule", "PreferNoSchedule")
LABELS = st.dictionaries(st.sampled_from(["app", "tier"]), st.sampled_from(["a", "b"]), max_size=2)
TAINTS = st.lists(
    st.fixed_dictionaries(
        {"key": st.sampled_from("kl"), "effect": st.sampled_from(["NoSchedule", "PreferNoSchedule"])}
    ),
    max_size=1,
)
TERM = st.builds(
    lambda labels, key: {"labelSelector": {"matchLabels": labels}, "topologyKey": key},
    LABELS,
    st.sampled_from([HOST, "zone"]),
)
AFFINITY = st.fixed_dictionaries(
    {},
    optional={
        "podAffinity": st.builds(lambda term: {REQUIRED: [term]}, TERM),
        "podAntiAffinity": st.builds(lambda term: {REQUIRED: [term]}, TERM),
    },
)
SPECS = st.fixed_dictionaries(
    {"cpu": st.sampled_from(["0", "500m", "1", "2"]), "labels": LABELS, "affinity": AFFINITY},
    optional={
        "nodeSelector": st.dictionaries(st.just("zone"), st.sampled_from("12"), max_size=1),
        "tolerations": st.just([{"key": "k", "operator": "Exists"}]),
    },
)
HOSTS = st.lists(st.tuples(st.sampled_from("12"), TAINTS, st.sampled_from(["1", "2", "4"])), min_size=1, max_size=4)


@given(HOSTS, st.lists(SPECS, min_size=1, max_size=12))
def test_no_pod_is_where_it_may_not_be_and_none_is_refused_that_fits(
    hosts: Sequence[Any], specs: Sequence[Any]
) -> None:
    """Pods placed one after the other; after each, the slow twin (`may`) judges every host."""
    nodes = [
        node(f"h{number}", cpu, pods=4, labels={"zone": zone}, taints=taints)
        for number, (zone, taints, cpu) in enumerate(hosts)
    ]
    placed: dict[str, list[Object]] = {item["metadata"]["name"]: [] for item in nodes}
    for number, spec in enumerate(specs):
        item = pod(f"p{number}", **spec)
        rooms = [room(one, *placed[one["metadata"]["name"]]) for one in nodes]
        found = chosen(item, *rooms)
        able = {one["metadata"]["name"] for one in nodes if may(item, one, nodes, placed)}
        assert (found.host in able) if able else (found.host is None)
        if found.host is None:
            counts = [int(part.split()[0]) for part in found.message.split(": ", 1)[1].split(", ")]
            assert found.message.startswith(f"0/{len(nodes)} nodes are available: ") and sum(counts) >= len(nodes)
        else:
            assert chosen(item, *rooms) == found
            placed[found.host].append(item)


def may(item: Object, host: Object, nodes: Sequence[Object], placed: dict[str, list[Object]]) -> bool:
    """As the documentation says it, one host and one pod at a time."""
    labels, name = host["metadata"]["labels"], host["metadata"]["name"]
    spec, here = item["spec"], placed[name]
    cpu = sum(milli(other["spec"]["containers"][0]["resources"]["requests"]["cpu"]) for other in [*here, item])
    if cpu > milli(host["status"]["capacity"]["cpu"]) and milli(spec["containers"][0]["resources"]["requests"]["cpu"]):
        return False
    if len(here) + 1 > 4:
        return False
    if any(labels.get(key) != value for key, value in (spec.get("nodeSelector") or {}).items()):
        return False
    for taint in host["spec"]["taints"]:
        if taint["effect"] == "NoSchedule" and not (spec.get("tolerations") and taint["key"] == "k"):
            return False

    def near(key: str) -> list[Object]:
        same = [one["metadata"]["name"] for one in nodes if one["metadata"]["labels"].get(key) == labels.get(key)]
        return [other for one in same for other in placed[one]]

    def means(term: Any, other: Object) -> bool:
        wanted = term["labelSelector"]["matchLabels"]
        return all((other["metadata"].get("labels") or {}).get(key) == value for key, value in wanted.items())

    def terms(one: Object, kind: str) -> Any:
        return one["spec"].get("affinity", {}).get(kind, {}).get(REQUIRED, [])

    for term in terms(item, "podAffinity"):
        anywhere = any(means(term, other) for pods in placed.values() for other in pods)
        if not any(means(term, other) for other in near(term["topologyKey"])) and (anywhere or not means(term, item)):
            return False
    for term in terms(item, "podAntiAffinity"):
        if any(means(term, other) for other in near(term["topologyKey"])):
            return False
    return not any(
        means(term, item)
        for one in nodes
        for other in placed[one["metadata"]["name"]]
        for term in terms(other, "podAntiAffinity")
        if one["metadata"]["labels"].get(term["topologyKey"]) == labels.get(term["topologyKey"])
    )


def test_selectors() -> None:
    assert not label_selects(None, {}) and label_selects({}, {})
    assert not node_term_selects({}, "a", {})  # an empty term selects nothing
    assert node_term_selects({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a"]}]}, "a", {})
    taint = {"key": "k", "value": "v", "effect": "NoExecute"}
    assert tolerates([{"operator": "Exists"}], taint)
    assert not tolerates([{"key": "k", "operator": "Exists", "effect": "NoSchedule"}], taint)
    assert not tolerates([{"key": "k", "value": "w"}], taint)
