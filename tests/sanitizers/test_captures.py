# SPDX-License-Identifier: Apache-2.0
"""The packet core under ASan and UBSan over the captures beside the checkout, and over mutations of them.

The program is native/tests/replay_main.c, a target of the Makefile: taps and vNICs, tunnels, sums, one and two
workers, policies changing every 97 packets. Bounded here: a sample of small captures; `make test-long`: all of them in
full, compressed ones unpacked, and more mutations of each.
"""

from __future__ import annotations

import gzip
import os
import random
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.conftest import LONG, ROOT, SHARED_DATA
from tests.support.built import built
from tests.support.capture_mutations import capture_paths, mutations

PROGRAM = ROOT / "build" / "sanitize" / "replay"
CAPTURES = 10_000 if LONG else 40
BYTES = 1 << 30 if LONG else 60_000
EACH = 12 if LONG else 2
SECONDS = 600  # of the processor, for a portion; a hang, not slowness nor a busy machine

pytestmark = [pytest.mark.needs_shared_data(), pytest.mark.needs_tool("clang"), pytest.mark.needs_tool("make")]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The replay program, made anew when a source is newer; `make test` has made it already."""
    return built(PROGRAM, ["make", "--no-print-directory", PROGRAM.relative_to(ROOT)])


def _captures(folder: Path) -> list[Path]:
    """All captures, or a sample; those compressed are unpacked into `folder`."""
    fitting = [path for path in capture_paths(SHARED_DATA) if path.stat().st_size <= BYTES]
    random.Random(5).shuffle(fitting)
    return [_plain(path, folder / str(number)) for number, path in enumerate(fitting[:CAPTURES])]


def _plain(path: Path, unpacked: Path) -> Path:
    if path.suffix != ".gz":
        return path
    unpacked.write_bytes(gzip.decompress(path.read_bytes()))
    return unpacked


def _judge(program: Path, files: Iterable[Path]) -> int:
    """Packets judged; fails on any report, crash, hang or difference that the program finds."""
    names = [str(path) for path in files]
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    limited = ["sh", "-c", f'ulimit -t {SECONDS}; exec "$@"', "sh", str(program), *names]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return int(done.stdout)


def _portions(files: list[Path], size: int = 20) -> Iterator[list[Path]]:
    for at in range(0, len(files), size):
        yield files[at : at + size]


def test_captures(program: Path, tmp_path: Path) -> None:
    """Every capture as it is."""
    captures = _captures(tmp_path)
    packets = sum(_judge(program, portion) for portion in _portions(captures))
    assert packets > 100 * len(captures)


def test_mutations(program: Path, tmp_path: Path) -> None:
    """Bit flips, cut files, lying lengths, packets doubled and out of order."""
    files = []
    for index, path in enumerate(_captures(tmp_path)):
        for name, data in mutations(path, 1, EACH):
            target = tmp_path / f"{index}-{name}"
            target.write_bytes(data)
            files.append(target)
    assert len(files) > EACH
    assert sum(_judge(program, portion) for portion in _portions(files)) > 0
