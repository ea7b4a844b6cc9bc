# SPDX-License-Identifier: Apache-2.0
"""The connection table beside DPDK's rte_hash (Debian's libdpdk-dev), in turn: established packets, and bare look-ups.

Run as a program: `python benchmarks/peers/rte_hash.py --connections 100000 -o json`. Not the same work: ours takes a
parsed packet, finds its connection, compares the whole key, checks and moves windows, counts and sets its timer; the
peer finds 16 bytes. `floor_ns` are the same accesses as ours without a firewall. `status`: `measured`, `skipped`
(`reason`) or `missing` (the peer gave no figure).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # run as a program: the modules beside are one folder up

from programs import LackingError, apply_compile, read_package, spread  # noqa: E402

from dfw.bench.machine import read_machine  # noqa: E402

SIZES: Final = (1_000, 100_000, 1_000_000)


def lookups_of(connections: int) -> int:
    """As many as `bench conntrack` has packets."""
    return max(4 * connections, 2_000_000)


def run_peer(program: Path, connections: int) -> float | None:
    """Nanoseconds a look-up; None where the peer gave none. Raises ValueError: it found what it should not."""
    core = str(max(os.sched_getaffinity(0)))
    command = [str(program), "--no-huge", "--no-pci", "-l", core, "-m", "1024", "--no-telemetry", "--"]
    command += [str(connections), str(lookups_of(connections)), "1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode == 1:
        raise ValueError("rte_hash did not find its own keys")
    lines = done.stdout.split()
    return float(lines[-1]) if done.returncode == 0 and lines else None


def run_ours(connections: int) -> dict[str, Any]:
    """One run of `bench conntrack`."""
    command = [sys.executable, "-m", "dfw", "bench", "conntrack", "--connections", str(connections)]
    done = subprocess.run([*command, "--runs", "1", "-o", "json"], capture_output=True, text=True, check=False)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def compare(connections: int, runs: int) -> dict[str, Any]:
    """Both, in turn."""
    result: dict[str, Any] = {"case": f"rte_hash/random/{connections}/v1", "machine": read_machine(), "verified": True}
    try:
        program = apply_compile(HERE / "rte_hash.c", read_package("libdpdk", "libdpdk-dev"))
    except LackingError as error:
        return {**result, "status": "skipped", "reason": str(error)}
    peer, ours = [], []
    for _ in range(runs):
        ours.append(run_ours(connections))
        found = run_peer(program, connections)
        if found is None:
            return {**result, "status": "missing", "reason": "rte_hash gave no figure"}
        peer.append(found)
    pre_parsed = spread([float(run["pre_parsed_ns"]) for run in ours])
    peer_ns = spread(peer)
    return {
        **result,
        "status": "measured",
        "ours_ns": pre_parsed,
        "floor_ns": {lines: spread([float(run["floor_ns"][lines]) for run in ours])["median"] for lines in ("1", "2")},
        "peer_ns": peer_ns,
        "ratio": round(pre_parsed["median"] / peer_ns["median"], 3),
        "verified": all(run["verified"] for run in ours),
    }


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Established packets beside rte_hash's bare look-ups.")
    parser.add_argument("--connections", type=int, choices=SIZES, default=100_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--output", choices=["json"], default="json")
    given = parser.parse_args()
    if given.runs < 1:
        parser.error("--runs: at least 1")
    result = compare(given.connections, given.runs)
    print(json.dumps(result, indent=2))
    return 0 if result["verified"] and result["status"] != "missing" else 1


if __name__ == "__main__":
    sys.exit(main())
