# SPDX-License-Identifier: Apache-2.0
"""Writing a fuzz target's seeds: what every *_seeds.py does when it is run."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def seeds_write(argv: Sequence[str], cases: Mapping[str, bytes]) -> int:
    """`argv[1]` is the folder to write the cases into; the status to exit with."""
    if len(argv) != 2:
        print(f"usage: {argv[0]} DIR", file=sys.stderr)
        return 2
    folder = Path(argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in cases.items():
        (folder / name).write_bytes(data)
    return 0
