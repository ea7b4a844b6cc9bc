# SPDX-License-Identifier: Apache-2.0
"""A host's firewall log: what its packet core leaves in a ring, written as lines (dfw/firewall_log.py) to files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np

from dfw.core import REASONS, REASONS_NSX, VERDICTS, flow_words
from dfw.core.live import Live
from dfw.core.watch import LogCounts, log_counts, read_log
from dfw.firewall_log import EndEntry, LoggedRule, PacketEntry, render_line
from dfw.layout_live import LOG_END
from dfw.logs import get_logger
from dfw.model import PROTO_ICMP, PROTO_ICMPV6, Address, Family
from overlay.log_file import LogFile

FILES: Final = {"dfwpktlogs": "dfwpktlogs.log", "json": "dfwpktlogs.jsonl"}
"""By format: the files' names."""
MISSED_SECONDS: Final = 60.0
KNOWN: Final = 4096  # names of vNICs and rules that are kept after they have gone, for the ends of their flows

Entry = PacketEntry | EndEntry


@dataclass(slots=True)
class LogNames:
    """What numbers in records mean: vNICs by their filters' incarnation, rules by number. Those that went stay known
    for a while."""

    vnics: dict[int, str] = field(default_factory=dict)
    rules: dict[int, LoggedRule] = field(default_factory=dict)

    def learn(self, vnics: Mapping[int, str], rules: Mapping[int, LoggedRule]) -> None:
        """These are in force now."""
        _learn(self.vnics, vnics)
        _learn(self.rules, rules)


def _learn(known: dict[int, Any], now: Mapping[int, Any]) -> None:
    for number in now:
        known.pop(number, None)
    known.update(now)  # at the end: the latest
    for number in list(known)[: max(0, len(known) - len(now) - KNOWN)]:
        del known[number]


def log_entries(records: np.ndarray[Any, Any], names: LogNames, offset_ns: int) -> list[Entry]:
    """Records (LOG_DTYPE) as entries, by time. `offset_ns`: from the records' clock to that of the day. What nobody
    knows the vNIC or the rule of is left out."""
    is_end = records["event"] == LOG_END
    ends = iter(flow_words(records["flow"][is_end])[1])
    found: list[Entry] = []
    for record in records:
        flow = record["flow"]
        end = next(ends) if record["event"] == LOG_END else ""
        vnic, rule = names.vnics.get(int(flow["file"])), names.rules.get(int(flow["rule"]))
        if vnic is None or rule is None:
            continue
        size = 4 if flow["family"] == 1 else 16
        family = Family.IPV4 if size == 4 else Family.IPV6
        source, destination = (Address(family, int.from_bytes(flow[a].tobytes()[:size], "big")) for a in ("src", "dst"))
        proto, sport, dport = int(flow["proto"]), int(flow["sport"]), int(flow["dport"])
        direction = "OUT" if flow["dir"] == 2 else "IN"
        if end:
            counts = (int(flow[name]) for name in ("packets", "bytes", "reply_packets", "reply_bytes"))
            ended = int(flow["end_ns"]) + offset_ns
            found.append(EndEntry(ended, vnic, rule, end, direction, proto, source, destination, sport, dport, *counts))
            continue
        if proto in (PROTO_ICMP, PROTO_ICMPV6):
            sport, dport = dport >> 8, dport & 255
        found.append(
            PacketEntry(
                int(flow["start_ns"]) + offset_ns,
                vnic,
                rule,
                REASONS[record["reason"]],
                REASONS_NSX[record["reason"]],
                VERDICTS[record["verdict"]],
                direction,
                int(record["length"]),
                proto,
                source,
                destination,
                sport,
                dport,
                int(record["tcp_flags"]),
            )
        )
    return sorted(found, key=lambda entry: (entry.ts_ns, isinstance(entry, EndEntry)))


def clock_offset() -> int:
    """From CLOCK_BOOTTIME to the time of day, in nanoseconds, now."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class HostLog:
    """One host's log files in `folder`, one for each of `formats`; without any, nothing is written."""

    def __init__(self, live: Live, folder: Path, formats: Iterable[str]) -> None:
        self.live = live
        self.names = LogNames()
        self.files = {name: LogFile(folder / FILES[name]) for name in formats}
        self.missing = LogCounts(0, 0)
        self.unwritten = 0
        self.missed_at: float | None = None
        self.log = get_logger("firewall-log")

    def drain(self) -> int:
        """Write what there is. Returns how many lines; what is missing is said in the agent's own log."""
        lines = 0
        while len(records := read_log(self.live)):
            entries = log_entries(records, self.names, clock_offset())
            lines += len(entries)
            for name, file in self.files.items():
                try:
                    file.write(render_line(entry, name) for entry in entries)
                except OSError as error:
                    self.unwritten += len(entries)
                    self.missed_at = time.monotonic()
                    self.log.error("cannot be written", file=str(file.path), error=str(error), lines=len(entries))
        missing = log_counts(self.live)
        if missing != self.missing:
            lost, refused = missing.lost - self.missing.lost, missing.refused - self.missing.refused
            self.log.warning("lines are missing", lost=lost, refused=refused)
            self.missing = missing
            self.missed_at = time.monotonic()
        return lines

    def says(self) -> str | None:
        """What is wrong, for `show health`: lines have been missing within the last minute."""
        if self.missed_at is None or time.monotonic() - self.missed_at > MISSED_SECONDS:
            return None
        m = self.missing
        return f"lines are missing: {m.lost} lost, {m.refused} beyond the budget, {self.unwritten} not written"

    def close(self) -> None:
        """Close the files."""
        for file in self.files.values():
            file.close()
