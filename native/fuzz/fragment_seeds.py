# SPDX-License-Identifier: Apache-2.0
"""First corpus of fuzz_fragment: datagrams in the target's own operations, whole, in disorder, overlapping, too many.

`fragment_seeds.py DIR` writes one file a case.
"""

from __future__ import annotations

import random
import sys

from seed_files import seeds_write


def piece(
    offset: int,
    length: int,
    more: bool,
    *,
    number: int = 0,
    source: int = 0,
    six: bool = False,
    content: int = 0,
    options: int = 0,
    present: int = 15,
    other: bool = False,
) -> bytes:
    """One fragment; `offset` in bytes, `present` in fifteenths."""
    first = 0x40 | six | source << 1 | (number & 1) << 3 | more << 4 | other << 5
    rest = content | options << 2 | present << 4
    return bytes([first, number >> 1]) + (offset // 8).to_bytes(2) + length.to_bytes(2) + bytes([rest])


def later(ticks: int) -> bytes:
    """Time goes by."""
    return b"\0" + ticks.to_bytes(2)


def cases() -> dict[str, bytes]:
    """Every case by name."""
    rng = random.Random(3)
    found: dict[str, bytes] = {}
    for six in (False, True):
        for options in range(4):
            parts = [piece(at * 40, 40, at < 5, six=six, options=options) for at in range(6)]
            found[f"ordered-{six}-{options}"] = b"".join(parts)
            rng.shuffle(parts)
            found[f"disorder-{six}-{options}"] = b"".join(parts)
        found[f"doubled-{six}"] = piece(0, 40, True, six=six) * 2 + piece(40, 8, False, six=six)
        found[f"lying-{six}"] = piece(0, 40, True, six=six) + piece(0, 40, True, six=six, content=1)
        snapped = piece(0, 600, True, six=six, present=7)
        found[f"snapped-{six}"] = snapped * 2 + piece(600, 300, False, six=six, present=0)
        found[f"long-{six}"] = piece(0, 65000, True, six=six) + piece(65000, 400, False, six=six, options=0)
        found[f"too-long-{six}"] = piece(65528, 7, False, six=six) + piece(65528, 8, False, six=six)
        found[f"many-{six}"] = b"".join(piece(at * 16, 8, True, six=six) for at in range(66))
        found[f"source-{six}"] = b"".join(piece(0, 8, True, six=six, number=n) for n in range(66))
    for first, second in ((0, 8), (8, 0), (16, 8), (8, 24), (0, 40)):
        found[f"overlap-{first}-{second}"] = piece(first, 16, True) + piece(second, 16, False) + piece(64, 8, True)
    found["late"] = piece(0, 8, True) + later(3000) + piece(8, 8, True) + later(1) + piece(16, 8, False)
    found["filter"] = b"".join(piece(0, 8, True, number=n, source=n % 4) for n in range(260)) + later(3001)
    found["blocks"] = b"".join(piece(0, 65504, True, number=n) for n in range(64)) + piece(65504, 8, False, number=3)
    found["protocols"] = piece(0, 8, True) + piece(8, 8, False, other=True) + piece(0, 8, True, other=True)
    return found


if __name__ == "__main__":
    sys.exit(seeds_write(sys.argv, cases()))
