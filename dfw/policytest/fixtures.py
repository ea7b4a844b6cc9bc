# SPDX-License-Identifier: Apache-2.0
"""What the plugin's fixtures give, from the test that asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from dfw.errors import PolicyError
from dfw.policytest.assertions import PolicyUnderTest
from dfw.policytest.errors import PolicyTestError
from dfw.policytest.settings import MARKER, sources_find
from dfw.policytest.worlds import Subject, Worlds

if TYPE_CHECKING:
    from dfw.policytest.replays import ReplayUnderTest
    from dfw.policytest.traffic import TrafficUnderTest

WORLDS: Final = pytest.StashKey[Worlds]()
GIVEN: Final = pytest.StashKey[dict[str, Any]]()
"""What the command line of `palisade test` says of policy, inventory, default_action and at."""


def worlds_of(config: pytest.Config) -> Worlds:
    """The policies of this session."""
    return config.stash.setdefault(WORLDS, Worlds())


def policy_of(request: pytest.FixtureRequest, worlds: Worlds) -> PolicyUnderTest:
    """For `palisade_policy`."""
    return PolicyUnderTest(worlds, subject_of(request, worlds), request.node.nodeid, _folder(request))


def replay_of(request: pytest.FixtureRequest, worlds: Worlds) -> ReplayUnderTest:
    """For `palisade_replay`."""
    from dfw.policytest.replays import ReplayUnderTest

    return ReplayUnderTest(worlds, subject_of(request, worlds), request.node.nodeid, _folder(request))


def traffic_of(request: pytest.FixtureRequest, worlds: Worlds) -> Iterator[TrafficUnderTest]:
    """For `palisade_traffic`."""
    from dfw.policytest.traffic import TrafficUnderTest

    given = TrafficUnderTest(worlds, subject_of(request, worlds), request.node.nodeid, _folder(request))
    yield given
    given.end()


def subject_of(request: pytest.FixtureRequest, worlds: Worlds) -> Subject:
    """The policy of the test that asks. What is wrong with it is the test's error, in the policy's own words."""
    marker = request.node.get_closest_marker(MARKER)
    arguments = None if marker is None else (marker.args, marker.kwargs)
    try:
        given: dict[str, Any] = request.config.stash.get(GIVEN, {})
        return worlds.subject(sources_find(_folder(request), arguments, given))
    except (PolicyError, PolicyTestError) as error:
        worlds.bad_input = True
        message = str(error).replace(f"{Path.cwd()}/", "")
    pytest.fail(message, pytrace=False)


def _folder(request: pytest.FixtureRequest) -> Path:
    return Path(request.node.path).parent
