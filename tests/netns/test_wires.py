# SPDX-License-Identifier: Apache-2.0
"""Interfaces and TEPs set up in real namespaces, and what the kernel then does with packets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from overlay.enter import run_in
from overlay.hoststate import VnicState
from overlay.uplink import TEP_KERNEL_MAC, TEP_MAC, apply_uplink, plan_uplink, remove_uplink
from overlay.vnic import apply_vnic, read_vnic

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns, pytest.mark.needs_tun]

VNIC = VnicState("x", "02:00:00:00:00:11", ("10.1.1.11/24",), 0, 0, (0,) * 11, gateways=("10.1.1.1",), mtu=1400)


@pytest.fixture
def namespaces(tmp_path: Path) -> Iterator[list[str]]:
    """Two network namespaces, by path."""
    paths = [str(tmp_path / name) for name in ("one", "two")]
    for path in paths:
        Path(path).touch()
        subprocess.run(["unshare", f"--net={path}", "true"], check=True)
    yield paths
    for path in paths:
        subprocess.run(["umount", path], check=False)


def tap(name: str, mac: str) -> int:
    """A TAP in this thread's namespace, without any header."""
    number = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(number, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x1002))  # TUNSETIFF, IFF_TAP | IFF_NO_PI
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as control:
        hardware = struct.pack("16sH6s16x", name.encode(), 1, bytes.fromhex(mac.replace(":", "")))
        fcntl.ioctl(control, 0x8924, hardware)  # SIOCSIFHWADDR
    return number


def run(netns: str, *command: str) -> str:
    return subprocess.run(["nsenter", f"--net={netns}", *command], check=True, capture_output=True, text=True).stdout


def test_an_interface_is_set_up_and_once_is_enough(namespaces: list[str]) -> None:
    number = run_in(namespaces[0], lambda: tap("eth0", VNIC.mac))
    assert [step.what for step in apply_vnic(namespaces[0], VNIC)] == ["mtu", "up", "ip-add", "gateway-add"]
    assert apply_vnic(namespaces[0], VNIC) == ()
    seen = read_vnic(namespaces[0], "eth0")
    assert (seen.mtu, seen.ips, seen.gateways) == (1400, frozenset(VNIC.ips), frozenset(VNIC.gateways))
    assert "LOOPBACK,UP" in run(namespaces[0], "ip", "-br", "link", "show", "lo")
    with pytest.raises(OSError, match="eth9"):
        apply_vnic(namespaces[0], VnicState("y", VNIC.mac, (), 0, 0, (0,) * 11, interface="eth9"))
    with pytest.raises(FileNotFoundError):
        apply_vnic(f"{namespaces[0]}-not-there", VNIC)
    os.close(number)


def test_everybody_is_on_the_link_of_an_interface_without_a_gateway(namespaces: list[str]) -> None:
    alone = VnicState("x", VNIC.mac, ("10.0.0.1/32", "fd00::1/128"), 0, 0, (0,) * 11, gateways=("0.0.0.0", "::"))
    number = run_in(namespaces[0], lambda: tap("eth0", alone.mac))
    apply_vnic(namespaces[0], alone)
    assert apply_vnic(namespaces[0], alone) == ()
    assert "192.0.2.1 dev eth0" in run(namespaces[0], "ip", "route", "get", "192.0.2.1")
    if read_vnic(namespaces[0], "eth0").has_ipv6:
        assert "2001:db8::1 from :: dev eth0" in run(namespaces[0], "ip", "-6", "route", "get", "2001:db8::1")
    routed = VnicState("x", VNIC.mac, ("10.1.1.11/24",), 0, 0, (0,) * 11, gateways=("10.1.1.1",))
    apply_vnic(namespaces[0], routed)
    assert "via 10.1.1.1" in run(namespaces[0], "ip", "route", "get", "192.0.2.1")
    os.close(number)


def test_a_frame_from_a_tep_reaches_the_others_tap(namespaces: list[str]) -> None:
    """Tier A's wires: a packet that we write into one host's tep0 is routed through the underlay into the other's."""
    one, two = namespaces
    run(one, "ip", "link", "add", "ul0", "mtu", "1700", "type", "veth", "peer", "name", "ul0", "netns", two)
    teps = ("172.16.0.11", "172.16.0.12")
    fds = [run_in(path, lambda: tap("tep0", TEP_KERNEL_MAC)) for path in namespaces]
    plans = [plan_uplink("A", "ul0", teps[at], [teps[1 - at]], 1700) for at in (0, 1)]
    for _ in range(2):  # a second time changes nothing
        for path, plan in zip(namespaces, plans, strict=True):
            run_in(path, partial(apply_uplink, plan))
    udp = struct.pack("!HHHH", 50000, 6081, 8 + 4, 0) + b"pali"
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0)
    head += b"".join(map(socket.inet_aton, teps))
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    head = head[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + head[12:]
    frame = bytes.fromhex((TEP_KERNEL_MAC + TEP_MAC).replace(":", "")) + b"\x08\x00" + head + udp
    os.write(fds[0], frame)
    os.set_blocking(fds[1], False)
    found = b""
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            found = os.read(fds[1], 2048)
            if found[12:14] == b"\x08\x00":
                break
        run(two, "sleep", "0.02")
    assert found[:6] == bytes.fromhex(TEP_MAC.replace(":", ""))
    assert found[26:34] == b"".join(map(socket.inet_aton, teps))
    assert found[-4:] == b"pali"
    for path, plan in zip(namespaces, plans, strict=True):
        run_in(path, partial(remove_uplink, plan))
    assert "172.16" not in run(one, "ip", "route")
    for number in fds:
        os.close(number)
