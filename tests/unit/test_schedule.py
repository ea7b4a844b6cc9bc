# SPDX-License-Identifier: Apache-2.0
"""Schedules: when a policy is in force, and that a replay follows the packets' clock."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dfw.compile import compile_policy
from dfw.documents import documents_parse
from dfw.errors import PolicyError, UnsupportedError
from dfw.explain import explain
from dfw.load import load_documents
from dfw.model import DAY_MINUTES, Interval, PolicySet, Schedule
from dfw.replay import replay
from tests.support.capture_mutations import pcap_write
from tests.support.pcap import Captured
from tests.support.wire import End, ethernet
from tests.support.wire import Path as WirePath

MINUTE = 60


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def scheduler(**fields: Any) -> dict[str, Any]:
    common = {"resource_type": "PolicyFirewallScheduler", "id": "s", "timezone": "UTC"}
    return {**common, "start_date": "03/02/2026", "end_date": "03/31/2026", **fields}


def world(**fields: Any) -> PolicySet:
    policy = {"resource_type": "SecurityPolicy", "id": "p", "scheduler_path": "s", "category": "Application"}
    policy["rules"] = [{"id": "r", "action": "DROP"}]  # type: ignore[assignment]
    text = json.dumps(policy) + json.dumps(scheduler(**fields))
    return load_documents(documents_parse(text.encode(), "f.json")).world


@pytest.mark.parametrize(
    ("fields", "moment", "active"),
    [
        ({}, "2026-03-02T00:00", True),
        ({}, "2026-03-01T23:59", False),
        ({}, "2026-03-31T23:59", True),
        ({}, "2026-04-01T00:00", False),
        ({"days": ["MONDAY"]}, "2026-03-02T12:00", True),
        ({"days": ["SUNDAY", "TUESDAY"]}, "2026-03-02T12:00", False),
        ({"time_interval": [{"start_interval": "9:00", "end_interval": "17:30"}]}, "2026-03-02T08:59", False),
        ({"time_interval": [{"start_interval": "9:00", "end_interval": "17:30"}]}, "2026-03-02T09:00", True),
        ({"time_interval": [{"start_interval": "9:00", "end_interval": "17:30"}]}, "2026-03-02T17:29", True),
        ({"time_interval": [{"start_interval": "9:00", "end_interval": "17:30"}]}, "2026-03-02T17:30", False),
        ({"time_interval": [{"start_interval": "22:00", "end_interval": "24:00"}]}, "2026-03-02T23:59", True),
        ({"recurring": False, "start_time": "09:00", "end_time": "17:00"}, "2026-03-02T08:59", False),
        ({"recurring": False, "start_time": "09:00", "end_time": "17:00"}, "2026-03-10T03:00", True),
        ({"recurring": False, "start_time": "09:00", "end_time": "17:00"}, "2026-03-31T17:00", False),
    ],
)
def test_when_it_is_active(fields: dict[str, Any], moment: str, active: bool) -> None:
    (schedule,) = world(**fields).schedules
    assert schedule.is_active(seconds(moment)) is active


INTERVALS = st.lists(
    st.tuples(st.integers(0, 47), st.integers(1, 48)).filter(lambda pair: pair[0] < pair[1]), min_size=1, max_size=3
).map(lambda pairs: tuple(Interval(start * 30, end * 30) for start, end in pairs))


@given(
    st.integers(0, 12),
    st.integers(0, 48),
    st.integers(0, 48),
    st.frozensets(st.integers(0, 6), min_size=1),
    INTERVALS,
    st.integers(-2 * DAY_MINUTES, 15 * DAY_MINUTES),
)
def test_nothing_changes_before_the_next_change(
    length: int, start: int, end: int, days: frozenset[int], intervals: tuple[Interval, ...], at: int
) -> None:
    first = date(2026, 3, 2)
    schedule = Schedule("s", first, date(2026, 3, 2 + length), start * 30, end * 30, days, intervals)
    base = seconds("2026-03-02T00:00")
    now = base + at * MINUTE
    change = schedule.next_change(now)
    until = base + 40 * DAY_MINUTES * MINUTE if change is None else change
    assert until > now
    before = schedule.is_active(now)
    moment = now
    while moment < until:
        assert schedule.is_active(moment) is before
        moment += 15 * MINUTE
    assert schedule.is_active(until - 1) is before


def test_a_policy_out_of_its_time_is_not_there() -> None:
    from dataclasses import replace

    whole = world(time_interval=[{"start_interval": "9:00", "end_interval": "17:30"}])
    for moment, rules in (("2026-03-02T08:00", 0), ("2026-03-02T10:00", 1)):
        at = replace(whole, at=seconds(moment))
        assert sum(len(policy.rules) for policy in at.ordered[:-1]) == rules
        assert len(compile_policy(at).rules) == rules + 4
    with pytest.raises(UnsupportedError, match="a schedule without a time"):
        compile_policy(whole)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start_date": "2026-03-02"}, "is not a date such as"),
        ({"start_date": "02/30/2026"}, "is not a date such as"),
        ({"end_date": "03/01/2026"}, "ends before it begins"),
        ({"end_date": None}, "the field end_date is missing"),
        ({"timezone": "CET"}, "is not one of UTC, LOCAL"),
        ({"days": []}, "must not be empty"),
        ({"days": ["MON"]}, "did you mean"),
        ({"time_interval": [{"start_interval": "9:15", "end_interval": "10:00"}]}, "in steps of 30 minutes"),
        ({"time_interval": [{"start_interval": "10:00", "end_interval": "9:00"}]}, "past midnight are two intervals"),
        ({"time_interval": [{"start_interval": "10:00"}]}, "the field end_interval is missing"),
        ({"start_time": "9:00"}, "start_time has no place in a recurring schedule"),
        ({"recurring": False}, "the field start_time is missing"),
        ({"recurring": False, "start_time": "9:00", "end_time": "10:00", "days": ["MONDAY"]}, "has no place in"),
        ({"recurring": False, "start_time": "25:00", "end_time": "10:00"}, "is not a time of day"),
        ({"id": "other"}, "there is no scheduler 's'"),
    ],
)
def test_bad_schedules(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        world(**fields)


# -- through replay and explain

POLICY = """
resource_type: PolicyFirewallScheduler
id: office
start_date: 03/02/2026
end_date: 03/06/2026
timezone: UTC
time_interval: [{start_interval: "9:00", end_interval: "17:00"}]
---
resource_type: SecurityPolicy
id: closed
category: Application
scheduler_path: office
rules: [{id: nothing, action: DROP}]
"""


def verdicts(folder: Path, moments: list[str], *options: str) -> list[list[str]]:
    """What both engines say of UDP packets at these times: another flow each, but for those with a `*`."""
    path = WirePath(End("10.0.0.1", "02:00:00:00:00:01"), End("10.0.0.2", "02:00:00:00:00:02"))
    packets = []
    for number, text in enumerate(moments):
        frame = ethernet(path, path.udp(7 if text.endswith("*") else 1000 + number, 53, b"?"))
        packets.append(Captured(round(seconds(text.rstrip("*")) * 1e9), frame, len(frame), 1))
    (folder / "cap.pcap").write_bytes(pcap_write(packets))
    (folder / "policy.yaml").write_text(POLICY)
    found = []
    for backend in ("native", "oracle"):
        out = folder / f"{backend}.jsonl"
        arguments = [str(folder / "cap.pcap"), "--policy", str(folder / "policy.yaml"), "--backend", backend]
        done = CliRunner().invoke(replay, [*arguments, "--verdicts", str(out), *options], standalone_mode=False)
        assert done.exception is None and done.return_value == 0, done.output
        found.append([f"{row['verdict']} {row['reason']}" for row in map(json.loads, out.read_text().splitlines())])
    return found


def test_replay_follows_the_packets_clock(tmp_path: Path) -> None:
    moments = [
        "2026-03-01T12:00",
        "2026-03-02T08:59:59.9*",
        "2026-03-02T09:00*",
        "2026-03-02T16:59:59",
        "2026-03-02T17:00",
    ]
    moments += ["2026-03-06T16:00", "2026-03-06T17:00", "2026-03-07T12:00", "2026-03-02T12:00"]
    # The last packet's own time is past, but the clock does not go back.
    expected = ["ALLOW match", "ALLOW match", "DROP policy-change", "DROP match", "ALLOW match"]
    expected += ["DROP match", "ALLOW match", "ALLOW match", "ALLOW match"]
    native, oracle = verdicts(tmp_path, moments)
    assert native == expected
    assert oracle == expected


def test_a_stopped_clock_and_repetitions(tmp_path: Path) -> None:
    moments = ["2026-03-02T10:00", "2026-03-02T18:00"]
    assert verdicts(tmp_path, moments, "--clock", "stopped") == [["DROP match"] * 2] * 2
    (native, _) = verdicts(tmp_path, moments, "--repeat", "2")
    assert native[-2:] == ["DROP match", "ALLOW match"]


def test_explain_at_a_time(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text(POLICY)
    question = ["--policy", str(tmp_path / "policy.yaml"), "--from", "10.0.0.1", "--to", "10.0.0.2", "--dport", "80"]
    for at, status in (("2026-03-02T10:00", 1), ("2026-03-02T10:00+05:00", 0), ("2026-03-07", 0)):
        done = CliRunner().invoke(explain, [*question, "--at", at, "-o", "json"], standalone_mode=False)
        assert done.return_value == status
    (skipped,) = [
        item for item in json.loads(done.output)["steps"][0]["skipped"] if item["rule_path"].endswith("nothing")
    ]
    assert skipped["why"] == {"schedule": "the schedule office is not active at this time"}


@pytest.mark.parametrize("at", ["noon", "0001-01-01", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59-23:59"])
@pytest.mark.parametrize("policy", [POLICY, ""], ids=["schedule", "none"])
def test_what_is_no_time_is_refused(tmp_path: Path, policy: str, at: str) -> None:
    (tmp_path / "policy.yaml").write_text(policy)
    question = ["--policy", str(tmp_path / "policy.yaml"), "--from", "10.0.0.1", "--to", "10.0.0.2", "--dport", "80"]
    done = CliRunner().invoke(explain, [*question, "--at", at], standalone_mode=False)
    assert done.return_value == 2
    assert f"{at!r} is not a time such as" in done.stderr
