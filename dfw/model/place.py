# SPDX-License-Identifier: Apache-2.0
"""Where in its input something was written."""

from __future__ import annotations

from typing import NamedTuple


class Place(NamedTuple):
    """File (or `-`), line and column (from 1), and the path inside the document, such as `rules[1].action`."""

    file: str
    line: int
    column: int
    path: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        return f"{where}: {self.path}" if self.path else where
