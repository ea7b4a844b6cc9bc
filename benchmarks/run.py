# SPDX-License-Identifier: Apache-2.0
"""`make bench`: every benchmark, one JSON file each, and at the end a table of what must be reached.

Run as a program: `python benchmarks/run.py --out DIR [--quick] [NAME…]`. Exit status 1 when a result did not verify.
report.py makes a page of the results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from table import read_lines, render_table  # beside this file

SIZES = (1_000, 100_000, 1_000_000)
HERE = Path(__file__).resolve().parent
PEERS = HERE / "replay_peers.py"
LIMITS = HERE / "limits.py"
LACKING = 3


def plan_benchmarks(quick: bool) -> Iterator[tuple[str, list[str]]]:
    """Name and `palisade bench` arguments of each benchmark. `quick`: small ones, one run each."""
    runs = ["--runs", "1" if quick else "5"]
    for size in SIZES[:1] if quick else SIZES:
        connections = ["--connections", str(size)]
        for family in ("4", "6"):
            yield f"conntrack-v{family}-{size}", ["conntrack", *connections, "--family", family, *runs]
        yield f"conntrack-v4-{size}-huge-pages", ["conntrack", *connections, "--pages", "huge", *runs]
        yield f"pipeline-v4-{size}", ["pipeline", *connections, *runs]
    grid = "1000" if quick else "100000"
    yield "conntrack-v4-grid", ["conntrack", "--connections", grid, "--pattern", "grid", *runs]
    yield "conntrack-v4-1514", ["conntrack", "--connections", "1000", "--bytes", "1514", "--checksum", "on", *runs]
    yield "conntrack-two-workers", ["conntrack", "--connections", "1000", "--workers", "2", *runs]
    yield "setup-1000-rules", ["setup", *runs]
    yield "attack-100000", ["attack", *(["--connections", "2000", "--packets", "20000"] if quick else []), *runs]
    for rules in (1_000,) if quick else (1_000, 10_000):
        search = ["--seconds", "5", "--connections", "2000"] if quick else ["--seconds", "600"]
        yield f"adversary-{rules}-rules", ["adversary", "--rules", str(rules), *search, *runs]
    for family in ("acl", "fw", "ipc"):
        for count in (1_000,) if quick else (1_000, 10_000):
            yield f"classify-{family}-{count}", ["classify", "--synthetic", family, "--count", str(count), *runs]
    yield from plan_scale(quick)
    yield "lab-peers", ["lab", "--peers", *(["--rounds", "2", "--seconds", "1"] if quick else [])]
    yield from plan_replays(quick, runs)


def plan_scale(quick: bool) -> Iterator[tuple[str, list[str]]]:
    """A large cluster's policies, each run in a process of its own: small namespaces, and a shape that is hostile."""
    size = ["--namespaces", "250", "--policies", "750", "--pods", "1000", "--verify", "100"] if quick else []
    # A hostile namespace's own compile is over half of all pods: fewer of them are held against it.
    for name, shape in (("scale", []), ("scale-hostile", ["--hostile", "--verify", "200"])):
        yield name, ["scale", *shape, *size, "--runs", "1" if quick else "3"]


def plan_replays(quick: bool, runs: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Large captures; what others take to dissect the same packets, where they are installed."""
    small, large = ("100000", "50000") if quick else ("4000000", "1000000")
    yield "replay-128", ["replay", "--packets", small, "--bytes", "128", *runs]
    yield "replay-128-outputs", ["replay", "--packets", small, "--bytes", "128", "--outputs", *runs]
    yield "replay-128-two-workers", ["replay", "--packets", small, "--bytes", "128", "--workers", "2", *runs]
    yield "replay-1514", ["replay", "--packets", large, "--bytes", "1514", *runs]
    for peer in ("dpkt", "scapy"):
        yield f"replay-peer-{peer}", [str(PEERS), peer, *runs]


def plan_limits(quick: bool) -> Iterator[tuple[str, list[str]]]:
    """What the machine can do at best."""
    yield "limits", [str(LIMITS), "--runs", "1" if quick else "5"]


def plan_peers(quick: bool) -> Iterator[tuple[str, list[str]]]:
    """Name and command of each comparison with somebody else's program, which may be absent: then it is skipped."""
    hashed = [sys.executable, str(HERE / "peers" / "rte_hash.py")]
    for size in SIZES[:1] if quick else SIZES:
        yield f"rte_hash-{size}", [*hashed, "--connections", str(size), "--runs", "1" if quick else "5", "-o", "json"]
    program = [sys.executable, str(HERE / "peers" / "rte_acl.py")]
    cases = subprocess.run([*program, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for case in cases:
        if not quick or case in ("acl-1000", "fw-1000", "ipc-1000"):
            yield f"rte_acl-{case}", [*program, "--case", case, "--runs", "1" if quick else "5", "-o", "json"]


def run_peer(name: str, command: list[str], out: Path) -> bool:
    """Run one comparison, keep its result, print a line. False when it did not verify or the peer gave no figure."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if not done.stdout:
        print(f"{name:36} {done.stderr.strip()}", flush=True)
        return False
    (out / f"{name}.json").write_text(done.stdout, encoding="utf-8")
    result = json.loads(done.stdout)
    said = result.get("reason", "")
    if result["status"] == "measured":
        peer = (result["peer_ns"][result["peer_best"]] if "peer_best" in result else result["peer_ns"])["median"]
        most = f", at most {result['required_ratio']}" if "required_ratio" in result else ""
        said = f"{result['ours_ns']['median']} ns to {peer} ns: {result['ratio']}{most}"
    print(f"{name:36} {result['status']}: {said}", flush=True)
    return done.returncode == 0


def run_benchmark(name: str, arguments: list[str], out: Path) -> bool:
    """Run one, keep its result, print a line. False when it failed or did not verify."""
    verb = [] if arguments[0] in (str(PEERS), str(LIMITS)) else ["-m", "dfw", "bench"]
    command = [sys.executable, *verb, *arguments, "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stdout:
        (out / f"{name}.json").write_text(done.stdout, encoding="utf-8")
    if done.returncode == LACKING:
        print(f"{name:36} skipped: {done.stderr.strip()}", flush=True)
        return True
    if done.returncode != 0:
        print(f"{name:36} {'not verified' if done.stdout else done.stderr.strip()}", flush=True)
        return False
    print(f"{name:36} {result_said(json.loads(done.stdout))}", flush=True)
    return True


def result_said(result: dict[str, Any]) -> str:
    """A verified result in one line."""
    if "figures" in result:
        return f"{len(result['figures'])} limits of this machine: see the report"
    if "rounds" in result:
        return f"{result['rounds']} rounds of {result['seconds']:g} s: see the table"
    if "kinds" in result:
        worst = max(result["kinds"].items(), key=lambda item: item[1]["ratio"])
        return f"at worst {worst[1]['ratio']:.2f} times a benign packet's ({worst[0]})"
    if "seconds" in result:
        return f"{result['median']} s ({result['min']} to {result['max']})"
    floor = result.get("floor_ns")
    if isinstance(floor, dict):  # by the number of lines: the most, which is what must be written
        floor = floor[max(floor, key=int)]
    beside = f", floor {floor} ns" if floor else ""
    return f"{result['median']} ns ({result['min']} to {result['max']}){beside}"


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Run the benchmarks and keep their results as JSON.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--quick", action="store_true", help="small ones, one run each")
    parser.add_argument("names", nargs="*", help="only these")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    plans = (*plan_limits(given.quick), *plan_benchmarks(given.quick))
    chosen = [item for item in plans if not given.names or item[0] in given.names]
    verified = [run_benchmark(name, arguments, given.out) for name, arguments in chosen]
    peers = [item for item in plan_peers(given.quick) if not given.names or item[0] in given.names]
    verified += [run_peer(name, command, given.out) for name, command in peers]
    lines = list(read_lines(given.out))
    print("\n" + render_table(lines))
    return 0 if all(verified) else 1


if __name__ == "__main__":
    sys.exit(main())
