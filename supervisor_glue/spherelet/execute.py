# SPDX-License-Identifier: Apache-2.0
"""Further commands in a container that runs: for probes, and for `kubectl exec`."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from overlay import linux
from overlay.pod import importing
from supervisor_glue.spherelet.records import ContainerState
from supervisor_glue.spherelet.runtime import PodRuntime, container_process

MOST_TOLD: Final = 10 * 1024
"""Bytes of a probe's output that are looked at."""
_PATIENCE: Final = 10.0
_PAUSE: Final = 0.01


class NotRunningError(OSError):
    """The container does not run."""


def join_command(
    runtime: PodRuntime, name: str, state: ContainerState, command: Sequence[str], *, terminal: bool = False
) -> list[str]:
    """The command line that runs a command in a container. Raises NotRunningError."""
    process = container_process(state.process) if state.process is not None and state.running else None
    if process is None or not command:
        raise NotRunningError(f"container {name} is not running")
    spec = runtime.container(name).file(state.starts, "json")
    program = [sys.executable, "-S", "-m", "overlay.container", str(spec), "--join", str(process.pid)]
    return [*program, *(["--terminal"] if terminal else []), *command]


async def join_wait(state: ContainerState) -> None:
    """Until a container that was started just now has become its command: before, it has not its own files yet."""
    end = time.monotonic() + _PATIENCE
    while state.process is not None and linux.process_lives(state.process) and time.monotonic() < end:
        process = container_process(state.process)
        if process is not None and not _is_becoming(process.pid):
            return
        await asyncio.sleep(_PAUSE)


def _is_becoming(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    own = (*words[3:4], *words[8:9])  # or those of WAITER, or of the console, that begins it
    return b"overlay.container" in own or b"overlay.console" in own


def join_environment() -> dict[str, str]:
    """Of the program that enters the container: the command's own is the container's."""
    return importing({"PATH": os.environ.get("PATH", os.defpath)})


async def command_run(
    runtime: PodRuntime, name: str, state: ContainerState, command: Sequence[str]
) -> tuple[int, bytes]:
    """Run it to its end: its exit code, and the beginning of what it said. Raises NotRunningError, OSError. Cancelled,
    it is killed."""
    await join_wait(state)
    process = await asyncio.create_subprocess_exec(
        *join_command(runtime, name, state, command),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=join_environment(),
        start_new_session=True,
    )
    assert process.stdout is not None
    said = bytearray()
    try:
        while chunk := await process.stdout.read(65536):
            said += chunk[: max(0, MOST_TOLD - len(said))]
        return await process.wait(), bytes(said)
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
