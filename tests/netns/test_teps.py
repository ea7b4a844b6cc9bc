# SPDX-License-Identifier: Apache-2.0
"""Agents that watch each other's TEPs by BFD, with real packets: a wire that is cut, an agent that is killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from overlay.enter import run_in
from overlay.realized import NO_SESSION
from tests.netns.test_agent import INVENTORY, POLICY, TwoHosts
from tests.support.patience import until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6]

FAST = INVENTORY.replace("tep: 172.16.0.1}", "tep: 172.16.0.1, bfd_interval: 300}").replace(
    "tep: 172.16.0.2}", "tep: 172.16.0.2, bfd_interval: 300}"
)
PATIENT = FAST.replace("bfd_interval: 300", "bfd_multiple: 30")
# The first one's packets come more seldom than the second one waits for them: 3 to 4 s, 2.7 s.
SELDOM = FAST.replace("bfd_interval: 300", "bfd_interval: 4000, bfd_multiple: 9")
OFTEN = FAST.replace("bfd_interval: 300", "bfd_interval: 300, bfd_multiple: 9")
PEER = {"h1": "h2", "h2": "h1"}


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    found = TwoHosts(tmp_path)
    try:
        found.build()
        yield found
    finally:
        found.end()


def tep(hosts: TwoHosts, host: str) -> dict[str, Any]:
    """What a host says of the other one's TEP."""
    rows = hosts.ask(host, {"do": "show", "what": "tep-table"})["rows"]
    return next(dict(row) for row in rows if row["remote_host"] == PEER[host])


def both_up(hosts: TwoHosts) -> bool:
    return all(tep(hosts, host)["bfd"] == "UP" for host in PEER)


def dropped(hosts: TwoHosts, host: str, reason: str) -> int:
    rows = hosts.ask(host, {"do": "show", "what": "stats"})["rows"]
    return sum(row["count"] for row in rows if row.get("frames") and row["reason"] == reason)


def say_to_all(hosts: TwoHosts, name: str) -> None:
    """A broadcast from a pod."""
    with run_in(hosts.netns(name), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sender.sendto(b"all", ("10.0.1.255", 9999))


def inside(hosts: TwoHosts, host: str, *command: str) -> None:
    subprocess.run(["nsenter", f"--net={hosts.netns(host)}", *command], check=True)


def cut(hosts: TwoHosts, tier: str) -> None:
    """Tier A: neither host hears anything from the underlay. C: the interface of one is down, and loses its routes."""
    if tier == "C":
        inside(hosts, "h2", "ip", "link", "set", "ul0", "down")
        return
    chain = "{ type filter hook ingress device ul0 priority 0; policy drop; }"
    for host in PEER:
        inside(hosts, host, "nft", f"add table netdev cut; add chain netdev cut c {chain}")


def heal(hosts: TwoHosts, tier: str) -> None:
    if tier == "C":
        inside(hosts, "h2", "ip", "link", "set", "ul0", "up")
        return
    for host in PEER:
        inside(hosts, host, "nft", "delete table netdev cut")


def heard(listener: socket.socket) -> bool:
    try:
        return listener.recv(64) == b"all"
    except BlockingIOError:
        return False


@pytest.mark.needs_tool("nft")
@pytest.mark.parametrize("tier", ["A", "C"])
def test_a_tep_that_is_cut_off_gets_no_copies_until_it_is_back(hosts: TwoHosts, tier: str) -> None:
    hosts.inventory = OFTEN
    hosts.tell(POLICY)
    hosts.start("--uplink", tier)
    until(lambda: both_up(hosts), "BFD does not come up")
    with hosts.listen("b", socket.AF_INET, 9999, socket.SOCK_DGRAM) as listener:
        listener.setblocking(False)
        until(lambda: say_to_all(hosts, "a") or heard(listener), "a broadcast does not arrive")

        def well() -> bool:
            return all(row["ok"] for row in hosts.ask("h1", {"do": "show", "what": "health"})["rows"])

        until(well, "something is wrong")
        until(lambda: both_up(hosts), "BFD does not stay up")
        cut(hosts, tier)
        until(lambda: tep(hosts, "h1")["dead"], "nobody misses the other host")
        row = tep(hosts, "h1")
        assert row.keys() == {
            "remote_host",
            "tep",
            "encapsulation",
            "segments",
            *NO_SESSION,
        }  # as before there was BFD
        assert (row["bfd"], row["diagnostic"], row["remote_state"]) == ("DOWN", "detection expired", None)
        health = {row["check"]: row for row in hosts.ask("h1", {"do": "show", "what": "health"})["rows"]}
        assert not health["teps"]["ok"] and "h2 (DOWN, detection expired)" in health["teps"]["says"]
        assert 'tep_up{host="h1",remote_host="h2"} 0.0' in hosts.ask("h1", {"do": "metrics"})["text"]
        # Nobody is left on the segment who could hear a broadcast.
        before = dropped(hosts, "h1", "no-receiver")
        until(lambda: say_to_all(hosts, "a") or dropped(hosts, "h1", "no-receiver") > before, "copies still go there")
        heal(hosts, tier)
        until(lambda: both_up(hosts), "BFD does not come back")
        until(lambda: say_to_all(hosts, "a") or heard(listener), "a broadcast does not arrive again")
    log = (hosts.folder / "h1" / "agent.log").read_text()
    assert "before=UP" in log and "without=['172.16.0.2']" in log


def test_a_killed_agent_is_not_missed_and_a_stopped_one_is(hosts: TwoHosts) -> None:
    hosts.inventory = PATIENT  # a busy machine may take 3 s for a successor
    hosts.tell(POLICY)
    hosts.start()
    until(lambda: both_up(hosts), "BFD does not come up")
    before = tep(hosts, "h1")
    for _ in range(2):
        pid = hosts.ask("h2", {"do": "status"})["pid"]
        os.kill(pid, signal.SIGKILL)
        hosts.wait("h2", lambda status, pid=pid: status["pid"] != pid)  # type: ignore[misc]
        assert tep(hosts, "h2")["bfd"] == "UP"  # it goes on where it was
        time.sleep(1.5)
    after = tep(hosts, "h1")
    assert (after["bfd"], after["since"], after["changes"]) == ("UP", before["since"], before["changes"])
    hosts.inventory = INVENTORY
    hosts.tell(POLICY)
    until(lambda: tep(hosts, "h1")["detection_ms"] == 3000, "the timers stay as they were")
    pid = hosts.ask("h2", {"do": "status"})["pid"]
    os.kill(pid, signal.SIGSTOP)
    until(lambda: tep(hosts, "h1")["dead"], "nobody misses a host that is stopped")
    # Its successor after a long time: dead for each other, and then not.
    os.kill(pid, signal.SIGKILL)  # reaches a stopped one too
    until(lambda: both_up(hosts), "BFD does not come back")


def test_timers_change_without_a_flap_and_bfd_can_be_off(hosts: TwoHosts) -> None:

    def detection() -> list[int]:
        return [tep(hosts, host)["detection_ms"] for host in PEER]

    hosts.inventory = SELDOM
    hosts.tell(POLICY)
    hosts.start()
    until(lambda: both_up(hosts), "BFD does not come up")
    until(lambda: detection() == [36000, 36000], "the timers are not those that were asked for")
    before = {host: tep(hosts, host) for host in PEER}
    hosts.inventory = OFTEN
    hosts.tell(POLICY)
    until(lambda: detection() == [2700, 2700], "the timers stay as they were")
    time.sleep(3)
    assert [tep(hosts, host)["since"] for host in PEER] == [row["since"] for row in before.values()]
    hosts.inventory = INVENTORY.replace("tep: 172.16.0.2}", "tep: 172.16.0.2, bfd_interval: 0}")
    hosts.tell(POLICY)
    until(lambda: tep(hosts, "h1")["remote_state"] == "ADMIN_DOWN", "the other end is not told")
    row = tep(hosts, "h1")
    assert (row["bfd"], row["diagnostic"], row["dead"]) == ("DOWN", "neighbour down", False)
    assert tep(hosts, "h2")["bfd"] == "ADMIN_DOWN"


def test_what_is_no_bfd_is_counted(hosts: TwoHosts) -> None:
    """Control packets in the other TEP's name, straight on the underlay: refused with a reason; the session stays."""
    hosts.inventory = INVENTORY
    hosts.tell(POLICY)
    hosts.start("--uplink", "C")
    until(lambda: both_up(hosts), "BFD does not come up")
    before = tep(hosts, "h1")

    def hostile() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("172.16.0.2", 0))
        return made

    with run_in(hosts.netns("h2"), hostile) as sender:
        geneve = bytes.fromhex("0080655800138900")
        for size in range(100):
            sender.sendto(geneve + os.urandom(size), ("172.16.0.1", 6081))
        sender.sendto(geneve + b"\xff" * 1200, ("172.16.0.1", 6081))

    def counted() -> int:
        rows = hosts.ask("h1", {"do": "show", "what": "stats"})["rows"]
        return sum(row["count"] for row in rows if row.get("reason") == "control-malformed")

    until(lambda: counted() == 101, "hostile packets are not counted")
    after = tep(hosts, "h1")
    assert (after["bfd"], after["since"]) == ("UP", before["since"])
