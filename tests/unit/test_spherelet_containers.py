# SPDX-License-Identifier: Apache-2.0
"""A container of a Spherelet while several things happen to it at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dfw.logs import get_logger
from supervisor_glue.spherelet.containers import Container
from supervisor_glue.spherelet.records import ContainerFolder, ContainerState, Ended

SPEC = {"name": "main", "image": "other"}


class Worker:
    """A pod's worker, whose container ends when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.place, self.ends = ContainerFolder(folder, "uid/main"), threading.Event()
        self.runtime: Any = SimpleNamespace(
            container=lambda name: self.place,
            logs=SimpleNamespace(finish=lambda fifo: self.ends.wait(10)),
            container_ended=lambda spec, state: Ended(1, "Error", 1.0, 2.0),
        )
        self.changed = asyncio.Event()
        self.last: dict[str, Any] = {"spec": {"restartPolicy": "Never"}, "metadata": {}}
        self.log = get_logger("test")

    async def blocking(self, work: Callable[[], Any]) -> Any:
        return await asyncio.to_thread(work)

    async def event(self, pod: object, kind: str, reason: str, message: str) -> None: ...

    def grace(self, pod: object) -> float:
        return 0.0


def test_it_ends_while_its_other_image_is_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both say so in the same file: the end is not lost by it (where it was, the container never began again)."""
    worker, renamed = Worker(tmp_path), Path.rename

    def rename(self: Path, target: Path) -> Path:
        worker.ends.set()
        time.sleep(0.3)  # the other one would have written, and renamed, by now
        return renamed(self, target)

    monkeypatch.setattr(Path, "rename", rename)

    async def run() -> None:
        container = Container(SPEC, False, ContainerState(1, image="host"), worker)
        container.watch()
        container.renew(SPEC)
        assert container.watcher is not None and container.killing is not None
        await asyncio.wait_for(asyncio.gather(container.watcher, container.killing), 10)

    asyncio.run(run())
    kept = worker.place.state_read()
    assert kept.again and kept.ended is not None and kept.ended.code == 1
