# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin: the fixtures `palisade_policy`, `palisade_traffic` and `palisade_replay` (docs/policy-tests.md).

pytest imports this module in every run on a machine where the package is installed, so it imports nothing of ours until
a fixture is used. The short names `policy`, `traffic` and `replay` are those of `palisade test`
(dfw/policytest/session.py).
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dfw.policytest.assertions import PolicyUnderTest
    from dfw.policytest.replays import ReplayUnderTest
    from dfw.policytest.traffic import TrafficUnderTest
    from dfw.policytest.worlds import Worlds

MARKER = (
    "palisade_policy(*files, default_action=None, at=None, staged=False): the policy and inventory of a test's "
    "palisade_ fixtures, relative to its file; without it those of the nearest palisade.toml"
)


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture(scope="session")
def _palisade_worlds(request: pytest.FixtureRequest) -> Iterator[Worlds]:
    """The policies of the session; at its end the packet core must agree with what was said of them."""
    from dfw.policytest.fixtures import worlds_of

    worlds = worlds_of(request.config)
    yield worlds
    worlds.confirm()


@pytest.fixture
def palisade_policy(request: pytest.FixtureRequest, _palisade_worlds: Worlds) -> PolicyUnderTest:
    """The policy under test: assert_allowed, assert_denied, assert_matrix."""
    from dfw.policytest.fixtures import policy_of

    return policy_of(request, _palisade_worlds)


@pytest.fixture
def palisade_traffic(request: pytest.FixtureRequest, _palisade_worlds: Worlds) -> Iterator[TrafficUnderTest]:
    """Packets one after the other through a firewall that remembers: open, begin, assert_denied, wait, remove,
    change."""
    from dfw.policytest.fixtures import traffic_of

    yield from traffic_of(request, _palisade_worlds)


@pytest.fixture
def palisade_replay(request: pytest.FixtureRequest, _palisade_worlds: Worlds) -> ReplayUnderTest:
    """Captures through the policy under test: call it with captures' names, and ask the result."""
    from dfw.policytest.fixtures import replay_of

    return replay_of(request, _palisade_worlds)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, None]:
    """Mark what an assertion raises that proves nothing: such a test errors, it does not fail."""
    outcome = yield
    if call.excinfo is not None and getattr(call.excinfo.type, "palisade_errors", False):
        outcome.get_result().palisade_errors = True


def pytest_report_teststatus(report: pytest.TestReport | pytest.CollectReport) -> tuple[str, str, str] | None:
    """An assertion that proves nothing is an error."""
    if getattr(report, "palisade_errors", False) and report.when == "call" and report.failed:
        return "error", "E", "ERROR"
    return None
