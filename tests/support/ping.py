# SPDX-License-Identifier: Apache-2.0
"""ICMP echo requests from a network namespace, and an answer."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time

from overlay.enter import run_in
from tests.support.patience import PATIENCE

_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _DO = 10, 23, 2  # linux/in.h: DF, and never longer than the path


def ping(netns: str, address: str, size: int = 56, seconds: float = PATIENCE) -> bool:
    """Whether `size` bytes of data come back in time, asked again each second. Raises OSError: longer than the
    interface's MTU."""
    is_v6 = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if is_v6 else (socket.AF_INET, socket.IPPROTO_ICMP)
    with run_in(netns, lambda: socket.socket(family, socket.SOCK_RAW, protocol)) as raw:
        level, option = (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER) if is_v6 else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
        raw.setsockopt(level, option, _DO)
        message = struct.pack("!BBH", 128 if is_v6 else 8, 0, 0) + os.urandom(4 + size)
        if not is_v6:
            message = message[:2] + _checksum(message) + message[4:]
        until, again = time.monotonic() + seconds, 0.0
        while (now := time.monotonic()) < until:
            if now >= again:
                raw.sendto(message, (address, 0))
                again = now + 1.0
            raw.settimeout(min(again, until) - now)
            with contextlib.suppress(TimeoutError):
                got, sender = raw.recvfrom(65536)
                body = got if is_v6 else got[(got[0] & 15) * 4 :]
                if sender[0] == address and body[0] == (129 if is_v6 else 0) and body[4:] == message[4:]:
                    return True
    return False


def _checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)
