# SPDX-License-Identifier: Apache-2.0
"""Containers' logs: written line by line with times, bounded, and read as `kubectl logs` asks."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from overlay.pod_log import Keeper, LogFile, entries_of, entry_time, log_files
from supervisor_glue.spherelet.logs import LogKeeper, Wanted, log_read, tail_place
from supervisor_glue.spherelet.settings import Settings
from tests.conftest import LONG
from tests.support.patience import until

SECOND = 1_000_000_000
FIRST = 1_700_000_000 * SECOND


def read(path: Path, **wanted: object) -> bytes:
    async def work() -> bytes:
        return b"".join([data async for data in log_read(path, Wanted(**wanted), None)])  # type: ignore[arg-type]

    return asyncio.run(work())


def written(folder: Path, *pieces: bytes, most: int = 1 << 30, files: int = 5) -> Path:
    """A second between any two."""
    path = folder / "1.log"
    log = LogFile(path, most, files)
    for number, piece in enumerate(pieces):
        log.write(piece, FIRST + number * SECOND)
    log.close()
    return path


def test_lines_have_the_time_at_which_they_began(tmp_path: Path) -> None:
    path = written(tmp_path, b"one\nand a ", b"half", b" more\n\nthree\nno end")
    assert read(path) == b"one\nand a half more\n\nthree\nno end"
    shown = read(path, timestamps=True)
    times = [entry_time(FIRST + number * SECOND) for number in range(3)]
    assert shown == (
        b"%s one\n%s and a half more\n%s \n%s three\n%s no end" % (times[0], times[0], times[2], times[2], times[2])
    )
    assert times[1] == b"2023-11-14T22:13:21.000000000Z"
    assert path.read_bytes().splitlines()[0] == times[0] + b" stdout F one"
    assert read(path, since=times[2]) == b" more\n\nthree\nno end"
    assert read(path, most=5) == b"one\na" and read(path, lines=0) == b""
    assert read(path, lines=2) == b"three\nno end" and read(path, lines=100) == read(path)


PIECES = st.lists(st.text("ab\n", max_size=12), max_size=20)


@settings(max_examples=2000 if LONG else 60, deadline=None)
@given(pieces=PIECES, most=st.integers(1, 2000), lines=st.integers(0, 12))
def test_what_was_said_is_read_through_all_files(pieces: list[str], most: int, lines: int) -> None:
    """Against the text itself: wherever it was cut in pieces and into files."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), *(piece.encode() for piece in pieces if piece), most=most, files=100)
        said = "".join(pieces).encode()
        assert read(path) == said
        assert read(path, lines=lines) == b"".join(said.splitlines(keepends=True)[-lines:] if lines else [])


def test_a_log_has_a_bound_and_what_is_older_goes(tmp_path: Path) -> None:
    path = written(tmp_path, *(b"%04d\n" % number for number in range(1000)), most=1000, files=3)
    files = log_files(path)
    assert [file.name for file in files] == ["1.log.2", "1.log.1", "1.log"]
    assert all(file.stat().st_size < 1100 for file in files)
    kept = read(path).split()
    assert kept == [b"%04d" % number for number in range(1000 - len(kept), 1000)] and len(kept) > 40
    assert read(path, lines=30).split() == kept[-30:]


def test_an_entry_that_was_cut_short_is_left_out(tmp_path: Path) -> None:
    path = written(tmp_path, b"whole\n")
    with path.open("ab") as file:
        file.write(entries_of(b"cut\n", FIRST)[:20] + b"\n" + entries_of(b"next\n", FIRST))
    assert read(path) == b"whole\nnext\n" and read(path, lines=1) == b"next\n"
    with path.open("rb") as file:
        assert tail_place([file], 2)[1] == 0


def test_a_keeper_takes_what_another_has_left(tmp_path: Path) -> None:
    """Pipes are read to their end, whoever began; a pipe without a writer any more is taken away."""
    place = tmp_path / "pods" / "uid" / "containers" / "main"
    place.mkdir(parents=True)
    fifo = place / "1.fifo"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    os.write(writer, b"while nobody was there\n")
    keeper = Keeper(tmp_path, 1 << 20, 2)
    thread = threading.Thread(target=keeper.serve, daemon=True)
    thread.start()
    control = os.open(tmp_path / "logs.fifo", os.O_WRONLY)
    os.write(control, b"\n")
    until(lambda: b"nobody" in read(place / "1.log") if (place / "1.log").exists() else False, "it does not read")
    os.write(writer, b"then")
    os.close(writer)
    until(lambda: not fifo.exists(), "the pipe stays")
    assert read(place / "1.log") == b"while nobody was there\nthen"
    os.close(control)
    thread.join(60)
    assert not thread.is_alive()


def test_a_pipe_is_read_before_it_is_used(tmp_path: Path) -> None:
    """By a process that begins with the first pipe, and again after it was killed."""
    logs = LogKeeper(Settings("esx-1", tmp_path, tmp_path / "room", mark=f"PALISADE_TEST={tmp_path}"))
    place = tmp_path / "pods" / "uid" / "containers" / "main"
    place.mkdir(parents=True)
    for number in (1, 2):
        fifo = place / f"{number}.fifo"
        writer = logs.begin(fifo)
        os.write(writer, b"hello\n")
        os.close(writer)
        logs.finish(fifo)
        assert not fifo.exists() and read(place / f"{number}.log") == b"hello\n"
        assert logs._process is not None
        logs._process.kill()
        logs._process.wait()


def test_a_keeper_that_nobody_speaks_to_ends(tmp_path: Path) -> None:
    """Its Spherelet was killed in the moment between."""
    thread = threading.Thread(target=Keeper(tmp_path, 1 << 20, 2).serve, daemon=True)
    thread.start()
    thread.join(180)
    assert not thread.is_alive()
