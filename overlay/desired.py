# SPDX-License-Identifier: Apache-2.0
"""Where an agent's state comes from: a file now, a watched API later; `Desired` is the one interface."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class Desired(Protocol):
    """Where the state comes from."""

    def read(self) -> bytes | None:
        """The state as it is now, if it has changed since the last call; else None."""


@dataclass(slots=True)
class DesiredFile:
    """A file that is replaced whole."""

    path: Path
    seen: tuple[int, int, int] | None = None

    def read(self) -> bytes | None:
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        stamp = (found.st_ino, found.st_mtime_ns, found.st_size)
        if stamp == self.seen:
            return None
        data = self.path.read_bytes()
        self.seen = stamp
        return data
