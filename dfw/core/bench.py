# SPDX-License-Identifier: Apache-2.0
"""The core's own benchmarks (native/engine/bench_*.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from dfw.core.binding import ERROR_BYTES, CoreError, array, ffi, lib, text
from dfw.core.engine import Engine


@dataclass(frozen=True, slots=True)
class PacketRun:
    """One run of a packet benchmark. `floor_ns`: of one and of two written entry lines; `single_ns`: with several
    workers, of the first one alone; `reference_ns`: the same accesses without a firewall, in one thread and in as many
    as there are workers (0 with one worker); `verified`: every verdict was the expected one."""

    ns: float
    pre_parsed_ns: float
    floor_ns: tuple[float, float]
    core_ghz: float
    single_ns: float
    reference_ns: tuple[float, float]
    verified: bool


def _packet_runs(raw: Any, runs: int) -> list[PacketRun]:
    return [
        PacketRun(
            raw[i].ns,
            raw[i].pre_parsed_ns,
            (raw[i].floor_ns[0], raw[i].floor_ns[1]),
            raw[i].core_ghz,
            raw[i].single_ns,
            (raw[i].reference_ns[0], raw[i].reference_ns[1]),
            bool(raw[i].verified),
        )
        for i in range(runs)
    ]


def run_conntrack(
    engine: Engine,
    *,
    connections: int,
    packets: int,
    size: int,
    family: int,
    batch: int,
    grid: bool,
    checksum: bool,
    both: bool,
    runs: int,
) -> list[PacketRun]:
    """Time established packets (native/engine/bench_conntrack.c). Raises CoreError."""
    given = ffi.new("pal_bench_conntrack *")
    given.connections, given.packets, given.bytes, given.family = connections, packets, size, family
    given.batch, given.grid, given.checksum, given.both = batch, grid, checksum, both
    raw, error = ffi.new("pal_bench_run[]", runs), ffi.new("char[]", ERROR_BYTES)
    if lib.pal_bench_conntrack_run(engine.handle, given, raw, runs, error, ERROR_BYTES) != 0:
        raise CoreError(text(error))
    return _packet_runs(raw, runs)


def run_setup(
    engine: Engine, *, rules: int, connections: int, batch: int, syn_only: bool, runs: int
) -> list[PacketRun]:
    """Time new connections (native/engine/bench_setup.c). Raises CoreError."""
    given = ffi.new("pal_bench_setup *")
    given.rules, given.connections, given.batch, given.syn_only = rules, connections, batch, syn_only
    raw, error = ffi.new("pal_bench_run[]", runs), ffi.new("char[]", ERROR_BYTES)
    if lib.pal_bench_setup_run(engine.handle, given, raw, runs, error, ERROR_BYTES) != 0:
        raise CoreError(text(error))
    return _packet_runs(raw, runs)


def read_line_ns(size: int, reads: int) -> float:
    """Nanoseconds to read one cache line at random of so many bytes, in bursts of 32. Raises MemoryError."""
    spent = float(lib.pal_bench_read_ns(size, reads))
    if spent < 0:
        raise MemoryError(f"no memory of {size} bytes to read from")
    return spent


def read_core_ghz() -> float:
    """The core's clock in GHz, by dependent additions, as far as others let it run."""
    return float(lib.pal_bench_core_ghz())


def play_frames(
    engine: Engine,
    data: npt.NDArray[np.uint8],
    frames: npt.NDArray[np.void],
    batch: int,
    answers: npt.NDArray[np.uint64] | None = None,
) -> int:
    """Judge frames (an array of dfw.layout.BENCH_FRAME_DTYPE over the bytes of `data`) at the first worker; returns the
    nanoseconds. `answers`: where every judgement goes, see native/include/palisade_core.h. Raises CoreError for a batch
    or a filter out of bounds."""
    kept = ffi.cast("uint64_t *", 0) if answers is None else array(answers, "uint64_t *")
    spent = lib.pal_bench_stream_run(
        engine.handle, array(data, "uint8_t *"), array(frames, "pal_bench_frame *"), len(frames), batch, kept
    )
    if spent == 0:
        raise CoreError("a burst of more than 256 packets, or a filter that the engine does not have")
    return int(spent)


class SavedState:
    """The first worker's connections and clock as they are now, to begin from again; what else it holds (counters,
    fragments, expectations) is not kept. Raises MemoryError."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._handle = ffi.gc(lib.pal_bench_state_save(engine.handle), lib.pal_bench_state_free)
        if self._handle == ffi.NULL:
            raise MemoryError("no memory to keep a connection table")

    def load(self) -> None:
        """Put the engine back into this state."""
        lib.pal_bench_state_load(self._engine.handle, self._handle)
