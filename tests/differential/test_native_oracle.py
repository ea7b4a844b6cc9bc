# SPDX-License-Identifier: Apache-2.0
"""The packet core against the oracle: every judgement, generated packet and flow record, on traffic and on captures.

A difference is shown with the fewest packets that make it. What the traffic covers is asserted: a generator that stops
reaching a reason, a cell of a state table or a side of a timer is a failure too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("dfw.core", reason="the packet core is not built")

from dfw.core import CoreError
from dfw.model import Limits
from tests.support.agreement import Agreement, events_of, seed_agrees, seeds_agree, worlds_of
from tests.support.coverage import reasons_known
from tests.support.pcap import pcap_read
from tests.support.traffic import Commit, Event, Packet, Scenario, scenario_draw
from tests.support.twins import explain_difference, find_difference, native_answers, oracle_answers

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
SEEDS = 32
PACKETS = 8_000
LONG_SEEDS = range(1000, 1200)
LONG_PACKETS = 51_000
LONG_CAPTURE = 3_000  # packets; longer captures wait for `make test-long`


def assert_covered(total: Agreement) -> None:
    missing = total.covered.missing(reasons_known())
    assert not missing, f"the traffic no longer covers {missing}"
    assert total.covered.hit_share >= 0.6, f"only {total.covered.hit_share:.1%} of the judgements hit a connection"
    assert total.wrapped > 3, "no run of commits goes through the wrap of the 32-bit epoch"


def test_engines_agree_on_generated_traffic() -> None:
    total = Agreement()
    for seed in range(SEEDS):
        total.add(seed_agrees(seed, PACKETS))
    assert_covered(total)


@pytest.mark.long
def test_engines_agree_on_ten_million_packets() -> None:
    """Hours of Python: what was stopped goes on where it was, as long as the code is the same."""
    total = seeds_agree(LONG_SEEDS, LONG_PACKETS, ROOT / "build" / "agreement.jsonl")
    assert total.packets >= 10_000_000
    assert_covered(total)


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 7, 13])
def test_batches_change_nothing(seed: int) -> None:
    scenario = scenario_draw(seed)
    worlds = worlds_of(scenario)
    events = events_of(scenario, 30_000)
    first = native_answers(events, worlds, scenario, batch=1)
    assert len(first.judgements) >= 30_000 and (scenario.takeovers or len(first.flows) > 100)
    for batch in (7, 32, 256):
        assert find_difference(first, native_answers(events, worlds, scenario, batch=batch)) is None, batch


@pytest.mark.parametrize("seed", [0, 2, 4, 6, 10, 28])
def test_two_workers_judge_as_one(seed: int) -> None:
    """Each worker has limits of its own, so that two are one only while none is reached: no bursts, no refusals."""
    scenario = replace(scenario_draw(seed), calm=True, width=48, takeovers=False, limits=Limits())
    worlds = worlds_of(scenario)
    events = [event for event in events_of(scenario, 12_000) if event != Commit(1)]
    one = native_answers(events, worlds, scenario)
    reached = {"reject-rate", "frag-limit", "ct-full", "half-open", "miss-budget"} & {
        str(row[4]) for row in one.judgements
    }
    assert not reached, f"this seed tells nothing: it reaches {reached}"
    assert find_difference(one, native_answers(events, worlds, scenario, batch=7, workers=2)) is None


def captures() -> list[Path]:
    endings = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz")
    return sorted(path for path in SHARED.rglob("*") if path.name.endswith(endings)) if SHARED.is_dir() else []


def check_captures(paths: Sequence[Path], policies: Sequence[int], longest: int | None) -> tuple[int, int]:
    """Every capture, each from an empty table, under these policies. Returns captures judged, and packets."""
    scenarios = [
        Scenario(0, stopped=stopped, verify=verify, decap=decap)
        for stopped, verify, decap in ((False, False, False), (True, True, True))
    ]
    worlds = worlds_of(scenarios[0])
    judged = packets = 0
    for path in paths:
        try:
            frames = [Packet(*frame) for frame in pcap_read(path)]
        except ValueError:
            continue  # no capture, in spite of its name
        if not frames or (longest is not None and len(frames) > longest):
            continue
        for number in policies:
            for scenario in scenarios:
                events: list[Event] = [Commit(number), *frames]
                try:
                    oracle = oracle_answers(events, worlds, scenario)
                except ValueError:  # a link type that is not read
                    with pytest.raises(CoreError):
                        native_answers(events, worlds, scenario)
                    continue
                native = native_answers(events, worlds, scenario)
                if find_difference(oracle, native) is not None:
                    raise AssertionError(f"{path}\n{explain_difference(events, worlds, scenario)}")
                judged += 1
                packets += len(frames)
    return judged, packets


@pytest.mark.needs_shared_data()
def test_engines_agree_on_captures() -> None:
    judged, packets = check_captures(captures(), [2], LONG_CAPTURE)
    assert judged > 900 and packets > 50_000


@pytest.mark.long
@pytest.mark.needs_shared_data()
def test_engines_agree_on_whole_captures_under_every_policy() -> None:
    judged, packets = check_captures(captures(), [0, 1, 2, 3], None)
    assert judged > 3_800 and packets > 400_000
