# SPDX-License-Identifier: Apache-2.0
"""Verdict files are the same bytes whatever the size of a burst, and for one and two workers.

On the captures beside the checkout, each from an empty table: at a tap, and at the vNICs of an inventory made of the
addresses that send in them. Generated traffic: test_native_oracle.py (records) and here (files).
"""

from __future__ import annotations

import ipaddress
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONG, SHARED_DATA
from tests.support.capture_mutations import capture_paths, pcap_write
from tests.support.pcap import Captured, pcap_read
from tests.support.traffic import ETHERNET, Packet, Scenario, Traffic

BATCHES = (1, 7, 32, 256)
BYTES = 1 << 30 if LONG else 100_000
PORTS = 400

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
    found = [path for path in capture_paths(SHARED_DATA) if path.suffix != ".gz" and path.stat().st_size <= BYTES]
    return [path for path in found if _packets(path)]


def _packets(path: Path) -> list[Captured]:
    """The packets, where a second reader can read them all and all links are ones that we judge."""
    try:
        packets = list(pcap_read(path))
    except (ValueError, OSError):
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
    target = folder / f"verdicts-{batch}-{workers}.jsonl"
    command = [sys.executable, "-m", "dfw", "replay", *map(str, captures), "--policy", str(folder / "policy.yaml")]
    command += ["--inventory", str(folder / "inventory.yaml"), "--vantage", "vnics"] if inventory else ["--tap"]
    command += ["--each", "--batch", str(batch), "--workers", str(workers), "--verdicts", str(target), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target.read_bytes()


def _compare(captures: list[Path], folder: Path, inventory: bool) -> None:
    (folder / "policy.yaml").write_text(POLICY)
    (folder / "inventory.yaml").write_text(_inventory(captures))
    first = _verdicts(captures, folder, inventory, BATCHES[0], 1)
    assert first.count(b"\n") >= 100
    for batch in BATCHES[1:]:
        assert _verdicts(captures, folder, inventory, batch, 1) == first, batch
    assert _verdicts(captures, folder, inventory, 32, 2) == first


@pytest.mark.needs_shared_data()
@pytest.mark.parametrize("inventory", [False, True], ids=["tap", "vnics"])
def test_captures(tmp_path: Path, inventory: bool) -> None:
    """No byte of the verdict file depends on bursts or workers."""
    _compare(_captures(), tmp_path, inventory)


def test_generated(tmp_path: Path) -> None:
    """The same of generated traffic, written as a capture."""
    events = [e for batch in Traffic(Scenario(11, calm=True, width=32)).batches(6000) for e in batch]
    packets = [Captured(e.ts_ns, e.data, e.wire, ETHERNET) for e in events if isinstance(e, Packet)]
    capture = tmp_path / "generated.pcap"
    capture.write_bytes(pcap_write(packets))
    _compare([capture], tmp_path, inventory=False)
