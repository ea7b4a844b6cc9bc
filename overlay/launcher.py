# SPDX-License-Identifier: Apache-2.0
"""A launcher (overlay/launch.py) that stays: who starts many processes one by one is spared a Python's start for each,
27 ms of a processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

from overlay.launch import SERVE, Launch
from overlay.linux import Process
from overlay.pod import Started, importing


class Launcher:
    """Begun by the first launch; it ends with this process, however that ends. Threads may share it. `mark`: NAME=VALUE
    in its environment."""

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._lock = threading.Lock()
        self._running: subprocess.Popen[str] | None = None

    def launch(self, launch: Launch) -> Started:
        """Start a process that is nobody's child. Raises OSError: whether it was started is not known."""
        with self._lock:
            running = self._running or self._begin()
            assert running.stdin is not None and running.stdout is not None
            try:
                running.stdin.write(json.dumps(launch) + "\n")
                running.stdin.flush()
                line = running.stdout.readline()
            except OSError:
                self._end()
                raise
            if not line:
                self._end()
                raise ChildProcessError("the launcher has ended")
        told = json.loads(line)
        process = Process(told["pid"], told["start"]) if "pid" in told else None
        return Started(launch["key"], process, told.get("error", ""))

    def close(self) -> None:
        """What it has started goes on."""
        with self._lock:
            self._end()

    def _begin(self) -> subprocess.Popen[str]:
        name, _, value = self._mark.partition("=")
        self._running = subprocess.Popen(
            [sys.executable, "-S", "-m", "overlay.launch", SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
            env={**importing(os.environ), name: value},
            start_new_session=True,
        )
        return self._running

    def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.kill()
            running.wait()
            for file in (running.stdin, running.stdout):
                if file is not None:
                    try:
                        file.close()
                    except OSError:
                        pass  # what was not said any more
