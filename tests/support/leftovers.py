# SPDX-License-Identifier: Apache-2.0
"""What a lab could leave behind on a machine: mounts, links, control groups, processes, files."""

from __future__ import annotations

import os
import re
from pathlib import Path


def list_leftovers(run: Path) -> dict[str, object]:
    """All of it; equal before and after where nothing is left. `run`: the directory of labs."""
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob("**/pal-*")]
    return {
        "mounts": [line for line in mounts if str(run) in line or "pal-" in line],
        "links": sorted(os.listdir("/sys/class/net")),
        "groups": groups,
        "processes": list_processes(run),
        "files": sorted(str(path) for path in run.rglob("*")) if run.exists() else [],
        "netns": sorted(os.listdir("/run/netns")) if Path("/run/netns").is_dir() else None,
    }


def list_processes(run: Path) -> list[str]:
    """Command lines of living processes that belong to a lab under `run`, by environment or by arguments."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
            environment = (folder / "environ").read_bytes().split(b"\0")
            zombie = re.search(r"\) [ZX] ", (folder / "stat").read_text())
        except OSError:
            continue
        mark = os.fsencode(f"PALISADE_LAB={run}/")
        mine = int(folder.name) == os.getpid()
        if not zombie and not mine and (any(item.startswith(mark) for item in environment)):
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return sorted(found)
