# SPDX-License-Identifier: Apache-2.0
"""Lab plans: which wires, namespaces and pods there shall be, and what a change of the files changes. Pure."""

from __future__ import annotations

import subprocess
from ipaddress import ip_interface, ip_network
from pathlib import Path

import msgspec
import pytest

from dfw.documents import documents_parse
from dfw.errors import EnvironmentLacksError, PolicyError
from overlay import lab_record
from overlay.cgroup import Hierarchies, Limits, plan_groups, read_hierarchies
from overlay.lab_graph import graph_dot, graph_svg, graph_text
from overlay.lab_inputs import InputFile, inputs_parse, inputs_read
from overlay.lab_plan import Changes, LabPlan, plan_changes, plan_lab, world_moved
from overlay.lab_record import HostRecord, LabPaths, LabRecord, MoveRecord, PodRecord, RecordError, record_read
from overlay.linux import Process
from overlay.pod import SLEEP, PodSpec, pod_hostname
from overlay.pod_spec import pod_specs
from overlay.underlay import EDGE_TEP, EDGE_UPLINK, HOST_TEP, OUTSIDE

HOSTS = "hosts: [{name: a, tep: 172.16.0.1}, {name: b, tep: 172.16.3.2}]"
PORTS = "ports: [{name: one, host: a, segment: s}, {name: two, host: b, segment: s}]"
SEGMENTS = "segments: [{name: s, vni: 5001, subnets: [192.0.2.0/24]}]"


def inventory(*parts: str) -> bytes:
    return "\n".join(["apiVersion: palisade.internal/v1alpha1", "kind: Inventory", *parts]).encode()


def plan(*parts: str, mtu: int = 1700, ipv6: bool = True) -> LabPlan:
    inputs = inputs_parse([InputFile("x.yaml", inventory(*parts))])
    return plan_lab("x", inputs.world, inputs.specs, inputs.intent, mtu=mtu, ipv6=ipv6)


def made(wanted: LabPlan) -> LabRecord:
    """The record of a lab that is as planned."""
    return LabRecord(
        wanted.name,
        intent=wanted.intent,
        mtu=wanted.underlay.mtu,
        namespaces=list(wanted.namespaces),
        bridges={item.name: item for item in wanted.underlay.bridges},
        interfaces={item.key: item for item in wanted.underlay.interfaces},
        hosts={name: HostRecord(Process(1, 1)) for name in wanted.hosts},
        pods={pod.name: PodRecord(pod.host, pod.netns, pod.spec, Process(2, 2)) for pod in wanted.pods},
    )


def test_the_wires_of_two_hosts() -> None:
    underlay = plan(HOSTS, SEGMENTS, PORTS).underlay
    bridges = {item.name: item.addresses for item in underlay.bridges}
    assert list(bridges) == [HOST_TEP, EDGE_TEP, EDGE_UPLINK, OUTSIDE]
    # The smallest network that holds both TEPs; its router has the first address that no TEP has.
    assert bridges[HOST_TEP] == ("172.16.0.2/22",)
    assert bridges[EDGE_TEP] == ()
    wires = {item.key: item for item in underlay.interfaces}
    assert wires["host-a/ul0"].addresses == () and wires["host-a/ul0"].links == ("172.16.0.0/22",)
    assert wires["host-a/ul0"].gateways == ("172.16.0.2",)
    assert len({item.peer for item in underlay.interfaces}) == 3
    assert all(len(item.peer) == 15 for item in underlay.interfaces)
    # 192.0.2.0/24 is a segment's: the networks that nobody named keep away from it.
    assert bridges[EDGE_UPLINK][0] == "198.51.100.1/24" and bridges[OUTSIDE][0] == "203.0.113.1/24"
    assert wires["outside/eth0"].addresses[0] == "203.0.113.10/24"


def test_edge_hosts_have_networks_of_their_own() -> None:
    edge = "hosts: [{name: a, tep: 172.16.0.1}, {name: e, tep: 172.17.0.9, tags: [{scope: Role, tag: EDGE}]}]"
    top = "gateways: [{name: t0, tier: 0}]"
    segments = SEGMENTS.replace("subnets", "gateway: t0, subnets")
    underlay = plan(edge, top, segments, PORTS.replace("host: b", "host: e")).underlay
    wires = {item.key: item for item in underlay.interfaces}
    assert wires["host-a/ul0"].network == HOST_TEP and wires["host-e/ul0"].network == EDGE_TEP
    assert wires["sr-t0/up0"].network == EDGE_UPLINK and wires["sr-t0/up0"].gateways[0] == "198.51.100.1"
    routed = {item.name: (item.routes, item.kept_from) for item in underlay.bridges}
    kept = ("172.16.0.0/24", "172.17.0.0/24")
    assert routed[EDGE_UPLINK] == (("192.0.2.0/24 via 198.51.100.11",), kept) and routed[OUTSIDE] == ((), kept)
    assert routed[HOST_TEP] == routed[EDGE_TEP] == ((), ())
    two = "gateways: [{name: t0, tier: 0}, {name: t9, tier: 0}]"
    more = segments[:-1] + ", {name: r, vni: 5002, gateway: t9, subnets: [192.0.2.0/25]}]"
    with pytest.raises(PolicyError, match=r"192\.0\.2\.0/25 of the Tier-0 t9 .* overlaps one of t0"):
        plan(edge, two, more, PORTS.replace("host: b", "host: e"))
    assert not any(
        "up0" in item.key for item in plan(edge, SEGMENTS, PORTS.replace("host: b", "host: e")).underlay.interfaces
    )
    bridges = {item.name: [ip_interface(text).network for text in item.addresses] for item in underlay.bridges}
    assert bridges[EDGE_TEP] == [ip_network("172.17.0.0/24")]
    assert ip_interface(wires["sr-t0/up0"].addresses[0]).network == bridges[EDGE_UPLINK][0]
    with pytest.raises(PolicyError, match=r"the TEP 172\.16\.0\.9 of the Edge host e lies in the network"):
        plan(edge.replace("172.17", "172.16"), SEGMENTS, PORTS.replace("host: b", "host: e"))


def test_teps_of_ipv6_and_machines_without() -> None:
    six = "hosts: [{name: a, tep: '2001:db8:7::1'}, {name: b, tep: '2001:db8:7::2'}]"
    wires = {item.key: item for item in plan(six, SEGMENTS, PORTS).underlay.interfaces}
    assert wires["host-a/ul0"].links == ("2001:db8:7::/64",) and wires["host-a/ul0"].gateways == ("2001:db8:7::3",)
    with pytest.raises(EnvironmentLacksError, match="no IPv6"):
        plan(six, SEGMENTS, PORTS, ipv6=False)
    without = plan(HOSTS, SEGMENTS, PORTS, ipv6=False).underlay
    texts = [text for item in (*without.bridges, *without.interfaces) for text in item.addresses]
    assert texts and not any(":" in text for text in texts)


def test_nothing_to_do_and_everything_to_do() -> None:
    wanted = plan(HOSTS, SEGMENTS, PORTS)
    assert plan_changes(made(wanted), wanted) == Changes()
    assert not plan_changes(made(wanted), wanted)
    first = plan_changes(LabRecord("x"), wanted)
    assert first.new_namespaces == wanted.namespaces and first.new_hosts == ("a", "b") and first.intent
    assert [pod.name for pod in first.new_pods] == ["one", "two"] and not first.old_pods


def test_only_the_difference() -> None:
    before = plan(HOSTS, SEGMENTS, PORTS)
    more = plan(HOSTS.replace("]", ", {name: c, tep: 172.16.0.3}]"), SEGMENTS, PORTS)
    changes = plan_changes(made(before), more)
    assert (changes.new_hosts, changes.new_namespaces, changes.old_hosts) == (("c",), ("host-c",), ())
    assert [item.key for item in changes.new_interfaces] == ["host-c/ul0"]
    assert not changes.new_pods and not changes.old_pods and not changes.old_interfaces and changes.intent
    # Another address of a TEP, in the same network: nothing but what the hosts are told.
    other = plan(HOSTS.replace("172.16.3.2", "172.16.3.3"), SEGMENTS, PORTS)
    assert list(plan_changes(made(before), other).lines()) == ["~ what the hosts are told"]
    # Another MTU is another underlay; its hosts' agents begin anew, its pods stay.
    changes = plan_changes(made(before), plan(HOSTS, SEGMENTS, PORTS, mtu=9000))
    assert set(changes.old_hosts) == {"a", "b"} == set(changes.new_hosts) and not changes.old_pods
    assert len(changes.new_bridges) == 4 and len(changes.new_interfaces) == 3


def test_what_the_machine_lost_is_made_again() -> None:
    wanted = plan(HOSTS, SEGMENTS, PORTS)
    record = made(wanted)
    record.pods["one"].process = None
    record.hosts["b"].agent = None
    changes = plan_changes(record, wanted)
    assert [pod.name for pod in changes.new_pods] == ["one"] and changes.new_hosts == ("b",)
    assert not changes.new_namespaces and not changes.intent
    record = made(wanted)
    record.namespaces.remove(wanted.pods[0].netns)
    changes = plan_changes(record, wanted)
    assert changes.old_pods == ("one",) and changes.new_namespaces == (wanted.pods[0].netns,)


def test_a_migrated_pod_stays_until_the_files_move_it() -> None:
    world = inputs_parse([InputFile("x.yaml", inventory(HOSTS, SEGMENTS, PORTS))]).world
    moved = world_moved(world, {"one": MoveRecord("a", "b"), "gone": MoveRecord("a", "b")})
    assert [port.host for port in moved.inventory] == ["b", "b"]
    elsewhere = world_moved(world, {"one": MoveRecord("c", "b")})
    assert [port.host for port in elsewhere.inventory] == ["a", "b"]


def test_assumed_addresses_are_the_pods_own() -> None:
    pod = b"{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: n}}"
    (port,) = inputs_parse([InputFile("p.yaml", pod)]).world.inventory
    assert port.ips and not port.ips_assumed


def test_hosts_alone_are_a_lab_and_nothing_is_none() -> None:
    assert plan(HOSTS).pods == ()
    with pytest.raises(PolicyError, match="no hosts and no workloads"):
        plan("segments: []")


def test_the_built_in_example() -> None:
    inputs = inputs_read(())
    whole = plan_lab("x", inputs.world, inputs.specs, inputs.intent, mtu=1700, ipv6=True)
    assert (len(whole.hosts), len(whole.pods), len(inputs.world.inventory.segments)) == (2, 8, 2)
    assert {segment.gateway for segment in inputs.world.inventory.segments.values()} == {"t1-shop"}
    text = graph_text("x", inputs.world)
    assert all(port.name in text for port in inputs.world.inventory)


PODS = """\
apiVersion: v1
kind: PodList
items:
  - metadata: {name: a, namespace: shop}
    spec:
      hostname: front
      containers:
        - {name: one, command: [serve, "$(PORT)", "$(NOBODY)"], args: [-v], env: [{name: PORT, value: "80"}],
           resources: {limits: {memory: 64Mi, cpu: 500m}}}
        - {name: two, image: x, args: [ignored], resources: {limits: {memory: 1M}}}
  - {metadata: {name: b}, spec: {containers: [{name: c, command: [x, "a b"]}, {name: d, command: [y]}]}}
"""


def test_what_pods_run() -> None:
    specs = pod_specs(documents_parse(PODS.encode(), "pods.yaml"))
    assert list(specs) == ["shop/a", "default/b"]
    one = specs["shop/a"]
    assert one.command == ("serve", "80", "$(NOBODY)", "-v") and one.environment == (("PORT", "80"),)
    assert one.limits == Limits(64 * 2**20 + 10**6, 0.5) and pod_hostname("shop/a", one) == "front"
    assert specs["default/b"].command[2].endswith("x 'a b' & y & wait")
    assert PodSpec().command == SLEEP and pod_hostname("shop/long" + "g" * 80, PodSpec()) == ("long" + "g" * 80)[:63]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("command: [serve,", "command: [8080,", "command is a list of texts"),
        ('value: "80"', "value: 80", "is a text"),
        ("64Mi", "64Mb", "is no quantity"),
        ('value: "80"', "valueFrom: {}", "valueFrom needs a Supervisor"),
        ("name: PORT", "name: A=B", "a name without ="),
    ],
)
def test_what_is_wrong_with_pods(old: str, new: str, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        pod_specs(documents_parse(PODS.replace(old, new).encode(), "pods.yaml"))


def test_control_groups(tmp_path: Path) -> None:
    two, memory, cpu = (tmp_path / name for name in ("two", "memo ry", "cpu,cpuacct"))
    for path in (two, memory, cpu):
        path.mkdir()
    (two / "cgroup.subtree_control").write_text("cpu pids\n")
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"31 23 0:28 / /nothing rw - tmpfs tmpfs rw\n"
        f"32 31 0:29 / {str(memory).replace(' ', chr(92) + '040')} rw,relatime shared:1 - cgroup cgroup rw,memory\n"
        f"41 31 0:38 / {two} rw,relatime - cgroup2 cgroup2 rw\n"
    )
    found = read_hierarchies(mounts)
    assert found == Hierarchies(two, frozenset({"cpu", "pids"}), {"memory": memory})
    assert plan_groups("g", Limits(1, 1.0), found) == ([memory / "g", two / "g"], [])
    assert plan_groups("g", Limits(), found) == ([], [])
    assert plan_groups("g", Limits(1, 1.0), Hierarchies()) == ([], ["memory", "cpu"])


def test_names_and_records(tmp_path: Path) -> None:
    for name in ("", "-a", "a-", "A", "a/b", "x" * 21):
        with pytest.raises(ValueError, match="no name of a lab"):
            lab_record.lab_paths(name)
    paths = LabPaths(tmp_path)
    assert record_read(paths) is None
    record = made(plan(HOSTS, SEGMENTS, PORTS))
    lab_record.record_write(paths, record)
    assert record_read(paths) == record
    paths.record.write_bytes(msgspec.json.encode({"version": 99}))
    with pytest.raises(RecordError, match="version 99"):
        record_read(paths)


def test_the_graph_is_one_for_graphviz() -> None:
    world = inputs_parse(
        [InputFile("x.yaml", inventory(HOSTS, SEGMENTS, PORTS, "gateways: [{name: t, tier: 0}]"))]
    ).world
    dot = graph_dot('"x"', world)
    assert dot.count(" -- ") == 2 and "cluster_1" in dot
    try:
        assert graph_svg(dot).rstrip().endswith("</svg>")
    except EnvironmentLacksError as error:
        pytest.skip(f"needs dot: {error}")
    with pytest.raises(subprocess.CalledProcessError):
        graph_svg("graph {")
