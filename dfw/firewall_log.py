# SPDX-License-Identifier: Apache-2.0
"""The firewall log: NSX's `dfwpktlogs` line, and the same as JSON. Pure: entries in, text out.

A logged rule's flow has a line for its first packet, after the verdict, and one for its end; what is refused, and what
a stateless rule lets pass, has a line a packet. Form: nsx-reference Part A 1 (NSX 3.x, without the host's syslog
header):

    2018-07-03T19:44:09.749Z b6507827 INET match PASS 1024 IN 52 TCP 192.168.4.3/49627->192.168.4.4/443 S web
    2018-07-03T19:44:30.585Z 7396c504 INET TERM 1024 OUT TCP RST 192.168.4.3/49627->192.168.4.4/443 20/16 1718/76308 web
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zlib import crc32

from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTO_TCP, PROTO_UDP, PROTOCOLS_WITH_PORTS, Address, Family

FORMATS = ("dfwpktlogs", "json")
LABEL_CHARACTERS = 32  # of a rule's tag, in NSX's line; JSON has all of it
_ACTIONS = {"ALLOW": "PASS", "DROP": "DROP", "REJECT": "REJECT"}
_PROTOCOLS = {PROTO_TCP: "TCP", PROTO_UDP: "UDP", PROTO_ICMP: "ICMP", PROTO_ICMPV6: "ICMP6"}
_FLAGS = "FSRPAUEW"  # by bit: FIN 1, SYN 2, RST 4, PSH 8, ACK 16, URG 32, ECE 64, CWR 128 (RFC 9293)
_FLAG_ORDER = "SFRPAUEW"  # NSX writes SA, SEW, FA
_ENDS = {"fin": "FIN", "rst": "RST"}


@dataclass(frozen=True, slots=True)
class LoggedRule:
    """What a line says of the rule: `number` is rule_id, `label` its tag."""

    number: int
    path: str
    label: str = ""


@dataclass(frozen=True, slots=True)
class PacketEntry:
    """A judgement. `reason`: ours; `nsx_reason`: NSX's word for it. `dir`: IN, OUT, or IN_OUT on a wire. `length`: the
    IP packet's, in bytes. ICMP has `sport` the type, `dport` the code; other protocols without ports have 0."""

    ts_ns: int
    vnic: str
    rule: LoggedRule
    reason: str
    nsx_reason: str
    verdict: str
    dir: str
    length: int
    protocol: int
    source: Address
    destination: Address
    sport: int = 0
    dport: int = 0
    tcp_flags: int = 0


@dataclass(frozen=True, slots=True)
class EndEntry:
    """The end of a flow. `reason`: ours (fin, rst, timeout, ...). Packets and bytes of the first packet's direction,
    and of replies. `ts_ns`: of the last packet."""

    ts_ns: int
    vnic: str
    rule: LoggedRule
    reason: str
    dir: str
    protocol: int
    source: Address
    destination: Address
    sport: int
    dport: int
    packets: int
    bytes: int
    reply_packets: int
    reply_bytes: int


def filter_hash(vnic: str) -> str:
    """The eight digits by which a line names its filter: CRC-32 of the vNIC's name."""
    return f"{crc32(vnic.encode()):08x}"


def render_packet(entry: PacketEntry) -> str:
    """NSX's line for a packet."""
    parts = [_time(entry.ts_ns), filter_hash(entry.vnic), _inet(entry.source), entry.nsx_reason]
    parts += [_ACTIONS[entry.verdict], str(entry.rule.number), _direction(entry.dir), str(entry.length)]
    parts += [protocol_word(entry.protocol), _ends(entry)]
    if entry.protocol == PROTO_TCP:
        parts.append(flags_text(entry.tcp_flags))
    return _with_label(parts, entry.rule)


def render_end(entry: EndEntry) -> str:
    """NSX's line for the end of a flow. Of reasons NSX has RST, FIN and TIMEOUT."""
    # In and out are the workload's: what a flow's first packet went is `dir`.
    incoming = entry.dir != "OUT"
    packets = (entry.packets, entry.reply_packets) if incoming else (entry.reply_packets, entry.packets)
    sizes = (entry.bytes, entry.reply_bytes) if incoming else (entry.reply_bytes, entry.bytes)
    reason = _ENDS.get(entry.reason, "TIMEOUT") if entry.protocol == PROTO_TCP else "TIMEOUT"
    parts = [_time(entry.ts_ns), filter_hash(entry.vnic), _inet(entry.source), "TERM", str(entry.rule.number)]
    parts += [_direction(entry.dir), protocol_word(entry.protocol), reason, _ends(entry)]
    parts += [f"{packets[0]}/{packets[1]}", f"{sizes[0]}/{sizes[1]}"]
    return _with_label(parts, entry.rule)


def render_line(entry: PacketEntry | EndEntry, log_format: str) -> str:
    """One line without its newline. `log_format`: one of FORMATS."""
    if log_format == "json":
        return json.dumps(entry_json(entry), ensure_ascii=False)
    return render_packet(entry) if isinstance(entry, PacketEntry) else render_end(entry)


def entry_json(entry: PacketEntry | EndEntry) -> dict[str, Any]:
    """The entry as a JSON object: the line's facts in our words, the label whole."""
    common: dict[str, Any] = {
        "ts": _time(entry.ts_ns),
        "event": "packet" if isinstance(entry, PacketEntry) else "end",
        "vnic": entry.vnic,
        "filter": filter_hash(entry.vnic),
        "rule": entry.rule.number,
        "rule_path": entry.rule.path,
        "label": entry.rule.label,
        "dir": entry.dir,
        "reason": entry.reason,
        "proto": entry.protocol,
        "src": str(entry.source),
        "sport": entry.sport if entry.protocol in PROTOCOLS_WITH_PORTS else None,
        "dst": str(entry.destination),
        "dport": entry.dport if entry.protocol in PROTOCOLS_WITH_PORTS else None,
    }
    if isinstance(entry, PacketEntry):
        is_icmp = entry.protocol in (PROTO_ICMP, PROTO_ICMPV6)
        return common | {
            "nsx_reason": entry.nsx_reason,
            "verdict": entry.verdict,
            "length": entry.length,
            "tcp_flags": flags_text(entry.tcp_flags) if entry.protocol == PROTO_TCP else None,
            "icmp_type": entry.sport if is_icmp else None,
            "icmp_code": entry.dport if is_icmp else None,
        }
    names = ("packets", "bytes", "reply_packets", "reply_bytes")
    return common | {name: getattr(entry, name) for name in names}


def protocol_word(protocol: int) -> str:
    """TCP, UDP, ICMP, ICMP6, else `PROTO n`."""
    return _PROTOCOLS.get(protocol, f"PROTO {protocol}")


def flags_text(flags: int) -> str:
    """S, SA, FA, SEW ...; `-` for none."""
    return "".join(letter for letter in _FLAG_ORDER if flags & 1 << _FLAGS.index(letter)) or "-"


def _time(ts_ns: int) -> str:
    moment = datetime.fromtimestamp(ts_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ts_ns // 10**6 % 1000:03d}Z"


def _inet(address: Address) -> str:
    return "INET" if address.family is Family.IPV4 else "INET6"


def _direction(direction: str) -> str:
    return "OUT" if direction == "OUT" else "IN"  # NSX knows no wire: what passes by comes in


def _ends(entry: PacketEntry | EndEntry) -> str:
    if entry.protocol not in PROTOCOLS_WITH_PORTS:
        return f"{entry.source}->{entry.destination}"
    return f"{entry.source}/{entry.sport}->{entry.destination}/{entry.dport}"


def _with_label(parts: list[str], rule: LoggedRule) -> str:
    # A label is the policy's text: it must not begin another line.
    label = "".join(character if character.isprintable() else "?" for character in rule.label[:LABEL_CHARACTERS])
    return " ".join([*parts, *([label] if label else [])])
