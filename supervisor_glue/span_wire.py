# SPDX-License-Identifier: Apache-2.0
"""How what a host is told goes over the wire: one JSON object a line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from overlay.span_parts import SetChange


class Known(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """What a host says when it asks: the marks of its own parts, one after the other; and of those that all hosts of
    its routing domain share, the sum of their marks (big-endian), or where that says nothing to the Supervisor (410)
    the marks themselves, in their order."""

    marks: bytes = b""
    sum: bytes = b""
    shared: bytes = b""


NOTHING: Final = Known()


class Line(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """One change: all that a host has to know, to be as of `revision`. In this order: it forgets what is `unknown`
    (marks, one after the other) and `gone` (names), takes the `parts` and those that are `packed` (JSON by name, zlib),
    and changes the members of `sets`."""

    revision: int
    parts: dict[str, msgspec.Raw] = {}
    gone: tuple[str, ...] = ()
    sets: dict[str, tuple[SetChange, ...]] = {}
    packed: tuple[bytes, ...] = ()
    unknown: bytes = b""


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Line)


def line_write(line: Line, packed: Sequence[bytes] = ()) -> list[bytes]:
    """With its end, in pieces. `packed`: strings of JSON instead of the line's own, which are not copied."""
    data = _encode(line) + b"\n"
    if not packed:
        return [data]
    pieces = [b'{"packed":[']
    for number, piece in enumerate(packed):
        pieces += [b","] * bool(number) + [piece]
    return [*pieces, b"]," + data[1:]]


def line_read(data: bytes) -> Line:
    """Raises msgspec.DecodeError."""
    return _decoder.decode(data)
