# SPDX-License-Identifier: Apache-2.0
"""The programs of the demo's little shop: servers, clients and a recorder, each run in its own network namespace."""

from __future__ import annotations

import contextlib
import ftplib
import io
import signal
import socket
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"x" * 4_000_000


class _Page(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = PAGE if self.path == "/big" else b"hello from the shop\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server6(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # both families: IPv4 comes as a mapped address


def serve_http(port: str) -> None:
    """A web server; `/big` is 4 MB."""
    _Server6(("::", int(port)), _Page).serve_forever()


def serve_udp(port: str) -> None:
    """Answers every datagram with its first 64 bytes."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind(("::", int(port)))
        while True:
            data, peer = server.recvfrom(65535)
            server.sendto(data[:64], peer)


def _ftp_session(control: socket.socket) -> None:
    """One FTP client (RFC 959, RFC 2428): enough for a listing and an upload, active and passive."""
    lines = control.makefile("rb")
    own, peer = control.getsockname()[0], control.getpeername()[0]
    listener: socket.socket | None = None
    active: tuple[str, int] | None = None

    def say(text: str) -> None:
        control.sendall(text.encode() + b"\r\n")

    def data() -> socket.socket:
        if listener is not None:
            return listener.accept()[0]
        assert active is not None
        return socket.create_connection(active, timeout=5)

    say("220 backup")
    for raw in lines:
        word, _, rest = raw.decode("latin-1").strip().partition(" ")
        word = word.upper()
        if word in ("PASV", "EPSV"):
            listener = socket.create_server((own, 0))
            port = listener.getsockname()[1]
            numbers = ",".join([*own.split("."), str(port >> 8), str(port & 255)])
            say(f"227 Entering Passive Mode ({numbers})." if word == "PASV" else f"229 Extended Passive (|||{port}|)")
        elif word == "PORT":
            parts = rest.split(",")
            listener, active = None, (peer, int(parts[4]) << 8 | int(parts[5]))
            say("200 PORT")
        elif word == "EPRT":
            listener, active = None, (peer, int(rest.split("|")[3]))
            say("200 EPRT")
        elif word in ("LIST", "NLST", "STOR"):
            say("150 here it comes")
            with data() as channel:
                if word == "STOR":
                    while channel.recv(65536):
                        pass
                else:
                    channel.sendall(b"shop.dump\r\n")
            say("226 done")
        elif word == "QUIT":
            say("221 bye")
            return
        else:
            say("331 password" if word == "USER" else "230 welcome" if word == "PASS" else "200 as you like")


def serve_ftp(address: str) -> None:
    """An FTP server on port 21."""
    with socket.create_server((address, 21)) as server:
        while True:
            control, _ = server.accept()
            threading.Thread(target=_ftp_session, args=(control,), daemon=True).start()


def record(interface: str, path: str) -> None:
    """Writes what passes on an interface to a pcap file, until TERM."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap, open(path, "wb") as out:
        tap.setsockopt(socket.SOL_SOCKET, 33, 1 << 28)  # SO_RCVBUFFORCE: the large transfer comes in one go
        tap.bind((interface, 0))
        out.write(struct.pack("=IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262144, 1))
        running = [True]
        signal.signal(signal.SIGTERM, lambda *_: running.clear())
        tap.settimeout(0.2)
        while True:
            try:
                frame = tap.recv(262144)
            except TimeoutError:
                if not running:
                    return
                continue
            now = time.time_ns()
            out.write(struct.pack("=IIII", now // 10**9, now % 10**9, len(frame), len(frame)) + frame)


def _try(action: Callable[[], object]) -> None:
    with contextlib.suppress(OSError, ftplib.Error):
        action()


def fetch(*urls: str) -> None:
    """Gets each page."""
    for url in urls:
        _try(lambda url=url: urllib.request.urlopen(url, timeout=3).read())  # type: ignore[misc]


def ask(address: str, port: str, *sizes: str) -> None:
    """Sends datagrams of these sizes and waits for the answers."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        for size in sizes:
            _try(lambda size=size: (client.sendto(b"q" * int(size), (address, int(port))), client.recv(65535)))  # type: ignore[misc]


def ping(*addresses: str) -> None:
    """Asks for an echo, as ping does."""
    for address in addresses:
        v6 = ":" in address
        with socket.socket(
            socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_RAW, 58 if v6 else socket.IPPROTO_ICMP
        ) as raw:
            raw.settimeout(0.3)
            for sequence in range(3):
                message = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 4711, sequence) + b"palisade"
                total = sum(struct.unpack("!8H", message))
                total = (total & 0xFFFF) + (total >> 16)
                message = message[:2] + struct.pack("!H", ~total & 0xFFFF) + message[4:]
                _try(lambda to=address, m=message: (raw.sendto(m, (to, 0)), raw.recv(2000)))  # type: ignore[misc]


def scan(address: str, first: str, last: str) -> None:
    """Tries every port."""
    for port in range(int(first), int(last) + 1):
        _try(lambda port=port: socket.create_connection((address, port), timeout=0.2).close())  # type: ignore[misc]


def upload(address: str) -> None:
    """Lists and uploads by FTP, passive and active."""
    for passive in (True, False):

        def session(passive: bool = passive) -> None:
            with ftplib.FTP(address, timeout=5) as ftp:
                ftp.login("shop", "shop")
                ftp.set_pasv(passive)
                ftp.nlst()
                ftp.storbinary("STOR shop.dump", io.BytesIO(b"d" * 200_000))

        _try(session)


if __name__ == "__main__":
    {
        "http": serve_http,
        "udp": serve_udp,
        "ftp": serve_ftp,
        "record": record,
        "fetch": fetch,
        "ask": ask,
        "ping": ping,
        "scan": scan,
        "upload": upload,
    }[sys.argv[1]](*sys.argv[2:])
