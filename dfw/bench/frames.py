# SPDX-License-Identifier: Apache-2.0
"""Frames by the thousand as numpy arrays: what the packet benchmarks play.

A `Frames` holds n Ethernet frames with what the core is told of each: its filter, its direction, its clock. Addresses
are rows of 16 bytes as in dfw.layout. Everything that differs from frame to frame is an array, the rest is one value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfw.layout import BENCH_FRAME_DTYPE, DIR_OUT, FAMILY_V4, FAMILY_V6

Bytes = npt.NDArray[np.uint8]
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ICMP, TCP, UDP, ICMP6, SCTP = 1, 6, 17, 58, 132
_MACS: Final = bytes([2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1])
_FRAME_MIN: Final = 60


@dataclass(frozen=True, slots=True)
class Frames:
    """`data`: (n, stride) bytes; `length`: bytes of each frame; `clock`: nanoseconds; `filter`, `direction`: where it
    is judged."""

    data: Bytes
    length: npt.NDArray[np.uint32]
    clock: npt.NDArray[np.uint64]
    filter: npt.NDArray[np.uint16]
    direction: npt.NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.length)

    def take(self, order: npt.NDArray[np.integer]) -> Frames:
        """The frames at these places, in this order; each keeps its own clock."""
        return Frames(*(getattr(self, name)[order] for name in Frames.__slots__))

    def at(self, clock: Any = None, filter_number: Any = None, direction: Any = None) -> Frames:
        """The same frames at another clock, filter or direction: one value, or one for each frame."""
        given = {"clock": clock, "filter": filter_number, "direction": direction}
        changed = {name: np.empty_like(getattr(self, name)) for name, value in given.items() if value is not None}
        for name, column in changed.items():
            column[:] = given[name]
        return replace(self, **changed)

    def table(self) -> npt.NDArray[np.void]:
        """What the core reads: an array of BENCH_FRAME_DTYPE, offsets counted from `data`."""
        rows = np.zeros(len(self), BENCH_FRAME_DTYPE)
        rows["at"] = np.arange(len(self), dtype=np.uint64) * np.uint64(self.data.shape[1])
        rows["clock_ns"], rows["len"] = self.clock, self.length
        rows["filter"], rows["dir"] = self.filter, self.direction
        return rows


def frames_join(parts: Sequence[Frames]) -> Frames:
    """All frames of all parts, one part after the other."""
    parts = [part for part in parts if len(part)]
    stride = max(part.data.shape[1] for part in parts)
    wide = [np.pad(part.data, ((0, 0), (0, stride - part.data.shape[1]))) for part in parts]
    columns = (np.concatenate([getattr(part, name) for part in parts]) for name in Frames.__slots__[1:])
    return Frames(np.concatenate(wide), *columns)


def frames_interleave(parts: Sequence[Frames]) -> Frames:
    """Frames 0 of all parts, then frames 1 of all, ...: parts of equal length."""
    joined, count = frames_join(parts), len(parts[0])
    return joined.take(np.arange(len(joined)).reshape(len(parts), count).T.reshape(-1))


def be(values: Any, size: int, count: int) -> Bytes:
    """(count, size) bytes of numbers in network byte order; one number stands for all."""
    wide = np.broadcast_to(np.asarray(values).astype(np.int64) & ((1 << (8 * size)) - 1), (count,))
    return np.ascontiguousarray(wide.astype(">u8")).view(np.uint8).reshape(count, 8)[:, 8 - size :]


def tcp(
    count: int,
    sport: Any,
    dport: Any,
    seq: Any,
    ack: Any,
    flags: Any,
    *,
    window: int = 0xFFFF,
    options: bytes = b"",
    payload: bytes = b"",
) -> Bytes:
    """TCP segments; `options` in whole words. The checksum stays 0."""
    head = 20 + len(options)
    rows = np.zeros((count, head + len(payload)), np.uint8)
    rows[:, 0:2], rows[:, 2:4] = be(sport, 2, count), be(dport, 2, count)
    rows[:, 4:8], rows[:, 8:12] = be(seq, 4, count), be(ack, 4, count)
    rows[:, 12], rows[:, 13] = head // 4 << 4, flags
    rows[:, 14:16] = be(window, 2, count)
    rows[:, 20:] = np.frombuffer(options + payload, np.uint8)
    return rows


def udp(count: int, sport: Any, dport: Any, payload: bytes = b"") -> Bytes:
    """UDP datagrams, without a checksum."""
    rows = np.zeros((count, 8 + len(payload)), np.uint8)
    rows[:, 0:2], rows[:, 2:4] = be(sport, 2, count), be(dport, 2, count)
    rows[:, 4:6] = be(8 + len(payload), 2, count)
    rows[:, 8:] = np.frombuffer(payload, np.uint8)
    return rows


def icmp(count: int, kind: Any, code: Any, identifier: Any, payload: Bytes | None = None) -> Bytes:
    """ICMP or ICMPv6 messages; `payload`: (count, any) bytes after the eight of the header."""
    rows = np.zeros((count, 8), np.uint8)
    rows[:, 0], rows[:, 1] = kind, code
    rows[:, 4:6] = be(identifier, 2, count)
    return rows if payload is None else np.concatenate([rows, payload], axis=1)


def sctp(count: int, sport: Any, dport: Any, tag: Any, chunks: bytes) -> Bytes:
    """SCTP packets of these chunks."""
    rows = np.zeros((count, 12 + len(chunks)), np.uint8)
    rows[:, 0:2], rows[:, 2:4] = be(sport, 2, count), be(dport, 2, count)
    rows[:, 4:8] = be(tag, 4, count)
    rows[:, 12:] = np.frombuffer(chunks, np.uint8)
    return rows


def ip_packets(
    family: int,
    source: Bytes,
    destination: Bytes,
    protocol: Any,
    transport: Bytes,
    *,
    options: bytes = b"",
    identification: Any = 0,
    fragment: Any = 0,
) -> Bytes:
    """IP packets. `options`: IPv4's in whole words; IPv6: extension headers, each with its own type in its first byte
    (here they are shifted to where they belong). `fragment`: IPv4's flags and offset field; IPv6: the same field of
    a fragment header that is added when `fragment` is an array."""
    count = len(transport)
    if family == FAMILY_V4:
        head = np.zeros((count, 20 + len(options)), np.uint8)
        head[:, 0] = 0x40 | (5 + len(options) // 4)
        head[:, 2:4] = be(head.shape[1] + transport.shape[1], 2, count)
        head[:, 4:6], head[:, 6:8] = be(identification, 2, count), be(fragment, 2, count)
        head[:, 8], head[:, 9] = 64, protocol
        head[:, 12:16], head[:, 16:20] = source[:, :4], destination[:, :4]
        head[:, 20:] = np.frombuffer(options, np.uint8)
        head[:, 10:12] = _sum(head)
        return np.concatenate([head, transport], axis=1)
    extensions, first, last = _extensions(options)
    middle = np.broadcast_to(np.frombuffer(extensions, np.uint8), (count, len(extensions))).copy()
    if isinstance(fragment, np.ndarray):
        extra = np.zeros((count, 8), np.uint8)
        extra[:, 0], extra[:, 2:4], extra[:, 4:8] = protocol, be(fragment, 2, count), be(identification, 4, count)
        middle, protocol = np.concatenate([middle, extra], axis=1), 44
    head = np.zeros((count, 40), np.uint8)
    head[:, 0], head[:, 7] = 0x60, 64
    head[:, 4:6] = be(middle.shape[1] + transport.shape[1], 2, count)
    head[:, 6] = protocol if first is None else first
    if last is not None:
        middle[:, last] = protocol
    head[:, 8:24], head[:, 24:40] = source, destination
    return np.concatenate([head, middle, transport], axis=1)


def _extensions(headers: bytes) -> tuple[bytes, int | None, int | None]:
    """The chain with its next-header fields shifted into place: its bytes, the first header's type, and where the type
    of what follows belongs."""
    out, at, previous, first = bytearray(headers), 0, None, None
    while at < len(headers):
        kind, size = headers[at], (headers[at + 1] + 1) * 8
        if previous is None:
            first = kind
        else:
            out[previous] = kind
        previous = at
        at += size
    return bytes(out), first, previous


def extension(kind: int, size: int) -> bytes:
    """An IPv6 extension header of `size` bytes (a multiple of 8): hop-by-hop or destination options, all padding."""
    return bytes([kind, size // 8 - 1, 1, size - 4]) + bytes(size - 4)


def _sum(head: Bytes) -> Bytes:
    total = head.reshape(len(head), -1, 2).astype(np.uint32) @ np.array([256, 1], np.uint32)
    folded = total.sum(axis=1)
    for _ in range(2):
        folded = (folded & 0xFFFF) + (folded >> 16)
    return be(0xFFFF - folded.astype(np.int64), 2, len(head))


def ethernet(family: int, packets: Bytes, *, tags: int = 0, size: int = _FRAME_MIN) -> Frames:
    """Frames around the packets, padded to `size`; `tags`: 802.1Q tags before the type."""
    head = _MACS + b"\x81\x00\x00\x05" * tags + (b"\x08\x00" if family == FAMILY_V4 else b"\x86\xdd")
    count, length = packets.shape[0], max(len(head) + packets.shape[1], size)
    data = np.zeros((count, (length + 63) // 64 * 64), np.uint8)
    data[:, : len(head)] = np.frombuffer(head, np.uint8)
    data[:, len(head) : len(head) + packets.shape[1]] = packets
    return Frames(
        data,
        np.full(count, length, np.uint32),
        np.zeros(count, np.uint64),
        np.zeros(count, np.uint16),
        np.full(count, DIR_OUT, np.uint8),
    )


def addresses(family: int, numbers: npt.NDArray[np.uint64]) -> Bytes:
    """Addresses from 32-bit numbers: IPv4 as they are, IPv6 within 2001:db8::/96."""
    out = np.zeros((len(numbers), 16), np.uint8)
    at = 0 if family == FAMILY_V4 else 12
    out[:, at : at + 4] = be(numbers.astype(np.int64), 4, len(numbers))
    if family == FAMILY_V6:
        out[:, 0:4] = np.frombuffer(bytes([0x20, 1, 0x0D, 0xB8]), np.uint8)
    return out
