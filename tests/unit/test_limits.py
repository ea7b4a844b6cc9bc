# SPDX-License-Identifier: Apache-2.0
"""What one user may use up: buckets of requests, watches, bytes."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor_glue.api.idle import IdleWatch, apply_descriptors, connections_most
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth.limits import (
    CONNECTIONS,
    NODE_ALLOWANCE,
    SYSTEM_ALLOWANCE,
    USER_ALLOWANCE,
    Limits,
    allowance_of,
)
from supervisor_glue.auth.user import User

JANE = User("jane")
NODE = User("system:node:esx-1", ("system:nodes",))


def passes(limits: Limits, user: User, now: float) -> bool:
    try:
        limits.request(user, now)
    except ApiError as error:
        assert error.code == 429 and error.reason == "TooManyRequests" and (error.retry_after or 0) >= 1
        return False
    return True


def test_who_has_what() -> None:
    assert allowance_of(JANE) is USER_ALLOWANCE and allowance_of(NODE) is NODE_ALLOWANCE
    for group in ("system:masters", "palisade:administrators", "palisade:controllers"):
        assert allowance_of(User("x", (group,))) is SYSTEM_ALLOWANCE


def test_a_burst_then_the_rate() -> None:
    limits = Limits()
    burst = int(NODE_ALLOWANCE.burst)
    assert sum(passes(limits, NODE, 5.0) for _ in range(burst + 50)) == burst
    assert passes(limits, JANE, 5.0)  # another's bucket is another's
    assert sum(passes(limits, NODE, 6.0) for _ in range(1000)) == int(NODE_ALLOWANCE.rate)
    assert sum(passes(limits, NODE, 1e6) for _ in range(1000)) == burst
    assert not passes(limits, NODE, 0.0)  # a clock that is set back gives nothing


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 400)), min_size=1, max_size=12))
def test_no_window_passes_more_than_burst_and_rate(steps: list[tuple[float, int]]) -> None:
    limits, now, passed = Limits(), 0.0, list[float]()
    for pause, count in steps:
        now += pause
        passed += [now for _ in range(count) if passes(limits, NODE, now)]
    for index, start in enumerate(passed):
        for end in range(index, len(passed), 97):
            most = NODE_ALLOWANCE.burst + NODE_ALLOWANCE.rate * (passed[end] - start)
            assert end - index + 1 <= most + 1


def test_memory_is_bounded_by_users() -> None:
    limits = Limits(most=100)
    for number in range(5000):
        assert passes(limits, User(f"u{number}"), number / 1000)
        assert len(limits) <= 100


def test_watches_are_counted_while_they_are_open() -> None:
    limits = Limits()
    with ExitStack() as held:
        for _ in range(NODE_ALLOWANCE.watches):
            held.enter_context(limits.watch(NODE))
        with pytest.raises(ApiError) as caught, limits.watch(NODE):
            pass
        assert caught.value.code == 429 and caught.value.retry_after == 10
        with limits.watch(JANE):
            pass
    assert len(limits) == 0
    with limits.watch(NODE):
        pass


class Silent:
    """A connection that has sent nothing."""

    transport = None

    def force_close(self) -> None: ...


def test_silent_connections_are_closed_in_time_or_where_there_are_too_many() -> None:
    watch = IdleWatch(most=3, seconds=10)
    first, asking, second = Silent(), Silent(), Silent()
    assert watch.late([first, asking], 0.0) == []
    watch.asked(asking)
    assert watch.late([first, asking, second], 9.0) == []
    assert watch.late([first, asking, second], 10.0) == [first]
    assert watch.late([asking, second], 18.0) == []
    more = [Silent(), Silent()]
    assert watch.late([asking, second, *more], 18.5) == [second]
    assert watch.late([asking, *more], 28.4) == []
    assert set(watch.late([asking, *more], 28.5)) == set(more)


def test_connections_leave_descriptors_for_all_else() -> None:
    """In a process of its own: it may open as many as it ever may, and holds fewer connections than that."""
    words = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 900)); "
    words += "from supervisor_glue.api.idle import apply_descriptors; "
    words += "print(apply_descriptors(), resource.getrlimit(resource.RLIMIT_NOFILE))"
    said = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["900", "(900,", "900)"]
    assert connections_most(900) == 810 and connections_most(1 << 20) == CONNECTIONS
    assert 0 < connections_most(apply_descriptors()) < apply_descriptors()
