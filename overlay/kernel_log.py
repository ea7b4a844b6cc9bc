# SPDX-License-Identifier: Apache-2.0
"""A host's firewall log where its kernel enforces: what rules say by NFLOG, written as the core's log is.

A flow has a line for its first packet; the kernel says nothing of its end.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from dfw.firewall_log import LoggedRule, PacketEntry, render_line
from dfw.logs import get_logger
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, Action, Address, Family
from dfw.nftables import Rendered
from dfw.nftables.nflog import LogListener, LogRecord
from dfw.nftables.shared import KNOWN_MARK, RECEIVER_MASK, SENDER_MASK
from dfw.nftables.tables import LOG_GROUP
from dfw.oracle import parse
from overlay.host_log import FILES, MISSED_SECONDS
from overlay.log_file import LogFile

OCTETS: Final = 128  # of a packet: headers and extension headers
_RAW_IP: Final = 101  # LINKTYPE_RAW
_VERDICTS: Final = {action.value: action.value for action in (Action.ALLOW, Action.DROP, Action.REJECT)}


class KernelLog:
    """One host's log files in `folder`, one for each of `formats`. Made by a thread in the host's namespace. Raises
    OSError."""

    def __init__(self, folder: Path, formats: Iterable[str]) -> None:
        self._files = {name: LogFile(folder / FILES[name]) for name in formats}
        self._listener = LogListener(LOG_GROUP, OCTETS)
        self._missed_at: float | None = None
        self._log = get_logger("firewall-log")

    def drain(self, rendered: Rendered | None) -> int:
        """Write what there is. Returns how many lines."""
        entries = []
        try:
            for record in self._listener.records():
                entry = None if rendered is None else log_entry(record, rendered)
                if entry is not None:
                    entries.append(entry)
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            self._missing("lines are missing: the kernel had more than there was room for")
        for name, file in self._files.items() if entries else ():
            try:
                file.write(render_line(entry, name) for entry in entries)
            except OSError as error:
                self._missing(f"{file.path} cannot be written: {error.strerror}")
        return len(entries)

    def _missing(self, text: str) -> None:
        self._missed_at = time.monotonic()
        self._log.warning(text)

    def says(self) -> str | None:
        """What is wrong, for `show health`: lines have been missing within the last minute."""
        is_late = self._missed_at is None or time.monotonic() - self._missed_at > MISSED_SECONDS
        return None if is_late else "lines are missing"

    def close(self) -> None:
        """Close files and socket."""
        self._listener.close()
        for file in self._files.values():
            file.close()


def log_entry(record: LogRecord, rendered: Rendered) -> PacketEntry | None:
    """What a rule said of a packet; None of what nobody knows the vNIC or the rule of."""
    words = record.prefix.split()
    rule = rendered.rule_of.get(words[1]) if len(words) > 1 else None
    vnic, direction = _end(record.mark, rendered.names.vnics)
    version = record.packet[0] >> 4 if record.packet else 0
    if rule is None or vnic is None or rule.action.value not in _VERDICTS or version not in (4, 6):
        return None
    size = int.from_bytes(record.packet[2:4], "big") if version == 4 else 40 + int.from_bytes(record.packet[4:6], "big")
    packet = parse(record.packet, _RAW_IP, size)
    if packet.source < 0:
        return None
    family = Family.IPV4 if version == 4 else Family.IPV6
    sport, dport = packet.source_port, packet.destination_port
    if packet.protocol in (PROTO_ICMP, PROTO_ICMPV6):
        sport, dport = dport >> 8, dport & 255
    return PacketEntry(
        record.ts_ns,
        vnic,
        LoggedRule(rule.rule_id, rule.path, rule.tag),
        "match",
        "match",
        _VERDICTS[rule.action.value],
        direction,
        size,
        packet.protocol,
        Address(family, packet.source),
        Address(family, packet.destination),
        sport,
        dport,
        packet.flags,
    )


def _end(mark: int, numbers: Mapping[str, int]) -> tuple[str | None, str]:
    """Whose rules spoke: the sender's as long as it is in the mark."""
    sender = (mark & SENDER_MASK & ~KNOWN_MARK) >> 16
    number, direction = (sender, "OUT") if sender else (mark & RECEIVER_MASK, "IN")
    return next((name for name, known in numbers.items() if known == number), None), direction
