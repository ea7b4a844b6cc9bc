# SPDX-License-Identifier: Apache-2.0
"""What is different between two judgements of the same packets: by the rules in force, and by what staged policies make
of them. For whoever judges in Python: the oracle, and the kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from dfw.compile import compile_policy
from dfw.core import NO_FILTER, NO_RULE, REASONS, VERDICTS
from dfw.enforcer import TAP
from dfw.layout import CHANGE_DTYPE, FLOW_DTYPE
from dfw.model import PolicySet
from dfw.oracle.flow import Flow
from dfw.oracle.replay import Judgement
from dfw.schedule_clock import always
from dfw.staged import (
    CUT,
    HERE,
    NO_VERDICT,
    OPENS,
    PASS,
    PORTS,
    REPLY,
    Names,
    RuleName,
    StagedChanges,
    directions_of,
)

_DIRECTIONS = {None: 0, "IN": 1, "OUT": 2, "IN_OUT": 3}
Said = tuple[tuple[str, Any], ...]
"""What staged policies add to a line: names and values."""


class StagedJudgements:
    """Joins what both worlds said of each packet. `reasons`: all words there may be.

    `said`: for each judgement by the rules in force, in their order, what its line says of the staged policies.
    """

    def __init__(
        self, world: PolicySet, files: Sequence[str], *, vnics: bool, reasons: Sequence[str] = REASONS
    ) -> None:
        self.said: list[Said] = []
        self._changes = StagedChanges(keep_flows=True)
        rules, staged = (
            [RuleName(rule.rule_id, rule.path) for rule in compile_policy(always(item)).rules]
            for item in (world, world.what_if)
        )
        filters = tuple(world.inventory.ports) if vnics else (TAP,)
        policies = [policy.path for policy in world.staged]
        self._names = Names(rules, staged, filters, files, directions_of(vnics), policies, reasons)
        self._reasons = {word: at for at, word in enumerate(reasons)}
        self._numbers = [{rule.rule_path: at for at, rule in enumerate(named)} for named in (rules, staged)]
        self._filters: dict[str | None, int] = {name: at for at, name in enumerate(filters)} | {None: NO_FILTER}
        self._files: dict[str | None, int] = {name: at for at, name in reversed([*enumerate(files)])}

    def join(self, now: Iterable[Judgement], then: Iterable[Judgement]) -> None:
        """More packets, in their order; of each packet both worlds have said something."""
        rows: list[tuple[Any, ...]] = []
        staged = {order: list(items) for order, items in groupby(then, lambda item: item.order)}
        for order, items in groupby(now, lambda item: item.order):
            frame, beside = list(items), staged[order]
            rows += self._compare(frame, beside)
            self.said += _said(frame, beside)
        self._changes.add(np.array(rows, dtype=CHANGE_DTYPE))

    def summary(self) -> dict[str, Any]:
        """The member `staged` of `replay -o json`."""
        return self._changes.summary(self._names)

    def new_flows(self, flows: Sequence[Flow]) -> Iterator[dict[str, Any]]:
        """Flow records of what would newly pass, and has no connection in force (see StagedChanges.new_flows)."""
        return self._changes.new_flows(self._keys(flows), self._names)

    def _keys(self, flows: Sequence[Flow]) -> npt.NDArray[np.void]:
        keys = np.zeros(len(flows), dtype=FLOW_DTYPE)
        keys["number"] = [flow.begun for flow in flows]
        keys["filter"] = [self._filters[flow.vnic] for flow in flows]
        return keys

    def of_flows(self, flows: Sequence[Flow]) -> Iterator[tuple[Any, ...]]:
        """The values of dfw.flows.STAGED_COLUMNS for each flow."""
        for row in self._changes.of_flows(self._keys(flows)):
            judged = int(row["verdict"]) != NO_VERDICT
            rule = self._names.staged_rules[int(row["rule"])] if int(row["rule"]) != NO_RULE else None
            yield (
                VERDICTS[int(row["verdict"])] if judged else None,
                self._names.reasons[int(row["reason"])] if judged else None,
                None if rule is None else rule.rule,
                None if rule is None else rule.rule_path,
                int(row["packets"]),
                int(row["passes"]),
            )

    def _compare(self, now: list[Judgement], then: list[Judgement]) -> Iterator[tuple[Any, ...]]:
        """The changes of one frame."""
        place, change = _missing(now, then), CUT
        if place is None:
            place, change = _missing(then, now), PASS
        beside = {_place(item): item for item in then}
        for item in now:
            at = _place(item)
            yield from self._change(item, beside.pop(at, None), change if at == place else 0)
        for item in beside.values():
            yield from self._change(None, item, 0)

    def _change(self, now: Judgement | None, then: Judgement | None, change: int) -> Iterator[tuple[Any, ...]]:
        passes = [item is not None and item.verdict == "ALLOW" for item in (now, then)]
        passing = now if passes[0] else then if passes[1] else None
        opens = now is not None and passes[0] and now.flow == now.order
        if passes[0] == passes[1] and not opens and not change:
            return
        any_one = now or then
        assert any_one is not None
        marks = HERE * (passes[0] != passes[1]) | OPENS * opens | REPLY * (passing is not None and passing.reply)
        ends: tuple[Any, ...] = (0, 0, b"", b"")
        ports = 0, 0
        wire = 0 if any_one.ends is None else any_one.ends.wire
        if change and any_one.ends is not None and any_one.ends.ip_version:
            who = any_one.ends
            size = 4 if who.ip_version == 4 else 16
            addresses = [value.to_bytes(size, "big") for value in (who.source, who.destination)]
            ends = who.protocol, 1 if who.ip_version == 4 else 2, *addresses
            if who.source_port is not None and who.destination_port is not None:
                marks |= PORTS
                ports = who.source_port, who.destination_port
        numbers = [
            NO_RULE if item is None or item.rule_path is None else known[item.rule_path]
            for item, known in zip((now, then), self._numbers, strict=True)
        ]
        words = [
            (NO_VERDICT, NO_VERDICT) if item is None else (VERDICTS.index(item.verdict), self._reasons[item.reason])
            for item in (now, then)
        ]
        flow = 0 if passing is None else passing.flow
        yield (
            *(any_one.n, any_one.ts_ns, flow, self._files[any_one.file], wire, *numbers),
            *(self._filters[any_one.vnic], *ports, _DIRECTIONS[any_one.dir], *words[0], *words[1]),
            *(change, marks, *ends[:2], 0, _bytes16(ends[2]), _bytes16(ends[3])),
        )


def _bytes16(data: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(data.ljust(16, b"\0"), dtype=np.uint8)


def _place(item: Judgement) -> tuple[str | None, str | None]:
    return item.vnic, item.dir


def _missing(here: list[Judgement], there: list[Judgement]) -> tuple[str | None, str | None] | None:
    """Where a packet arrives here and not there; None: nowhere. What drops it OUT is the place then."""
    ends = [
        [_place(item) for item in items if item.verdict == "ALLOW" and (len(items) == 1 or item.dir == "IN")]
        for items in (here, there)
    ]
    missing = [place for place in ends[0] if place not in ends[1]]
    if missing and there[0].dir == "OUT" and there[0].verdict != "ALLOW":
        return _place(there[0])
    return missing[0] if missing else None


def _said(now: list[Judgement], then: Iterable[Judgement]) -> Iterator[Said]:
    """For each line of a frame: the staged judgement there; the last has those at filters where it did not come."""
    beside = {_place(item): item for item in then}
    for item in now:
        found = beside.pop(_place(item), None)
        said: Said = (("staged", None if found is None else _judged(found)),)
        if item is now[-1] and beside:
            rest = [{"vnic": more.vnic, "dir": more.dir, **_judged(more)} for more in _left(beside.values(), now)]
            said += (("staged_then", rest),) if rest else ()
        yield said


def _left(items: Iterable[Judgement], now: Iterable[Judgement]) -> list[Judgement]:
    known = {_place(item) for item in now}
    return [item for item in items if _place(item) not in known]


def _judged(item: Judgement) -> dict[str, Any]:
    return {"verdict": item.verdict, "reason": item.reason, "rule": item.rule, "rule_path": item.rule_path}
