# SPDX-License-Identifier: Apache-2.0
"""NSX PolicyFirewallScheduler documents -> model schedules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date
from typing import Any

from dfw.fields import Cursor, Field, boolean, choice, listed, mapping, parsed
from dfw.model import DAY_MINUTES, DAYS, WHOLE_DAY, Interval, Schedule
from dfw.nsx.common import COMMON, is_read_only

GRAIN = 30  # minutes
_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{4})", re.ASCII)
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})", re.ASCII)


def _date(text: str) -> date:
    found = _DATE.fullmatch(text)
    try:
        if found:
            return date(int(found[3]), int(found[1]), int(found[2]))
    except ValueError:
        pass
    raise ValueError(f"{text!r} is not a date such as 12/31/2026 (month/day/year)")


def _minutes(text: str) -> int:
    found = _TIME.fullmatch(text)
    minutes = int(found[1]) * 60 + int(found[2]) if found and int(found[2]) < 60 else DAY_MINUTES + 1
    if minutes > DAY_MINUTES or minutes % GRAIN:
        raise ValueError(f"{text!r} is not a time of day in steps of {GRAIN} minutes, such as 9:00 or 17:30")
    return minutes


INTERVAL: Mapping[str, Field] = {
    "start_interval": Field(parsed(_minutes), required=True),
    "end_interval": Field(parsed(_minutes), required=True),
}


def _interval(cursor: Cursor) -> Interval | None:
    values = mapping(cursor, INTERVAL)
    if values is None or values["start_interval"] is None or values["end_interval"] is None:
        return None
    if values["end_interval"] <= values["start_interval"]:
        cursor.problem("the interval ends before it begins; past midnight are two intervals")
        return None
    return Interval(values["start_interval"], values["end_interval"])


SCHEDULER: Mapping[str, Field] = {
    **COMMON,
    "start_date": Field(parsed(_date), required=True),
    "end_date": Field(parsed(_date), required=True),
    "start_time": Field(parsed(_minutes)),
    "end_time": Field(parsed(_minutes)),
    "recurring": Field(boolean, default=True),
    "days": Field(listed(choice({name: number for number, name in enumerate(DAYS)}), empty=False)),
    "time_interval": Field(listed(_interval, empty=False)),
    "timezone": Field(choice({"UTC": False, "LOCAL": True}), required=True, default=False),
}


def schedule_read(path: str, cursor: Cursor) -> Schedule | None:
    """A schedule; None, after reporting, where it cannot be told when it is active."""
    values = mapping(cursor, SCHEDULER, ignore=is_read_only)
    if values is None:
        return None
    _check_parts(cursor, values)
    first, last = values["start_date"], values["end_date"]
    if first is None or last is None:
        return None
    start, end = (0, DAY_MINUTES) if values["recurring"] else (values["start_time"] or 0, values["end_time"] or 0)
    if last < first or (last == first and end <= start):
        cursor.member("end_date").problem("the schedule ends before it begins")
        return None
    days = frozenset(range(7)) if values["days"] is None else frozenset(values["days"])
    intervals = WHOLE_DAY if values["time_interval"] is None else values["time_interval"]
    return Schedule(path, first, last, start, end, days, intervals, bool(values["timezone"]))


def _check_parts(cursor: Cursor, values: dict[str, Any]) -> None:
    """A recurring schedule has parts of the day and days of the week; the other kind a time for its two dates."""
    only = ("days", "time_interval") if not values["recurring"] else ("start_time", "end_time")
    for name in only:
        if cursor.node.get(name) is not None:
            kind = "a recurring schedule" if values["recurring"] else "a schedule that does not recur"
            cursor.key(name).problem(f"{name} has no place in {kind}")
    for name in () if values["recurring"] else ("start_time", "end_time"):
        if cursor.node.get(name) is None:
            cursor.problem(f"the field {name} is missing: the schedule does not recur")
