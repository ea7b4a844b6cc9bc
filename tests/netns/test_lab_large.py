# SPDX-License-Identifier: Apache-2.0
"""A lab of ten hosts, ten segments and two hundred pods: it comes up, its pods talk, and nothing of it is left."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

from dfw import cli
from dfw.model import PROTO_TCP, Family
from overlay.connect import Attempt, apply_attempts
from overlay.lab_record import lab_paths, record_read
from overlay.linux import process_signal, processes_marked
from tests.netns.test_lab_probe import run  # noqa: F401 - a fixture: it compares before and after

pytestmark = [
    pytest.mark.long,
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
]
HOSTS, SEGMENTS, PODS = 10, 10, 200


def address(number: int) -> str:
    """Pods are dealt to segments in rows of twenty, to hosts in turn."""
    return f"10.1.{number // (PODS // SEGMENTS)}.{11 + number % (PODS // SEGMENTS)}"


def inventory() -> dict[str, Any]:
    """The document."""
    return {
        "apiVersion": "palisade.internal/v1alpha1",
        "kind": "Inventory",
        "hosts": [{"name": f"h{at}", "tep": f"172.16.0.{1 + at}"} for at in range(HOSTS)],
        "gateways": [{"name": "t1", "tier": 1}],
        "segments": [
            {"name": f"s{at}", "vni": 5001 + at, "subnets": [f"10.1.{at}.0/24"], "gateway": "t1"}
            for at in range(SEGMENTS)
        ],
        "ports": [
            {
                "name": f"p{at}",
                "host": f"h{at % HOSTS}",
                "segment": f"s{at // (PODS // SEGMENTS)}",
                "ips": [address(at)],
            }
            for at in range(PODS)
        ],
    }


def talk() -> None:
    """Each pod connects to the one eleven further on: another host, often another segment."""
    paths = lab_paths("lab")
    record = record_read(paths)
    assert record is not None and len(record.pods) == PODS
    rooms = [paths.room / record.pods[f"p{at}"].netns for at in range(PODS)]
    wanted = [
        Attempt(rooms[at], rooms[to], Family.IPV4, PROTO_TCP, 80, address(to))
        for at in range(PODS)
        for to in [(at + 11) % PODS]
    ]
    for _ in range(5):
        apply_attempts(wanted, 10.0, lambda: None)
        wanted = [item for item in wanted if not item.answered]
        if not wanted:
            return
    raise AssertionError(wanted)


def test_two_hundred_pods_come_up_and_go(run: Path, tmp_path: Path) -> None:  # noqa: F811
    file = tmp_path / "large.yaml"
    file.write_text(yaml.safe_dump(inventory()))
    assert cli.run(["lab", "up", "-q", str(file)]) == 0
    talk()
    assert cli.run(["lab", "down"]) == 0
    assert cli.run(["lab", "up", "-q", str(file)]) == 0
    marked = list(processes_marked(lab_paths("lab").mark))
    assert len(marked) > PODS + HOSTS
    for process in marked:
        if process.pid != os.getpid():
            process_signal(process, signal.SIGKILL)
    assert cli.run(["lab", "down"]) == 0
    assert cli.run(["lab", "down"]) == 0
