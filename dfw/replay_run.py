# SPDX-License-Identifier: Apache-2.0
"""Captures through an enforcer: what `palisade replay` does, without the command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from dfw.capture import CaptureError, CaptureFile, open_capture
from dfw.core import Capture, CoreError, EngineOptions, EngineStats, Replay, ReplayOptions
from dfw.enforcer import NativeEnforcer
from dfw.model import LIVE_LIMITS, Limits, PolicySet
from dfw.schedule_clock import ScheduleClock, always, schedule_clock
from dfw.staged_native import StagedBeside

_STEP = 1 << 18  # frames between two looks at the progress bar


@dataclass(frozen=True, slots=True)
class RunOptions:
    """`vnics`: judge at the inventory's vNICs, else at a tap. Outputs are paths or None. The rest as in CONTRACT §3."""

    vnics: bool = False
    workers: int = 1
    batch: int = 32
    repeat: int = 1
    stopped: bool = False
    realtime: bool = False
    verify: bool = False
    decap: bool = False
    live_sanity: bool = False
    live_limits: bool = False
    each: bool = False
    capacity: int = 1 << 20
    verdicts: str | None = None
    flows: str | None = None
    allowed: str | None = None
    dropped: str | None = None
    generated: str | None = None
    log: str | None = None
    log_format: str = "dfwpktlogs"

    @property
    def limits(self) -> Limits:
        """Budgets at each filter."""
        return LIVE_LIMITS if self.live_limits else Limits()


@dataclass(slots=True)
class CaptureResult:
    """One input file: packets judged, and what went wrong with it."""

    file: str
    packets: int = 0
    error: str | None = None
    warning: str | None = None


@dataclass(slots=True)
class RunResult:
    """Sums over all captures of the last repetition; `ns_per_packet` is the median over the repetitions."""

    captures: list[CaptureResult] = field(default_factory=list)
    packets: int = 0
    bytes: int = 0
    seconds: float = 0.0
    core_ns: list[int] = field(default_factory=list)
    verdicts: dict[str, int] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    connections: dict[str, int] = field(default_factory=dict)
    checksums: dict[str, int | None] = field(default_factory=lambda: {"ip": None, "transport": None})
    rules: list[dict[str, Any]] = field(default_factory=list)
    odd_addresses: int = 0
    unfiltered: int = 0
    generated: int = 0
    staged: dict[str, Any] | None = None

    @property
    def failed(self) -> bool:
        """An input file could not be read, or not be judged."""
        return any(item.error for item in self.captures)

    def as_json(self) -> dict[str, Any]:
        """The shape of `replay -o json`."""
        core = sorted(self.core_ns)[len(self.core_ns) // 2] if self.core_ns else 0
        return {
            "packets": self.packets,
            "bytes": self.bytes,
            "seconds": round(self.seconds, 6),
            "mpps": round(self.packets / core * 1000, 4) if core else None,
            "ns_per_packet": round(core / self.packets, 2) if core and self.packets else None,
            "verdicts": self.verdicts,
            "reasons": self.reasons,
            "connections": self.connections,
            "bad_checksums": self.checksums,
            "odd_addresses": self.odd_addresses,
            "generated": self.generated,
            "rules": self.rules,
            **({} if self.staged is None else {"staged": self.staged}),
            "captures": [
                {"file": item.file, "packets": item.packets, "error": item.error, "warning": item.warning}
                for item in self.captures
            ],
        }


def run_native(
    world: PolicySet, paths: Sequence[str], options: RunOptions, progress: Callable[[int], None] = lambda _: None
) -> RunResult:
    """Judge captures with the packet core. Raises UnsupportedError, CoreError (the policy), OSError (an output).

    An unreadable capture does not stop the others; its error is in the result. `progress` is told of packets judged.
    """
    inventory = world.inventory if options.vnics else None
    engine_options = EngineOptions(
        capacity4=options.capacity,
        capacity6=options.capacity,
        workers=options.workers,
        checksums="verify" if options.verify else "count",
        decap=options.decap,
        sanity="drop" if options.live_sanity else "count",
        flows=options.flows is not None or options.log is not None,
        name_flows=bool(world.staged),
        limits=options.limits,
        name_rules=any((world.staged, options.verdicts, options.allowed, options.dropped, options.log)),
    )
    enforcer = NativeEnforcer(inventory, engine_options)
    enforcer.commit(always(world))
    worlds = [(world, enforcer.commit)]
    beside: StagedBeside | None = None
    if world.staged:
        beside = StagedBeside(world, inventory, engine_options, keep_flows=options.flows is not None)
        worlds.append((world.what_if, beside.enforcer.commit))
    clock = schedule_clock(worlds, options.stopped)
    result = RunResult()
    with ExitStack() as outputs:
        verdict_fd, allowed_fd, dropped_fd, generated_fd = (
            output_create(path, outputs)
            for path in (options.verdicts, options.allowed, options.dropped, options.generated)
        )
        replay = Replay(
            enforcer.engine,
            ReplayOptions(
                vnics=options.vnics,
                stopped=options.stopped,
                realtime=options.realtime,
                collect=options.log is not None,
                batch=options.batch,
                verdict_fd=verdict_fd,
                allowed_fd=allowed_fd,
                dropped_fd=dropped_fd,
                generated_fd=generated_fd,
            ),
            enforcer.bindings(),
            enforcer.rule_json(),
            enforcer.filter_json(),
            None if beside is None else beside.rules,
        )
        _run(replay, enforcer, paths, options, result, progress, clock, beside)
        files = [*paths] * options.repeat  # by the number that begin_file gave
        if beside is not None:
            result.staged = beside.changes.summary(beside.names(enforcer, files))
        if options.flows is not None:
            from dfw.flows import write_flows

            write_flows(replay, enforcer, options.flows, files, beside)
        if options.log is not None:
            from dfw.log_run import log_native

            log_native(world, replay, enforcer, options, files)
        replay.close()
    return result


def output_create(path: str | None, outputs: ExitStack) -> int:
    """A descriptor to write this file with, until `outputs` close it; -1 for none. `-` is standard output. Raises
    OSError."""
    if path is None:
        return -1
    if path == "-":
        return 1
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    outputs.callback(os.close, descriptor)
    return descriptor


def _run(
    replay: Replay,
    enforcer: NativeEnforcer,
    paths: Sequence[str],
    options: RunOptions,
    result: RunResult,
    progress: Callable[[int], None],
    clock: ScheduleClock | None,
    beside: StagedBeside | None,
) -> None:
    keep_open = options.allowed is not None or options.dropped is not None or beside is not None
    for repetition in range(options.repeat):
        if repetition:
            replay.mute()
            replay.restart()
            replay.forget()
            if beside is not None:
                beside.restart()
            if clock is not None:
                clock.restart()
        result.captures = []
        sums = _Sums(len(enforcer.rules))
        with ExitStack() as opened:
            for path in paths:
                entry = CaptureResult(path)
                result.captures.append(entry)
                _run_file(replay, path, entry, opened, keep_open, progress, clock, beside)
                if options.each:
                    replay.finish()
                    if beside is not None:
                        beside.take(replay)
                    sums.add(enforcer)
                    replay.restart()
                    if clock is not None:
                        clock.restart()
            if not options.each:
                replay.finish(flush=False)
                if beside is not None:
                    beside.take(replay)
                sums.add(enforcer)
                replay.finish(flush=True)
        totals = replay.totals()
        result.packets, result.bytes = totals.packets, totals.bytes
        result.core_ns.append(totals.core_ns)
        result.unfiltered, result.generated = totals.unfiltered, totals.generated
        sums.report(enforcer, result)


def _run_file(
    replay: Replay,
    path: str,
    entry: CaptureResult,
    opened: ExitStack,
    keep_open: bool,
    progress: Callable[[int], None],
    clock: ScheduleClock | None,
    beside: StagedBeside | None,
) -> None:
    """One file, up to its end or to where it is damaged."""
    file = replay.begin_file(json.dumps(path))
    before = replay.totals().packets
    with ExitStack() as own:
        try:
            source: CaptureFile = own.enter_context(open_capture(path))
            capture = Capture(source.view)
        except CaptureError as error:
            entry.error = error.message
            return
        except CoreError as error:
            entry.error = str(error)
            return
        own.callback(capture.close)
        if clock is not None:
            clock.begin_file(source.view)
            own.callback(clock.end_file)
        try:
            done = False
            while not done:
                done = replay.capture(capture, file, _STEP if clock is None else clock.step(_STEP))
                if beside is not None:
                    beside.take(replay)
                progress(replay.totals().packets - before)
        except CoreError as error:
            entry.error = str(error)
        entry.packets = replay.totals().packets - before
        entry.warning = source.warning or capture.warning
        if keep_open:
            opened.push(own.pop_all())


class _Sums:
    """Counters over files that are cleared in between."""

    def __init__(self, rules: int) -> None:
        self.rules: list[list[int]] = [[0, 0, 0] for _ in range(rules)]
        self.stats: list[EngineStats] = []

    def add(self, enforcer: NativeEnforcer) -> None:
        self.stats.append(enforcer.engine.stats())
        for mine, row in zip(self.rules, enforcer.engine.rule_counts(len(self.rules)), strict=True):
            for at, name in enumerate(("hits", "packets", "bytes")):
                mine[at] += int(row[name])

    def report(self, enforcer: NativeEnforcer, result: RunResult) -> None:
        verdicts: dict[str, int] = {}
        reasons: dict[str, int] = {}
        for stats in self.stats:
            for (verdict, reason), count in stats.counts.items():
                if verdict != "HELD":
                    verdicts[verdict] = verdicts.get(verdict, 0) + count
                    reasons[reason] = reasons.get(reason, 0) + count
        if result.unfiltered:
            verdicts["ALLOW"] = verdicts.get("ALLOW", 0) + result.unfiltered
            reasons["no-filter"] = result.unfiltered
        result.verdicts = dict(sorted(verdicts.items()))
        result.reasons = dict(sorted(reasons.items(), key=lambda item: (-item[1], item[0])))
        result.connections = {
            "created": sum(stats.created for stats in self.stats),
            "open": sum(stats.connections4 + stats.connections6 for stats in self.stats),
        }
        result.checksums = {
            "ip": sum(stats.bad_ip_sums for stats in self.stats),
            "transport": sum(stats.bad_l4_sums for stats in self.stats),
        }
        result.odd_addresses = sum(stats.odd for stats in self.stats)
        result.rules = [
            {
                "rule": rule.rule_id,
                "rule_path": rule.path,
                "action": rule.action.value,
                "hits": hits,
                "packets": packets,
                "bytes": size,
            }
            for rule, (hits, packets, size) in zip(enforcer.rules, self.rules, strict=True)
        ]
