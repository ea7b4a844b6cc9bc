# SPDX-License-Identifier: Apache-2.0
"""The Supervisor's prechecks: each failure by itself, all at once, and what cannot be read at all."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import yaml

from dfw.documents import documents_parse
from dfw.errors import PolicyError
from dfw.model import prefix_parse
from supervisor_glue.prechecks.compatibility import Facts, HostFacts, Path, compatibility, measured_with, versions_fit
from supervisor_glue.prechecks.facts import is_own
from supervisor_glue.prechecks.reasons import LATER, MESSAGES
from supervisor_glue.prechecks.spec import SupervisorSpec, spec_load, spec_read
from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "supervisor" / "supervisor.yaml"
TEPS = {f"esx-{number}": f"172.16.0.1{number}" for number in (1, 2, 3)}


def facts(**hosts: HostFacts) -> Facts:
    """Three hosts of which all is well, but for those that are given."""
    known = {
        name: HostFacts(
            version="0.1.0",
            tep=tep,
            vnics=int(name[-1]) % 3,
            paths=tuple(Path(other, there) for other, there in TEPS.items() if other != name),
        )
        for name, tep in TEPS.items()
    }
    return Facts("0.1.0", known | {name.replace("_", "-"): found for name, found in hosts.items()})


WELL = facts()


def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    return loaded


def spec_of(changed: dict[str, Any]) -> SupervisorSpec:
    return spec_read(documents_parse(json.dumps(changed).encode(), "supervisor.yaml"), "supervisor.yaml")


def changed(path: str, value: Any) -> SupervisorSpec:
    """The example with one thing otherwise; None: without it."""
    whole = document()
    *parents, last = path.split(".")
    target: Any = whole["spec"]
    for part in parents:
        target = target[int(part) if part.isdigit() else part]
    if isinstance(target, list):
        target[int(last)] = value
    elif value is None:
        del target[last]
    else:
        target[last] = value
    return spec_of(whole)


def test_the_example_is_compatible() -> None:
    report = compatibility(spec_load(str(EXAMPLE)), WELL)
    assert report.as_object() == {
        "cluster": "supervisor",
        "compatible": True,
        "incompatibility_reasons": [],
        "profile": "vsphere7",
        "used_later": [
            {
                "id": f"vcenter.wcp.{item.id}",
                "default_message": LATER[item.id].format(*item.args),
                "args": list(item.args),
            }
            for item in report.later
        ],
        "control_plane": [
            {"name": "supervisor-1", "host": "esx-3", "address": "10.0.0.51", "floating_address": "10.0.0.50"},
            {"name": "supervisor-2", "host": "esx-1", "address": "10.0.0.52"},
            {"name": "supervisor-3", "host": "esx-2", "address": "10.0.0.53"},
        ],
    }
    assert {item.id for item in report.later} == set(LATER)


_SMALL = {"name": "host-teps", "cidr": "172.16.0.0/24", "gateway": "172.16.1.1"}
_EDGE = {"name": "edge-1", "fqdn": "edge-1.example.com", "address": "10.0.0.21"}
SPECS: list[tuple[str, Any, list[tuple[str, list[str]]]]] = [
    ("hosts", None, [("cluster.hosts.missing", ["supervisor"])]),
    ("hosts", ["esx-1", "esx-2"], [("cluster.hosts.too_few", ["supervisor", "2", "3"])]),
    ("edge_cluster", None, [("edge_cluster.missing", [])]),
    ("edge_cluster.edges", None, [("edge_cluster.empty", ["edge-cluster-1"])]),
    (
        "edge_cluster.edges.1",
        _EDGE,
        [("edge.duplicate", ["edge-cluster-1", value]) for value in ("edge-1", "edge-1.example.com", "10.0.0.21")],
    ),
    ("edge_cluster.edges.0.fqdn", None, [("edge.fqdn.missing", ["edge-1"])]),
    ("edge_cluster.edges.0.fqdn", "edge-1", [("edge.fqdn.invalid", ["edge-1", "edge-1"])]),
    ("edge_cluster.edges.0.fqdn", "-a.example.com", [("edge.fqdn.invalid", ["edge-1", "-a.example.com"])]),
    ("edge_cluster.edges.0.address", None, [("edge.address.missing", ["edge-1"])]),
    ("edge_cluster.edges.0.host", "esx-2", [("edge.not_apart", ["edge-1", "esx-2"])]),
    ("edge_cluster.edges.0.name", "esx-2", [("edge.not_apart", ["esx-2", "esx-2"])]),
    ("edge_cluster.edges.0", {**_EDGE, "host": "esx-2", "shared": True}, []),
    ("edge_cluster.edges.0.host", "esx-9", []),
    ("edge_cluster.name", None, [("edge_cluster.name.missing", [])]),
    ("edge_cluster.edges.1.name", "", [("edge.name.missing", ["number 2"])]),
    ("edge_cluster.edges.1.fqdn", "", [("edge.fqdn.missing", ["edge-2"])]),
    (
        "edge_cluster",
        {"edges": [{}]},
        [
            ("edge_cluster.name.missing", []),
            *((f"edge.{what}.missing", ["number 1"]) for what in ("name", "fqdn", "address")),
        ],
    ),
    ("edge_cluster", {"edges": []}, [("edge_cluster.name.missing", []), ("edge_cluster.empty", ["without a name"])]),
    ("tier0_gateway", None, [("tier0.missing", [])]),
    ("tier0_gateway", "", [("tier0.missing", [])]),
    ("networks", None, [("network.missing", [name]) for name in ("host_tep", "edge_tep", "edge_uplink")]),
    ("networks.edge_tep.vlan", None, [("network.vlan.missing", ["edge_tep"])]),
    ("networks.edge_tep.vlan", 1611, [("network.vlan.duplicate", ["host_tep", "edge_tep", "1611"])]),
    ("networks.edge_tep.ip_pool", None, [("network.pool.missing", ["edge_tep"])]),
    ("networks.edge_tep.ip_pool", "ghost", [("network.pool.unknown", ["edge_tep", "ghost"])]),
    ("networks.edge_tep.ip_pool", "host-teps", [("network.pool.shared", ["host_tep", "edge_tep", "host-teps"])]),
    ("networks.edge_uplink.cidr", None, [("network.cidr.missing", ["edge_uplink"])]),
    ("ip_pools.1", {"name": "edge-teps"}, [(f"ip_pool.{what}.missing", ["edge-teps"]) for what in ("cidr", "gateway")]),
    ("ip_pools.0", _SMALL, [("ip_pool.gateway.outside", ["host-teps", "172.16.1.1", "172.16.0.0/24"])]),
    ("ip_pools.0.gateway", "172.16.0.0", [("ip_pool.gateway.outside", ["host-teps", "172.16.0.0", "172.16.0.0/24"])]),
    (
        "ip_pools",
        [{"name": "host-teps", "cidr": "172.16.0.0/24", "gateway": "172.16.0.1"}],
        [("network.pool.unknown", ["edge_tep", "edge-teps"]), ("ip_pool.too_few", ["1"])],
    ),
    (
        "ip_pools.1.name",
        None,
        [("network.pool.unknown", ["edge_tep", "edge-teps"]), ("ip_pool.name.missing", ["number 2"])],
    ),
    ("ip_pools.1.gateway", "", [("ip_pool.gateway.missing", ["edge-teps"])]),
    ("distributed_switch", None, [("switch.missing", [])]),
    (
        "distributed_switch",
        {},
        [
            ("switch.name.missing", []),
            ("switch.version.missing", ["without a name"]),
            ("switch.mtu.missing", ["without a name"]),
        ],
    ),
    ("distributed_switch.version", None, [("switch.version.missing", ["dvs-1"])]),
    ("distributed_switch.version", "6.7.0", [("switch.version.incompatible", ["dvs-1", "6.7.0", "7.0"])]),
    ("distributed_switch.version", "8.0", []),
    ("distributed_switch.mtu", None, [("switch.mtu.missing", ["dvs-1"])]),
    ("distributed_switch.mtu", 1599, [("switch.mtu.too_small", ["dvs-1", "1599", "1600"])]),
    ("distributed_switch.mtu", 1600, []),
    ("management_network", None, [("management.missing", [])]),
    ("management_network.port_group", None, [("management.port_group.missing", [])]),
    ("management_network.cidr", None, [("management.cidr.missing", [])]),
    ("management_network.gateway", None, [("management.gateway.missing", [])]),
    ("management_network.gateway", "10.1.0.1", [("management.gateway.outside", ["10.1.0.1", "10.0.0.0/24"])]),
    ("management_network.starting_address", None, [("management.addresses.missing", [])]),
    ("management_network.address_count", 4, [("management.addresses.too_few", ["4", "5"])]),
    (
        "management_network.starting_address",
        "10.0.0.251",
        [("management.addresses.outside", ["10.0.0.251", "10.0.0.255", "10.0.0.0/24"])],
    ),
    (
        "management_network.gateway",
        "10.0.0.52",
        [("management.addresses.gateway", ["10.0.0.50", "10.0.0.54", "10.0.0.52"])],
    ),
    ("management_network.starting_address", "10.0.0.250", []),
    ("ntp_servers", None, [("ntp.missing", [])]),
    ("ntp_servers", ["10.0.0.5", "ntp.example.com"], [("ntp.not_an_address", ["ntp.example.com"])]),
    ("ntp_servers", ["fd00::5"], []),
    ("pod_cidrs", None, [("cidr.missing", ["Pod"])]),
    ("pod_cidrs", ["10.244.0.0/25"], [("cidr.too_small", ["Pod", "10.244.0.0/25", "24"])]),
    ("pod_cidrs", ["10.244.0.0/24"], []),
    ("namespace_subnet_prefix", 19, [("cidr.namespace_prefix", ["10.244.0.0/20", "19"])]),
    ("service_cidr", None, [("cidr.missing", ["Service"])]),
    ("service_cidr", "10.96.0.0/17", [("cidr.too_small", ["Service", "10.96.0.0/17", "16"])]),
    ("ingress_cidrs", None, [("cidr.missing", ["Ingress"])]),
    ("ingress_cidrs", ["192.0.2.64/28"], [("cidr.too_small", ["Ingress", "192.0.2.64/28", "27"])]),
    ("ingress_cidrs", ["198.51.100.0/27"], [("cidr.not_in_uplink", ["Ingress", "198.51.100.0/27", "192.0.2.0/24"])]),
    ("egress_cidrs", None, [("cidr.missing", ["Egress"])]),
    ("egress_cidrs", ["192.0.2.96/28"], [("cidr.too_small", ["Egress", "192.0.2.96/28", "27"])]),
    (
        "egress_cidrs",
        ["192.0.2.64/27"],
        [("cidr.overlap", ["Ingress CIDR", "192.0.2.64/27", "Egress CIDR", "192.0.2.64/27"])],
    ),
    (
        "service_cidr",
        "10.244.0.0/16",
        [("cidr.overlap", ["Pod CIDR", "10.244.0.0/20", "Service CIDR", "10.244.0.0/16"])],
    ),
    (
        "pod_cidrs",
        ["10.0.0.0/20"],
        [("cidr.overlap", ["Pod CIDR", "10.0.0.0/20", "management network", "10.0.0.0/24"])],
    ),
    (
        "pod_cidrs",
        ["172.16.0.0/23"],
        [
            ("cidr.overlap", ["Pod CIDR", "172.16.0.0/23", f"IP pool {pool}", cidr])
            for pool, cidr in (("host-teps", "172.16.0.0/24"), ("edge-teps", "172.16.1.0/24"))
        ],
    ),
    (
        "pod_cidrs",
        ["10.244.0.0/20", "10.244.8.0/21"],
        [("cidr.overlap", ["Pod CIDR", "10.244.0.0/20", "Pod CIDR", "10.244.8.0/21"])],
    ),
    ("pod_cidrs", ["fd00:1::/64"], []),
    ("pod_cidrs", ["fd00:1::/121"], [("cidr.too_small", ["Pod", "fd00:1::/121", "120"])]),
    (
        "ip_pools",
        [{"name": "x", "cidr": "172.16.9.0/24", "gateway": "172.16.9.1"}] * 2,
        [
            ("network.pool.unknown", ["host_tep", "host-teps"]),
            ("network.pool.unknown", ["edge_tep", "edge-teps"]),
            ("ip_pool.too_few", ["2"]),
            ("ip_pool.duplicate", ["x"]),
            ("cidr.overlap", ["IP pool x", "172.16.9.0/24", "IP pool x", "172.16.9.0/24"]),
        ],
    ),
]


@pytest.mark.parametrize(("path", "value", "wanted"), SPECS, ids=[f"{path}={value}"[:60] for path, value, _ in SPECS])
def test_each_failure_of_a_spec(path: str, value: Any, wanted: list[tuple[str, list[str]]]) -> None:
    found = [(item.id, list(item.args)) for item in compatibility(changed(path, value), WELL).reasons]
    assert found == wanted


_TWO = (Path("esx-2", "172.16.0.12", "only 1500 arrive"), Path("esx-3", "172.16.0.13"))
HOSTS: list[tuple[HostFacts, list[tuple[str, list[str]]]]] = [
    (HostFacts("its agent does not answer"), [("host.not_prepared", ["esx-1", "its agent does not answer"])]),
    (HostFacts(version="0.1.0"), [("host.tep.missing", ["esx-1"])]),
    (
        replace(WELL.hosts["esx-1"], version="0.3.0"),
        [("host.version.incompatible", ["esx-1", "0.3.0", "0.1.0"])],
    ),
    (replace(WELL.hosts["esx-1"], version=""), [("host.version.incompatible", ["esx-1", "unknown", "0.1.0"])]),
    (
        replace(WELL.hosts["esx-1"], tep="172.17.0.1"),
        [("host.tep.not_in_pool", ["esx-1", "172.17.0.1", "host-teps", "172.16.0.0/24"])],
    ),
    (
        replace(WELL.hosts["esx-1"], paths=_TWO),
        [("host.tep.unreachable", ["esx-1", "esx-2", "172.16.0.12", "1700", "only 1500 arrive"])],
    ),
    (
        replace(WELL.hosts["esx-1"], paths=_TWO[1:]),
        [("host.tep.unreachable", ["esx-1", "esx-2", "172.16.0.12", "1700", "it does not know that host"])],
    ),
]


@pytest.mark.parametrize(("host", "wanted"), HOSTS)
def test_each_failure_of_a_host(host: HostFacts, wanted: list[tuple[str, list[str]]]) -> None:
    report = compatibility(spec_load(str(EXAMPLE)), facts(esx_1=host))
    assert [(item.id, list(item.args)) for item in report.reasons] == wanted
    assert bool(report.nodes) == (not host.problem)


def test_a_host_that_nobody_knows_and_a_segment_in_the_way() -> None:
    spec = spec_load(str(EXAMPLE))
    known = Facts("0.1.0", {name: host for name, host in WELL.hosts.items() if name != "esx-3"})
    assert [item.id for item in compatibility(spec, known).reasons] == ["host.not_prepared"]
    segments = (("web", prefix_parse("10.244.1.0/24")), ("db", prefix_parse("10.244.1.0/25")))
    report = compatibility(spec, replace(WELL, segments=segments))
    assert [item.args for item in report.reasons] == [
        ("Pod CIDR", "10.244.0.0/20", f"segment {name}", str(cidr)) for name, cidr in segments
    ]


def test_what_the_supervisor_made_is_not_in_its_way() -> None:
    spec = spec_load(str(EXAMPLE))
    for name, subnet, own in (
        ("supervisor-api", "10.244.4.32/28", True),
        ("seg-shop-0", "10.244.0.0/28", True),
        ("seg-shop-0", "10.245.0.0/28", False),
        ("web", "10.244.0.0/28", False),
    ):
        assert is_own(spec, name, prefix_parse(subnet)) is own


def test_of_many_hosts_each_is_measured_with_those_near_it_from_both_ends() -> None:
    hosts = [f"h{number}" for number in range(100)]
    near = {name: measured_with(hosts, name) for name in hosts}
    assert near["h0"] == {f"h{number}" for number in range(1, 9)} and len(near["h50"]) == 16
    assert all(name in near[other] for name in hosts for other in near[name])
    assert measured_with(hosts[:9], "h8") == set(hosts[:8])


def test_the_profiles_differ() -> None:
    whole = document()
    whole["spec"] |= {"profile": "current", "ingress_cidrs": ["192.0.2.64/30"], "egress_cidrs": ["192.0.2.68/30"]}
    assert compatibility(spec_of(whole), WELL).is_compatible
    whole["spec"]["pod_cidrs"] = ["10.244.0.0/24"]
    assert [item.args for item in compatibility(spec_of(whole), WELL).reasons] == [("Pod", "10.244.0.0/24", "23")]


def test_every_failure_is_reported_at_once_and_has_its_sentence() -> None:
    empty = spec_of({**document(), "metadata": {"name": "s"}, "spec": {}})
    report = compatibility(empty, Facts("0.1.0"))
    shown = report.as_object()
    assert not shown["compatible"] and shown["control_plane"] == []
    assert len(shown["incompatibility_reasons"]) == 14
    for entry in shown["incompatibility_reasons"]:
        assert set(entry) == {"id", "default_message", "args"} and entry["id"].startswith("vcenter.wcp.")
        assert "{" not in entry["default_message"]
    rows = [*(wanted for _, _, wanted in SPECS), *(wanted for _, wanted in HOSTS)]
    assert {name for wanted in rows for name, _ in wanted} == set(MESSAGES)  # every reason has a test that makes it


def test_versions_within_one_minor() -> None:
    for one, other, wanted in (
        ("1.2.3", "1.2.9", True),
        ("1.2.3", "1.3.0", True),
        ("1.3.0", "1.2.0", True),
        ("1.2.0", "1.4.0", False),
        ("2.0.0", "1.0.0", False),
        ("", "1.0.0", False),
    ):
        assert versions_fit(one, other) is wanted


# What cannot be read.


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("pod_cidrs", ["10.244.0.1/20"], "10.244.0.0/20"),
        ("pod_cidrs", "10.244.0.0/20", "is not a list"),
        ("profile", "vsphere6", "vsphere7"),
        ("control_plane_count", 2, "1 or 3"),
        ("control_plane_count", 5, "1 or 3"),
        ("networks", {"host_tep": {"vlan": 4095}}, "a VLAN"),
        ("distributed_switch", {"name": "d", "version": "seven"}, "is no version"),
        ("management_network", {"starting_adress": "10.0.0.1"}, "did you mean starting_address?"),
        ("edge_cluster", {"name": "a/b"}, "is not an id"),
        ("ntp_servers", [5], "is not text"),
    ],
)
def test_what_cannot_be_read_has_its_place(path: str, value: Any, message: str) -> None:
    with pytest.raises(PolicyError) as caught:
        changed(path, value)
    assert message in str(caught.value) and caught.value.path.startswith(f"spec.{path}")


def test_other_documents_are_refused() -> None:
    for data in (b"", b"[]", b"kind: Pod", b"apiVersion: v1\nkind: Supervisor\nmetadata: {name: x}\nspec: {}"):
        with pytest.raises(PolicyError):
            spec_read(documents_parse(data, "x"), "x")
    one = EXAMPLE.read_bytes()
    with pytest.raises(PolicyError, match="one Supervisor"):
        spec_read(documents_parse(one + b"\n---\n" + one, "x"), "x")
