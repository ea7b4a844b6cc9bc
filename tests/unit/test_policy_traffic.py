# SPDX-License-Identifier: Apache-2.0
"""The fixture `palisade_traffic`: packets one after the other, by the example's policy and by a NetworkPolicy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from dfw.model import address_parse
from dfw.packetbytes import ip_packets, udp_datagram
from dfw.policytest.errors import PolicyTestError
from dfw.policytest.traffic import Connection, TrafficUnderTest

SHOP = Path(__file__).resolve().parents[2] / "examples" / "shop"
FILES = [str(SHOP / name) for name in ("policy.yaml", "inventory.yaml")]
FAMILIES = pytest.mark.parametrize("family", [4, 6])
pytestmark = pytest.mark.palisade_policy(*FILES)
ROUTER = {4: "outside:192.0.2.1", 6: "outside:2001:db8:ffff::1"}

CLUSTER = """
apiVersion: v1
kind: Pod
metadata: {name: api, namespace: shop, labels: {app: api}}
spec: {containers: [{name: c, image: x}]}
status: {podIPs: [{ip: 10.244.0.2}, {ip: "fd00::2"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
spec: {containers: [{name: c, image: x, ports: [{name: pg, containerPort: 5432}]}]}
status: {podIPs: [{ip: 10.244.0.3}, {ip: "fd00::3"}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress, Egress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: api}}}]
      ports: [{port: pg}, {protocol: SCTP, port: 80}]
"""


@FAMILIES
def test_a_connection_from_its_handshake_to_its_end(palisade_traffic: TrafficUnderTest, family: int) -> None:
    query = palisade_traffic.open("app-1", "db-1", "tcp/3306", by="app-to-db", family=family)
    asked = query.send(b"select 1")
    asked.assert_allowed(by="app-to-db", reason="state")
    assert [(item.vnic, item.dir, item.ct) for item in asked.judgements] == [
        ("app-1", "OUT", "established"),
        ("db-1", "IN", "established"),
    ]
    query.answer(b"1").assert_allowed(reason="state")
    query.close()
    again = palisade_traffic.begin("app-1", "db-1", "tcp/3306", family=family)
    again.assert_allowed(reason="match")  # another connection, from another port
    palisade_traffic.open("app-1", "db-1", "tcp/3306", family=family).reset().assert_allowed()


@FAMILIES
@pytest.mark.parametrize("kind", ["no-route", "host-unreachable", "port-unreachable", "too-big", "time-exceeded"])
def test_icmp_errors_are_of_the_connection_that_they_quote(
    palisade_traffic: TrafficUnderTest, family: int, kind: str
) -> None:
    asked = palisade_traffic.open("app-1", "backup-1", "udp/69", family=family)
    asked.error(kind).assert_allowed(by="config-by-tftp", reason="related")
    asked.error(kind, source=ROUTER[family]).assert_allowed(reason="related")
    palisade_traffic.wait(24 * 3600)
    asked.error(kind, source=ROUTER[family]).assert_denied(by="shop/rules/rest")


@FAMILIES
def test_an_alg_opens_what_is_announced_and_nothing_else(palisade_traffic: TrafficUnderTest, family: int) -> None:
    control = palisade_traffic.open("db-1", "backup-1", "tcp/21", by="backup-by-ftp", family=family)
    to_db = ("backup-1", "db-1")
    palisade_traffic.assert_denied(*to_db, "tcp/50000", sport=20, by="shop/rules/rest", family=family)
    told = {4: b"PORT 10,1,3,11,195,80\r\n", 6: b"EPRT |2|2001:db8:3::11|50000|\r\n"}
    control.send(told[family]).assert_allowed()
    palisade_traffic.assert_denied(*to_db, "tcp/50001", sport=20, by="shop/rules/rest", family=family)
    data = palisade_traffic.open(*to_db, "tcp/50000", sport=20, by="backup-by-ftp", family=family)
    data.answer(b"a file").assert_allowed(by="backup-by-ftp", reason="state")


@FAMILIES
def test_fragments_are_judged_whole(palisade_traffic: TrafficUnderTest, family: int) -> None:
    asked = palisade_traffic.open("app-1", "backup-1", "udp/69", family=family, mtu=1280)
    sent = asked.send(bytes(3000))
    assert "in 3 fragments" in sent.text and len(sent.judgements) == 6  # each fragment at both vNICs
    sent.assert_allowed(by="config-by-tftp", reason="state")
    asked.send(bytes(65_000)).assert_allowed()
    other = palisade_traffic.begin("app-1", "db-1", "udp/69", family=family, mtu=1280)
    other.assert_denied(by="shop/rules/shop-to-db", reason="match")


def test_timers_run_by_the_clock_of_the_test(palisade_traffic: TrafficUnderTest) -> None:
    query = palisade_traffic.open("app-1", "db-1", "tcp/3306")
    palisade_traffic.wait(43_000)  # NSX's tcp_established is 43,200 s
    query.answer(b"1").assert_allowed(reason="state")
    palisade_traffic.wait(43_201)
    query.answer(b"2").assert_denied()


def test_a_ping_and_an_answer_that_nobody_asked_for(palisade_traffic: TrafficUnderTest) -> None:
    ping = palisade_traffic.open("ops-1", "app-1", "icmp", by="operations/rules/ping")
    ping.answer().assert_allowed(reason="state")
    ping.send(b"again").assert_allowed(reason="state")
    palisade_traffic.begin("app-1", "ops-1", "icmp/0/0").assert_denied(reason="icmp-state")


def test_connections_outlive_a_change_only_where_the_rules_let_them(
    palisade_traffic: TrafficUnderTest, tmp_path: Path
) -> None:
    one, two = (palisade_traffic.open(name, "app-1", "tcp/8080", by="web-to-app") for name in ("web-1", "web-2"))
    tags = 'ips: [10.1.1.11, "2001:db8:1::11"], tags: ['
    text = (SHOP / "inventory.yaml").read_text()
    assert tags in text
    (tmp_path / "inventory.yaml").write_text(text.replace(tags, f"{tags}{{scope: security, tag: quarantine}}, "))
    palisade_traffic.change(SHOP / "policy.yaml", tmp_path / "inventory.yaml")
    one.send(b"GET /").assert_denied(by="quarantine/rules/isolate", reason="policy-change")
    two.send(b"GET /").assert_allowed(by="web-to-app", reason="state")
    palisade_traffic.change(*FILES)
    palisade_traffic.open("web-1", "app-1", "tcp/8080", by="web-to-app")
    palisade_traffic.remove("web-to-app")
    two.answer(b"200").assert_denied(reason="policy-change")
    palisade_traffic.assert_denied("web-2", "app-1", "tcp/8080", by="shop/rules/rest")


def test_a_network_policy(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    request.node.add_marker(pytest.mark.palisade_policy(str(tmp_path / "cluster.yaml")), append=False)
    traffic: TrafficUnderTest = request.getfixturevalue("palisade_traffic")
    for family in (4, 6):
        query = traffic.open("shop/api", "shop/db", "tcp/5432", by="np/shop/db/ingress/0", family=family)
        query.answer(b"row").assert_allowed(reason="state")
        traffic.assert_denied("shop/db", "shop/api", "tcp/80", by="np/shop/db/isolation-egress", family=family)
        association = traffic.open("shop/api", "shop/db", "sctp/80", by="np/shop/db/ingress/0", family=family)
        association.send(b"a").assert_allowed(reason="state")
        association.answer(b"b").assert_allowed(reason="state")
        association.close()
    traffic.remove("np/shop/db/ingress/0")
    query.send(b"select 1").assert_denied(by="np/shop/db/isolation-ingress", reason="policy-change")


def _fails(traffic: TrafficUnderTest, query: Connection) -> None:
    query.send(b"x").assert_denied()


def _is_refused(traffic: TrafficUnderTest, query: Connection) -> None:
    traffic.open("web-1", "db-1", "tcp/3306")


def _by_another(traffic: TrafficUnderTest, query: Connection) -> None:
    traffic.open("app-1", "db-1", "tcp/3306", by="rest")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            _fails,
            "app-1 (10.1.2.11) -> db-1 (10.1.3.11), tcp/3306: ACK with 1 byte (at 0.004 s): expected denied, but it is "
            "ALLOW by shop/rules/app-to-db (",
        ),
        (_is_refused, "group shop > web: machine web-1 has the tag app|web"),
        (_by_another, "expected allowed by shop/rules/rest ("),
    ],
)
def test_a_failure_names_packet_rule_and_reason(palisade_traffic: TrafficUnderTest, call: object, words: str) -> None:
    query = palisade_traffic.open("app-1", "db-1", "tcp/3306")
    assert callable(call)
    with pytest.raises(AssertionError) as raised:
        call(palisade_traffic, query)
    assert words in str(raised.value)


def test_what_proves_nothing_or_is_not_understood_errors(palisade_traffic: TrafficUnderTest, tmp_path: Path) -> None:
    traffic = palisade_traffic
    query = traffic.open("app-1", "db-1", "tcp/3306")
    (tmp_path / "bad.yaml").write_text("resource_type: Group\nid: g\nexpresion: []\n")
    shutil.copy(SHOP / "policy.yaml", tmp_path)
    refused = traffic.begin("web-1", "db-1", "tcp/3306")
    for call, words in (
        (lambda: refused.assert_denied(by="shop/rules/rest"), "expected denied by shop/rules/rest"),
        (lambda: refused.assert_denied(reason="tcp-strict"), "expected denied (tcp-strict)"),
        (lambda: refused.assert_denied(reason="strict"), "strict: no such reason"),
        (lambda: traffic.assert_denied("192.0.2.1", "db-1", "tcp/3306"), "write outside:192.0.2.1"),
        (lambda: traffic.open("group:web", "app-1", "tcp/8080"), "3 connections"),
        (lambda: traffic.open("web-9", "app-1", "tcp/8080"), "open('web-9', 'app-1', 'tcp/8080'): "),
        (lambda: traffic.open("web-1", "app-1", "tcp/8080", family=5), "family is 4 or 6"),  # type: ignore[arg-type]
        (lambda: traffic.begin("web-1", "app-1", "tcp/8080", sprt=1), "sprt= is nothing that begin knows"),  # type: ignore[call-arg]
        (lambda: traffic.begin("web-1", "app-1", "tcp/8080", mtu=20), "mtu=20"),
        (lambda: query.send("GET /"), "at most 65,000 bytes"),  # type: ignore[arg-type]
        (lambda: query.answer(bytes(65_001)), "at most 65,000 bytes"),
        (
            lambda: traffic.open("app-1", "dns-1", "udp/53", mtu=100).send(bytes(9000)),
            "113 fragments, and the firewall",
        ),
        (lambda: query.error("nonsense"), "no ICMP error that can be sent: no-route,"),
        (lambda: query.error(source="group:web"), "3 ends of IPV4"),
        (lambda: traffic.open("app-1", "dns-1", "udp/53").reset(), "only TCP and SCTP have a reset"),
        (lambda: traffic.wait(-1), "a number of seconds"),
        (lambda: traffic.change(), "names files"),
        (lambda: traffic.change(tmp_path / "bad.yaml"), "bad.yaml:3:1"),
        (lambda: traffic.change(tmp_path / "policy.yaml"), "app-1 is not as it was"),
        (lambda: traffic.remove("nosuch"), "no such rule"),
    ):
        with pytest.raises(PolicyTestError) as raised:
            call()
        assert words in str(raised.value)


@pytest.mark.palisade_policy(str(SHOP / "open.yaml"))
def test_without_an_inventory_one_filter_on_a_wire_judges(palisade_traffic: TrafficUnderTest) -> None:
    talk = palisade_traffic.open("192.0.2.1", "192.0.2.2", "tcp/80", by="open/rules/everything")
    (judged,) = talk.answer(b"200").judgements
    assert (judged.dir, judged.reason, judged.ct) == ("IN_OUT", "state", "established")


@FAMILIES
def test_fragments_hold_the_datagram_in_order(family: int) -> None:
    ends = tuple(map(address_parse, {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}[family]))
    assert len(ends) == 2
    body = udp_datagram(ends, (1, 2), bytes(range(256)) * 12)
    packets = list(ip_packets(ends, 17, body, mtu=1280))
    head = {4: 20, 6: 48}[family]
    assert b"".join(packet[head:] for packet in packets) == body and max(map(len, packets)) <= 1280
    offsets = [
        int.from_bytes(packet[6:8], "big") * 8 & 0xFFFF
        if family == 4
        else int.from_bytes(packet[42:44], "big") & 0xFFF8
        for packet in packets
    ]
    assert offsets == [sum(len(packet) - head for packet in packets[:at]) for at in range(len(packets))]
