# SPDX-License-Identifier: Apache-2.0
"""`python -m overlay.lab_timer FOLDER DEADLINE`: takes a lab's change back, unless it is confirmed in time.

`palisade apply --confirm` starts it (overlay/timer.py). It bears the lab's mark, so that `lab down` ends it with
everything else.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from overlay.lab_change import expire
from overlay.lab_record import LabPaths
from overlay.timer import timer_run

if __name__ == "__main__":
    lab = LabPaths(Path(sys.argv[1]))
    sys.exit(timer_run(partial(expire, lab), float(sys.argv[2]), f"lab {lab.name}"))
