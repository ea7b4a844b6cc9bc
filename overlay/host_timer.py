# SPDX-License-Identifier: Apache-2.0
"""`python -m overlay.host_timer SOCKET [DEADLINE]`: takes a host's change back, unless it is confirmed in time.

`palisade apply --confirm` starts it (overlay/timer.py) where the host is no lab's; without DEADLINE the agent does,
when it finds a change whose timer was killed, or ended with the machine.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from overlay.host_change import adopt, expire
from overlay.timer import timer_run

if __name__ == "__main__":
    agent = Path(sys.argv[1])
    deadline = float(sys.argv[2]) if len(sys.argv) > 2 else adopt(agent)
    sys.exit(0 if deadline is None else timer_run(partial(expire, agent), deadline, f"the agent at {agent}"))
