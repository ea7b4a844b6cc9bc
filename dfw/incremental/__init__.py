# SPDX-License-Identifier: Apache-2.0
"""A compiled policy that follows changes: dfw/incremental/state.py; docs/decisions/0009-incremental-compile.md."""

from dfw.incremental.changes import Change, Clock, Delta, Exclusion, Remove, SetChange, Staged, Stamp, Thing
from dfw.incremental.state import PolicyState, collector_paused, collector_spared

__all__ = [
    "Change",
    "Clock",
    "Delta",
    "Exclusion",
    "PolicyState",
    "Remove",
    "SetChange",
    "Staged",
    "Stamp",
    "collector_paused",
    "collector_spared",
    "Thing",
]
