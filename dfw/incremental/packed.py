# SPDX-License-Identifier: Apache-2.0
"""Sets of addresses as the bytes that the core loads (`pal_range`: sorted, disjoint, not adjacent), and small changes
to them that copy but do not sort.

Inside, an address is one number: IPv4 as it is, IPv6 with bit 128 set, so that numbers sort as `pal_range` does and no
IPv4 address is adjacent to an IPv6 one.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable, Sequence

import numpy as np

from dfw.layout import RANGE_DTYPE
from dfw.model import Address, AddressRange, Family

RECORD = RANGE_DTYPE.itemsize
IPV6_BIT = 1 << 128
_SMALL = 256  # from so many addresses on, numpy is faster
_V4 = struct.Struct(">I12xI12x")
_FAMILY_4 = int(Family.IPV4).to_bytes(4, sys.byteorder)
_FAMILY_6 = int(Family.IPV6).to_bytes(4, sys.byteorder)
_LOW_64 = (1 << 64) - 1


def address_flat(address: Address) -> int:
    """An address as one number."""
    family, value = address
    return value if family is Family.IPV4 else value | IPV6_BIT


def range_flat(item: AddressRange) -> tuple[int, int]:
    """A range as two numbers."""
    high = 0 if item.family is Family.IPV4 else IPV6_BIT
    return item.first | high, item.last | high


def range_unflat(first: int, last: int) -> AddressRange:
    """The range of two numbers."""
    if first & IPV6_BIT:
        return AddressRange(Family.IPV6, first ^ IPV6_BIT, last ^ IPV6_BIT)
    return AddressRange(Family.IPV4, first, last)


def _record(first: int, last: int) -> bytes:
    if first & IPV6_BIT:
        return (first ^ IPV6_BIT).to_bytes(16, "big") + (last ^ IPV6_BIT).to_bytes(16, "big") + _FAMILY_6
    return _V4.pack(first, last) + _FAMILY_4


def packed_of(addresses: Sequence[int], ranges: Iterable[tuple[int, int]] = ()) -> bytes:
    """These addresses and ranges, in any order and overlapping as they like, as records."""
    pairs = list(ranges)
    if len(pairs) + len(addresses) == 1:
        first, last = pairs[0] if pairs else (addresses[0], addresses[0])
        return _record(first, last)
    if len(addresses) >= _SMALL and not pairs:
        return _packed_many(addresses)
    pairs += [(value, value) for value in addresses]
    if len(pairs) > 1:
        pairs.sort()
        merged = [pairs[0]]
        for first, last in pairs[1:]:
            before_first, before = merged[-1]
            if first > before + 1:
                merged.append((first, last))
            elif last > before:
                merged[-1] = (before_first, last)
        pairs = merged
    return b"".join([_record(first, last) for first, last in pairs])


def _packed_many(addresses: Sequence[int]) -> bytes:
    v4 = np.unique(np.array([value for value in addresses if value < IPV6_BIT], dtype=np.uint32))
    found = b""
    if len(v4):
        starts = np.flatnonzero(np.concatenate(([True], v4[1:] != v4[:-1] + np.uint32(1))))
        ends = np.append(starts[1:] - 1, len(v4) - 1)
        records = np.zeros(len(starts), dtype=RANGE_DTYPE)
        for name, values in (("lo", v4[starts]), ("hi", v4[ends])):
            records[name][:, :4] = values.astype(">u4").view(np.uint8).reshape(-1, 4)
        records["family"] = int(Family.IPV4)
        found = records.tobytes()
    if len(v4) < len(addresses):
        found += _packed_v6([value for value in addresses if value >= IPV6_BIT])
    return found


def _packed_v6(addresses: list[int]) -> bytes:
    high = np.array([value >> 64 & _LOW_64 for value in addresses], dtype=np.uint64)
    low = np.array([value & _LOW_64 for value in addresses], dtype=np.uint64)
    order = np.lexsort((low, high))
    high, low = high[order], low[order]
    next_low = low[:-1] + np.uint64(1)
    same = (high[1:] == high[:-1]) & (low[1:] == low[:-1])
    carried = high[:-1] + (next_low == 0).astype(np.uint64)
    follows = same | ((low[1:] == next_low) & (high[1:] == carried))
    starts = np.flatnonzero(np.concatenate(([True], ~follows)))
    ends = np.append(starts[1:] - 1, len(low) - 1)
    records = np.zeros(len(starts), dtype=RANGE_DTYPE)
    for name, at in (("lo", starts), ("hi", ends)):
        records[name][:, :8] = high[at].astype(">u8").view(np.uint8).reshape(-1, 8)
        records[name][:, 8:] = low[at].astype(">u8").view(np.uint8).reshape(-1, 8)
    records["family"] = int(Family.IPV6)
    return records.tobytes()


def packed_ranges(packed: bytes) -> tuple[AddressRange, ...]:
    """What the records say."""
    return tuple(range_unflat(_first(packed, at), _last(packed, at)) for at in range(len(packed) // RECORD))


def _first(packed: bytes, index: int) -> int:
    return _number(packed, index * RECORD, index * RECORD + 32)


def _last(packed: bytes, index: int) -> int:
    return _number(packed, index * RECORD + 16, index * RECORD + 32)


def _number(packed: bytes, at: int, family_at: int) -> int:
    if packed[family_at : family_at + 4] == _FAMILY_4:
        return int.from_bytes(packed[at : at + 4], "big")
    return int.from_bytes(packed[at : at + 16], "big") | IPV6_BIT


def _position(packed: bytes, value: int) -> int:
    """How many records begin at or before an address."""
    low, high = 0, len(packed) // RECORD
    while low < high:
        middle = (low + high) // 2
        if _first(packed, middle) <= value:
            low = middle + 1
        else:
            high = middle
    return low


def packed_with(packed: bytes, value: int) -> bytes:
    """The records with one more address."""
    at = _position(packed, value)
    start = end = at
    first = last = value
    if at:
        before = _last(packed, at - 1)
        if before >= value:
            return packed
        if before + 1 == value:
            first, start = _first(packed, at - 1), at - 1
    if at < len(packed) // RECORD and _first(packed, at) == value + 1:
        last, end = _last(packed, at), at + 1
    view = memoryview(packed)
    return b"".join((view[: start * RECORD], _record(first, last), view[end * RECORD :]))


def packed_without(packed: bytes, value: int) -> bytes:
    """The records without an address."""
    at = _position(packed, value) - 1
    if at < 0 or _last(packed, at) < value:
        return packed
    first, last = _first(packed, at), _last(packed, at)
    left = _record(first, value - 1) if first < value else b""
    right = _record(value + 1, last) if value < last else b""
    view = memoryview(packed)
    return b"".join((view[: at * RECORD], left, right, view[(at + 1) * RECORD :]))


def packed_has(packed: bytes, value: int) -> bool:
    """Is an address in one of the records?"""
    at = _position(packed, value) - 1
    return at >= 0 and _last(packed, at) >= value
