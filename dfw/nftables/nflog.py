# SPDX-License-Identifier: Apache-2.0
"""What rules say by `log group N`: nfnetlink_log's messages, one each (linux/netfilter/nfnetlink_log.h)."""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Final, NamedTuple

from dfw.nftables.attributes import attributes_read

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 4 << 8  # NFNL_SUBSYS_ULOG
_PACKET, _CONFIG = _SUBSYSTEM, _SUBSYSTEM | 1
_ERROR: Final = 2  # NLMSG_ERROR: an acknowledgement, with a number below zero where something failed
_REQUEST_ACKNOWLEDGED: Final = 1 | 4
_COMMAND, _MODE, _THRESHOLD = 1, 2, 5
_MARK, _PAYLOAD, _PREFIX = 2, 9, 10
_BIND: Final = 1
_COPY_META, _COPY_PACKET = 1, 2
_BUFFER_BYTES: Final = 1 << 20
_ROOM: Final = 4 << 20
_SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h


class LogRecord(NamedTuple):
    """A message: what the rule says, the packet's mark, when (nanoseconds of the day), and as much of the packet as was
    asked for, from the IP header on."""

    prefix: str
    mark: int
    ts_ns: int
    packet: bytes


class LogListener:
    """Listens to one group, of the network namespace in which it was made; `octets` of each packet. Raises OSError."""

    def __init__(self, group: int, octets: int = 0) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        try:
            self._socket.bind((0, 0))
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)  # beyond rmem_max
            self._configure(group, _COMMAND, bytes((_BIND,)))
            self._configure(group, _MODE, struct.pack(">IBx", octets, _COPY_PACKET if octets else _COPY_META))
            # Each message at once, not a second later.
            self._configure(group, _THRESHOLD, struct.pack(">I", 1))
        except OSError:
            self._socket.close()
            raise

    def _configure(self, group: int, kind: int, value: bytes) -> None:
        attribute = struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, group) + attribute
        header = struct.pack("=IHHII", 16 + len(body), _CONFIG, _REQUEST_ACKNOWLEDGED, 0, 0)
        self._socket.send(header + body)
        for message_kind, answer in _messages(self._socket.recv(_BUFFER_BYTES)):
            if message_kind == _ERROR:
                (number,) = struct.unpack_from("=i", answer)
                if number:
                    raise OSError(-number, f"the log group {group}: {os.strerror(-number)}")

    def prefixes(self, seconds: float) -> list[str]:
        """The prefixes of the messages that are there, in order; waits for the first of them. Raises TimeoutError."""
        return [text for text, _ in self.marked(seconds)]

    def marked(self, seconds: float) -> list[tuple[str, int]]:
        """Likewise, with the packets' marks."""
        if not select.select([self._socket], [], [], seconds)[0]:
            raise TimeoutError(f"the kernel has not said anything for {seconds:g} s")
        bodies = (body for kind, body in _messages(self._socket.recv(_BUFFER_BYTES)) if kind == _PACKET)
        found = (dict(_attributes(body)) for body in bodies)
        return [(_text(item.get(_PREFIX, b"")), int.from_bytes(item.get(_MARK, b""), "big")) for item in found]

    def records(self) -> Iterator[LogRecord]:
        """The messages that are there; none are waited for. Raises OSError: with ENOBUFS, some are lost."""
        while select.select([self._socket], [], [], 0)[0]:
            now = time.time_ns()
            for kind, body in _messages(self._socket.recv(_BUFFER_BYTES)):
                if kind == _PACKET:
                    values = dict(_attributes(body))
                    mark = int.from_bytes(values.get(_MARK, b""), "big")
                    yield LogRecord(_text(values.get(_PREFIX, b"")), mark, now, values.get(_PAYLOAD, b""))

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()

    def __enter__(self) -> LogListener:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Netlink messages: kind and what follows the header."""
    at = 0
    while at + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        yield kind, data[at + 16 : at + length]
        at += max(16, length + 3 & ~3)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _attributes(body: bytes) -> Iterator[tuple[int, bytes]]:
    yield from attributes_read(body[4:])  # behind struct nfgenmsg
