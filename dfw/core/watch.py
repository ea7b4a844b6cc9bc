# SPDX-License-Identifier: Apache-2.0
"""What is seen of a live host, as native/include/palisade_watch.h has it: its connections, listed and ended; what its
logged rules decided; Traceflow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from dfw.core.binding import array, ffi, lib
from dfw.core.live import Live
from dfw.layout import FLOW_DTYPE
from dfw.layout_live import LOG_DTYPE, TRACE_DTYPE

_PAGE: Final = 1024  # connections at a time: what a worker does not carry packets for
_LINES: Final = 8192  # of the log, at a time
_STAGES: Final = 1024  # of traces


@dataclass(frozen=True, slots=True)
class LogCounts:
    """Lines of the firewall log that there are not. `lost`: nobody read the log in time; `refused`: beyond what one
    vNIC, or the ends of flows, may say in a second."""

    lost: int
    refused: int


def read_flows(live: Live, worker: int) -> npt.NDArray[np.void]:
    """The open connections of a worker (FLOW_DTYPE), which goes on carrying packets between pages of them.

    `number` is a handle for `end_flows`, `file` the incarnation of the connection's filter, `end_ns` how long until it
    runs out; `start_ns`, `filter`, `dropped` and `history` say nothing.
    """
    pages, at = [], 0
    count = ffi.new("uint32_t *")
    while at >= 0:
        page = np.zeros(_PAGE, FLOW_DTYPE)
        at = int(lib.pal_live_flows_read(live.handle, worker, at, array(page, "pal_flow *"), _PAGE, count))
        pages.append(page[: int(count[0])])
    return np.concatenate(pages)


def end_flows(live: Live, worker: int, handles: npt.NDArray[np.uint64]) -> int:
    """End those of the connections that are still the ones which `read_flows` saw. Returns how many were ended."""
    ended = 0
    for at in range(0, len(handles), _PAGE):
        some = np.ascontiguousarray(handles[at : at + _PAGE], np.uint64)
        ended += int(lib.pal_live_flows_end(live.handle, worker, array(some, "uint64_t *"), len(some)))
    return ended


def commits_behind(live: Live, worker: int) -> int:
    """How many commits came after the configuration that the worker's current burst began with; 0 between bursts."""
    return int(lib.pal_live_behind(live.handle, worker))


def read_log(live: Live) -> npt.NDArray[np.void]:
    """What logged rules have decided since the last call (LOG_DTYPE), at most some thousand; no packet waits for it.

    Times are CLOCK_BOOTTIME's. One thread at a time.
    """
    rows = np.zeros(_LINES, LOG_DTYPE)
    return rows[: int(lib.pal_live_log_read(live.handle, array(rows, "pal_log_record *"), _LINES))]


def log_counts(live: Live) -> LogCounts:
    """What is missing in the log, since the host was made."""
    raw = ffi.new("pal_log_counts *")
    lib.pal_live_log_counts(live.handle, raw)
    return LogCounts(int(raw.lost), int(raw.refused))


def send_trace(live: Live, vnic: int, frame: bytes, mark: int) -> None:
    """Send a frame as if the vNIC with this filter had, marked. What it has met here can be read when this returns.

    No connection, counter or budget knows of it, and nobody gets it. Raises ValueError: it is too long.
    """
    if lib.pal_live_trace_send(live.handle, vnic, frame, len(frame), mark) != 0:
        raise ValueError(f"a traced packet of {len(frame)} bytes is too long")


def read_traces(live: Live) -> npt.NDArray[np.void]:
    """What traced packets, others' too, have met here since the last call (TRACE_DTYPE). One thread at a time."""
    rows = np.zeros(_STAGES, TRACE_DTYPE)
    return rows[: int(lib.pal_live_trace_read(live.handle, array(rows, "pal_trace_seen *"), _STAGES))]
