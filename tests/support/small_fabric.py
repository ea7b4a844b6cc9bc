# SPDX-License-Identifier: Apache-2.0
"""A small fabric of two hosts, and frames through them: segments web and db on one Tier-1, red on another one with
web's addresses, blue without a gateway; both Tier-1s go on to a Tier-0, which leads to db's addresses only.

Workloads have one filter number on both hosts. Frames are scapy's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from dfw.core import Engine, EngineOptions, Fabric, Host, HostRun
from dfw.enforcer import timer_seconds
from dfw.layout import ACTION_DROP, RULE_DTYPE
from dfw.layout_live import (
    ADDRESS_DTYPE,
    GUARD_DHCP,
    GUARD_RA,
    GUARD_SPOOF,
    HOST_FRAME_DTYPE,
    INTERFACE_DTYPE,
    NEIGHBOUR_DTYPE,
    NO_INDEX,
    ROUTE_BLACKHOLE,
    ROUTE_CONNECTED,
    ROUTE_DTYPE,
    ROUTE_GATEWAY,
    ROUTE_VIA,
    SEGMENT_DTYPE,
    TEP_DTYPE,
    UPLINK,
    VNIC_DTYPE,
)
from dfw.model import Timers

GATEWAY_MAC = "02:50:6c:00:00:01"
SEGMENTS = ("web", "db", "red", "blue")
VNIS = (5001, 5002, 5003, 5004)
GATEWAY_OF = (0, 0, 1, NO_INDEX)
T1_SHOP, T1_RED, T0 = range(3)
TEPS = ("172.16.0.11", "172.16.0.12", "172.16.0.13")
ALL_GUARDS = GUARD_SPOOF | GUARD_DHCP | GUARD_RA


@dataclass(frozen=True, slots=True)
class Workload:
    """One vNIC, and the host that it is on."""

    name: str
    segment: str
    host: int
    number: int
    guards: int = ALL_GUARDS

    @property
    def mac(self) -> str:
        return f"02:00:00:00:00:{self.number + 1:02x}"

    @property
    def v4(self) -> str:
        subnet = {"web": "10.1.1", "db": "10.1.2", "red": "10.1.1", "blue": "10.1.4"}[self.segment]
        return f"{subnet}.{11 + self.number}" if self.name != "e" else "10.1.1.11"

    @property
    def v6(self) -> str:
        subnet = {"web": "fd00:1", "db": "fd00:2", "red": "fd00:1", "blue": "fd00:4"}[self.segment]
        return f"{subnet}::{11 + self.number:x}" if self.name != "e" else "fd00:1::b"


A, B, C, D, E, F, G, H = WORKLOADS = (
    Workload("a", "web", 0, 0),
    Workload("b", "web", 0, 1),
    Workload("c", "db", 0, 2),
    Workload("d", "db", 1, 3),
    Workload("e", "red", 0, 4),
    Workload("f", "web", 1, 5),
    Workload("g", "blue", 0, 6, 0),
    Workload("h", "blue", 0, 7, 0),
)
GATEWAYS_V4 = {"web": "10.1.1.1", "db": "10.1.2.1", "red": "10.1.1.1"}
GATEWAYS_V6 = {"web": "fd00:1::1", "db": "fd00:2::1", "red": "fd00:1::1"}


def packed(address: str) -> list[int]:
    """As in pal_range: network byte order, IPv4 in the first four bytes."""
    raw = ipaddress.ip_address(address).packed
    return [*raw, *[0] * (16 - len(raw))]


def family(address: str) -> int:
    return 1 if ":" not in address else 2


def mac_bytes(mac: str) -> list[int]:
    return list(bytes.fromhex(mac.replace(":", "")))


def _rows(dtype: np.dtype[np.void], rows: Sequence[dict[str, object]]) -> np.ndarray:
    table = np.zeros(len(rows), dtype)
    for i, row in enumerate(rows):
        for name, value in row.items():
            table[name][i] = value
    return table


def fabric_of(host: int, *, mtu: int = 1450, underlay_mtu: int = 1500, moved: Sequence[Workload] = ()) -> Fabric:
    """What host number `host` knows. `moved`: workloads that are on the other one of the two hosts now."""
    vnics, addresses, neighbours = [], [], []
    for w in WORKLOADS:
        at = w.host if w not in moved else 1 - w.host
        if at == host:
            vnics.append(
                {"filter": w.number, "segment": SEGMENTS.index(w.segment), "addr_off": len(addresses), "addr_n": 2,
                 "guards": w.guards, "mac": mac_bytes(w.mac), "mtu": mtu}
            )  # fmt: skip
            addresses += [{"addr": packed(a), "family": family(a)} for a in (w.v4, w.v6)]
        place = {"vnic": w.number} if at == host else {"vnic": UPLINK, "tep": at}
        neighbours += [
            {
                "addr": packed(a),
                "family": family(a),
                "segment": SEGMENTS.index(w.segment),
                "mac": mac_bytes(w.mac),
                **place,
            }
            for a in (w.v4, w.v6)
        ]
    others = [i for i in range(2) if i != host]
    interfaces = [
        {"addr": packed(a), "family": family(a), "gateway": GATEWAY_OF[SEGMENTS.index(s)], "segment": SEGMENTS.index(s)}
        for table in (GATEWAYS_V4, GATEWAYS_V6)
        for s, a in table.items()
    ]
    return Fabric(
        vnics=_rows(VNIC_DTYPE, vnics),
        segments=_rows(
            SEGMENT_DTYPE,
            [
                {"vni": v, "gateway": g, "tep_n": len(others), "learn": v == VNIS[3]}
                for v, g in zip(VNIS, GATEWAY_OF, strict=True)
            ],
        ),
        neighbours=_rows(NEIGHBOUR_DTYPE, neighbours),
        interfaces=_rows(INTERFACE_DTYPE, interfaces),
        routes=_rows(ROUTE_DTYPE, _routes()),
        teps=_rows(TEP_DTYPE, [{"addr": packed(a), "family": 1} for a in TEPS]),
        addresses=_rows(ADDRESS_DTYPE, addresses),
        replicas=np.array(others, np.uint32),
        gateways=3,
        underlay_mtu=underlay_mtu,
        gateway_mac=bytes(mac_bytes(GATEWAY_MAC)),
    )


def _route(gateway: int, prefix: str, kind: int, target: int = 0, next_hop: str | None = None) -> dict[str, object]:
    address, length = prefix.split("/")
    hop = packed(next_hop) if next_hop else [0] * 16
    return {"addr": packed(address), "family": family(address), "length": int(length), "gateway": gateway, "kind": kind,
            "target": target, "next_hop": hop}  # fmt: skip


def _routes() -> list[dict[str, object]]:
    return [
        _route(T1_SHOP, "10.1.1.0/24", ROUTE_CONNECTED, 0),
        _route(T1_SHOP, "fd00:1::/64", ROUTE_CONNECTED, 0),
        _route(T1_SHOP, "10.1.2.0/24", ROUTE_CONNECTED, 1),
        _route(T1_SHOP, "fd00:2::/64", ROUTE_CONNECTED, 1),
        _route(T1_SHOP, "192.0.2.0/24", ROUTE_VIA, 1, C.v4),
        _route(T1_SHOP, "198.51.100.0/24", ROUTE_BLACKHOLE),
        _route(T1_SHOP, "0.0.0.0/0", ROUTE_GATEWAY, T0),
        _route(T1_RED, "10.1.1.0/24", ROUTE_CONNECTED, 2),
        _route(T1_RED, "fd00:1::/64", ROUTE_CONNECTED, 2),
        _route(T1_RED, "0.0.0.0/0", ROUTE_GATEWAY, T0),
        _route(T0, "10.1.2.0/24", ROUTE_GATEWAY, T1_SHOP),
        _route(T0, "203.0.113.0/24", ROUTE_GATEWAY, T1_RED),
    ]


def allow_all(*, stateful: bool = True) -> np.ndarray:
    """One rule that allows everything."""
    rule = np.zeros(1, RULE_DTYPE)
    rule["sport_hi"] = rule["dport_hi"] = 65535
    rule["proto"], rule["dir"], rule["family"], rule["flags"] = 256, 3, 3, int(stateful)
    return rule


def all_but_ssh() -> np.ndarray:
    """Rule 1 drops TCP to port 22; rule 0 behind it allows everything."""
    found = np.concatenate([allow_all(), allow_all()])
    found[0]["action"], found[0]["rule"] = ACTION_DROP, 1
    found[0]["proto"], found[0]["dport_lo"], found[0]["dport_hi"] = 6, 22, 22
    return found


class SmallHost:
    """Host number `host` of the fabric, every vNIC with the same rules."""

    def __init__(
        self, host: int, rules: np.ndarray | None = None, fabric: Fabric | None = None, checksums: str = "off"
    ) -> None:
        options = EngineOptions(capacity4=4096, capacity6=1024, filters=len(WORKLOADS), rules=64, checksums=checksums)
        self.number, self.engine = host, Engine(options)
        self.host = Host(self.engine)
        self.now_ns = 10**12
        self.host.stage(fabric or fabric_of(host))
        self.rules(allow_all() if rules is None else rules)

    def rules(self, rules: np.ndarray, only: Workload | None = None) -> None:
        """Commit the rules at one vNIC, or at all."""
        for w in WORKLOADS if only is None else (only,):
            built = self.engine.classifier.build_staged(rules, np.zeros(0, np.uint32))
            self.engine.stage(w.number, built, timer_seconds(Timers()))
        self.engine.commit()

    def move(self, fabric: Fabric) -> None:
        """Commit another fabric."""
        self.host.stage(fabric)
        self.engine.commit()

    def send(self, *frames: tuple[Workload, Packet | bytes], batch: int = 32, **offload: int) -> list[Sent]:
        """Frames from vNICs, in order; what left. `offload`: virtio fields of all of them."""
        return self.run([(w.number, bytes(f), None) for w, f in frames], batch, **offload)

    def receive(self, *frames: Sent | tuple[bytes, str], batch: int = 32, **offload: int) -> list[Sent]:
        """Geneve packets from the underlay: as another host sent them, or bytes and a TEP's address."""
        given = [(f.raw, TEPS[1 - self.number]) if isinstance(f, Sent) else f for f in frames]
        return self.run([(UPLINK, raw, tep) for raw, tep in given], batch, **offload)

    def run(self, frames: Sequence[tuple[int, bytes, str | None]], batch: int = 32, **offload: int) -> list[Sent]:
        rows = np.zeros(len(frames), HOST_FRAME_DTYPE)
        at = 0
        for row, (vnic, raw, tep) in zip(rows, frames, strict=True):
            row["at"], row["len"], row["vnic"], row["now_ns"] = at, len(raw), vnic, self.now_ns
            if tep is not None:
                row["outer"]["addr"], row["outer"]["family"] = packed(tep), family(tep)
            at += len(raw)
        for name, value in offload.items():
            rows[name] = value
        self.last: HostRun = self.host.run(b"".join(raw for _, raw, _ in frames), rows, batch)
        self.check_counters()
        return [Sent(self.last.frames[i], self.last.bytes_of(i)) for i in range(len(self.last.frames))]

    def check_counters(self) -> None:
        """Everything received has been passed, consumed, dropped by reason, or is held."""
        s = self.host.stats()
        assert s.from_vnics + s.from_uplink == s.passed + s.consumed + sum(s.dropped.values()) + s.held, s
        e = self.engine.stats()
        held = e.counts.pop(("HELD", "held"), 0)
        assert e.received == sum(e.counts.values()) + held - e.released, e

    def dropped(self) -> dict[str, int]:
        """Frames dropped so far, by reason."""
        return self.host.stats().dropped


@dataclass(frozen=True, slots=True)
class Sent:
    """A frame that left: to a vNIC, or (`tep`) to another host."""

    row: np.void
    raw: bytes

    @property
    def vnic(self) -> int:
        return int(self.row["vnic"])

    @property
    def tep(self) -> str | None:
        if self.vnic < UPLINK - 1:
            return None
        return str(ipaddress.ip_address(bytes(self.row["outer"]["addr"][:4])))

    @property
    def frame(self) -> Packet:
        """The (inner) Ethernet frame."""
        return Ether(self.raw[int(self.row["inner"]) :])

    @property
    def vni(self) -> int:
        return int.from_bytes(self.raw[4:7], "big")


def ip4(source: Workload, destination: str, **fields: object) -> IP:
    return IP(src=source.v4, dst=destination, **fields)


def ip6(source: Workload, destination: str, **fields: object) -> IPv6:
    return IPv6(src=source.v6, dst=destination, **fields)


def ether(source: Workload, mac: str) -> Ether:
    return Ether(src=source.mac, dst=mac)
