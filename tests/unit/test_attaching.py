# SPDX-License-Identifier: Apache-2.0
"""Attaching to a container that has ended, of which its Spherelet does not know yet."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from overlay import linux
from overlay.linux import Process
from overlay.pod_log import entries_of
from supervisor_glue.spherelet.execute import NotRunningError
from supervisor_glue.spherelet.records import ContainerFolder, ContainerState
from supervisor_glue.spherelet.tunnel import TunnelEnd


@pytest.fixture
def waiter() -> Iterator[Process]:
    """A container's waiter whose command is not there."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        try:
            since = linux.process_start(process.pid)
            assert since is not None
            yield Process(process.pid, since)
        finally:
            process.kill()


async def attached(place: ContainerFolder, waiter: Process) -> tuple[dict[str, Any], bytes]:
    """What an attachment ends with, and what it hears, where the container says something late."""
    heard = bytearray()
    state = ContainerState(starts=1, process=waiter)

    async def send(_channel: int, data: bytes) -> None:
        heard.extend(data)
        state.process, state.ended = None, cast(Any, True)

    container = SimpleNamespace(name="main", state=state, spec={"name": "main"})
    runtime = SimpleNamespace(container=lambda _: place)
    worker = cast(Any, SimpleNamespace(containers={"main": container}, runtime=runtime))
    session = cast(Any, SimpleNamespace(send=send, sized=lambda _: None))
    end = TunnelEnd(cast(Any, None), cast(Any, SimpleNamespace(settings=SimpleNamespace(agent=None))))
    attaching = asyncio.create_task(end._attach(session, worker, {"container": "main", "pod": "web"}))
    await asyncio.sleep(0.05)
    with place.log(1).open("ab") as file:
        file.write(entries_of(b"late\n", time.time_ns()))
    return dict(await attaching), bytes(heard)


def test_who_has_said_something_and_ended_does_not_run(tmp_path: Path, waiter: Process) -> None:
    """Nothing of it would be heard: kubectl shows the log instead."""
    place = ContainerFolder(tmp_path, "uid/main")
    place.log(1).write_bytes(entries_of(b"early\n", time.time_ns()))
    with pytest.raises(NotRunningError, match="container main is not running"):
        asyncio.run(attached(place, waiter))


def test_who_is_heard_from_the_beginning_may_have_ended(tmp_path: Path, waiter: Process) -> None:
    """Or has not begun: either way nothing is lost."""
    place = ContainerFolder(tmp_path, "uid/main")
    place.log(1).touch()
    status, heard = asyncio.run(attached(place, waiter))
    assert status["status"] == "Success" and heard == b"late\n"
