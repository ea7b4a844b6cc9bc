# SPDX-License-Identifier: Apache-2.0
"""How much of a live host's table and time one workload may take (docs/packet-path.md section 11).

A replay has no such limits unless it is given some; a host without them would let one pod's half-open connections
push out everybody else's, and one pod's misses take a worker's whole time.
"""

from __future__ import annotations

from typing import Final

from dfw.model import Limits

OWN_SHARE: Final = 16  # of the table: one part for what a workload has begun and nobody has answered
OTHERS_SHARE: Final = 8  # ... and for what others have begun to it
MISSES_OWN: Final = 100_000  # a second: about 3 % of a processor at 0.3 µs each
MISSES_OTHERS: Final = 200_000


def live_limits(connections: int) -> Limits:
    """The limits of a host with a table of so many connections."""
    return Limits(
        half_open_own=connections // OWN_SHARE,
        half_open_others=connections // OTHERS_SHARE,
        half_open_prefix=connections // OWN_SHARE,
        misses_own=MISSES_OWN,
        misses_others=MISSES_OTHERS,
    )
