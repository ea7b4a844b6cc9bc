# SPDX-License-Identifier: Apache-2.0
"""What `replay --backend nftables` says of packets: lines, by the rules in force and by the staged ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dfw.compile import CompiledRule
from dfw.nftables.staged import CUT, PASSES_TOO, STAGED, WOULD_PASS
from dfw.oracle import Judgement
from dfw.oracle.replay import Ends
from dfw.records import json_line, seconds
from dfw.staged_judgements import Said


@dataclass(frozen=True, slots=True)
class Arrival:
    """An input packet: number and time, file, which vNICs its ends are (numbers from 1, 0 for none), who they are."""

    n: int
    ts_ns: int
    file: str
    sender: int
    receiver: int
    length: int
    ends: Ends


@dataclass(slots=True)
class Line:
    """A judgement at one filter: `vnic` None where there is none, `verdict` None where nothing judged."""

    arrival: Arrival
    vnic: str | None
    dir: str | None
    verdict: str | None
    reason: str
    rule: CompiledRule | None = None
    ct: str | None = None
    reply: bool = False

    def text(self, staged: Said = ()) -> str:
        """As CONTRACT section 3 has it; `staged`: what it says of staged policies."""
        rule = (None, None) if self.rule is None else (self.rule.rule_id, self.rule.path)
        shown = (("vnic", self.vnic), ("dir", self.dir), ("verdict", self.verdict), ("reason", self.reason))
        state = (("rule", rule[0]), ("rule_path", rule[1]), ("ct", self.ct), ("reply", self.reply))
        at = (("n", self.arrival.n), ("ts", seconds(self.arrival.ts_ns)), ("file", self.arrival.file))
        return json_line((*at, *shown, *state, *staged))

    def judgement(self, order: int) -> Judgement:
        """The same as the oracle has it. Raises ValueError where nothing was judged."""
        if self.verdict is None:
            raise ValueError("nothing was judged")
        of, rule = self.arrival, self.rule
        return Judgement(
            of.n,
            of.ts_ns,
            self.vnic,
            self.dir,
            self.verdict,
            self.reason,
            None if rule is None else rule.rule_id,
            None if rule is None else rule.path,
            self.ct or "",
            self.reply,
            of.file,
            of.length,
            order,
            ends=of.ends,
        )


class Frame(NamedTuple):
    """What was said of a packet by the rules in force and by the staged ones; `order`: its place in the input."""

    order: int
    lines: list[Line]
    staged: list[Line]

    def judgements(self) -> tuple[list[Judgement], list[Judgement]] | None:
        """Both as the oracle has them; None where nothing was judged."""
        if self.lines and self.lines[0].verdict is None:
            return None
        now, then = ([line.judgement(self.order) for line in some] for some in (self.lines, self.staged))
        return now, then


def worlds_said(said: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the rules in force said; what the staged ones said, in the same words."""
    now = [text for text in said if not text.startswith(STAGED)]
    sums = (WOULD_PASS, PASSES_TOO, CUT)
    return now, [text.removeprefix(STAGED) for text in said if text.startswith(STAGED) and text not in sums]


def said_at_ends(told: Sequence[str], first: str) -> dict[str, list[str]]:
    """What the rules said at each end; before they begin at one, it is the first that speaks."""
    found: dict[str, list[str]] = {"out": [], "in": []}
    side = first
    for text in told:
        if text in found:
            side = text
        else:
            found[side].append(text)
    return found
