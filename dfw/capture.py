# SPDX-License-Identifier: Apache-2.0
"""Capture files as one piece of memory for the core's readers (native/io/capture.h), decompressed where need be.

A plain file is mapped as it is. What is compressed with gzip (RFC 1952) or zstd (RFC 8878), by its first bytes and not
by its name, is decompressed in bulk into an unnamed temporary file (in TMPDIR) which is mapped; so is what can't be
mapped, such as a pipe. Which capture format it is, and where it is damaged, is the core's to say.
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
import sys
import tempfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import BinaryIO, Final

UNPACKED_MAX: Final = 16 << 30
"""Bytes that a compressed capture, or a pipe, may grow to, unless the caller says otherwise."""

_READ_BYTES: Final = 1 << 18
_GZIP_OUT: Final = 1 << 20  # zlib is asked for at most this much at once
_ZSTD_IN: Final = 4096  # zstd gives all that its input makes; a block of 4 bytes can make 128 KiB
_ZSTD_WINDOW: Final = 1 << 27  # what `zstd -d` accepts without --long
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE: Final = b"\x2a\x4d\x18"  # after a byte 0x50 to 0x5f; pzstd begins with one
_OTHERS: Final = {b"\xfd7zXZ\0": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "LZ4", b"PK\x03\x04": "zip"}
_HEAD_BYTES: Final = 6


class CaptureError(Exception):
    """A capture that cannot be read at all. `path` names it, `message` says why; `str()` is both."""

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        self.message = message
        super().__init__(f"{path}: {message}")


@dataclass(frozen=True, slots=True)
class CaptureFile:
    """A capture in memory, until closed. Use it in a `with` statement.

    `view` is all of the file, decompressed, readable only; hand it to the core in place (`ffi.from_buffer`), and let go
    of every such reference before closing. `compression` is "", "gzip" or "zstd". `warning` says where and why the
    decompression ended early, or is None: what was got until then is good.

    The file must not be cut by others while it is open: the kernel ends a process that reads beyond (SIGBUS).
    """

    path: str
    view: memoryview
    compression: str
    warning: str | None
    _resources: ExitStack = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the capture, decompressed."""
        return self.view.nbytes

    def close(self) -> None:
        """Release the memory. Raises BufferError while something still refers to `view`."""
        self.view.release()
        self._resources.close()

    def __enter__(self) -> CaptureFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def open_capture(path: str | os.PathLike[str], *, unpacked_max: int = UNPACKED_MAX) -> CaptureFile:
    """Open a capture; `-` is standard input. Raises CaptureError.

    A compressed capture that is cut or damaged is opened up to there, with a warning. One that would grow past
    `unpacked_max` bytes is refused; a plain file has no limit.
    """
    name = os.fspath(path)
    try:
        with ExitStack() as opened:
            # Raw descriptors: one that is non-blocking fails loudly, where a file object would give "nothing".
            source = sys.stdin if name == "-" else opened.enter_context(open(name, "rb", buffering=0))
            return _open_source(name, source.fileno(), unpacked_max)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            message = f"no room in {tempfile.gettempdir()} to decompress it; set TMPDIR to a folder with more"
            raise CaptureError(name, message) from error
        raise CaptureError(name, f"cannot be read: {error.strerror or error}") from error


def _open_source(name: str, source: int, unpacked_max: int) -> CaptureFile:
    with ExitStack() as resources:
        head = _read_head(source)
        unpack, compression = _choose_unpacker(name, head)
        if not compression and stat.S_ISREG(os.fstat(source).st_mode):
            view = _map(source, resources)
            return CaptureFile(name, view, compression, None, resources.pop_all())
        temporary = resources.enter_context(tempfile.TemporaryFile(prefix="palisade-", buffering=0))
        spool = _Spool(name, temporary, unpacked_max)
        warning = unpack(_Rest(head, source), spool)
        if warning is not None and spool.size == 0:
            raise CaptureError(name, warning)
        view = _map(temporary.fileno(), resources)
        return CaptureFile(name, view, compression, warning, resources.pop_all())


def _read_head(source: int) -> bytes:
    """The first bytes; a pipe may give them one at a time."""
    head = b""
    while len(head) < _HEAD_BYTES:
        more = os.read(source, _HEAD_BYTES - len(head))
        if not more:
            break
        head += more
    return head


def _map(descriptor: int, resources: ExitStack) -> memoryview:
    """A file in memory. An empty one cannot be mapped, and is no bytes."""
    size = os.fstat(descriptor).st_size
    if size == 0:
        return memoryview(b"")
    mapped = resources.enter_context(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
    mapped.madvise(mmap.MADV_SEQUENTIAL)
    return memoryview(mapped)


@dataclass(slots=True)
class _Rest:
    """The source from its first byte, the head that was already read included."""

    head: bytes
    source: int

    def read(self) -> bytes:
        """The next piece; empty at the end."""
        head, self.head = self.head, b""
        return head or os.read(self.source, _READ_BYTES)


@dataclass(slots=True)
class _Spool:
    """The temporary file, with its limit."""

    path: str
    file: BinaryIO
    limit: int
    size: int = 0

    def write(self, data: bytes) -> None:
        """Append. Raises CaptureError past the limit, OSError when the disk is full."""
        self.size += len(data)
        if self.size > self.limit:
            raise CaptureError(
                self.path,
                f"grows to more than {self.limit} bytes; if it is to be trusted, decompress it to a file and read that",
            )
        view = memoryview(data)
        while view:
            view = view[self.file.write(view) :]


_Unpacker = Callable[[_Rest, _Spool], str | None]


def _choose_unpacker(name: str, head: bytes) -> tuple[_Unpacker, str]:
    if head.startswith(_GZIP):
        return _unpack_gzip, "gzip"
    if head.startswith(_ZSTD) or (head[:1] and 0x50 <= head[0] <= 0x5F and head[1:4] == _ZSTD_SKIPPABLE):
        return _unpack_zstd, "zstd"
    for magic, what in _OTHERS.items():
        if head.startswith(magic):
            raise CaptureError(name, f"is {what}-compressed; gzip and zstd are read, so decompress it first")
    return _copy, ""


def _copy(source: _Rest, spool: _Spool) -> None:
    while data := source.read():
        spool.write(data)


def _unpack_gzip(source: _Rest, spool: _Spool) -> str | None:
    """All members one after the other (RFC 1952, section 2.2). Returns a warning or None."""
    decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    begun = False  # whether the decoder has met a byte of its member
    while data := source.read():
        while data:
            if not begun and not data.startswith(_GZIP[: len(data)]):
                # Tapes and block devices pad with zeros, as gzip itself allows.
                if not data.strip(b"\0"):
                    break
                return f"what follows the gzip data, {spool.size} bytes in, is not gzip and was left out"
            begun = True
            before = decoder.copy()
            try:
                out = decoder.decompress(data, _GZIP_OUT)
            except zlib.error as error:
                _salvage(before, data, spool)
                return f"the gzip data is damaged after {spool.size} bytes ({error})"
            spool.write(out)
            if decoder.eof:
                data = decoder.unused_data
                decoder = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
                begun = False
            else:
                data = decoder.unconsumed_tail
                while not data and len(out) == _GZIP_OUT and not decoder.eof:  # zlib may hold back more
                    out = decoder.decompress(b"", _GZIP_OUT)
                    spool.write(out)
    if begun:
        return f"the gzip data is cut off after {spool.size} bytes"
    return None


def _salvage(decoder: zlib._Decompress, data: bytes, spool: _Spool) -> None:
    """What the bytes before the damaged one give: zlib returns nothing from a call that fails."""
    try:
        for at in range(len(data)):
            piece = data[at : at + 1]
            while piece or decoder.unconsumed_tail:
                spool.write(decoder.decompress(piece, _GZIP_OUT))
                piece = decoder.unconsumed_tail
    except zlib.error:
        pass


def _unpack_zstd(source: _Rest, spool: _Spool) -> str | None:
    """All frames one after the other (RFC 8878, section 3). Returns a warning or None."""
    try:
        import zstandard
    except ImportError as error:
        raise CaptureError(spool.path, "is zstd-compressed, and the Python package zstandard is missing") from error
    context = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    decoder = context.decompressobj()
    begun = False
    while piece := source.read():
        for at in range(0, len(piece), _ZSTD_IN):
            data = piece[at : at + _ZSTD_IN]
            while data:
                begun = True
                try:
                    spool.write(decoder.decompress(data))
                except zstandard.ZstdError as error:
                    return f"the zstd data is damaged after {spool.size} bytes ({error})"
                data = b""
                if decoder.eof:
                    data = decoder.unused_data
                    decoder = context.decompressobj()
                    begun = False
    if begun:
        return f"the zstd data is cut off after {spool.size} bytes"
    return None
