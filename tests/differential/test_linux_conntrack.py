# SPDX-License-Identifier: Apache-2.0
"""Each packet's state against Linux's connection tracking, on the captures that the kernel forwarded whole.

Clock stopped, checksums ignored, TCP strict off: the kernel's oracle was recorded so (README of the data). Every packet
on which we differ is named here, with why; docs/policy-semantics.md says the same to users.
"""

from __future__ import annotations

import gzip
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


@dataclass(frozen=True, slots=True)
class Record:
    """What the kernel said about one capture."""

    name: str
    kernel: dict[int, str]


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
                    records.append(Record(row["pcap"], {item["n"]: item["ct"] for item in row["per_packet"]}))
    return records


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
