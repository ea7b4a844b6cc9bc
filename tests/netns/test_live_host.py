# SPDX-License-Identifier: Apache-2.0
"""Real connections between pods of two hosts through cards, firewall, forwarding and Geneve, in one process."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from dfw.core import CoreError, ffi
from dfw.core.live import UPLINK_MAC, UPLINK_PEER_MAC, ControlPacket, Live, tap_open
from dfw.layout import ACTION_DROP
from overlay.enter import run_in
from overlay.uplink import TEP_KERNEL_MAC, TEP_MAC, apply_uplink, plan_uplink
from tests.support.patience import PATIENCE, until
from tests.support.small_fabric import (
    GATEWAYS_V4,
    GATEWAYS_V6,
    TEPS,
    A,
    B,
    D,
    F,
    SmallHost,
    Workload,
    allow_all,
    fabric_of,
)
from tests.support.two_hosts import netns_path, run

PODS = (A, B, D, F)
POD_MTU, UNDERLAY_MTU = 1400, 1500
_numbers = itertools.count()

pytestmark = [
    pytest.mark.needs_netns(),
    pytest.mark.needs_tun(),
    pytest.mark.needs_ipv6(),
    pytest.mark.needs_tool("ip"),
]


class Pair:
    """Two hosts of the small fabric with live cards; pods a and b on the first, d and f on the second."""

    def __init__(self, tier: str, workers: int = 1) -> None:
        mark = f"pal-lh-{os.getpid()}-{next(_numbers)}"
        self.tier, self.workers = tier, workers
        self.spaces = [f"{mark}-{name}" for name in ("h0", "h1", *(pod.name for pod in PODS))]
        self.pods = dict(zip(PODS, self.spaces[2:], strict=True))
        self.hosts: list[SmallHost] = []
        self.live: list[Live] = []

    def up(self) -> None:
        """Namespaces, underlay, cards, workers."""
        for name in self.spaces:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        mtu = str(UNDERLAY_MTU)
        link = (
            "link",
            "add",
            "ul0",
            "mtu",
            mtu,
            "type",
            "veth",
            "peer",
            "name",
            "ul0",
            "netns",
            self.spaces[1],
            "mtu",
            mtu,
        )
        run("ip", "-n", self.spaces[0], *link)
        for number in (0, 1):
            self.hosts.append(SmallHost(number, fabric=fabric_of(number, mtu=POD_MTU, underlay_mtu=UNDERLAY_MTU)))
            self.live.append(Live(self.hosts[number].host, self.workers))
            steps = plan_uplink(self.tier, "ul0", TEPS[number], TEPS[1 - number : 2 - number], UNDERLAY_MTU)
            path = netns_path(self.spaces[number])
            if self.tier != "A":
                run_in(path, lambda steps=steps: apply_uplink(steps))
            found = self.live[number].set_uplink(self.tier, TEPS[number], netns=path, mtu=UNDERLAY_MTU)
            assert found == self.tier
            if self.tier == "A":
                run_in(path, lambda steps=steps: apply_uplink(steps))
            for pod in PODS:
                if pod.host == number:
                    self.add(pod)
            self.live[number].start()

    def add(self, pod: Workload) -> None:
        """A pod's TAP, addresses, routes; the descriptors are closed here, the core has its own."""
        name = self.pods[pod]
        fds, offloads = tap_open(netns_path(name), "eth0", pod.mac, self.workers)
        self.live[pod.host].add_port(pod.number, fds, offloads)
        for fd in fds:
            os.close(fd)
        run("ip", "-n", name, "link", "set", "eth0", "mtu", str(POD_MTU), "up")
        run("ip", "-n", name, "addr", "add", f"{pod.v4}/24", "dev", "eth0")
        run("ip", "-n", name, "addr", "add", f"{pod.v6}/64", "dev", "eth0", "nodad")
        run("ip", "-n", name, "route", "add", "default", "via", GATEWAYS_V4[pod.segment])
        run("ip", "-n", name, "-6", "route", "add", "default", "via", GATEWAYS_V6[pod.segment])

    def down(self) -> None:
        for live in self.live:
            live.close()
        for name in self.spaces:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def socket(self, pod: Workload, kind: int, family: int) -> socket.socket:
        """A socket inside a pod."""
        domain = socket.AF_INET if family == 4 else socket.AF_INET6
        made = run_in(netns_path(self.pods[pod]), lambda: socket.socket(domain, kind))
        made.settimeout(PATIENCE)
        return made

    def transfer(self, client: Workload, server: Workload, family: int, size: int = 1 << 20) -> None:
        """`size` bytes over TCP from one to the other, and one back."""
        address = (server.v4 if family == 4 else server.v6, 80)
        data = os.urandom(1 << 16) * (size >> 16)
        with self.socket(server, socket.SOCK_STREAM, family) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
            with self.socket(client, socket.SOCK_STREAM, family) as sending:
                sending.connect(address)
                taking, _ = listener.accept()
                taking.settimeout(PATIENCE)
                thread = threading.Thread(target=sending.sendall, args=(data,), daemon=True)
                thread.start()
                with taking:
                    assert read(taking, size) == data
                    taking.sendall(b"!")
                    assert sending.recv(1) == b"!"
                thread.join(timeout=PATIENCE)

    def dropped(self) -> dict[str, int]:
        """Of both hosts: by the switch, and by the cards."""
        found: dict[str, int] = {}
        for host, live in zip(self.hosts, self.live, strict=True):
            stats = live.stats()
            assert stats.uplink is not None
            cards = [*stats.ports.values(), stats.uplink]
            for drops in (host.dropped(), stats.lost, *(card.drops for card in cards)):
                for reason, count in drops.items():
                    found[reason] = found.get(reason, 0) + count
        return found


def read(connection: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    got = bytearray()
    while len(got) < size and (block := connection.recv(1 << 20)):
        got += block
    return bytes(got)


@contextlib.contextmanager
def pair(tier: str, workers: int = 1) -> Iterator[Pair]:
    made = Pair(tier, workers)
    try:
        made.up()
        yield made
    except CoreError as error:
        if "this kernel has no" in str(error):
            pytest.skip(f"needs uplink tier {tier}: {error}")
        raise
    finally:
        made.down()


def test_both_sides_mean_the_same_addresses() -> None:
    assert (UPLINK_MAC, UPLINK_PEER_MAC) == (TEP_MAC, TEP_KERNEL_MAC)


@pytest.mark.parametrize("tier", ["A", "B", "C"])
def test_connections_cross(tier: str) -> None:
    """In one segment and routed, on one host and across, both families; then a rule, and what the pod sees of it."""
    with pair(tier) as hosts:
        for family in (4, 6):
            for client, server in ((A, B), (A, F), (F, A), (A, D), (D, B)):
                hosts.transfer(client, server, family)
        # While they came up, pods said multicasts to others that had no card yet, or one that was down, or whose host's
        # TEP was not there: on a slow machine the kernel said so.
        assert set(hosts.dropped()) <= {"link-down", "underlay-icmp"}, hosts.dropped()
        stats = hosts.live[0].stats()
        assert stats.uplink is not None and stats.uplink.tx_segments > stats.ports[A.number].rx_frames
        refuse = allow_all()
        refuse["action"] = ACTION_DROP
        hosts.hosts[1].rules(refuse, only=F)
        with hosts.socket(A, socket.SOCK_DGRAM, 4) as sending:
            for _ in range(5):
                sending.sendto(b"?", (F.v4, 9))
        until(lambda: hosts.dropped().get("match", 0) >= 5, "they are not refused")
        hosts.transfer(A, D, 4)  # others are unaffected


def test_no_more_workers_than_the_engine_has() -> None:
    """Each has tables of its own."""
    with pair("B") as hosts, pytest.raises(CoreError, match="the engine has fewer"):
        Live(hosts.hosts[0].host, 2)


@pytest.mark.parametrize("tier", ["A", "B"])
def test_control_packets_between_hosts(tier: str) -> None:
    """With the O bit a packet is for the host itself: it comes out at the other's control socket."""
    geneve = bytes.fromhex("0080655800000100")
    packet = ControlPacket(TEPS[1], geneve + b"hello", len(geneve))
    with pair(tier) as hosts:
        hosts.transfer(A, F, 4)
        assert hosts.live[1].read_control() is None
        hosts.live[0].send_control(packet)
        found: list[ControlPacket] = []
        until(lambda: (got := hosts.live[1].read_control()) and not found.append(got), "it does not come out")  # type: ignore[func-returns-value]
        assert found == [ControlPacket(TEPS[0], packet.data, packet.header)]
        with pytest.raises(ValueError, match="no control packet"):
            hosts.live[0].send_control(ControlPacket(TEPS[1], b"x", 8))


def test_what_is_refused() -> None:
    """Ports twice, descriptors that are none, an address that is nobody's; and then all is as before."""
    with pair("C") as hosts:
        live = hosts.live[0]
        with pytest.raises(CoreError, match="there already"):
            live.add_port(A.number, [0], 0)
        with pytest.raises(CoreError, match="Bad file descriptor"):
            live.add_port(60000, [999], 0)
        with pytest.raises(CoreError, match="Cannot assign"):
            live.set_uplink("C", "203.0.113.1", netns=netns_path(hosts.spaces[0]))
        with pytest.raises(CoreError, match="not there"):
            live.remove_port(60001)
        with pytest.raises(ValueError, match="no MAC address"):
            tap_open(None, "palx", "02:00")
        hosts.transfer(A, F, 6)
        live.remove_uplink()
        assert live.stats().uplink is None
        assert int(ffi.sizeof("pal_live_counts")) == 8 * (6 + 128)
        assert all(worker.frames > 0 for worker in live.stats().workers)
