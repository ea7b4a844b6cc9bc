# SPDX-License-Identifier: Apache-2.0
"""Agents killed, upgraded and cut off while workloads talk: no connection is lost, and none is wrongly admitted."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from overlay.enter import run_in
from tests.conftest import LONG
from tests.netns.test_agent import IPS, POLICY, TwoHosts, two_agents
from tests.support.patience import PATIENCE

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6]

KILLS = 200 if LONG else 5
IDLE = 8  # connections of each pair that say nothing meanwhile
PAIRS = (("a", "b"), ("a", "c"), ("d", "b"))  # same segment, routed, routed the other way


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoHosts]:
    with two_agents(tmp_path_factory.mktemp("hosts"), POLICY) as found:
        yield found


class Load:
    """Connections that were there before: busy ones that compare every byte, idle ones; datagrams by which silences are
    measured; and somebody who tries without end what the policy refuses."""

    def __init__(self, hosts: TwoHosts) -> None:
        self.hosts = hosts
        self.ending = threading.Event()
        self.errors: list[str] = []
        self.heard: list[float] = []
        self.echoed = [0] * (2 * len(PAIRS))
        self.pairs: list[tuple[socket.socket, socket.socket]] = []
        for source, target in PAIRS:
            for ip in IPS[target]:
                with hosts.listen(target, socket.AF_INET6, 8080) as listener:
                    for _ in range(IDLE + 1):
                        client = hosts.connect(source, ip, 8080, PATIENCE)
                        server = listener.accept()[0]
                        server.settimeout(PATIENCE)
                        self.pairs.append((client, server))
        self.refusing = [hosts.listen(target, socket.AF_INET6, 22) for target in IPS]
        busy = self.pairs[:: IDLE + 1]
        self.idle = [pair for pair in self.pairs if pair not in busy]
        work: list[Callable[[], None]] = [partial(self._talk, *item) for item in enumerate(busy)]
        work += [self._refused, self._say, self._hear]
        self.listener = hosts.listen("c", socket.AF_INET, 7000, socket.SOCK_DGRAM)
        self.listener.settimeout(0.1)
        self.threads = [threading.Thread(target=partial(self._guarded, one)) for one in work]
        self.cards = cards(hosts)
        for thread in self.threads:
            thread.start()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self.errors.append(f"{work}: {error!r}")

    def _talk(self, number: int, pair: tuple[socket.socket, socket.socket]) -> None:
        client, server = pair
        while not self.ending.is_set():
            data = random.randbytes(random.choice((10, 1000, 30000)))
            client.sendall(data)
            got = b""
            while len(got) < len(data):
                got += server.recv(1 << 16)
            assert got == data
            server.sendall(b"ok")
            assert client.recv(2) == b"ok"
            self.echoed[number] += 1

    def _refused(self) -> None:
        while not self.ending.is_set():
            source, target = random.choice(PAIRS)
            try:
                self.hosts.connect(source, random.choice(IPS[target]), 22, 0.2).close()
            except OSError:  # refused; or silence, or nobody's address while an agent is away
                continue
            raise AssertionError("a connection that the policy refuses was made")

    def _say(self) -> None:
        with run_in(self.hosts.netns("a"), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            while not self.ending.is_set():
                with contextlib.suppress(OSError):
                    sender.sendto(b"x", (IPS["c"][0], 7000))
                time.sleep(0.002)

    def _hear(self) -> None:
        while not self.ending.is_set():
            with contextlib.suppress(TimeoutError):
                self.listener.recv(16)
                self.heard.append(time.monotonic())

    def progress(self) -> None:
        """Wait until every busy connection has got further."""
        goal, until = [count + 2 for count in self.echoed], time.monotonic() + PATIENCE
        while any(has < wants for has, wants in zip(self.echoed, goal, strict=True)):
            assert time.monotonic() < until, f"{self.echoed} of {goal}; {self.errors}"
            assert not self.errors, self.errors
            time.sleep(0.01)

    def silence(self, since: float) -> float:
        """The longest pause between two datagrams."""
        times = [at for at in list(self.heard) if at >= since - 0.1]
        return max((later - one for one, later in pairwise(times)), default=0.0)

    def finish(self) -> None:
        """All are there, those too that were silent; and the pods saw nothing of it."""
        self.progress()
        self.ending.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        assert not self.errors, self.errors
        for client, server in self.idle:
            server.sendall(b"there?")
            assert client.recv(16) == b"there?"
        assert cards(self.hosts) == self.cards
        self.close()

    def close(self) -> None:
        self.ending.set()
        for one in (*self.refusing, self.listener, *(end for pair in self.pairs for end in pair)):
            one.close()


@pytest.fixture
def load(hosts: TwoHosts) -> Iterator[Load]:
    found = Load(hosts)
    try:
        yield found
    finally:
        found.close()


def cards(hosts: TwoHosts) -> dict[str, Any]:
    """What pods know of their interfaces: number, MAC address, how often the carrier came or went."""

    def look() -> Any:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            link = next(item for item in netlink.link("dump") if item.get_attr("IFLA_IFNAME") == "eth0")
        return link["index"], link.get_attr("IFLA_ADDRESS"), link.get_attr("IFLA_CARRIER_CHANGES")

    return {name: run_in(hosts.netns(name), look) for name in IPS}


def agent_pid(hosts: TwoHosts, host: str) -> int:
    return int(json.loads((hosts.folder / host / "pids.json").read_bytes())["agent"][0])


def test_agents_killed_at_random_moments(hosts: TwoHosts, load: Load) -> None:
    gaps = []
    for _ in range(KILLS):
        time.sleep(random.uniform(0, 0.3))
        host = random.choice(("h1", "h2"))
        begun = time.monotonic()
        with contextlib.suppress(ProcessLookupError):  # its successor has not said who it is yet
            os.kill(agent_pid(hosts, host), signal.SIGKILL)
        if random.random() < 0.8:  # else another one at once
            load.progress()
            gaps.append(load.silence(begun))
    for host in hosts.agents:
        hosts.wait(host, lambda status: status["revision_realized"] == hosts.revision and not status["problems"])
    load.finish()
    if gaps:
        gaps.sort()
        print(f"{len(gaps)} gaps: median {statistics.median(gaps):.3f}, max {gaps[-1]:.3f} s")


def test_agents_upgraded_one_after_the_other(hosts: TwoHosts, load: Load) -> None:
    """The old one ends in order, the new one starts from nothing."""
    for host in tuple(hosts.agents):
        old = hosts.ask(host, {"do": "status"})["pid"]
        hosts.ask(host, {"do": "end"})
        assert hosts.agents[host].wait(PATIENCE) == 0
        begun = time.monotonic()
        hosts.start(only=host)
        status = hosts.wait(host, lambda status: status["revision_realized"] == hosts.revision)
        assert status["pid"] != old and not status["problems"]
        load.progress()
        print(f"silence {load.silence(begun):.3f} s")
    load.finish()


def test_an_underlay_that_is_cut_and_heals(hosts: TwoHosts, load: Load) -> None:
    link(hosts, "down")
    before = list(load.echoed)
    time.sleep(0.5)
    assert max(after - ago for after, ago in zip(load.echoed, before, strict=True)) <= 1
    link(hosts, "up")
    load.progress()
    load.finish()


def link(hosts: TwoHosts, state: str) -> None:
    """The other end of h1's wire: h1 loses its carrier, h2 its routes."""

    def change() -> None:
        from pyroute2 import IPRoute

        with IPRoute() as netlink:
            netlink.link("set", index=netlink.link_lookup(ifname="ul0")[0], state=state)

    run_in(hosts.netns("h2"), change)
