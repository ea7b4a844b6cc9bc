# SPDX-License-Identifier: Apache-2.0
"""Containers' logs: who writes them is started and told here, and what `kubectl logs` asks is read."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from overlay.pod import importing
from overlay.pod_log import CONTROL, FULL, HEAD, TAG, entry_time, log_files
from supervisor_glue.api.status import Object
from supervisor_glue.spherelet.settings import Settings

FOLLOW_SECONDS: Final = 0.1
_SOON_SECONDS: Final = 0.01
"""What follows soon is looked for so soon: whoever types waits for his echo."""
_PATIENCE: Final = 20.0
_AGAIN_SECONDS: Final = 0.5
_PAUSE: Final = 0.002
_CHUNK: Final = 32 * 1024
_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z")


class LogKeeper:
    """The process that writes a host's logs (overlay/pod_log.py), as its Spherelet knows it. Called in threads."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._control = -1
        self._lock = threading.Lock()

    def begin(self, fifo: Path, owner: int = 0) -> int:
        """Make a pipe, and have it read: a descriptor to be closed once a container has it, without which it would
        count as left. Raises OSError."""
        with suppress(FileExistsError):
            os.mkfifo(fifo, 0o600)
        os.chown(fifo, owner, -1)  # so that a container may open /dev/stdout
        end, again = time.monotonic() + _PATIENCE, 0.0
        while True:
            if time.monotonic() >= again:
                self._tell(fifo)
                again = time.monotonic() + _AGAIN_SECONDS
            try:
                return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.ENXIO or time.monotonic() > end:
                    raise
            time.sleep(_PAUSE)

    def finish(self, fifo: Path, patience: float = 5.0) -> None:
        """Return when all that a container has said is written down."""
        end, again = time.monotonic() + patience, 0.0
        while fifo.exists() and time.monotonic() < end:
            if time.monotonic() >= again:
                with suppress(OSError):
                    self._tell(fifo)
                again = time.monotonic() + _AGAIN_SECONDS
            time.sleep(_PAUSE)

    def _tell(self, fifo: Path) -> None:
        """Of this pipe, and start the process where it is not there; it may not be ready yet. Raises OSError."""
        with self._lock:
            try:
                if self._control < 0:
                    place = self.settings.run / CONTROL
                    self._control = os.open(place, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                os.write(self._control, os.fsencode(fifo) + b"\n")
            except (FileNotFoundError, BrokenPipeError):
                self._start()
            except BlockingIOError:
                pass  # it has much to hear
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                self._start()

    def _start(self) -> None:
        if self._control >= 0:
            os.close(self._control)
            self._control = -1
        if self._process is not None and self._process.poll() is None:
            return  # it begins
        settings = self.settings
        name, _, value = (settings.mark or "PALISADE_SPHERELET=1").partition("=")
        command = [sys.executable, "-S", "-m", "overlay.pod_log", str(settings.run)]
        with (settings.run / "logs.err").open("ab") as told:
            self._process = subprocess.Popen(
                [*command, str(settings.log_bytes), str(settings.log_files)],
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
                env=importing({"PATH": os.environ.get("PATH", os.defpath), name: value}),
                cwd="/",
                start_new_session=True,
            )


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a log is wanted. `lines`: its last ones; `since`: a time as entries have it; `most`: bytes."""

    lines: int | None = None
    since: bytes = b""
    timestamps: bool = False
    most: int | None = None


def wanted_of(asked: Object, now: float) -> Wanted:
    """Of a question. Raises ValueError."""
    since = b""
    if asked.get("sinceTime"):
        found = _TIME.fullmatch(asked["sinceTime"])
        if found is None:
            raise ValueError(f"sinceTime: {asked['sinceTime']!r} is no time in UTC")
        since = f"{found[1]}.{found[2] or '0':0<9}Z".encode()
    elif asked.get("sinceSeconds"):
        since = entry_time(int((now - asked["sinceSeconds"]) * 1e9))
    return Wanted(asked.get("tailLines"), since, bool(asked.get("timestamps")), asked.get("limitBytes"))


async def log_read(
    path: Path, wanted: Wanted, writes: Callable[[], bool] | None, begins: Callable[[bool], None] | None = None
) -> AsyncIterator[bytes]:
    """A log's text, in pieces. `writes`: whether more may come, which is then waited for; None: not. `begins` is called
    when it is settled where it begins, with whether that is the log's own beginning: what is said from then on is read.
    Raises OSError."""
    left = 1 << 62 if wanted.most is None else wanted.most
    shown = Shown(wanted)
    async for entries in _entries(path, wanted, writes, begins):
        data = shown.text(entries)[:left]
        left -= len(data)
        if data:
            yield data
        if left <= 0:
            return


class Shown:
    """Entries as text."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self._is_within = False

    def text(self, entries: list[bytes]) -> bytes:
        """A line that was written down in parts is one again, and has the time of its first."""
        made = []
        for entry in entries:
            if self.wanted.since and entry[:30] < self.wanted.since:
                continue
            if self.wanted.timestamps and not self._is_within:
                made.append(entry[:31])
            made.append(entry[HEAD:])
            self._is_within = entry[TAG : TAG + 1] != FULL
            if not self._is_within:
                made.append(b"\n")
        return b"".join(made)


def log_end(path: Path, lines: int = 80, most: int = 2048) -> str:
    """The end of a log, as it is told of a container that failed and said nothing else."""
    try:
        files = _opened(path)
    except OSError:
        return ""
    try:
        at, place = tail_place(files, lines)
        found = b""
        for file in files[at:]:
            file.seek(place if file is files[at] else 0)
            found += file.read()[-64 * most :]
        shown = Shown(Wanted()).text([entry for entry in found.split(b"\n") if is_entry(entry)])
        return shown[-most:].decode("utf-8", "replace")
    finally:
        for file in files:
            file.close()


async def _entries(
    path: Path, wanted: Wanted, writes: Callable[[], bool] | None, begins: Callable[[bool], None] | None
) -> AsyncIterator[list[bytes]]:
    """Entries without their line ends, through all files of a log, also while they get other names."""
    files = _opened(path)
    at = place = 0
    try:
        if wanted.lines is not None:
            at, place = await asyncio.to_thread(tail_place, files, wanted.lines)
            for file in files[:at]:
                file.close()
            files = files[at:]
            for file in files:
                file.seek(place if file is files[0] else 0)
        if begins is not None:
            begins(at == place == 0)
        rest, pause = b"", FOLLOW_SECONDS
        while True:
            may_write = writes is not None and writes()
            chunk = files[0].read(_CHUNK)
            if chunk:
                pause = _SOON_SECONDS
                *whole, rest = (rest + chunk).split(b"\n")
                yield [entry for entry in whole if is_entry(entry)]
                continue
            if len(files) == 1:
                files += _opened_next(path, files[0])
            if len(files) > 1:
                files.pop(0).close()
                rest = b""
            elif may_write:
                await asyncio.sleep(pause)
                pause = min(pause * 1.2, FOLLOW_SECONDS)
            else:
                return
    finally:
        for file in files:
            file.close()


def _opened(path: Path) -> list[BinaryIO]:
    """All files of a log, the oldest first. Opened the other way round: none is left out that gets another name
    meanwhile. Raises OSError."""
    found: list[BinaryIO] = []
    for file in reversed(log_files(path)):
        with suppress(FileNotFoundError):
            opened = file.open("rb")
            if found and os.path.sameopenfile(opened.fileno(), found[0].fileno()):
                opened.close()
            else:
                found.insert(0, opened)
    if not found:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    return found


def _opened_next(path: Path, file: BinaryIO) -> list[BinaryIO]:
    """The files after this one; where it is not there any more, all."""
    files = _opened(path)
    for at, known in enumerate(files):
        if os.path.sameopenfile(known.fileno(), file.fileno()):
            for older in files[: at + 1]:
                older.close()
            return files[at + 1 :]
    return files


def is_entry(entry: bytes) -> bool:
    """What a full disk or the machine's end has cut short is none."""
    return len(entry) >= HEAD and entry[TAG - 8 : TAG] == b" stdout " and entry[HEAD - 1 : HEAD] == b" "


def tail_place(files: Sequence[BinaryIO], lines: int) -> tuple[int, int]:
    """Where the last lines of a log begin: in which of its files, and where in that."""
    if lines == 0:
        return len(files) - 1, files[-1].seek(0, os.SEEK_END)
    seen, is_last = 0, True
    for at in reversed(range(len(files))):
        for end, is_full in _ends_backwards(files[at]):
            if is_full and seen == lines:
                return at, end
            seen += is_full or is_last  # the last line may have no end yet
            is_last = False
    return 0, 0


def _ends_backwards(file: BinaryIO) -> Iterator[tuple[int, bool]]:
    """Of the entries of a file, the last one first: where each ends, and whether it ends its line."""
    place = file.seek(0, os.SEEK_END)
    rest = b""
    while place > 0:
        step = min(_CHUNK, place)
        place -= step
        file.seek(place)
        data = file.read(step) + rest
        first = data.find(b"\n") + 1 if place else 0  # before it the beginning is missing yet
        end = data.rfind(b"\n") + 1
        while end > first:
            begin = data.rfind(b"\n", first, end - 1) + 1 or first
            entry = data[begin : end - 1]
            if is_entry(entry):
                yield place + end, entry[TAG : TAG + 1] == FULL
            end = begin
        rest = data[:first] or data
