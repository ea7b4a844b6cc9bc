# SPDX-License-Identifier: Apache-2.0
"""Each packet's state against Linux's connection tracking, on the captures that the kernel forwarded whole.

Clock stopped, checksums ignored, TCP strict off: the kernel's oracle was recorded so (README of the data). Every packet
on which we differ is named here, with why; docs/policy-semantics.md says the same to users.
"""

from __future__ import annotations

import gzip
import ipaddress
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.engines import ENGINES, replay
from tests.support.pcap import pcap_read

# zeek-tcp-perpacket-table repeats captures of zeek-all: no further evidence, so it is not counted again.
RECORDS = ("zeek-all", "suricata-verify")
NO_VERDICT = frozenset({"non-ip", "no-output"})
CLASSES = ("new", "established", "invalid")

# The kernel was handed something else than what is in the capture: the recorder took the first IPv4 header that it
# found, inside whatever it lay.
NOT_COMPARABLE = {
    "zeek/Traces/vlan-qinqinq.pcap": "three VLAN tags, which the kernel never saw; we refuse the third (vlan-depth)",
    "zeek/Traces/pbb-recursive-frames.pcapng": "provider backbone bridging, opened by the recorder; not IP to us",
    "suricata-verify/tests/flow-pkt-recursion/tunnel-pkt-flows.pcap": "IPv4 in IPv6: the kernel got the inner packets",
}

# capture: {packet: (Linux, we)}, and why
RST_INJECT = "zeek/Traces/tcp/rst-inject-rae.pcap"
DIFFERENCES: dict[str, dict[int, tuple[str, str]]] = {
    # IPv6 routing header 0 is refused by its type (RFC 5095); the kernel tracks it.
    "zeek/Traces/chksums/ip6-route0-icmp6-good-chksum.pcap": {1: ("new", "invalid")},
    "zeek/Traces/chksums/ip6-route0-udp-bad-chksum.pcap": {1: ("new", "invalid")},
    # Packet 2 is an RST that acknowledges the SYN's own number, one too few: not acceptable (RFC 9293, 3.10.7.3).
    # The kernel closes the connection for it and then calls the true SYN+ACK invalid.
    RST_INJECT: {
        2: ("established/reply", "invalid"),
        3: ("invalid", "established/reply"),
        4: ("new", "established"),
        5: ("new", "established"),
    },
    # The kernel tells GRE calls apart by their keys; to us other protocols are one conversation for each address pair.
    "zeek/Traces/tunnels/gre-pptp.pcap": {2: ("new", "established/reply")},
}


# The kernel's names of TCP states that we merge or spell otherwise.
TCP_STATES = {
    "SYN_RECV": "SYN_RECEIVED",
    "CLOSE_WAIT": "FIN_WAIT",
    "LAST_ACK": "CLOSING",
    "CLOSE": "CLOSED",
}
TCP, UDP, SCTP = 6, 17, 132
# Captures whose connections at the end differ, and why.
TABLE_DIFFERENCES = {
    "zeek/Traces/chksums/ip6-route0-icmp6-good-chksum.pcap": "routing header 0, see above",
    "zeek/Traces/chksums/ip6-route0-udp-bad-chksum.pcap": "routing header 0, see above",
    "zeek/Traces/tunnels/gre-pptp.pcap": "GRE keys, see above",
    "suricata-verify/tests/firewall/ruletype-firewall-50-ruleset-vs-ping/icmp-ping-plus-weird-code.pcap": (
        "the kernel's pings differ by their code; ours do not"
    ),
    # The receiver misses data before it: for it the RST is inside the window and not exact, so it must challenge
    # (RFC 5961 section 3.2). The kernel believes an RST that carries on where its sender's last segment ended.
    "suricata-verify/tests/http-sha256-drop-02/input.pcap": "an RST after segments that nobody acknowledged",
    "zeek/Traces/tunnels/4in6.pcap": "IPv4 in IPv6: the kernel got the inner packets",
    "suricata-verify/tests/flow-pkt-recursion/middleware-pkt-flows.pcap": "IPv4 in IPv6, as above",
    "zeek/Traces/tcp/syn-then-rst.pcap": "an RST before any answer: the kernel forgets at once, we after tcp_closed",
}


@dataclass(frozen=True, slots=True)
class Record:
    """What the kernel said about one capture. `table`: its connections after the last packet, as `connection` has them;
    None where only the capture's beginning was replayed."""

    name: str
    kernel: dict[int, str]
    table: set[tuple[object, ...]] | None


def read_records(data: Path) -> list[Record]:
    """The usable captures of the kernel's oracle that are comparable."""
    folder = data / "kernel-ct-oracle"
    records = []
    for name in RECORDS:
        usable = set(json.loads((folder / f"{name}.usable.json").read_text()))
        with gzip.open(folder / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                if row["pcap"] in usable and row["pcap"] not in NOT_COMPARABLE:
                    states = {item["n"]: item["ct"] for item in row["per_packet"]}
                    whole = sum(1 for _ in pcap_read(data / row["pcap"])) == row["packets"]
                    table = {read_connection(item) for item in row["final_table"]}
                    records.append(Record(row["pcap"], states, table if whole else None))
    return records


def connection(
    protocol: int, ends: tuple[str, str], ports: tuple[int, int], state: str, answered: bool
) -> tuple[object, ...]:
    """A connection in the words that both have."""
    has_ports = protocol in (TCP, UDP, SCTP)
    addresses = tuple(ipaddress.ip_address(end) for end in ends)
    return protocol, addresses, ports if has_ports else (), state if protocol == TCP else "", answered


def read_connection(text: str) -> tuple[object, ...]:
    """One line of `conntrack -L`; the first tuple is the original one."""
    words = text.split()
    fields = dict(reversed([(name, value) for name, _, value in (word.partition("=") for word in words) if value]))
    state = TCP_STATES.get(words[3], words[3])
    ports = int(fields.get("sport", 0)), int(fields.get("dport", 0))
    return connection(int(words[1]), (fields["src"], fields["dst"]), ports, state, "[UNREPLIED]" not in words)


@pytest.mark.needs_shared_data("kernel-ct-oracle")
@pytest.mark.parametrize("engine", ENGINES)
def test_the_last_table_is_linuxs(engine: str, shared_data: Path) -> None:
    """The same connections in the same states after the last packet."""
    records = [record for record in read_records(shared_data) if record.table is not None]
    results = replay(engine, [shared_data / record.name for record in records], clock_stopped=True)
    different = set()
    compared = 0
    for record in records:
        ours = {
            connection(flow.proto, (flow.src, flow.dst), (flow.sport, flow.dport), flow.state, flow.reply_packets > 0)
            for flow in results[shared_data / record.name].flows
            if flow.end_reason == "open"
        }
        compared += len(ours)
        if ours != record.table:
            different.add(record.name)
            print(f"{record.name}: Linux only {record.table - ours}, we only {ours - (record.table or set())}")
    print(f"{compared} connections of {len(records)} captures compared")
    assert compared > 400
    assert different == set(TABLE_DIFFERENCES)


@pytest.mark.needs_shared_data("kernel-ct-oracle")
@pytest.mark.parametrize("engine", ENGINES)
def test_states_are_linux_states(engine: str, shared_data: Path) -> None:
    """Precision and recall of each class at least 99 %, the mean over captures 98 %, every difference named."""
    records = read_records(shared_data)
    assert len(records) == 167 - len(NOT_COMPARABLE)
    results = replay(engine, [shared_data / record.name for record in records], clock_stopped=True)
    pairs: Counter[tuple[str, str]] = Counter()
    agreement = []
    found: dict[str, dict[int, tuple[str, str]]] = {}
    for record in records:
        same = total = 0
        for line in results[shared_data / record.name].lines:
            kernel = record.kernel.get(line.n)
            if kernel is None or kernel in NO_VERDICT:
                continue
            total += 1
            pairs[kernel.partition("/")[0], line.ct] += 1
            if kernel == line.linux_ct:
                same += 1
            else:
                found.setdefault(record.name, {})[line.n] = (kernel, line.linux_ct)
                print(f"{record.name} {line.n}: Linux {kernel}, we {line.linux_ct} ({line.verdict} {line.reason})")
        if total:
            agreement.append(same / total)
    for name in CLASSES:
        both = pairs[name, name]
        recall = both / sum(count for (kernel, _), count in pairs.items() if kernel == name)
        precision = both / sum(count for (_, ours), count in pairs.items() if ours == name)
        print(f"{name}: {both} packets, precision {precision:.4f}, recall {recall:.4f}")
        assert precision >= 0.99
        assert recall >= 0.99
    mean = sum(agreement) / len(agreement)
    print(f"mean agreement over {len(agreement)} captures: {mean:.4f}")
    assert mean >= 0.98
    assert found == DIFFERENCES


@pytest.mark.needs_shared_data("kernel-ct-oracle")
@pytest.mark.parametrize("name", NOT_COMPARABLE)
def test_left_out_captures_are_not_plain_ip(name: str, shared_data: Path) -> None:
    """What is left out has something between Ethernet and IPv4, in the first packets that the kernel judged."""
    plain = frozenset({0x0800, 0x0806, 0x86DD})
    wrapped = 0
    for captured in pcap_read(shared_data / name):
        ethertype = int.from_bytes(captured.data[12:14], "big")
        is_4in6 = ethertype == 0x86DD and captured.data[20] == 4
        wrapped += ethertype not in plain or is_4in6
    assert wrapped
