# SPDX-License-Identifier: Apache-2.0
"""Two hosts with an agent each, and real connections between workloads on them, through Geneve and two firewalls."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dfw.load import load
from dfw.model import PolicySet
from overlay.ask import AskError, agent_ask
from overlay.enter import run_in
from overlay.hoststate import state_write
from overlay.span import resolve_span
from tests.support.one_host import agent_end
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6]

INVENTORY = """
apiVersion: palisade.internal/v1alpha1
kind: Inventory
hosts: [{name: h1, tep: 172.16.0.1}, {name: h2, tep: 172.16.0.2}]
gateways: [{name: t1, tier: 1}]
segments:
  - {name: one, vni: 5001, subnets: [10.0.1.0/24, "2001:db8:1::/64"], gateway: t1}
  - {name: two, vni: 5002, subnets: [10.0.2.0/24, "2001:db8:2::/64"], gateway: t1}
ports:
  - {name: a, host: h1, segment: one, mac: "02:00:00:00:00:0a", ips: [10.0.1.10, "2001:db8:1::10"]}
  - {name: b, host: h2, segment: one, mac: "02:00:00:00:00:0b", ips: [10.0.1.11, "2001:db8:1::11"]}
  - {name: c, host: h2, segment: two, mac: "02:00:00:00:00:0c", ips: [10.0.2.10, "2001:db8:2::10"]}
  - {name: d, host: h1, segment: two, mac: "02:00:00:00:00:0d", ips: [10.0.2.11, "2001:db8:2::11"]}
"""
POLICY = """
resource_type: SecurityPolicy
id: p
category: Application
rules:
  - {id: refused, services: [SSH], action: REJECT}
  - {id: silent, services: [MySQL], action: DROP}
"""
IPS = {
    "a": ("10.0.1.10", "2001:db8:1::10"),
    "b": ("10.0.1.11", "2001:db8:1::11"),
    "c": ("10.0.2.10", "2001:db8:2::10"),
    "d": ("10.0.2.11", "2001:db8:2::11"),
}


class TwoHosts:
    """What a test does with the two hosts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agents: dict[str, subprocess.Popen[bytes]] = {}
        self.revision = 0
        self.attachments = {name: self.netns(name) for name in IPS}
        self.inventory = INVENTORY

    def netns(self, name: str) -> str:
        return str(self.folder / f"ns-{name}")

    def world(self, policy: str) -> PolicySet:
        (self.folder / "i.yaml").write_text(self.inventory)
        (self.folder / "p.yaml").write_text(policy)
        return load([str(self.folder / "i.yaml"), str(self.folder / "p.yaml")]).world

    def build(self) -> None:
        for name in ("h1", "h2", *IPS):
            Path(self.netns(name)).touch()
            subprocess.run(["unshare", f"--net={self.netns(name)}", "true"], check=True)
        enter = ["nsenter", f"--net={self.netns('h1')}"]
        peer = ["peer", "name", "ul0", "mtu", "1700", "netns", self.netns("h2")]
        subprocess.run([*enter, "ip", "link", "add", "ul0", "mtu", "1700", "type", "veth", *peer], check=True)

    def tell(self, policy: str) -> None:
        """Write every host's state and wait until it is in force."""
        self.revision += 1
        for host, state in resolve_span(self.world(policy), self.revision, self.attachments).items():
            (self.folder / host).mkdir(exist_ok=True)
            state_write(self.folder / host / "desired.json", state)
            if host in self.agents:
                assert self.ask(host, {"do": "apply"})["revision_realized"] == self.revision

    def start(self, *options: str, only: str | None = None) -> None:
        self.begin(*options, only=only)
        for host in self.agents:
            self.wait(host, lambda status: status["revision_realized"] == self.revision and not status["problems"])

    def begin(self, *options: str, only: str | None = None) -> None:
        for host in ("h1", "h2") if only is None else (only,):
            command = [sys.executable, "-m", "dfw", "-v", "agent", "run", "--host", host, "--underlay", "ul0"]
            command += ["--netns", self.netns(host), "--desired", str(self.folder / host / "desired.json")]
            command += ["--run", str(self.folder / host), "--connections", "4096", *options]
            log = (self.folder / host / "agent.log").open("ab")
            self.agents[host] = subprocess.Popen(command, stdout=log, stderr=log)
            log.close()

    def ask(self, host: str, request: dict[str, Any]) -> dict[str, Any]:
        return agent_ask(self.folder / host / "agent.sock", request, PATIENCE)

    def wait(self, host: str, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        until, status = time.monotonic() + PATIENCE, {}
        while time.monotonic() < until:
            with contextlib.suppress(AskError):
                status = self.ask(host, {"do": "status"})
                if is_so(status):
                    return status
            time.sleep(0.02)
        raise AssertionError(f"{host}: {status}\n{(self.folder / host / 'agent.log').read_text()[-3000:]}")

    def listen(self, name: str, family: int, port: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
        def make() -> socket.socket:
            found = socket.socket(family, kind)
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(("", port))
            if kind == socket.SOCK_STREAM:
                found.listen(64)
            return found

        return run_in(self.netns(name), make)

    def connect(self, name: str, address: str, port: int, seconds: float = PATIENCE) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        found = run_in(self.netns(name), lambda: socket.socket(family, socket.SOCK_STREAM))
        found.settimeout(seconds)
        try:
            found.connect((address, port))
        except OSError:
            found.close()
            raise
        return found

    def end(self) -> None:
        for host, agent in self.agents.items():
            agent_end(agent, self.folder / host)
        for name in ("h1", "h2", *IPS):
            subprocess.run(["umount", self.netns(name)], check=False)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[TwoHosts]:
    found = TwoHosts(tmp_path)
    try:
        found.build()
        found.tell(POLICY)
        yield found
    finally:
        found.end()


@contextlib.contextmanager
def two_agents(folder: Path, policy: str) -> Iterator[TwoHosts]:
    """Both hosts with running agents that have this policy; for other modules' fixtures."""
    found = TwoHosts(folder)
    try:
        found.build()
        found.tell(policy)
        found.start()
        yield found
    finally:
        found.end()


def pairs() -> Iterator[tuple[str, str, str]]:
    for source in IPS:
        for target in IPS:
            if source != target:
                yield from ((source, target, ip) for ip in IPS[target])


@pytest.mark.parametrize("tier", ["A", "B", "C"])
def test_workloads_reach_each_other_and_what_is_refused_is_refused(hosts: TwoHosts, tier: str) -> None:
    hosts.start("--uplink", tier)
    listeners = {name: hosts.listen(name, socket.AF_INET6, 8080) for name in IPS}
    refusing = {name: hosts.listen(name, socket.AF_INET6, 22) for name in IPS}
    for source, target, ip in pairs():
        with hosts.connect(source, ip, 8080) as client:
            server, peer = listeners[target].accept()
            assert peer[0].removeprefix("::ffff:") in IPS[source]
            client.sendall(b"from " + source.encode())
            assert server.recv(64) == b"from " + source.encode()
            server.close()
        with pytest.raises(ConnectionRefusedError):
            hosts.connect(source, ip, 22)
    with pytest.raises(TimeoutError):
        hosts.connect("a", IPS["b"][0], 3306, 0.3)
    assert hosts.ask("h1", {"do": "status"})["tier"] == tier
    for one in (*listeners.values(), *refusing.values()):
        one.close()


def test_a_card_that_has_the_teps_address_itself_leaves_tier_a_out(hosts: TwoHosts) -> None:
    for number, host in enumerate(("h1", "h2"), 1):
        address = ["ip", "address", "add", f"172.16.0.{number}/24", "dev", "ul0"]
        subprocess.run(["nsenter", f"--net={hosts.netns(host)}", *address], check=True)
    hosts.start(only="h1")
    hosts.start(only="h2")
    assert {hosts.ask(host, {"do": "status"})["tier"] for host in ("h1", "h2")} == {"B"}
    with hosts.listen("b", socket.AF_INET6, 8080), hosts.connect("a", IPS["b"][0], 8080):
        pass


def test_a_tier_that_is_asked_for_says_who_has_the_teps_address(hosts: TwoHosts) -> None:
    address = ["ip", "address", "add", "172.16.0.1/24", "dev", "ul0"]
    subprocess.run(["nsenter", f"--net={hosts.netns('h1')}", *address], check=True)
    hosts.begin("--uplink", "A", only="h1")
    status = hosts.wait("h1", lambda status: bool(status["problems"]))
    assert status["tier"] is None and "172.16.0.1 is an address of ul0" in status["problems"]["uplink"]


def test_paths_may_be_relative(hosts: TwoHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(hosts.folder)
    command = [sys.executable, "-m", "dfw", "agent", "run", "--host", "h1", "--underlay", "ul0", "--netns", "ns-h1"]
    command += ["--desired", "h1/desired.json", "--run", "h1", "--connections", "4096"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with Path("h1/agent.log").open("wb") as log:
        hosts.agents["h1"] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    hosts.wait("h1", lambda status: status["revision_realized"] == hosts.revision and not status["problems"])


def test_a_rule_that_comes_cuts_what_it_refuses_and_nothing_else(hosts: TwoHosts) -> None:
    hosts.start()
    with hosts.listen("b", socket.AF_INET, 8080) as listener, hosts.listen("b", socket.AF_INET, 8081) as other:
        kept, cut = hosts.connect("a", IPS["b"][0], 8081), hosts.connect("a", IPS["b"][0], 8080)
        far, near = other.accept()[0], listener.accept()[0]
        hosts.tell(POLICY.replace("MySQL]", "MySQL, x]") + SERVICE)
        cut.sendall(b"x")
        near.settimeout(0.5)
        with pytest.raises(TimeoutError):
            near.recv(1)
        kept.sendall(b"y")
        assert far.recv(1) == b"y"
        for one in (kept, cut, far, near):
            one.close()


SERVICE = """
---
resource_type: Service
id: x
service_entries: [{resource_type: L4PortSetServiceEntry, l4_protocol: TCP, destination_ports: ["8080"]}]
"""


def transfer(
    sender: socket.socket, receiver: socket.socket, total: int, between: Callable[[], None]
) -> tuple[int, float]:
    """Send `total` bytes, do something in the middle; returns the bytes that arrived and the longest silence."""
    found, longest = 0, 0.0

    def receive() -> None:
        nonlocal found, longest
        last = time.monotonic()
        while data := receiver.recv(1 << 18):
            now = time.monotonic()
            longest, last = max(longest, now - last), now
            found += len(data)

    thread = threading.Thread(target=receive)
    thread.start()
    block = bytes(1 << 18)
    for at in range(0, total, len(block)):
        if at == total // 2:
            between()
        sender.sendall(block)
    sender.shutdown(socket.SHUT_WR)
    thread.join(PATIENCE)
    return found, longest


def is_another(pid: int, status: dict[str, Any]) -> bool:
    return bool(status["pid"] != pid)


def test_a_transfer_outlives_its_agents(hosts: TwoHosts) -> None:
    hosts.start()
    with hosts.listen("c", socket.AF_INET, 8080) as listener:
        client = hosts.connect("a", IPS["c"][0], 8080)
        server = listener.accept()[0]
        killed: dict[str, int] = {}

        def kill() -> None:
            for host in ("h1", "h2"):
                killed[host] = hosts.ask(host, {"do": "status"})["pid"]
                os.kill(killed[host], signal.SIGKILL)

        total = 64 << 20
        found, longest = transfer(client, server, total, kill)
        assert found == total
        for host, pid in killed.items():
            status = hosts.wait(host, partial(is_another, pid))
            assert status["revision_realized"] == hosts.revision
        print(f"longest silence {longest:.3f} s")
        client.close()
        server.close()
        # What was refused before is refused by the successors.
        with pytest.raises(ConnectionRefusedError), hosts.listen("c", socket.AF_INET, 22):
            hosts.connect("a", IPS["c"][0], 22)


def test_a_vnic_that_cannot_be_made_is_tried_again(hosts: TwoHosts) -> None:
    hosts.start()
    enter = ["nsenter", f"--net={hosts.netns('b')}", "ip", "link"]
    hosts.attachments["a"] = hosts.netns("b")  # where eth0 is b's
    hosts.tell(POLICY)
    assert "eth0" in hosts.ask("h1", {"do": "status"})["problems"]["a"]
    told = (hosts.folder / "h1" / "desired.json").stat().st_mtime_ns
    subprocess.run([*enter, "set", "eth0", "name", "eth9"], check=True)
    hosts.wait("h1", lambda status: not status["problems"])
    assert (hosts.folder / "h1" / "desired.json").stat().st_mtime_ns == told
    links = subprocess.run([*enter], capture_output=True, text=True, check=True).stdout
    assert "eth0" in links and "eth9" in links


def test_an_interface_is_set_up_anew_when_its_own_vnic_changes_and_not_for_others(hosts: TwoHosts) -> None:
    hosts.start()
    enter = ["nsenter", f"--net={hosts.netns('a')}", "ip"]
    subprocess.run([*enter, "link", "set", "eth0", "mtu", "1400"], check=True)
    segment = "  - {name: zero, vni: 5000, subnets: [10.0.0.0/24], gateway: t1}\n"
    hosts.inventory = INVENTORY.replace("segments:\n", f"segments:\n{segment}")  # all other segments' numbers move
    hosts.tell(POLICY)
    shown = subprocess.run([*enter, "addr", "show", "eth0"], capture_output=True, text=True, check=True).stdout
    assert "mtu 1400" in shown and "10.0.1.10/24" in shown
    hosts.inventory = hosts.inventory.replace("[10.0.1.10, ", "[10.0.1.20, ")
    hosts.tell(POLICY)
    shown = subprocess.run([*enter, "addr", "show", "eth0"], capture_output=True, text=True, check=True).stdout
    assert "mtu 1500" in shown and "10.0.1.20/24" in shown and "10.0.1.10/24" not in shown


def test_one_agent_a_host(hosts: TwoHosts) -> None:
    hosts.start()
    command = [sys.executable, "-m", "dfw", "agent", "run", "--host", "h1", "--underlay", "ul0"]
    command += ["--netns", hosts.netns("h1"), "--desired", "/nowhere", "--run", str(hosts.folder / "second")]
    second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert second.returncode == 3
    assert "one runs here already" in second.stderr
