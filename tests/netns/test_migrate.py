# SPDX-License-Identifier: Apache-2.0
"""A pod that moves to another host while others talk to it: with real sockets, three hosts, and strict TCP."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from dfw import cli
from dfw.model import PolicySet
from overlay import lab_migrate, lab_up
from overlay.enter import run_in
from overlay.hoststate import HostState
from overlay.lab_agents import AgentError
from overlay.lab_record import LabPaths, lab_paths, record_read
from overlay.lab_revision import revision_numbers
from tests.support.leftovers import list_leftovers
from tests.support.patience import PATIENCE, until

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
    pytest.mark.needs_ipv6,
]
LAB = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: h1, tep: 172.16.0.1}, {name: h2, tep: 172.16.0.2}, {name: h3, tep: 172.16.0.3}]
gateways: [{name: t1, tier: 1}]
segments:
  - {name: one, vni: 5001, subnets: [10.0.1.0/24, "2001:db8:1::/64"], gateway: t1}
  - {name: two, vni: 5002, subnets: [10.0.2.0/24, "2001:db8:2::/64"], gateway: t1}
ports:
  - {name: mover, host: h1, segment: one, ips: [10.0.1.10, "2001:db8:1::10"]}
  - {name: near, host: h1, segment: one, ips: [10.0.1.12]}
  - {name: other, host: h2, segment: one, ips: [10.0.1.11]}
  - {name: peer, host: h3, segment: two, ips: [10.0.2.10, "2001:db8:2::10"]}
---
resource_type: SecurityPolicy
id: strict
category: Application
tcp_strict: true
rules:
  - {id: web, services: [HTTP], action: ALLOW}
  - {id: rest, services: [tcp], action: DROP}
---
resource_type: Service
id: tcp
service_entries: [{resource_type: L4PortSetServiceEntry, l4_protocol: TCP, destination_ports: ["0-65535"]}]
"""
MOVER = {socket.AF_INET: "10.0.1.10", socket.AF_INET6: "2001:db8:1::10"}
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Lab:
    """The lab, and sockets in its pods."""

    def __init__(self, paths: LabPaths) -> None:
        self.paths = paths

    def netns(self, pod: str) -> str:
        record = record_read(self.paths)
        assert record is not None
        return str(self.paths.room / record.pods[pod].netns)

    def host_of(self, pod: str) -> str:
        record = record_read(self.paths)
        assert record is not None
        return record.pods[pod].host

    def elsewhere(self) -> str:
        """Where the mover may go: not to the peer's host."""
        return "h2" if self.host_of("mover") == "h1" else "h1"

    def connect(self, family: int, patience: float = PATIENCE) -> tuple[socket.socket, socket.socket]:
        """From the peer to the mover: both ends."""
        with run_in(self.netns("mover"), lambda: socket.create_server((MOVER[family], 80), family=family)) as server:
            client = run_in(self.netns("peer"), lambda: socket.socket(family))
            client.settimeout(patience)
            client.connect((MOVER[family], 80))
            return client, server.accept()[0]

    def card(self) -> Any:
        """What must not change in the mover: its interface's number, its MAC address, how often its carrier did."""

        def look() -> Any:
            from pyroute2 import IPRoute

            with IPRoute() as netlink:
                link = next(item for item in netlink.link("dump") if item.get_attr("IFLA_IFNAME") == "eth0")
            return link["index"], link.get_attr("IFLA_ADDRESS"), link.get_attr("IFLA_CARRIER_CHANGES")

        return run_in(self.netns("mover"), look)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Up, and gone after all tests with all that belongs to it; wherever the mover is then."""
    place = Path(tempfile.mkdtemp(prefix="pal-", dir="/tmp"))
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("PALISADE_RUN", str(place / "run"))
    monkeypatch.setattr(lab_migrate, "LATE_SECONDS", 0.1)
    (place / "lab.yaml").write_text(LAB)
    before = list_leftovers(place / "run")
    try:
        assert cli.run(["lab", "up", "-q", str(place / "lab.yaml")]) == 0
        yield Lab(lab_paths("lab"))
    finally:
        cli.run(["lab", "down", "--all"])
        after = list_leftovers(place / "run")
        shutil.rmtree(place)
        monkeypatch.undo()
    assert after == before


class Stream(threading.Thread):
    """Bytes through a connection, both ends ours, until `finish`; which arrive is compared."""

    def __init__(self, ends: tuple[socket.socket, socket.socket]) -> None:
        super().__init__()
        self.sender, self.receiver = ends
        self.sent = self.found = 0
        self.ending = threading.Event()
        self.reader = threading.Thread(target=self._read)
        self.start()
        self.reader.start()

    def run(self) -> None:
        while not self.ending.is_set():
            self.sent += self.sender.send(bytes(1 << 16))
        self.sender.shutdown(socket.SHUT_WR)

    def _read(self) -> None:
        while data := self.receiver.recv(1 << 18):
            self.found += len(data)

    def wait_for(self, more: int) -> None:
        """Until so many bytes more have arrived."""
        goal = self.found + more
        until(lambda: self.found >= goal, "bytes are missing")

    def finish(self) -> None:
        self.ending.set()
        self.join(PATIENCE)
        self.reader.join(PATIENCE)
        assert self.found == self.sent
        self.sender.close()
        self.receiver.close()


def test_transfers_go_on_through_migrations_there_and_back(lab: Lab) -> None:
    streams = [Stream(lab.connect(family)) for family in FAMILIES]
    idle = [lab.connect(family) for family in FAMILIES]
    before = lab.card()
    for host in ("h2", "h3", "h1"):
        for stream in streams:
            stream.wait_for(1 << 20)
        moved = lab_up.migrate(lab.paths, "mover", host)
        assert moved is not None and moved.connections >= 4 and moved.refused == 0
        assert lab.host_of("mover") == host
        for stream in streams:  # strict TCP refuses what it has not seen begin: their state has moved
            stream.wait_for(1 << 20)
    for stream in streams:
        stream.finish()
    for client, server in idle:  # silent through three migrations
        server.sendall(b"still here")
        assert client.recv(64) == b"still here"
        client.close()
        server.close()
    assert lab.card() == before


def test_without_their_state_they_would_not(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = lab.connect(socket.AF_INET)
    monkeypatch.setattr(lab_migrate._Move, "_bring", lambda *_, **__: None)
    assert lab_up.migrate(lab.paths, "mover", lab.elsewhere()) is not None
    client.sendall(b"lost")
    server.settimeout(1.0)
    with pytest.raises(TimeoutError):
        server.recv(64)
    for one in lab.connect(socket.AF_INET):  # a new one is welcome
        one.close()
    client.close()
    server.close()


def test_late_packets_are_sent_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has not heard yet sends to where the pod was; that host knows where it is."""
    client, server = lab.connect(socket.AF_INET)
    write = lab_migrate.desired_write
    tried = []

    def late(paths: LabPaths, states: Mapping[str, HostState]) -> None:
        if "h3" in states:
            for family in FAMILIES:
                tried.extend(lab.connect(family))
            client.sendall(b"late")
            assert server.recv(64) == b"late"
        write(paths, states)

    monkeypatch.setattr(lab_migrate, "desired_write", late)
    assert lab_up.migrate(lab.paths, "mover", lab.elsewhere()) is not None
    assert len(tried) == 4
    client.sendall(b"in time")
    assert server.recv(64) == b"in time"
    for one in (client, server, *tried):
        one.close()


def revision(lab: Lab) -> int:
    """Which one the hosts were told: what the next change goes back to if it fails."""
    record = record_read(lab.paths)
    assert record is not None
    return record.revision


def test_after_the_switch_it_is_not_interrupted(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the last moments: all hosts are told, and the revision is kept."""
    settle, target = lab_migrate._Move._settle, lab.elsewhere()

    def interrupted(self: lab_migrate._Move, after: PolicySet) -> None:
        signal.raise_signal(signal.SIGINT)
        settle(self, after)

    monkeypatch.setattr(lab_migrate._Move, "_settle", interrupted)
    assert lab_up.migrate(lab.paths, "mover", target) is not None
    assert lab.host_of("mover") == target
    assert cli.run(["wait", "--realized", "--timeout", "2s", "--lab", "lab"]) == 0
    assert revision(lab) in revision_numbers(lab.paths)


def test_what_fails_before_the_switch_leaves_the_pod_where_it_was(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(lab.connect(socket.AF_INET))
    before = lab.host_of("mover")
    bring = lab_migrate._Move._bring
    monkeypatch.setattr(
        lab_migrate._Move,
        "_bring",
        lambda self, told, **more: bring(self, told | {"parts": ["AAAA"]} if "at" in told else told, **more),
    )
    with pytest.raises(AgentError, match="import of mover: no export of connections"):
        lab_up.migrate(lab.paths, "mover", lab.elsewhere())
    assert lab.host_of("mover") == before
    assert revision(lab) in revision_numbers(lab.paths)
    stream.wait_for(1 << 20)
    monkeypatch.setattr(lab_migrate._Move, "_bring", bring)
    assert lab_up.migrate(lab.paths, "mover", lab.elsewhere()) is not None
    stream.wait_for(1 << 20)
    stream.finish()
