# SPDX-License-Identifier: Apache-2.0
"""A virtual machine's TAP on a segment: real connections, whole super-packets, and this machine says nothing to it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfw import cli
from dfw.core.live import tap_open
from overlay.enter import run_in
from tests.netns.test_agent import transfer
from tests.netns.test_attach import interfaces, reached
from tests.support.one_host import INVENTORY, OneHost
from tests.support.patience import PATIENCE, until

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6]
MAC, IP = "52:54:00:00:00:01", "10.0.1.30"
DECLARED = INVENTORY.replace("ports: [", f"ports: [{{name: x, host: h1, segment: s, mac: '{MAC}', ips: [{IP}]}}, ")


class Machine(threading.Thread):
    """What is no hypervisor: it has the TAP `vm0` of the host open, as one would, and hands on what comes there to the
    TAP that is its guest's interface, and back; offloads and all."""

    def __init__(self, host: OneHost) -> None:
        super().__init__(daemon=True)
        self.inside = host.pods["d"]
        (self.near,), _ = tap_open(str(host.netns), "vm0")
        (self.guest,), _ = tap_open(str(self.inside), "eth0", MAC)
        self.ended = threading.Event()
        for words in (f"addr add {IP}/24 dev eth0", "link set eth0 mtu 1400 up", "route add default dev eth0"):
            subprocess.run(["nsenter", f"--net={self.inside}", "ip", *words.split()], check=True)
        self.start()

    def run(self) -> None:
        ways = {self.near: self.guest, self.guest: self.near}
        while not self.ended.is_set():
            for ready in select.select([*ways], [], [], 0.1)[0]:
                with contextlib.suppress(OSError):  # a side that is down, or full
                    os.write(ways[ready], os.read(ready, 1 << 17))

    def end(self) -> None:
        """It is switched off: its TAP goes."""
        self.ended.set()
        self.join()
        os.close(self.near)
        os.close(self.guest)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[OneHost]:
    found = OneHost(tmp_path)
    try:
        found.build()
        found.tell(1, DECLARED)
        found.start()
        yield found
    finally:
        found.end()


@pytest.fixture
def machine(host: OneHost) -> Iterator[Machine]:
    found = Machine(host)
    yield found
    if not found.ended.is_set():
        found.end()


def verb(host: OneHost, *arguments: str, status: int = 0) -> None:
    """On the host."""
    assert run_in(str(host.netns), lambda: cli.run([*arguments, "--run", str(host.run)])) == status


def test_a_machine_is_on_the_segment_and_not_in_the_host(
    host: OneHost, machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    a, vm = host.pods["a"], machine.inside
    host.command("ip link set vm0 up")
    verb(host, "attach", "--tap", "vm0", "--segment", "s", "--name", "x")
    assert "vNIC x: the TAP vm0" in capfd.readouterr().out
    assert "vm0" not in interfaces(host.netns)
    until(lambda: reached(vm, a, "10.0.1.10", 1.0), "a is not reached")
    until(lambda: reached(a, vm, IP, 1.0), "the machine is not reached")
    with run_in(str(a), lambda: socket.create_server(("", 80))) as listener:
        client = run_in(str(vm), lambda: socket.create_connection(("10.0.1.10", 80), PATIENCE))
        server = listener.accept()[0]
        server.settimeout(PATIENCE)

        def kill() -> None:
            os.kill(host.ask({"do": "status"})["pid"], signal.SIGKILL)

        assert transfer(client, server, 4 << 20, kill)[0] == 4 << 20  # over the agent's death, too
        client.close()
        server.close()
    host.wait(1)
    shown = next(row for row in host.ask({"do": "show", "what": "vnics"})["rows"] if row["vnic"] == "x")
    assert (shown["mac"], shown["problem"]) == (MAC, None) and shown["filter"] is not None
    # What lies is refused; what has a VLAN tag, which the kernel would hide from us, is not heard at all.
    for tag in (b"\x81\x00\x00\x05", b""):
        frame = bytes.fromhex("020000000001020000000002") + tag + b"\x08\x00" + bytes(60)
        os.write(machine.near, bytes(12) + frame)

    def refused() -> int:
        rows = host.ask({"do": "show", "what": "stats"})["rows"]
        return sum(row["count"] for row in rows if row.get("frames") and row["reason"] == "spoof-mac")

    until(refused, "the second one is not refused")
    assert refused() == 1
    # The host's own address: nobody there hears the machine ask, or is heard.
    with run_in(str(vm), lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as one:
        one.settimeout(1.0)
        with pytest.raises(OSError, match=r"timed out|No route"):
            one.connect(("192.0.2.7", 22))
    verb(host, "detach", "x")
    assert "vm0: <BROADCAST,MULTICAST,UP" in host.command("ip link show vm0")
    assert not reached(vm, a, "10.0.1.10", 0.3) and not [*host.run.glob("attached-*")]
    verb(host, "attach", "--tap", "vm0", "--segment", "s", "--name", "x")
    until(lambda: reached(vm, a, "10.0.1.10", 1.0), "a is not reached again")
    machine.end()  # its TAP goes with it
    verb(host, "detach", "x")
    assert "vm0" not in interfaces(host.netns)


def test_what_cannot_be_attached_stays_where_it_is(
    host: OneHost, machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("--segment", "s", "--name", "x")
    host.command("ip addr add 192.0.2.99/24 dev vm0")
    for wrong, says in (
        (("--tap", "vm9", *words), "there is no interface vm9"),
        (("--tap", "ul0", *words), "ul0 is no TAP"),
        (("--tap", "vm0", *words), "vm0 has addresses of this machine (192.0.2.99)"),
        (("--tap", "vm0", "--pid", "1", *words), "give --netns, --pid or --tap"),
    ):
        verb(host, "attach", *wrong, status=2)
        assert says in capfd.readouterr().err
    host.command("ip addr flush dev vm0")
    own = ("--tap", "vm0", "--segment", "s", "--name", "y", "--ip", "10.0.1.50/24")
    verb(host, "attach", *own, status=2)
    assert "give its machine's MAC address" in capfd.readouterr().err
    assert "vm0" in interfaces(host.netns) and not [*host.run.glob("attached-*")]
    verb(host, "attach", *own, "--mac", "52:54:00:00:00:02", "--default", "allow")
    verb(host, "detach", "y")
    assert "vm0" in interfaces(host.netns)
