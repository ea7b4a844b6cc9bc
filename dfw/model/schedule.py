# SPDX-License-Identifier: Apache-2.0
"""When a policy is in force: NSX's PolicyFirewallScheduler. Time is an argument, in seconds since the epoch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

DAYS = ("MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY", "SUNDAY")
DAY_MINUTES = 24 * 60


class Interval(NamedTuple):
    """Part of a day in minutes from midnight; `end` is not part of it, and at most DAY_MINUTES."""

    start: int
    end: int


WHOLE_DAY = (Interval(0, DAY_MINUTES),)


@dataclass(frozen=True, slots=True)
class Schedule:
    """From `start` to `end` (minutes from midnight of the first and the last day; `end` is not part of it), on these
    days of the week (0 is Monday) and in these parts of the day. `local`: the host's time zone, else UTC."""

    path: str
    first_day: date
    last_day: date
    start: int = 0
    end: int = DAY_MINUTES
    days: frozenset[int] = frozenset(range(7))
    intervals: tuple[Interval, ...] = WHOLE_DAY
    local: bool = False

    def is_active(self, seconds: float) -> bool:
        """Is a policy with this schedule in force at this time?"""
        moment = datetime.fromtimestamp(seconds, None if self.local else UTC)
        day, minute = moment.date(), moment.hour * 60 + moment.minute
        if not self.first_day <= day <= self.last_day or day.weekday() not in self.days:
            return False
        if (day == self.first_day and minute < self.start) or (day == self.last_day and minute >= self.end):
            return False
        return any(start <= minute < end for start, end in self.intervals)

    def next_change(self, seconds: float) -> float | None:
        """The next time after this at which `is_active` may change; None where it never does again."""
        zone = None if self.local else UTC
        today = datetime.fromtimestamp(seconds, zone).date()
        day = max(today, self.first_day)
        # A change comes within a week of any day of the schedule, or on the day after its last.
        for _ in range(9):
            for minute in sorted(
                {0, self.start, self.end, *(edge for interval in self.intervals for edge in interval)}
            ):
                at = datetime.combine(day, time(), zone) + timedelta(minutes=minute)
                if at.timestamp() > seconds and day <= self.last_day:
                    return at.timestamp()
            day += timedelta(days=1)
            if day > self.last_day + timedelta(days=1):
                return None
        return None


def next_change(schedules: Iterable[Schedule], seconds: float) -> float | None:
    """The earliest next change of all schedules; None where nothing changes any more."""
    changes = [change for item in schedules if (change := item.next_change(seconds)) is not None]
    return min(changes, default=None)
