# SPDX-License-Identifier: Apache-2.0
"""Further commands in a container that runs: for probes, and for `kubectl exec`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from overlay.pod import importing
from supervisor_glue.spherelet.records import ContainerState
from supervisor_glue.spherelet.runtime import PodRuntime, container_process

MOST_TOLD: Final = 10 * 1024
"""Bytes of a probe's output that are looked at."""


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


def join_environment() -> dict[str, str]:
    """Of the program that enters the container: the command's own is the container's."""
    return importing({"PATH": os.environ.get("PATH", os.defpath)})


async def command_run(
    runtime: PodRuntime, name: str, state: ContainerState, command: Sequence[str]
) -> tuple[int, bytes]:
    """Run it to its end: its exit code, and the beginning of what it said. Raises NotRunningError, OSError. Cancelled,
    it is killed."""
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
