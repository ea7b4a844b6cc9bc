# SPDX-License-Identifier: Apache-2.0
"""The packet core against the oracle on many scenarios, in several processes, with progress that outlives a stop.

`python -m tests.support.agreement --seeds 1000:1200 --packets 51000 --progress build/agreement.jsonl` goes on where it
was stopped. A line of the progress file is one scenario judged by one state of the code; other states do not count.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dfw.model import PolicySet
from tests.support import coverage
from tests.support.traffic import Commit, Event, Packet, Scenario, Traffic, scenario_draw
from tests.support.traffic_policies import policies_load
from tests.support.twins import explain_difference, find_difference, native_answers, oracle_answers

ROOT = Path(__file__).resolve().parents[2]


@dataclass(slots=True)
class Agreement:
    """What scenarios have judged. `wrapped`: most commits of a run that begins just below the epoch's end."""

    covered: coverage.Coverage = field(default_factory=coverage.Coverage)
    scenarios: int = 0
    packets: int = 0
    wrapped: int = 0

    def add(self, other: Agreement) -> None:
        """Take over another run's counts."""
        self.covered.add(other.covered)
        self.scenarios += other.scenarios
        self.packets += other.packets
        self.wrapped = max(self.wrapped, other.wrapped)


def worlds_of(scenario: Scenario) -> list[PolicySet]:
    """The policies of a scenario, as loaded from files."""
    with tempfile.TemporaryDirectory() as folder:
        return policies_load(
            Path(folder), short_timers=scenario.short_timers, no_default=scenario.no_default, flood=scenario.flood
        )


def events_of(scenario: Scenario, packets: int) -> list[Event]:
    """The first `packets` packets (or a few more) of a scenario, and the commits between them."""
    return [event for batch in Traffic(scenario).batches(packets, 1024) for event in batch]


def seed_agrees(seed: int, packets: int) -> Agreement:
    """Both engines on one scenario. Raises AssertionError with the fewest packets that show a difference."""
    scenario = scenario_draw(seed)
    worlds = worlds_of(scenario)
    events = events_of(scenario, packets)
    with coverage.watch() as seen:
        oracle = oracle_answers(events, worlds, scenario)
    native = native_answers(events, worlds, scenario)
    if find_difference(oracle, native) is not None:
        raise AssertionError(explain_difference(events, worlds, scenario))
    seen.reasons.update(str(row[4]) for row in native.judgements)
    seen.judgements += len(native.judgements)
    commits = sum(isinstance(event, Commit) for event in events)
    packets = sum(isinstance(event, Packet) for event in events)
    return Agreement(seen, 1, packets, commits if scenario.epoch > 1 else 0)


def code_state(*, core: bool = True) -> str:
    """A name for what judges and what is judged: the oracle, its model, the generator, the core (or not)."""
    digest = hashlib.sha256()
    spec = importlib.util.find_spec("_palisade_core") if core else None
    module = [] if spec is None or spec.origin is None else [Path(spec.origin)]
    folders = [ROOT / "dfw" / "oracle", ROOT / "dfw" / "model", ROOT / "tests" / "support"]
    for path in sorted([*module, *(path for folder in folders for path in folder.glob("*.py"))]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _line(state: str, seed: int, asked: int, found: Agreement) -> str:
    head = {"code": state, "seed": seed, "asked": asked, "packets": found.packets, "wrapped": found.wrapped}
    return json.dumps(head | {"covered": found.covered.as_json()}) + "\n"


def _done(progress: Path, state: str, asked: int) -> Iterator[tuple[int, Agreement]]:
    """The scenarios that this state of the code has judged before."""
    if not progress.exists():
        return
    for line in progress.read_text(encoding="utf-8").splitlines():
        row: dict[str, Any] = json.loads(line)
        if (row["code"], row["asked"]) == (state, asked):
            found = Agreement(coverage.Coverage.from_json(row["covered"]), 1, row["packets"], row["wrapped"])
            yield row["seed"], found


def seeds_agree(seeds: Sequence[int], packets: int, progress: Path, workers: int = 2) -> Agreement:
    """All these scenarios, those of the progress file excepted. Raises AssertionError at the first that differs."""
    state = code_state()
    total = Agreement()
    known = {seed: found for seed, found in _done(progress, state, packets) if seed in seeds}
    for found in known.values():
        total.add(found)
    begun = time.monotonic()
    progress.parent.mkdir(parents=True, exist_ok=True)
    pool = concurrent.futures.ProcessPoolExecutor(workers)
    try:
        running = {pool.submit(seed_agrees, seed, packets): seed for seed in seeds if seed not in known}
        with progress.open("a", encoding="utf-8") as file:
            for done in concurrent.futures.as_completed(running):
                found = done.result()
                file.write(_line(state, running[done], packets, found))
                file.flush()
                total.add(found)
                took = time.monotonic() - begun
                print(f"{total.scenarios}/{len(seeds)} scenarios, {total.packets:,} packets, {took:.0f} s", flush=True)
    finally:
        pool.shutdown(cancel_futures=True)
    return total


def main() -> int:
    """Judge, and say what was covered; the status to exit with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1000:1200", help="FIRST:END")
    parser.add_argument("--packets", type=int, default=51_000, help="of each scenario")
    parser.add_argument("--progress", type=Path, default=ROOT / "build" / "agreement.jsonl")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    first, end = map(int, given.seeds.split(":"))
    total = seeds_agree(range(first, end), given.packets, given.progress, given.workers)
    missing = total.covered.missing(coverage.reasons_known())
    print(f"{total.packets:,} packets agree, {total.covered.hit_share:.1%} of the judgements hit a connection")
    print(f"not covered: {missing or 'nothing'}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
