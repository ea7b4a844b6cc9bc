# SPDX-License-Identifier: Apache-2.0
"""ICMP and ICMPv6 echo (RFC 792, RFC 4443 section 4) on raw sockets, which need no setting of the namespace.

A kernel's ping sockets would: net.ipv4.ping_group_range lets nobody in, where nobody has changed it.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

from dfw.errors import EnvironmentLacksError
from dfw.model import PROTO_ICMP, Family

_SOL_RAW: Final = 255  # linux/socket.h
_ICMP_FILTER: Final = 1  # linux/icmp.h, linux/icmpv6.h: a bit for each type that is kept away
_TYPES: Final = {Family.IPV4: (0, 8), Family.IPV6: (129, 128)}  # answer, request
_HEAD: Final = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence number


def echo_socket(family: Family, protocol: int, *, requests: bool) -> socket.socket:
    """A raw socket, not blocking, that gets echo requests, or else answers. Raises EnvironmentLacksError, OSError."""
    kind = socket.AF_INET if family is Family.IPV4 else socket.AF_INET6
    wanted = _TYPES[family][requests]
    try:
        sock = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    except OSError as error:
        if family is Family.IPV6 and not isinstance(error, PermissionError):
            raise EnvironmentLacksError("no IPv6 in this kernel", "boot without ipv6.disable=1") from None
        raise
    words = 1 if family is Family.IPV4 else 8
    kept_away = ((1 << 32 * words) - 1) ^ (1 << wanted)
    mask = b"".join(struct.pack("=I", kept_away >> 32 * word & 0xFFFFFFFF) for word in range(words))
    sock.setsockopt(_SOL_RAW if family is Family.IPV4 else socket.IPPROTO_ICMPV6, _ICMP_FILTER, mask)
    return sock


def echo_request(protocol: int, token: bytes) -> bytes:
    """An echo request with a token as its data; ICMPv6's checksum is the kernel's to make."""
    number, sequence = struct.unpack_from("!HH", token)
    if protocol != PROTO_ICMP:
        return _HEAD.pack(128, 0, 0, number, sequence) + token
    return _HEAD.pack(8, 0, _checksum(_HEAD.pack(8, 0, 0, number, sequence) + token), number, sequence) + token


def echo_token(protocol: int, data: bytes) -> bytes:
    """The data of an echo message as a raw socket has it: IPv4 with its IP header; empty where there is none."""
    start = (data[0] & 15) * 4 if protocol == PROTO_ICMP and data else 0
    return data[start + _HEAD.size :]


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes."""
    total: int = sum(word for (word,) in struct.iter_unpack("!H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
