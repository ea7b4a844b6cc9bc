# SPDX-License-Identifier: Apache-2.0
"""Layer-2 rules for all pairs of workloads at once: which of them a vNIC's rules refuse, and by which rule.

Frames have the ends' own MAC addresses, as on one segment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dfw.compile_ether import EtherCompiled, EtherTable
from dfw.layout import ACTION_DROP, RULE_DST_NEGATED, RULE_SRC_NEGATED
from dfw.model import Direction, Family, Port

_TYPES = {Family.IPV4: 0x0800, Family.IPV6: 0x86DD}


def ether_refused(
    ether: EtherCompiled, ports: Sequence[Port], direction: Direction, family: Family
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint32]]:
    """Rows are senders, columns receivers: refused at the sender's vNIC (OUT) or the receiver's (IN), and the rule."""
    shape = (len(ports), len(ports))
    refused, rules = np.zeros(shape, np.bool_), np.zeros(shape, np.uint32)
    macs = np.array([int(port.mac.replace(":", ""), 16) for port in ports], dtype=np.uint64)
    for number, port in enumerate(ports):
        if port.name not in ether.table_of:
            continue
        table = ether.tables[ether.table_of[port.name]]
        own = macs[number : number + 1]
        ends = (own, macs) if direction is Direction.OUT else (macs, own)
        drops, by = _first_matches(table, *ends, int(direction), _TYPES[family], len(ports))
        at: Any = (number, slice(None)) if direction is Direction.OUT else (slice(None), number)
        refused[at], rules[at] = drops, by
    return refused, rules


def _first_matches(
    table: EtherTable,
    sources: npt.NDArray[np.uint64],
    destinations: npt.NDArray[np.uint64],
    direction: int,
    ether_type: int,
    count: int,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint32]]:
    """For `count` frames: does the first entry that matches drop it, and whose is it?"""
    drops, by = np.zeros(count, np.bool_), np.zeros(count, np.uint32)
    still_open = np.ones(count, np.bool_)
    for row in table.entries:
        if not row["dir"] & direction or row["ether_type"] not in (0, ether_type):
            continue
        matched = still_open & _side(table, row, "src", sources, RULE_SRC_NEGATED)
        matched &= _side(table, row, "dst", destinations, RULE_DST_NEGATED)
        still_open &= ~matched
        if row["action"] == ACTION_DROP:
            drops |= matched
            by[matched] = row["rule"]
    return drops, by


def _side(table: EtherTable, row: Any, name: str, macs: npt.NDArray[np.uint64], negated: int) -> npt.NDArray[np.bool_]:
    if not row[f"{name}_n"]:
        return np.ones(1, np.bool_)
    members = table.macs[row[f"{name}_off"] : row[f"{name}_off"] + row[f"{name}_n"]]
    return np.asarray(np.isin(macs, members) != bool(row["flags"] & negated), dtype=np.bool_)
