# SPDX-License-Identifier: Apache-2.0
"""Fragments: in every order and size, spoilt and not, with others held beside them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from dfw.bench.arena import BEGUN, STATELESS, Arena, Scenario
from dfw.bench.attack_common import OPTIONS, Genes, Order
from dfw.bench.frames import (
    UDP,
    Frames,
    addresses,
    ethernet,
    extension,
    ip_packets,
)
from dfw.layout import FAMILY_V4


def fragments(arena: Arena, genes: Genes, count: int, rng: np.random.Generator) -> Scenario:
    """UDP datagrams in `pieces` of `payload` bytes (a multiple of 8, the last of them too)."""
    pieces, size = int(genes["pieces"]), int(genes["payload"])
    lonely = pieces == 1 or genes.get("spoil") == "no-end"
    pieces = min(pieces, 65000 // size)
    datagrams = -(-count // pieces)
    piece = {
        "forward": np.tile(np.arange(pieces), datagrams),
        "reverse": np.tile(np.arange(pieces)[::-1], datagrams),
        "outside-in": np.tile(
            np.argsort(np.minimum(np.arange(pieces), pieces - 1 - np.arange(pieces)), kind="stable"), datagrams
        ),
        "random": np.concatenate([rng.permutation(pieces) for _ in range(datagrams)]),
    }[genes["order"]].astype(np.int64)
    number = np.repeat(np.arange(datagrams), pieces)
    spoil = genes.get("spoil", "no")
    if spoil == "duplicate" and pieces > 2:
        piece[1::2] = piece[: len(piece) - len(piece) % 2 : 2][: len(piece[1::2])]
    elif spoil == "overlap" and pieces > 1:
        piece = np.where(np.arange(len(piece)) % pieces == pieces - 1, -1, piece)  # lies across the first two
    turn = _turns(len(piece), pieces, int(genes.get("interleaved", 1)))[:count]
    piece, number = piece[turn], number[turn]
    offset = np.where(piece < 0, size // 2 // 8 * 8 if size > 8 else 0, piece * size)
    more = (piece != pieces - 1) | lonely
    frames = _pieces(arena, genes, number, offset, more, size)
    held = int(genes.get("held", 0))
    before = []
    if held:
        some = 5_000_000 + np.arange(held)
        before.append(
            _pieces(arena, genes, some, np.full(held, 8), np.ones(held, bool), 8).at(
                clock=BEGUN, filter_number=STATELESS
            )
        )
    return Scenario(before[0] if before else None, frames.at(clock=BEGUN, filter_number=STATELESS))


def _turns(count: int, pieces: int, together: int) -> Order:
    """Places of fragments when so many datagrams at a time send theirs in turn."""
    out = []
    for begin in range(0, count, pieces * together):
        block = np.arange(begin, min(begin + pieces * together, count))
        out.append(block[np.argsort((block - begin) % pieces, kind="stable")])
    return np.concatenate(out)


def _pieces(arena: Arena, genes: Genes, number: Order, offset: Order, more: npt.NDArray[np.bool_], size: int) -> Frames:
    count = len(number)
    sources = int(genes.get("sources", 1))
    v4 = arena.family == FAMILY_V4
    options = (
        OPTIONS if v4 else {"none": b"", "nops": extension(0, 8) + extension(60, 8) * 6, "record": extension(0, 248)}
    )
    rows = np.zeros((count, size), np.uint8)
    first = offset == 0
    rows[first, 0:2], rows[first, 2:4] = 0x20, 0x30
    rows[first, 4:6] = np.array([0, 8], np.uint8)
    field = (offset // 8 | np.where(more, 0x2000, 0)) if v4 else (offset | more)
    packets = ip_packets(
        arena.family,
        addresses(arena.family, (0x0E000000 + number % sources).astype(np.uint64)),
        addresses(arena.family, np.full(count, 0x0F000001, np.uint64)),
        UDP,
        rows,
        options=options[genes.get("ip_options", "none")],
        identification=number,
        fragment=field.astype(np.int64),
    )
    return ethernet(arena.family, packets)
