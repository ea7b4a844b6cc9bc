# SPDX-License-Identifier: Apache-2.0
"""`python clocked.py FILE python -m dfw …`: palisade with a clock that is as many seconds off as the file says (a
double), from one moment to the next. What is monotonic stays."""

from __future__ import annotations

import mmap
import runpy
import struct
import sys
import time
from pathlib import Path
from typing import Final

_OFFSET: Final = struct.Struct("d")


def offset_write(file: Path, seconds: float) -> None:
    """In place: who has mapped the file sees it at once."""
    with file.open("r+b" if file.exists() else "w+b") as out:
        out.write(_OFFSET.pack(seconds))


def main() -> None:
    with open(sys.argv[1], "rb") as file:
        held = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    real = time.time

    def jumping() -> float:
        found: tuple[float] = _OFFSET.unpack_from(held)
        return real() + found[0]

    time.time = jumping
    del sys.argv[1:5]
    runpy.run_module("dfw", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
