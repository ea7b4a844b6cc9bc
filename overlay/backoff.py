# SPDX-License-Identifier: Apache-2.0
"""When to try again what could not be done: soon at first, then in longer and longer intervals, up to a bound."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

FIRST_SECONDS: Final = 0.25
LONGEST_SECONDS: Final = 30.0


@dataclass(slots=True)
class Backoff:
    """Nothing to try at first. Times are of CLOCK_MONOTONIC."""

    pause: float = 0.0
    at: float | None = None

    def failed(self) -> None:
        """It could not be done: the next time is twice as far away as the last was."""
        self.pause = min(max(self.pause * 2, FIRST_SECONDS), LONGEST_SECONDS)
        self.at = time.monotonic() + self.pause

    def done(self) -> None:
        """There is nothing to try again; the next failure is a first one."""
        self.pause, self.at = 0.0, None

    def left(self) -> float | None:
        """Seconds until the next try, at least 0; None where there is nothing to try."""
        return None if self.at is None else max(self.at - time.monotonic(), 0.0)
