# SPDX-License-Identifier: Apache-2.0
"""A host's connections as its agent shows them, and ends them when it is told to."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

import numpy as np

from dfw.core import flow_words
from dfw.core.live import Live
from dfw.core.watch import end_flows, read_flows
from dfw.endpoint import protocol_name
from overlay.flow_filter import FlowFilter, Flows, flow_filter_match
from overlay.hoststate import RuleState

Rows = list[dict[str, Any]]
_NS = 10**9


def read_matching(live: Live, asked: FlowFilter, vnic_of: Mapping[int, str], path_of: Mapping[int, str]) -> list[Flows]:
    """The open connections that are meant, of each worker."""
    found = []
    for worker in range(live.workers):
        flows = read_flows(live, worker)
        found.append(flows[flow_filter_match(asked, flows, vnic_of, path_of)])
    return found


def end_matching(live: Live, asked: FlowFilter, vnic_of: Mapping[int, str], path_of: Mapping[int, str]) -> int:
    """End the connections that are meant. Returns how many."""
    pages = read_matching(live, asked, vnic_of, path_of)
    return sum(end_flows(live, worker, flows["number"]) for worker, flows in enumerate(pages))


def show_flows(
    flows: Flows, vnic_of: Mapping[int, str], path_of: Mapping[int, str], rules: Mapping[str, RuleState]
) -> Rows:
    """Rows of `show flows`, the names of flow records where there are such: addresses and ports are those of the first
    packet, ICMP has its identifier and `type * 256`; `expires` is in seconds, when nothing else comes."""
    states, _ = flow_words(flows)
    rows: Rows = []
    for row, state in zip(flows, states, strict=True):
        path = path_of.get(int(row["rule"]))
        rule = None if path is None else rules.get(path)
        size = 4 if row["family"] == 1 else 16
        rows.append(
            {
                "vnic": vnic_of[int(row["file"])],
                "dir": "OUT" if row["dir"] == 2 else "IN",
                "proto": protocol_name(int(row["proto"])),
                "src": str(ip_address(row["src"].tobytes()[:size])),
                "sport": int(row["sport"]),
                "dst": str(ip_address(row["dst"].tobytes()[:size])),
                "dport": int(row["dport"]),
                "state": state,
                "packets": int(row["packets"]),
                "bytes": int(row["bytes"]),
                "reply_packets": int(row["reply_packets"]),
                "reply_bytes": int(row["reply_bytes"]),
                "expires": round(int(row["end_ns"]) / _NS, 2),
                "rule": None if rule is None else rule.rule_id,
                "rule_path": path,
            }
        )
    return rows


def all_flows(pages: list[Flows]) -> Flows:
    """Those of all workers, by vNIC and port."""
    flows = np.concatenate(pages)
    return flows[np.lexsort((flows["sport"], flows["dport"], flows["file"]))]
