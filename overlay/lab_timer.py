# SPDX-License-Identifier: Apache-2.0
"""`python -m overlay.lab_timer FOLDER DEADLINE`: takes a lab's change back, unless it is confirmed in time.

`palisade apply --confirm` starts it before it changes anything, and it belongs to nobody: it does its work whatever
becomes of that command. It bears the lab's mark, so that `lab down` ends it with everything else.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from dfw.logs import get_logger
from overlay.lab_change import boot_seconds, expire
from overlay.lab_record import LabPaths
from overlay.linux import Process, process_start

_TRIES = 5


def main(folder: str, deadline: float) -> int:
    """Wait, then go back. Returns an exit status."""
    paths = LabPaths(Path(folder))
    start = process_start(os.getpid())
    assert start is not None
    me = Process(os.getpid(), start)
    print("ready", flush=True)
    os.dup2(2, 1)  # whoever started this reads no further
    left, tries = deadline - boot_seconds(), 0
    while tries < _TRIES:
        time.sleep(max(left, 0))
        try:
            left = expire(paths, me)
        except Exception as error:
            tries, left = tries + 1, 2.0
            get_logger("timer").error("not gone back", lab=paths.name, error=str(error), tries=tries)
            continue
        if left <= 0:
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
