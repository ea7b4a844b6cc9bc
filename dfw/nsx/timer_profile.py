# SPDX-License-Identifier: Apache-2.0
"""NSX PolicyFirewallSessionTimerProfile documents, and what binds them to groups -> model timers.

A profile that a binding map names holds at the vNICs of the map's group. A profile that no map names holds everywhere
else, and there can be one of them only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from dfw.fields import Cursor, Field, integer, mapping
from dfw.model import TimerBinding, Timers, timer_bounds
from dfw.nsx.binding import ProfileKind, binding_table, profiles_load
from dfw.nsx.common import COMMON, TIMER_PROFILES_ROOT, Context, is_read_only

NAMES = tuple(item.name for item in fields(Timers))
TIMER_PROFILE: Mapping[str, Field] = {
    **COMMON,
    **{name: Field(integer(*timer_bounds(name), "a number of seconds for this timer")) for name in NAMES},
}
PROFILE_FIELD = "firewall_session_timer_profile_path"
TIMER_BINDING = binding_table(PROFILE_FIELD)


def timers_load(
    context: Context, profiles: Mapping[str, Cursor], maps: Mapping[str, Cursor], address_only: frozenset[str]
) -> tuple[Timers | None, tuple[TimerBinding, ...]]:
    """The timers that hold everywhere (None: no document says), and those bound to groups."""
    kind = ProfileKind("session timer", TIMER_PROFILES_ROOT, PROFILE_FIELD, TIMER_BINDING, timers_read)
    everywhere, bound = profiles_load(context, profiles, maps, address_only, kind)
    return everywhere, tuple(TimerBinding(item.path, item.number, item.peers, own) for item, own in bound)


def timers_read(cursor: Cursor) -> Timers | None:
    """The timers of a profile, NSX's defaults where it names none; None, after reporting, where it is no mapping."""
    values = mapping(cursor, TIMER_PROFILE, ignore=is_read_only)
    return None if values is None else Timers(**{name: values[name] for name in NAMES if values[name] is not None})
