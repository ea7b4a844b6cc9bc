# SPDX-License-Identifier: Apache-2.0
"""Programs that tests compile: once, however many workers want them at the same time."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.conftest import ROOT


def built(target: Path, command: Sequence[str | Path]) -> Path:
    """The program at `target`, made by this command unless it is newer than all of native/; who wants it
    meanwhile waits."""
    sources = [path for path in (ROOT / "native").rglob("*") if path.suffix in (".c", ".h", ".def")]
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists() or target.stat().st_mtime < max(path.stat().st_mtime for path in sources):
            subprocess.run(command, check=True, cwd=ROOT)
    return target
