# SPDX-License-Identifier: Apache-2.0
"""Captures made wrong, by seed: bit flips, cuts, lying lengths, packets doubled, left out and out of order.

For runs under sanitizers, where the only right answer is that nothing is reported: a mutation may still be a valid
capture. As a program it writes mutations of all captures below a folder:

    python -m tests.support.capture_mutations ../shared/data build/mutations --each 4 --seed 1
"""

from __future__ import annotations

import argparse
import gzip
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.support.pcap import Captured, pcap_read

ENDINGS = (".pcap", ".pcapng", ".cap", ".pcap.gz", ".pcapng.gz", ".cap.gz")
SIZE_LIMIT = 1 << 20
"""Larger files are cut to this before they are changed: mutations are many."""

_LIES = (0, 1, 3, 4, 19, 20, 27, 28, 39, 40, 0x7F, 0x80, 0xFF, 0x100, 0x5DC, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_LIES_32 = (*_LIES, 0x10000, 0x40000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFC, 0xFFFFFFFF)


def capture_paths(folder: Path) -> list[Path]:
    """All captures below a folder, by the endings of their names."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name.endswith(ENDINGS))


def pcap_write(packets: Sequence[Captured]) -> bytes:
    """A pcap file, nanoseconds, of the first packet's link type."""
    link = packets[0].link if packets else 1
    out = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, link)]
    for packet in packets:
        second, rest = divmod(packet.ts_ns, 1_000_000_000)
        out.append(struct.pack("<IIII", second & 0xFFFFFFFF, rest, len(packet.data), packet.wire))
        out.append(packet.data)
    return b"".join(out)


# ---- the file as bytes ----------------------------------------------------------------------------------------------


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    """One to sixty-four bits changed, anywhere."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 2, 4, 16, 64))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_header_bits(rng: random.Random, data: bytes) -> bytes:
    """A few bits of the first 200 bytes: the file's header and the first packet's."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        out[rng.randrange(min(200, len(out)))] ^= 1 << rng.randrange(8)
    return bytes(out)


def cut(rng: random.Random, data: bytes) -> bytes:
    """Ends anywhere."""
    return data[: rng.randrange(len(data))]


def cut_inside(rng: random.Random, data: bytes) -> bytes:
    """Some bytes in the middle are missing: what follows is read out of step."""
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 64) :]


def doubled(rng: random.Random, data: bytes) -> bytes:
    """A piece is there twice."""
    at = rng.randrange(len(data))
    return data[: at + rng.randint(1, 400)] + data[at:]


def lying_words(rng: random.Random, data: bytes) -> bytes:
    """Words of 16 and 32 bits, both byte orders, replaced by lengths that lie."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        size = rng.choice((2, 4))
        if len(out) > size:
            at = rng.randrange(len(out) - size)
            value = rng.choice(_LIES if size == 2 else _LIES_32)
            out[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))
    return bytes(out)


# ---- the packets of the file ----------------------------------------------------------------------------------------


def lying_records(rng: random.Random, packets: list[Captured]) -> bytes:
    """Records whose lengths do not fit what follows."""
    out = bytearray(pcap_write(packets))
    at, places = 24, []
    for packet in packets:
        places.append(at)
        at += 16 + len(packet.data)
    for place in rng.sample(places, min(len(places), rng.randint(1, 4))):
        where = place + rng.choice((8, 12))
        out[where : where + 4] = struct.pack("<I", rng.choice(_LIES_32))
    return bytes(out)


def lying_packets(rng: random.Random, packets: list[Captured]) -> bytes:
    """Length fields inside packets: IPv4's and IPv6's, header lengths, UDP's, options' and extension headers'."""
    changed = []
    for packet in packets:
        data = bytearray(packet.data)
        if len(data) > 20 and rng.random() < 0.7:
            for _ in range(rng.randint(1, 3)):
                at = rng.randrange(12, min(len(data), 90))
                if rng.random() < 0.5:
                    data[at] = rng.choice((0, 1, 2, 4, 5, 6, 15, 0x45, 0x4F, 0x50, 0x60, 0xF0, 0xFF))
                else:
                    data[at : at + 2] = rng.choice(_LIES).to_bytes(2)
        changed.append(packet._replace(data=bytes(data)))
    return pcap_write(changed)


def snapped(rng: random.Random, packets: list[Captured]) -> bytes:
    """Packets cut short, and packets that claim to have been longer or shorter on the wire."""
    changed = []
    for packet in packets:
        data = packet.data[: rng.randint(0, len(packet.data))] if rng.random() < 0.5 else packet.data
        wire = rng.choice((packet.wire, len(data), rng.choice(_LIES_32)))
        changed.append(packet._replace(data=data, wire=wire))
    return pcap_write(changed)


def shuffled(rng: random.Random, packets: list[Captured]) -> bytes:
    """Packets out of order, doubled and missing, times running backwards."""
    changed = [packet for packet in packets for _ in range(rng.choice((0, 1, 1, 1, 2, 3)))]
    for _ in range(len(changed) // 4 + 1):
        if len(changed) > 1:
            a, b = rng.randrange(len(changed)), rng.randrange(len(changed))
            changed[a], changed[b] = changed[b], changed[a]
    return pcap_write(changed)


def other_link(rng: random.Random, packets: list[Captured]) -> bytes:
    """The same bytes under another link type."""
    link = rng.choice((0, 1, 101, 108, 113, 276, 12, 105, 147, 65535))
    return pcap_write([packet._replace(link=link) for packet in packets])


OF_BYTES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    flip_bits,
    flip_header_bits,
    cut,
    cut_inside,
    doubled,
    lying_words,
)
OF_PACKETS: tuple[Callable[[random.Random, list[Captured]], bytes], ...] = (
    lying_records,
    lying_packets,
    snapped,
    shuffled,
    other_link,
)


def mutations(path: Path, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """`count` mutations of a capture: (what was done, the file's bytes). The same seed gives the same bytes."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    data = data[:SIZE_LIMIT]
    try:
        packets = [packet for _, packet in zip(range(4000), pcap_read(path), strict=False)]
    except ValueError:
        packets = []
    rng = random.Random(f"{path.name} {seed}")
    for number in range(count):
        by_packets = bool(packets) and rng.random() < 0.5
        if by_packets:
            of_packets = OF_PACKETS[rng.randrange(len(OF_PACKETS))]
            yield f"{number}-{of_packets.__name__}", of_packets(rng, packets)
        elif data:
            of_bytes = OF_BYTES[rng.randrange(len(OF_BYTES))]
            yield f"{number}-{of_bytes.__name__}", of_bytes(rng, data)


def main() -> None:
    """Write mutations of every capture below a folder into another, numbered."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--each", type=int, default=4, help="mutations of each capture")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    given.target.mkdir(parents=True, exist_ok=True)
    written = 0
    for index, path in enumerate(capture_paths(given.source)):
        for name, data in mutations(path, given.seed, given.each):
            (given.target / f"{index:04}-{name}.pcap").write_bytes(data)
            written += 1
    print(f"{written} files")


if __name__ == "__main__":
    main()
