# SPDX-License-Identifier: Apache-2.0
"""Capture files: opening (dfw.capture), reading and writing (native/io), beside tshark and a second reader."""

from __future__ import annotations

import gzip
import importlib
import io
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard

from dfw.capture import CaptureError, open_capture
from dfw.core import ffi, lib
from tests.support.pcap import pcap_read

TSHARK_FIELDS = ("frame.number", "frame.len", "frame.cap_len", "frame.time_epoch")


def load_seeds() -> Any:
    """native/fuzz/capture_seeds.py, which is no part of a package."""
    folder = str(Path(__file__).parents[2] / "native" / "fuzz")
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("capture_seeds")
    finally:
        sys.path.remove(folder)


seeds = load_seeds()
CASES: dict[str, bytes] = seeds.cases()
PLAIN = CASES["pcap-micro-le"]
MANY = seeds.pcap([(second, second * 7, None, None, os.urandom(60) + seeds.FRAME) for second in range(5000)])


class Frame(NamedTuple):
    """What tshark shows of a frame, then the rest."""

    number: int
    wire: int
    present: int
    ts_ns: int
    link: int
    data: bytes


def read_core(view: memoryview | bytes, burst: int = 32) -> tuple[list[Frame], str | None]:
    """All frames that the core reads, and its warning. Raises ValueError where it opens nothing."""
    error = ffi.new("char[]", 256)
    with ffi.from_buffer("uint8_t[]", view) as data:
        capture = lib.pal_capture_open(data, len(view), error, 256)
        if capture == ffi.NULL:
            raise ValueError(ffi.string(error).decode())
        frames = ffi.new("pal_frame[]", burst)
        read: list[Frame] = []
        while count := lib.pal_capture_next(capture, frames, burst):
            for frame in frames[0:count]:
                content = bytes(ffi.buffer(frame.data, frame.caplen))
                read.append(Frame(frame.number, frame.wirelen, frame.caplen, frame.ts_ns, frame.linktype, content))
        warning = lib.pal_capture_warning(capture)
        text = None if warning == ffi.NULL else ffi.string(warning).decode()
        lib.pal_capture_close(capture)
    return read, text


def read_path(path: Path) -> tuple[list[Frame], str | None]:
    """The same from a file."""
    with open_capture(path) as capture:
        return read_core(capture.view)


def read_tshark(path: Path, *fields: str) -> list[list[str]]:
    """One row a frame, whatever tshark says of the end of the file."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields"]
    for name in fields:
        command += ["-e", name]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return [line.split("\t") for line in done.stdout.splitlines()]


def show(frame: Frame) -> list[str]:
    """As read_tshark(TSHARK_FIELDS)."""
    time = f"{frame.ts_ns // 10**9}.{frame.ts_ns % 10**9:09d}"
    return [str(frame.number), str(frame.wire), str(frame.present), time]


def list_captures(folder: Path) -> Iterator[Path]:
    """The captures of the shared data."""
    for path in sorted(folder.rglob("*")):
        if path.name.removesuffix(".gz").endswith((".pcap", ".pcapng", ".cap", ".trace")):
            yield path


# ---- opening -----------------------------------------------------------------------------------------------------


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_plain_file_is_mapped_in_place(tmp_path: Path) -> None:
    with open_capture(write(tmp_path / "a", PLAIN)) as capture:
        assert (bytes(capture.view), capture.size, capture.compression, capture.warning) == (
            PLAIN,
            len(PLAIN),
            "",
            None,
        )
        assert capture.view.readonly


@pytest.mark.parametrize("data", [PLAIN, MANY, MANY * 20], ids=["small", "medium", "large"])
@pytest.mark.parametrize("compression", ["gzip", "gzip-members", "zstd", "zstd-frames", "zstd-skippable"])
def test_compressed_file_is_the_same(tmp_path: Path, compression: str, data: bytes) -> None:
    half = len(data) // 2
    zstd = zstandard.ZstdCompressor(write_checksum=True)
    packed = {
        "gzip": lambda: gzip.compress(data),
        "gzip-members": lambda: (
            gzip.compress(data[:half]) + gzip.compress(b"") + gzip.compress(data[half:]) + bytes(512)
        ),
        "zstd": lambda: zstd.compress(data),
        "zstd-frames": lambda: zstd.compress(data[:half]) + zstd.compress(data[half:]),
        "zstd-skippable": lambda: b"\x53\x2a\x4d\x18\x03\0\0\0abc" + zstd.compress(data),
    }[compression]()
    with open_capture(write(tmp_path / "named-anything", packed)) as capture:
        assert capture.view == data
        assert (capture.compression, capture.warning) == (compression.split("-")[0], None)


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_cut_stream_is_read_up_to_the_cut(tmp_path: Path, compression: str) -> None:
    packed = gzip.compress(MANY) if compression == "gzip" else zstandard.ZstdCompressor().compress(MANY)
    with open_capture(write(tmp_path / "cut", packed[: len(packed) * 2 // 3])) as capture:
        assert capture.warning == f"the {compression} data is cut off after {capture.size} bytes"
        assert len(MANY) // 4 < capture.size < len(MANY)
        assert MANY.startswith(capture.view)
        frames, warning = read_core(capture.view)
    assert (
        len(frames) > 1000
        and warning is not None
        and warning.startswith(f"truncated at byte {capture_size(MANY, frames)}")
    )


def capture_size(whole: bytes, frames: list[Frame]) -> str:
    """How the sentence goes on: somewhere between the last whole frame and the one after it."""
    end = 24 + sum(16 + frame.present for frame in frames)
    assert end <= len(whole)
    return str(end)[:2]


def test_damaged_gzip_is_read_up_to_the_damage(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(MANY, compresslevel=0))  # stored blocks: a byte, length, its complement, bytes
    first = int.from_bytes(packed[11:13], "little")
    packed[10 + 5 + first + 1] ^= 0xFF
    with open_capture(write(tmp_path / "damaged", bytes(packed))) as capture:
        assert capture.view == MANY[:first]
        assert capture.warning is not None
        assert capture.warning.startswith(f"the gzip data is damaged after {first} bytes")


def test_wrong_gzip_checksum_keeps_everything(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(PLAIN))
    packed[-8] ^= 1
    with open_capture(write(tmp_path / "sum", bytes(packed))) as capture:
        assert capture.view == PLAIN
        assert capture.warning is not None and "damaged" in capture.warning


def test_damaged_zstd_is_read_up_to_the_damage(tmp_path: Path) -> None:
    packed = bytearray(zstandard.ZstdCompressor().compress(MANY))
    packed[len(packed) // 2] ^= 0xFF
    packed[len(packed) // 2 + 1 :] = bytes(len(packed) - len(packed) // 2 - 1)
    with open_capture(write(tmp_path / "damaged", bytes(packed))) as capture:
        assert capture.warning is not None and capture.warning.startswith("the zstd data is ")
        assert MANY.startswith(bytes(capture.view[: capture.size - (1 << 17)]))


def test_rubbish_after_gzip_is_left_out(tmp_path: Path) -> None:
    with open_capture(write(tmp_path / "rubbish", gzip.compress(PLAIN) + b"rubbish")) as capture:
        assert capture.view == PLAIN
        assert capture.warning is not None and "left out" in capture.warning


def zlib_bomb(size: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join([packer.compress(bytes(1 << 20)) for _ in range(size >> 20)] + [packer.flush()])


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
def test_growth_is_bounded(tmp_path: Path, compression: str) -> None:
    size = 64 << 20
    packed = zlib_bomb(size) if compression == "gzip" else zstandard.ZstdCompressor().compress(bytes(size))
    path = write(tmp_path / "bomb", packed)
    with pytest.raises(CaptureError, match="grows to more than 1000000 bytes"):
        open_capture(path, unpacked_max=1_000_000)
    with pytest.raises(CaptureError):
        open_capture(path, unpacked_max=size - 1)
    with open_capture(path, unpacked_max=size) as capture:
        assert capture.size == size


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xfd7zXZ\0rest", "is xz-compressed; gzip and zstd are read, so decompress it first"),
        (b"BZh91AY", "is bzip2-compressed; gzip and zstd are read, so decompress it first"),
        (b"\x1f\x8b\x08\0", "the gzip data is cut off after 0 bytes"),
        (b"\x1f\x8b\x07\0rubbish", "the gzip data is damaged after 0 bytes"),
        (b"\x28\xb5\x2f\xfd", "the zstd data is cut off after 0 bytes"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 20, "the zstd data is damaged after 0 bytes"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "bad", data)
    with pytest.raises(CaptureError) as caught:
        open_capture(path)
    assert caught.value.path == str(path)
    assert caught.value.message.startswith(message)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="cannot be read: No such file"):
        open_capture(tmp_path / "none")
    with pytest.raises(CaptureError, match="cannot be read: Is a directory"):
        open_capture(tmp_path)


@pytest.mark.parametrize("data", [b"", b"\xd4"], ids=["empty", "one byte"])
def test_tiny_file_opens_and_the_core_refuses_it(tmp_path: Path, data: bytes) -> None:
    with open_capture(write(tmp_path / "tiny", data)) as capture, pytest.raises(ValueError, match=r"empty|too few"):
        read_core(capture.view)


@pytest.mark.parametrize("packed", [MANY, gzip.compress(MANY)], ids=["plain", "gzip"])
def test_pipe(tmp_path: Path, packed: bytes) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(packed,))
    writer.start()
    with open_capture(pipe) as capture:
        assert capture.view == MANY
    writer.join()


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.write(writer, PLAIN)
    os.close(writer)
    with open(reader, encoding="latin-1") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        with open_capture("-") as capture:
            assert capture.view == PLAIN


# ---- reading -----------------------------------------------------------------------------------------------------

# Where we differ from tshark on purpose.
WIRE_RAISED = "tshark shows a wire length below the captured one; ours is raised to it"
TIME_BEYOND = "a time stamp that 64 bits of nanoseconds since 1970 cannot hold: saturated, tshark wraps or goes on"
TSHARK_ROUNDS = "tshark 4.0 loses the fraction of time stamps finer than a nanosecond (its product overflows)"
NO_TIME = "a simple packet block has no time: ours is 0, tshark's empty"
GUESSES = "tshark guesses another pcap dialect where a length is impossible"
VERSIONS = (
    "libpcap and we read pcap 2.0 to 2.4, tshark any 2.x; a link type with the reserved bits is left to the caller"
)
BOUND = "no more than 4,096 interfaces a section"
OTHER_READER = "tshark shows a file too short to be a capture as one frame of something else"
DIFFERENCES = {
    "wire-below-captured": WIRE_RAISED,
    "pcap-time-latest": TIME_BEYOND,
    "pcap-captured-huge": GUESSES,
    "pcap-captured-over-limit": GUESSES,
    "pcap-version-2-5": VERSIONS,
    "pcap-linktype-class": VERSIONS,
    "pcap-cut-in-magic": OTHER_READER,
    "pcapng-cut-in-section": OTHER_READER,
    "pcapng-interfaces-4097": BOUND,
    "pcapng-simple": NO_TIME,
    "pcapng-simple-second-interface": NO_TIME,
    **{f"pcapng-tsresol-{value}": TIME_BEYOND for value in ("00", "03", "06", "80", "8a", "94")},
    **{
        f"pcapng-tsresol-{value}": TSHARK_ROUNDS
        for value in ("0c", "12", "13", "14", "1c", "1d", "7f", "bf", "c0", "ff")
    },
    **{f"pcapng-tsoffset-{value}": TIME_BEYOND for value in (1, -1, 1_600_000_000, 2**63 - 1, -(2**63))},
}


def differs(name: str) -> bool:
    """Whether a case is one of DIFFERENCES (which leave the byte order and pcapng's name out)."""
    name = name.removesuffix("-le").removesuffix("-be")
    return name in DIFFERENCES or name.removeprefix("pcapng-").removeprefix("pcap-") in DIFFERENCES


@pytest.mark.needs_tool("tshark")
def test_generated_captures_as_tshark_sees_them(tmp_path: Path, long_run: bool) -> None:
    """Frame numbers, lengths and times of every kind of block, well-formed or not, in both byte orders."""
    names = [name for name in CASES if not differs(name) and name not in ("empty", "text", "gzip-magic")]
    assert len(names) >= 115
    for name in names if long_run else names[::5]:
        data = CASES[name]
        theirs = read_tshark(write(tmp_path / "case", data), *TSHARK_FIELDS)
        try:
            frames, _ = read_core(data)
        except ValueError:
            frames = []
        # Records without a packet take a number in both, and are frames only in tshark.
        numbers = {str(frame.number) for frame in frames}
        skipped = [row for row in theirs if row[0] not in numbers]
        assert [show(frame) for frame in frames] == [row for row in theirs if row[0] in numbers], name
        counted = name.startswith(("pcapng-custom", "pcapng-journal", "pcapng-sysdig"))
        assert len(skipped) == (counted and "flags" not in name), name


@pytest.mark.parametrize("name", sorted(CASES))
def test_burst_size_makes_no_difference(name: str) -> None:
    try:
        whole = read_core(CASES[name], 256)
    except ValueError as error:
        with pytest.raises(ValueError, match=r".") as again:
            read_core(CASES[name], 1)
        assert str(again.value) == str(error)
        return
    assert read_core(CASES[name], 1) == whole == read_core(CASES[name], 7)


def test_every_shared_capture_as_a_second_reader_sees_it(shared_data: Path) -> None:
    files = packets = 0
    for path in list_captures(shared_data):
        frames, _ = read_path(path)
        if path.name == "fuzz-2021-10-13.pcap":
            continue  # pcap 2.0, which states its two lengths the other way round; the second reader knows 2.4 only
        theirs = list(pcap_read(path))
        assert [frame.data for frame in frames] == [packet.data for packet in theirs], path
        assert [frame.ts_ns for frame in frames] == [packet.ts_ns for packet in theirs], path
        assert [frame.wire for frame in frames] == [max(packet.wire, len(packet.data)) for packet in theirs], path
        assert [frame.link for frame in frames] == [packet.link for packet in theirs], path
        assert [frame.number for frame in frames] == list(range(1, len(frames) + 1)), path
        files, packets = files + 1, packets + len(frames)
    assert files >= 565 and packets >= 64_000


# Times with more than a second of microseconds, and wire lengths below the captured ones (or past 2^31).
SHARED_DIFFERENCES = {
    "fuzz-2021-06-07-c6c72a0a56.pcap",
    "fuzz-2021-10-13.pcap",
    "aoe-oobr-1.pcap",
    "slip-compressed_sl_print-oobr.pcap",
}


@pytest.mark.long
@pytest.mark.needs_tool("tshark")
def test_every_shared_capture_as_tshark_sees_it(shared_data: Path) -> None:
    different = set()
    for path in list_captures(shared_data):
        ours, theirs = [show(frame) for frame in read_path(path)[0]], read_tshark(path, *TSHARK_FIELDS)
        assert [row[0] for row in ours] == [row[0] for row in theirs], path
        if ours != theirs:
            different.add(path.name)
    assert different == SHARED_DIFFERENCES


# ---- writing -----------------------------------------------------------------------------------------------------


def write_pcapng(path: Path, data: bytes, comments: list[str]) -> None:
    """The frames of a capture, each with the comment at its place."""
    error = ffi.new("char[]", 256)
    with ffi.from_buffer("uint8_t[]", data) as content, path.open("wb") as target:
        capture = lib.pal_capture_open(content, len(data), error, 256)
        writer = lib.pal_pcapng_open(target.fileno())
        frame = ffi.new("pal_frame *")
        for index in range(len(comments)):
            assert lib.pal_capture_next(capture, frame, 1) == 1
            comment = comments[index].encode()
            assert lib.pal_pcapng_write(writer, frame, comment, len(comment)) == 0
        assert lib.pal_pcapng_close(writer) == 0
        lib.pal_capture_close(capture)


@pytest.mark.parametrize("name", ["pcap-nano-be", "pcapng-interfaces-le", "pcapng-options-be"])
def test_written_capture_reads_back(tmp_path: Path, name: str) -> None:
    frames, _ = read_core(CASES[name])
    path = tmp_path / "copy.pcapng"
    write_pcapng(path, CASES[name], ["", "why", "because: caf\u00e9"])
    again, warning = read_path(path)
    assert warning is None
    assert again == [frame._replace(number=index + 1) for index, frame in enumerate(frames)]
    assert [packet.data for packet in pcap_read(path)] == [frame.data for frame in frames]


@pytest.mark.needs_tool("tshark")
def test_comments_are_shown_by_tshark(tmp_path: Path) -> None:
    comments = ["DROP tcp-state by shop/rules/web-to-db", "", "ALLOW match: caf\u00e9, \u7b56\u7565 " + "x" * 3000]
    path = tmp_path / "copy.pcapng"
    write_pcapng(path, CASES["pcapng-interfaces-be"], comments)
    rows = read_tshark(path, "frame.comment", "frame.interface_id", "frame.time_epoch", "frame.len")
    assert [row[0] for row in rows] == comments
    assert [row[1] for row in rows] == ["0", "1", "2"]
    assert [row[2] for row in rows] == ["1.250000000", "1.500000000", "1.750000000"]


def test_seed_generator_writes_its_cases(tmp_path: Path) -> None:
    assert seeds.main(["capture_seeds", str(tmp_path)]) == 0
    assert len(list(tmp_path.iterdir())) >= 150
    assert seeds.main(["capture_seeds"]) == 2
    assert io.BytesIO((tmp_path / "pcap-micro-le").read_bytes()).read() == PLAIN
