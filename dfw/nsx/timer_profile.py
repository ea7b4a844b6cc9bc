# SPDX-License-Identifier: Apache-2.0
"""NSX PolicyFirewallSessionTimerProfile documents -> model timers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from dfw.fields import Cursor, Field, integer, mapping
from dfw.model import Timers, timer_bounds
from dfw.nsx.common import COMMON, is_read_only

NAMES = tuple(item.name for item in fields(Timers))
TIMER_PROFILE: Mapping[str, Field] = {
    **COMMON,
    **{name: Field(integer(*timer_bounds(name), "a number of seconds for this timer")) for name in NAMES},
}


def timers_read(cursor: Cursor) -> Timers | None:
    """The timers of a profile, NSX's defaults where it names none; None, after reporting, where it is no mapping."""
    values = mapping(cursor, TIMER_PROFILE, ignore=is_read_only)
    return None if values is None else Timers(**{name: values[name] for name in NAMES if values[name] is not None})
