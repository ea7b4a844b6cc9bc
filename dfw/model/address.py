# SPDX-License-Identifier: Apache-2.0
"""Addresses and inclusive address ranges of both families, as plain integers.

Text forms are those of RFC 4632 (CIDR), RFC 4291 and RFC 5952 (IPv6), and NSX's `first-last` ranges. Parsers raise
ValueError with a sentence that says what would be right; the caller adds the place.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from dfw.model.words import Family

_MAC = re.compile(r"[0-9a-f]{2}(?:([:-])[0-9a-f]{2})(?:\1[0-9a-f]{2}){4}", re.ASCII)
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}", re.ASCII)


class Address(NamedTuple):
    """One address: family and value (host-order integer of 32 or 128 bits)."""

    family: Family
    value: int

    @property
    def packed(self) -> bytes:
        """Network byte order, 4 or 16 bytes."""
        return self.value.to_bytes(self.family.bits // 8, "big")

    def __str__(self) -> str:
        return socket.inet_ntop(socket.AF_INET if self.family is Family.IPV4 else socket.AF_INET6, self.packed)


@dataclass(frozen=True, slots=True, order=True)
class AddressRange:
    """An inclusive range first..last within one family; a prefix is one too. Invariant: first <= last."""

    family: Family
    first: int
    last: int

    def contains(self, address: Address) -> bool:
        """True where the address lies in the range; another family never does."""
        return address.family is self.family and self.first <= address.value <= self.last

    @property
    def prefix_length(self) -> int | None:
        """The CIDR length where the range is exactly one prefix, else None."""
        size = self.last - self.first + 1
        if size & (size - 1) or self.first & (size - 1):
            return None
        return self.family.bits - (size.bit_length() - 1)

    def __str__(self) -> str:
        first = str(Address(self.family, self.first))
        if self.first == self.last:
            return first
        length = self.prefix_length
        return f"{first}/{length}" if length is not None else f"{first}-{Address(self.family, self.last)}"


def address_parse(text: str) -> Address:
    """One IPv4 or IPv6 address, without prefix length or zone. Raises ValueError."""
    try:
        if ":" in text:
            return Address(Family.IPV6, int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big"))
        return Address(Family.IPV4, int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big"))
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is not an IPv4 or IPv6 address") from None


def range_of_address(address: Address) -> AddressRange:
    """The range that holds this address alone."""
    return AddressRange(address.family, address.value, address.value)


def prefix_parse(text: str, *, host_bits: bool = False) -> AddressRange:
    """`address/length` as a range. Raises ValueError for host bits set, unless `host_bits` (they are then masked)."""
    base, slash, length_text = text.partition("/")
    if not slash:
        raise ValueError(f"{text!r} is not a CIDR prefix: a length such as /24 is missing")
    address = address_parse(base)
    bits = address.family.bits
    if not _PREFIX_LENGTH.fullmatch(length_text) or int(length_text) > bits:
        raise ValueError(f"{text!r} is not a CIDR prefix: the length must be 0-{bits}")
    mask = (1 << (bits - int(length_text))) - 1
    first = address.value & ~mask
    if first != address.value and not host_bits:
        right = f"{Address(address.family, first)}/{length_text}"
        raise ValueError(f"{text!r} has bits set beyond its length; the prefix would be {right}")
    return AddressRange(address.family, first, first | mask)


def range_parse(text: str) -> AddressRange:
    """An address, a prefix, or `first-last`. Raises ValueError."""
    if "/" in text:
        return prefix_parse(text)
    first_text, dash, last_text = text.partition("-")
    first = address_parse(first_text.strip() if dash else text)
    if not dash:
        return range_of_address(first)
    last = address_parse(last_text.strip())
    if first.family is not last.family:
        raise ValueError(f"{text!r} mixes IPv4 and IPv6")
    if last.value < first.value:
        raise ValueError(f"{text!r} ends before it begins; did you mean {last}-{first}?")
    return AddressRange(first.family, first.value, last.value)


def ranges_merge(ranges: Iterable[AddressRange]) -> tuple[AddressRange, ...]:
    """The same set of addresses as sorted, disjoint, non-adjacent ranges: the canonical form of a set."""
    merged: list[AddressRange] = []
    for item in sorted(ranges):
        if merged and merged[-1].family is item.family and item.first <= merged[-1].last + 1:
            if item.last > merged[-1].last:
                merged[-1] = AddressRange(item.family, merged[-1].first, item.last)
        else:
            merged.append(item)
    return tuple(merged)


def ranges_subtract(ranges: Iterable[AddressRange], without: Iterable[AddressRange]) -> tuple[AddressRange, ...]:
    """The addresses of `ranges` that are in none of `without`, as sorted, disjoint ranges."""
    holes = ranges_merge(without)
    left: list[AddressRange] = []
    at = 0
    for item in ranges_merge(ranges):
        while at < len(holes) and (holes[at].family, holes[at].last) < (item.family, item.first):
            at += 1
        first = item.first
        for number in range(at, len(holes)):
            hole = holes[number]
            if hole.family is not item.family or hole.first > item.last:
                break
            if hole.first > first:
                left.append(AddressRange(item.family, first, hole.first - 1))
            first = max(first, hole.last + 1)
        if first <= item.last:
            left.append(AddressRange(item.family, first, item.last))
    return tuple(left)


def ranges_intersect(one: Iterable[AddressRange], other: Iterable[AddressRange]) -> tuple[AddressRange, ...]:
    """The addresses that are in both, as sorted, disjoint ranges."""
    one = ranges_merge(one)
    return ranges_subtract(one, ranges_subtract(one, other))


def mac_parse(text: str) -> str:
    """A MAC address in lower case with colons. Raises ValueError."""
    lowered = text.lower()
    if not _MAC.fullmatch(lowered):
        raise ValueError(f"{text!r} is not a MAC address such as 02:00:00:00:01:01")
    return lowered.replace("-", ":")


def mac_packed(mac: str) -> bytes:
    """The six bytes of a MAC address that `mac_parse` returned."""
    return bytes.fromhex(mac.replace(":", ""))
