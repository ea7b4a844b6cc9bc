# SPDX-License-Identifier: Apache-2.0
"""What a lab could leave behind on a machine: mounts, links, names of namespaces, processes, files."""

from __future__ import annotations

import os
import re
from pathlib import Path


def list_leftovers(run: Path) -> dict[str, list[str]]:
    """All of it; equal before and after where nothing is left. `run`: the directory of labs.

    Only what can be a lab's: other tests make links and mounts meanwhile.
    """
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    netns = os.listdir("/run/netns") if Path("/run/netns").is_dir() else []
    return {
        "mounts": [line for line in mounts if str(run) in line],
        "links": [name for name in os.listdir("/sys/class/net") if re.fullmatch("p[0-9a-f]{14}|ul0|tep0|up0", name)],
        "netns": [name for name in netns if re.match("host-|pod-|sr-|underlay|outside", name)],
        "processes": list_processes(run),
        "files": sorted(str(path) for path in run.rglob("*")) if run.exists() else [],
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
