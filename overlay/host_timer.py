# SPDX-License-Identifier: Apache-2.0
"""`python -m overlay.host_timer SOCKET DEADLINE`: takes a host's change back, unless it is confirmed in time.

`palisade apply --confirm` starts it (overlay/timer.py) where the host is no lab's.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from overlay.host_change import expire
from overlay.timer import timer_run

if __name__ == "__main__":
    agent = Path(sys.argv[1])
    sys.exit(timer_run(partial(expire, agent), float(sys.argv[2]), f"the agent at {agent}"))
