# SPDX-License-Identifier: Apache-2.0
"""A disk that loses power: what SQLite has not asked to be synced is not there afterwards, or is there in part.

Below SQLite, as a VFS of apsw's (https://rogerbinns.github.io/apsw/vfs.html). Files are written as ever, so that
whoever is running sees them; beside them is kept what a disk would have kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, Final

import apsw

_SECTOR: Final = 512  # what a disk writes whole


@dataclass(slots=True)
class _Image:
    """A file: what is kept, and what was done since; `is_there`: its name is kept in its directory; `is_gone`: it was
    taken out of that since."""

    kept: bytearray = field(default_factory=bytearray)
    since: list[tuple[int, bytes | None]] = field(default_factory=list)  # offset and data; None: cut off there
    is_there: bool = False
    is_gone: bool = False

    def sync(self) -> None:
        for offset, data in self.since:
            _do(self.kept, offset, data)
        self.since.clear()

    def after(self, random: Random, *, in_part: bool) -> bytes:
        """What is found after the cut. `in_part`: of what was not synced any sectors are there."""
        found = bytearray(self.kept)
        if in_part:
            for offset, data in self.since:
                if data is None:
                    if random.random() < 0.5:
                        _do(found, offset, None)
                    continue
                for start in range(0, len(data), _SECTOR):
                    if random.random() < 0.5:
                        _do(found, offset + start, data[start : start + _SECTOR])
        return bytes(found)


def _do(image: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del image[offset:]
        return
    if len(image) < offset:
        image += bytes(offset - len(image))
    image[offset : offset + len(data)] = data


@dataclass(frozen=True, slots=True)
class Cut:
    """Power was lost here: the files by name, and what `note` said."""

    files: dict[str, bytes]
    note: Any

    def write(self, folder: Path) -> None:
        folder.mkdir()
        for name, content in self.files.items():
            (folder / name).write_bytes(content)


class Disk:
    """Counts what SQLite does, and keeps what would be left at some of it. `note`: asked at each cut."""

    def __init__(self, random: Random, note: Callable[[], Any], *, one_in: int) -> None:
        self._random, self._note, self._one_in = random, note, one_in
        self._images: dict[str, _Image] = {}
        self._name = f"power-{id(self)}"
        self._vfs = _Vfs(self._name, self)
        self.cuts: list[Cut] = []

    def connection(self, path: Path, synchronous: str) -> Connection:
        """As sqlite_file.py makes one, above this disk."""
        made = Connection(apsw.Connection(str(path), vfs=self._name), synchronous)
        for name, value in (("journal_mode", "WAL"), ("synchronous", ""), ("wal_autocheckpoint", 20)):
            made.execute(f"PRAGMA {name} = {value}")
        return made

    def open(self, path: str) -> _Image:
        """A file that is there, or new."""
        name = Path(path).name
        if name in self._images and self._images[name].is_gone:
            self.directory_sync()
        return self._images.setdefault(name, _Image())

    def sync(self, image: _Image) -> None:
        """SQLite syncs the directory together with a new journal's first sync (os_unix.c, UNIXFILE_DIRSYNC)."""
        image.sync()
        if not image.is_there:
            self.directory_sync()

    def delete(self, path: str, *, is_synced: bool) -> None:
        self._images[Path(path).name].is_gone = True
        if is_synced:
            self.directory_sync()

    def directory_sync(self) -> None:
        """Which files there are is kept."""
        self._images = {name: image for name, image in self._images.items() if not image.is_gone}
        for image in self._images.values():
            image.is_there = True

    def step(self) -> None:
        """Before something is done: perhaps power is lost now."""
        if self._random.randrange(self._one_in):
            return
        in_part = self._random.random() < 0.5
        files = {
            name: image.after(self._random, in_part=in_part) for name, image in self._images.items() if image.is_there
        }
        self.cuts.append(Cut(files, self._note()))


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: Disk) -> None:
        super().__init__(name, "")
        self._disk = disk

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _File(name, flags, self._disk)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        self._disk.step()
        super().xDelete(filename, syncdir)
        self._disk.delete(filename, is_synced=syncdir)


class _File(apsw.VFSFile):
    def __init__(self, name: Any, flags: list[int], disk: Disk) -> None:
        super().__init__("", name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        self._disk, self._image = disk, disk.open(path or "nameless")

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.step()
        super().xWrite(data, offset)
        self._image.since.append((offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        self._disk.step()
        super().xTruncate(newsize)
        self._image.since.append((newsize, None))

    def xSync(self, flags: int) -> None:
        self._disk.step()
        self._disk.sync(self._image)
        self._disk.step()


class Connection:
    """What sqlite_file.py uses of a sqlite3.Connection, made of apsw's."""

    def __init__(self, connection: apsw.Connection, synchronous: str) -> None:
        self._connection, self._synchronous = connection, synchronous

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def execute(self, statement: str, given: Sequence[Any] = ()) -> _Rows:
        if statement.startswith("PRAGMA synchronous"):
            statement = f"PRAGMA synchronous = {self._synchronous}"
        try:
            found = self._connection.execute(statement, tuple(given)).fetchall()
        except apsw.Error as error:
            raise sqlite3.OperationalError(str(error)) from error
        return _Rows(found, self._connection.changes())

    executescript = execute

    def close(self) -> None:
        self._connection.close()


@dataclass(slots=True)
class _Rows:
    rows: list[Any]
    rowcount: int

    def fetchone(self) -> Any:
        return self.rows[0] if self.rows else None

    def fetchall(self) -> list[Any]:
        return self.rows
