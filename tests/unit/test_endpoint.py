# SPDX-License-Identifier: Apache-2.0
"""Ends of a connection as people write them."""

from __future__ import annotations

import pytest

from dfw.documents import documents_parse
from dfw.endpoint import EndpointError, endpoint_parse, port_parse, protocol_name, protocol_parse
from dfw.load import load_documents
from dfw.model import Family, PolicySet

TEXT = b"""
apiVersion: palisade.internal/v1alpha1
kind: Inventory
segments:
  - {name: lan, vni: 1, subnets: [10.0.0.0/24, "fd00::/64"]}
  - {name: other, vni: 2, subnets: [203.0.113.0/24]}
  - {name: twin, vni: 3, subnets: [10.0.0.0/24]}
ports:
  - {name: a, segment: lan, ips: [10.0.0.1, "fd00::1"], tags: [{scope: app, tag: web}]}
  - {name: b, segment: lan, ips: [10.0.0.2]}
  - {name: c, segment: twin, ips: [10.0.0.2]}
  - {name: d, segment: lan, ips: []}
---
resource_type: Group
id: web
expression: [{resource_type: Condition, member_type: SegmentPort, key: Tag, value: app|web}]
---
resource_type: Group
id: mixed
expression: [{resource_type: IPAddressExpression, ip_addresses: [10.0.0.2, 192.0.2.0/30, "2001:db8::5"]}]
"""


@pytest.fixture(scope="module")
def world() -> PolicySet:
    return load_documents(documents_parse(TEXT, "f.yaml")).world


@pytest.mark.parametrize(
    ("text", "peers"),
    [
        ("a", ["a (10.0.0.1)", "a (fd00::1)"]),
        ("d", []),
        ("10.0.0.1", ["a (10.0.0.1)"]),
        ("fd00::1", ["a (fd00::1)"]),
        ("198.51.100.7", ["198.51.100.7"]),
        ("10.0.0.0/30", ["a (10.0.0.1)", "b (10.0.0.2)", "c (10.0.0.2)"]),
        ("10.0.0.0/29", ["a (10.0.0.1)", "b (10.0.0.2)", "c (10.0.0.2)", "10.0.0.3"]),
        ("10.0.0.2/32", ["b (10.0.0.2)", "c (10.0.0.2)"]),
        ("192.0.2.0/24", ["192.0.2.1"]),
        ("group:web", ["a (10.0.0.1)", "a (fd00::1)"]),
        ("group:/infra/domains/default/groups/web", ["a (10.0.0.1)", "a (fd00::1)"]),
        ("group:mixed", ["b (10.0.0.2)", "c (10.0.0.2)", "192.0.2.1", "2001:db8::5"]),
    ],
)
def test_what_a_text_names(world: PolicySet, text: str, peers: list[str]) -> None:
    assert [str(peer) for peer in endpoint_parse(text, world).peers()] == peers


def test_any_is_everyone_and_an_address_outside_all_segments(world: PolicySet) -> None:
    found = endpoint_parse("any", world)
    assert [port.name for port in found.ports] == ["a", "b", "c", "d"]
    assert [str(address) for address in found.outside] == ["198.51.100.1", "2001:db8:ffff::1"]
    assert [str(peer) for peer in found.peers(Family.IPV6)] == ["a (fd00::1)", "2001:db8:ffff::1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.2", "may be that of b or c; name the vNIC"),
        ("10.0.0.1/24", "bits set beyond its length"),
        ("10.0.0.0/33", "the length must be 0-32"),
        ("group:wb", "there is no group 'wb'; did you mean web?"),
        ("aa", "no vNIC of the inventory and no address; did you mean a?"),
        ("shop/web", "write a vNIC, ns/name of a pod"),
        ("", "no vNIC"),
        ("10.0.0.300", "no vNIC"),
    ],
)
def test_what_names_nothing(world: PolicySet, text: str, message: str) -> None:
    with pytest.raises(EndpointError, match=message.replace("(", r"\(")):
        endpoint_parse(text, world)


def test_protocols_and_ports() -> None:
    assert [protocol_parse(text) for text in ("tcp", "UDP", "icmp6", "47", "255")] == [6, 17, 58, 47, 255]
    assert [protocol_name(number) for number in (6, 58, 99)] == ["tcp", "icmpv6", "99"]
    for text in ("tcpp", "256", "-1", "", "1e2"):
        with pytest.raises(EndpointError):
            protocol_parse(text)
    assert port_parse("65535") == 65535
    for text in ("65536", "-1", "", "http", "²"):
        with pytest.raises(EndpointError):
            port_parse(text)


def test_a_pod_without_its_namespace_is_found() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: shop}\nstatus: {podIP: 10.0.0.1}\n"
    world = load_documents(documents_parse(text.encode(), "f.yaml")).world
    with pytest.raises(EndpointError, match="did you mean shop/a"):
        endpoint_parse("a", world)
