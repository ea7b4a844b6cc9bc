# SPDX-License-Identifier: Apache-2.0
"""What all attacks share: genes as they are given, options of IP headers, orders of connections."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from dfw.bench.arena import Arena
from dfw.bench.frames import (
    extension,
)
from dfw.layout import FAMILY_V4

Genes = Mapping[str, Any]
Order = npt.NDArray[np.int64]
NOPS: Final = b"\x01" * 36 + b"\x00" * 4
_RECORD: Final = b"\x07\x27\x04" + b"\x00" * 36 + b"\x00"
OPTIONS: Final[Mapping[str, bytes]] = {
    "none": b"",
    "nops": NOPS,
    "many": b"\x44\x02" * 18 + b"\x01" * 4,
    "record": _RECORD,
}
EXTENSIONS: Final[Mapping[str, bytes]] = {
    "none": b"",
    "nops": extension(0, 8) + extension(60, 8) * 7,
    "many": extension(0, 32) + extension(60, 32) * 7,
    "record": extension(0, 256),
}
TCP_SENT: Final = ("ack", "data", "old", "far", "future", "syn", "synack", "fin", "reset", "reset-far")
OWN_SENT: Final = ("udp", "sctp", "port", "port-long", "epsv", "tftp", "child")


def order_draw(genes: Genes, among: int, count: int, rng: np.random.Generator) -> Order:
    kind = genes["order"]
    if kind == "one":
        return np.zeros(count, np.int64)
    if kind == "few":
        return rng.integers(0, 32, count)
    if kind == "turn":
        return np.arange(count) % among
    return rng.integers(0, among, count)


def shape_of(arena: Arena, genes: Genes) -> dict[str, Any]:
    options = OPTIONS if arena.family == FAMILY_V4 else EXTENSIONS
    return {
        "ip_options": options[genes.get("ip_options", "none")],
        "tags": genes.get("tags", 0),
        "size": genes.get("size", 60),
    }
