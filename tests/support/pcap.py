# SPDX-License-Identifier: Apache-2.0
"""A small reader of pcap and pcapng files, gzipped or not, that shares nothing with the product's own.

Formats: https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-04.html and draft-ietf-opsawg-pcapng-02.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_PCAP_MAGICS = {
    b"\xd4\xc3\xb2\xa1": ("<", 1000),
    b"\xa1\xb2\xc3\xd4": (">", 1000),
    b"\x4d\x3c\xb2\xa1": ("<", 1),
    b"\xa1\xb2\x3c\x4d": (">", 1),
}
_PCAPNG_MAGIC = b"\x0a\x0d\x0d\x0a"
_BLOCK_INTERFACE = 1
_BLOCK_SIMPLE = 3
_BLOCK_ENHANCED = 6
_OPTION_RESOLUTION = 9


class Captured(NamedTuple):
    """One packet: time, bytes present, length on the wire, link type."""

    ts_ns: int
    data: bytes
    wire: int
    link: int


def pcap_read(path: Path) -> Iterator[Captured]:
    """The packets of a capture up to where it ends; a cut or damaged end is just the end. Raises ValueError."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    if data[:4] in _PCAP_MAGICS:
        yield from _read_pcap(data)
    elif data[:4] == _PCAPNG_MAGIC:
        yield from _read_pcapng(data)
    else:
        raise ValueError(f"{path}: neither pcap nor pcapng")


def pcap_write(path: Path, packets: Iterable[bytes], link: int) -> None:
    """A pcap file of whole packets, all at time 0."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, link))
        for packet in packets:
            file.write(struct.pack("<IIII", 0, 0, len(packet), len(packet)) + packet)


def _read_pcap(data: bytes) -> Iterator[Captured]:
    order, unit = _PCAP_MAGICS[data[:4]]
    link = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
    at = 24
    while at + 16 <= len(data):
        seconds, fraction, present, wire = struct.unpack_from(order + "IIII", data, at)
        at += 16
        if at + present > len(data):
            return
        yield Captured(seconds * 10**9 + fraction * unit, data[at : at + present], wire, link)
        at += present


def _read_pcapng(data: bytes) -> Iterator[Captured]:
    at = 0
    order = "<"
    interfaces: list[tuple[int, int]] = []  # link type, units a second
    while at + 12 <= len(data):
        if data[at : at + 4] == _PCAPNG_MAGIC:
            order = "<" if data[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            interfaces = []
        kind, length = struct.unpack_from(order + "II", data, at)
        if length < 12 or at + length > len(data):
            return
        body = data[at + 8 : at + length - 4]
        at += length
        if kind == _BLOCK_INTERFACE:
            link = struct.unpack_from(order + "H", body)[0]
            interfaces.append((link, _units_a_second(body[8:], order)))
        elif kind == _BLOCK_ENHANCED:
            interface, high, low, present, wire = struct.unpack_from(order + "IIIII", body)
            link, units = interfaces[interface]
            yield Captured(((high << 32) + low) * 10**9 // units, body[20 : 20 + present], wire, link)
        elif kind == _BLOCK_SIMPLE:
            wire = struct.unpack_from(order + "I", body)[0]
            yield Captured(0, body[4 : 4 + min(wire, len(body) - 4)], wire, interfaces[0][0])


def _units_a_second(options: bytes, order: str) -> int:
    at = 0
    while at + 4 <= len(options):
        code, length = struct.unpack_from(order + "HH", options, at)
        if code == _OPTION_RESOLUTION and length == 1:
            value = options[at + 4]
            return int(2 ** (value & 0x7F)) if value & 0x80 else int(10**value)
        if code == 0:
            break
        at += 4 + (length + 3) // 4 * 4
    return 10**6
