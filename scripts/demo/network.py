# SPDX-License-Identifier: Apache-2.0
"""The shop on a network of its own: `python -m scripts.demo.network DIRECTORY`, as the first process of its own PID,
mount and network namespaces (scripts/demo.sh sees to that, so that nothing can be left behind, whatever happens).

One namespace for each host, one for the router between the segments, where each segment is a bridge. Everything is
forwarded: the firewall judges the capture afterwards. Writes DIRECTORY/shop.pcap.
Exit status 3: this machine can't (why is on stderr).
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.demo.clients import LARGE, PAGES, run_clients
from scripts.demo.hosts import ROOT, Host, read_hosts

PREFIX = "pal-demo"
ROUTER = f"{PREFIX}-router"
USED = ("outside", "web-1", "web-3", "app-1", "db-1", "ops-1", "backup-1", "dns-1")
SERVERS = (
    ("web-1", "http", 80), ("app-1", "http", 8080), ("db-1", "lines", 3306), ("web-3", "lines", 22),
    ("backup-1", "ftp", 21), ("backup-1", "tftp", 69), ("backup-1", "echo", 9000), ("dns-1", "dns", 53),
)  # fmt: skip
_CLONE_NEWNET = 0x40000000
_SIOCETHTOOL, _STXCSUM, _STSO, _SGSO = 0x8946, 0x17, 0x1F, 0x24
_LIBC = ctypes.CDLL(None, use_errno=True)


def enter(namespace: str) -> None:
    """Let this thread live in a network namespace."""
    with open(f"/run/netns/{namespace}", encoding="ascii") as file:
        if _LIBC.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")


@contextmanager
def inside(host: str) -> Iterator[None]:
    """Talk from a host, or start programs there."""
    enter(f"{PREFIX}-{host}")
    try:
        yield
    finally:
        enter(ROUTER)


def set_sysctl(name: str, value: int) -> None:
    """A kernel setting of the namespace that this thread lives in."""
    Path("/proc/sys/net", name).write_text(str(value), encoding="ascii")


def disable_offloads(interface: str) -> None:
    """Whole packets with finished checksums, as on a wire (ethtool -K tx off tso off gso off)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in (_STXCSUM, _STSO, _SGSO):
            value = (ctypes.c_uint32 * 2)(command, 0)
            fcntl.ioctl(sock, _SIOCETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(value)))


def plan_links(hosts: list[Host]) -> tuple[list[str], dict[str, list[str]]]:
    """Lines for `ip -batch`: the router's, and each host's own."""
    router = ["link set lo up"]
    for host in {host.segment: host for host in hosts}.values():
        bridge = f"br-{host.segment}"
        router += [
            f"link add {bridge} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {bridge} up",
            f"addr add {host.gateway4}/24 dev {bridge}",
            f"addr add {host.gateway6}/64 dev {bridge} nodad",
        ]
    own = {}
    for host in hosts:
        router += [
            f"link add {host.name} type veth peer name eth0 address {host.mac} netns {PREFIX}-{host.name}",
            f"link set {host.name} master br-{host.segment} up",
        ]
        own[host.name] = [
            "link set lo up",
            "link set eth0 up",
            f"addr add {host.v4}/24 dev eth0",
            f"addr add {host.v6}/64 dev eth0 nodad",
            f"route add default via {host.gateway4}",
            f"-6 route add default via {host.gateway6}",
        ]
    return router, own


def run_ip(lines: list[str]) -> None:
    """Apply a batch in the namespace that this thread lives in. Raises CalledProcessError."""
    text = "\n".join(line.removeprefix("-6 ") for line in lines if not line.startswith("-6 ")) + "\n"
    subprocess.run(["ip", "-batch", "-"], input=text, text=True, check=True, capture_output=True)
    six = [line.removeprefix("-6 ") for line in lines if line.startswith("-6 ")]
    if six:
        subprocess.run(
            ["ip", "-6", "-batch", "-"], input="\n".join(six) + "\n", text=True, check=True, capture_output=True
        )


def build_network(hosts: list[Host]) -> None:
    """Namespaces, bridges, links, addresses; this thread ends up in the router's namespace."""
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/run"], check=True, capture_output=True)
    for name in (ROUTER, *(f"{PREFIX}-{host.name}" for host in hosts)):
        subprocess.run(["ip", "netns", "add", name], check=True, capture_output=True)
    router, own = plan_links(hosts)
    enter(ROUTER)
    set_sysctl("ipv4/ip_forward", 1)
    set_sysctl("ipv6/conf/all/forwarding", 1)
    run_ip(router)
    for host in hosts:
        with inside(host.name):
            disable_offloads("eth0")
            run_ip(own[host.name])


def start(command: list[str], directory: Path) -> subprocess.Popen[str]:
    """Start a program where this thread lives and wait for its first line, which says that it listens."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=directory, env=environment, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    if not process.stdout.readline():
        raise RuntimeError(f"{' '.join(command)} ended with {process.wait()}")
    return process


def main(directory: Path) -> int:
    """Build the network, talk, capture."""
    hosts = read_hosts()
    used = [hosts[name] for name in USED]
    try:
        build_network(used)
    except (OSError, subprocess.CalledProcessError) as error:
        told = getattr(error, "stderr", None)
        why = told.decode() if isinstance(told, bytes) else told
        print(f"no network of our own: {(why or str(error)).strip()}", file=sys.stderr)
        return 3
    site = directory / "site"
    site.mkdir()
    for name, size in {**PAGES, "large": LARGE}.items():
        (site / name).write_bytes(os.urandom(size))
    started = []
    for host, kind, port in SERVERS:
        with inside(host):
            program = ["http.server", "--bind", "::", str(port)] if kind == "http" else []
            started.append(start(["-m", *(program or ["scripts.demo.services", kind, str(port)])], site))
    capture = start(["-m", "scripts.demo.capture", str(directory / "shop.pcap"), *USED], directory)
    run_clients(hosts, inside)
    capture.send_signal(signal.SIGTERM)
    packets, lost = map(int, capture.communicate()[0].split())
    for process in started:
        process.kill()
        process.wait()
    print(
        f"{len(used)} hosts and a router, {len(started)} servers; captured {packets:,} packets"
        + (f", and lost {lost:,}" if lost else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
