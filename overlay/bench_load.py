# SPDX-License-Identifier: Apache-2.0
"""`python -m overlay.bench_load NETNS WHAT …`: the loads of `bench lab`, each inside a pod's network namespace.

Standard library only, so that it starts fast. Small packets go by `sendmmsg` and `recvmmsg` through ctypes, whole
bursts a call, so that what is measured is not Python. What is measured is printed as one line of JSON.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from typing import Any, Final

from overlay import linux

FRAME_BYTES: Final = 60
FIRST_PORT: Final = 2048  # of the flows' sources
_PAYLOAD: Final = FRAME_BYTES - 14 - 20 - 8
_BURST: Final = 64
_RECEIVE: Final = 256
_PAUSE: Final = 100e-6  # between bursts; busy waiting would take the core that the packets need
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20  # linux/if_packet.h
_SIOCGIFHWADDR: Final = 0x8927
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Message(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iov_length", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Messages(ctypes.Structure):
    _fields_ = [("header", _Message), ("length", ctypes.c_uint)]


def _messages(buffers: list[Any]) -> Any:
    """An array of struct mmsghdr, one buffer each."""
    array = (_Messages * len(buffers))()
    for item, buffer in zip(array, buffers, strict=True):
        iovec = _Iovec(ctypes.addressof(buffer), ctypes.sizeof(buffer))
        item.header.iov = ctypes.pointer(iovec)
        item.header.iov_length = 1
    return array


def mac_address(interface: str) -> bytes:
    """The MAC address of an interface of the namespace that this thread lives in. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        found = fcntl.ioctl(any_socket, _SIOCGIFHWADDR, struct.pack("16s24x", interface.encode()))
    return found[18:24]


def _sum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def frame(source_mac: bytes, target_mac: bytes, source: str, target: str, sport: int, dport: int) -> bytes:
    """A UDP frame of 60 bytes, all sums right."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    length = 8 + _PAYLOAD
    udp = struct.pack("!HHHH", sport, dport, length, 0) + bytes(_PAYLOAD)
    udp = udp[:6] + struct.pack("!H", _sum(addresses + struct.pack("!HH", 17, length) + udp) or 0xFFFF) + udp[8:]
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 0, 0x4000, 64, 17, 0) + addresses
    head = head[:10] + struct.pack("!H", _sum(head)) + head[12:]
    return target_mac + source_mac + b"\x08\x00" + head + udp


def flood(
    interface: str, target_mac: str, source: str, target: str, dport: int, flows: int, rate: float, seconds: float
) -> dict[str, Any]:
    """Frames of 60 bytes at a rate (0: as fast as it goes), round robin over flows by source port."""
    macs = (mac_address(interface), bytes.fromhex(target_mac))
    made = [frame(*macs, source, target, FIRST_PORT + number, dport) for number in range(flows)]
    frames = [ctypes.create_string_buffer(data, FRAME_BYTES) for data in made]
    ring = _messages([frames[n % flows] for n in range(max(flows, _BURST) + _BURST)])
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((interface, 0x0800))
        out.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
        with contextlib.suppress(OSError):
            out.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 8 << 20)
        number, size = out.fileno(), ctypes.sizeof(_Messages)
        base, sent, at = ctypes.addressof(ring), 0, 0
        begun = now = time.monotonic()
        while now - begun < seconds:
            due = _BURST if rate <= 0 else min(int(rate * (now - begun)) - sent, _BURST)
            if due > 0:
                done = _LIBC.sendmmsg(number, ctypes.c_void_p(base + at * size), due, 0)
                if done > 0:
                    sent += done
                    at = (at + done) % flows
            if due < _BURST:
                time.sleep(_PAUSE)
            now = time.monotonic()
    return {"sent": sent, "seconds": now - begun}


def sink(port: int) -> None:
    """Receive datagrams: echo them until `sink` is read from stdin, count them from then on until `count`, answered
    with the number since the last time; until the end of stdin."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        with contextlib.suppress(OSError):
            receiver.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 32 << 20)
        receiver.bind(("", port))
        receiver.setblocking(False)
        ring = _messages([ctypes.create_string_buffer(64) for _ in range(_RECEIVE)])
        poll = select.epoll()
        poll.register(receiver, select.EPOLLIN)
        poll.register(sys.stdin, select.EPOLLIN)
        _ready()
        counting, found, number = False, 0, receiver.fileno()
        while True:
            for ready, _ in poll.poll():
                if ready != number:
                    word = os.read(ready, 64).decode().strip()
                    if not word:
                        return
                    counting = word in ("sink", "count")
                    print(json.dumps({"received": found}), flush=True)
                    found = 0
                elif counting:
                    while (got := _LIBC.recvmmsg(number, ring, _RECEIVE, socket.MSG_DONTWAIT, None)) > 0:
                        found += got
                        if got < _RECEIVE:
                            break
                else:
                    with contextlib.suppress(BlockingIOError):
                        receiver.sendto(*receiver.recvfrom(64))


def prime(target: str, port: int, flows: int) -> dict[str, Any]:
    """A packet each way for every flow, so that firewalls know them all. Returns how many were answered."""
    answered = 0
    for number in range(flows):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind(("", FIRST_PORT + number))
            one.connect((target, port))
            one.settimeout(0.2)
            for _ in range(5):
                one.send(bytes(_PAYLOAD))
                try:
                    one.recv(64)
                except OSError:
                    continue
                answered += 1
                break
    return {"answered": answered}


def echo(port: int) -> None:
    """Send every datagram back, until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("", port))
        _ready()
        buffer = bytearray(64)
        while True:
            count, peer = one.recvfrom_into(buffer)
            one.sendto(buffer[:count], peer)


def ping(target: str, port: int, seconds: float) -> dict[str, Any]:
    """Round trips of 64 bytes of payload, one after the other: medians and 99th percentile in microseconds."""
    samples = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect((target, port))
        # A timeout by the kernel: Python's own would poll before each.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 500_000))
        message, buffer, clock = bytes(64), bytearray(64), time.perf_counter_ns
        lost, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            begun = clock()
            one.send(message)
            try:
                one.recv_into(buffer)
            except OSError:
                lost += 1
                continue
            samples.append(clock() - begun)
    samples.sort()
    if not samples:
        return {"count": 0, "lost": lost}
    p50, p99 = (samples[min(int(len(samples) * share), len(samples) - 1)] / 1000 for share in (0.5, 0.99))
    return {"count": len(samples), "lost": lost, "p50": p50, "p99": p99}


def accept(first: int, count: int) -> None:
    """Accept connections on some ports and close each at once, until killed."""
    poll = select.epoll()
    listeners = {}
    for port in range(first, first + count):
        one = socket.create_server(("", port), backlog=1024)
        one.setblocking(False)
        listeners[one.fileno()] = one
        poll.register(one, select.EPOLLIN)
    _ready()
    while True:
        for number, _ in poll.poll():
            with contextlib.suppress(BlockingIOError):
                while True:
                    listeners[number].accept()[0].close()


def connect(target: str, first: int, count: int, seconds: float, at_once: int) -> dict[str, Any]:
    """Connections that come about and are closed by the other side, `at_once` of them under way at any time."""
    poll = select.epoll()
    under_way: dict[int, socket.socket] = {}
    done = failed = begun_count = 0

    def begin() -> None:
        nonlocal begun_count
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            one.connect((target, first + begun_count % count))
        begun_count += 1
        under_way[one.fileno()] = one
        poll.register(one, select.EPOLLIN)

    for _ in range(at_once):
        begin()
    begun = time.monotonic()
    while (now := time.monotonic()) - begun < seconds:
        for number, _ in poll.poll(0.5):
            one = under_way.pop(number)
            poll.unregister(number)
            try:
                ended = one.recv(1) == b""
            except OSError:
                ended = False
            one.close()
            done, failed = done + ended, failed + (not ended)
            begin()
    for one in under_way.values():
        one.close()
    return {"connections": done, "failed": failed, "seconds": now - begun}


def reach(target: str, port: int, seconds: float) -> dict[str, Any]:
    """What becomes of one TCP connection: connected, refused or silence."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        one.settimeout(seconds)
        try:
            one.connect((target, port))
        except TimeoutError:
            return {"outcome": "silence"}
        except OSError:
            return {"outcome": "refused"}
    return {"outcome": "connected"}


def _ready() -> None:
    print("ready", flush=True)


def _execute(*command: str) -> None:
    os.execvp(command[0], command)


LOADS: Final[dict[str, Callable[..., dict[str, Any] | None]]] = {
    "flood": flood,
    "sink": sink,
    "prime": prime,
    "echo": echo,
    "ping": ping,
    "accept": accept,
    "connect": connect,
    "reach": reach,
    "exec": _execute,
}


def main(netns: str, what: str, arguments: list[str]) -> int:
    """Enter the namespace and run a load; arguments are JSON values where they are such."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    linux.setns(descriptor, linux.CLONE_NEWNET)
    os.close(descriptor)
    values = arguments if what == "exec" else [json.loads(item) for item in arguments]
    result = LOADS[what](*values)
    if result is not None:
        print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], sys.argv[3:]))
