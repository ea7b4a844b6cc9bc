# SPDX-License-Identifier: Apache-2.0
"""What is delivered: the packet core against this machine's kernel under the rendered rules, packet by packet.

The same policies, drawn over the addresses and services in the captures, and the same packets, at a tap and at vNICs.
Differences are of the classes that tests.support.kernel_agreement.NAMED lists, or there are none.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dfw.model import Action, Address, Family, Inventory, Machine, PolicySet, Port, PortRange, Segment, ServiceEntry
from tests.support.kernel_agreement import NAMED, Comparison, engines_compare, packets_seen, world_draw
from tests.support.oracle_bench import (
    A6,
    ACK,
    B6,
    RAW,
    RST,
    SYN,
    TCP,
    UDP,
    A,
    B,
    icmp,
    number,
    policies,
    rule,
    tcp,
    udp,
)
from tests.support.pcap import pcap_write

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_tun,
    pytest.mark.needs_ipv6,
    pytest.mark.needs_tool("nft", "ip"),
    pytest.mark.needs_kernel_judge,
]
RECORDS = ("zeek-all", "suricata-verify")
WHERE = pytest.mark.parametrize("vnics", [False, True], ids=["tap", "vnics"])


def captures_usable(data: Path, most: int) -> list[Path]:
    """The captures that a kernel can forward whole, up to this many packets; copies of one another once."""
    found: dict[bytes, Path] = {}
    for record in RECORDS:
        for name in json.loads((data / "kernel-ct-oracle" / f"{record}.usable.json").read_text()):
            if len(packets_seen(data / name)) <= most:
                found.setdefault((data / name).read_bytes(), data / name)
    return list(found.values())


@pytest.mark.needs_shared_data("kernel-ct-oracle", "zeek", "suricata-verify")
@WHERE
@pytest.mark.parametrize("layer2", [False, True], ids=["layer 3", "layers 2 and 3"])
def test_the_kernel_delivers_what_the_core_delivers(
    shared_data: Path, long_run: bool, vnics: bool, layer2: bool, record_property: Callable[[str, object], None]
) -> None:
    captures = captures_usable(shared_data, sys.maxsize if long_run else 6)
    sums: Counter[str] = Counter()
    for seed in range(110 if long_run else 3):
        found = engines_compare(world_draw(seed, captures, vnics=vnics, layer2=layer2), captures, vnics=vnics)
        assert [item for item in found.differences if not item.name] == [], seed
        sums.update(item.name for item in found.differences)
        sums.update(compared=found.compared, delivered=found.delivered, refused=found.refused, layer2=found.layer2)
    for name, count in sums.items():
        record_property(name, count)
    assert sums["compared"] > 300 and sums["delivered"] > 50 and sums["refused"] > 20
    assert bool(sums["layer2"]) is layer2
    assert sum(sums[name] for name in NAMED) < sums["compared"] / 50


@pytest.mark.needs_shared_data("kernel-ct-oracle", "zeek", "suricata-verify")
def test_another_policy_is_noticed(shared_data: Path) -> None:
    captures = captures_usable(shared_data, 4)
    worlds = [policies(rule("any", action)) for action in (Action.ALLOW, Action.DROP)]
    found = engines_compare(worlds[0], captures, vnics=False, kernels_world=worlds[1])
    assert len([item for item in found.differences if not item.name]) > found.compared / 2


# Small conversations of our own: whose data is not needed

SYNS = [
    tcp(A, B, (1000, 80), SYN, 100),
    tcp(B, A, (80, 1000), SYN | ACK, 500, 101),
    tcp(A, B, (1000, 80), ACK, 101, 501),
]
SYNS6 = [tcp(A6, B6, (1000, 80), SYN, 100), tcp(B6, A6, (80, 1000), SYN | ACK, 500, 101)]
MID = [tcp(A, B, (2000, 80), ACK, 7, 9), tcp(B, A, (80, 2000), ACK, 9, 7), tcp(A, B, (2001, 80), RST, 9)]
TALK = [udp(A, B, (1000, 53)), udp(B, A, (53, 1000)), udp(A6, B6, (1, 53)), udp(B6, A6, (53, 1)), udp(B, A, (9, 99))]
PINGS = [icmp(A, B, 8), icmp(B, A, 0), icmp(B, A, 0, ident=99), icmp(A, B, 13), icmp(A6, B6, 128), icmp(B6, A6, 129)]
ERRORS = [udp(A, B, (7, 8)), icmp(B, A, 3, 3, payload=udp(A, B, (7, 8))), icmp(B, A, 3, 3, payload=udp(A, B, (7, 9)))]
PACKETS = [*SYNS, *SYNS6, *MID, *TALK, *PINGS, *ERRORS]

_WEB = ServiceEntry(protocol=TCP, destination_ports=(PortRange(80, 80), PortRange(443, 450)))
_DNS = ServiceEntry(protocol=UDP, destination_ports=(PortRange(53, 53),))
_BACK = ServiceEntry(protocol=UDP, source_ports=(PortRange(53, 53),))
_PING = ServiceEntry(protocol=1, icmp_type=8, icmp_code=0)
_RESETS = ServiceEntry(protocol=TCP, tcp_mask=4, tcp_value=4)
_END = rule("end", Action.DROP)
POLICIES: dict[str, PolicySet] = {
    "allow": policies(rule("any")),
    "drop": policies(_END),
    "reject": policies(rule("no", Action.REJECT)),
    "strict": policies(rule("web", Action.ALLOW, _WEB), _END, strict=True),
    "not strict": policies(rule("web", Action.ALLOW, _WEB), _END),
    "services": policies(rule("some", Action.ALLOW, _DNS, _PING), _END),
    "stateless": policies(rule("some", Action.ALLOW, _DNS, _WEB), _END, stateful=False),
    "stateless, both ways": policies(rule("some", Action.ALLOW, _DNS, _BACK, _PING), _END, stateful=False),
    "flags": policies(rule("resets", Action.DROP, _RESETS), rule("rest")),
}
_ENDS = {"a": (A, A6), "b": (B, B6)}
_PORTS = {
    name: Port(
        name,
        "h",
        "s",
        name,
        f"06:00:00:00:00:0{name}",
        ips=tuple(Address(family, number(at)) for family, at in zip(Family, ips, strict=True)),
    )
    for name, ips in _ENDS.items()
}
INVENTORY = Inventory(segments={"s": Segment("s", 1)}, machines={name: Machine(name) for name in _ENDS}, ports=_PORTS)


def compare(world: PolicySet, vnics: bool, folder: Path, packets: list[bytes] = PACKETS) -> Comparison:
    """Both engines on these packets."""
    capture = folder / "cap.pcap"
    pcap_write(capture, packets, RAW)
    return engines_compare(replace(world, inventory=INVENTORY), [capture], vnics=vnics)


@WHERE
@pytest.mark.parametrize("name", POLICIES)
def test_small_conversations(name: str, vnics: bool, tmp_path: Path) -> None:
    found = compare(POLICIES[name], vnics, tmp_path)
    assert found.differences == ()
    assert found.compared == len(PACKETS)
    expected = {"allow": (len(PACKETS) - 3, 3), "drop": (0, len(PACKETS)), "reject": (0, len(PACKETS))}
    assert (found.delivered, found.refused) == expected.get(name, (found.delivered, found.refused))
