# SPDX-License-Identifier: Apache-2.0
"""`palisade replay --backend oracle`: the slow twin, for those who want to see it agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import chain, repeat
from typing import Any, TextIO

from dfw.compile import compile_policy
from dfw.core import CoreError
from dfw.flows import COLUMNS, STAGED_COLUMNS, write_rows
from dfw.model import PolicySet
from dfw.oracle import Options
from dfw.oracle import Replay as OracleReplay
from dfw.oracle.flow import Flow
from dfw.oracle.replay import AmbiguousVnicError, Judgement
from dfw.records import json_line, seconds
from dfw.replay_feed import feed_capture, unread_link
from dfw.replay_oracle_packets import OraclePackets
from dfw.replay_run import CaptureResult, RunOptions, RunResult
from dfw.schedule_clock import ScheduleClock, always, schedule_clock
from dfw.staged_oracle import StagedOracle


class OracleRefusal(OSError):
    """An option that the oracle does not know."""


def run_oracle(
    world: PolicySet, paths: Sequence[str], options: RunOptions, progress: Callable[[int], None] = lambda _: None
) -> RunResult:
    """As run_native, packet by packet in Python. Raises OracleRefusal for options that only the core has."""
    if options.live_sanity:
        raise OracleRefusal("--backend oracle has no --live-sanity")
    with ExitStack() as outputs:
        return _run(world, paths, options, progress, OraclePackets(options, outputs))


def _run(
    world: PolicySet,
    paths: Sequence[str],
    options: RunOptions,
    progress: Callable[[int], None],
    packets: OraclePackets,
) -> RunResult:
    result = RunResult()
    judgements: list[Judgement] = []
    flows: list[Flow] = []
    run: OracleReplay | None = None
    clock: ScheduleClock | None = None
    staged = StagedOracle(world, paths, vnics=options.vnics) if world.staged else None
    for path in paths:
        entry = CaptureResult(path)
        result.captures.append(entry)
        if run is None or options.each:
            run, clock = _begin(world, options, staged)
        run.begin_file(path)
        packets.begin_file()
        if staged is not None:
            staged.run.begin_file(path)
        _feed(run, entry, result, progress, clock, staged, packets)
        if options.each:
            _end(run, result, judgements, flows, staged, packets)
            run = None
    if run is not None:
        _end(run, result, judgements, flows, staged, packets)
    if staged is not None:
        result.staged = staged.summary()
    _count(result, judgements, flows)
    _name_rules(result, world)
    with _opened(options.verdicts) as file:
        if file:
            said = repeat(()) if staged is None else staged.said
            file.writelines(_line(item, also) for item, also in zip(judgements, said, strict=staged is not None))
    if options.flows is not None and staged is None:
        write_rows((_flow_row(flow) for flow in flows), options.flows)
    elif options.flows is not None and staged is not None:
        columns = (*COLUMNS, *STAGED_COLUMNS)
        rows = (_flow_row(flow) + also for flow, also in zip(flows, staged.of_flows(flows), strict=True))
        new = (tuple(map(row.__getitem__, columns)) for row in staged.new_flows(flows))
        write_rows(chain(rows, new), options.flows, columns)
    if options.log:
        from dfw.log_run import LogRecord, log_entries, write_log

        names = LogRecord._fields
        records = (LogRecord(*(getattr(item, name) for name in names)) for item in judgements if item.rule_path)
        write_log(
            options.log,
            options.log_format,
            log_entries(world, records, map(asdict, flows), decap=options.decap),
        )
    return result


def _begin(
    world: PolicySet, options: RunOptions, staged: StagedOracle | None
) -> tuple[OracleReplay, ScheduleClock | None]:
    chosen = Options(
        tap=not options.vnics,
        clock_stopped=options.stopped,
        verify_checksums=options.verify,
        decap=options.decap,
        capacity=options.capacity,
        limits=options.limits,
    )
    inventory = world.inventory if options.vnics else None
    run = OracleReplay(always(world), inventory, chosen)
    worlds = [(world, run.commit)]
    if staged is not None:
        staged.run = OracleReplay(always(world.what_if), inventory, chosen)
        worlds.append((world.what_if, staged.run.commit))
    return run, schedule_clock(worlds, options.stopped)


def _feed(
    run: OracleReplay,
    entry: CaptureResult,
    result: RunResult,
    progress: Callable[[int], None],
    clock: ScheduleClock | None,
    staged: StagedOracle | None,
    packets: OraclePackets,
) -> None:
    def one(frame: Any, data: bytes) -> None:
        if clock is not None:
            clock.step(1)
        _feed_one(run, frame, data)
        packets.keep(run, frame, data)
        if staged is not None:
            _feed_one(staged.run, frame, data)

    def begin(view: memoryview) -> None:
        if clock is not None:
            clock.begin_file(view)

    def end() -> None:
        if clock is not None:
            clock.end_file()

    feed_capture(entry, result, one, progress, begin, end)


def _feed_one(run: OracleReplay, frame: Any, data: bytes) -> None:
    """Raises CoreError where a frame cannot be judged, in the core's words where they are the same."""
    number, linktype = int(frame["number"]), int(frame["linktype"])
    try:
        run.feed(number, int(frame["ts_ns"]), data, int(frame["wirelen"]), linktype)
    except AmbiguousVnicError as error:
        raise CoreError(f"packet {number}: {error}") from error
    except ValueError as error:
        raise unread_link(frame) from error


def _end(
    run: OracleReplay,
    result: RunResult,
    judgements: list[Judgement],
    flows: list[Flow],
    staged: StagedOracle | None,
    packets: OraclePackets,
) -> None:
    found, ended = run.finish(), run.flows()
    packets.end(run, found)
    if staged is not None:
        found, ended = staged.end(found, ended)
    judgements += found
    flows += ended
    result.generated += len(run.generated)
    known = {row["rule_path"]: row for row in result.rules}
    for item in run.rule_statistics():
        row = known.setdefault(item.rule_path, {"rule_path": item.rule_path, "hits": 0, "packets": 0, "bytes": 0})
        for name in ("hits", "packets", "bytes"):
            row[name] += getattr(item, name)
    result.rules = list(known.values())


def _count(result: RunResult, judgements: Sequence[Judgement], flows: Sequence[Flow]) -> None:
    result.verdicts = dict(sorted(Counter(item.verdict for item in judgements).items()))
    result.reasons = dict(Counter(item.reason for item in judgements).most_common())
    result.connections = {"created": len(flows), "open": sum(flow.end_reason == "open" for flow in flows)}


def _name_rules(result: RunResult, world: PolicySet) -> None:
    """All rules of the policy in the core's order, those that no judgement names too."""
    counted = {row["rule_path"]: row for row in result.rules}
    result.rules = [
        {
            "rule": rule.rule_id,
            "rule_path": rule.path,
            "action": rule.action.value,
            **{name: counted[rule.path][name] if rule.path in counted else 0 for name in ("hits", "packets", "bytes")},
        }
        for rule in compile_policy(always(world)).rules
    ]


def _line(item: Judgement, also: Sequence[tuple[str, Any]] = ()) -> str:
    shown = ("file", "vnic", "dir", "verdict", "reason", "rule", "rule_path", "ct", "reply")
    pairs = ((name, getattr(item, name)) for name in shown)
    return json_line((("n", item.n), ("ts", seconds(item.ts_ns)), *pairs, *also))


def _flow_row(flow: Flow) -> tuple[object, ...]:
    times = {"start": seconds(flow.start_ns), "end": seconds(flow.end_ns)}
    return tuple(times[name] if name in times else getattr(flow, name) for name in COLUMNS)


@contextmanager
def _opened(path: str | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
    else:
        with open("/dev/stdout" if path == "-" else path, "w", encoding="utf-8") as file:
            yield file
