# SPDX-License-Identifier: Apache-2.0
"""First packets of connections, made from what people ask for, and judged by the model and by the packet core.

The two must say the same: `judge_both` raises where they differ. Sums are right; the payload is empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from dfw.core import CTS, NO_FILTER, NO_RULE, REASONS, VERDICTS, EngineOptions, Replay, ReplayOptions
from dfw.endpoint import Peer, protocol_name
from dfw.enforcer import NativeEnforcer
from dfw.layout import FRAME_DTYPE
from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTO_SCTP,
    PROTO_TCP,
    PROTO_UDP,
    PROTOCOLS_WITH_PORTS,
    Family,
    Inventory,
    PolicySet,
    Port,
)
from dfw.oracle import Options
from dfw.oracle import Replay as OracleReplay
from dfw.packetbytes import (
    INIT,
    SYN,
    ethernet_frame,
    icmp_message,
    ip_packet,
    sctp_init,
    sctp_packet,
    tcp_segment,
    udp_datagram,
)

EPHEMERAL_PORT = 49152  # RFC 6335 section 6: the first of the dynamic ports
ETHERNET = 1
_STRANGERS = ("02:00:5e:00:53:01", "02:00:5e:00:53:02")  # MACs of ends that are no vNIC
# Farther apart than the longest timer: a packet finds no connection of an earlier one.
_APART_NS = 5_000_000 * 10**9
MAXIMUM_PACKETS = 3000


class DisagreementError(Exception):
    """The model and the packet core judge a packet differently: a defect of ours."""


@dataclass(frozen=True, slots=True)
class Probe:
    """The first packet of a connection. ICMP: `sport` is the type, `dport` the code, as ServiceEntry has them."""

    source: Peer
    destination: Peer
    protocol: int
    sport: int = 0
    dport: int = 0

    @property
    def family(self) -> Family:
        """Of both addresses."""
        return self.source.address.family

    @property
    def tcp_flags(self) -> int:
        """SYN for TCP."""
        return SYN if self.protocol == PROTO_TCP else 0

    @property
    def is_icmp(self) -> bool:
        """ICMP in IPv4, ICMPv6 in IPv6."""
        return self.protocol == (PROTO_ICMP if self.family is Family.IPV4 else PROTO_ICMPV6)

    @property
    def macs(self) -> tuple[str, str]:
        """Of source and destination; ends that are no vNIC have one of their own."""
        ends = self.source.port, self.destination.port
        source, destination = (end.mac if end else mac for end, mac in zip(ends, _STRANGERS, strict=True))
        return source, destination

    @property
    def ether_type(self) -> int:
        """IPv4 or IPv6."""
        return 0x0800 if self.family is Family.IPV4 else 0x86DD

    @property
    def service(self) -> str:
        """`tcp/443`, `icmp 8/0`, `gre`."""
        name = protocol_name(self.protocol)
        if self.protocol in PROTOCOLS_WITH_PORTS:
            return f"{name}/{self.dport}"
        return f"{name} {self.sport}/{self.dport}" if self.is_icmp else name


class Verdict(NamedTuple):
    """One judgement. `vnic` None: neither end is a vNIC here, and nothing is judged (`no-filter`)."""

    vnic: str | None
    dir: str | None
    verdict: str
    reason: str
    rule_path: str | None
    ct: str


def frame_of(probe: Probe) -> bytes:
    """The probe as an Ethernet frame."""
    return ethernet_frame(probe.macs, packet_of(probe))


def packet_of(probe: Probe) -> bytes:
    """The probe as an IP packet."""
    return ip_packet((probe.source.address, probe.destination.address), probe.protocol, transport_of(probe))


def transport_of(probe: Probe) -> bytes:
    """What the probe's IP packet carries."""
    ends, ports = (probe.source.address, probe.destination.address), (probe.sport, probe.dport)
    if probe.protocol == PROTO_TCP:
        return tcp_segment(ends, ports, SYN, 1)
    if probe.protocol == PROTO_UDP:
        return udp_datagram(ends, ports)
    if probe.protocol == PROTO_SCTP:
        return sctp_packet(ports, 0, sctp_init(INIT, 1))
    if probe.is_icmp and _is_error(probe):
        # Errors quote the packet that they report (RFC 792, RFC 4443): one of which nobody here knows.
        quoted = packet_of(Probe(probe.destination, probe.source, PROTO_UDP, 1, 1))
        return icmp_message(ends, *ports, bytes(4) + quoted)
    if probe.is_icmp:
        # Neighbour discovery carries an address (RFC 4861 section 4); a multicast listener report, too.
        return icmp_message(ends, *ports, b"\0\1\0\1" + bytes(16))
    return bytes(8)


def _is_error(probe: Probe) -> bool:
    return probe.sport in (3, 4, 5, 11, 12) if probe.family is Family.IPV4 else probe.sport < 128


def inventory_of(world: PolicySet, ports: Sequence[Port]) -> Inventory:
    """The inventory with these ports only, as filters; groups are resolved in the whole one all the same."""
    whole = world.inventory
    names = {port.name for port in ports}
    return replace(whole, ports={name: port for name, port in whole.ports.items() if name in names})


def judge_both(world: PolicySet, probes: Sequence[Probe], at: Inventory | None) -> list[tuple[Verdict, ...]]:
    """What becomes of each probe by itself, in an empty connection table: a verdict for each filter that judged it.

    `at`: the vNICs that judge; None: one filter on a wire. Raises DisagreementError where the core does not say what
    the model says, UnsupportedError for what the core cannot express, AmbiguousVnicError and CoreError where an address
    could be that of several vNICs.
    """
    found: list[tuple[Verdict, ...]] = []
    for start in range(0, len(probes), MAXIMUM_PACKETS):
        some = probes[start : start + MAXIMUM_PACKETS]
        frames = [frame_of(probe) for probe in some]
        model, core = _by_model(world, frames, at), _by_core(world, frames, at)
        for probe, ours, theirs in zip(some, model, core, strict=True):
            if ours != theirs:
                raise DisagreementError(
                    f"{probe.source} -> {probe.destination} {probe.service}: the model and the packet core disagree; "
                    f"please report this\n  model {ours}\n  core  {theirs}"
                )
        found += model
    return found


def judge_core(world: PolicySet, probes: Sequence[Probe], at: Inventory | None) -> list[tuple[Verdict, ...]]:
    """As judge_both, by the packet core alone."""
    found: list[tuple[Verdict, ...]] = []
    for start in range(0, len(probes), MAXIMUM_PACKETS):
        found += _by_core(world, [frame_of(probe) for probe in probes[start : start + MAXIMUM_PACKETS]], at)
    return found


def _by_model(world: PolicySet, frames: Sequence[bytes], at: Inventory | None) -> list[tuple[Verdict, ...]]:
    run = OracleReplay(world, at, Options(tap=at is None, keep=False))
    found = []
    for number, frame in enumerate(frames):
        lines = run.feed(number + 1, (number + 1) * _APART_NS, frame, len(frame), ETHERNET)
        found.append(tuple(Verdict(*line[2:6], line.rule_path, line.ct) for line in lines))
    return found


def _by_core(world: PolicySet, frames: Sequence[bytes], at: Inventory | None) -> list[tuple[Verdict, ...]]:
    enforcer = NativeEnforcer(at, EngineOptions(capacity4=64, capacity6=64))
    enforcer.commit(world)
    replay = Replay(enforcer.engine, ReplayOptions(vnics=at is not None, collect=True), enforcer.bindings())
    file = replay.begin_file('"probe"')
    data = np.frombuffer(b"".join(frames), dtype=np.uint8)
    rows = np.zeros(len(frames), dtype=FRAME_DTYPE)
    lengths = np.array([len(frame) for frame in frames], dtype=np.uint64)
    rows["data"] = data.ctypes.data + np.concatenate([[0], np.cumsum(lengths)[:-1]]).astype(np.uint64)
    rows["caplen"] = rows["wirelen"] = lengths
    rows["number"] = np.arange(1, len(frames) + 1)
    rows["ts_ns"] = rows["number"] * np.uint64(_APART_NS)
    rows["linktype"] = ETHERNET
    replay.frames(rows, file)
    replay.finish()
    found: list[list[Verdict]] = [[] for _ in frames]
    directions = {1: "IN", 2: "OUT", 3: "IN_OUT"}
    for record in replay.records():
        filtered = int(record["filter"]) != NO_FILTER
        rule = int(record["rule"])
        found[int(record["number"]) - 1].append(
            Verdict(
                enforcer.filters[int(record["filter"])] if filtered else None,
                directions[int(record["dir"])] if filtered else None,
                VERDICTS[record["verdict"]],
                REASONS[record["reason"]],
                None if rule == NO_RULE else enforcer.rules[rule].path,
                CTS[record["ct"]],
            )
        )
    replay.close()
    return [tuple(verdicts) for verdicts in found]
