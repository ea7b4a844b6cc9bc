# SPDX-License-Identifier: Apache-2.0
"""One vNIC's connections as bytes that another host takes in (native/engine/export.h, DESIGN section 4).

A bulk copy and differences while packets run, then, when the vNIC's port has been removed, the last difference. All are
cut into parts that are complete by themselves, and are taken in in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from dfw.core.binding import ERROR_BYTES, CoreError, ffi, lib, text
from dfw.core.live import Live

PART: Final = 1024
"""Connections in a part: 168 KiB."""


class Export:
    """Connections of a filter, as they were. Raises CoreError: there is no such filter, no memory."""

    def __init__(self, live: Live, filter_number: int, since: Export | None = None, *, last: bool = False) -> None:
        """All of them; or what has become of them `since` then. `last`: with what FTP and TFTP have announced."""
        error = ffi.new("char[]", ERROR_BYTES)
        before = ffi.NULL if since is None else since.handle
        handle = lib.pal_live_export(live.handle, filter_number, before, last, error, ERROR_BYTES)
        if handle == ffi.NULL:
            raise CoreError(text(error))
        self.handle: Any = ffi.gc(handle, lib.pal_export_free)

    def __len__(self) -> int:
        """How many connections, ended ones and announcements it tells of."""
        return int(lib.pal_export_count(self.handle))

    def parts(self, size: int = PART) -> Iterator[bytes]:
        """For `import_connections`; `size`: connections in each."""
        for first in range(0, len(self), size):
            data = ffi.new("uint8_t[]", int(lib.pal_export_write(self.handle, first, size, ffi.NULL)))
            lib.pal_export_write(self.handle, first, size, data)
            yield bytes(ffi.buffer(data))


def import_connections(live: Live, filter_number: int, data: bytes, rules: Sequence[int] = ()) -> tuple[int, int]:
    """Take a part in, as connections of this filter. `rules`: our number of a rule by the source's, NO_RULE for none.

    Returns how many were taken, and how many there was no room for. Raises CoreError, and then nothing has changed: the
    bytes are no export, or one of another version, or tell of a connection that cannot be.
    """
    error = ffi.new("char[]", ERROR_BYTES)
    refused = ffi.new("uint64_t *")
    numbers = ffi.new("uint32_t[]", list(rules))
    content = ffi.from_buffer("uint8_t[]", data)
    taken = lib.pal_live_import(
        live.handle, filter_number, content, len(data), numbers, len(rules), refused, error, ERROR_BYTES
    )
    if taken < 0:
        raise CoreError(text(error))
    return int(taken), int(refused[0])
