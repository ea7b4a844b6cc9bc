# SPDX-License-Identifier: Apache-2.0
"""The report page: every figure with its case, version and commit; what is not there is said."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
MACHINE: dict[str, Any] = {
    "cpu": "A <fine> processor", "cores": 2, "kernel": "6.1", "load": 0.5, "compiler": "gcc 12",
    "version": "1.2.3", "commit": "abc1234",
}  # fmt: skip
CONNTRACK: dict[str, Any] = {
    "case": "conntrack/random/1000/v1", "ns_per_packet": 40.0, "pre_parsed_ns": 20.0, "floor_ns": {"1": 3.0, "2": 10.0},
    "core_ghz": 2.5, "bytes": 64, "workers": 1, "checksum": False, "family": 4, "bytes_per_connection": 120.0,
    "verified": True, "machine": MACHINE,
}  # fmt: skip
HASHED: dict[str, Any] = {
    "case": "rte_hash/random/1000/v1", "status": "measured", "verified": True, "ratio": 2.0,
    "ours_ns": {"median": 20.0}, "peer_ns": {"median": 10.5}, "machine": MACHINE,
}  # fmt: skip
LAB: dict[str, Any] = {
    "case": "lab/two-hosts/v1", "verified": True, "rounds": 2, "seconds": 1.0, "rules": 1000, "machine": MACHINE,
    "tcp_gbps": {"palisade": 6.0, "kernel-vxlan-nft": 5.0},
    "rtt_us": {"p50": {"palisade": 30.0, "kernel-vxlan-nft": 12.0}},
    "ratios": {"tcp_gbps": {"kernel-vxlan-nft": {"median": 1.2, "rounds": 2, "low": 1.1, "high": 1.3}},
               "rtt_us": {"p50": {"kernel-vxlan-nft": {"median": 2.5, "rounds": 1}}}},
    "skipped": {"ovs-afxdp": "no command ovs-vswitchd"}, "notes": {"palisade": "uplink tier A"},
}  # fmt: skip
LIMITS: dict[str, Any] = {
    "case": "limits/v1", "verified": True, "skipped": {"tap": "no TAP: Operation not permitted"}, "machine": MACHINE,
    "figures": {"memcpy_gbytes_per_s": {"256 MiB": {"median": 11.0, "min": 10.0, "max": 12.0, "runs": 5}}},
}  # fmt: skip
REPLAY: dict[str, Any] = {
    "case": "replay/1514/v1", "ns_per_packet": 1000.0, "min": 900.0, "max": 1100.0, "mpps": 1.0, "floor_ns": 400.0,
    "gigabytes_per_second": 1.5, "bytes": 1514, "packets": 1, "verified": False, "machine": MACHINE,
}  # fmt: skip


@pytest.fixture
def pictures() -> None:
    if importlib.util.find_spec("matplotlib") is None:
        pytest.skip("needs matplotlib: the report's pictures")


def report(tmp_path: Path, **results: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    folder = tmp_path / "results"
    folder.mkdir(exist_ok=True)
    for name, result in results.items():
        (folder / f"{name.replace('_', '-').replace('rte-hash', 'rte_hash')}.json").write_text(json.dumps(result))
    command = [sys.executable, "benchmarks/report.py", str(folder), "--out", str(tmp_path / "page")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.usefixtures("pictures")
def test_the_page_says_of_what_each_figure_is_and_what_is_missing(tmp_path: Path) -> None:
    done = report(
        tmp_path, conntrack_v4_1000=CONNTRACK, rte_hash_1000=HASHED, lab_peers=LAB, limits=LIMITS, replay_1514=REPLAY
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page" / "README.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "| case | of |" not in line]
    assert rows and all("1.2.3 abc1234 |" in row and "/v1" in row for row in rows)
    assert "| 1,000, IPv4 | 40 | 20 | 3 | 10 | 10.5 |" in page
    assert "| TCP, one stream, Gbit/s | 6 | kernel-vxlan-nft | 5 | 1.2 (1.1 to 1.3) |" in page
    assert "ovs-afxdp was left out: no command ovs-vswitchd." in page
    assert "tap: no TAP: Operation not permitted." in page
    assert "| established packet, 1,000 connections, ns | 20 | 10 (its memory accesses alone) | 50% |" in page
    assert "| replay, 1,514 bytes, GB/s | 1.5 | 11 (memcpy) | 14% |" in page
    assert "**not verified**" in page and "| **no** |" in page
    missing = next(line for line in page.splitlines() if line.startswith("Not measured in this run: "))
    assert "conntrack-v4-100000," in missing and "rte_hash-1000," not in missing and "limits" not in missing
    for picture in ("lab", "connections", "replay"):
        assert f"({picture}.svg)" in page and "<svg" in (tmp_path / "page" / f"{picture}.svg").read_text()
    web = (tmp_path / "page" / "index.html").read_text()
    assert "<table>" in web and "A &lt;fine&gt; processor" in web and '<img src="lab.svg"' in web


@pytest.mark.usefixtures("pictures")
def test_the_same_results_give_the_same_bytes(tmp_path: Path) -> None:
    pages = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        assert report(tmp_path / name, lab_peers=LAB).returncode == 0
        pages.append({path.name: path.read_bytes() for path in (tmp_path / name / "page").iterdir()})
    assert pages[0] == pages[1]


def test_no_results_are_said(tmp_path: Path) -> None:
    done = report(tmp_path)
    assert done.returncode == 2 and "no results of `make bench` there" in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"case": 3', "x.json:1:11: this is no JSON: Expecting ',' delimiter"),
        ("[]", "x.json: this is no result of a benchmark"),
        ('{"case": "limits/v1"}', "x.json: this is no result of a benchmark"),
    ],
)
def test_what_is_no_result_is_said_with_its_place(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "x.json").write_text(text)
    done = report(tmp_path)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("program", ["limits.py", "peers/rte_hash.py"])
def test_nonsense_is_refused(program: str) -> None:
    done = subprocess.run(
        [sys.executable, f"benchmarks/{program}", "--runs", "0"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "--runs: at least 1" in done.stderr
