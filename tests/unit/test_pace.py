# SPDX-License-Identifier: Apache-2.0
"""How often something may be done."""

from __future__ import annotations

import random

from supervisor_glue.pace import Pace

PACE = Pace(seconds=1.0, burst=2)


def test_two_at_once_and_then_one_a_second() -> None:
    due = PACE.after(0.0, 100.0)
    assert PACE.left(due, 100.0) == 0.0 and PACE.left(due, 100.0, burst=1) == 1.0
    due = PACE.after(due, 100.0)
    assert PACE.left(due, 100.0) == 1.0 and PACE.left(due, 100.4) == 100.0 + 1.0 - 100.4
    due = PACE.after(due, 101.0)
    assert PACE.left(due, 101.0) == 1.0
    assert PACE.left(due, 103.0) == 0.0 and PACE.left(due, 103.0, burst=1) == 0.0


def test_whatever_the_clock_says_there_is_a_bound() -> None:
    """A thousand that want to do it all the time, at seconds as there are now."""
    chance = random.Random(1)
    now = due = 1_795_741_200.1
    done = []
    while now < 1_795_741_260.1:
        if PACE.left(due, now) == 0.0:
            due = PACE.after(due, now)
            done.append(now)
        now += chance.random() / 100
    assert 60 <= len(done) <= 62
    assert all(later - earlier >= 1.0 - 1e-6 for earlier, later in zip(done, done[2:], strict=False))


def test_a_clock_that_was_set_back_holds_nothing_up() -> None:
    due = PACE.after(PACE.after(0.0, 5000.0), 5000.0)
    assert PACE.left(due, 100.0) == 0.0
    assert PACE.after(due, 100.0) == 101.0
