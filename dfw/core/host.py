# SPDX-License-Identifier: Apache-2.0
"""A live host: an engine and the fabric that it forwards by. Frames in memory through it, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from dfw.core.binding import ERROR_BYTES, REASONS, CoreError, array, copied, ffi, lib, text
from dfw.core.engine import Engine
from dfw.layout import RECORD_DTYPE
from dfw.layout_live import (
    ADDRESS_DTYPE,
    HOST_FRAME_DTYPE,
    INTERFACE_DTYPE,
    NEIGHBOUR_DTYPE,
    ROUTE_DTYPE,
    SEGMENT_DTYPE,
    TEP_DTYPE,
    VNIC_DTYPE,
)

_TABLES: Final = {
    "vnic": ("vnics", VNIC_DTYPE, "pal_vnic *"),
    "segment": ("segments", SEGMENT_DTYPE, "pal_segment *"),
    "neighbour": ("neighbours", NEIGHBOUR_DTYPE, "pal_neighbour *"),
    "interface": ("interfaces", INTERFACE_DTYPE, "pal_interface *"),
    "route": ("routes", ROUTE_DTYPE, "pal_fabric_route *"),
    "tep": ("teps", TEP_DTYPE, "pal_tep *"),
    "address": ("addresses", ADDRESS_DTYPE, "pal_address *"),
    "replica": ("replicas", np.dtype("=u4"), "uint32_t *"),
}


@dataclass(frozen=True, slots=True)
class Fabric:
    """What a host knows of segments, gateways and other hosts: arrays of dfw.layout_live's dtypes, in the meaning of
    native/include/palisade_live.h. Numbers are indexes of these arrays; a vNIC is known by its filter's number.

    `gateways`: numbers below it are routing domains; `underlay_mtu`: bytes of an outer IP packet; `gateway_mac`: six
    bytes, of every gateway interface, the same on every host.
    """

    vnics: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(0, VNIC_DTYPE))
    segments: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(0, SEGMENT_DTYPE))
    neighbours: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(0, NEIGHBOUR_DTYPE))
    interfaces: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(0, INTERFACE_DTYPE))
    routes: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(0, ROUTE_DTYPE))
    teps: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(0, TEP_DTYPE))
    addresses: npt.NDArray[np.void] = field(default_factory=lambda: np.zeros(0, ADDRESS_DTYPE))
    replicas: npt.NDArray[np.uint32] = field(default_factory=lambda: np.zeros(0, np.dtype("=u4")))
    gateways: int = 0
    underlay_mtu: int = 1500
    gateway_mac: bytes = bytes.fromhex("02506c000001")


@dataclass(frozen=True, slots=True)
class HostStats:
    """Frames since the host was made: received (`from_vnics` + `from_uplink`) = passed + consumed + dropped + held.
    What was generated, and copies of frames for many, are counted apart. `dropped`: by reason."""

    from_vnics: int
    from_uplink: int
    passed: int
    consumed: int
    held: int
    dropped: dict[str, int]
    copies: int
    copies_refused: int
    generated: int
    generated_dropped: int


@dataclass(frozen=True, slots=True)
class HostRun:
    """What came out of a run: frames that left (HOST_FRAME_DTYPE), in order; their bytes; verdicts (RECORD_DTYPE)."""

    frames: npt.NDArray[np.void]
    data: bytes
    records: npt.NDArray[np.void]

    def bytes_of(self, i: int) -> bytes:
        """The bytes of frame `i`: Ethernet, or, to the uplink, a Geneve header and Ethernet."""
        at = int(self.frames["at"][i])
        return self.data[at : at + int(self.frames["len"][i])]


class Host:
    """An engine's workers between vNICs and the uplink. The engine outlives the host."""

    def __init__(self, engine: Engine) -> None:
        """Raises CoreError without memory."""
        error = ffi.new("char[]", ERROR_BYTES)
        handle = lib.pal_host_new(engine.handle, error, ERROR_BYTES)
        if handle == ffi.NULL:
            raise CoreError(text(error))
        self.engine = engine
        self.handle = ffi.gc(handle, lib.pal_host_free)

    def stage(self, fabric: Fabric) -> None:
        """Stage a fabric. In force, together with what is staged in the engine, after the engine's `commit`.

        Raises CoreError with a sentence for an index out of bounds or an address given twice; then nothing is staged.
        """
        given, kept = ffi.new("pal_fabric *"), []
        for name, (plural, dtype, kind) in _TABLES.items():
            rows = np.ascontiguousarray(getattr(fabric, plural), dtype=dtype)
            kept.append(rows)
            setattr(given, name, array(rows, kind))
            setattr(given, plural, len(rows))
        given.gateways, given.underlay_mtu = fabric.gateways, fabric.underlay_mtu
        given.gateway_mac = list(fabric.gateway_mac)
        error = ffi.new("char[]", ERROR_BYTES)
        if lib.pal_host_stage(self.handle, given, error, ERROR_BYTES) != 0:
            raise CoreError(text(error))

    def run(self, data: bytes, frames: npt.NDArray[np.void], batch: int = 32) -> HostRun:
        """Frames (HOST_FRAME_DTYPE over `data`) through the first worker, `batch` (1 to 64) a burst.

        Raises MemoryError.
        """
        rows = np.ascontiguousarray(frames, dtype=HOST_FRAME_DTYPE)
        if len(rows) and int((rows["at"] + rows["len"]).max()) > len(data):
            raise ValueError("a frame goes beyond the bytes given")
        held = np.frombuffer(data, np.uint8)
        handle = lib.pal_host_run_new(
            self.handle, array(held, "uint8_t *"), array(rows, "pal_host_frame *"), len(rows), batch
        )
        if handle == ffi.NULL:
            raise MemoryError("no memory for a run, or a batch out of bounds")
        handle = ffi.gc(handle, lib.pal_host_run_free)
        n = ffi.new("uint64_t *")
        left = copied(lib.pal_host_run_frames(handle, n), n[0], HOST_FRAME_DTYPE)
        pointer = lib.pal_host_run_bytes(handle, n)
        out = bytes(ffi.buffer(pointer, n[0])) if n[0] else b""
        records = copied(lib.pal_host_run_records(handle, n), n[0], RECORD_DTYPE)
        return HostRun(left, out, records)

    def stats(self) -> HostStats:
        """All counters, summed over the workers."""
        raw = ffi.new("pal_host_stats *")
        lib.pal_host_stats_read(self.handle, raw)
        dropped = {reason: int(raw.dropped[i]) for i, reason in enumerate(REASONS) if raw.dropped[i]}
        names = ("passed", "consumed", "held", "copies", "copies_refused", "generated", "generated_dropped")
        return HostStats(
            int(raw.received[0]), int(raw.received[1]), dropped=dropped, **{n: int(getattr(raw, n)) for n in names}
        )


def frames_of(packets: Sequence[tuple[int, bytes]]) -> tuple[bytes, npt.NDArray[np.void]]:
    """Bytes and rows for `Host.run` of (vNIC, Ethernet frame) pairs, all at time 0."""
    rows = np.zeros(len(packets), HOST_FRAME_DTYPE)
    rows["len"] = [len(frame) for _, frame in packets]
    rows["at"] = np.concatenate(([0], np.cumsum(rows["len"])[:-1])) if len(packets) else 0
    rows["vnic"] = [vnic for vnic, _ in packets]
    return b"".join(frame for _, frame in packets), rows


@dataclass(frozen=True, slots=True)
class WayRun:
    """Packets from one host's vNICs to another's: nanoseconds each at the one and at the other, of a loop that writes
    six lines for each, of one that touches its own two lines (0: not asked for); frames that left for the
    underlay, and that reached a vNIC."""

    near_ns: float
    far_ns: float
    floor_ns: float
    memory_ns: float
    sent: int
    delivered: int


def run_way(
    near: Host,
    far: Host,
    data: npt.NDArray[np.uint8],
    frames: npt.NDArray[np.void],
    tep: npt.NDArray[np.uint8],
    batch: int,
    apart: bool = False,
    order: npt.NDArray[np.uint32] | None = None,
    connections: int = 0,
) -> WayRun:
    """Time frames (HOST_FRAME_DTYPE over `data`) from vNICs of `near`, an IPv4 TEP, to those of `far`
    (native/engine/bench_host.c), each burst at once, or, `apart`, all when all have left. `order`: the connection of
    each. Raises MemoryError."""
    outer, out = ffi.new("pal_address *"), ffi.new("pal_bench_way *")
    outer.addr, outer.family = list(tep), 1
    places = ffi.NULL if order is None else array(order, "uint32_t *")
    rows, held = array(frames, "pal_host_frame *"), array(data.reshape(-1), "uint8_t *")
    code = lib.pal_bench_way_run(
        near.handle, far.handle, held, rows, len(frames), outer, batch, int(apart), places, connections, out
    )
    if code != 0:
        raise MemoryError("no memory for a run, or a batch out of bounds")
    return WayRun(out.near_ns, out.far_ns, out.floor_ns, out.memory_ns, int(out.sent), int(out.delivered))
