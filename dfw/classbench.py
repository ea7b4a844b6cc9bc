# SPDX-License-Identifier: Apache-2.0
"""ClassBench text: rule files and header traces, read strictly and written so that peers read the same.

The format is that of Taylor and Turner, "ClassBench: A Packet Classification Benchmark" (INFOCOM 2005):

    @182.21.161.251/32  116.166.30.217/32  0 : 65535  1706 : 1706  0x06/0xFF  0x1000/0x1000

a rule is source, destination, source ports, destination ports, protocol/mask, and flags/mask, in priority order; a
header is source, destination, source port, destination port, protocol, flags, and whatever a generator adds. IPv4
addresses in headers are decimal integers; IPv6 (as in classbench-ng and rte_acl) is written in full in both files. Only
the five fields count: flags and further columns are ignored, host bits of prefixes are masked (CONTRACT, `classify`).
"""

from __future__ import annotations

import re
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import numpy.typing as npt

from dfw.errors import PolicyError, Problem
from dfw.layout import (
    ACTION_ALLOW,
    ACTION_DROP,
    DIR_OUT,
    FAMILY_V4,
    FAMILY_V6,
    KEY_DTYPE,
    PROTO_ANY,
    RANGE_DTYPE,
    KeyArray,
    RangeArray,
    RuleArray,
    U32Array,
    U64Array,
    addresses_v4,
    addresses_v6,
    rules_empty,
)
from dfw.model.address import address_parse
from dfw.model.place import Place

TEXT_LIMIT: Final = 512 << 20
"""Largest text, decompressed, in bytes: what a compressed file may unfold to is bounded."""
PROBLEM_LIMIT: Final = 1000
"""Problems reported of one file; a file of the wrong kind would otherwise give one for each of its lines."""

_ADDRESS = r"[0-9.]{7,15}|[0-9A-Fa-f:.]{2,45}"
_FIELDS: Final = (
    ("source", re.compile(rf"@({_ADDRESS})/([0-9]{{1,3}})"), "@address/length"),
    ("destination", re.compile(rf"({_ADDRESS})/([0-9]{{1,3}})"), "address/length"),
    ("source_ports", re.compile(r"([0-9]{1,5})[ \t]*:[ \t]*([0-9]{1,5})"), "first : last"),
    ("destination_ports", re.compile(r"([0-9]{1,5})[ \t]*:[ \t]*([0-9]{1,5})"), "first : last"),
    ("protocol", re.compile(r"0[xX]([0-9A-Fa-f]{1,2})/0[xX]([0-9A-Fa-f]{1,2})"), "0xNN/0xFF or 0x00/0x00"),
)
_GAP = re.compile(r"[ \t]+")


@dataclass(frozen=True, slots=True)
class FiveTupleRules:
    """Rules on prefixes, port ranges and protocol, one row each, in priority order.

    `family` (n,) is FAMILY_V4 or FAMILY_V6; `source` and `destination` (n, 2) the upper and lower 64 bits in host
    order, host bits zero, an IPv4 address in the lower word; lengths (n,) count from the family's top bit; ports
    (n, 2) are inclusive; `protocol` (n,) is 0-255 or PROTO_ANY.
    """

    family: npt.NDArray[np.uint8]
    source: U64Array
    source_length: npt.NDArray[np.uint8]
    destination: U64Array
    destination_length: npt.NDArray[np.uint8]
    source_ports: npt.NDArray[np.uint16]
    destination_ports: npt.NDArray[np.uint16]
    protocol: npt.NDArray[np.uint16]

    def __len__(self) -> int:
        return len(self.protocol)


@dataclass(frozen=True, slots=True)
class RuleTable:
    """What the classifier takes: rules, their references, and the address sets (a set's id is its place here)."""

    rules: RuleArray
    refs: U32Array
    sets: tuple[RangeArray, ...]


# ---- prefixes -------------------------------------------------------------------------------------------------------


def prefix_masks(family: npt.NDArray[np.uint8], length: npt.NDArray[np.uint8]) -> U64Array:
    """Network masks (n, 2) of prefixes: upper and lower 64 bits; IPv4 masks stand in the lower 32."""
    ones = np.uint64(0xFFFFFFFFFFFFFFFF)
    size = length.astype(np.int64)
    v4 = family == FAMILY_V4

    def top(bits: npt.NDArray[np.int64]) -> U64Array:
        shift = np.clip(64 - bits, 0, 63).astype(np.uint64)
        return np.where(bits <= 0, np.uint64(0), ones << shift)

    upper = np.where(v4, np.uint64(0), top(np.minimum(size, 64)))
    lower = np.where(v4, top(size + 32) & np.uint64(0xFFFFFFFF), top(size - 64))
    lower = np.where(v4 & (size == 0), np.uint64(0), lower)
    return np.stack([upper, lower], axis=1)


def prefix_ends(
    family: npt.NDArray[np.uint8], base: U64Array, length: npt.NDArray[np.uint8]
) -> tuple[U64Array, U64Array]:
    """First and last addresses (n, 2) of prefixes."""
    mask = prefix_masks(family, length)
    width = np.where(
        (family == FAMILY_V4)[:, None],
        np.array([0, 0xFFFFFFFF], np.uint64),
        np.array([0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFF], np.uint64),
    )
    first = base & mask
    return first, first | (width & ~mask)


def address_rows(family: npt.NDArray[np.uint8], words: U64Array) -> npt.NDArray[np.uint8]:
    """Addresses (n, 2) as rows of 16 bytes in network order, as pal_range and pal_key have them."""
    v4 = addresses_v4(words[:, 1] & np.uint64(0xFFFFFFFF))
    if not np.any(family == FAMILY_V6):
        return v4
    return np.where((family == FAMILY_V4)[:, None], v4, addresses_v6(words[:, 0], words[:, 1]))


def rule_table(rules: FiveTupleRules) -> RuleTable:
    """The rules for the classifier: one set for each distinct prefix, numbers 0, 1, ... in priority order.

    ClassBench gives no actions: even rules ALLOW, odd ones DROP.
    """
    count = len(rules)
    table = rules_empty(count)
    table["family"] = rules.family
    table["sport_lo"], table["sport_hi"] = rules.source_ports.T
    table["dport_lo"], table["dport_hi"] = rules.destination_ports.T
    table["proto"] = rules.protocol
    table["action"] = np.where(np.arange(count) % 2 == 0, ACTION_ALLOW, ACTION_DROP)

    wanted = np.zeros((2 * count, 4), np.uint64)
    wanted[:, 0] = np.tile(rules.family, 2)
    wanted[:count, 1:3], wanted[count:, 1:3] = rules.source, rules.destination
    wanted[:count, 3], wanted[count:, 3] = rules.source_length, rules.destination_length
    some = wanted[:, 3] > 0
    distinct, which = np.unique(wanted[some], axis=0, return_inverse=True)
    refs = which.reshape(-1).astype(np.uint32)
    offset = np.cumsum(some) - 1
    table["src_n"], table["dst_n"] = some[:count], some[count:]
    table["src_off"] = np.where(some[:count], offset[:count], 0)
    table["dst_off"] = np.where(some[count:], offset[count:], 0)

    family = distinct[:, 0].astype(np.uint8)
    first, last = prefix_ends(family, distinct[:, 1:3], distinct[:, 3].astype(np.uint8))
    ranges = np.zeros(len(distinct), RANGE_DTYPE)
    ranges["lo"], ranges["hi"] = address_rows(family, first), address_rows(family, last)
    ranges["family"] = family
    return RuleTable(table, refs, tuple(ranges[i : i + 1] for i in range(len(ranges))))


def keys_build(
    family: npt.NDArray[np.uint8],
    source: U64Array,
    destination: U64Array,
    source_port: npt.NDArray[Any],
    destination_port: npt.NDArray[Any],
    protocol: npt.NDArray[Any],
) -> KeyArray:
    """Keys of headers given by columns, direction OUT."""
    keys = np.zeros(len(family), KEY_DTYPE)
    keys["src"], keys["dst"] = address_rows(family, source), address_rows(family, destination)
    keys["sport"], keys["dport"], keys["proto"] = source_port, destination_port, protocol
    keys["family"], keys["dir"] = family, DIR_OUT
    return keys


# ---- reading --------------------------------------------------------------------------------------------------------


def lines_read(path: str) -> list[str]:
    """The lines of a text file, plain or gzipped (told by its first bytes); `-` is standard input.

    Raises PolicyError (what cannot be read, decompressed, is not ASCII, or is over TEXT_LIMIT).
    """
    try:
        if path == "-":
            data = _unfold(sys.stdin.buffer)
        else:
            with Path(path).open("rb") as stream:
                data = _unfold(stream)
        if len(data) > TEXT_LIMIT:
            raise PolicyError.at(path, 1, 1, "", f"over {TEXT_LIMIT} bytes of text")
        return data.decode("ascii").splitlines()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise PolicyError.at(path, line, 1, "", "not ASCII: ClassBench text was expected") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PolicyError.at(path, 1, 1, "", f"cannot be read: {reason}") from None


def _unfold(stream: BinaryIO) -> bytes:
    """All bytes of the stream, gzip undone, cut after TEXT_LIMIT + 1."""
    data = stream.read(TEXT_LIMIT + 1)
    if data[:2] != b"\x1f\x8b":
        return data
    out = bytearray()
    while data and len(out) <= TEXT_LIMIT:
        member = zlib.decompressobj(wbits=31)
        out += member.decompress(data, TEXT_LIMIT + 1 - len(out))
        if not member.eof and not member.unconsumed_tail:
            raise EOFError("the compressed text ends too early")
        data = member.unused_data
    return bytes(out)


class _Refused(Exception):
    """A line that does not fit: column from 1, the field, and what would be right."""

    def __init__(self, column: int, field: str, message: str) -> None:
        super().__init__(message)
        self.column = column
        self.field = field


def _lines_parse(lines: Iterable[str], file: str, row: Callable[[str], None]) -> None:
    """Feeds every line that is not blank to `row`; all that refuse are reported together."""
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        try:
            row(line)
        except _Refused as error:
            problems.append(Problem(Place(file, number, error.column, error.field), str(error)))
            if len(problems) == PROBLEM_LIMIT:
                break
    if problems:
        raise PolicyError(problems)


def _address(text: str, column: int, field: str) -> tuple[int, int]:
    """(family, value). Raises _Refused."""
    try:
        parsed = address_parse(text)
    except ValueError as error:
        raise _Refused(column, field, str(error)) from None
    return int(parsed.family), parsed.value


def _pair(text_low: str, text_high: str, column: int, field: str) -> tuple[int, int]:
    low, high = int(text_low), int(text_high)
    if low > 65535 or high > 65535:
        raise _Refused(column, field, f"{max(low, high)} is not a port (0-65535)")
    if low > high:
        raise _Refused(column, field, f"{low} : {high} ends before it begins")
    return low, high


_RULE = re.compile(r"[ \t]+".join(pattern.pattern for _, pattern, _ in _FIELDS) + r"(?=[ \t]|$)")


def _rule_fields(line: str) -> re.Match[str]:
    """The five fields of a rule line, or _Refused at the first that does not fit."""
    whole = _RULE.match(line)
    if whole:
        return whole
    at = 0
    for index, (field, pattern, right) in enumerate(_FIELDS):
        if index:
            gap = _GAP.match(line, at)
            at = gap.end() if gap else at
        found = pattern.match(line, at)
        if not found or (found.end() < len(line) and line[found.end()] not in " \t"):
            there = line[at : at + 24].split("\t")[0]
            raise _Refused(at + 1, field, f"{there!r} is not {right}" if there else f"{right} is missing")
        at = found.end()
    raise _Refused(1, "", "the fields of a rule are separated by blanks or tabs")


def rules_parse(lines: Iterable[str], file: str = "-") -> FiveTupleRules:
    """The rules of a ClassBench rule file. Raises PolicyError with every line that does not fit."""
    rows = array("Q")

    def row(line: str) -> None:
        found = _rule_fields(line)
        field = found.groups()
        family, source = _address(field[0], found.start(1) + 1, "source")
        family_to, destination = _address(field[2], found.start(3) + 1, "destination")
        if family_to != family:
            raise _Refused(found.start(3) + 1, "destination", "mixes IPv4 and IPv6 in one rule")
        width = 32 if family == FAMILY_V4 else 128
        lengths = int(field[1]), int(field[3])
        for length, group, name in ((lengths[0], 2, "source"), (lengths[1], 4, "destination")):
            if length > width:
                raise _Refused(found.start(group) + 1, name, f"/{length} is not a prefix length (0-{width})")
        low_s, high_s = _pair(field[4], field[5], found.start(5) + 1, "source_ports")
        low_d, high_d = _pair(field[6], field[7], found.start(7) + 1, "destination_ports")
        protocol, mask = int(field[8], 16), int(field[9], 16)
        if mask not in (0, 0xFF):
            raise _Refused(found.start(10) - 1, "protocol", f"mask 0x{mask:02x}: only 0xFF (this one) and 0x00 (any)")
        number = protocol if mask else PROTO_ANY
        rows.extend((family, source >> 64, source & _LOW, lengths[0]))
        rows.extend((destination >> 64, destination & _LOW, lengths[1]))
        rows.extend((low_s, high_s, low_d, high_d, number))

    _lines_parse(lines, file, row)
    columns = np.frombuffer(rows, np.uint64).reshape(-1, 12)
    family = columns[:, 0].astype(np.uint8)
    source_length, destination_length = columns[:, 3].astype(np.uint8), columns[:, 6].astype(np.uint8)
    return FiveTupleRules(
        family=family,
        source=columns[:, 1:3] & prefix_masks(family, source_length),
        source_length=source_length,
        destination=columns[:, 4:6] & prefix_masks(family, destination_length),
        destination_length=destination_length,
        source_ports=columns[:, 7:9].astype(np.uint16),
        destination_ports=columns[:, 9:11].astype(np.uint16),
        protocol=columns[:, 11].astype(np.uint16),
    )


_LOW: Final = (1 << 64) - 1
_HEADER = re.compile(r"([0-9A-Fa-f:.]+)\s+([0-9A-Fa-f:.]+)\s+([0-9]{1,5})\s+([0-9]{1,5})\s+([0-9]{1,3})(?=\s|$)")


def _header_address(text: str, column: int, field: str) -> tuple[int, int]:
    if text.isdecimal():
        value = int(text) if len(text) <= 10 else 1 << 32
        if value > 0xFFFFFFFF:
            raise _Refused(column, field, f"{text} is not an IPv4 address as a number (0-4294967295)")
        return FAMILY_V4, value
    return _address(text, column, field)


def trace_parse(lines: Iterable[str], file: str = "-") -> KeyArray:
    """The headers of a ClassBench trace as keys. Raises PolicyError with every line that does not fit."""
    rows = array("Q")

    def row(line: str) -> None:
        found = _HEADER.match(line)
        if not found:
            raise _Refused(1, "", "a header has five numbers: source, destination, both ports and the protocol")
        text = found.groups()
        family, source = _header_address(text[0], 1, "source")
        family_to, destination = _header_address(text[1], found.start(2) + 1, "destination")
        if family_to != family:
            raise _Refused(found.start(2) + 1, "destination", "mixes IPv4 and IPv6 in one header")
        source_port, destination_port, protocol = int(text[2]), int(text[3]), int(text[4])
        if source_port > 65535 or destination_port > 65535:
            wrong = 3 if source_port > 65535 else 4
            raise _Refused(found.start(wrong) + 1, "ports", f"{text[wrong - 1]} is not a port (0-65535)")
        if protocol > 255:
            raise _Refused(found.start(5) + 1, "protocol", f"{protocol} is not a protocol number (0-255)")
        rows.extend((family, source >> 64, source & _LOW, destination >> 64, destination & _LOW))
        rows.extend((source_port, destination_port, protocol))

    _lines_parse(lines, file, row)
    column = np.frombuffer(rows, np.uint64).reshape(-1, 8)
    return keys_build(
        column[:, 0].astype(np.uint8), column[:, 1:3], column[:, 3:5], column[:, 5], column[:, 6], column[:, 7]
    )


def rules_read(path: str) -> FiveTupleRules:
    """A rule file, plain or gzipped. Raises PolicyError."""
    return rules_parse(lines_read(path), path)


def trace_read(path: str) -> KeyArray:
    """A header trace, plain or gzipped, as keys. Raises PolicyError."""
    return trace_parse(lines_read(path), path)


# ---- writing --------------------------------------------------------------------------------------------------------


def _address_render(family: int, upper: int, lower: int) -> str:
    if family == FAMILY_V4:
        return f"{lower >> 24}.{lower >> 16 & 255}.{lower >> 8 & 255}.{lower & 255}"
    text = f"{upper:016x}{lower:016x}"
    return ":".join(text[i : i + 4] for i in range(0, 32, 4))


def rules_render(rules: FiveTupleRules) -> Iterator[str]:
    """One line a rule, without line end; IPv6 in full, which is the only form that rte_acl's reader takes."""
    columns = zip(
        rules.family.tolist(),
        rules.source.tolist(),
        rules.source_length.tolist(),
        rules.destination.tolist(),
        rules.destination_length.tolist(),
        rules.source_ports.tolist(),
        rules.destination_ports.tolist(),
        rules.protocol.tolist(),
        strict=True,
    )
    for family, source, source_length, destination, destination_length, sport, dport, protocol in columns:
        number = "0x00/0x00" if protocol == PROTO_ANY else f"0x{protocol:02x}/0xFF"
        yield (
            f"@{_address_render(family, *source)}/{source_length}\t{_address_render(family, *destination)}/"
            f"{destination_length}\t{sport[0]} : {sport[1]}\t{dport[0]} : {dport[1]}\t{number}\t0x0000/0x0000"
        )


def trace_render(keys: KeyArray) -> Iterator[str]:
    """One line a header, without line end: IPv4 as integers, IPv6 in full; the last two columns are 0."""
    source, destination = (keys[name].view(">u8").reshape(-1, 2).tolist() for name in ("src", "dst"))
    rest = zip(*(keys[name].tolist() for name in ("family", "sport", "dport", "proto")), strict=True)
    for a, b, (family, sport, dport, protocol) in zip(source, destination, rest, strict=True):
        if family == FAMILY_V4:
            yield f"{a[0] >> 32}\t{b[0] >> 32}\t{sport}\t{dport}\t{protocol}\t0\t0"
        else:
            ends = f"{_address_render(family, *a)}\t{_address_render(family, *b)}"
            yield f"{ends}\t{sport}\t{dport}\t{protocol}\t0\t0"
