# SPDX-License-Identifier: Apache-2.0
"""Packets of each connection, both ways, against Zeek's connection logs.

Zeek analyses, we enforce: what a firewall refuses before or instead of a connection, Zeek still counts. So connections
are comparable when both look at the same packets; `incomparable` has each rule by which one is left out, and the test
asserts how many are left out by each.
"""

from __future__ import annotations

import ipaddress
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.engines import ENGINES, FlowLine, Line, replay
from tests.support.pcap import pcap_read

PROTOCOLS = {"tcp": 6, "udp": 17}

# Link types and encapsulations that we do not read, and runs of Zeek whose options change what it counts.
TRACES_LEFT_OUT = {
    "Traces/ppp/quic-interop-retry.pcap": "link type PPP",
    "Traces/radiotap.pcap": "link type 802.11",
    "Traces/wlanmon.pcap": "link type 802.11",
    "Traces/cisco-fabric-path.pcap": "half of the packets are in Cisco FabricPath frames, which are not IP to us",
    "Traces/mpls-in-vlan.pcap": "MPLS is not IP to us",
    "Traces/pbb.pcap": "provider backbone bridging is not IP to us",
    "Traces/pppoe.pcap": "PPPoE is not IP to us",
    "Traces/globus-url-copy.pcap": "Zeek stops counting a GridFTP transfer that it skips",
}
LOGS_LEFT_OUT = {
    "Baseline/core.checksums_ignore_nets/conn-failed.log": "checksums ignored for some networks only",
    "Baseline/core.expire-all-timers/conn-all.log": "all of Zeek's timers expired at once",
    "Baseline/core.pcap.dynamic-filter/conn.log": "Zeek changes its capture filter during the run",
    "Baseline/core.tunnels.gtp.different_dl_and_ul/conn.log": "GTP: Zeek counts the outer packets elsewhere",
}
BAD_SUMS = "Zeek counted nothing (bad checksums)"
SYN_ACK_FIRST = "begins with a SYN+ACK, which begins nothing for us and Linux"
IN_TUNNEL = "inside a tunnel other than ours"
NO_COUNTS = "no counts in the log"
ONE_DIRECTION = "one direction captured: what follows an unanswered SYN is refused"
GAPS = "the capture lost packets (Zeek's gaps)"
NO_LENGTH = "we refuse some of its packets at parse (an IP length of 0: segmentation offload)"
# How many connections of the logs each rule leaves out; no more may hide behind it.
LEFT_OUT = {
    BAD_SUMS: 3,
    SYN_ACK_FIRST: 6,
    IN_TUNNEL: 8,
    NO_COUNTS: 24,
    ONE_DIRECTION: 25,
    GAPS: 2,
    NO_LENGTH: 3,
}

# In these logs checksums were not verified, though the options that say so differ.
CHECKSUMS_IGNORED = frozenset(
    {
        "Baseline/core.checksums_ignore_nets/conn-worked.log",
        "Baseline/core.checksums_ignore_nets/conn-worked-multi-subnets.log",
    }
)


@dataclass(frozen=True, slots=True)
class ZeekConnection:
    """A row of conn.log."""

    proto: int
    orig: tuple[str, int]
    resp: tuple[str, int]
    orig_pkts: str
    resp_pkts: str
    history: str
    in_tunnel: bool

    @property
    def key(self) -> tuple[int, frozenset[tuple[str, int]]]:
        """Both ends, unordered: Zeek may flip originator and responder."""
        return self.proto, frozenset({self.orig, self.resp})


@dataclass(frozen=True, slots=True)
class Log:
    """One conn.log and the trace that it was made from."""

    trace: str
    name: str
    verify: bool
    connections: list[ZeekConnection]


def read_logs(zeek: Path) -> list[Log]:
    """All pairs that are not left out as a whole."""
    logs = []
    for pair in json.loads((zeek / "pairs.json").read_text()):
        trace, name = pair["trace"], pair["conn_log"]
        if trace in TRACES_LEFT_OUT or name in LOGS_LEFT_OUT:
            continue
        options = " ".join(pair["exec"])
        ignored = " -C" in options or "ignore_checksums=T" in options or name in CHECKSUMS_IGNORED
        logs.append(Log(trace, name, not ignored, list(read_connections(zeek / name))))
    return logs


def read_connections(path: Path) -> Iterator[ZeekConnection]:
    """TCP and UDP rows."""
    columns: list[str] = []
    for line in path.read_text(errors="replace").splitlines():
        if line.startswith("#fields"):
            columns = line.split("\t")[1:]
        if line.startswith("#") or not line:
            continue
        row = dict(zip(columns, line.split("\t"), strict=False))
        if row.get("proto") in PROTOCOLS:
            yield ZeekConnection(
                PROTOCOLS[row["proto"]],
                (row["id.orig_h"], int(row["id.orig_p"])),
                (row["id.resp_h"], int(row["id.resp_p"])),
                row.get("orig_pkts", "-"),
                row.get("resp_pkts", "-"),
                row.get("history", "-"),
                row.get("tunnel_parents", "-") not in ("-", "(empty)"),
            )


def incomparable(connection: ZeekConnection, refused_pairs: set[frozenset[bytes]]) -> str | None:
    """Why a connection is left out; None for one that is compared."""
    history = connection.history
    if "-" in (connection.orig_pkts, connection.resp_pkts):
        return NO_COUNTS
    if (connection.orig_pkts, connection.resp_pkts) == ("0", "0"):
        return BAD_SUMS
    if connection.in_tunnel:
        return IN_TUNNEL
    if connection.proto == 6:
        if history.lstrip("^")[:1] in ("h", "H"):
            return SYN_ACK_FIRST
        if "g" in history.lower():
            return GAPS
        if connection.resp_pkts == "0" and set(history) & set("ADF") and history != "D":
            return ONE_DIRECTION
    ends = frozenset(packed(address) for address, _ in (connection.orig, connection.resp))
    if ends in refused_pairs:
        return NO_LENGTH
    return None


def packed(address: str) -> bytes:
    """An address in network byte order."""
    return ipaddress.ip_address(address).packed


def read_refused(trace: Path, lines: list[Line]) -> set[frozenset[bytes]]:
    """Address pairs of IPv4 packets that were refused for their lengths."""
    refused = {line.n for line in lines if line.reason == "ip-length"}
    pairs = set()
    if refused:
        for n, captured in enumerate(pcap_read(trace), 1):
            if n in refused and captured.link == 1 and captured.data[12:14] == b"\x08\x00":
                pairs.add(frozenset({captured.data[26:30], captured.data[30:34]}))
    return pairs


def counts(flow: FlowLine, orig: tuple[str, int]) -> tuple[int, int]:
    """Packets from Zeek's originator, and back."""
    there, back = flow.packets, flow.reply_packets
    return (there, back) if (flow.src, flow.sport) == orig else (back, there)


@pytest.mark.needs_shared_data("zeek/pairs.json")
@pytest.mark.parametrize("engine", ENGINES)
def test_packets_per_connection_are_zeeks(engine: str, shared_data: Path) -> None:
    """At least 97 % of the comparable connections have exactly Zeek's packet counts, both ways."""
    zeek = shared_data / "zeek"
    logs = read_logs(zeek)
    results = {}
    for verify in (False, True):
        traces = {zeek / log.trace for log in logs if log.verify is verify}
        results[verify] = replay(engine, sorted(traces), verify=verify)
    left_out: Counter[str] = Counter()
    compared = same = 0
    for log in logs:
        result = results[log.verify][zeek / log.trace]
        refused = read_refused(zeek / log.trace, result.lines)
        ours: defaultdict[tuple[int, frozenset[tuple[str, int]]], list[FlowLine]] = defaultdict(list)
        for flow in result.flows:
            ours[flow.proto, frozenset({(flow.src, flow.sport), (flow.dst, flow.dport)})].append(flow)
        theirs: defaultdict[tuple[int, frozenset[tuple[str, int]]], list[ZeekConnection]] = defaultdict(list)
        for connection in log.connections:
            why = incomparable(connection, refused)
            if why is None:
                theirs[connection.key].append(connection)
            else:
                left_out[why] += 1
        for key, connections in theirs.items():
            for index, connection in enumerate(connections):
                compared += 1
                wanted = int(connection.orig_pkts), int(connection.resp_pkts)
                flows = ours[key]
                found = counts(flows[index], connection.orig) if len(flows) == len(connections) else None
                if found == wanted:
                    same += 1
                else:
                    print(f"{log.trace} ({log.name}) {connection.orig} {connection.resp}: Zeek {wanted}, we {found}")
    for why, number in sorted(left_out.items()):
        print(f"{number} left out: {why}")
    print(f"{same} of {compared} connections agree")
    assert left_out == LEFT_OUT
    assert compared == 236
    assert same / compared >= 0.97
