# SPDX-License-Identifier: Apache-2.0
"""NSX DistributedFloodProtectionProfile documents, and what binds them to groups -> model flood limits.

As with session timers: a profile that a binding map names holds at the vNICs of the map's group; one that no map names
holds everywhere else, and there can be one of them only.
"""

from __future__ import annotations

from collections.abc import Mapping

from dfw.fields import Cursor, Field, integer, mapping, unsupported
from dfw.model import FLOOD_MAXIMUM, FloodBinding, FloodLimits
from dfw.nsx.binding import ProfileKind, binding_table, profiles_load
from dfw.nsx.common import COMMON, FLOOD_PROFILES_ROOT, Context, is_read_only

_LIMIT = Field(integer(1, FLOOD_MAXIMUM, "a number of connections"))
LIMITS: Mapping[str, str] = {
    "tcp_half_open_conn_limit": "tcp_half_open",
    "udp_active_flow_limit": "udp_active",
    "icmp_active_flow_limit": "icmp_active",
    "other_active_conn_limit": "other_active",
}
"""NSX's name of each limit, and the model's."""
FLOOD_PROFILE: Mapping[str, Field] = {
    **COMMON,
    **dict.fromkeys(LIMITS, _LIMIT),
    "enable_syncache": Field(unsupported("connections are limited, never answered for the workload", False)),
    "enable_rst_spoofing": Field(unsupported("a connection ends at its timer, nobody is sent an RST for it", False)),
}
PROFILE_FIELD = "profile_path"
FLOOD_BINDING = binding_table(PROFILE_FIELD)


def floods_load(
    context: Context, profiles: Mapping[str, Cursor], maps: Mapping[str, Cursor], address_only: frozenset[str]
) -> tuple[FloodLimits | None, tuple[FloodBinding, ...]]:
    """The limits that hold everywhere (None: no document says), and those bound to groups."""
    kind = ProfileKind("flood protection", FLOOD_PROFILES_ROOT, PROFILE_FIELD, FLOOD_BINDING, flood_read)
    everywhere, bound = profiles_load(context, profiles, maps, address_only, kind)
    return everywhere, tuple(FloodBinding(item.path, item.number, item.peers, own) for item, own in bound)


def flood_read(cursor: Cursor) -> FloodLimits | None:
    """The limits of a profile, none where it names none; None, after reporting, where it is no mapping."""
    values = mapping(cursor, FLOOD_PROFILE, ignore=is_read_only)
    if values is None:
        return None
    return FloodLimits(**{own: values[name] for name, own in LIMITS.items() if values[name] is not None})
