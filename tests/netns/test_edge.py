# SPDX-License-Identifier: Apache-2.0
"""The way out of the overlay and into it: a Tier-0's service router on an Edge host, an outside network, no NAT."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from dfw import cli
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, Family
from overlay.ask import agent_ask
from overlay.connect import Attempt, apply_attempts
from overlay.enter import run_in
from overlay.lab_record import lab_paths, record_read
from tests.netns.test_lab_probe import run  # noqa: F401 - a fixture

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
    pytest.mark.needs_ipv6,
]
PATIENCE = 60.0
OUTSIDE = ("198.51.100.10", "2001:db8:ff::a")
ONE, TWO = ("10.1.1.11", "2001:db8:1::11"), ("10.1.1.12", "2001:db8:1::12")
TOPOLOGY = """\
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts:
  - {name: a, tep: 172.16.0.1}
  - {name: b, tep: 172.16.0.2}
  - {name: e, tep: 172.17.0.9, tags: [{scope: role, tag: edge}]}
gateways: [{name: t0, tier: 0}, {name: t1, tier: 1, tier0: t0}, {name: alone, tier: 1}]
segments:
  - {name: s, vni: 5001, subnets: [10.1.1.0/24, "2001:db8:1::/64"], gateway: t1}
  - {name: same, vni: 5002, subnets: [10.1.1.0/24, "2001:db8:1::/64"], gateway: alone}
ports:
  - {name: one, host: a, segment: s, ips: [10.1.1.11, "2001:db8:1::11"]}
  - {name: two, host: b, segment: s, ips: [10.1.1.12, "2001:db8:1::12"]}
  - {name: apart, host: b, segment: same, ips: [10.1.1.11, "2001:db8:1::11"]}
---
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: no, services: [SSH], action: REJECT}
  - {id: quiet, services: [MySQL], action: DROP}
"""


# Where the TEPs are, one of them, and how many workers each host has.
UNDERLAYS = {
    "IPv4": (TOPOLOGY, "172.16.0.2", 1),
    "IPv6": (TOPOLOGY.replace("172.16.0.", "fd00:aa::").replace("172.17.0.", "fd00:bb::"), "fd00:aa::2", 2),
}


@pytest.fixture(params=UNDERLAYS)
def room(
    run: Path,  # noqa: F811
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Path]:
    """The namespaces of a lab with an Edge host."""
    file = tmp_path / "edge.yaml"
    file.write_text(UNDERLAYS[request.param][0])
    monkeypatch.setenv("PALISADE_AGENT_RUN_WORKERS", str(UNDERLAYS[request.param][2]))
    assert cli.run(["lab", "up", "-q", str(file)]) == 0
    yield lab_paths("lab").room


def attempts(
    room: Path, sender: str, receiver: str, addresses: tuple[str, ...], *asked: tuple[int, int]
) -> list[Attempt]:
    """To each address, for each protocol and port; ICMP is that of the family."""
    found = []
    for address in addresses:
        family = Family.IPV6 if ":" in address else Family.IPV4
        for protocol, port in asked:
            if protocol == PROTO_ICMP and family is Family.IPV6:
                protocol = PROTO_ICMPV6
            found.append(Attempt(room / sender, room / receiver, family, protocol, port, address, near=False))
    return found


def arrive(wanted: list[Attempt]) -> None:
    """All arrive and are answered; a busy machine has time."""
    for _ in range(10):
        apply_attempts(wanted, PATIENCE / 10, lambda: None)
        wanted = [replace(item, arrived=False, said=0, short=False) for item in wanted if not item.answered]
        if not wanted:
            return
    raise AssertionError(wanted)


def hop(netns: Path, address: str, ttl: int) -> str:
    """Who says that a datagram's time to live has ended (ip(7), IP_RECVERR)."""
    six = ":" in address
    level, limit, errors = (41, socket.IPV6_UNICAST_HOPS, 25) if six else (0, socket.IP_TTL, 11)
    with run_in(
        str(netns), lambda: socket.socket(socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_DGRAM)
    ) as sock:
        sock.setsockopt(level, limit, ttl)
        sock.setsockopt(level, errors, 1)
        sock.connect((address, 53))
        for _ in range(20):
            sock.settimeout(PATIENCE / 20)
            try:
                sock.send(b"?")
                sock.recv(1)
            except TimeoutError:
                continue
            except OSError:
                ancillary = sock.recvmsg(64, 512, socket.MSG_ERRQUEUE)[1]
                error = next(data for where, kind, data in ancillary if (where, kind) == (level, errors))
                kind = struct.unpack_from("IBBB", error)[2]
                assert kind == (3 if six else 11), error  # time exceeded (RFC 4443, RFC 792)
                offender = error[16:]  # struct sock_extended_err, then a sockaddr
                return str(ip_address(offender[8:24] if six else offender[4:8]))
    raise AssertionError(f"silence, from {address}, TTL {ttl}")


def test_a_pod_and_the_outside_reach_each_other_as_the_policy_says(
    room: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    _, tep, workers = UNDERLAYS[request.node.callspec.params["room"]]
    capfd.readouterr()
    assert cli.run(["lab", "up", "-q", str(tmp_path / "edge.yaml")]) == 0
    assert "as it was" in capfd.readouterr().out
    counters = agent_ask(lab_paths("lab").socket("e"), {"do": "metrics"}, PATIENCE)["text"]
    assert counters.count("palisade_agent_worker_cpu_seconds_total{") == workers
    record = record_read(lab_paths("lab"))
    assert record is not None
    one, two, apart = (record.pods[name].netns for name in ("one", "two", "apart"))
    asked = ((PROTO_TCP, 80), (PROTO_UDP, 53), (PROTO_ICMP, 0))
    arrive(
        [
            *attempts(room, one, "outside", OUTSIDE, *asked),
            *attempts(room, two, "outside", OUTSIDE, *asked),
            *attempts(room, "outside", one, ONE, *asked),
            *attempts(room, "outside", two, TWO, *asked),
        ]
    )
    # Refused at the pod's own vNIC, whichever side begins.
    refused = [
        *attempts(room, one, "outside", OUTSIDE, (PROTO_TCP, 22)),
        *attempts(room, "outside", two, TWO, (PROTO_TCP, 22)),
    ]
    apply_attempts(refused, PATIENCE, lambda: None)
    assert [(item.arrived, item.said) for item in refused] == [(False, 111)] * 4  # ECONNREFUSED
    # A Tier-1 without a Tier-0 has no way out, and its addresses, which are another's too, are not reached.
    denied = [
        *attempts(room, one, "outside", OUTSIDE, (PROTO_TCP, 3306)),
        *attempts(room, "outside", two, TWO, (PROTO_TCP, 3306)),
        *attempts(room, apart, "outside", OUTSIDE, *asked),
        *attempts(room, "outside", apart, ONE, (PROTO_UDP, 54)),
    ]
    apply_attempts(denied, 1.0, lambda: None)
    assert [item for item in denied if item.arrived] == []
    # The way out does not lead to TEPs: the underlay prohibits it (EHOSTUNREACH, over IPv6 EACCES).
    underlay = attempts(room, one, "host-b", (tep,), (PROTO_UDP, 6081))
    apply_attempts(underlay, PATIENCE, lambda: None)
    assert [(item.arrived, item.said) for item in underlay] == [(False, 13 if ":" in tep else 113)]
    # The distributed router, the service router, the outside's own router: a hop each.
    for family, address in enumerate(OUTSIDE):
        hops = [hop(room / one, address, ttl) for ttl in (1, 2, 3)]
        assert (
            hops
            == [
                ["10.1.1.1", "100.64.0.2", "192.0.2.1"],
                ["2001:db8:1::1", "fd64::2", "2001:db8:fe::1"],
            ][family]
        )
