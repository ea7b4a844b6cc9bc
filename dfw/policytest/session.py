# SPDX-License-Identifier: Apache-2.0
"""What `palisade test` adds to pytest: the short names `policy`, `traffic` and `replay`, rule coverage, mutations.

Loaded by `-p dfw.policytest.session`, which pytest-xdist hands on to its workers; what they saw comes back to the
process that reports in their `workeroutput`.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import pytest

from dfw.policytest.fixtures import GIVEN, worlds_of

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from dfw.policytest.assertions import PolicyUnderTest
    from dfw.policytest.replays import ReplayUnderTest
    from dfw.policytest.traffic import TrafficUnderTest
    from dfw.policytest.worlds import Subject

OPTIONS: Final = ("policy", "inventory", "default_action", "at", "staged")
_SHOWN: Final = 200


@dataclass
class Seen:
    """What this run came to. `outcomes`: passed, failed, error or skipped, by test; `parts`: coverage by process."""

    outcomes: dict[str, str] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    parts: list[list[dict[str, Any]]] = field(default_factory=list)
    bad_input: bool = False
    interrupted: bool = False
    mutations: dict[str, Any] | None = None
    not_mutated: str = ""


SEEN: Final = pytest.StashKey[Seen]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options with which `palisade test` calls pytest."""
    group = parser.getgroup("palisade", "palisade test")
    for name in ("policy", "inventory"):
        group.addoption(f"--palisade-{name}", action="append", default=[])
    for name in ("default-action", "at"):
        group.addoption(f"--palisade-{name}", default=None)
    for name in ("staged", "mutate"):
        group.addoption(f"--palisade-{name}", action="store_true")


def pytest_configure(config: pytest.Config) -> None:
    """Take over what the command line says."""
    config.stash[GIVEN] = {name: config.getoption(f"palisade_{name}") for name in OPTIONS}
    config.stash[SEEN] = Seen()


@pytest.fixture
def policy(palisade_policy: PolicyUnderTest) -> PolicyUnderTest:
    """Short for palisade_policy."""
    return palisade_policy


@pytest.fixture
def traffic(palisade_traffic: TrafficUnderTest) -> TrafficUnderTest:
    """Short for palisade_traffic."""
    return palisade_traffic


@pytest.fixture
def replay(palisade_replay: ReplayUnderTest) -> ReplayUnderTest:
    """Short for palisade_replay."""
    return palisade_replay


_seen: Seen | None = None


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Reports come without their session."""
    global _seen
    _seen = session.config.stash[SEEN]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep how each test ended."""
    assert _seen is not None
    if report.failed:
        is_error = report.when != "call" or getattr(report, "palisade_errors", False)
        _seen.outcomes[report.nodeid] = "error" if is_error else "failed"
        crash = getattr(report.longrepr, "reprcrash", None)
        _seen.messages[report.nodeid] = getattr(crash, "message", None) or str(report.longrepr)
    elif report.skipped:
        _seen.outcomes.setdefault(report.nodeid, "skipped")
    elif report.when == "call":
        _seen.outcomes.setdefault(report.nodeid, "passed")


def pytest_keyboard_interrupt() -> None:
    """Ended by a signal."""
    if _seen is not None:
        _seen.interrupted = True


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """After the tests, the mutations."""
    result = yield
    if session.config.getoption("palisade_mutate") and not session.config.option.collectonly:
        seen = session.config.stash[SEEN]
        wrong = [test for test, outcome in seen.outcomes.items() if outcome in ("failed", "error")]
        if wrong or not any(outcome == "passed" for outcome in seen.outcomes.values()):
            seen.not_mutated = "mutations need tests that pass"
        else:
            seen.mutations = _mutations(session)
    return result


def _mutations(session: pytest.Session) -> dict[str, Any]:
    from dfw.policytest.mutants import MutationReport, mutants_run

    worlds = worlds_of(session.config)
    items = {item.nodeid: item for item in session.items}

    def rerun(_: Subject, tests: set[str]) -> bool:
        return all(_passes_again(items[test]) for test in sorted(tests) if test in items)

    report = MutationReport(unnoticed=[], equivalent=[])
    started = time.monotonic()
    worlds.recording = False
    try:
        for subject in worlds.subjects.values():
            for mutant in mutants_run(subject, rerun):
                report.add(subject, mutant)
    finally:
        worlds.recording = True
    report.seconds = time.monotonic() - started
    return report.as_json()


def _passes_again(item: pytest.Item) -> bool:
    """Run a test once more, unreported. pytest has no public way; pytest-rerunfailures uses the same."""
    from _pytest.runner import runtestprotocol

    if hasattr(item, "_initrequest"):
        item._initrequest()
    return not any(report.failed for report in runtestprotocol(item, log=False, nextitem=None))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand what this process saw to the one that reports."""
    from dfw.policytest.coverage import coverage_data

    worlds = worlds_of(session.config)
    mine = coverage_data(worlds.subjects.values())
    seen = session.config.stash[SEEN]
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["palisade"] = {"part": mine, "bad_input": worlds.bad_input}
    else:
        seen.parts.append(mine)
        seen.bad_input |= worlds.bad_input


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """What a worker of pytest-xdist saw."""
    output = getattr(node, "workeroutput", {}).get("palisade")
    if output is not None:
        seen = node.config.stash[SEEN]
        seen.parts.append(output["part"])
        seen.bad_input |= output["bad_input"]


def pytest_terminal_summary(terminalreporter: TerminalReporter, config: pytest.Config) -> None:
    """Rule coverage, then the mutations that nobody noticed."""
    from dfw.explain_text import rule_name
    from dfw.policytest.coverage import coverage_merge, place_of, render_text

    seen = config.stash[SEEN]
    policies = coverage_merge(seen.parts)
    if policies:
        terminalreporter.section("rule coverage")
        terminalreporter.write_line(render_text(policies))
    if seen.not_mutated:
        terminalreporter.section("mutations")
        terminalreporter.write_line(seen.not_mutated)
    if seen.mutations is None:
        return
    found = seen.mutations
    terminalreporter.section("mutations")
    unnoticed, equivalent = found["unnoticed"], found["equivalent"]
    terminalreporter.write_line(
        f"{found['made']} mutations in {found['seconds']:.1f} s: {found['noticed']} noticed, {len(unnoticed)} not, "
        f"{len(equivalent)} that change no packet's fate"
    )
    shown = [row for row in unnoticed if row["witness"]]
    others = [row for row in unnoticed if not row["witness"]]
    for title, rows in (
        ("no test notices:", shown),
        ("no test notices, and no first packet shows it (state, TCP strictness or an ALG may differ):", others),
        ("equivalent, for no packet's fate changes:", equivalent),
    ):
        if rows:
            terminalreporter.write_line(title)
        for row in rows[:_SHOWN]:
            place = f"{place_of(row)}  " if row["file"] else ""
            terminalreporter.write_line(f"  {place}{rule_name(row['rule_path'])}: {row['change']}")
            if row["witness"]:
                terminalreporter.write_line(f"      {row['witness']}")
        if len(rows) > _SHOWN:
            terminalreporter.write_line(f"  and {len(rows) - _SHOWN} more")
