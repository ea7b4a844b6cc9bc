# SPDX-License-Identifier: Apache-2.0
"""The first packets of an SCTP association (RFC 9260 section 5.1) on raw sockets, for kernels that speak no SCTP.

INIT goes out with a token in a parameter that receivers pass over (section 3.2.1), INIT ACK comes back with the same
token as its state cookie, and ABORT ends what firewalls on the way have noted down.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
from typing import Final, NamedTuple

from dfw.model import PROTO_SCTP, Family

INIT, INIT_ACK, _ABORT = 1, 2, 6
_COOKIE: Final = 7
_PASSED_OVER: Final = 0xBF5A  # highest bits 10: skipped, and not reported
_COMMON: Final = struct.Struct("!HHII")  # ports, verification tag, checksum
_CHUNK: Final = struct.Struct("!BBH")
_INIT: Final = struct.Struct("!IIHHI")  # initiate tag, window, streams out and in, first TSN
_PARAMETER: Final = struct.Struct("!HH")
_WINDOW: Final = 65536
_FIRST_PORT: Final = 32768
_PORTS: Final = itertools.count(int.from_bytes(os.urandom(2)))  # each of this process's associations has another


class SctpHeard(NamedTuple):
    """An INIT or INIT ACK as a raw socket got it. `tag`: its initiate tag."""

    kind: int
    sport: int
    dport: int
    tag: int
    token: bytes


def sctp_socket(family: Family) -> socket.socket:
    """A raw socket, not blocking, that gets all SCTP packets of its namespace. Raises OSError."""
    kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    return socket.socket(kind, socket.SOCK_RAW | socket.SOCK_NONBLOCK, PROTO_SCTP)


def sctp_port() -> int:
    """A port to send from."""
    return _FIRST_PORT + next(_PORTS) % (65536 - _FIRST_PORT)


def sctp_init(sport: int, dport: int, token: bytes) -> bytes:
    """INIT."""
    return _opening(INIT, sport, dport, 0, _PASSED_OVER, token)


def sctp_init_ack(heard: SctpHeard) -> bytes:
    """The answer to an INIT."""
    return _opening(INIT_ACK, heard.dport, heard.sport, heard.tag, _COOKIE, heard.token)


def sctp_abort(heard: SctpHeard) -> bytes:
    """What ends the association whose INIT ACK was heard."""
    return _packet(heard.dport, heard.sport, heard.tag, _CHUNK.pack(_ABORT, 0, _CHUNK.size))


def sctp_heard(family: Family, data: bytes) -> SctpHeard | None:
    """What a raw socket got: IPv4 with its IP header. None where it is nothing of ours."""
    start = (data[0] & 15) * 4 if family is Family.IPV4 and data else 0
    chunk = start + _COMMON.size
    parameter = chunk + _CHUNK.size + _INIT.size
    if len(data) < parameter + _PARAMETER.size or data[chunk] not in (INIT, INIT_ACK):
        return None
    sport, dport, _, _ = _COMMON.unpack_from(data, start)
    tag, *_ = _INIT.unpack_from(data, chunk + _CHUNK.size)
    _, length = _PARAMETER.unpack_from(data, parameter)
    return SctpHeard(data[chunk], sport, dport, tag, data[parameter + _PARAMETER.size : parameter + length])


def _opening(kind: int, sport: int, dport: int, verification: int, parameter: int, token: bytes) -> bytes:
    """INIT or INIT ACK: both have the same fields. The initiate tag, never 0, is taken from the token."""
    tag = int.from_bytes(token[:4]) ^ kind or 1
    body = _INIT.pack(tag, _WINDOW, 1, 1, tag) + _PARAMETER.pack(parameter, _PARAMETER.size + len(token)) + token
    return _packet(sport, dport, verification, _CHUNK.pack(kind, 0, _CHUNK.size + len(body)) + body)


def _packet(sport: int, dport: int, verification: int, chunk: bytes) -> bytes:
    unsigned = _COMMON.pack(sport, dport, verification, 0) + chunk
    return unsigned[:8] + struct.pack("<I", _crc32c(unsigned)) + unsigned[12:]


def _crc_table() -> tuple[int, ...]:
    found = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        found.append(byte)
    return tuple(found)


_TABLE: Final = _crc_table()


def _crc32c(data: bytes) -> int:
    """RFC 9260 appendix A."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF
