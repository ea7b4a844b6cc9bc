# SPDX-License-Identifier: Apache-2.0
"""How often something may be done: at once after a while without it, and still no more than so often. Pure.

One number is kept for each thing: when it would be due, had it always been done at its pace (the generic cell rate
algorithm of ITU-T I.371).
"""

from __future__ import annotations

from typing import NamedTuple


class Pace(NamedTuple):
    """Once in `seconds`, and up to `burst` times without a pause after as many pauses without it."""

    seconds: float
    burst: int = 1

    def left(self, due: float, now: float, burst: int | None = None) -> float:
        """For how many seconds it may not be done still. `due`: as `after` said last, 0.0 at first; `burst`: fewer for
        what is less urgent. A clock that was set back holds up nothing."""
        left = due - self.seconds * ((self.burst if burst is None else burst) - 1) - now
        return left if left > 0 and self._is_possible(due, now) else 0.0

    def after(self, due: float, now: float) -> float:
        """When it is due next, now that it is done."""
        return (due if due > now and self._is_possible(due, now) else now) + self.seconds

    def _is_possible(self, due: float, now: float) -> bool:
        """It is never further away than this, but for rounding."""
        return due - now < self.seconds * (self.burst + 1)
