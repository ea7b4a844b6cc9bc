# SPDX-License-Identifier: Apache-2.0
"""The table at the end of `make bench`: what must be reached is judged from the results as they are written."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_table", ROOT / "benchmarks" / "table.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["bench_table"] = module
    spec.loader.exec_module(module)
    return module


CONNTRACK: dict[str, Any] = {
    "case": "conntrack/random/1000/v1",
    "ns_per_packet": 40.0,
    "pre_parsed_ns": 20.0,
    "floor_ns": {"1": 3.0, "2": 10.0},
    "core_ghz": 2.5,
    "bytes": 64,
    "workers": 1,
    "checksum": False,
    "family": 4,
    "bytes_per_connection": 120.0,
    "verified": True,
}


def reached(table: ModuleType, folder: Path, result: dict[str, Any], what: str) -> bool | None:
    (folder / "it.json").write_text(json.dumps(result), encoding="utf-8")
    found = [line for line in table.read_lines(folder) if line.what == what]
    assert len(found) == 1
    verdict: bool | None = found[0].reached
    return verdict


@pytest.mark.parametrize(
    ("changed", "what", "expected"),
    [
        ({}, "from bytes", False),  # 30 above the floor
        ({"ns_per_packet": 35.0}, "from bytes", True),
        ({"ns_per_packet": 35.1}, "from bytes", False),
        ({"family": 6, "ns_per_packet": 43.0}, "from bytes", True),
        ({"core_ghz": 2.0}, "from bytes", True),  # a slower core: 30 of its nanoseconds are 24
        ({"core_ghz": 3.5, "ns_per_packet": 35.0}, "from bytes", False),
        ({"pre_parsed_ns": 25.0}, "pre-parsed", True),
        ({"pre_parsed_ns": 25.1}, "pre-parsed", False),
        ({"bytes_per_connection": 129.0}, "bytes a connection", False),
        ({"bytes_per_connection": 152.0, "family": 6}, "bytes a connection", True),
    ],
)
def test_established(table: ModuleType, tmp_path: Path, changed: dict[str, Any], what: str, expected: bool) -> None:
    assert reached(table, tmp_path, CONNTRACK | changed, what) is expected


def test_two_workers(table: ModuleType, tmp_path: Path) -> None:
    both = CONNTRACK | {"workers": 2, "scaling": 1.7, "reference_scaling": 1.9, "scaling_ratio": 0.895}
    assert reached(table, tmp_path, both, "scaling") is False
    assert reached(table, tmp_path, both | {"scaling_ratio": 0.9}, "scaling") is True


def test_worst_packets(table: ModuleType, tmp_path: Path) -> None:
    worst = {"ratio": 3.01, "ns": 301.0, "benign_ns": 100.0}
    result = {
        "case": "adversary/1/1rules/v1",
        "must_ratio": 3.0,
        "seconds": 60.0,
        "verified": True,
        "kinds": {"hit": worst},
    }
    assert reached(table, tmp_path, result, "worst packet") is False
    assert reached(table, tmp_path, result | {"kinds": {"hit": worst | {"ratio": 3.0}}}, "worst packet") is True


def test_unverified_is_said(table: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "it.json").write_text(json.dumps(CONNTRACK | {"verified": False}), encoding="utf-8")
    text = table.render_table(list(table.read_lines(tmp_path)))
    assert text.count("not verified") == 3 and " yes" not in text


def test_a_peer_without_output_is_not_won(table: ModuleType, tmp_path: Path) -> None:
    missing = {"case": "rte_acl/acl-1000", "status": "missing", "reason": "no figure", "required_ratio": 1.0}
    assert reached(table, tmp_path, missing, "look-up") is None


SCALE: dict[str, Any] = {
    "case": "scale/small-namespaces/25000-75000-100000/v1",
    "seconds": 4.9,
    "min": 4.5,
    "max": 5.5,
    "pods": 100_000,
    "memory_bytes": 900_000_000,
    "one_pod_seconds": {"median": 0.001, "max": 0.01},
    "one_rule_seconds": {"median": 0.001, "max": 0.01},
    "verified": True,
}


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({}, set()),
        ({"seconds": 5.1}, {"compile 100000 pods"}),
        ({"memory_bytes": 1_100_000_000}, {"peak memory"}),
        ({"one_pod_seconds": {"median": 0.006}}, {"one pod added"}),
        ({"one_rule_seconds": {"median": 0.021}}, {"one rule changed"}),
        ({"case": "scale/hostile/25000-75000-100000/v1", "seconds": 60.0}, set()),
    ],
)
def test_scale(table: ModuleType, tmp_path: Path, change: dict[str, Any], what: set[str]) -> None:
    (tmp_path / "scale.json").write_text(json.dumps({**SCALE, **change}))
    lines = list(table.read_lines(tmp_path))
    assert lines
    assert {line.what for line in lines if not line.reached} == what


LAB: dict[str, Any] = {
    "case": "lab/two-hosts/v1",
    "tcp_gbps": {"palisade": 4.0, "kernel-vxlan-nft": 4.0, "ovs-afxdp": 0.5},
    "rtt_us": {"p50": {"palisade": 80.0, "kernel-vxlan-nft": 40.0}, "p99": {"palisade": 400.0}},
    "ratios": {
        "tcp_gbps": {"kernel-vxlan-nft": {"median": 1.0, "low": 0.9, "high": 1.1}},
        "rtt_us": {"p50": {"kernel-vxlan-nft": {"median": 2.0, "low": 1.5, "high": 2.6}}},
    },
    "skipped": {"ovs-afxdp": "no ovs-vswitchd"},
    "verified": True,
}


def test_a_lab_must_hold_with_the_whole_interval_and_a_missing_peer_is_not_won(
    table: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "it.json").write_text(json.dumps(LAB), encoding="utf-8")
    lines = [(line.what, line.reached) for line in table.read_lines(tmp_path)]
    assert lines == [("tcp_gbps", True), ("tcp_gbps", None), ("rtt_us p50", False), ("rtt_us p99", True)]
