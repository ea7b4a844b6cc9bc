# SPDX-License-Identifier: Apache-2.0
"""A larger capture out of the demo's own: the outside client's talks with the web server, held by a crowd of clients.

Each copy has another client address, chosen so that every checksum stays right: what is added to one 16-bit word of
the address is taken from the next (RFC 1071: the sum does not change). Copies run side by side, so that one client's
packets do not follow each other in the file.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from pathlib import Path

from scripts.demo.files import Packet, read_pcap, write_pcap
from scripts.demo.hosts import OUTSIDE, Host

_BESIDE = 64  # clients at the same time
_MOST = 6000  # clients: as many addresses as stay below 224.0.0.0
_ETHERNET = 14


def place_of(frame: bytes, web: Host) -> int:
    """Where the client's address stands in a frame between the client and the web server's port 80; 0: it isn't one."""
    kind = frame[12:14]
    if kind == b"\x08\x00":
        at, length, protocol, transport = _ETHERNET + 12, 4, frame[23], _ETHERNET + 20
        client, server = ip_address(OUTSIDE.v4).packed, ip_address(web.v4).packed
    elif kind == b"\x86\xdd":
        at, length, protocol, transport = _ETHERNET + 8, 16, frame[20], _ETHERNET + 40
        client, server = ip_address(OUTSIDE.v6).packed, ip_address(web.v6).packed
    else:
        return 0
    if protocol != 6 or b"\0\x50" not in (frame[transport : transport + 2], frame[transport + 2 : transport + 4]):
        return 0
    ends = frame[at : at + 2 * length]
    if ends == client + server:
        return at + length - 4
    return at + 2 * length - 4 if ends == server + client else 0


def move(frame: bytes, at: int, number: int) -> bytes:
    """The frame with another client's address."""
    high, low = struct.unpack_from("!HH", frame, at)
    high += number
    low -= number
    if low <= 0:  # one's complement: going below zero borrows one
        low += 0xFFFF
    return frame[:at] + struct.pack("!HH", high, low) + frame[at + 4 :]


def make_crowd(source: Path, target: Path, web: Host, wanted: int) -> tuple[int, int]:
    """Write at least `wanted` packets, where _MOST clients suffice; returns packets and clients."""
    base = [(time, frame, at) for time, frame in read_pcap(source) if (at := place_of(frame, web))]
    if not base:
        raise ValueError(f"{source}: no packets between the outside client and the web server")
    clients = min(_MOST, -(-wanted // len(base)))
    span = base[-1][0] - base[0][0] + 1
    packets: list[Packet] = []
    for first in range(1, clients + 1, _BESIDE):
        shift = (first - 1) // _BESIDE * span
        group = range(first, min(first + _BESIDE, clients + 1))
        packets += [(time + shift, move(frame, at, number)) for time, frame, at in base for number in group]
    return write_pcap(target, packets), clients
