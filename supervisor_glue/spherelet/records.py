# SPDX-License-Identifier: Apache-2.0
"""What outlives a Spherelet: a folder a pod, with its sandbox, its containers, their logs and how they ended.

    pods/UID/pod.json              which pod it is
             sandbox.json          the process that holds its namespaces
             volumes/NAME/
             containers/NAME/state.json   of the last start: number, process
                             N.fifo  N.log  N.log.1 …  N.exit  N.error  N.message  N.json (how it was started)
                             N.console (where input goes: overlay/console.py)

A record is written before what it tells of is done, so that a process without a record can only be one whose start was
cut short; those are found by their mark.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from overlay import linux
from overlay.linux import Process

FORMAT: Final = 1
UNKNOWN_CODE: Final = 137


def record_write(path: Path, content: dict[str, Any]) -> None:
    """All of it or nothing. Raises OSError."""
    partial = path.with_name(path.name + ".new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump({"format": FORMAT, **content}, file)
    partial.rename(path)


def record_read(path: Path) -> dict[str, Any] | None:
    """None where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def process_of(value: Any) -> Process | None:
    return Process(*value) if isinstance(value, list) and len(value) == 2 else None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a start of a container ended; times in seconds since the epoch."""

    code: int
    reason: str
    started: float
    finished: float
    message: str = ""


@dataclass(slots=True)
class ContainerState:
    """`starts`: how often it was started; `failures`: restarts in a row, for the back-off; `last`: how the start before
    the current one ended; `ended`: how the current one did. `image`: what the current one was started with (None: a
    Spherelet did that which did not write it down); `again`: it has another now, and is to be started with it."""

    starts: int = 0
    failures: int = 0
    process: Process | None = None
    started: float = 0.0
    ended: Ended | None = None
    last: Ended | None = None
    image: str | None = None
    again: bool = False

    @property
    def restarts(self) -> int:
        return max(0, self.starts - 1)

    @property
    def running(self) -> bool:
        return self.starts > 0 and self.ended is None


class ContainerFolder:
    """The files of a container."""

    def __init__(self, folder: Path, mark: str) -> None:
        """`mark`: VALUE of `CONTAINER_MARK` but for the number of the start."""
        self.folder, self.mark = folder, mark

    def file(self, number: int, suffix: str) -> Path:
        return self.folder / f"{number}.{suffix}"

    def log(self, number: int) -> Path:
        return self.file(number, "log")

    def console(self, number: int) -> Path:
        return self.file(number, "console")

    def mark_of(self, number: int) -> str:
        return f"PALISADE_CONTAINER={self.mark}/{number}"

    def state_read(self) -> ContainerState:
        """As recorded; a process whose start was cut short is looked for."""
        found = record_read(self.folder / "state.json")
        if found is None:
            return ContainerState()
        state = ContainerState(
            found["starts"],
            found["failures"],
            process_of(found["process"]),
            found["started"],
            Ended(**found["ended"]) if found["ended"] else None,
            Ended(**found["last"]) if found["last"] else None,
            found.get("image"),
            found.get("again", False),
        )
        if state.running and state.process is None:
            marked = list(linux.processes_marked(self.mark_of(state.starts)))
            state.process = min(marked, key=lambda process: (process.start, process.pid), default=None)
        return state

    def state_write(self, state: ContainerState) -> None:
        """Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        record_write(self.folder / "state.json", asdict(state) | {"process": state.process and list(state.process)})

    def ended_read(self, state: ContainerState, now: float) -> Ended:
        """How the current start ended: its process is not there any more."""
        path = self.file(state.starts, "exit")
        message = _text(self.file(state.starts, "error"))
        try:
            code, finished = int(path.read_text(encoding="ascii")), path.stat().st_mtime
        except (OSError, ValueError):  # it was killed together with the shell that waited for it
            told = "The container could not be located when the pod was looked at"
            return Ended(UNKNOWN_CODE, "ContainerStatusUnknown", state.started, now, told)
        if message:
            return Ended(code, "StartError", state.started, finished, message)
        return Ended(code, "Error" if code else "Completed", state.started, finished)

    def message_read(self, number: int) -> str:
        """What a container wanted to be known of its end, as far as Kubernetes keeps it."""
        return _text(self.file(number, "message"))

    def forget(self, before: int) -> None:
        """Remove the files of starts before this one."""
        for path in self.folder.glob("[0-9]*.*"):
            number = path.name.partition(".")[0]
            if number.isdigit() and int(number) < before:
                path.unlink(missing_ok=True)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:4096]
    except OSError:
        return ""
