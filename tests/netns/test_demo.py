# SPDX-License-Identifier: Apache-2.0
"""The demo, with a network and without: it says what happened, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
DEMO = ROOT / "scripts" / "demo.sh"
# What every run of the shop shows, whichever way its packets came to be.
RULES = (
    "shop/rules/anyone-to-web", "shop/rules/web-to-app", "shop/rules/app-to-db", "shop/rules/shop-to-db",
    "shop/rules/rest", "quarantine/rules/isolate", "quarantine/rules/inspect", "operations/rules/ping",
    "operations/rules/backup-by-ftp", "operations/rules/config-by-tftp", "name-service/rules/questions",
)  # fmt: skip
REASONS = ("state", "match", "tcp-state", "tcp-strict", "tcp-flags", "frag-overlap")


@pytest.fixture
def directory() -> Iterator[Path]:
    """For all that a demo writes, its lab's sockets among it: with a short name, and nobody else's."""
    found = Path(tempfile.mkdtemp(prefix="pal-", dir="/tmp"))
    yield found
    if (found / "run").exists():  # a demo that was killed for its time
        down = [sys.executable, "-m", "dfw", "lab", "down", "--all"]
        subprocess.run(down, env=demo_environment(found), cwd=ROOT, check=False)
    shutil.rmtree(found)


def demo_environment(directory: Path) -> dict[str, str]:
    """What makes it write there."""
    return {**os.environ, "TMPDIR": str(directory), "PALISADE_RUN": str(directory / "run")}


def list_leftovers(directory: Path) -> list[str]:
    """Files, namespaces, links and processes of the demo."""
    named = [path.name for path in Path("/run/netns").glob("pal-demo*")]
    links = [path.name for path in Path("/sys/class/net").glob("pal-demo*")]
    processes = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(str(directory)) in words:
            processes.append(path.parent.name)
    return [*(path.name for path in directory.iterdir()), *named, *links, *processes]


def run_demo(directory: Path, **environment: str) -> str:
    """Run it; returns what it printed."""
    done = subprocess.run(
        [DEMO], capture_output=True, text=True, timeout=600, env=demo_environment(directory) | environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_story(text: str) -> None:
    """Each rule decided something, each reason is there, and the answers of REJECT went to who asked."""
    for rule in RULES:
        assert re.search(rf"{rule}\s+(ALLOW|DROP|REJECT)\s+[1-9]", text), rule
    for reason in REASONS:
        assert re.search(rf"^{reason} +[1-9]", text, re.MULTILINE), reason
    assert "TCP RST in the name of 10.1.3.11 to 10.1.1.11" in text
    assert "TCP RST in the name of 2001:db8:3::11 to 2001:db8:1::11" in text
    announced = re.search(r"(\d+) judgements passed a connection that FTP or TFTP had announced", text)
    assert announced is not None
    # Active and passive, FTP and TFTP, both families, at two vNICs each.
    assert int(announced.group(1)) >= 12
    crowd = re.search(r"shop policy, at the vNICs: \d+ ns a packet; ([\d,]+) connections", text)
    assert crowd is not None
    assert int(crowd.group(1).replace(",", "")) > 1000


def test_demo_offline(directory: Path) -> None:
    text = run_demo(directory, PALISADE_DEMO="offline")
    assert "packets made by the demo itself" in text
    check_story(text)
    assert list_leftovers(directory) == []


@pytest.mark.needs_root
@pytest.mark.needs_netns
@pytest.mark.needs_ipv6
@pytest.mark.needs_tun
@pytest.mark.needs_tool("ip", "unshare")
def test_demo_with_a_network(directory: Path) -> None:
    text = run_demo(directory)
    assert re.search(r"captured [\d,]+ packets", text), text
    check_story(text)
    assert re.search(r"^related +[1-9]", text, re.MULTILINE)  # the kernel's own port unreachable
    probed = re.findall(r"connections tried: [1-9]\d* allowed, [1-9]\d* denied; all as the policy says", text)
    assert len(probed) == 2
    assert len(re.findall(r"^icmp .*\n +1 2 3 4 5 6 7 8\n1 web-1 [.X ]+\n", text, re.MULTILINE)) == 2
    assert re.search(r"an iperf3 transfer from app-2 to 10.1.1.11, begun before it moved, goes on: ", text), text
    assert "pod web-1 moved from esx-1 to esx-2" in text
    streams = re.findall(r"[1-9]\d* MB from app-2 to \S+ before it moved, [1-9]\d* MB since; all of it arrived", text)
    assert len(streams) == 2
    assert "all may talk" in text and "and no more" in text
    assert re.search(r"shop is isolated: guests/visitor is denied \d+ ms .*; shop/clerk is not\n", text), text
    assert list_leftovers(directory) == []


@pytest.mark.needs_root
@pytest.mark.needs_netns
@pytest.mark.needs_ipv6
@pytest.mark.needs_tool("ip", "unshare")
def test_demo_interrupted_leaves_nothing(directory: Path) -> None:
    with subprocess.Popen([DEMO], stdout=subprocess.PIPE, env=demo_environment(directory), text=True) as demo:
        assert demo.stdout is not None
        assert "network" in demo.stdout.readline()
        demo.send_signal(signal.SIGTERM)
        demo.stdout.read()  # ends when the last program that could write has ended
    assert demo.returncode == 143
    assert list_leftovers(directory) == []
