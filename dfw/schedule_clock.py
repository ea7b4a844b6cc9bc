# SPDX-License-Identifier: Apache-2.0
"""Schedules in a replay: the policy that is in force at each packet's time, put in force before that packet.

The clock is the packets', and never goes back. Policies without schedules have no such clock, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from dfw.core import Capture
from dfw.model import PolicySet, next_change


class ScheduleClock:
    """Each `commit` is called with its policy as that stands from the next packet on. `stopped`: the first packet's
    time holds to the end."""

    def __init__(self, worlds: Sequence[tuple[PolicySet, Callable[[PolicySet], object]]], stopped: bool) -> None:
        self._standing = [_Standing(world, commit) for world, commit in worlds if world.schedules]
        self._stopped = stopped
        self._now: float | None = None
        self._change: float | None = None
        self._ahead: Capture | None = None
        self._times = np.zeros(0, dtype=np.uint64)

    def begin_file(self, view: memoryview) -> None:
        """The packets that follow are a capture's; its times are read ahead, beside whoever judges them."""
        self.end_file()
        self._ahead = Capture(view)

    def end_file(self) -> None:
        """Let go of the capture."""
        if self._ahead is not None:
            self._ahead.close()
            self._ahead = None
        self._times = np.zeros(0, dtype=np.uint64)

    def step(self, most: int) -> int:
        """How many packets may be judged before the policy may change: at least 1, at most `most`.

        Puts the policy in force that holds for the first of them.
        """
        assert self._ahead is not None
        if not len(self._times):
            self._times = self._ahead.frames(4096)["ts_ns"].copy()
        if not len(self._times):
            return most  # the capture's end, or a defect for the one who judges to find
        self._advance(int(self._times[0]) / 1e9)
        count = min(most, len(self._times))
        if self._change is not None and not self._stopped:
            late = np.flatnonzero(self._times[:count] >= np.uint64(round(self._change * 1e9)))
            if len(late):
                count = int(late[0])
        self._times = self._times[count:]
        return count

    def _advance(self, seconds: float) -> None:
        if self._now is None or (seconds >= (self._change or float("inf")) and not self._stopped):
            self._now = seconds if self._now is None else max(self._now, seconds)
            changes = [next_change(item.world.schedules, self._now) for item in self._standing]
            self._change = min((change for change in changes if change is not None), default=None)
            for item in self._standing:
                item.advance(self._now)

    def restart(self) -> None:
        """The clock begins anew."""
        self._now = self._change = None
        for item in self._standing:
            item.active = None


@dataclass(slots=True)
class _Standing:
    """A policy that changes with the time. `active`: which of its schedules were, when it was put in force."""

    world: PolicySet
    commit: Callable[[PolicySet], object]
    active: tuple[bool, ...] | None = None

    def advance(self, now: float) -> None:
        active = tuple(item.is_active(now) for item in self.world.schedules)
        if active != self.active:
            self.active = active
            self.commit(replace(self.world, at=now))


def schedule_clock(
    worlds: Sequence[tuple[PolicySet, Callable[[PolicySet], object]]], stopped: bool
) -> ScheduleClock | None:
    """A clock for the policies among these that have schedules; None where none has."""
    return ScheduleClock(worlds, stopped) if any(world.schedules for world, _ in worlds) else None


def always(world: PolicySet) -> PolicySet:
    """The policy with every scheduled policy in force: for what must know all rules beforehand."""
    return replace(world, policies=tuple(replace(policy, schedule=None) for policy in world.policies))
