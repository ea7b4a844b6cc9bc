# SPDX-License-Identifier: Apache-2.0
"""`palisade replay`: captures that cannot be read or judged, and outputs that cannot be written."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import pytest

from dfw import cli
from tests.support.replaying import (
    ETHERNET,
    INVENTORY,
    NOW,
    POLICY,
    WLAN,
    Run,
    capture,
    check_schema,
    conversation,
    frame,
    lines,
    refused,
    replayer,
)
from tests.support.wire import End
from tests.support.wire import Path as WirePath


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder of its own."""
    return replayer(capfd, tmp_path, monkeypatch)


# Captures


def test_an_unreadable_file_does_not_stop_the_others(run: Run) -> None:
    capture("good.pcap", conversation())
    Path("bad.pcap").write_bytes(b"this is no capture")
    Path("folder").mkdir()
    done = run("bad.pcap", "none.pcap", "folder", "good.pcap", "-o", "json")
    assert done.status == cli.BAD_INPUT
    found = check_schema(done)["captures"]
    assert [(item["file"], item["packets"], item["error"] is None) for item in found] == [
        *(("bad.pcap", 0, False), ("none.pcap", 0, False), ("folder", 0, False)),
        ("good.pcap", 7, True),
    ]
    for item in found[:3]:
        assert f"{item['file']}: {item['error']}" in done.err


def test_a_truncated_file_is_judged_up_to_its_end_with_a_warning(run: Run) -> None:
    capture("cut.pcap", conversation())
    whole = Path("cut.pcap").read_bytes()
    Path("cut.pcap").write_bytes(whole[:-5])
    done = run("cut.pcap", "-o", "json")
    assert done.status == 0 and done.json["packets"] == 6
    assert "truncated" in done.json["captures"][0]["warning"] and "cut.pcap: truncated" in done.err
    Path("cut.pcap.gz").write_bytes(gzip.compress(whole)[:-20])
    done = run("cut.pcap.gz", "-o", "json")
    assert done.status == 0 and "gzip" in done.err


def pcapng(frames: Sequence[tuple[int, bytes]]) -> bytes:
    """One interface for each link type, in order of its first use; nanoseconds."""
    links = list(dict.fromkeys(link for link, _ in frames))
    out = [struct.pack("<IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)]
    for link in links:
        out.append(struct.pack("<IIHHIHHB3xII", 1, 32, link, 0, 0, 9, 1, 9, 0, 32))
    for number, (link, data) in enumerate(frames):
        size = len(data) + 3 & ~3
        head = (6, 32 + size, links.index(link), NOW + number >> 32, NOW + number & 0xFFFFFFFF, len(data), len(data))
        out.append(struct.pack("<7I", *head) + data.ljust(size, b"\0") + struct.pack("<I", 32 + size))
    return b"".join(out)


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"], ["--batch", "1"], ["--backend", "oracle"]])
def test_another_link_type_is_named_and_what_comes_before_is_judged(run: Run, arguments: list[str]) -> None:
    packets = [(ETHERNET, data) for data in conversation()]
    Path("wlan.pcapng").write_bytes(pcapng([*packets[:4], (WLAN, b"\x08" * 40), *packets[4:]]))
    capture("good.pcap", conversation(2000))
    done = run("wlan.pcapng", "good.pcap", "--verdicts", "v.jsonl", "-o", "json", *arguments)
    assert done.status == cli.BAD_INPUT
    first, second = done.json["captures"]
    assert "105" in first["error"] and "IEEE802_11" in first["error"] and first["packets"] == 4
    assert second["error"] is None and second["packets"] == 7
    assert [line["file"] for line in lines("v.jsonl")] == ["wlan.pcapng"] * 4 + ["good.pcap"] * 7


@pytest.mark.parametrize("arguments", [[], ["--workers", "2"], ["--batch", "1"], ["--backend", "oracle"]])
def test_an_ambiguous_vnic_is_exit_2(run: Run, arguments: list[str]) -> None:
    two = INVENTORY.replace("[10.0.0.2]", "[10.0.0.1]").replace(
        "server, host: h, segment: s", "server, host: h, segment: t"
    )
    Path("i.yaml").write_text(two.replace("segments: [", "segments: [{name: t, vni: 5002, subnets: [10.0.0.0/24]}, "))
    foreign = WirePath(End("10.0.0.1", "02:00:00:00:00:99"), End("198.51.100.2", "02:00:00:00:00:98"))
    capture("cap.pcap", [*conversation()[:2], frame(foreign.udp(1, 53), foreign), *conversation()[2:]])
    capture("good.pcap", conversation(2000))
    done = run("cap.pcap", "good.pcap", "--inventory", "i.yaml", "-o", "json", "--verdicts", "v.jsonl", *arguments)
    assert done.status == cli.BAD_INPUT
    assert [item["packets"] for item in done.json["captures"]] == [2, 7]
    assert done.json["captures"][0]["error"] and "cap.pcap: " in done.err
    assert [line["n"] for line in lines("v.jsonl") if line["file"] == "cap.pcap"] == [1, 1, 2, 2]


# Outputs


def test_outputs_are_written_once_however_often_it_is_repeated(run: Run) -> None:
    capture("cap.pcap", [*conversation(), *refused()])
    Path("p.yaml").write_text(POLICY.replace("action: DROP", "logged: true, action: DROP"))
    names = ("verdicts", "flows", "allowed", "dropped", "generated", "log")
    written = []
    for repeat in ("1", "3"):
        done = run("cap.pcap", "--repeat", repeat, "-o", "json", *(f"--{name}={name}" for name in names))
        written.append([Path(name).read_bytes() for name in names])
        assert done.json["packets"] == 10 and sum(done.json["verdicts"].values()) == 10
    assert written[0] == written[1]


def test_an_output_that_cannot_be_written_is_no_error_of_the_capture(run: Run) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs dev-full: no /dev/full")
    capture("cap.pcap", conversation() * 1000)
    for name in ("verdicts", "flows", "allowed", "dropped", "generated"):
        if name in ("dropped", "generated"):
            capture("cap.pcap", refused() * 3000)
        done = run("cap.pcap", f"--{name}", "/dev/full", "-o", "json")
        assert (done.status, done.out) == (cli.LACKING, ""), name
        assert "No space left on device" in done.err and "cap.pcap" not in done.err, name
    done = run("cap.pcap", "--verdicts", "no/such/folder/v.jsonl")
    assert done.status == cli.BAD_INPUT
    assert done.err == "palisade replay: no/such/folder/v.jsonl: No such file or directory\n"


def test_verdicts_to_standard_output_are_alone_there(run: Run) -> None:
    capture("cap.pcap", conversation())
    done = run("cap.pcap", "--verdicts", "-")
    assert [json.loads(line)["n"] for line in done.out.splitlines()] == list(range(1, 8))
    done = run("cap.pcap", "--flows", "-")
    assert [json.loads(line)["state"] for line in done.out.splitlines()] == ["TIME_WAIT"]


@pytest.mark.parametrize("option", ["--verdicts", "--flows", "--allowed", "--dropped", "--generated", "--log"])
def test_what_is_read_is_not_written_over(run: Run, option: str) -> None:
    capture("c.pcap", conversation())
    before = {path: path.read_bytes() for path in sorted(Path().iterdir())}
    Path("again.csv").symlink_to("c.pcap")  # another name of the same file
    for over in ("again.csv", *(["c.pcap", "p.yaml", "i.yaml"] if option != "--flows" else [])):
        done = run("c.pcap", "--inventory", "i.yaml", option, over)
        assert done.status == cli.BAD_INPUT
        assert f"{option} {over} would overwrite " in done.err
    assert {path: path.read_bytes() for path in before} == before


def test_two_outputs_need_two_files(run: Run) -> None:
    capture("c.pcap", conversation())
    done = run("c.pcap", "--allowed", "out", "--dropped", "./out")
    assert done.status == cli.BAD_INPUT
    assert "--dropped ./out would overwrite what --allowed writes" in done.err
    assert not Path("out").exists()
    assert run("c.pcap", "--allowed", "/dev/null", "--dropped", "/dev/null").status == cli.DONE
