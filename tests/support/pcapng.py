# SPDX-License-Identifier: Apache-2.0
"""Packets and comments of a small pcapng file, read the slow way (draft-ietf-opsawg-pcapng)."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import NamedTuple


class Packet(NamedTuple):
    """An enhanced packet block. `direction`: of epb_flags, 0 where it is not said."""

    linktype: int
    ts_ns: int
    data: bytes
    wire: int
    comment: str
    direction: int


def read_pcapng(path: Path) -> list[Packet]:
    """All packets of a file in this machine's byte order."""
    content = path.read_bytes()
    at = 0
    linktypes: list[int] = []
    found = []
    while at < len(content):
        kind, total = struct.unpack_from("=II", content, at)
        body = content[at + 8 : at + total - 4]
        assert content[at + total - 4 : at + total] == struct.pack("=I", total)
        if kind == 1:
            linktypes.append(struct.unpack_from("=H", body)[0])
        elif kind == 6:
            interface, high, low, size, wire = struct.unpack_from("=IIIII", body)
            options = _options(body[20 + (size + 3) // 4 * 4 :])
            direction = struct.unpack("=I", options[2])[0] & 3 if 2 in options else 0
            comment = options.get(1, b"").decode()
            found.append(Packet(linktypes[interface], high << 32 | low, body[20 : 20 + size], wire, comment, direction))
        at += total
    return found


def _options(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(data):
        code, size = struct.unpack_from("=HH", data, at)
        if code == 0:
            break
        found[code] = data[at + 4 : at + 4 + size]
        at += 4 + (size + 3) // 4 * 4
    return found
