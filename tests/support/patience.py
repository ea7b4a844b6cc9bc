# SPDX-License-Identifier: Apache-2.0
"""Waiting for a state, never for a time: a machine of two cores that runs other tests meanwhile is slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

PATIENCE: Final = 180.0  # seconds: TCP's own pauses double; only what fails takes so long
Found = TypeVar("Found")


def until(is_so: Callable[[], Found], what: str) -> Found:
    """What `is_so` returns, once that is true; `what` is wrong if it never is."""
    end = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < end, what
        time.sleep(0.02)
    return found


def until_inside(pid: int, netns: str | Path) -> None:
    """A process has entered the network namespace at this path."""
    inode = Path(netns).stat().st_ino
    until(lambda: Path(f"/proc/{pid}/ns/net").stat().st_ino == inode, f"process {pid} is not in {netns}")
