# SPDX-License-Identifier: Apache-2.0
"""Packets captured on a live host, and the pcapng file that they become (native/engine/host_capture.c, io/seen_file.c).

A worker copies a packet into a bounded ring and goes on; nothing is copied, and nothing costs anything, while nobody
captures.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from dfw.core.binding import ERROR_BYTES, CoreError, ffi, lib, text
from dfw.core.live import Live
from dfw.layout import PROTO_ANY

SNAP_MAX: Final = int(lib.PAL_SNAP_MAX)
READ_BYTES: Final = 1 << 20
UPLINK_POINT: Final = int(lib.PAL_UPLINK)
"""Where a vNIC's number stands: the host's uplink."""


@dataclass(frozen=True, slots=True)
class CaptureOptions:
    """What is captured. `vnic`: a filter's number, or UPLINK_POINT. `address` and `port`: either end's; `protocol`: by
    number. `refused`: only what did not pass. `snap`: at most so many bytes of a packet."""

    vnic: int
    address: str | None = None
    protocol: int | None = None
    port: int | None = None
    refused: bool = False
    snap: int = SNAP_MAX


class LiveCapture:
    """A capture that runs until it is closed. One thread at a time."""

    def __init__(self, live: Live, options: CaptureOptions) -> None:
        """Raises CoreError: four run already, no memory."""
        given = ffi.new("pal_capture_options *")
        given.vnic, given.snap = options.vnic, options.snap
        given.proto = PROTO_ANY if options.protocol is None else options.protocol
        given.port, given.refused = options.port or 0, options.refused
        if options.address is not None:
            _address(given.addr, options.address)
        error = ffi.new("char[]", ERROR_BYTES)
        self.live = live
        self.number = int(lib.pal_live_capture_begin(live.handle, given, error, ERROR_BYTES))
        if self.number < 0:
            raise CoreError(text(error))
        self._buffer = ffi.new("uint8_t[]", READ_BYTES)
        self._lost = ffi.new("uint64_t *")
        self.lost = 0
        self._open = True

    def read(self) -> bytes:
        """What has been captured since the last call, as `SeenFile.write` takes it. `lost` grows by what the ring had
        no room for."""
        if not self._open:
            return b""
        size = lib.pal_live_capture_read(self.live.handle, self.number, self._buffer, READ_BYTES, self._lost)
        self.lost = int(self._lost[0])
        return bytes(ffi.buffer(self._buffer, size))

    def close(self) -> None:
        """Nothing is captured from here on."""
        if self._open:
            self._open = False
            lib.pal_live_capture_end(self.live.handle, self.number)


class SeenFile:
    """A pcapng file of captured packets. `descriptor` stays the caller's. `local`: the host's TEP, for what comes from
    an uplink."""

    def __init__(self, descriptor: int, local: str) -> None:
        self._handle = lib.pal_pcapng_open(descriptor)
        if self._handle == ffi.NULL:
            raise MemoryError
        self._local = ffi.new("pal_address *")
        _address(self._local[0], local)
        self._rules = self._vnics = ffi.new("char *[]", 1)
        self._kept: list[Any] = []

    def name(self, rules: Mapping[int, str], vnics: Mapping[int, str]) -> None:
        """What the numbers in packets mean from here on: JSON members, `"rule": 1001, "rule_path": "..."` and
        `"vnic": "web-1"`, as the comments of `replay --allowed` have them."""
        self._kept = []
        self._rules, self._vnics = (self._names(names) for names in (rules, vnics))

    def _names(self, names: Mapping[int, str]) -> Any:
        found = ffi.new("char *[]", max(names, default=0) + 1)
        for number, words in names.items():
            found[number] = kept = ffi.new("char[]", words.encode())
            self._kept.append(kept)
        return found

    def write(self, seen: bytes, most: int, offset_ns: int) -> int:
        """At most `most` of the packets, their time plus `offset_ns`; they are in the file when it returns. Returns how
        many. Raises OSError."""
        data = ffi.from_buffer("uint8_t[]", seen)
        rules, vnics = self._rules, self._vnics
        arguments = (data, len(seen), offset_ns, most, self._local, rules, len(rules), vnics, len(vnics))
        written = int(lib.pal_seen_write(self._handle, *arguments))
        _check(min(written, 0) or lib.pal_pcapng_flush(self._handle))
        return written

    def close(self) -> None:
        """Write what is left. Raises OSError."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _check(lib.pal_pcapng_close(handle))


def _address(given: Any, address: str) -> None:
    found = ip_address(address)
    given.addr = found.packed.ljust(16, b"\0")
    given.family = lib.PAL_FAMILY_V4 if found.version == 4 else lib.PAL_FAMILY_V6


def _check(code: int) -> None:
    if code != 0:
        raise OSError(-code, f"a packet cannot be written: {os.strerror(-code)}")
