# SPDX-License-Identifier: Apache-2.0
"""The packet core, as Python sees it.

Only dfw.core.binding imports `_palisade_core`. A call crosses once a batch, never once a packet; what C declares is
native/include/palisade_core.h. Arrays are numpy arrays of the dtypes in dfw.layout, and are not copied.
"""

from dfw.core.bench import PacketRun, SavedState, play_frames, run_conntrack, run_setup
from dfw.core.binding import (
    CTS,
    NO_FILTER,
    NO_RULE,
    REASON_TEXTS,
    REASONS,
    REASONS_NSX,
    VERDICTS,
    CoreError,
    build_info,
    ffi,
    lib,
)
from dfw.core.classifier import Classifier, Ruleset
from dfw.core.engine import Engine, EngineOptions, EngineStats
from dfw.core.host import Fabric, Host, HostRun, HostStats, WayRun, frames_of, run_way
from dfw.core.packetfile import LINKTYPE_RAW, PacketFile
from dfw.core.replay import Capture, Replay, ReplayOptions, ReplayTotals, StagedRules, flow_words, linktype_name

__all__ = [
    "CTS",
    "NO_FILTER",
    "NO_RULE",
    "REASONS",
    "REASONS_NSX",
    "REASON_TEXTS",
    "VERDICTS",
    "Capture",
    "LINKTYPE_RAW",
    "PacketFile",
    "Classifier",
    "CoreError",
    "Engine",
    "EngineOptions",
    "EngineStats",
    "Fabric",
    "Host",
    "HostRun",
    "HostStats",
    "PacketRun",
    "Replay",
    "ReplayOptions",
    "ReplayTotals",
    "Ruleset",
    "SavedState",
    "StagedRules",
    "WayRun",
    "build_info",
    "ffi",
    "flow_words",
    "frames_of",
    "lib",
    "linktype_name",
    "play_frames",
    "run_conntrack",
    "run_setup",
    "run_way",
]
