# SPDX-License-Identifier: Apache-2.0
"""vNICs for what is there already: real connections, over restarts of the agent, and the desired state's last word."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from dfw import cli
from overlay.attachment import AttachError, Attachment, attachment_check, mac_of, state_attached
from overlay.enter import run_in
from overlay.hoststate import HostState, state_check, state_read
from tests.support.one_host import INVENTORY, OneHost
from tests.support.patience import until, until_inside

Test = TypeVar("Test", bound=Callable[..., None])
DECLARED = INVENTORY.replace("ports: [", "ports: [{name: x, host: h1, segment: s, ips: [10.0.1.30]}, ")


def live(test: Test) -> Test:
    """A test with a real agent."""
    for need in (pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun, pytest.mark.needs_ipv6):
        test = need(test)
    return test


@pytest.fixture
def host(tmp_path: Path) -> Iterator[OneHost]:
    found = OneHost(tmp_path)
    try:
        found.build()
        found.tell(1, DECLARED)
        yield found
    finally:
        found.end()


def verb(host: OneHost, *arguments: str | Path, status: int = 0) -> None:
    assert cli.run([*map(str, arguments), "--run", str(host.run)]) == status


def reached(source: Path | str, target: Path | str, address: str, seconds: float = 0.4) -> bool:
    """Whether a TCP connection comes about from one namespace to another."""

    def client() -> socket.socket:
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM)

    with run_in(str(target), lambda: socket.create_server(("", 80))), run_in(str(source), client) as one:
        one.settimeout(seconds)
        return one.connect_ex((address, 80)) == 0


def interfaces(netns: Path) -> set[str]:
    words = ["nsenter", f"--net={netns}", "ip", "-br", "link"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {line.split()[0] for line in done.stdout.splitlines()}


def soon(source: Path | str, target: Path | str, address: str) -> None:
    """It comes about on a loaded machine, too."""
    until(lambda: reached(source, target, address), f"{address} is not reached")


@live
def test_a_vnic_of_the_hosts_own(host: OneHost, capfd: pytest.CaptureFixture[str]) -> None:
    a, c = host.pods["a"], host.pods["c"]
    pid = host.start()["pid"]
    verb(host, "attach", "--netns", c, "--segment", "s", "--name", "c", "--ip", "10.0.1.40/24")
    assert not reached(c, a, "10.0.1.10") and not reached(a, c, "10.0.1.40")  # no policy was made for it
    verb(host, "detach", "c")
    assert "eth0" not in interfaces(c)
    words = ("--segment", "s", "--name", "c", "--ip", "10.0.1.40/24", "--default", "allow", "--interface", "net0")
    verb(host, "attach", "--netns", c, *words)
    assert "net0" in interfaces(c)
    soon(c, a, "10.0.1.10")
    soon(a, c, "10.0.1.40")
    # It outlives the agent, and a new desired state.
    os.kill(pid, signal.SIGKILL)
    until(lambda: host.wait(1)["pid"] != pid, "no successor")
    soon(a, c, "10.0.1.40")
    host.tell(2, DECLARED.replace("10.0.1.11", "10.0.1.12"))
    host.wait(2)
    soon(c, a, "10.0.1.10")
    rows = {row["vnic"]: row for row in host.ask({"do": "show", "what": "vnics"})["rows"]}
    assert rows["c"]["segment"] == "s" and rows["c"]["filter"] is not None
    # What the desired state takes for another is no longer this one's.
    host.tell(3, DECLARED.replace("10.0.1.11", "10.0.1.40"))
    host.wait(3)
    assert "net0" not in interfaces(c)
    verb(host, "detach", "c")
    verb(host, "detach", "c", status=2)
    assert "was attached here; none is" in capfd.readouterr().err


@live
def test_a_process_gets_a_port_of_the_desired_state(host: OneHost, capfd: pytest.CaptureFixture[str]) -> None:
    host.start()
    a, d = host.pods["a"], host.pods["d"]
    with subprocess.Popen(["nsenter", f"--net={d}", "sleep", "600"]) as process:
        until_inside(process.pid, d)
        words = ("--pid", str(process.pid), "--segment", "s", "--name", "x")
        verb(host, "attach", *words, "--ip", "10.0.1.31/24", status=2)
        assert "has its addresses from the desired state" in capfd.readouterr().err
        verb(host, "attach", *words)
        soon(a, d, "10.0.1.30")
        verb(host, "attach", *words, status=2)
        assert "attached already" in capfd.readouterr().err
        process.kill()
    soon(d, a, "10.0.1.10")
    verb(host, "detach", "x")
    assert "eth0" not in interfaces(d) and not [*host.run.glob("attached-*")]
    for wrong, said in (
        (("--netns", "/etc/hostname", "--segment", "s", "--name", "y"), "no network namespace"),
        (("--netns", str(d), "--segment", "t", "--name", "y"), "this host has no segment 't'; it has s"),
        (("--netns", str(d), "--segment", "s", "--name", "a"), "attached by the desired state"),
        (("--netns", str(d), "--segment", "s", "--name", "y"), "give its addresses"),
        (("--netns", str(d), "--segment", "s", "--name", "y", "--ip", "10.0.1.10/24"), "somebody's already"),
    ):
        verb(host, "attach", *wrong, status=2)
        assert said in capfd.readouterr().err


def state(host: OneHost) -> HostState:
    return state_read(host.folder / "desired.json")


def test_the_state_with_a_vnic_laid_over(tmp_path: Path) -> None:
    host = OneHost(tmp_path)
    host.tell(1, DECLARED)
    told = state(host)
    own = Attachment("c", "s", "/n", ips=("10.0.1.40/24",), default="ALLOW")
    made = state_attached(told, own)
    state_check(made)
    assert [vnic.name for vnic in made.vnics] == [*(vnic.name for vnic in told.vnics), "c"]
    vnic = made.vnics[-1]
    assert (vnic.mac, vnic.ips, vnic.netns) == (mac_of(own), own.ips, "/n")
    assert made.rules[: len(told.rules)] == told.rules and made.tables[: len(told.tables)] == told.tables
    assert all(rule.path.startswith("attached/c/") for rule in made.rules[len(told.rules) :])
    declared = state_attached(told, Attachment("x", "s", "/m"))
    changed = [vnic for vnic in declared.vnics if vnic not in told.vnics]
    assert [(vnic.name, vnic.netns) for vnic in changed] == [("x", "/m")]
    assert msgspec.structs.replace(changed[0], netns=None) in told.vnics and declared.rules == told.rules
    for wrong in (
        msgspec.structs.replace(own, mac="02:00"),
        msgspec.structs.replace(own, ips=("10.0.1.40",), interface="a/b"),
        msgspec.structs.replace(own, default="MAYBE"),
        msgspec.structs.replace(own, ips=("x",)),
    ):
        with pytest.raises(AttachError):
            attachment_check(wrong, told)
        assert state_attached(told, wrong) == told
