# SPDX-License-Identifier: Apache-2.0
"""The firewall log of a replay: judgements and flow records, with the packets read once more for what a line shows.

Nothing here runs, and nothing is kept, unless a log was asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from dfw.capture import open_capture
from dfw.core import NO_FILTER, NO_RULE, REASONS, REASONS_NSX, VERDICTS, Capture, Replay
from dfw.enforcer import NativeEnforcer
from dfw.firewall_log import EndEntry, LoggedRule, PacketEntry, render_line
from dfw.flows import flow_columns
from dfw.model import (
    PROTO_ICMP,
    PROTO_ICMPV6,
    PROTOCOLS_WITH_PORTS,
    Address,
    EffectiveRule,
    Family,
    PolicySet,
    address_parse,
    ether_rules_for_tap,
    rules_for_tap,
)
from dfw.model.policy import EXCLUDED_POLICY
from dfw.oracle.packet import Packet
from dfw.oracle.parse import parse

if TYPE_CHECKING:
    from dfw.replay_run import RunOptions

_NSX_REASONS = dict(zip(REASONS, REASONS_NSX, strict=True))
_SILENT = frozenset({"state", "related"})  # of a flow whose first packet was logged
_CLOSED = {"TIME_WAIT": "fin", "CLOSED": "rst"}  # states of connections that only wait for their entry to go
_DIRECTIONS = {1: "IN", 2: "OUT", 3: "IN_OUT"}


class LogRecord(NamedTuple):
    """A judgement that may be logged. `n`: the packet's number in its file."""

    file: str
    n: int
    vnic: str
    dir: str
    verdict: str
    reason: str
    rule_path: str


def logged_rules(world: PolicySet) -> dict[str, LoggedRule]:
    """The rules whose flows are logged, by path."""
    items: list[EffectiveRule] = [*ether_rules_for_tap(world), *rules_for_tap(world)]
    rules = [*(item.rule for item in items), *EXCLUDED_POLICY.rules]
    return {rule.path: LoggedRule(rule.number, rule.path, rule.tag) for rule in rules if rule.logged}


def native_records(replay: Replay, enforcer: NativeEnforcer, files: Sequence[str]) -> Iterator[LogRecord]:
    """What the core judged by logged rules, first packets and refusals, in order."""
    records = replay.records()
    silent = [REASONS.index(word) for word in _SILENT]
    is_logged = [rule.logged for rule in enforcer.rules]
    for record in records[(records["rule"] != NO_RULE) & (records["filter"] != NO_FILTER)]:
        if is_logged[record["rule"]] and record["reason"] not in silent:
            yield LogRecord(
                files[record["file"]],
                int(record["number"]),
                enforcer.filters[record["filter"]],
                _DIRECTIONS[int(record["dir"])],
                VERDICTS[record["verdict"]],
                REASONS[record["reason"]],
                enforcer.rules[record["rule"]].path,
            )


def native_flows(replay: Replay, enforcer: NativeEnforcer, files: Sequence[str]) -> list[dict[str, Any]]:
    """The flow records, with the names that flow files have, and `start_ns`, `end_ns`."""
    columns = flow_columns(replay, enforcer, files)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def log_entries(
    world: PolicySet, records: Iterable[LogRecord], flows: Iterable[Mapping[str, Any]], *, decap: bool
) -> list[PacketEntry | EndEntry]:
    """All lines in order of time; at the same time, first packets before ends.

    Of the flows still open at the end of the input those have ended that FIN or RST closed.
    """
    rules = logged_rules(world)
    wanted: dict[str, list[LogRecord]] = {}
    for record in records:
        if record.rule_path in rules and record.reason not in _SILENT:
            wanted.setdefault(record.file, []).append(record)
    entries: list[PacketEntry | EndEntry] = []
    for file, some in wanted.items():
        packets = _packets(file, {record.n for record in some}, decap)
        for record in some:
            ts_ns, packet = packets[record.n]
            if packet.ip_version and not packet.fragment_offset:
                entries.append(_packet_entry(record, rules[record.rule_path], ts_ns, packet))
    for flow in flows:
        rule = rules.get(str(flow["rule_path"]))
        reason = flow["end_reason"] if flow["end_reason"] != "open" else _CLOSED.get(flow["state"])
        if rule is not None and reason is not None:
            entries.append(_end_entry(flow, rule, reason))
    return sorted(entries, key=lambda entry: (entry.ts_ns, isinstance(entry, EndEntry)))


def _packets(file: str, numbers: set[int], decap: bool) -> dict[int, tuple[int, Packet]]:
    """Time and fields of the packets with these numbers, read from the capture again."""
    found: dict[int, tuple[int, Packet]] = {}
    with open_capture(file) as source:
        capture = Capture(source.view)
        try:
            while len(found) < len(numbers) and len(frames := capture.frames()):
                for frame in frames:
                    number = int(frame["number"])
                    if number in numbers:
                        at = int(frame["data"]) - capture.base
                        data = bytes(source.view[at : at + int(frame["caplen"])])
                        packet = parse(data, int(frame["linktype"]), int(frame["wirelen"]), decap=decap)
                        found[number] = int(frame["ts_ns"]), packet
        finally:
            capture.close()
    return found


def _packet_entry(record: LogRecord, rule: LoggedRule, ts_ns: int, packet: Packet) -> PacketEntry:
    family = Family.IPV4 if packet.ip_version == 4 else Family.IPV6
    ports = packet.source_port, packet.destination_port
    if packet.is_fragment:
        ports = _fragment_ports(packet)
    elif packet.icmp_type >= 0:
        ports = packet.icmp_type, packet.icmp_code
    return PacketEntry(
        ts_ns,
        record.vnic,
        rule,
        record.reason,
        _NSX_REASONS[record.reason],
        record.verdict,
        record.dir,
        packet.ip_length,
        packet.protocol,
        Address(family, packet.source),
        Address(family, packet.destination),
        *ports,
        packet.flags,
    )


def _fragment_ports(packet: Packet) -> tuple[int, int]:
    """What a datagram's first fragment shows of its ports, or ICMP type and code; zeros where it is too short."""
    head = packet.data[packet.l4 : min(packet.l4 + 4, packet.end)]
    if packet.protocol in (PROTO_ICMP, PROTO_ICMPV6):
        return (head[0], head[1]) if len(head) > 1 else (0, 0)
    if packet.protocol in PROTOCOLS_WITH_PORTS and len(head) == 4:
        return int.from_bytes(head[:2], "big"), int.from_bytes(head[2:], "big")
    return 0, 0


def _end_entry(flow: Mapping[str, Any], rule: LoggedRule, reason: str) -> EndEntry:
    return EndEntry(
        flow["end_ns"],
        flow["vnic"],
        rule,
        reason,
        flow["dir"],
        flow["proto"],
        address_parse(flow["src"]),
        address_parse(flow["dst"]),
        flow["sport"],
        flow["dport"],
        *(flow[name] for name in ("packets", "bytes", "reply_packets", "reply_bytes")),
    )


def log_native(
    world: PolicySet, replay: Replay, enforcer: NativeEnforcer, options: RunOptions, files: Sequence[str]
) -> None:
    """Write the log of a finished replay by the packet core. Raises OSError."""
    records, flows = native_records(replay, enforcer, files), native_flows(replay, enforcer, files)
    assert options.log is not None
    write_log(options.log, options.log_format, log_entries(world, records, flows, decap=options.decap))


def write_log(path: str, log_format: str, entries: Iterable[PacketEntry | EndEntry]) -> None:
    """One line an entry; `-` is standard output. Raises OSError."""
    with open("/dev/stdout" if path == "-" else os.fspath(path), "w", encoding="utf-8") as file:
        file.writelines(f"{render_line(entry, log_format)}\n" for entry in entries)
