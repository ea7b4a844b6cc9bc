# SPDX-License-Identifier: Apache-2.0
"""What a host knows, kept by what the Supervisor tells it (span_wire.py)."""

from __future__ import annotations

import zlib
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final, NamedTuple

import msgspec

from overlay.hoststate import StateError
from overlay.span_parts import MARK_BYTES, part_hash, part_mark, set_change
from supervisor_glue.api.kinds import SPAN
from supervisor_glue.span_wire import Line, line_read

PATH: Final = f"/apis/{SPAN}/v1alpha1/parts"
MOST_PACKED: Final = 256 * 1024 * 1024
"""Bytes of parts that came packed: more is refused."""


class Told(NamedTuple):
    """A change that was taken in. `changed`: the names of parts that are new, different or gone; `size`: bytes of what
    was said and told."""

    revision: int
    changed: frozenset[str]
    size: int


class SpanReader:
    """Of one host: `parts` by name."""

    def __init__(self) -> None:
        self.parts: dict[str, bytes] = {}

    def marks(self) -> dict[bytes, str]:
        """The names of the parts by their marks."""
        return {part_mark(key, part_hash(data)): key for key, data in self.parts.items()}

    async def watch(self, client: Any) -> AsyncIterator[Told]:
        """Changes as the Supervisor tells them, taken in; ends when the connection does. Raises ApiError;
        ConnectionError, also where what is told does not follow from what was: the next watch is told it whole."""
        marks = self.marks()
        body = {"marks": b64encode(b"".join(marks)).decode()}
        size = len(body["marks"])
        async with aclosing(client.lines("POST", PATH, body, query={"watch": "true"})) as lines:
            async for data in lines:
                try:
                    line = line_read(data)
                    changed = self.take(line, marks)
                except (msgspec.DecodeError, StateError, ValueError, zlib.error) as error:
                    raise ConnectionError(f"what the Supervisor tells is not understood: {error}") from error
                yield Told(line.revision, changed, size + len(data))
                marks, size = {}, 0

    def take(self, line: Line, marks: dict[bytes, str]) -> frozenset[str]:
        """Take a change in; the names of the parts that it changes. `marks`: of the parts that the Supervisor was told
        of. What was told counts whether or not an agent can read it: it is not told again. Raises StateError,
        ValueError, zlib.error, msgspec.DecodeError: it does not follow from what is known; a set that does not is
        forgotten."""
        unknown = {marks.get(line.unknown[at : at + MARK_BYTES], "") for at in range(0, len(line.unknown), MARK_BYTES)}
        changed = (unknown - {""}).union(line.gone, line.parts, line.sets)
        for key in (*unknown, *line.gone):
            self.parts.pop(key, None)
        for key, raw in line.parts.items():
            self.parts[key] = bytes(raw)
        for data in line.packed:
            unpacking = zlib.decompressobj()
            unpacked = unpacking.decompress(data, MOST_PACKED)
            if not unpacking.eof:
                raise ValueError(f"packed parts are cut off, or more than {MOST_PACKED} bytes")
            found = msgspec.json.decode(unpacked, type=dict[str, msgspec.Raw])
            changed.update(found)
            self.parts.update((key, bytes(raw)) for key, raw in found.items())
        for key, changes in line.sets.items():
            part = self.parts.pop(key, b"")
            for change in changes:
                part = set_change(part, change)
            self.parts[key] = part
        return frozenset(changed)
