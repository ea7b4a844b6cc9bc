# SPDX-License-Identifier: Apache-2.0
"""What a host knows, kept by what the Supervisor tells it (span_wire.py)."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, MutableMapping
from contextlib import aclosing
from typing import Any, Final, NamedTuple

import msgspec

from overlay.hoststate import StateError
from overlay.span_parts import MARK_BYTES, SetChange, marks_sum, part_hash, part_is_shared, part_mark, set_change
from supervisor_glue.api.kinds import SPAN
from supervisor_glue.api.status import ApiError
from supervisor_glue.span_wire import Known, Line, line_read

PATH: Final = f"/apis/{SPAN}/v1alpha1/parts"
MOST_PACKED: Final = 256 * 1024 * 1024
"""Bytes of parts that came packed: more is refused."""
_EXPIRED: Final = 410


class Told(NamedTuple):
    """A change that was taken in. `changed`: the names of parts that are new, different or gone; `size`: bytes of what
    was said and told."""

    revision: int
    changed: frozenset[str]
    size: int


class SpanReader:
    """Of one host: `parts` by name."""

    def __init__(self) -> None:
        self.parts: MutableMapping[str, bytes] = {}

    def marks(self) -> dict[bytes, str]:
        """The names of the parts by their marks."""
        return {self.mark(key, data): key for key, data in self.parts.items()}

    def mark(self, key: str, data: bytes) -> bytes:
        """A part's mark."""
        return part_mark(key, part_hash(data))

    def known(self) -> Known:
        """What is known; of what hosts share, by its sum."""
        own, shared = self._split()
        return Known(b"".join(own), marks_sum(shared).to_bytes(MARK_BYTES, "big") if shared else b"")

    def known_marks(self) -> Known:
        """What is known, all by its marks: in an order, so that hosts that know the same say the same."""
        own, shared = self._split()
        return Known(b"".join(own), shared=b"".join(sorted(shared)))

    def _split(self) -> tuple[list[bytes], list[bytes]]:
        """The marks of a host's own parts, and of those that it shares."""
        found: tuple[list[bytes], list[bytes]] = [], []
        for mark, key in self.marks().items():
            found[part_is_shared(key)].append(mark)
        return found

    async def watch(self, client: Any) -> AsyncIterator[Told]:
        """Changes as the Supervisor tells them, taken in; ends when the connection does. Raises ApiError;
        ConnectionError, also where what is told does not follow from what was: the next watch is told it whole."""
        known, size = self.known(), 0
        while True:
            body = msgspec.to_builtins(known)
            size += sum(map(len, body.values()))
            try:
                async with aclosing(client.lines("POST", PATH, body, query={"watch": "true"})) as lines:
                    async for data in lines:
                        told = [self._told(data, size)]  # nothing of it is kept here: it is megabytes the first time
                        del data
                        yield told.pop()
                        size = 0
                return
            except ApiError as error:
                if error.code != _EXPIRED or not known.sum:
                    raise
            known = self.known_marks()

    def _told(self, data: bytes, size: int) -> Told:
        try:
            line = line_read(data)
            return Told(line.revision, self.take(line), size + len(data))
        except (msgspec.DecodeError, StateError, ValueError, zlib.error) as error:
            raise ConnectionError(f"what the Supervisor tells is not understood: {error}") from error

    def take(self, line: Line) -> frozenset[str]:
        """Take a change in; the names of the parts that it changes. What was told counts whether or not an agent can
        read it: it is not told again. Raises StateError, ValueError, zlib.error, msgspec.DecodeError: it does not
        follow from what is known; a set that does not is forgotten."""
        marks = self.marks() if line.unknown else {}
        unknown = {marks.get(line.unknown[at : at + MARK_BYTES], "") for at in range(0, len(line.unknown), MARK_BYTES)}
        changed = (unknown - {""}).union(line.gone, line.parts, line.sets)
        for key in (*unknown, *line.gone):
            self.parts.pop(key, None)
        for key, raw in line.parts.items():
            self.parts[key] = bytes(raw)
        for data in line.packed:
            found = self.unpacked(data)
            changed.update(found)
            self.parts.update(found)
        for key, changes in line.sets.items():
            self.parts[key] = self.set_changed(self.parts.pop(key, b""), changes)
        return frozenset(changed)

    def set_changed(self, before: bytes, changes: tuple[SetChange, ...]) -> bytes:
        """A set's part after changes. Raises StateError."""
        return set_change(before, changes)

    def unpacked(self, data: bytes) -> dict[str, bytes]:
        """Parts that came packed. Raises ValueError, zlib.error, msgspec.DecodeError."""
        unpacking = zlib.decompressobj()
        unpacked = unpacking.decompress(data, MOST_PACKED)
        if not unpacking.eof:
            raise ValueError(f"packed parts are cut off, or more than {MOST_PACKED} bytes")
        return {key: bytes(raw) for key, raw in msgspec.json.decode(unpacked, type=dict[str, msgspec.Raw]).items()}
