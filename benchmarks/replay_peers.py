# SPDX-License-Identifier: Apache-2.0
"""What dpkt and Scapy take to dissect the packets of `bench replay`: no firewall, no connections, headers only.

Run as a program: `python benchmarks/replay_peers.py dpkt|scapy [--runs N] -o json`. Exit status 3 where the peer is not
installed: peers are never installed for this.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from dfw.bench.captures import write_capture
from dfw.bench.machine import render_runs

LACKING = 3
PACKETS = {"dpkt": 100_000, "scapy": 10_000}


def dissect_dpkt(frames: Sequence[bytes]) -> int:
    """How many packets have addresses."""
    import dpkt  # type: ignore[import-not-found, unused-ignore]

    found = 0
    for frame in frames:
        ip = dpkt.ethernet.Ethernet(frame).data
        found += len(ip.src) > 0 and ip.data is not None
    return found


def dissect_scapy(frames: Sequence[bytes]) -> int:
    """How many packets have addresses."""
    from scapy.layers.inet import IP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    found = 0
    for frame in frames:
        packet = Ether(frame)
        found += bool(packet[IP].src if IP in packet else packet[IPv6].src)
    return found


def read_frames(path: Path) -> list[bytes]:
    """The frames of a capture of ours."""
    data, at, frames = path.read_bytes(), 24, []
    while at < len(data):
        size = int.from_bytes(data[at + 8 : at + 12], "little")
        frames.append(data[at + 16 : at + 16 + size])
        at += 16 + size
    return frames


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Dissect the packets of `bench replay` with another program.")
    parser.add_argument("peer", choices=sorted(PACKETS))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("-o", "--output", choices=["json"], default="json")
    given = parser.parse_args()
    if importlib.util.find_spec(given.peer) is None:
        print(f"{given.peer} is not installed", file=sys.stderr)
        return LACKING
    dissect: Callable[[Sequence[bytes]], int] = {"dpkt": dissect_dpkt, "scapy": dissect_scapy}[given.peer]
    with tempfile.TemporaryDirectory(prefix="palisade-bench-") as folder:
        write_capture(Path(folder) / "some.pcap", packets=PACKETS[given.peer], size=128)
        frames = read_frames(Path(folder) / "some.pcap")
    dissect(frames[:100])
    runs, verified = [], True
    for _ in range(given.runs):
        begin = time.monotonic_ns()
        verified = dissect(frames) == len(frames) and verified
        runs.append((time.monotonic_ns() - begin) / len(frames))
    print(json.dumps(render_runs(f"replay-peer/{given.peer}/128/v1", runs, verified, packets=len(frames)), indent=2))
    return 0 if verified else 1


if __name__ == "__main__":
    sys.exit(main())
