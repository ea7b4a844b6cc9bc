# SPDX-License-Identifier: Apache-2.0
"""`--at`: a policy as it stands at a time, for verbs that have no packets' clock to go by."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import UTC, date, datetime

from dfw.endpoint import EndpointError
from dfw.model import PolicySet


def world_at(world: PolicySet, text: str | None) -> PolicySet:
    """The policy as it stands at a time (ISO 8601, UTC where no offset is given), else now. Raises EndpointError."""
    at = time.time() if text is None else _seconds(text)
    if not world.schedules and not world.what_if.schedules:
        return world
    return replace(world, at=at)


def _seconds(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
        if not date.min.year < moment.year < date.max.year:  # in another time zone it may be beyond the calendar
            raise ValueError
    except ValueError:
        raise EndpointError(f"--at: {text!r} is not a time such as 2026-03-31T09:30") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
