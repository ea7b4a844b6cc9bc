# SPDX-License-Identifier: Apache-2.0
"""What there is of a lab: the policy and inventory that hold, and where its pods are. Of its files, or, where it has a
Supervisor, of that one's API (whose package, above this one, says so by its entry point)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from dfw.model import PolicySet
from dfw.moment import world_at
from overlay.lab_inputs import inputs_kept
from overlay.lab_plan import world_moved
from overlay.lab_record import LabPaths, LabRecord
from overlay.linux import Process, process_lives
from overlay.pod import pod_exec_command

SUPERVISOR = "supervisor"
"""The folder of a lab that has one."""


class PodPlace(NamedTuple):
    """A pod that was started. `process`: its first, None where it has ended. `command`: the command line that runs
    another in it; raises ValueError with a sentence where none can be run."""

    host: str
    netns: Path
    process: Process | None
    command: Callable[[Sequence[str]], list[str]]
    unlimited: tuple[str, ...] = ()


class LabView(NamedTuple):
    """`wanted`: the revision that each host was told. `supervisor`: how its API is reached; None: the lab has none.
    `wait`: until an object of it (None: all) is in force, for so many seconds; those that are not, and why, and None
    where it has no such object."""

    world: PolicySet
    pods: Mapping[str, PodPlace]
    wanted: Mapping[str, int]
    supervisor: Mapping[str, Any] | None = None
    wait: Callable[[str | None, float], Mapping[str, str] | None] | None = None


def has_supervisor(paths: LabPaths) -> bool:
    """What runs there is then what its API says, and not what the lab's files say."""
    return (paths.folder / SUPERVISOR).is_dir()


def lab_view(paths: LabPaths, record: LabRecord) -> LabView:
    """Raises PolicyError, OSError; with a Supervisor EnvironmentLacksError where it does not answer."""
    if has_supervisor(paths):
        for point in entry_points(group="palisade.lab"):
            if point.name == "view":
                found: LabView = point.load()(paths, record)
                return found
    pods = {name: _pod_place(paths, record, name) for name in record.pods}
    world = world_moved(world_at(inputs_kept(paths, record).world, None), record.moved)
    return LabView(world, pods, dict.fromkeys(record.hosts, record.revision))


def _pod_place(paths: LabPaths, record: LabRecord, name: str) -> PodPlace:
    pod = record.pods[name]
    process = pod.process if pod.process is not None and process_lives(pod.process) else None

    def command(words: Sequence[str]) -> list[str]:
        if process is None:
            raise ValueError(f"the pod {name} has ended; `palisade lab up` with the same files starts it again")
        return pod_exec_command(process, words)

    return PodPlace(pod.host, paths.room / pod.netns, process, command, tuple(pod.unlimited))
