# SPDX-License-Identifier: Apache-2.0
"""A launcher that stays: what it starts is nobody's, and outlives it; one that was killed is begun anew."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from overlay.launch import Launch
from overlay.launcher import Launcher
from overlay.linux import Process, process_lives
from overlay.pod import apply_end

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns]


class Launched:
    """Processes of a test."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.launcher = folder, Launcher(f"PALISADE_TEST={folder}")
        self.processes: list[Process] = []

    def start(self, key: str, *command: str) -> Process:
        launch = Launch(
            key=key,
            netns="/proc/self/ns/net",
            hostname=key,
            hidden=[],
            command=list(command),
            environment={"PATH": os.defpath},
            log=str(self.folder / f"{key}.log"),
            cgroups=[],
        )
        started = self.launcher.launch(launch)
        assert started.key == key
        if started.process is None:
            raise LookupError(started.error)
        self.processes.append(started.process)
        return started.process


@pytest.fixture
def launched(tmp_path: Path) -> Iterator[Launched]:
    found = Launched(tmp_path)
    try:
        yield found
    finally:
        found.launcher.close()
        apply_end(found.processes, 0.0)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[1])


def test_many_are_started_each_on_its_own(launched: Launched) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda number: launched.start(f"p{number}", "sleep", "60"), range(8)))
    (launcher,) = {process.pid for process in (launched.launcher._running,) if process is not None}
    assert len({os.readlink(f"/proc/{process.pid}/ns/pid") for process in found}) == 8
    assert all(parent(process.pid) not in (launcher, os.getpid()) for process in found)
    with pytest.raises(LookupError, match=r"^no-such-command: "):
        launched.start("none", "no-such-command")
    assert process_lives(launched.start("after", "sleep", "60"))
    launched.launcher.close()
    assert not Path(f"/proc/{launcher}").exists()
    assert all(map(process_lives, found))


def test_one_that_was_killed_is_begun_anew(launched: Launched) -> None:
    before = launched.start("before", "sleep", "60")
    assert launched.launcher._running is not None
    os.kill(launched.launcher._running.pid, signal.SIGKILL)
    with pytest.raises(OSError):
        launched.start("lost", "sleep", "60")
    assert process_lives(launched.start("again", "sleep", "60")) and process_lives(before)
