# SPDX-License-Identifier: Apache-2.0
"""Netfilter's netlink sockets (linux/netfilter/nf_tables.h): transactions, counters, and the rules' generation."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from dfw.nftables.attributes import attribute_make, attributes_read
from dfw.nftables.batch import BRIDGE, INET, Message

_NETLINK_NETFILTER: Final = 12
_SUBSYSTEM: Final = 10  # NFNL_SUBSYS_NFTABLES
_OURS: Final = _SUBSYSTEM << 8
_NEW_TABLE, _GET_TABLE = 0, 1
_NEW_GENERATION, _GET_GENERATION, _GET_OBJECT = 15, 16, 19
_COUNTER: Final = 1  # NFT_OBJECT_COUNTER
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
ERROR, DONE = 2, 3
_REQUEST, ACKNOWLEDGE, DUMP = 1, 4, 0x300
_ANSWER_BYTES: Final = 1 << 16
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33


class NetfilterSocket:
    """A netlink socket of the namespace of the thread that makes it, for whichever thread. Raises OSError."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._room(_ANSWER_BYTES)
        self._socket.bind((0, 0))
        self._sequence = 0

    def ask(self, kind: int, flags: int, body: bytes, family: int = INET) -> list[tuple[int, bytes]]:
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
    """For transactions, counters and the generation of rules."""

    def batch_apply(self, messages: Sequence[Message]) -> None:
        """Put a transaction in force. Raises OSError: then nothing has changed."""
        self._sequence += 1
        parts = [_message(_BATCH_BEGIN, 0, _SUBSYSTEM, b"", self._sequence)]
        for number, (kind, flags, body, family) in enumerate(messages, 1):
            # The last one's answer says that all is well; what is refused is answered in any case.
            asked = ACKNOWLEDGE if number == len(messages) else 0
            parts.append(_message(_OURS | kind, flags | asked, 0, body, self._sequence, family))
        parts.append(_message(_BATCH_END, 0, _SUBSYSTEM, b"", self._sequence))
        batch = b"".join(parts)
        self._room(len(batch) + _ANSWER_BYTES)
        self._socket.send(batch)
        while True:
            # A commit that fails is answered before the last message's word, and so is a message that is refused.
            for kind, body in self.answers():
                if kind == ERROR:
                    if number := -int(struct.unpack_from("=i", body)[0]):
                        raise OSError(number, f"nftables refused the change: {os.strerror(number)}")
                    return

    def generation_read(self) -> int:
        """A number that every change of this namespace's rules makes another one. Raises OSError."""
        for kind, body in self.ask(_OURS | _GET_GENERATION, 0, b""):
            if kind == _OURS | _NEW_GENERATION:
                return int(struct.unpack_from(">I", body, 8)[0])
        raise OSError("no answer about the generation of the rules")

    def table_flags_read(self, table: str, family: int) -> int | None:
        """Flags of the table (NFT_TABLE_F_DORMANT is 1), of which we set none; None: there is none. Raises OSError.

        libnftables 1.0.6 frees what is another's when it lists a table that has some, so it is not to be asked then.
        """
        try:
            found = self.ask(_OURS | _GET_TABLE, 0, attribute_make(1, table.encode() + b"\0"), family)
        except OSError as error:
            if error.errno == errno.ENOENT:
                return None
            raise
        values = dict(attributes_read(next(body for kind, body in found if kind == _OURS | _NEW_TABLE)[4:]))
        return int.from_bytes(values.get(2, b""), "big")

    def counters_read(self, table: str) -> dict[str, tuple[int, int]]:
        """Packets and bytes of each named counter of the tables of this name. Raises OSError."""
        return {name: counts for family in (INET, BRIDGE) for name, counts in self._counters(table, family)}

    def _counters(self, table: str, family: int) -> Iterator[tuple[str, tuple[int, int]]]:
        wanted = attribute_make(1, table.encode() + b"\0") + attribute_make(3, struct.pack(">I", _COUNTER))
        asked = self.ask(_OURS | _GET_OBJECT, DUMP, wanted, family)
        while True:
            for kind, body in asked:
                if kind == DONE:
                    return
                values = dict(attributes_read(body[4:]))
                if values[1].rstrip(b"\0").decode() == table:
                    counts = dict(attributes_read(values[4]))
                    numbers = [int.from_bytes(counts[at], "big") for at in (2, 1)]
                    yield values[2].rstrip(b"\0").decode(), (numbers[0], numbers[1])
            asked = self.answers()


def _message(kind: int, flags: int, resource: int, body: bytes, sequence: int, family: int = 0) -> bytes:
    general = struct.pack(">BBH", family, 0, resource)
    return struct.pack("=IHHII", 20 + len(body), kind, _REQUEST | flags, sequence, 0) + general + body
