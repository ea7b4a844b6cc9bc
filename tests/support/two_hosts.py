# SPDX-License-Identifier: Apache-2.0
"""Two hosts on an underlay, a pod on each, all in network namespaces; the cards are native/tests/live_main.c's.

The wires are those of the overlay (overlay/uplink.py); the switch between the cards is a few lines of C, so that what
is tested here is native/io and nothing else. Everything goes when the `with` block ends, however it ends.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from overlay.enter import run_in
from overlay.uplink import apply_uplink, plan_uplink
from tests.conftest import ROOT
from tests.support.built import built
from tests.support.patience import PATIENCE

SOURCE: Final = ROOT / "native" / "tests" / "live_main.c"
TEPS: Final = {4: ("10.77.1.1", "10.77.2.1"), 6: ("fd77:1::1", "fd77:2::1")}
PODS: Final = {4: ("10.50.0.1", "10.50.0.2"), 6: ("fd50::1", "fd50::2")}
MACS: Final = ("02:00:00:00:50:01", "02:00:00:00:50:02")
UNDERLAY_MTU: Final = 1600
POD_MTU: Final = 1500
SANITIZE: Final = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
_numbers = itertools.count()


def build_program(target: Path, flags: Sequence[str] = SANITIZE) -> Path:
    """live_main.c, compiled."""
    command = ["gcc", "-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-fno-wrapv", *flags]
    return built(target, [*command, "-Inative/include", "-Inative", SOURCE, "-o", target, "-lpthread"])


def run(*command: str, netns: str | None = None) -> str:
    """Run it, in a namespace; what it printed. Raises CalledProcessError with what it said."""
    words = ["ip", "netns", "exec", netns, *command] if netns else list(command)
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=PATIENCE)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(words)}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def netns_path(name: str) -> str:
    """The file of a namespace."""
    return f"/run/netns/{name}"


@dataclass(slots=True)
class LiveProgram:
    """live_main.c as it runs: `tier` is what it chose."""

    process: subprocess.Popen[str]
    tier: str

    def ask(self, line: str) -> str:
        """One line of question, one of answer."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def stats(self) -> dict[str, Any]:
        """Counters of ports ("0", …), "uplink", "lost", "workers"."""
        answer: dict[str, Any] = json.loads(self.ask("stats"))
        return answer

    def end(self) -> int:
        """End of input ends it. Its status: not 0 when a sanitizer had something to say."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            return self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return -1


@dataclass(slots=True)
class TwoHosts:
    """What there is: namespaces of hosts and pods, and the programs, in order."""

    hosts: tuple[str, str]
    pods: tuple[str, str]
    underlay: int
    live: list[LiveProgram] = field(default_factory=list)

    def socket(self, pod: int, kind: int, family: int = 4) -> socket.socket:
        """A socket inside a pod."""
        domain = socket.AF_INET if family == 4 else socket.AF_INET6
        made = run_in(netns_path(self.pods[pod]), lambda: socket.socket(domain, kind))
        made.settimeout(PATIENCE)
        return made


def start_live(program: Path, tier: str, hosts: TwoHosts, number: int, workers: int, queues: int) -> LiveProgram:
    """One host's program, with its pod's TAP made."""
    teps = TEPS[hosts.underlay]
    port = f"{netns_path(hosts.pods[number])},eth0,{MACS[number]},{queues}"
    command = [str(program), tier, teps[number], teps[1 - number], netns_path(hosts.hosts[number]), str(workers), port]
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    first = process.stdout.readline().split()
    if first[:1] != ["tier"]:
        process.kill()
        raise AssertionError(f"the program ended with {process.wait()}")
    return LiveProgram(process, first[1])


@contextlib.contextmanager
def two_hosts(
    program: Path, tier: str, *, underlay: int = 4, workers: int = 1, queues: int = 1, offloads: bool = True
) -> Iterator[TwoHosts]:
    """Both hosts up, pods with addresses of both families. `offloads` False: the underlay's cards can do nothing."""
    mark = f"pal-io-{os.getpid()}-{next(_numbers)}"
    names = [f"{mark}-{kind}{number}" for number in (1, 2) for kind in "hp"]
    hosts = TwoHosts((names[0], names[2]), (names[1], names[3]), underlay)
    try:
        for name in names:
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run(
            *("ip", "-n", hosts.hosts[0], "link", "add", "ul0", "mtu", str(UNDERLAY_MTU), "type", "veth"),
            *("peer", "name", "ul0", "netns", hosts.hosts[1], "mtu", str(UNDERLAY_MTU)),
        )
        for number in (0, 1):
            host, tep = netns_path(hosts.hosts[number]), TEPS[underlay][number]
            peers = (TEPS[underlay][1 - number],)
            if not offloads:
                switch_off_offloads(netns_path(hosts.hosts[number]), "ul0")
            if tier != "A":  # the address must be there before the socket
                run_in(
                    host, lambda tep=tep, peers=peers: apply_uplink(plan_uplink(tier, "ul0", tep, peers, UNDERLAY_MTU))
                )
            hosts.live.append(start_live(program, tier, hosts, number, workers, queues))
            if tier == "A":
                run_in(
                    host, lambda tep=tep, peers=peers: apply_uplink(plan_uplink(tier, "ul0", tep, peers, UNDERLAY_MTU))
                )
            set_up_pod(hosts.pods[number], number)
        yield hosts
    finally:
        statuses = [live.end() for live in hosts.live]
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
    assert statuses == [0, 0], "a program ended badly: see its standard error"


def set_up_pod(name: str, number: int) -> None:
    """Addresses and MTU of a pod's interface."""
    run("ip", "-n", name, "link", "set", "eth0", "mtu", str(POD_MTU), "up")
    run("ip", "-n", name, "addr", "add", f"{PODS[4][number]}/24", "dev", "eth0")
    run("ip", "-n", name, "addr", "add", f"{PODS[6][number]}/64", "dev", "eth0", "nodad")


def switch_off_offloads(netns: str, interface: str) -> None:
    """As `ethtool -K INTERFACE tx off tso off gso off …` in the namespace at this path, by the same ioctl
    (linux/ethtool.h)."""
    import array
    import fcntl
    import struct

    commands = (0x17, 0x15, 0x1F, 0x24, 0x2C)  # S: TX checksums, RX checksums, TSO, GSO, GRO

    def work() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
            for command in commands:
                value = array.array("I", [command, 0])
                request = struct.pack("16sP", interface.encode(), value.buffer_info()[0])
                with contextlib.suppress(OSError):
                    fcntl.ioctl(any_socket.fileno(), 0x8946, request)

    run_in(netns, work)
