# SPDX-License-Identifier: Apache-2.0
"""`python -m overlay.pod_log RUN BYTES FILES`: writes down what a host's containers say, line by line with the time.

A container's output is a named pipe, `N.fifo`, that this reads; beside it is `N.log`, in the format of the Container
Runtime Interface: `2026-11-26T22:03:01.123456789Z stdout F text`, or P where the line was not whole when it was read.
Output and errors go into one pipe, so that their order is kept; the word `stdout` is there for those who parse it.
At BYTES a file becomes `N.log.1`, that `N.log.2`, and so on; FILES are kept in all.

One process a host, beside the Spherelet, so that containers are not held up while that is away; killed, the next one
goes on with what the pipes hold. It is told of a new pipe by a line in `RUN/logs.fifo`, and ends when neither a
container nor a Spherelet is there. Standard library only.
Source: k8s.io/kubernetes/pkg/kubelet/kuberuntime/logs and kubelet's containerLogMaxSize and containerLogMaxFiles.
"""

from __future__ import annotations

import fcntl
import os
import select
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

CONTROL: Final = "logs.fifo"
FULL, PART = b"F", b"P"
HEAD: Final = 40
"""Bytes before the text: the time (30), ` stdout `, F or P, and a space."""
TAG: Final = 38
_CHUNK: Final = 65536
_LOOK_SECONDS: Final = 5.0


def entry_time(nanoseconds: int) -> bytes:
    """RFC 3339 in UTC with nine digits: as text they sort as times do."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return b"%s.%09dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode(), rest)


def entries_of(data: bytes, nanoseconds: int) -> bytes:
    """What was read at a time, as it is written down."""
    head = entry_time(nanoseconds) + b" stdout "
    whole, _, rest = data.rpartition(b"\n")
    made = [b"%sF %s\n" % (head, line) for line in whole.split(b"\n")] if len(rest) < len(data) else []
    if rest:
        made.append(b"%sP %s\n" % (head, rest))
    return b"".join(made)


def log_files(path: Path) -> list[Path]:
    """A log's files that are there, the oldest first; the last is the one that is written."""
    older = [file for file in path.parent.glob(f"{path.name}.*") if file.name.removeprefix(f"{path.name}.").isdigit()]
    return [*sorted(older, key=lambda file: -int(file.suffix[1:])), path]


class LogFile:
    """The log of one start of a container. What cannot be written (a full disk) is lost: a container is not held up."""

    def __init__(self, path: Path, most_bytes: int, most_files: int) -> None:
        """Raises OSError."""
        self.path, self.most_bytes, self.most_files = path, most_bytes, most_files
        self._open()

    def _open(self) -> None:
        self.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        self.size = os.fstat(self.descriptor).st_size

    def write(self, data: bytes, nanoseconds: int) -> None:
        made = entries_of(data, nanoseconds)
        with suppress(OSError):
            written = os.write(self.descriptor, made)
            self.size += written
            if written < len(made):  # the disk is full: half an entry is none
                self.size -= written
                os.ftruncate(self.descriptor, self.size)
            if self.size >= self.most_bytes:
                self._rotate()

    def _rotate(self) -> None:
        for number in range(self.most_files - 1, 0, -1):
            before = self.path.with_name(f"{self.path.name}.{number - 1}") if number > 1 else self.path
            with suppress(FileNotFoundError):
                before.rename(self.path.with_name(f"{self.path.name}.{number}"))
        if self.most_files < 2:
            self.path.unlink()
        os.close(self.descriptor)
        self._open()

    def close(self) -> None:
        os.close(self.descriptor)


class Keeper:
    """All of a host's."""

    def __init__(self, run: Path, most_bytes: int, most_files: int) -> None:
        """Raises OSError."""
        self.run, self.most_bytes, self.most_files = run, most_bytes, most_files
        self._poll = select.epoll()
        self._logs: dict[int, tuple[Path, LogFile]] = {}
        self._told, self._is_attended, self._has_heard = b"", True, False
        with suppress(FileExistsError):
            os.mkfifo(run / CONTROL, 0o600)
        self._control = self._control_open()
        for fifo in run.glob("pods/*/containers/*/*.fifo"):
            self.follow(fifo)

    def _control_open(self) -> int:
        opened = os.open(self.run / CONTROL, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll.register(opened, select.EPOLLIN)
        return opened

    def follow(self, fifo: Path) -> None:
        """Read this pipe until nobody writes to it; nothing where it is read already or is not there."""
        if any(known == fifo for known, _ in self._logs.values()):
            return
        with suppress(OSError):
            opened = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            self._logs[opened] = (fifo, LogFile(fifo.with_suffix(".log"), self.most_bytes, self.most_files))
            self._poll.register(opened, select.EPOLLIN)

    def serve(self) -> None:
        """Until there is nobody to serve."""
        while self._logs or self._is_attended:
            ready = self._poll.poll(_LOOK_SECONDS)
            if not ready and not self._has_heard:
                self._is_attended = False  # who began this has ended before he said a word
            for descriptor in [item for item, _ in ready if item in self._logs]:
                self._read(descriptor)
            for descriptor in [item for item in self._logs if not os.fstat(item).st_nlink]:
                self._read(descriptor)
                self._end(descriptor)  # its pod has gone
            if any(item == self._control for item, _ in ready):
                self._hear()  # last: what is opened now may have the number of what was closed

    def _hear(self) -> None:
        """Of new pipes, or that the Spherelet has gone."""
        data = os.read(self._control, _CHUNK)
        self._is_attended, self._has_heard = bool(data), True
        if not data:
            self._poll.unregister(self._control)  # a hang-up would be told again and again
            os.close(self._control)
            self._control = self._control_open()
        *lines, self._told = (self._told + data).split(b"\n")
        for line in filter(None, lines):
            self.follow(Path(os.fsdecode(line)))

    def _read(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, _CHUNK)
        except BlockingIOError:
            return
        if data:
            self._logs[descriptor][1].write(data, time.time_ns())
        else:
            self._end(descriptor)

    def _end(self, descriptor: int) -> None:
        found = self._logs.pop(descriptor, None)
        if found is not None:
            self._poll.unregister(descriptor)
            os.close(descriptor)
            found[1].close()
            found[0].unlink(missing_ok=True)  # who waits for the whole log sees it by that


def main(arguments: list[str]) -> int:
    run = Path(arguments[0])
    lock = os.open(run / "logs.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another one is there
    Keeper(run, int(arguments[1]), int(arguments[2])).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
