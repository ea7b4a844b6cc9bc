# SPDX-License-Identifier: Apache-2.0
"""What staged policies would change: which packets and flows would be cut, or newly pass, and by which rule.

Both backends say for each packet where the two worlds differ (`pal_change` in native/include/palisade_core.h); here
that is summed up. A flow is a connection of the world in which it passes, known by its first packet: the two
connections of a packet between two vNICs are one flow.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from dfw.core import NO_FILTER, NO_RULE, REASONS, VERDICTS
from dfw.layout import STAGED_FLOW_DTYPE
from dfw.records import seconds

CUT, PASS = 1, 2
HERE, OPENS, REPLY, PORTS = 1, 2, 4, 8
NO_VERDICT: Final = 0xFF
FILE_SHIFT: Final = 40
REFUSED: Final = "REFUSED"
"""State of the flow records of what would newly pass, and has no connection in force."""
FLOWS_LISTED: Final = 10_000
"""At most so many flows stand in the summary."""
_WORDS = {CUT: "cut", PASS: "pass"}
_PROTO_ICMP = (1, 58)
_KEY = np.dtype([("flow", np.uint64), ("filter", np.uint16)])

Changes: TypeAlias = npt.NDArray[np.void]
"""CHANGE_DTYPE, in the packets' order."""


def directions_of(vnics: bool) -> dict[int, str | None]:
    """Words for the directions of changes, at vNICs or on a tap."""
    return {0: None, 1: "IN", 2: "OUT", 3: "IN_OUT"} if vnics else {0: None, **dict.fromkeys((1, 2, 3), "IN_OUT")}


class RuleName(NamedTuple):
    """What is shown of a rule."""

    rule: int
    rule_path: str


class Names(NamedTuple):
    """What the numbers in changes mean: rules in force, staged ones, filters, files, reasons; and staged policies."""

    rules: Sequence[RuleName]
    staged_rules: Sequence[RuleName]
    filters: Sequence[str]
    files: Sequence[str]
    directions: dict[int, str | None]
    policies: Sequence[str]
    reasons: Sequence[str] = REASONS


@dataclass(slots=True)
class _Flow:
    """`first`: the change of its first packet that differs."""

    change: int
    first: np.void
    last_ns: int = 0
    packets: int = 0
    bytes: int = 0


@dataclass(slots=True)
class StagedChanges:
    """The changes of a run, summed up as they come. Memory grows with the flows that differ; with `keep_flows`, for
    `of_flows`, with all of them."""

    keep_flows: bool = False
    _packets: dict[int, int] = field(default_factory=lambda: {CUT: 0, PASS: 0})
    _bytes: dict[int, int] = field(default_factory=lambda: {CUT: 0, PASS: 0})
    _flows: dict[tuple[int, int], _Flow] = field(default_factory=dict)
    _loose: dict[tuple[int, int, int], list[int]] = field(default_factory=dict)  # packets of no flow
    _opened: list[Changes] = field(default_factory=list)
    _cut_keys: list[npt.NDArray[np.void]] = field(default_factory=list)
    _cut_packets: list[npt.NDArray[np.int64]] = field(default_factory=list)

    def add(self, rows: Changes) -> None:
        """The changes of the packets that follow those before."""
        for change in (CUT, PASS):
            part = rows[rows["change"] == change]
            if len(part):
                self._packets[change] += len(part)
                self._bytes[change] += int(part["bytes"].sum())
                self._add_flows(change, part[part["flow"] != 0])
                self._add_loose(change, part[part["flow"] == 0])
        if self.keep_flows:
            self._opened.append(rows[(rows["marks"] & OPENS) != 0])
            cut = rows[((rows["marks"] & HERE) != 0) & (rows["verdict"] == 0) & (rows["flow"] != 0)]
            keys, packets = np.unique(_keys(cut["flow"], cut["filter"]), return_counts=True)
            self._cut_keys.append(keys)
            self._cut_packets.append(packets)

    def _add_flows(self, change: int, rows: Changes) -> None:
        numbers, first, inverse = np.unique(rows["flow"], return_index=True, return_inverse=True)
        sums = _sums(inverse, len(numbers), rows["bytes"])
        last = np.zeros(len(numbers), dtype=np.uint64)
        last[inverse] = rows["ts_ns"]  # of several the last one stays
        for number, at, ns, (packets, size) in zip(
            numbers.tolist(), first.tolist(), last.tolist(), sums.tolist(), strict=True
        ):
            flow = self._flows.get((change, number))
            if flow is None:
                flow = self._flows[change, number] = _Flow(change, rows[at].copy())
            flow.last_ns = ns
            flow.packets += packets
            flow.bytes += size

    def _add_loose(self, change: int, rows: Changes) -> None:
        for rule, reason, size in zip(
            *(rows[name].tolist() for name in ("staged_rule", "staged_reason", "bytes")), strict=True
        ):
            sums = self._loose.setdefault((change, rule, reason), [0, 0])
            sums[0] += 1
            sums[1] += size

    def of_flows(self, flows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
        """For each flow record (FLOW_DTYPE): what its first packet would have met at this filter, and what would have
        been cut, or newly pass (STAGED_FLOW_DTYPE). Needs `keep_flows`."""
        found = np.zeros(len(flows), dtype=STAGED_FLOW_DTYPE)
        found["verdict"], found["reason"], found["rule"] = NO_VERDICT, NO_VERDICT, NO_RULE
        passing, at_flow = self._passing(flows)
        for flow, at in zip(passing, at_flow.tolist(), strict=True):
            if at >= 0:
                found["passes"][at] = flow.packets
        if not self._opened:
            return found
        opened = np.concatenate(self._opened)
        mine = _flow_keys(flows)
        parts = [mine, _keys(opened["flow"], opened["filter"]), *self._cut_keys]
        _, inverse = np.unique(np.concatenate(parts), return_inverse=True)
        own, first, cut = np.split(inverse, [len(mine), len(mine) + len(opened)])
        size = int(inverse.max(initial=-1)) + 1
        of_first = np.full(size, -1, dtype=np.int64)
        of_first[first[::-1]] = np.arange(len(opened))[::-1]
        packets = np.zeros(size, dtype=np.int64)
        np.add.at(packets, cut, np.concatenate(self._cut_packets))
        at = of_first[own]
        known = at >= 0
        for name in ("verdict", "reason", "rule"):
            found[name][known] = opened[f"staged_{name}"][at[known]]
        found["packets"] = packets[own]
        return found

    def _passing(self, flows: npt.NDArray[np.void]) -> tuple[list[_Flow], npt.NDArray[np.int64]]:
        """The flows that would newly pass, in order of their first packets, and the place among the given records of
        each one's connection at the filter that refuses it; -1: in force it has none there."""
        passing = sorted(
            (flow for flow in self._flows.values() if flow.change == PASS), key=lambda flow: _place(flow.first)
        )
        mine = _flow_keys(flows)
        theirs = _keys(
            np.array([flow.first["flow"] for flow in passing], dtype=np.uint64),
            np.array([flow.first["filter"] for flow in passing], dtype=np.uint16),
        )
        _, inverse = np.unique(np.concatenate([mine, theirs]), return_inverse=True)
        place = np.full(len(inverse), -1, dtype=np.int64)
        place[inverse[: len(mine)]] = np.arange(len(mine))
        return passing, place[inverse[len(mine) :]]

    def new_flows(self, flows: npt.NDArray[np.void], names: Names) -> Iterator[dict[str, Any]]:
        """What would newly pass where no given flow record (FLOW_DTYPE) is: one record a flow, by the names of
        dfw.flows.COLUMNS and STAGED_COLUMNS, in order of their first packets. Needs `keep_flows`."""
        for flow, at in zip(*self._passing(flows), strict=True):
            if at < 0:
                yield _new_flow(flow, names)

    def summary(self, names: Names) -> dict[str, Any]:
        """The member `staged` of `replay -o json`."""
        flows = sorted(self._flows.values(), key=lambda flow: (*_place(flow.first), flow.change))
        of_rule: dict[tuple[int, int, int], list[int]] = {key: [0, *sums] for key, sums in self._loose.items()}
        for flow in flows:
            key = flow.change, int(flow.first["staged_rule"]), int(flow.first["staged_reason"])
            sums = of_rule.setdefault(key, [0, 0, 0])
            for at, count in enumerate((1, flow.packets, flow.bytes)):
                sums[at] += count
        rows = [
            {
                "change": _WORDS[change],
                **_named(names.staged_rules, rule),
                "reason": names.reasons[reason],
                **dict(zip(("flows", "packets", "bytes"), sums, strict=True)),
            }
            for (change, rule, reason), sums in of_rule.items()
        ]
        return {
            "policies": list(names.policies),
            **{_WORDS[change]: self._total(change, flows) for change in (CUT, PASS)},
            "rules": sorted(
                rows, key=lambda row: (row["change"], -row["packets"], row["rule_path"] or "", row["reason"])
            ),
            "flows": [_shown(flow, names) for flow in flows[:FLOWS_LISTED]],
        }

    def _total(self, change: int, flows: Sequence[_Flow]) -> dict[str, int]:
        mine = sum(flow.change == change for flow in flows)
        return {"flows": mine, "packets": self._packets[change], "bytes": self._bytes[change]}


def _flow_keys(flows: npt.NDArray[np.void]) -> npt.NDArray[np.void]:
    return _keys(flows["number"] | flows["file"].astype(np.uint64) << np.uint64(FILE_SHIFT), flows["filter"])


def _keys(flow: npt.NDArray[Any], filters: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    found = np.empty(len(flow), dtype=_KEY)
    found["flow"], found["filter"] = flow, filters
    return found


def _sums(groups: npt.NDArray[Any], count: int, sizes: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Packets and bytes of each group."""
    found = np.zeros((count, 2), dtype=np.uint64)
    np.add.at(found[:, 0], groups, np.uint64(1))
    np.add.at(found[:, 1], groups, sizes.astype(np.uint64))
    return found


def _place(row: np.void) -> tuple[int, int]:
    return int(row["file"]), int(row["number"])


def _named(rules: Sequence[RuleName], number: int) -> dict[str, Any]:
    return {"rule": None, "rule_path": None} if number == NO_RULE else rules[number]._asdict()


def _shown(flow: _Flow, names: Names) -> dict[str, Any]:
    row = flow.first
    marks = int(row["marks"])
    ends = [_end(row, "src", "sport"), _end(row, "dst", "dport")]
    if marks & REPLY:
        ends.reverse()
        if int(row["proto"]) in _PROTO_ICMP:  # the identifier, and the query's type, belong to the flow
            ends = [(ends[0][0], ends[1][1]), (ends[1][0], ends[0][1])]
    place = int(row["filter"])
    return {
        "change": _WORDS[flow.change],
        "file": names.files[int(row["file"])],
        "n": int(row["number"]),
        "vnic": None if place == NO_FILTER else names.filters[place],
        "dir": names.directions[int(row["dir"])],
        "proto": int(row["proto"]),
        "src": ends[0][0],
        "sport": ends[0][1],
        "dst": ends[1][0],
        "dport": ends[1][1],
        "packets": flow.packets,
        "bytes": flow.bytes,
        "verdict": VERDICTS[int(row["verdict"])],
        "reason": names.reasons[int(row["reason"])],
        **_named(names.rules, int(row["rule"])),
        "staged": {
            "verdict": VERDICTS[int(row["staged_verdict"])],
            "reason": names.reasons[int(row["staged_reason"])],
            **_named(names.staged_rules, int(row["staged_rule"])),
        },
    }


def _new_flow(flow: _Flow, names: Names) -> dict[str, Any]:
    """A flow record of what is refused and would pass: of a connection that is not there in force."""
    shown = _shown(flow, names)
    staged = {f"staged_{name}": value for name, value in shown["staged"].items()}
    return {
        **{name: shown[name] for name in ("file", "vnic", "dir", "proto", "src", "sport", "dst", "dport")},
        **dict.fromkeys(("packets", "bytes", "reply_packets", "reply_bytes"), 0),
        "dropped": flow.packets,
        "state": REFUSED,
        "history": "",
        "start": seconds(int(flow.first["ts_ns"])),
        "end": seconds(flow.last_ns),
        "end_reason": "refused",
        "rule": shown["rule"],
        "rule_path": shown["rule_path"],
        **staged,
        "staged_cut_packets": 0,
        "staged_pass_packets": flow.packets,
    }


def _end(row: np.void, address: str, port: str) -> tuple[str, int | None]:
    size = 4 if int(row["family"]) == 1 else 16
    text = str(ipaddress.ip_address(bytes(row[address][:size])))
    return text, int(row[port]) if int(row["marks"]) & PORTS else None
