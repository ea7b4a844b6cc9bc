# SPDX-License-Identifier: Apache-2.0
"""Packets with comments to a pcapng file, by the core's writer (native/io/pcapng.h)."""

from __future__ import annotations

import os

import numpy as np

from dfw.core.binding import array, ffi, lib
from dfw.layout import FRAME_DTYPE

LINKTYPE_RAW = 101
"""A packet that begins with its IP header."""


class PacketFile:
    """A file that is being written; `descriptor` stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._handle = lib.pal_pcapng_open(descriptor)
        if self._handle == ffi.NULL:
            raise MemoryError

    def write(self, frame: np.void, data: bytes, comment: str) -> None:
        """A packet with the time, lengths, direction and link type of `frame` (FRAME_DTYPE). Raises OSError."""
        here = np.array([frame], dtype=FRAME_DTYPE)
        buffer = ffi.from_buffer("uint8_t[]", data)
        here["data"], here["caplen"] = int(ffi.cast("uintptr_t", buffer)), len(data)
        text = comment.encode()
        _check(lib.pal_pcapng_write(self._handle, array(here, "pal_frame *"), text, len(text)))

    def close(self) -> None:
        """Write what is left. Raises OSError for the first thing that could not be written."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _check(lib.pal_pcapng_close(handle))


def _check(code: int) -> None:
    if code != 0:
        raise OSError(-code, f"a packet cannot be written: {os.strerror(-code)}")
