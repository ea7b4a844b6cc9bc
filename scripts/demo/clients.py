# SPDX-License-Identifier: Apache-2.0
"""What the demo's clients do, with the standard library's own programs where there are some (urllib, ftplib)."""

from __future__ import annotations

import ftplib
import io
import os
import socket
import struct
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager

from scripts.demo import frames
from scripts.demo.hosts import Host

LARGE = 8 << 20  # bytes of the large transfer
PAGES = {f"page-{n}": 200 * 2**n for n in range(8)}
SCANNED = (21, 22, 23, 25, 53, 80, 110, 111, 135, 139, 143, 389, 443, 445, 993, 1433, 1521, 3306, 3389, 5432, 8080)
_TIMEOUT = 5.0

Inside = Callable[[str], AbstractContextManager[object]]


def in_url(address: str) -> str:
    """An address as a URL spells it."""
    return f"[{address}]" if ":" in address else address


def fetch(address: str, port: int, name: str) -> int:
    """GET one file over HTTP; returns its bytes."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{in_url(address)}:{port}/{name}", timeout=_TIMEOUT) as answer:
        return len(answer.read())


def ask_lines(address: str, port: int, count: int) -> None:
    """A session with a server of lines."""
    with socket.create_connection((address, port), _TIMEOUT) as sock, sock.makefile("rwb") as file:
        file.readline()
        for number in range(count):
            file.write(b"select %d\r\n" % number)
            file.flush()
            file.readline()


def ask_dns(address: str, name: str) -> None:
    """One question, one answer (RFC 1035)."""
    labels = b"".join(bytes((len(part),)) + part.encode() for part in name.split(".")) + b"\0"
    ask_udp(address, 53, struct.pack("!HHHHHH", 0x1234, 0x0100, 1, 0, 0, 0) + labels + b"\0\1\0\1")


def ask_udp(address: str, port: int, data: bytes) -> int:
    """One datagram there and one back; 0 where it is told that nobody listens."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        sock.settimeout(_TIMEOUT)
        sock.connect((address, port))
        sock.send(data)
        try:
            return len(sock.recv(65535))
        except ConnectionRefusedError:
            return 0


def family_of(address: str) -> socket.AddressFamily:
    """The family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def use_ftp(address: str, passive: bool) -> None:
    """Fetch one file and store another, with data connections of the given mode."""
    with ftplib.FTP(timeout=_TIMEOUT) as ftp:
        ftp.connect(address, 21)
        ftp.login("demo", "demo")
        ftp.set_pasv(passive)
        got = io.BytesIO()
        ftp.retrbinary("RETR dump", got.write)
        ftp.storbinary("STOR dump", io.BytesIO(got.getvalue()[:20_000]))


def use_tftp(address: str) -> None:
    """Fetch one file (RFC 1350)."""
    with socket.socket(family_of(address), socket.SOCK_DGRAM) as sock:
        sock.settimeout(_TIMEOUT)
        sock.sendto(struct.pack("!H", 1) + b"config\0octet\0", (address, 69))
        while True:
            data, peer = sock.recvfrom(516)
            sock.sendto(struct.pack("!H", 4) + data[2:4], peer)
            if len(data) < 516:
                return


def ping(address: str) -> None:
    """One echo request, one answer."""
    old = family_of(address) == socket.AF_INET
    protocol = socket.IPPROTO_ICMP if old else socket.IPPROTO_ICMPV6
    with socket.socket(family_of(address), socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(_TIMEOUT)
        sock.connect((address, 0))
        sock.send(frames.echo(sock.getsockname()[0], address, os.getpid() & 0xFFFF, answer=False)[1])
        while sock.recv(2048)[20 if old else 0] not in (0, 129):
            pass


def scan(address: str) -> int:
    """Try to connect to each of the ports; returns how many were open."""
    found = 0
    for port in SCANNED:
        with socket.socket(family_of(address), socket.SOCK_STREAM) as sock:
            sock.settimeout(_TIMEOUT)
            found += sock.connect_ex((address, port)) == 0
    return found


def send_odd(source: Host, target: Host) -> None:
    """What no honest program sends."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
        for packet in frames.odd_packets(source, target):
            sock.sendto(packet, (target.v4, 0))


def run_clients(hosts: dict[str, Host], inside: Inside) -> None:
    """Everything, host by host; `inside(name)` is the place from which a host talks."""
    web, app, db, web3 = hosts["web-1"], hosts["app-1"], hosts["db-1"], hosts["web-3"]
    backup, dns = hosts["backup-1"], hosts["dns-1"]
    with inside("outside"):
        for address in (web.v4, web.v6):
            for name in PAGES:
                fetch(address, 80, name)
            ping(address)
        for address in (db.v4, db.v6):
            scan(address)
        send_odd(hosts["outside"], web)
    with inside("web-1"):
        for address in (dns.v4, dns.v6):
            ask_dns(address, "app.shop.example")
        for address in (app.v4, app.v6):
            fetch(address, 8080, "page-5")
        fetch(app.v4, 8080, "large")
        for address in (db.v4, db.v6):
            ask_lines(address, 3306, 2)
    with inside("app-1"):
        for address in (db.v4, db.v6):
            ask_lines(address, 3306, 20)
        for address in (backup.v4, backup.v6):
            use_tftp(address)
        for address in (dns.v4, dns.v6):
            ask_udp(address, 5353, b"nobody listens here")
    with inside("db-1"):
        for address in (backup.v4, backup.v6):
            use_ftp(address, passive=True)
            use_ftp(address, passive=False)
    with inside("web-3"):
        fetch(app.v4, 8080, "page-0")
        ask_dns(dns.v4, "elsewhere.example")
    with inside("ops-1"):
        ask_lines(web3.v4, 22, 3)
        for host in (web, app, db):
            ping(host.v4)
            ping(host.v6)
        for address in (backup.v4, backup.v6):
            ask_udp(address, 9000, bytes(4000))
