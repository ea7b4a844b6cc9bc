# SPDX-License-Identifier: Apache-2.0
"""Netlink attributes, made and read (linux/netlink.h). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

NESTED: Final = 0x8000
"""In an attribute's kind: it consists of attributes."""


def attribute_make(kind: int, value: bytes) -> bytes:
    """One attribute, filled up to whole words."""
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def text_make(kind: int, text: str) -> bytes:
    """An attribute that is text."""
    return attribute_make(kind, text.encode() + b"\0")


def number_make(kind: int, value: int) -> bytes:
    """An attribute that is a number of 32 bits."""
    return attribute_make(kind, struct.pack(">I", value))


def attributes_read(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Attributes in a row: kind and value."""
    at = 0
    while at + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, at)
        yield kind & 0x3FFF, data[at + 4 : at + length]
        at += max(4, length + 3 & ~3)
