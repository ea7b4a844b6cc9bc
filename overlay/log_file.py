# SPDX-License-Identifier: Apache-2.0
"""A log file that somebody else rotates: lines are appended; when the file of that name is another one, or gone, it is
opened anew. Nobody has to be told (logrotate without `copytruncate` and without `postrotate`)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

MODE = 0o640


class LogFile:
    """Opened when there is something to write."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: TextIO | None = None

    def write(self, lines: Iterable[str]) -> None:
        """Append lines, whole, and have them in the file when it returns. Raises OSError."""
        file = self._opened()
        file.write("".join(f"{line}\n" for line in lines))  # one write(2): a reader sees no part of a line
        file.flush()

    def _opened(self) -> TextIO:
        if self._file is not None and not self._is_named():
            self.close()
        if self._file is None:
            number = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
            self._file = os.fdopen(number, "w", encoding="utf-8")
        return self._file

    def _is_named(self) -> bool:
        """Is the open file still the one of that name?"""
        assert self._file is not None
        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(self._file.fileno()))

    def close(self) -> None:
        """Close it; a later line opens it again."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
