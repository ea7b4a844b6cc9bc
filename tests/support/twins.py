# SPDX-License-Identifier: Apache-2.0
"""The same events through both engines, and where their answers differ, as few packets as show it.

An event list is what traffic.py makes. Answers are plain tuples, equal in both engines: judgements (packet, vNIC,
direction, verdict, reason, rule path, ct, reply), packets that were generated, and flow records.
"""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dfw.core import CTS, NO_FILTER, NO_RULE, REASONS, VERDICTS, Engine, EngineOptions, ReplayOptions, ffi, flow_words
from dfw.core import Replay as NativeReplay
from dfw.enforcer import NativeEnforcer
from dfw.layout import FRAME_DTYPE
from dfw.model import PolicySet
from dfw.oracle import Options, Replay
from tests.support.traffic import Commit, Event, Packet, Scenario, TakeOver

Row = tuple[object, ...]
_DIRECTIONS = {1: "IN", 2: "OUT", 3: "IN_OUT"}
_MANY = 1 << 17


@dataclass(slots=True)
class Answers:
    """What one engine said of all events."""

    judgements: list[Row] = field(default_factory=list)
    generated: list[Row] = field(default_factory=list)
    flows: list[Row] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Difference:
    """The first row that differs: what kind it is of, where, and what both engines said."""

    kind: str
    index: int
    oracle: Row | None
    native: Row | None

    @property
    def packet(self) -> int | None:
        """The number (from 1) of the packet that the row is about, where it is about one."""
        found = [row[0] for row in (self.oracle, self.native) if row is not None and self.kind != "flows"]
        return min(found) if found else None  # type: ignore[type-var]

    def __str__(self) -> str:
        return f"{self.kind}[{self.index}]\n  oracle {self.oracle}\n  native {self.native}"


def oracle_answers(events: Iterable[Event], worlds: Sequence[PolicySet], scenario: Scenario) -> Answers:
    """Everything that the oracle says of these events."""
    options = Options(
        tap=not scenario.vnics,
        verify_checksums=scenario.verify,
        decap=scenario.decap,
        capacity=scenario.capacity,
        limits=scenario.limits,
        clock_stopped=scenario.stopped,
        keep=True,
    )
    replay = Replay(None, worlds[0].inventory if scenario.vnics else None, options)
    number = 0
    for event in events:
        if isinstance(event, Commit):
            replay.commit(worlds[event.number])
        elif isinstance(event, TakeOver):
            replay.take_over()
        else:
            number += 1
            replay.feed(number, event.ts_ns, event.data, event.wire, event.link)
    answers = Answers()
    for j in replay.finish():
        answers.judgements.append((j.n, j.vnic, j.dir, j.verdict, j.reason, j.rule_path, j.ct, j.reply))
    answers.generated = [(g.n, g.vnic, g.data.hex()) for g in replay.generated]
    for f in () if scenario.takeovers else replay.flows():
        answers.flows.append(
            (f.vnic, f.dir, f.proto, f.src, f.sport, f.dst, f.dport, f.packets, f.bytes, f.reply_packets)
            + (
                f.reply_bytes,
                f.dropped,
                f.state,
                f.history,
                f.start_ns,
                f.end_ns,
                f.end_reason,
                f.rule_path,
            )
        )
    return answers


class NativeTwin:
    """The packet core, fed with events; `answers` ends it."""

    def __init__(self, worlds: Sequence[PolicySet], scenario: Scenario, batch: int = 32, workers: int = 1) -> None:
        self._worlds = worlds
        self._vnics = scenario.vnics
        inventory = worlds[0].inventory if scenario.vnics else None
        capacity = scenario.capacity or _MANY
        self._scenario = scenario
        self._batch = batch
        self._state = tempfile.NamedTemporaryFile(prefix="palisade-") if scenario.takeovers else None  # noqa: SIM115
        self._enforcer = NativeEnforcer(
            inventory,
            EngineOptions(
                capacity4=capacity,
                capacity6=capacity,
                workers=workers,
                checksums="verify" if scenario.verify else "count",
                decap=scenario.decap,
                flows=True,
                limits=scenario.limits,
                path=None if self._state is None else self._state.name,
            ),
        )
        self._enforcer.engine.set_epoch(scenario.epoch)
        self._before = Answers()  # of the processes before
        self._begin()
        self._blobs: list[np.ndarray] = []
        self._number = 0

    def _begin(self) -> None:
        scenario = self._scenario
        self._replay = NativeReplay(
            self._enforcer.engine,
            ReplayOptions(vnics=scenario.vnics, stopped=scenario.stopped, collect=True, batch=self._batch),
            self._enforcer.bindings(),
        )
        self._file = self._replay.begin_file('"traffic"')

    def _take_over(self, number: int) -> None:
        """The engine is closed, and opened again on its state file, under the policy that was in force."""
        self._before = self._told()
        enforcer = self._enforcer
        ffi.release(enforcer.engine.handle)
        enforcer.engine = Engine(enforcer.engine.options)
        enforcer._sets.of.clear()  # rules keep their numbers, which connections know; the classifier is a new one
        enforcer._ether.clear()
        enforcer.commit(self._worlds[number])
        self._begin()

    def feed(self, events: Iterable[Event]) -> None:
        """Judge packets; put policies in force."""
        pending: list[Packet] = []
        for event in events:
            if isinstance(event, Packet):
                pending.append(event)
                continue
            self._judge(pending)
            pending = []
            if isinstance(event, TakeOver):
                self._take_over(event.number)
            else:
                self._enforcer.commit(self._worlds[event.number])
        self._judge(pending)

    def _judge(self, packets: list[Packet]) -> None:
        if not packets:
            return
        blob = np.frombuffer(b"".join(packet.data for packet in packets) + b"\0", np.uint8)
        self._blobs.append(blob)  # frames stay where they are until the end
        sizes = np.array([len(packet.data) for packet in packets], np.uint64)
        frames = np.zeros(len(packets), FRAME_DTYPE)
        frames["data"] = np.uint64(blob.ctypes.data) + np.cumsum(sizes) - sizes
        frames["caplen"] = sizes
        frames["wirelen"] = [packet.wire for packet in packets]
        frames["ts_ns"] = np.array([packet.ts_ns for packet in packets], np.uint64)
        frames["linktype"] = [packet.link for packet in packets]
        frames["number"] = np.arange(self._number + 1, self._number + 1 + len(packets))
        self._number += len(packets)
        self._replay.frames(frames, self._file)

    def answers(self) -> Answers:
        """End of the events: everything that the core said."""
        answers = self._told()
        if self._state is not None:
            answers.judgements.sort(key=lambda row: int(str(row[0])))
            self._state.close()
        return answers

    def _told(self) -> Answers:
        """The replay ends."""
        self._replay.finish(flush=self._state is None)
        filters = self._enforcer.filters
        rules = self._enforcer.rules
        answers = self._before
        for r in self._replay.records().tolist():
            number, _, _, rule, where, direction, verdict, reason, ct, reply, _ = r
            known = where != NO_FILTER
            answers.judgements.append(
                (number, filters[where] if known else None, _DIRECTIONS[direction] if known else None)
                + (VERDICTS[verdict], REASONS[reason], None if rule == NO_RULE else rules[rule].path)
                + (CTS[ct], bool(reply))
            )
        for row, data in self._replay.generated():
            answers.generated.append((int(row["number"]), filters[row["filter"]], data.hex()))
        flows = self._replay.flows()[: 0 if self._state is not None else None]
        words = flow_words(flows)
        for flow, state, end in zip(flows, *words, strict=True):
            size = 4 if flow["family"] == 1 else 16
            source, target = (str(ipaddress.ip_address(flow[name].tobytes()[:size])) for name in ("src", "dst"))
            answers.flows.append(
                (
                    filters[flow["filter"]],
                    _DIRECTIONS[int(flow["dir"]) if self._vnics else 3],
                    int(flow["proto"]),
                    source,
                )
                + (int(flow["sport"]), target, int(flow["dport"]), int(flow["packets"]), int(flow["bytes"]))
                + (int(flow["reply_packets"]), int(flow["reply_bytes"]), int(flow["dropped"]), state)
                + (flow["history"].decode(), int(flow["start_ns"]), int(flow["end_ns"]))
                + (end, rules[flow["rule"]].path)
            )
        self._replay.close()
        return answers


def native_answers(
    events: Iterable[Event], worlds: Sequence[PolicySet], scenario: Scenario, batch: int = 32, workers: int = 1
) -> Answers:
    """Everything that the packet core says of these events."""
    twin = NativeTwin(worlds, scenario, batch, workers)
    twin.feed(events)
    return twin.answers()


def find_difference(oracle: Answers, native: Answers) -> Difference | None:
    """The first row that differs, judgements before generated packets before flows."""
    for kind in ("judgements", "generated", "flows"):
        left, right = getattr(oracle, kind), getattr(native, kind)
        if left == right:
            continue
        for index in range(max(len(left), len(right))):
            ours = left[index] if index < len(left) else None
            theirs = right[index] if index < len(right) else None
            if ours != theirs:
                return Difference(kind, index, ours, theirs)
    return None


def events_minimise(events: Sequence[Event], differs: Callable[[Sequence[Event]], bool]) -> list[Event]:
    """The fewest events for which `differs` still holds, by leaving out ever smaller pieces (delta debugging)."""
    kept = list(events)
    size = len(kept) // 2
    while size >= 1:
        at = 0
        while at < len(kept):
            fewer = kept[:at] + kept[at + size :]
            if fewer and differs(fewer):
                kept = fewer
            else:
                at += size
        size = min(size // 2, len(kept) // 2) if size > 1 else 0
    return kept


def explain_difference(events: Sequence[Event], worlds: Sequence[PolicySet], scenario: Scenario) -> str:
    """The difference between the engines on these events, the fewest events that show it, and both engines' answers."""

    def differs(some: Sequence[Event]) -> Difference | None:
        return find_difference(oracle_answers(some, worlds, scenario), native_answers(some, worlds, scenario))

    first = differs(events)
    if first is None:
        return "the engines agree"
    if first.packet is not None:
        events = _up_to(events, first.packet)
    wanted = _shape(first)

    def still(some: Sequence[Event]) -> bool:
        found = differs(some)
        return found is not None and _shape(found) == wanted

    fewest = events_minimise(events, still) if still(events) else list(events)
    found = differs(fewest)
    lines = [f"{scenario}", f"first difference: {first}", f"with {len(fewest)} events: {found}", "events:"]
    lines += [_event_text(event) for event in fewest[:200]]
    lines.append("oracle:")
    oracle = oracle_answers(fewest, worlds, scenario)
    native = native_answers(fewest, worlds, scenario)
    lines += [f"  {row}" for row in oracle.judgements[-40:]]
    lines.append("native:")
    lines += [f"  {row}" for row in native.judgements[-40:]]
    return "\n".join(lines)


def _shape(difference: Difference) -> Row:
    """What a difference is like, whatever packet shows it."""
    if difference.kind == "judgements":
        return ("judgements", *(row and row[3:5] + row[6:] for row in (difference.oracle, difference.native)))
    return (difference.kind,)


def _up_to(events: Sequence[Event], packet: int) -> list[Event]:
    number = 0
    for index, event in enumerate(events):
        number += len(event) > 1
        if number == packet:
            return list(events[: index + 1])
    return list(events)


def _event_text(event: Event) -> str:
    if not isinstance(event, Packet):
        return f"  {event}"
    return f'  Packet({event.ts_ns}, bytes.fromhex("{event.data.hex()}"), {event.wire}, {event.link})'
