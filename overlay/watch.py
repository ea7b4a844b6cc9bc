# SPDX-License-Identifier: Apache-2.0
"""What a host's agent watches of its packet core while it runs: workers that stall, connections, rule counters."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from dfw.core.live import Live
from dfw.core.watch import commits_behind
from dfw.firewall_log import LoggedRule
from overlay import realized
from overlay.capture_stream import Names, capture_names, serve_capture
from overlay.enforce import HostEnforcer
from overlay.flow_filter import FlowFilterError, flow_filter_parse
from overlay.flows import all_flows, end_matching, read_matching, show_flows
from overlay.health import Health, show_health
from overlay.host_log import HostLog
from overlay.host_trace import HostTrace, TraceNames
from overlay.hoststate import HostState, RuleState
from overlay.linux import process_start
from overlay.rule_counts import RuleCounts

BUSY_SHARE: Final = 0.25  # of the time between two looks: what a worker burns that is said to have stalled

FLOW_ROWS: Final = 10_000  # of `show flows`, unless somebody wants another number

Counts = dict[str, tuple[int, int, int]]


@dataclass(slots=True)
class HostWatch:
    """One host's. `look` now and then; the rest answers questions. Nothing here stops a packet for long."""

    live: Live
    enforcer: HostEnforcer
    holder_pid: int
    log: HostLog
    stalled: list[int] = field(default_factory=list)
    behind: dict[int, int] = field(default_factory=dict)
    since_reset: RuleCounts = field(default_factory=RuleCounts)
    trace: HostTrace = field(init=False)
    _holder_start: int | None = None
    _named: HostState | None = None
    _progress: list[tuple[int, int]] = field(default_factory=list)
    _late: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._holder_start = process_start(self.holder_pid)
        self.trace = HostTrace(self.live, self.enforcer.number, self._trace_names)

    def look(self, seconds: float) -> None:
        """How are the workers? And what have they for the log? `seconds`: since the last look."""
        self.drain()
        workers = self.live.worker_counts()
        progress = [(worker.bursts + worker.sleeps, worker.cpu_ns) for worker in workers]
        if len(self._progress) == len(progress):
            pairs = enumerate(zip(self._progress, progress, strict=True))
            busy = seconds * 1e9 * BUSY_SHARE
            self.stalled = [n for n, (old, new) in pairs if old[0] == new[0] and new[1] - old[1] > busy]
        self._progress = progress
        late = {worker: commits_behind(self.live, worker) for worker in range(self.live.workers)}
        late = {worker: commits for worker, commits in late.items() if commits}
        self.behind = {worker: commits for worker, commits in late.items() if worker in self._late}
        self._late = late

    def drain(self) -> None:
        """Write to the firewall log what there is."""
        state = self.enforcer.state
        if state is not None and state is not self._named:
            numbers = dict(self.enforcer.memory.rules)
            rules = (rule for rule in state.rules if rule.logged and rule.path in numbers)
            known = {numbers[rule.path]: LoggedRule(rule.rule_id, rule.path, rule.tag) for rule in rules}
            self.log.names.learn(self.vnic_names(), known)
            self._named = state
        self.log.drain()

    # ---- names ----------------------------------------------------------------------------------------------------

    def vnic_names(self) -> dict[int, str]:
        """vNICs by the incarnation of their filters."""
        return {incarnation: name for name, (_, incarnation) in self.enforcer.memory.filters.items()}

    def rule_paths(self) -> dict[int, str]:
        """Rules by their number in the core."""
        return {number: path for path, number in self.enforcer.memory.rules.items()}

    def _rules(self) -> Mapping[str, RuleState]:
        state = self.enforcer.state
        return {} if state is None else {rule.path: rule for rule in state.rules}

    def _trace_names(self) -> TraceNames | None:
        state = self.enforcer.state
        if state is None:
            return None
        numbers = self.enforcer.memory.rules
        rules = {numbers[rule.path]: rule for rule in state.rules if rule.path in numbers}
        return TraceNames(state, {number: name for name, (number, _) in self.enforcer.memory.filters.items()}, rules)

    # ---- answers --------------------------------------------------------------------------------------------------

    async def answer(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer to what is asked about connections, counters and traces; None: it is about something else."""
        what = request["do"]
        if what == "flows":
            most = int(request.get("limit") or FLOW_ROWS)
            return await asyncio.to_thread(self.flows, str(request.get("match")), most)
        if what == "kill":
            return await asyncio.to_thread(self.kill, str(request.get("match")))
        if what == "reset":
            return {"rows": [] if self.enforcer.state is None else self.reset_counts(self.enforcer.state)}
        if what == "trace":
            return self.trace.send(request)
        if what == "trace-read":
            return self.trace.read(int(request.get("mark") or 0))
        return None

    async def stream(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer a request for a capture, if it is one, until that ends."""
        try:
            request = json.loads(line)
            if request["do"] != "capture":
                return False
        except (ValueError, TypeError, KeyError):
            return False
        known = self.enforcer

        def names() -> Names:
            return capture_names(self._rules(), known.memory.rules, known.memory.filters)

        await serve_capture(self.live, request, known.number, lambda: known.state, names, reader, writer)
        return True

    def flows(self, match: str, most: int = FLOW_ROWS) -> dict[str, Any]:
        """Rows of the open connections that a filter means, at most so many of the `total`."""
        try:
            asked = flow_filter_parse(match)
        except FlowFilterError as error:
            return {"error": str(error)}
        vnics, paths = self.vnic_names(), self.rule_paths()
        found = all_flows(read_matching(self.live, asked, vnics, paths))
        return {"rows": show_flows(found[:most], vnics, paths, self._rules()), "total": len(found)}

    def kill(self, match: str) -> dict[str, Any]:
        """End the connections that a filter means. What comes of them afterwards begins anew, if the rules let it."""
        try:
            asked = flow_filter_parse(match)
        except FlowFilterError as error:
            return {"error": str(error)}
        return {"ended": end_matching(self.live, asked, self.vnic_names(), self.rule_paths())}

    def rule_counts(self) -> Counts:
        """Hits, packets and bytes since the last reset, by the rule's path."""
        return self.since_reset.shown(self._counted())

    def _counted(self) -> Counts:
        engine, numbers = self.enforcer.engine, self.enforcer.memory.rules
        counts = engine.rule_counts(max(numbers.values(), default=0) + 1)
        hits, packets, octets = (counts[name].tolist() for name in ("hits", "packets", "bytes"))
        return {path: (hits[number], packets[number], octets[number]) for path, number in numbers.items()}

    def counters(self, state: HostState) -> realized.Rows:
        """Rows of `show rules --counters`."""
        return realized.show_counters(state, self.rule_counts(), self.since_reset.since)

    def reset_counts(self, state: HostState) -> realized.Rows:
        """Rule counters begin at 0 again; the rows as they were. The core's own go on: nothing that a packet writes is
        touched."""
        rows = self.counters(state)
        self.since_reset.reset(rows, self.enforcer.memory.rules)
        return rows

    def health(self, wanted: int, realized_: int, error: str | None, problems: Mapping[str, str]) -> realized.Rows:
        """Rows of `show health`."""
        stats, options = self.enforcer.engine.stats(), self.enforcer.engine.options
        room4, room6 = options.capacity4 * options.workers, options.capacity6 * options.workers
        tables = {"IPv4": (stats.connections4, room4), "IPv6": (stats.connections6, room6)}
        lives = self._holder_start is not None and process_start(self.holder_pid) == self._holder_start
        facts = Health(wanted, realized_, error, tables, self.stalled, self.behind, lives, problems, self.log.says())
        return show_health(facts)
