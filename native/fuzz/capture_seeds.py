# SPDX-License-Identifier: Apache-2.0
"""Small captures of every shape that the readers know, good and bad, as seeds for fuzz_capture and for tests.

`capture_seeds.py DIR` writes one file for each case of up to 4 KiB. The formats: draft-ietf-opsawg-pcap and
draft-ietf-opsawg-pcapng.
"""

from __future__ import annotations

import struct
import sys

from seed_files import seeds_write

# An Ethernet frame with an IPv4 UDP packet of one byte, padded to 60 bytes.
FRAME = (
    bytes.fromhex("020000000102 020000000101 0800 4500001d00010000401166cd 0a010101 0a010102 04d2 0035 0009 0000 41")
).ljust(60, b"\0")

SEED_BYTES = 4096  # a fuzzer is as slow as its largest seeds; the larger cases are for tests

MICRO, NANO, MODIFIED = 0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34


def pcap(
    records: list[tuple[int, int, int | None, int | None, bytes]],
    *,
    order: str = "<",
    magic: int = MICRO,
    version: tuple[int, int] = (2, 4),
    linktype: int = 1,
    snaplen: int = 262144,
) -> bytes:
    """A classic pcap file. A record: seconds, fraction, captured length, wire length (None: as it is), bytes."""
    out = struct.pack(order + "IHHiIII", magic, *version, 0, 0, snaplen, linktype)
    for seconds, fraction, caplen, wirelen, data in records:
        caplen = len(data) if caplen is None else caplen
        wirelen = len(data) if wirelen is None else wirelen
        if version < (2, 3):
            caplen, wirelen = wirelen, caplen
        out += struct.pack(order + "IIII", seconds, fraction, caplen, wirelen)
        out += struct.pack(order + "IHBB", 1, 0x0800, 4, 0) if magic == MODIFIED else b""
        out += data
    return out


def padded(data: bytes) -> bytes:
    """Filled with zeros to a multiple of four."""
    return data + bytes(-len(data) % 4)


def block(order: str, kind: int, body: bytes, *, total: int | None = None, trailer: int | None = None) -> bytes:
    """A pcapng block; `total` and `trailer` lie when given."""
    length = 12 + len(padded(body))
    total = length if total is None else total
    return (
        struct.pack(order + "II", kind, total)
        + padded(body)
        + struct.pack(order + "I", total if trailer is None else trailer)
    )


def option(order: str, code: int, value: bytes, *, length: int | None = None) -> bytes:
    """One option; `length` lies when given."""
    return struct.pack(order + "HH", code, len(value) if length is None else length) + padded(value)


def section(order: str, *, version: tuple[int, int] = (1, 0), length: int = -1, options: bytes = b"") -> bytes:
    """A section header block."""
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, *version, length) + options)


def interface(order: str, *, linktype: int = 1, snaplen: int = 0, options: bytes = b"") -> bytes:
    """An interface description block."""
    return block(order, 1, struct.pack(order + "HHI", linktype, 0, snaplen) + options)


def resolution(order: str, value: int) -> bytes:
    """The option if_tsresol and the end of options."""
    return option(order, 9, bytes([value])) + option(order, 0, b"")


def enhanced(
    order: str,
    ticks: int,
    data: bytes = FRAME,
    *,
    number: int = 0,
    caplen: int | None = None,
    wirelen: int | None = None,
    options: bytes = b"",
) -> bytes:
    """An enhanced packet block."""
    caplen = len(data) if caplen is None else caplen
    wirelen = len(data) if wirelen is None else wirelen
    body = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, caplen, wirelen) + padded(data)
    return block(order, 6, body + options)


def obsolete(order: str, ticks: int, data: bytes = FRAME, *, number: int = 0) -> bytes:
    """A packet block as before the enhanced one."""
    head = struct.pack(order + "HHIIII", number, 7, ticks >> 32, ticks & 0xFFFFFFFF, len(data), len(data))
    return block(order, 2, head + padded(data))


def simple(order: str, data: bytes = FRAME, *, wirelen: int | None = None) -> bytes:
    """A simple packet block."""
    return block(order, 3, struct.pack(order + "I", len(data) if wirelen is None else wirelen) + padded(data))


def pcap_cases() -> dict[str, bytes]:
    """Classic pcap."""
    good = [(1, 250_000, None, None, FRAME), (2, 0, None, 1514, FRAME[:54]), (2, 999_999, None, None, b"")]
    cases = {"pcap-header-only": pcap([])}
    for name, order in (("le", "<"), ("be", ">")):
        for magic_name, magic in (("micro", MICRO), ("nano", NANO), ("modified", MODIFIED)):
            cases[f"pcap-{magic_name}-{name}"] = pcap(good, order=order, magic=magic)
    first, second = good[0], (3, 1, None, None, FRAME)
    cases |= {
        "pcap-version-2-2": pcap([(1, 5, None, 100, FRAME)], version=(2, 2)),
        "pcap-version-2-3": pcap([(1, 5, None, 100, FRAME), (1, 6, 100, 60, FRAME)], version=(2, 3)),
        "pcap-version-1-0": pcap(good, version=(1, 0)),
        "pcap-version-2-5": pcap(good, version=(2, 5)),
        "pcap-linktype-raw": pcap([(1, 0, None, None, FRAME[14:43])], linktype=101),
        "pcap-linktype-fcs": pcap(good, linktype=0x24000001),
        "pcap-linktype-class": pcap(good, linktype=0x02240001),
        "pcap-wire-below-captured": pcap([(1, 0, None, 12, FRAME), second]),
        "pcap-captured-huge": pcap([first, (2, 0, 0xFFFFFFFF, 60, FRAME), second]),
        "pcap-captured-over-limit": pcap([first, (2, 0, None, None, bytes(262_145)), second]),
        "pcap-captured-at-limit": pcap([first, (2, 0, None, None, bytes(262_144)), second]),
        "pcap-captured-over-snaplen": pcap([first, second], snaplen=40),
        "pcap-captured-beyond-file": pcap([first, (2, 0, 61, 61, FRAME)]),
        "pcap-time-latest": pcap([(0xFFFFFFFF, 0xFFFFFFFF, None, None, FRAME)]),
        "pcap-time-latest-nano": pcap([(0xFFFFFFFF, 999_999_999, None, None, FRAME)], magic=NANO),
        "pcap-cut-in-header": pcap([first, second])[: 24 + 76 + 7],
        "pcap-cut-in-packet": pcap([first, second])[:-1],
        "pcap-cut-in-file-header": pcap([])[:23],
        "pcap-cut-in-magic": pcap([])[:3],
    }
    return cases


def pcapng_cases() -> dict[str, bytes]:
    """pcapng: everything in both byte orders."""
    cases: dict[str, bytes] = {}
    for name, o in (("le", "<"), ("be", ">")):
        start = section(o) + interface(o)
        packet = enhanced(o, 1_250_000)
        flags = option(o, 2, struct.pack(o + "I", 2))
        comment = option(o, 1, "why: caf\u00e9".encode()) + flags + option(o, 0, b"")
        shapes = {
            "section-only": section(o),
            "no-interface": section(o) + packet,
            "enhanced": start + packet + enhanced(o, 2_000_000, FRAME[:54], wirelen=1514),
            "empty-packet": start + enhanced(o, 1, b"") + packet,
            "unpadded": start + enhanced(o, 1, FRAME[:57]) + packet,
            "simple": section(o) + interface(o, snaplen=40) + simple(o, FRAME[:40], wirelen=60) + simple(o, FRAME[:30]),
            "simple-too-long": start + simple(o, FRAME, wirelen=100) + packet,
            "simple-second-interface": section(o) + interface(o) + interface(o, linktype=101) + simple(o),
            "obsolete": start + obsolete(o, 1_250_000) + packet,
            "options": start + enhanced(o, 1, options=comment) + enhanced(o, 2, options=flags) + packet,
            "option-too-long": start + enhanced(o, 1, options=option(o, 1, b"abcd", length=200)) + packet,
            "option-cut": start + enhanced(o, 1, options=option(o, 1, b"abcd")[:2]) + packet,
            "interface-option-too-long": section(o) + interface(o, options=option(o, 9, b"\6", length=9)) + packet,
            "interface-option-short": section(o)
            + interface(o, options=option(o, 9, b"") + option(o, 14, b"abcd"))
            + packet,
            "unknown-blocks": start + block(o, 0x4242, b"x" * 33) + packet + block(o, 0x80000001, b"") + packet,
            "other-blocks": start
            + block(o, 4, option(o, 0, b""))
            + block(o, 5, struct.pack(o + "III", 0, 0, 1))
            + block(o, 10, struct.pack(o + "II", 0x544C534B, 4) + b"key\n")
            + packet,
            "custom": start + block(o, 0xBAD, struct.pack(o + "I", 32473) + b"hello") + packet,
            "custom-no-copy": start + block(o, 0x40000BAD, struct.pack(o + "I", 32473) + b"hello") + packet,
            "journal": start + block(o, 9, b"__REALTIME_TIMESTAMP=1\nMESSAGE=x\n") + packet,
            "sysdig": start + block(o, 0x204, struct.pack(o + "HQQIH", 0, 1, 2, 28, 5) + bytes(8)) + packet,
            "sysdig-flags": start + block(o, 0x208, struct.pack(o + "HQQIHI", 0, 1, 2, 28, 5, 0) + bytes(8)) + packet,
            "sysdig-v2": start + block(o, 0x216, struct.pack(o + "HQQIHI", 0, 1, 2, 28, 5, 1) + bytes(8)) + packet,
            "sysdig-v2-flags": start
            + block(o, 0x217, struct.pack(o + "HQQIHII", 0, 1, 2, 28, 5, 0, 1) + bytes(8))
            + packet,
            "interface-missing": start + packet + enhanced(o, 2, number=1) + packet,
            "interfaces": section(o)
            + interface(o)
            + interface(o, linktype=101, options=resolution(o, 9))
            + enhanced(o, 1_250_000)
            + enhanced(o, 1_500_000_000, FRAME[14:43], number=1)
            + interface(o, linktype=113, options=resolution(o, 3))
            + enhanced(o, 1_750, number=2),
            "interfaces-4097": section(o)
            + interface(o) * 4097
            + enhanced(o, 1, number=4095)
            + enhanced(o, 1, number=4096),
            "sections": start
            + packet
            + section("<")
            + interface("<", linktype=101, options=resolution("<", 6))
            + enhanced("<", 1_500_000)
            + section(">")
            + interface(">")
            + enhanced(">", 2_000_000),
            "section-forgets-interfaces": start + packet + section(o) + packet,
            "section-version-1-2": section(o, version=(1, 2)) + interface(o) + packet,
            "section-version-2-0": start + packet + section(o, version=(2, 0)) + interface(o) + packet,
            "section-first-version-2-0": section(o, version=(2, 0)) + interface(o) + packet,
            "section-length-lies": section(o, length=8) + interface(o) + packet,
            "section-no-magic": start + packet + block(o, 0x0A0D0D0A, bytes(16)),
            "section-short": start + packet + block(o, 0x0A0D0D0A, struct.pack(o + "I", 0x1A2B3C4D)) + packet * 2,
            "captured-over-block": start + packet + enhanced(o, 2, caplen=64) + packet,
            "captured-huge": start + packet + enhanced(o, 2, caplen=0xFFFFFFFF) + packet,
            "captured-over-limit": start + packet + enhanced(o, 2, bytes(262_148)) + packet,
            "captured-at-limit": start + packet + enhanced(o, 2, bytes(262_144)) + packet,
            "wire-below-captured": start + enhanced(o, 1, wirelen=12) + packet,
            "trailer-differs": start + packet + block(o, 0x4242, b"abcd", trailer=20) + packet,
            "length-zero": start + packet + block(o, 0x4242, b"", total=0) + packet,
            "length-short": start + packet + block(o, 0x4242, b"", total=8) + packet,
            "length-odd": start + packet + struct.pack(o + "II", 0x4242, 13) + b"x" + struct.pack(o + "I", 13) + packet,
            "length-odd-padded": start
            + packet
            + struct.pack(o + "II", 0x4242, 13)
            + b"x\0\0\0"
            + struct.pack(o + "I", 13)
            + packet,
            "length-huge": start + packet + block(o, 0x4242, b"", total=0xFFFFFFFC) + packet,
            "packet-block-short": start + packet + block(o, 6, bytes(16)) + packet,
            "interface-block-short": start + packet + block(o, 1, bytes(4)) + packet,
            "cut-in-block-header": (start + packet * 2)[:-85],
            "cut-in-packet": (start + packet * 2)[:-20],
            "cut-in-trailer": (start + packet * 2)[:-2],
            "cut-in-section": section(o)[:20],
        }
        for value in (0, 3, 6, 9, 12, 18, 19, 20, 28, 29, 0x7F, 0x80, 0x8A, 0x94, 0x9E, 0xBF, 0xC0, 0xFF):
            ticks = 3 * (10**value if value < 0x80 else 2 ** (value - 0x80)) // 2
            shapes[f"tsresol-{value:02x}"] = (
                section(o)
                + interface(o, options=resolution(o, value))
                + enhanced(o, min(ticks, 2**64 - 1))
                + enhanced(o, 2**64 - 1)
                + enhanced(o, 0)
            )
        for offset in (1, -1, 1_600_000_000, 2**63 - 1, -(2**63)):
            options = option(o, 14, struct.pack(o + "q", offset)) + resolution(o, 6)
            shapes[f"tsoffset-{offset}"] = (
                section(o) + interface(o, options=options) + enhanced(o, 2_500_000) + enhanced(o, 2**63)
            )
        cases |= {f"pcapng-{shape}-{name}": data for shape, data in shapes.items()}
    return cases


def cases() -> dict[str, bytes]:
    """Every case by name."""
    others = {"empty": b"", "text": b"not a capture\n", "gzip-magic": b"\x1f\x8b\x08\x00" + bytes(20)}
    return pcap_cases() | pcapng_cases() | others


def main(argv: list[str]) -> int:
    """Writes the cases that are small enough into a folder; the status to exit with."""
    return seeds_write(argv, {name: data for name, data in cases().items() if len(data) <= SEED_BYTES})


if __name__ == "__main__":
    sys.exit(main(sys.argv))
