# SPDX-License-Identifier: Apache-2.0
"""How what a host is told goes over the wire: one JSON object a line."""

from __future__ import annotations

import msgspec

from overlay.span_parts import SetChange


class Known(msgspec.Struct, forbid_unknown_fields=True):
    """What a host says when it asks: the marks of the parts that it knows, one after the other."""

    marks: bytes = b""


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


def line_write(line: Line) -> bytes:
    """With its end."""
    return _encode(line) + b"\n"


def line_read(data: bytes) -> Line:
    """Raises msgspec.DecodeError."""
    return _decoder.decode(data)
