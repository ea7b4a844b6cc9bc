# SPDX-License-Identifier: Apache-2.0
"""Elements into sets and out of them, and the ruleset's generation, by netlink itself (linux/netfilter/nf_tables.h).

libnftables reads all objects of a table before it adds anything, and all elements of an interval set: with 10,000
counters that costs 20 ms for each element. The kernel needs none of it.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from dfw.nftables.update import Ranges, SetChange, Update

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_OURS: Final = _SUBSYSTEM << 8
_NEW_GENERATION, _GET_GENERATION, _GET_OBJECT = 15, 16, 19
_NEW_ELEMENT, _DELETE_ELEMENT = 12, 14
_COUNTER: Final = 1  # NFT_OBJECT_COUNTER
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
ERROR, DONE = 2, 3
_REQUEST, ACKNOWLEDGE, _CREATE, DUMP = 1, 4, 0x400, 0x300
_NESTED: Final = 0x8000
_INET: Final = 1  # NFPROTO_INET
_INTERVAL_END: Final = struct.pack(">I", 1)
_ELEMENTS_A_MESSAGE: Final = 1000  # an attribute is shorter than 64 KiB
_ANSWER_BYTES: Final = 1 << 16
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class NetfilterSocket:
    """A netlink socket of the namespace of the thread that makes it, for whichever thread. Raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._room(_ANSWER_BYTES)
        self._socket.bind((0, 0))
        self._sequence = 0

    def ask(self, kind: int, flags: int, body: bytes, family: int = _INET) -> list[tuple[int, bytes]]:
        """Send one message; the first answers to it: kind, and what follows the header. Raises OSError."""
        self._sequence += 1
        self._socket.send(_message(kind, flags, 0, body, self._sequence, family))
        found = self.answers()
        for answer, data in found:
            if answer == ERROR and (number := -int(struct.unpack_from("=i", data)[0])):
                raise OSError(number, f"netfilter: {os.strerror(number)}")
        return found

    def answers(self) -> list[tuple[int, bytes]]:
        """The next messages; those that answer something older are left out."""
        found: list[tuple[int, bytes]] = []
        while not found:
            data = self._socket.recv(_ANSWER_BYTES)
            at = 0
            while at + 16 <= len(data):
                length, kind, _, sequence = struct.unpack_from("=IHHI", data, at)
                if sequence == self._sequence:
                    found.append((kind, data[at + 16 : at + length]))
                at += max(16, length + 3 & ~3)
        return found

    def _room(self, size: int) -> None:
        for option in (_SO_SNDBUFFORCE, _SO_RCVBUFFORCE):
            self._socket.setsockopt(socket.SOL_SOCKET, option, max(size, 1 << 18))

    def close(self) -> None:
        """Close it."""
        self._socket.close()


class RuleSocket(NetfilterSocket):
    """For sets, counters and the generation of rules."""

    def elements_apply(self, update: Update) -> None:
        """Put changes of sets in force, in one transaction. Raises OSError: then nothing has changed."""
        messages = [message for change in update.sets for message in _change_messages(update.table, change)]
        self._sequence += 1
        parts = [_message(_BATCH_BEGIN, 0, _SUBSYSTEM, b"", self._sequence)]
        for kind, flags, body in messages:
            parts.append(_message(_OURS | kind, flags | ACKNOWLEDGE, 0, body, self._sequence, _INET))
        parts.append(_message(_BATCH_END, 0, _SUBSYSTEM, b"", self._sequence))
        batch = b"".join(parts)
        self._room(len(batch) + _ANSWER_BYTES)
        self._socket.send(batch)
        left, failed = len(messages), 0
        while left:
            for kind, body in self.answers():
                if kind == ERROR:
                    left -= 1
                    failed = failed or -int(struct.unpack_from("=i", body)[0])
        if failed:
            raise OSError(failed, f"the elements of a set: {os.strerror(failed)}")

    def generation_read(self) -> int:
        """A number that every change of this namespace's rules makes another one. Raises OSError."""
        for kind, body in self.ask(_OURS | _GET_GENERATION, 0, b""):
            if kind == _OURS | _NEW_GENERATION:
                return int(struct.unpack_from(">I", body, 8)[0])
        raise OSError("no answer about the generation of the rules")

    def counters_read(self, table: str) -> dict[str, tuple[int, int]]:
        """Packets and bytes of each named counter of a table. Raises OSError."""
        wanted = attribute_make(1, table.encode() + b"\0") + attribute_make(3, struct.pack(">I", _COUNTER))
        found: dict[str, tuple[int, int]] = {}
        asked = self.ask(_OURS | _GET_OBJECT, DUMP, wanted)
        while True:
            for kind, body in asked:
                if kind == DONE:
                    return found
                values = dict(attributes_read(body[4:]))
                if values[1].rstrip(b"\0").decode() == table:
                    counts = dict(attributes_read(values[4]))
                    numbers = [int.from_bytes(counts[at], "big") for at in (2, 1)]
                    found[values[2].rstrip(b"\0").decode()] = numbers[0], numbers[1]
            asked = self.answers()


def attributes_read(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Attributes in a row: kind and value."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += max(4, length + 3 & ~3)


def _change_messages(table: str, change: SetChange) -> Iterator[tuple[int, int, bytes]]:
    for kind, flags, ranges in ((_DELETE_ELEMENT, 0, change.removed), (_NEW_ELEMENT, _CREATE, change.added)):
        for first in range(0, len(ranges), _ELEMENTS_A_MESSAGE):
            some = ranges[first : first + _ELEMENTS_A_MESSAGE]
            where = attribute_make(1, table.encode() + b"\0") + attribute_make(2, change.name.encode() + b"\0")
            yield kind, flags, where + attribute_make(_NESTED | 3, b"".join(_elements(change, some)))


def _elements(change: SetChange, ranges: Ranges) -> Iterator[bytes]:
    """Single elements; in an interval set where a range begins and where it has ended."""
    size = 2 if change.family is None else change.family.bits // 8
    top = (1 << size * 8) - 1
    for first, last in ranges:
        yield _element(first, size)
        if change.is_interval and last < top:
            yield _element(last + 1, size, attribute_make(3, _INTERVAL_END))


def _element(value: int, size: int, flags: bytes = b"") -> bytes:
    key = attribute_make(_NESTED | 1, attribute_make(1, value.to_bytes(size, "big")))
    return attribute_make(_NESTED | 1, key + flags)


def attribute_make(kind: int, value: bytes) -> bytes:
    """One attribute, filled up to whole words."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _message(kind: int, flags: int, resource: int, body: bytes, sequence: int, family: int = 0) -> bytes:
    general = struct.pack(">BBH", family, 0, resource)
    return struct.pack("=IHHII", 20 + len(body), kind, _REQUEST | flags, sequence, 0) + general + body
