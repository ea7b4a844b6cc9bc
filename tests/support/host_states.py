# SPDX-License-Identifier: Apache-2.0
"""What a host's state means, whatever its numbers and the order of its lists."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from msgspec.structs import replace

from dfw.layout import ETHER_DTYPE, RULE_DTYPE
from overlay.hoststate import HostState

_REFERENCES = ("rule", "src_off", "src_n", "dst_off", "dst_n")


def meaning(state: HostState) -> dict[str, Any]:
    """Names instead of numbers; what has no order as multisets."""
    segment = [item.name for item in state.segments]
    tep = [(item.host, item.ip) for item in state.teps]
    plain = [name for name in RULE_DTYPE.names or () if name not in _REFERENCES]

    def entries(number: int) -> list[Any]:
        table = state.tables[number]
        refs = np.frombuffer(table.refs, dtype=np.uint32)

        def sets(offset: int, count: int) -> Any:
            return frozenset(state.sets[int(at)].ranges for at in refs[offset : offset + count])

        found = []
        for row in np.frombuffer(table.entries, dtype=RULE_DTYPE):
            rule = state.rules[int(row["rule"])]
            sides = [
                sets(int(row[f"{side}_off"]), int(row[f"{side}_n"])) if row[f"{side}_n"] else None
                for side in ("src", "dst")
            ]
            known = (rule.path, rule.policy, rule.tier, rule.action, rule.logged, rule.tag)
            found.append((known, sides, [int(row[name]) for name in plain]))
        return found

    def ether(number: int | None) -> Any:
        if number is None:
            return None
        table = state.ether[number]
        rows = np.frombuffer(table.entries, dtype=ETHER_DTYPE)
        return [state.rules[int(row["rule"])].path for row in rows], table.macs

    staged: Any = None
    if state.staged is not None:
        world = replace(
            state, rules=state.staged.rules, sets=state.staged.sets, tables=state.staged.tables, staged=None
        )
        beside = [
            replace(vnic, table=number, ether=None)
            for vnic, number in zip(state.vnics, state.staged.table_of, strict=True)
        ]
        told = meaning(replace(world, vnics=tuple(beside)))["vnics"]
        staged = {name: said[3] for name, said in told.items()} or None  # of a host without vNICs
    vnics = {
        item.name: (item.mac, item.ips, segment[item.segment], entries(item.table), item.timers, ether(item.ether))
        + (item.flood, item.gateways, item.mtu, item.netns, item.guards, item.routes)
        for item in state.vnics
    }
    routed = {"connected": segment, "via": segment, "gateway": list(state.gateways)}
    return {
        "host": (state.host, state.tep, state.bfd, state.underlay_mtu, state.enforcer),
        "vnics": vnics,
        "staged": staged,
        "segments": {
            item.name: (
                item.vni,
                None if item.gateway is None else state.gateways[item.gateway],
                sorted(tep[at] for at in item.replicas),
            )
            for item in state.segments
        },
        "gateways": sorted(state.gateways),
        "neighbours": Counter(
            (segment[item.segment], item.mac, item.ip, item.vnic, None if item.tep is None else tep[item.tep])
            for item in state.neighbours
        ),
        "interfaces": Counter(
            (state.gateways[item.gateway], segment[item.segment], item.ip) for item in state.interfaces
        ),
        "routes": Counter(
            (state.gateways[item.gateway], item.prefix, item.kind, routed[item.kind][item.target], item.next_hop)
            for item in state.routes
        ),
        "teps": sorted(tep),
    }
