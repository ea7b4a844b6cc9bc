# SPDX-License-Identifier: Apache-2.0
"""Control groups for pods, where the machine lets us make them: v2, v1 or none.

Nothing outside our own groups is changed: a controller that the root does not hand down is not switched on, and the
limit then cannot be set, which the status says.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

_CPU_PERIOD: Final = 100_000  # microseconds


class Limits(NamedTuple):
    """What a pod may use at most; None: as much as there is. `memory`: bytes; `cpu`: cores."""

    memory: int | None = None
    cpu: float | None = None

    @property
    def controllers(self) -> tuple[str, ...]:
        """The controllers that enforce them."""
        return tuple(name for name, value in (("memory", self.memory), ("cpu", self.cpu)) if value is not None)


NO_LIMITS: Final = Limits()


@dataclass(frozen=True, slots=True)
class Hierarchies:
    """Where groups can be made: `unified` (v2), and v1 hierarchies by controller."""

    unified: Path | None = None
    controllers: frozenset[str] = frozenset()
    legacy: Mapping[str, Path] = field(default_factory=dict)


def read_hierarchies(mounts: Path = Path("/proc/self/mountinfo")) -> Hierarchies:
    """Look at what is mounted (proc(5), mountinfo) and may be written to."""
    unified: Path | None = None
    legacy: dict[str, Path] = {}
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        place = Path(re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), before.split()[4]))
        kind, _, options = after.split(" ", 2)
        if kind not in ("cgroup", "cgroup2") or not os.access(place, os.W_OK):
            continue
        if kind == "cgroup2":
            unified = unified or place
        else:
            legacy.update((name, place) for name in options.split(",") if name in ("memory", "cpu"))
    handed_down = ""
    if unified is not None and (unified / "cgroup.subtree_control").is_file():
        handed_down = (unified / "cgroup.subtree_control").read_text(encoding="ascii")
    return Hierarchies(unified, frozenset(handed_down.split()), legacy)


def plan_groups(name: str, limits: Limits, found: Hierarchies) -> tuple[list[Path], list[str]]:
    """The groups to make for a pod, and the limits that cannot be set here.

    A pod without limits has none: to enter one costs 20 ms, and a pod's processes end with its pid namespace.
    """
    groups = []
    missing = []
    for controller in limits.controllers:
        if found.unified is not None and controller in found.controllers:
            groups.append(found.unified / name)
        elif controller in found.legacy:
            groups.append(found.legacy[controller] / name)
        else:
            missing.append(controller)
    return list(dict.fromkeys(groups)), missing


def apply_groups(groups: list[Path], limits: Limits) -> list[Path]:
    """Make groups and set limits. Returns those that could be made."""
    made = []
    for group in groups:
        try:
            group.mkdir(exist_ok=True)
        except OSError:
            continue
        made.append(group)
        for file, value in _settings(limits):
            if (group / file).exists():
                (group / file).write_text(value, encoding="ascii")
    return made


def _settings(limits: Limits) -> list[tuple[str, str]]:
    """Files and their contents: v2's and v1's; a group has one or the other."""
    found = []
    if limits.memory is not None:
        found += [("memory.max", str(limits.memory)), ("memory.limit_in_bytes", str(limits.memory))]
    if limits.cpu is not None:
        quota = max(1000, round(limits.cpu * _CPU_PERIOD))
        found += [("cpu.max", f"{quota} {_CPU_PERIOD}"), ("cpu.cfs_quota_us", str(quota))]
    return found


def killed_for_memory(groups: list[Path]) -> bool:
    """Whether the kernel has ended a process of these groups because they had used up their memory."""
    for group in groups:
        for file in ("memory.events", "memory.oom_control"):  # v2, v1
            try:
                text = (group / file).read_text(encoding="ascii")
            except OSError:
                continue
            if any(line.startswith("oom_kill ") and line != "oom_kill 0" for line in text.splitlines()):
                return True
    return False


def apply_groups_end(groups: list[Path], patience: float = 2.0) -> list[Path]:
    """Remove groups once their processes have ended (at most `patience` seconds). Returns those that remain."""
    deadline = time.monotonic() + patience
    remaining = groups
    while remaining:
        remaining = [group for group in remaining if not _removed(group)]
        if not remaining or time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return remaining


def _removed(group: Path) -> bool:
    try:
        group.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def groups_named(prefix: str, found: Hierarchies) -> list[Path]:
    """Groups whose names begin so: of a lab whose record was lost."""
    roots = dict.fromkeys([*([found.unified] if found.unified else []), *found.legacy.values()])
    return [path for root in roots for path in root.glob(f"{prefix}*") if path.is_dir()]
