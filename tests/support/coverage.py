# SPDX-License-Identifier: Apache-2.0
"""What generated traffic has covered: reasons, cells of the state tables, and both sides of every timer.

Reasons come from the judgements of either engine. Cells and timers come from the oracle, whose trackers and table are
watched while it runs: it is the slow twin that can be looked into.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import dfw.oracle.conntrack as conntrack
from dfw.model import Timers
from dfw.oracle import sctp, tcp
from dfw.oracle.worker import Worker

_PROBE = Timers(*range(1, len(fields(Timers)) + 1))
_NAMES = [item.name for item in fields(Timers)]
_COUNTERS = ("reasons", "cells", "sctp", "timers", "outcomes")
_REASONS = Path(__file__).resolve().parents[2] / "native" / "core" / "reasons.def"
# A guard of live vNICs, off in a replay; and the word for a fragment that no line was written of yet.
UNREACHABLE_REASONS = frozenset({"bad-address", "held"})
SCTP_EVENTS = {0: "DATA", 1: "INIT", 2: "INIT_ACK", 6: "ABORT", 7: "SHUTDOWN", 8: "SHUTDOWN_ACK"} | {
    10: "COOKIE_ECHO",
    11: "COOKIE_ACK",
    14: "SHUTDOWN_COMPLETE",
}


# Of connections that another process took over: what it believes of them, and when it knows them again.
RESYNC_OUTCOMES = {"resync accepted", "resync refused", "resync heard enough", "resync ran out"}


def reasons_known() -> list[str]:
    """The log words of native/core/reasons.def, without those of live hosts only."""
    text = _REASONS.read_text("utf-8").partition("/* Of live hosts only")[0]
    return re.findall(r'^REASON\(\w+,\s+"([\w-]+)"', text, re.MULTILINE)


def tcp_cells() -> set[tuple[str, str, int]]:
    """Every (state, event, direction) of the TCP table, "none" included (original direction only)."""
    cells = {(str(state), str(event), way) for state in tcp.TcpState for event in tcp.Event for way in (0, 1)}
    return cells | {("none", str(event), 0) for event in tcp.Event}


def sctp_cells() -> set[tuple[str, str, int]]:
    """Every (state, event, direction) of SCTP, "none" included."""
    events = set(SCTP_EVENTS.values())
    cells = {(state.value, event, way) for state in sctp.SctpState for event in events for way in (0, 1)}
    return cells | {("none", event, 0) for event in events}


def timer_sides() -> set[tuple[str, str]]:
    """Every timer, met on the last tick of a connection's life and on the first after it."""
    return {(name, side) for name in _NAMES for side in ("alive", "dead")}


@dataclass(slots=True)
class Coverage:
    """Counts of what was seen; `missing` says what was not."""

    reasons: Counter[str] = field(default_factory=Counter)
    cells: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    sctp: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    timers: Counter[tuple[str, str]] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    hits: int = 0
    judgements: int = 0

    def add(self, other: Coverage) -> None:
        """Take over another run's counts."""
        for name in _COUNTERS:
            getattr(self, name).update(getattr(other, name))
        self.hits += other.hits
        self.judgements += other.judgements

    def as_json(self) -> dict[str, Any]:
        """For a file; `from_json` reads it."""
        found: dict[str, Any] = {"hits": self.hits, "judgements": self.judgements}
        for name in _COUNTERS:
            found[name] = [[key, count] for key, count in getattr(self, name).items()]
        return found

    @classmethod
    def from_json(cls, row: Mapping[str, Any]) -> Coverage:
        """What `as_json` wrote."""
        found = cls(hits=row["hits"], judgements=row["judgements"])
        for name in _COUNTERS:
            getattr(found, name).update({_key(key): count for key, count in row[name]})
        return found

    @property
    def hit_share(self) -> float:
        """Share of the judgements that found a connection."""
        return self.hits / max(1, self.judgements)

    def missing(self, reasons: Iterable[str]) -> dict[str, list[Any]]:
        """What of `reasons` (names of reasons.def), cells, timers and outcomes nothing covered."""
        wanted = {
            "reasons": set(reasons) - UNREACHABLE_REASONS - set(self.reasons),
            "cells": tcp_cells() - set(self.cells),
            "sctp": sctp_cells() - set(self.sctp),
            "timers": timer_sides() - set(self.timers),
            "outcomes": {"sequence wrap", "takeover", "child", "reopened", "evicted", "one-way"} - set(self.outcomes),
            "resync": RESYNC_OUTCOMES - set(self.outcomes),
        }
        return {name: sorted(items, key=str) for name, items in wanted.items() if items}


def _key(key: Any) -> Any:
    return tuple(key) if isinstance(key, list) else key


def timer_of(connection: Any) -> str:
    """Name of the timer that runs for a connection."""
    return _NAMES[conntrack.timeout_ticks(connection, _PROBE) // conntrack.TICKS_PER_SECOND - 1]


@contextmanager
def watch() -> Iterator[Coverage]:
    """Watches every oracle that runs inside the `with` block."""
    seen = Coverage()
    find, end, insert = (getattr(conntrack.ConnectionTable, name) for name in ("find", "end", "insert"))
    track_tcp, begin_tcp, track_sctp = tcp.track, tcp.may_begin, sctp.track
    begin_sctp = sctp.may_begin
    resync_time = Worker.resync_time

    def watched_find(table: Any, key: Any, packet: Any, now: int) -> Any:
        entry = table._by_key.get(key)
        if entry is not None:
            late = now - entry[0].deadline
            if late == 0 or late == 1:
                seen.timers[timer_of(entry[0]), "dead" if late else "alive"] += 1
        found = find(table, key, packet, now)
        seen.hits += found is not None
        return found

    def watched_end(table: Any, connection: Any, reason: str) -> None:
        seen.outcomes[reason] += 1
        end(table, connection, reason)

    def watched_insert(table: Any, connection: Any) -> None:
        if connection.parent is not None:
            seen.outcomes["child"] += 1
        if connection.one_way:
            seen.outcomes["one-way"] += 1
        insert(table, connection)

    def watched_tcp(tracker: Any, direction: int, packet: Any) -> str:
        state, event = tracker.state, tcp.event_of(packet.flags)
        seen.cells[str(state), str(event), direction] += 1
        half = tracker.halves[direction]
        before, was_seen = half.end, half.seen
        relearning = tracker.resync is not None
        result = track_tcp(tracker, direction, packet)
        if relearning and result in ("accepted", "tcp-window", "tcp-ack", "tcp-rst"):
            seen.outcomes["resync accepted" if result == "accepted" else "resync refused"] += 1
            seen.outcomes["resync heard enough"] += result == "accepted" and tracker.resync is None
        if was_seen and result == "accepted" and tracker.halves[direction].end < before and state != "SYN_SENT":
            seen.outcomes["sequence wrap"] += 1
        if event is tcp.Event.SYN_ACK and result == "accepted" and direction == 1 and str(state) in _LATER:
            seen.outcomes["takeover"] += 1
        return result

    def watched_resync(worker: Any, tracker: Any) -> None:
        relearning = tracker.resync is not None
        resync_time(worker, tracker)
        if relearning and tracker.resync is None:
            seen.outcomes["resync ran out"] += 1

    def watched_sctp(tracker: Any, direction: int, packet: Any, *rest: Any) -> str:
        seen.sctp[tracker.state.value, SCTP_EVENTS[packet.chunk], direction] += 1
        return track_sctp(tracker, direction, packet, *rest)

    def watched_begin_tcp(packet: Any) -> bool:
        seen.cells["none", str(tcp.event_of(packet.flags)), 0] += 1
        return begin_tcp(packet)

    def watched_begin_sctp(packet: Any) -> bool:
        seen.sctp["none", SCTP_EVENTS[packet.chunk], 0] += 1
        return begin_sctp(packet)

    patches: list[tuple[Any, str, Any, Any]] = [
        (conntrack.ConnectionTable, "find", find, watched_find),
        (conntrack.ConnectionTable, "end", end, watched_end),
        (conntrack.ConnectionTable, "insert", insert, watched_insert),
        (Worker, "resync_time", resync_time, watched_resync),
        (tcp, "track", track_tcp, watched_tcp),
        (tcp, "may_begin", begin_tcp, watched_begin_tcp),
        (sctp, "track", track_sctp, watched_sctp),
        (sctp, "may_begin", begin_sctp, watched_begin_sctp),
    ]
    for owner, name, _, replacement in patches:
        setattr(owner, name, replacement)
    try:
        yield seen
    finally:
        for owner, name, original, _ in patches:
            setattr(owner, name, original)


_LATER = {"ESTABLISHED", "FIN_WAIT", "CLOSING", "TIME_WAIT", "CLOSED", "SYN_RECEIVED"}
