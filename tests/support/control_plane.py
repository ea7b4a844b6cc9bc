# SPDX-License-Identifier: Apache-2.0
"""A control plane of a test's own: `palisade supervisor up` as a process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PALISADE = (sys.executable, "-m", "dfw")
PATIENCE = 60.0  # seconds, on a machine that does much else


@dataclass(slots=True)
class ControlPlane:
    """A running one."""

    data: Path
    kubeconfig: Path
    log: Path
    process: subprocess.Popen[bytes]

    def stop(self) -> int:
        """TERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def control_plane_start(
    folder: Path, *more: str, listen: str = "127.0.0.1:0", within: Sequence[str] = ()
) -> ControlPlane:
    """Start one whose data is in a folder (it may be there already); it answers when this returns. `within`: a command
    that becomes it."""
    folder.mkdir(parents=True, exist_ok=True)
    kubeconfig, log = folder / "kubeconfig", folder / "log"
    kubeconfig.unlink(missing_ok=True)
    arguments = ["-v", "supervisor", "up", "--listen", listen]
    arguments += ["--data", str(folder / "data"), "--kubeconfig", str(kubeconfig)]
    arguments += more
    with log.open("ab") as out:
        process = subprocess.Popen([*within, *PALISADE, *arguments], stdout=out, stderr=out)
    end = time.monotonic() + PATIENCE
    while not kubeconfig.exists() or not kubeconfig.stat().st_size:
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"the control plane did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.02)
    return ControlPlane(folder / "data", kubeconfig, log, process)


@contextmanager
def control_plane(folder: Path, *more: str, within: Sequence[str] = ()) -> Iterator[ControlPlane]:
    """One for a `with`: it has gone afterwards. `more`: further options of `supervisor up`."""
    plane = control_plane_start(folder, *more, within=within)
    try:
        yield plane
    finally:
        if plane.process.poll() is None:
            plane.process.kill()
            plane.process.wait()
