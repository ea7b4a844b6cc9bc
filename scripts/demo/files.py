# SPDX-License-Identifier: Apache-2.0
"""Capture files of the demo: classic pcap with nanoseconds to write and read, pcapng to read back what replay wrote.

Formats: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html and draft-ietf-opsawg-pcapng-02.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_HEADER = struct.Struct("<IHHiIII")
_RECORD = struct.Struct("<IIII")
_MAGIC_NS = 0xA1B23C4D
_ETHERNET = 1
_BLOCK_PACKET = 6

Packet = tuple[int, bytes]  # time in ns, frame


def write_pcap(path: Path, packets: Iterable[Packet]) -> int:
    """Write whole Ethernet frames; returns how many."""
    count = 0
    with path.open("wb") as file:
        file.write(_HEADER.pack(_MAGIC_NS, 2, 4, 0, 0, 262144, _ETHERNET))
        for time, frame in packets:
            file.write(_RECORD.pack(time // 10**9, time % 10**9, len(frame), len(frame)) + frame)
            count += 1
    return count


def read_pcap(path: Path) -> list[Packet]:
    """The packets of a file that write_pcap wrote."""
    data = path.read_bytes()
    packets, at = [], _HEADER.size
    while at < len(data):
        seconds, nanoseconds, length, _ = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        packets.append((seconds * 10**9 + nanoseconds, data[at : at + length]))
        at += length
    return packets


def read_pcapng(path: Path) -> Iterator[bytes]:
    """The frames of a little-endian pcapng file, as `palisade replay` writes it."""
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if kind == _BLOCK_PACKET:
            present = struct.unpack_from("<I", data, at + 20)[0]
            yield data[at + 28 : at + 28 + present]
        at += length
