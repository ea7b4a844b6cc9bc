# SPDX-License-Identifier: Apache-2.0
"""A changed packet core on what the oracle has judged before: `python -m tests.support.mutant_trial FOLDER`.

The core is the `_palisade_core` that PYTHONPATH finds first. The events are those of test_native_oracle.py (generated
traffic, captures), then come the tests of limits and of hosts. Status 1 and a last line that says where, at the first
difference; 0 when there is none.
`--prepare`: the oracle's answers are written into FOLDER, which takes a minute; once for each state of the oracle.
"""

from __future__ import annotations

import argparse
import functools
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfw.model import FloodLimits, PolicySet
from tests.support.agreement import code_state, events_of, worlds_of
from tests.support.capture_mutations import capture_paths
from tests.support.pcap import pcap_read
from tests.support.traffic import Commit, Event, Packet, Scenario, scenario_draw
from tests.support.twins import find_difference, native_answers, oracle_answers

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT.parent / "shared" / "data"
SEEDS = range(32)
PACKETS = 8_000
BATCHES = (32, 7, 1, 256)
SMALL = 300_000  # bytes; captures above it take the oracle too long
PORTION = 40  # captures in one file of answers
OPEN = 2  # the policy that allows everything
TESTS = {
    "limits": ("tests/differential/test_native_oracle_limits.py",),
    "host": (  # forwarding, Geneve, guards: no capture goes through these
        "tests/unit/test_host_forwarding.py",
        "tests/unit/test_host_guards.py",
        "tests/unit/test_host_trace.py",
        "tests/differential/test_host_replay.py",
    ),
}


def _portions() -> Iterator[tuple[str, list[tuple[list[Event], Scenario]]]]:
    """Names, and what is judged under them: events and their scenarios."""
    for seed in SEEDS:
        scenario = scenario_draw(seed)
        yield f"seed-{seed}", [(events_of(scenario, PACKETS), scenario)]
    some: list[tuple[list[Event], Scenario]] = []
    for number, path in enumerate(capture_paths(CAPTURES) if CAPTURES.is_dir() else []):
        try:
            frames = [Packet(*frame) for frame in pcap_read(path)] if path.stat().st_size <= SMALL else []
        except ValueError:
            continue
        if frames:
            odd = number % 2 == 1
            some.append(([Commit(OPEN), *frames], Scenario(0, stopped=odd, verify=odd, decap=odd)))
        if len(some) == PORTION:
            yield f"captures-{number}", some
            some = []
    if some:
        yield "captures-last", some


def _prepare(folder: Path) -> None:
    """Write what the oracle says, and nothing that it said before."""
    for path in folder.glob("*.pickle"):
        path.unlink()
    for name, cases in _portions():
        answered = []
        for events, scenario in cases:
            try:
                answered.append((events, scenario, oracle_answers(events, worlds_of(scenario), scenario)))
            except ValueError:  # a link type that is not read
                continue
        (folder / f"{name}.pickle").write_bytes(pickle.dumps(answered))


@functools.cache
def _worlds(short_timers: bool, no_default: bool, flood: FloodLimits) -> list[PolicySet]:
    """The policies of all scenarios that are alike in this: reading them took most of a trial."""
    return worlds_of(Scenario(0, short_timers=short_timers, no_default=no_default, flood=flood))


def _agrees(folder: Path, name: str) -> bool:
    """Whether one piece of the trial sees no difference."""
    if name in TESTS:
        return pytest.main(["-x", "-q", *TESTS[name]]) == 0
    for number, (events, scenario, oracle) in enumerate(pickle.loads((folder / f"{name}.pickle").read_bytes())):
        worlds = _worlds(scenario.short_timers, scenario.no_default, scenario.flood)
        batch = BATCHES[(number + sum(name.encode())) % 4]
        if find_difference(oracle, native_answers(events, worlds, scenario, batch=batch)) is not None:
            return False
    return True


def _trial(folder: Path, first: list[str]) -> str | None:
    """Where the core differs from the oracle, or None. `first`: pieces that are likeliest to tell."""
    made = sorted(folder.glob("*.pickle"), key=lambda path: (path.name[0] != "s", path.stat().st_size))
    pieces = [path.stem for path in made] + list(TESTS)
    for name in dict.fromkeys([*(name for name in first if name in pieces), *pieces]):
        if not _agrees(folder, name):
            return name
    return None


def main() -> int:
    """The status to exit with."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--first", nargs="*", default=[], help="pieces of the trial to begin with")
    given = parser.parse_args()
    state = given.folder / "state"
    if given.prepare:
        if not state.exists() or state.read_text() != code_state(core=False):
            given.folder.mkdir(parents=True, exist_ok=True)
            now = code_state(core=False)
            _prepare(given.folder)
            state.write_text(now)
        return 0
    where = _trial(given.folder, given.first)
    if where is not None:
        print(f"trial ({where})")
    return 0 if where is None else 1


if __name__ == "__main__":
    sys.exit(main())
