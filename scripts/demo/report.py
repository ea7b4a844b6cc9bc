# SPDX-License-Identifier: Apache-2.0
"""The demo's replays: `python -m scripts.demo.report DIRECTORY`, where DIRECTORY has shop.pcap."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from ipaddress import ip_address
from pathlib import Path

from scripts.demo.crowd import make_crowd
from scripts.demo.files import read_pcapng
from scripts.demo.hosts import INVENTORY, OPEN, POLICY, ROOT, read_hosts

PALISADE = Path(sys.executable).parent / "palisade"
SHARED = ROOT.parent / "shared" / "data"
CROWD = 200_000  # packets
KINDS = (".pcap", ".pcapng", ".cap", ".trace")


def replay(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `palisade replay`. Raises RuntimeError where it can't do its work; unreadable captures are no such thing."""
    command = [PALISADE, "replay", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, stdin=subprocess.DEVNULL)
    if done.returncode not in (0, 2) or not done.stdout:
        raise RuntimeError(f"palisade replay ended with {done.returncode}: {done.stderr}")
    return done


def show_shop(directory: Path) -> None:
    """The demo's own capture by the shop's policy, at the vNICs."""
    print("\n-- the shop's capture by examples/shop/policy.yaml, at the vNICs\n")
    verdicts, generated = directory / "verdicts.jsonl", directory / "generated.pcapng"
    flows = directory / "flows.csv"
    outputs = ("--verdicts", verdicts, "--generated", generated, "--flows", flows)
    done = replay(directory / "shop.pcap", "--policy", POLICY, "--inventory", INVENTORY, *outputs)
    if done.returncode:
        raise RuntimeError(done.stderr)
    print(done.stdout.rstrip())
    lines = [json.loads(line) for line in verdicts.read_text(encoding="utf-8").splitlines()]
    print("\n-- one line a judgement (--verdicts), one of each sort that was refused\n")
    seen: set[tuple[str, str | None]] = set()
    for line in lines:
        sort = (line["reason"], line["rule_path"])
        if line["verdict"] != "ALLOW" and sort not in seen:
            seen.add(sort)
            line.pop("file")
            print(json.dumps(line))
    print("\n-- what REJECT would have sent (--generated)\n")
    for text, count in Counter(map(describe_answer, read_pcapng(generated))).items():
        print(f"{count:>5} x {text}")
    children = sum(line["ct"] == "related" and line["reason"] == "match" for line in lines)
    print(f"\n-- connections (--flows): {len(flows.read_text(encoding='utf-8').splitlines()) - 1}", end="")
    print(f"; {children} judgements passed a connection that FTP or TFTP had announced" if children else "")


def describe_answer(packet: bytes) -> str:
    """A generated packet's ends and kind."""
    old = packet[0] >> 4 == 4
    source, target = (packet[12:16], packet[16:20]) if old else (packet[8:24], packet[24:40])
    protocol, at = (packet[9], (packet[0] & 15) * 4) if old else (packet[6], 40)
    kind = "TCP RST" if protocol == 6 else f"ICMP {packet[at]}/{packet[at + 1]}"
    return f"{kind} in the name of {ip_address(source)} to {ip_address(target)}"


def show_shared() -> None:
    """Captures of other projects, where they lie beside the checkout: each for itself, one filter on a wire."""
    captures = sorted(path for path in SHARED.rglob("*") if path.suffix in KINDS and path.is_file())
    if not captures:
        print("\n-- no captures in ../shared/data: left out")
        return
    print(f"\n-- {len(captures)} captures of other projects in ../shared/data, each for itself, everything allowed\n")
    data = json.loads(replay(*captures, "--policy", OPEN, "--each", "--tap", "-o", "json").stdout)
    failed = [row for row in data["captures"] if row["error"]]
    print(f"{data['packets']:,} packets, {data['connections']['created']:,} connections", end="")
    print(f"; {data['ns_per_packet']:.0f} ns a packet in the core, {data['seconds']:.2f} s in all")
    print(", ".join(f"{count:,} {verdict}" for verdict, count in data["verdicts"].items()))
    print("why: " + ", ".join(f"{reason} {count:,}" for reason, count in data["reasons"].items()))
    if failed:
        print(f"{len(failed)} files can't be read, in whole or in part; one of them: {failed[0]['error']}")


def show_speed(directory: Path) -> None:
    """The core's time a packet over a larger capture."""
    crowd = directory / "crowd.pcap"
    count, clients = make_crowd(directory / "shop.pcap", crowd, read_hosts()["web-1"], CROWD)
    print(f"\n-- how fast: the outside client's talks held by {clients:,} clients; {count:,} packets, 5 runs\n")
    rows: dict[str, tuple[str | Path, ...]] = {
        "shop policy, at the vNICs": ("--policy", POLICY, "--inventory", INVENTORY),
        "everything allowed, one filter": ("--policy", OPEN, "--tap"),
    }
    for name, arguments in rows.items():
        data = json.loads(replay(crowd, *arguments, "--repeat", "5", "-o", "json").stdout)
        told = ", ".join(f"{number:,} {verdict}" for verdict, number in data["verdicts"].items())
        created = data["connections"]["created"]
        print(f"{name}: {data['ns_per_packet']:.0f} ns a packet; {created:,} connections, {told}")
    print(f"machine: {machine_name()}, {os.cpu_count()} processors; other programs run on it too, so times wander")


def machine_name() -> str:
    """The processor's name as the kernel tells it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main(directory: Path) -> None:
    """All parts."""
    show_shop(directory)
    show_shared()
    show_speed(directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
