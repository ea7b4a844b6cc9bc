# SPDX-License-Identifier: Apache-2.0
"""The core's own benchmarks (native/engine/bench_*.c)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dfw.core.binding import ERROR_BYTES, CoreError, ffi, lib, text
from dfw.core.engine import Engine


@dataclass(frozen=True, slots=True)
class PacketRun:
    """One run of a packet benchmark. `floor_ns`: of one and of two written entry lines; `verified`: every verdict was
    the expected one."""

    ns: float
    pre_parsed_ns: float
    floor_ns: tuple[float, float]
    core_ghz: float
    verified: bool


def _packet_runs(raw: Any, runs: int) -> list[PacketRun]:
    return [
        PacketRun(
            raw[i].ns,
            raw[i].pre_parsed_ns,
            (raw[i].floor_ns[0], raw[i].floor_ns[1]),
            raw[i].core_ghz,
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
