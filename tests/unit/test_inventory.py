# SPDX-License-Identifier: Apache-2.0
"""The inventory: what is written, what is assigned, and that assignments do not wander."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dfw.documents import documents_parse
from dfw.errors import PolicyError
from dfw.inventory import API_VERSION, KINDS
from dfw.load import Loaded, load_documents
from dfw.model import Inventory, Tag, address_parse, prefix_parse


def load_all(*documents: Any) -> Loaded:
    return load_documents(documents_parse("\n".join(map(json.dumps, documents)).encode(), "f.json"))


def inventory(**lists: Any) -> Inventory:
    return load_all({"apiVersion": API_VERSION, "kind": "Inventory", **lists}).world.inventory


def single(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": spec}


def refusals(**lists: Any) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        inventory(**lists)
    return [f"{problem.place.path}: {problem.message}" for problem in caught.value.problems]


def test_only_a_name_is_required() -> None:
    found = inventory(ports=[{"name": "a"}, {"name": "b"}])
    assert list(found.hosts) == ["host-1"]
    assert list(found.segments) == ["segment-1"]
    (subnet,) = found.segments["segment-1"].subnets
    for port in found:
        assert port.machine == port.name
        (ip,) = port.ips
        assert subnet.contains(ip)
        assert int(port.mac[:2], 16) & 3 == 2  # locally administered, unicast


def test_what_is_written_stays() -> None:
    found = inventory(
        hosts=[{"name": "h", "tep": "192.0.2.1"}],
        gateways=[{"name": "t0", "tier": 0}, {"name": "t1", "tier0": "t0"}],
        segments=[{"name": "s", "vni": 5001, "subnets": ["10.0.0.0/24", "2001:db8::/64"], "gateway": "t1"}],
        machines=[{"name": "m", "os_name": "Debian", "computer_name": "M", "tags": [{"scope": "a", "tag": "b"}]}],
        ports=[
            {
                "name": "p",
                "host": "h",
                "segment": "/infra/segments/s",
                "machine": "m",
                "mac": "02-00-00-00-00-0A",
                "ips": ["10.0.0.5", "2001:db8::5"],
                "tags": [{"scope": "c"}, {"tag": "d"}],
                "labels": {"app": "x"},
                "namespace": "shop",
            }
        ],
    )
    port = found.ports["p"]
    assert found.hosts["h"].tep == address_parse("192.0.2.1")
    assert found.gateways["t1"].uplink_gateway == "t0"
    assert found.gateways["t0"].path == "/infra/tier-0s/t0"
    assert found.segments["s"].vni == 5001
    assert (port.mac, port.host, port.segment, port.machine) == ("02:00:00:00:00:0a", "h", "s", "m")
    assert port.ips == (address_parse("10.0.0.5"), address_parse("2001:db8::5"))
    assert port.tags == (Tag("c", ""), Tag("", "d"))
    assert found.machines["m"].tags == (Tag("a", "b"), Tag("c", ""), Tag("", "d"))
    assert dict(port.labels) == {"app": "x"}
    assert port.namespace == "shop"
    assert port.path == "/infra/segments/s/ports/p"
    assert found.ports_at(address_parse("10.0.0.5")) == (port,)
    assert found.ports_at(address_parse("10.0.0.6")) == ()


def test_single_kinds_mean_the_same_as_a_list() -> None:
    lists: dict[str, list[dict[str, Any]]] = {
        "hosts": [{"name": "h"}],
        "gateways": [{"name": "g", "tier": 1}],
        "segments": [{"name": "s", "gateway": "g"}],
        "machines": [{"name": "m", "os_name": "x"}],
        "ports": [{"name": "p", "machine": "m", "labels": {"a": "b"}, "namespace": "n"}],
    }
    plurals = {plural: kind for kind, (plural, _) in KINDS.items()}
    singles = [
        single(plurals[plural], item["name"], **{key: value for key, value in item.items() if key != "name"})
        for plural, items in lists.items()
        for item in items
    ]
    assert load_all(*singles).world.inventory == inventory(**lists)
    port = singles[-1]
    port["metadata"] |= {"labels": port["spec"].pop("labels"), "namespace": port["spec"].pop("namespace")}
    assert load_all(*singles).world.inventory == inventory(**lists)


NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=3), min_size=1, max_size=12, unique=True)


@given(NAMES, st.randoms())
def test_assignments_do_not_depend_on_order(names: list[str], random: Any) -> None:
    ports = [{"name": name} for name in names]
    segments = [{"name": "s", "subnets": ["10.0.0.0/28", "2001:db8::/64"]}]
    hosts = [{"name": name} for name in names]
    first = inventory(hosts=hosts, segments=segments, ports=ports)
    random.shuffle(ports)
    random.shuffle(hosts)
    assert inventory(hosts=hosts, segments=segments, ports=ports) == first
    for field in ("mac", "ips"):
        assert len({getattr(port, field) for port in first}) == len(names)
    assert len({host.tep for host in first.hosts.values()}) == len(names)
    usable = prefix_parse("10.0.0.0/28")
    assert all(usable.first + 1 < port.ips[0].value < usable.last for port in first)


@given(NAMES)
def test_vnis_and_subnets_are_distinct(names: list[str]) -> None:
    found = inventory(segments=[{"name": name} for name in names])
    assert len({segment.vni for segment in found.segments.values()}) == len(names)
    assert len({segment.subnets for segment in found.segments.values()}) == len(names)


def test_adding_a_port_changes_no_other() -> None:
    segments = [{"name": "s", "subnets": ["10.0.0.0/16"]}]
    ports = [{"name": f"p{n}"} for n in range(50)]
    before = inventory(segments=segments, ports=ports)
    after = inventory(segments=segments, ports=[*ports, {"name": "new"}])
    assert {name: port for name, port in after.ports.items() if name != "new"} == dict(before.ports)


def test_a_full_subnet_is_an_error_that_says_so() -> None:
    ports = [{"name": f"p{n}"} for n in range(6)]
    assert inventory(segments=[{"name": "s", "subnets": ["10.0.0.0/29"]}], ports=ports[:5])
    (line,) = refusals(segments=[{"name": "s", "subnets": ["10.0.0.0/29"]}], ports=ports)
    assert "no address of 10.0.0.0/29 is left" in line


def test_full_pools_are_errors_that_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfw.assign.TEP_POOL", prefix_parse("172.16.0.0/29"))
    lines = refusals(hosts=[{"name": f"h{number}"} for number in range(7)])
    assert [line.partition(": ")[2] for line in lines] == [
        f"no address of 172.16.0.0/29 is left for host 'h{number}'; give tep" for number in (5, 6)
    ]
    [line] = refusals(segments=[{"name": "all", "subnets": ["10.128.0.0/9"]}, {"name": "one more"}])
    assert line == "segments[1]: no /24 of 10.128.0.0/9 is left for segment 'one more'; give subnets"


@pytest.mark.parametrize("name", [".", ".."])
def test_names_that_folders_have_are_refused(name: str) -> None:
    assert refusals(hosts=[{"name": name}]) == [
        f"hosts[0].name: {name!r} is not an id: it would be a folder's own name"
    ]


def test_assigned_values_avoid_written_ones() -> None:
    segments = [{"name": "s", "subnets": ["10.0.0.0/29"]}]
    taken = [{"name": f"t{n}", "ips": [f"10.0.0.{n}"]} for n in (2, 3, 4, 5)]
    found = inventory(segments=segments, ports=[{"name": "last"}, *taken])
    assert found.ports["last"].ips == (address_parse("10.0.0.6"),)


def test_the_segment_follows_from_the_address() -> None:
    segments = [{"name": "a", "subnets": ["10.0.0.0/24"]}, {"name": "b", "subnets": ["10.0.1.0/24"]}]
    assert inventory(segments=segments, ports=[{"name": "p", "ips": ["10.0.1.9"]}]).ports["p"].segment == "b"
    assert "which of a, b?" in refusals(segments=segments, ports=[{"name": "p"}])[0]


def test_no_subnet_is_no_address() -> None:
    assert inventory(segments=[{"name": "s", "subnets": []}], ports=[{"name": "p"}]).ports["p"].ips == ()


def test_reused_addresses_on_two_segments() -> None:
    found = inventory(
        segments=[{"name": "a"}, {"name": "b"}],
        ports=[{"name": f"p{s}", "segment": s, "ips": ["10.0.0.1"], "mac": "02:00:00:00:00:01"} for s in "ab"],
    )
    assert [port.name for port in found.ports_at(address_parse("10.0.0.1"))] == ["pa", "pb"]


def test_an_address_outside_its_subnet_is_a_warning() -> None:
    segments = [{"name": "s", "subnets": ["10.0.0.0/24"]}]
    ports = [{"name": "p", "ips": ["10.9.9.9", "2001:db8::1"]}]
    found = load_all({"apiVersion": API_VERSION, "kind": "Inventory", "segments": segments, "ports": ports})
    assert [finding.kind for finding in found.findings] == ["outside-subnet"]


@pytest.mark.parametrize(
    ("ips", "says"),
    [
        (["127.0.0.1"], "unicast"),
        (["0.0.0.0"], "unicast"),
        (["ff02::1"], "unicast"),
        (["::1"], "unicast"),
        (["10.0.0.01"], "not an IPv4"),
        (["10.0.0.1/24"], "not an IPv4"),
        (["fe80::1%eth0"], "not an IPv4"),
        ([""], "empty"),
        ("10.0.0.1", "write [10.0.0.1]"),
    ],
)
def test_bad_addresses(ips: Any, says: str) -> None:
    assert says in refusals(ports=[{"name": "p", "ips": ips}])[0]


@pytest.mark.parametrize(("plural", "table"), KINDS.values(), ids=list(KINDS))
def test_every_field_refuses_wrong_types(plural: str, table: dict[str, Any]) -> None:
    for key in table:
        for value in ([[1]], 1.5, -1, True):
            lines = refusals(**{plural: [{"name": "x", key: value}]})
            assert any(key in line for line in lines)
    assert "unknown field 'colour'" in refusals(**{plural: [{"name": "x", "colour": 1}]})[0]
    assert "the field name is missing" in refusals(**{plural: [{}]})[0]
    assert "is not a mapping" in refusals(**{plural: ["x"]})[0]


def test_every_single_kind_refuses_what_is_none_of_it() -> None:
    for kind in KINDS:
        for document in (
            {"apiVersion": API_VERSION, "kind": kind},
            {"apiVersion": API_VERSION, "kind": kind, "metadata": []},
            {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": []},
            {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "x"}, "spec": {"name": "y"}},
            {"apiVersion": "palisade.internal/v2", "kind": kind, "metadata": {"name": "x"}},
            {**single(kind, "x"), "data": {}},
        ):
            with pytest.raises(PolicyError):
                load_all(document)
