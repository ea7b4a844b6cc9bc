# SPDX-License-Identifier: Apache-2.0
"""The process that takes a change back, unless it is confirmed in time: started before anything is changed, and
nobody's child, so that it does its work whatever becomes of the command that made the change."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from dfw.logs import get_logger
from overlay.lab_record import PendingRecord
from overlay.linux import Process, boot_id, process_lives, process_self, process_signal, process_start

PENDING: Final = "pending.json"  # in the state directory of a host that is no lab's
_TRIES: Final = 5
_AGAIN_SECONDS: Final = 2.0


class TimerError(RuntimeError):
    """The timer does not start: a sentence."""


def boot_seconds() -> float:
    """Seconds since the machine was started, sleep included: what a deadline counts by."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def pending_read(folder: Path) -> PendingRecord | None:
    """The change of a host, whose state directory this is, that waits to be confirmed."""
    try:
        return msgspec.json.decode((folder / PENDING).read_bytes(), type=PendingRecord)
    except (OSError, msgspec.DecodeError):
        return None


def timer_begin(
    program: Sequence[str], base: int, seconds: float, log: Path, environment: Mapping[str, str]
) -> PendingRecord:
    """Start the process that outlives this one: Python with these arguments and the deadline. Raises TimerError."""
    deadline = boot_seconds() + seconds
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, *program, str(deadline)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            env=environment,
            start_new_session=True,  # Ctrl-C is not for it
            cwd="/",
        )
    assert process.stdout is not None
    with process.stdout:
        ready = process.stdout.readline()
    start = process_start(process.pid)
    if not ready or start is None:
        raise TimerError(f"the timer that would take the change back does not start: see {log}")
    return PendingRecord(base, deadline, Process(process.pid, start), boot_id())


def timer_lives(pending: PendingRecord) -> bool:
    """Whether its process sees to it still."""
    return pending.boot == boot_id() and process_lives(pending.timer)


def timer_adopt(pending: PendingRecord) -> PendingRecord:
    """This process sees to it from now on; at once where the machine was started anew: that may be its doing."""
    deadline = pending.deadline if pending.boot == boot_id() else boot_seconds()
    return PendingRecord(pending.base, deadline, process_self(), boot_id())


def timer_end(pending: PendingRecord) -> None:
    """It is not needed any more; nothing where this is its own process."""
    if pending.timer.pid != os.getpid():
        with contextlib.suppress(OSError):
            process_signal(pending.timer, signal.SIGTERM)


def timer_run(expire: Callable[[Process], float], deadline: float, what: str) -> int:
    """What that process does: wait, then `expire`, which returns how many seconds it has to wait still. Returns an exit
    status."""
    me = process_self()
    print("ready", flush=True)
    os.dup2(2, 1)  # whoever started this reads no further
    left, tries = deadline - boot_seconds(), 0
    while tries < _TRIES:
        time.sleep(max(left, 0))
        try:
            left = expire(me)
        except Exception as error:
            tries, left = tries + 1, _AGAIN_SECONDS
            get_logger("timer").error("not gone back", of=what, error=str(error), tries=tries)
            continue
        if left <= 0:
            return 0
    return 1
