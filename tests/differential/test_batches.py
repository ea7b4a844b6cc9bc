# SPDX-License-Identifier: Apache-2.0
"""Verdict files are the same bytes whatever the size of a burst, and for one and two workers.

On the captures beside the checkout, each from an empty table: at a tap, and at the vNICs of an inventory made of the
addresses that send in them. Generated traffic: test_native_oracle.py (records) and here (files).
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import LONG, SHARED_DATA
from tests.support.capture_mutations import capture_paths, pcap_write
from tests.support.pcap import Captured, pcap_read
from tests.support.traffic import ETHERNET, Packet, Traffic, scenario_draw

BATCHES = (1, 7, 32, 256)
BYTES = 1 << 30 if LONG else 100_000
PORTS = 400
SEEDS = range(24) if LONG else (0, 2)
PACKETS = 20_000 if LONG else 6_000

POLICY = """\
resource_type: SecurityPolicy
id: mixed
category: Application
sequence_number: 1
tcp_strict: false
rules:
  - id: no-telnet
    source_groups: [ANY]
    destination_groups: [ANY]
    services: [ANY]
    service_entries: [{resource_type: L4PortSetServiceEntry, l4_protocol: TCP, destination_ports: ["23"]}]
    action: REJECT
  - id: ftp
    source_groups: [ANY]
    destination_groups: [ANY]
    services: [ANY]
    service_entries: [{resource_type: ALGTypeServiceEntry, id: a, alg: FTP, destination_ports: ["21"]}]
    action: ALLOW
  - {id: rest, source_groups: [ANY], destination_groups: [ANY], services: [ANY], action: ALLOW}
"""


def _captures() -> list[Path]:
    """All, compressed and unreadable ones too: of what can't be read, nothing may be said for any burst."""
    return [path for path in capture_paths(SHARED_DATA) if path.stat().st_size <= BYTES]


def _packets(path: Path) -> list[Captured]:
    """The packets, where a second reader can read them all and all links are ones that we judge."""
    try:
        packets = list(pcap_read(path))
    except (ValueError, OSError, EOFError):
        return []
    return packets if all(packet.link in (0, 1, 12, 14, 101, 108, 113, 228, 229, 276) for packet in packets) else []


def _inventory(captures: list[Path]) -> str:
    """A port for every unicast address that sends in Ethernet frames, up to PORTS."""
    seen: dict[str, None] = {}
    for path in captures:
        for packet in _packets(path):
            ethertype = packet.data[12:14]
            if packet.link != ETHERNET or ethertype not in (b"\x08\x00", b"\x86\xdd") or len(packet.data) < 54:
                continue
            raw = packet.data[26:30] if ethertype == b"\x08\x00" else packet.data[22:38]
            address = ipaddress.ip_address(raw)
            nowhere = address.is_loopback or address.is_link_local or not any(address.packed)
            no_workload = nowhere or address.is_multicast
            if not (no_workload or (address.version == 4 and (raw[0] == 0 or raw[0] >= 240))):
                seen.setdefault(str(address))
        if len(seen) > PORTS:
            break
    lines = [
        f"  - {{name: p{n}, host: h, segment: s, mac: '06:00:00:00:{n >> 8:02x}:{n & 255:02x}', ips: ['{address}']}}"
        for n, address in enumerate(list(seen)[:PORTS])
    ]
    head = "apiVersion: palisade.internal/v1alpha1\nkind: Inventory\nhosts: [{name: h, tep: 172.16.0.1}]\n"
    head += "gateways: [{name: g, tier: 1}]\nsegments: [{name: s, vni: 5001, subnets: [10.255.0.0/24], gateway: g}]\n"
    return head + "ports:\n" + "\n".join(lines) + "\n"


def _verdicts(captures: list[Path], folder: Path, inventory: bool, batch: int, workers: int) -> bytes:
    """The verdict file, and behind it what was said of captures that could not be read."""
    target = folder / f"verdicts-{batch}-{workers}.jsonl"
    command = [sys.executable, "-m", "dfw", "replay", *map(str, captures), "--policy", str(folder / "policy.yaml")]
    command += ["--inventory", str(folder / "inventory.yaml"), "--vantage", "vnics"] if inventory else ["--tap"]
    command += ["--each", "--batch", str(batch), "--workers", str(workers), "--verdicts", str(target), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), done.stderr
    return target.read_bytes() + done.stderr.encode()


def _summary(captures: list[Path], folder: Path, inventory: bool, batch: int) -> dict[str, object]:
    """What a run says that keeps no records: then established packets are judged several at once."""
    command = [sys.executable, "-m", "dfw", "replay", *map(str, captures), "--policy", str(folder / "policy.yaml")]
    command += ["--inventory", str(folder / "inventory.yaml"), "--vantage", "vnics"] if inventory else ["--tap"]
    done = subprocess.run([*command, "--batch", str(batch), "-o", "json"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2), done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return {key: value for key, value in said.items() if key not in ("seconds", "mpps", "ns_per_packet")}


def _compare(captures: list[Path], folder: Path, inventory: bool, *, two_workers: bool = True) -> bytes:
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "inventory.yaml").write_text(_inventory(captures))
    first = _verdicts(captures, folder, inventory, BATCHES[0], 1)
    for path in captures:
        if _packets(path):
            assert json.dumps(str(path)).encode() in first, f"nothing was judged of {path}"
    for batch in BATCHES[1:]:
        assert _verdicts(captures, folder, inventory, batch, 1) == first, batch
    if two_workers:
        assert _verdicts(captures, folder, inventory, 32, 2) == first
    alone = _summary(captures, folder, inventory, 1)
    assert alone["packets"]
    for batch in BATCHES[1:]:
        assert _summary(captures, folder, inventory, batch) == alone, batch
    return first


@pytest.mark.needs_shared_data()
@pytest.mark.parametrize("inventory", [False, True], ids=["tap", "vnics"])
def test_captures(tmp_path: Path, inventory: bool) -> None:
    """No byte of the verdict file depends on bursts or workers."""
    _compare(_captures(), tmp_path, inventory)


@pytest.mark.parametrize("seed", SEEDS)
def test_generated(tmp_path: Path, seed: int) -> None:
    """The same of generated traffic, written as a capture, at a tap and (Ethernet) at vNICs."""
    scenario = replace(scenario_draw(seed), calm=True, width=32)
    events = [e for batch in Traffic(scenario).batches(PACKETS) for e in batch]
    packets = [Captured(e.ts_ns, e.data, e.wire, e.link) for e in events if isinstance(e, Packet)]
    capture = tmp_path / "generated.pcap"
    capture.write_bytes(pcap_write(packets))
    for inventory in (False, True) if scenario.link == ETHERNET else (False,):
        first = _compare([capture], tmp_path, inventory, two_workers=False)
        assert first.count(b"\n") >= PACKETS
        # Each worker has limits of its own: two are one only while none is reached.
        if not any(f'"{reason}"'.encode() in first for reason in ("reject-rate", "frag-limit", "ct-full")):
            assert _verdicts([capture], tmp_path, inventory, 7, 2) == first
