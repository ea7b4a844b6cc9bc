# SPDX-License-Identifier: Apache-2.0
"""Traceflow at one host: packets sent for a trace, and the observations that traced packets leave here."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface
from typing import Any, Final, TypeVar

import numpy as np

from dfw.core import REASONS, VERDICTS
from dfw.core.live import Live
from dfw.core.watch import read_traces, send_trace
from dfw.endpoint import Peer
from dfw.model import address_parse, mac_packed
from dfw.probe import Probe, packet_of
from overlay.hoststate import ROUTE_BLACKHOLE, ROUTE_CONNECTED, ROUTE_GATEWAY, ROUTE_VIA, HostState, RuleState
from overlay.kernel_fabric import routing_domains

Row = dict[str, Any]
Item = TypeVar("Item")

STAGES: Final = (
    *("sent", "filter", "route", "forwarded", "encapsulated", "received", "delivered", "dropped", "answered", "copied"),
)
"""By number (PAL_TRACE_*)."""
SENT, FILTER, ROUTE, FORWARDED, ENCAPSULATED, RECEIVED, DELIVERED, DROPPED, ANSWERED, COPIED = STAGES
KEPT: Final = 256  # traces whose observations are kept until somebody asks
MARKS: Final = 1 << 24
_ROUTES: Final = {0: ROUTE_CONNECTED, 1: ROUTE_VIA, 2: ROUTE_GATEWAY, 3: ROUTE_BLACKHOLE}


@dataclass(frozen=True, slots=True)
class TraceNames:
    """What numbers in observations mean. `vnics`: by filter; `rules`: by number."""

    state: HostState
    vnics: Mapping[int, str]
    rules: Mapping[int, RuleState]


class TraceError(ValueError):
    """A trace that cannot be sent from here: the message is a sentence."""


def is_last(row: Row) -> bool:
    """Does the packet's way end with this observation?"""
    return row["stage"] in (DELIVERED, DROPPED, ANSWERED, COPIED) or (
        row["stage"] == FILTER and row["verdict"] != "ALLOW"
    )


def _at(table: Sequence[Item], number: int) -> Item | None:
    return table[number] if number < len(table) else None


def render_observation(seen: np.void, names: TraceNames, offset_ns: int) -> Row:
    """An observation in words. Members that a stage has nothing to say for are null."""
    state = names.state
    rule = names.rules.get(int(seen["rule"]))
    segment, tep = _at(state.segments, seen["segment"]), _at(state.teps, seen["tep"])
    gateway = _at(state.gateways, seen["gateway"])
    stage = STAGES[seen["stage"]]
    row: Row = {
        "ts": (int(seen["ts_ns"]) + offset_ns) / 1e9,
        "stage": stage,
        "vnic": names.vnics.get(int(seen["filter"])),
        "dir": None,
        "verdict": None,
        "reason": None,
        "rule": None,
        "rule_path": None,
        "segment": None if segment is None else segment.name,
        "vni": None if segment is None else segment.vni,
        "gateway": gateway,
        "route": None,
        "route_kind": None,
        "tep": None if tep is None else tep.ip,
        "remote_host": None if tep is None else tep.host,
    }
    if stage in (FILTER, DROPPED):
        row |= {"verdict": VERDICTS[seen["verdict"]], "reason": REASONS[seen["reason"]]}
    if stage == FILTER:
        row["dir"] = "OUT" if seen["dir"] == 2 else "IN"
        row |= {"rule": None if rule is None else rule.rule_id, "rule_path": None if rule is None else rule.path}
    if stage == ROUTE and int(seen["kind"]) in _ROUTES:
        packed = seen["prefix"].tobytes()
        address = ip_address(packed[:4] if seen["family"] == 1 else packed)
        row |= {"route": f"{address}/{seen['length']}", "route_kind": _ROUTES[int(seen["kind"])]}
    return row


def _refuse_unmarked(state: HostState, segment: int, to: str) -> None:
    """A kernel that forwards does not know a trace's mark: its workload would get the packet as if it were one of its
    sender's own. Raises TraceError."""
    domains, own = routing_domains(state), state.segments[segment].gateway
    for item in state.neighbours:
        gateway = state.segments[item.segment].gateway
        near = item.segment == segment or (None not in (own, gateway) and domains[own or 0] == domains[gateway or 0])
        if near and item.ip == to and item.tep is not None and not state.teps[item.tep].bfd:
            host = state.teps[item.tep].host
            raise TraceError(f"{to} is on host {host}, whose kernel enforces: no trace's mark goes there")


def trace_frame(state: HostState, request: Mapping[str, Any]) -> bytes:
    """The frame that a workload here would send. `request`: vnic, dst, proto, sport, dport (ICMP: type, code).

    Raises TraceError, KeyError, ValueError.
    """
    vnic = next((one for one in state.vnics if one.name == request["vnic"]), None)
    if vnic is None:
        raise TraceError(f"vNIC {request['vnic']} is not on this host")
    destination = address_parse(str(request["dst"]))
    own = [ip_interface(ip) for ip in vnic.ips]
    _refuse_unmarked(state, vnic.segment, str(destination))
    source = next((ip for ip in own if ip.version == ip_address(str(destination)).version), None)
    if source is None:
        raise TraceError(f"vNIC {vnic.name} has no address of the family of {destination}")
    neighbours = (item for item in state.neighbours if item.segment == vnic.segment and item.ip == str(destination))
    mac = next((item.mac for item in neighbours), state.gateway_mac)
    probe = Probe(
        Peer(None, address_parse(str(source.ip))),
        Peer(None, destination),
        int(request["proto"]),
        int(request["sport"]),
        int(request["dport"]),
    )
    kind = 0x0800 if source.version == 4 else 0x86DD
    return mac_packed(mac) + mac_packed(vnic.mac) + kind.to_bytes(2, "big") + packet_of(probe)


@dataclass(slots=True)
class HostTrace:
    """One host's. `names`: what numbers mean now, None before there is a state."""

    live: Live
    number_of: Callable[[str], int | None]
    names: Callable[[], TraceNames | None]
    seen: OrderedDict[int, list[Row]] = field(default_factory=OrderedDict)

    def send(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a packet; the observations that it has left here."""
        names = self.names()
        try:
            mark = int(request["mark"])
            number = self.number_of(str(request["vnic"]))
            if names is None or number is None:
                raise TraceError(f"vNIC {request['vnic']} is not on this host")
            if not 0 < mark < MARKS:
                raise TraceError(f"a mark is 1 to {MARKS - 1}")
            send_trace(self.live, number, trace_frame(names.state, request), mark)
        except (KeyError, TypeError, ValueError) as error:
            return {"error": f"{error!r} is missing" if isinstance(error, KeyError) else str(error)}
        return self.read(mark)

    def read(self, mark: int) -> dict[str, Any]:
        """What a traced packet has left here so far."""
        self._collect()
        return {"rows": self.seen.get(mark, [])}

    def _collect(self) -> None:
        names = self.names()
        found = read_traces(self.live)
        if names is None:
            return
        offset = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for seen in found:
            mark = int(seen["mark"])
            self.seen.setdefault(mark, []).append(render_observation(seen, names, offset))
            self.seen.move_to_end(mark)
        while len(self.seen) > KEPT:
            self.seen.popitem(last=False)
