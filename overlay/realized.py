# SPDX-License-Identifier: Apache-2.0
"""What a host's agent shows of what is in force there: rows for `palisade show`, from the state realized. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np

from dfw.core import EngineStats, HostStats
from dfw.layout import ETHER_DTYPE, RANGE_DTYPE, RULE_DTYPE
from dfw.model import AddressRange, Family, address_parse
from overlay.hoststate import HostState, NeighbourState

Rows = list[dict[str, Any]]

# What BFD says of a TEP (Teps.report), before it says anything.
NO_SESSION: Final[Mapping[str, None]] = dict.fromkeys(
    (
        "bfd",
        "since",
        "diagnostic",
        "remote_state",
        "remote_diagnostic",
        "interval_ms",
        "detection_ms",
        "changes",
        "dead",
    )
)


def show_vnics(state: HostState, attached: Mapping[str, int], problems: Mapping[str, str]) -> Rows:
    """The host's vNICs. `attached`: filter numbers of those that have a card."""
    return [
        {
            "vnic": vnic.name,
            "segment": state.segments[vnic.segment].name,
            "mac": vnic.mac,
            "ips": [ip.partition("/")[0] for ip in vnic.ips],
            "filter": attached.get(vnic.name),
            "rules": len(np.unique(np.frombuffer(state.tables[vnic.table].entries, RULE_DTYPE)["rule"])),
            "problem": problems.get(vnic.name),
        }
        for vnic in state.vnics
    ]


def show_rules(state: HostState, counts: Mapping[str, tuple[int, int, int]]) -> Rows:
    """Each vNIC's rules in order of judgement. `counts`: hits, packets and bytes on this host, by the rule's path."""
    rows: Rows = []
    for vnic in state.vnics:
        entries = np.frombuffer(state.tables[vnic.table].entries, RULE_DTYPE)["rule"]
        for order, number in enumerate(dict.fromkeys(entries.tolist()), 1):
            rule = state.rules[number]
            hits, packets, octets = counts.get(rule.path, (0, 0, 0))
            rows.append(
                {
                    "vnic": vnic.name,
                    "order": order,
                    "rule": rule.rule_id,
                    "rule_path": rule.path,
                    "tier": rule.tier.capitalize(),
                    "action": rule.action,
                    "logged": rule.logged,
                    "host_hits": hits,
                    "host_packets": packets,
                    "host_bytes": octets,
                }
            )
    return rows


def show_counters(state: HostState, counts: Mapping[str, tuple[int, int, int]], since: datetime | None) -> Rows:
    """Each rule of this host once, with what it has done at all of its vNICs. `since`: the counters' last reset."""
    vnics: Counter[int] = Counter()
    for vnic in state.vnics:
        vnics.update(np.unique(np.frombuffer(state.tables[vnic.table].entries, RULE_DTYPE)["rule"]).tolist())
        if vnic.ether is not None:
            vnics.update(np.unique(np.frombuffer(state.ether[vnic.ether].entries, ETHER_DTYPE)["rule"]).tolist())
    return [
        {
            "rule": rule.rule_id,
            "rule_path": rule.path,
            "tier": rule.tier.capitalize(),
            "action": rule.action,
            "logged": rule.logged,
            "vnics": vnics[number],
            **dict(zip(("hits", "packets", "bytes"), counts.get(rule.path, (0, 0, 0)), strict=True)),
            "since": None if since is None else since.isoformat(timespec="milliseconds"),
            "staged": False,
        }
        for number, rule in enumerate(state.rules)
        if vnics[number]
    ]


def show_groups(state: HostState) -> Rows:
    """The groups that rules here refer to, with their addresses in force; `vnics`: members on this host; `rules`: how
    many refer to it."""
    ranges: dict[str, list[AddressRange]] = {}
    for item in state.sets:
        if item.name:
            ranges.setdefault(item.name, []).extend(_address_ranges(item.ranges))
    here = [(item.vnic, address_parse(item.ip)) for item in state.neighbours if item.vnic and item.ip]
    used = _set_rules(state)
    return [
        {
            "group": name,
            "addresses": [str(one) for one in members],
            "vnics": sorted({vnic for vnic, ip in here if any(one.contains(ip) for one in members)}),
            "rules": len(set().union(*(used[at] for at, item in enumerate(state.sets) if item.name == name))),
        }
        for name, members in sorted(ranges.items())
    ]


def _set_rules(state: HostState) -> list[set[int]]:
    """Of each set, the rules that refer to it."""
    found: list[set[int]] = [set() for _ in state.sets]
    for table in state.tables:
        refs = np.frombuffer(table.refs, np.uint32)
        for row in np.frombuffer(table.entries, RULE_DTYPE):
            for end in ("src", "dst"):
                for at in refs[row[f"{end}_off"] : row[f"{end}_off"] + row[f"{end}_n"]]:
                    found[at].add(int(row["rule"]))
    return found


def show_addrsets(state: HostState) -> Rows:
    """The address sets that rules here refer to, each with its members as prefixes and ranges."""
    return [{"set": item.name or f"raw-{at}", "members": _ranges(item.ranges)} for at, item in enumerate(state.sets)]


def _ranges(data: bytes) -> list[str]:
    return [str(one) for one in _address_ranges(data)]


def _address_ranges(data: bytes) -> list[AddressRange]:
    found = []
    for row in np.frombuffer(data, RANGE_DTYPE):
        family = Family.IPV4 if row["family"] == 1 else Family.IPV6
        first, last = (int.from_bytes(row[end].tobytes()[: family.bits // 8], "big") for end in ("lo", "hi"))
        found.append(AddressRange(family, first, last))
    return found


def show_segments(state: HostState) -> Rows:
    """The segments that this host knows, and where packets for all of one go."""
    here = [vnic.segment for vnic in state.vnics]
    return [
        {
            "segment": item.name,
            "vni": item.vni,
            "gateway": None if item.gateway is None else state.gateways[item.gateway],
            "vnics_here": here.count(number),
            "replicated_to": [state.teps[tep].host for tep in item.replicas],
        }
        for number, item in enumerate(state.segments)
    ]


def _where(state: HostState, item: NeighbourState) -> dict[str, Any]:
    tep = None if item.tep is None else state.teps[item.tep]
    return {"vnic": item.vnic, "behind": None if tep is None else tep.host, "tep": None if tep is None else tep.ip}


def show_mac_table(state: HostState) -> Rows:
    """Where each MAC address of the segments known here is."""
    once = {(item.segment, item.mac): item for item in state.neighbours}
    return [
        {"segment": state.segments[item.segment].name, "mac": item.mac} | _where(state, item) for item in once.values()
    ]


def show_arp_table(state: HostState) -> Rows:
    """Which MAC address answers for an address: the host's own answers to ARP and ND."""
    workloads = [
        {"segment": state.segments[item.segment].name, "ip": item.ip, "mac": item.mac, "of": item.vnic or "remote"}
        for item in state.neighbours
        if item.ip is not None
    ]
    gateways = [
        {
            "segment": state.segments[item.segment].name,
            "ip": item.ip,
            "mac": state.gateway_mac,
            "of": state.gateways[item.gateway],
        }
        for item in state.interfaces
    ]
    return [*workloads, *gateways]


def show_tep_table(state: HostState, sessions: Mapping[str, Mapping[str, Any]]) -> Rows:
    """Other hosts' tunnel endpoints, which segments reach there, and what BFD says of each (overlay/teps.py).

    A TEP of a state that has just come into force has no session yet: its row has the same columns, each None.
    """
    return [
        {
            "remote_host": tep.host,
            "tep": tep.ip,
            "encapsulation": tep.encap,
            "segments": [item.name for item in state.segments if number in item.replicas],
            **NO_SESSION,
            **sessions.get(tep.ip, {}),
        }
        for number, tep in enumerate(state.teps)
    ]


def show_gateways(state: HostState) -> Rows:
    """The distributed routers of this host: their addresses and their tables."""
    rows: Rows = []
    for number, name in enumerate(state.gateways):
        for route in state.routes:
            if route.gateway != number:
                continue
            target = state.gateways if route.kind == "gateway" else state.segments
            where = target[route.target] if route.kind != "blackhole" else None
            rows.append(
                {
                    "gateway": name,
                    "prefix": route.prefix,
                    "kind": route.kind,
                    "target": where if where is None or isinstance(where, str) else where.name,
                    "next_hop": route.next_hop,
                    "addresses": [item.ip for item in state.interfaces if item.gateway == number],
                }
            )
    return rows


def show_stats(stats: EngineStats, frames: HostStats) -> Rows:
    """How often each verdict was given for each reason; then the host's frames: received = passed + consumed + held +
    dropped, spoofguard's and forwarding's reasons among them."""
    rows: Rows = [
        {"verdict": verdict, "reason": reason, "judgements": count}
        for (verdict, reason), count in sorted(stats.counts.items(), key=lambda item: -item[1])
    ]
    for what in ("from_vnics", "from_uplink", "passed", "consumed", "held"):
        rows.append({"frames": what, "reason": None, "count": getattr(frames, what)})
    dropped = sorted(frames.dropped.items(), key=lambda item: -item[1])
    return rows + [{"frames": "dropped", "reason": reason, "count": count} for reason, count in dropped]


STATE_SHOWS: Final[Mapping[str, Callable[[HostState], Rows]]] = {
    "addrsets": show_addrsets,
    "groups": show_groups,
    "segments": show_segments,
    "mac-table": show_mac_table,
    "arp-table": show_arp_table,
    "gateways": show_gateways,
}
"""What the state alone answers, by the word of `palisade show`."""
