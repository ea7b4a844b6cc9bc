# SPDX-License-Identifier: Apache-2.0
"""A live host's vNICs from the pods' side: frames and super-packets go in at one TAP and come out of another.

What is sent leaves the pod's interface as its kernel would send it, with a virtio header (packet(7), PACKET_VNET_HDR);
what arrives is read there. The namespaces say nothing by themselves.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import time
from collections.abc import Sequence
from typing import Final, NamedTuple

from dfw.core import Host
from dfw.core.live import Live, tap_open
from overlay.enter import run_in
from tests.support.patience import PATIENCE
from tests.support.two_hosts import netns_path, run

MTU: Final = 9000
_SOL_PACKET, _VNET_HDR, _ALL, _OUTGOING = 263, 15, 3, 4
_VIRTIO = struct.Struct("=BBHHHH")


class Offload(NamedTuple):
    """The virtio header's fields (linux/virtio_net.h)."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0


PLAIN: Final = Offload()


class TapWire:
    """Namespaces for `count` pods; `plug` gives them TAPs of a host's filters 0, 1, …"""

    def __init__(self, count: int) -> None:
        self.spaces = [f"pal-tw-{os.getpid()}-{number}" for number in range(count)]
        self.sockets: list[socket.socket] = []
        self.live: Live | None = None

    def __enter__(self) -> TapWire:
        for name in self.spaces:
            run("ip", "netns", "add", name)
            quiet = "net.ipv6.conf.default.disable_ipv6=1"
            subprocess.run(["ip", "netns", "exec", name, "sysctl", "-qw", quiet], check=False, capture_output=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
        for name in self.spaces:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def plug(self, host: Host, macs: Sequence[bytes]) -> None:
        """TAPs for this host's filters, with these MAC addresses; packets run from here on."""
        self.live, self.host, self.sent = Live(host), host, 0
        for number, (name, mac) in enumerate(zip(self.spaces, macs, strict=True)):
            fds, offloads = tap_open(netns_path(name), "eth0", mac.hex(":"))
            self.live.add_port(number, fds, offloads)
            for fd in fds:
                os.close(fd)
            run("ip", "-n", name, "link", "set", "eth0", "mtu", str(MTU), "arp", "off", "up")
            made = run_in(netns_path(name), lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
            made.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
            made.bind(("eth0", _ALL))
            made.setblocking(False)
            self.sockets.append(made)
        self.live.start()

    def unplug(self) -> None:
        """The TAPs go."""
        for item in self.sockets:
            item.close()
        self.sockets = []
        if self.live is not None:
            self.live.close()
            self.live = None

    def pass_on(self, sender: int, data: bytes, offload: Offload = PLAIN) -> list[list[bytes]]:
        """A frame out of a pod; when the host is done with it: the frames that have come to each pod."""
        assert self.live is not None
        self.sockets[sender].send(_VIRTIO.pack(*offload) + data)
        self.sent += 1
        self._wait()
        return [self._read(item) for item in self.sockets]

    def _wait(self) -> None:
        """Until everything that was sent has been counted, and what passed has been written to a TAP."""
        assert self.live is not None
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            stats = self.host.stats()
            done = stats.passed + stats.consumed + sum(stats.dropped.values()) + stats.held
            out = sum(card.tx_frames + sum(card.drops.values()) for card in self.live.stats().ports.values())
            if done >= self.sent and out >= stats.passed:
                return
            time.sleep(0.0002)
        raise AssertionError(f"{self.sent} frames were sent, the host has dealt with {done}: {stats}")

    def _read(self, item: socket.socket) -> list[bytes]:
        found = []
        while True:
            try:
                data, address = item.recvfrom(1 << 17)
            except BlockingIOError:
                return found
            if address[2] != _OUTGOING:
                found.append(data[_VIRTIO.size :])
