# SPDX-License-Identifier: Apache-2.0
"""Small real servers for the demo's network: FTP, TFTP, DNS, lines of text, and a UDP echo.

`python -m scripts.demo.services KIND PORT` serves both families until it is ended; it prints "ready" when it listens.
"""

from __future__ import annotations

import re
import socket
import socketserver
import struct
import sys
import threading
from collections.abc import Callable

_DUMP = bytes(range(256)) * 256


def listen(kind: socket.SocketKind, family: socket.AddressFamily, port: int) -> socket.socket:
    """A bound socket of one family."""
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("::" if family == socket.AF_INET6 else "0.0.0.0", port))
    if kind == socket.SOCK_STREAM:
        made.listen(64)
    return made


class Lines(socketserver.StreamRequestHandler):
    """A greeting, then an answer to each line: enough of a database, or of a remote shell."""

    def handle(self) -> None:
        """One session."""
        self.wfile.write(b"ready\r\n")
        for line in self.rfile:
            self.wfile.write(b"ok %d " % len(line) + b"x" * 200 + b"\r\n")


class Ftp(socketserver.StreamRequestHandler):
    """An FTP server for one file (RFC 959), active and passive, in both families (RFC 2428)."""

    def say(self, text: str) -> None:
        """One line on the control connection."""
        self.wfile.write(text.encode() + b"\r\n")

    def handle(self) -> None:
        """One session."""
        self.connect: Callable[[], socket.socket] | None = None
        self.say("220 demo")
        for line in self.rfile:
            word, _, rest = line.decode("latin-1").strip().partition(" ")
            action = getattr(self, f"do_{word.lower()}", None)
            if action is not None:
                action(rest)
            else:
                self.say("200 well" if word.upper() in ("PASS", "TYPE") else "500 unknown")
            if word.upper() == "QUIT":
                return

    def do_user(self, _: str) -> None:
        """USER."""
        self.say("331 password")

    def do_pass(self, _: str) -> None:
        """PASS."""
        self.say("230 welcome")

    def do_quit(self, _: str) -> None:
        """QUIT."""
        self.say("221 bye")

    def passive(self) -> int:
        """Listen for a data connection; returns the port."""
        family = self.connection.family
        listener = listen(socket.SOCK_STREAM, socket.AddressFamily(family), 0)
        listener.settimeout(10)
        self.connect = lambda: listener.accept()[0]
        return int(listener.getsockname()[1])

    def do_pasv(self, _: str) -> None:
        """PASV."""
        port = self.passive()
        host = self.connection.getsockname()[0].replace(".", ",")
        self.say(f"227 Entering Passive Mode ({host},{port >> 8},{port & 255})")

    def do_epsv(self, _: str) -> None:
        """EPSV."""
        self.say(f"229 Entering Extended Passive Mode (|||{self.passive()}|)")

    def active(self, host: str, port: int) -> None:
        """Remember where to connect to, from the data port's side of the control connection."""
        source = (self.connection.getsockname()[0], 0)
        self.connect = lambda: socket.create_connection((host, port), 10, source)
        self.say("200 well")

    def do_port(self, rest: str) -> None:
        """PORT."""
        numbers = [int(number) for number in rest.split(",")]
        self.active(".".join(map(str, numbers[:4])), numbers[4] << 8 | numbers[5])

    def do_eprt(self, rest: str) -> None:
        """EPRT."""
        match = re.fullmatch(r"\|[12]\|([^|]+)\|(\d+)\|", rest)
        if match is None:
            self.say("501 bad argument")
        else:
            self.active(match.group(1), int(match.group(2)))

    def transfer(self, move: Callable[[socket.socket], object]) -> None:
        """One data connection, begun and ended."""
        if self.connect is None:
            self.say("425 no data connection")
            return
        self.say("150 here it comes")
        with self.connect() as data:
            move(data)
        self.say("226 done")

    def do_retr(self, _: str) -> None:
        """RETR."""
        self.transfer(lambda data: data.sendall(_DUMP))

    def do_stor(self, _: str) -> None:
        """STOR."""

        def drain(data: socket.socket) -> None:
            while data.recv(65536):
                pass

        self.transfer(drain)


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener


def serve_echo(sock: socket.socket) -> None:
    """Send back what comes, whole."""
    while True:
        data, peer = sock.recvfrom(65535)
        sock.sendto(data, peer)


def serve_dns(sock: socket.socket) -> None:
    """Answer every question with one address (RFC 1035)."""
    while True:
        data, peer = sock.recvfrom(4096)
        answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + bytes((10, 1, 1, 11))
        sock.sendto(data[:2] + struct.pack("!HHHHH", 0x8180, 1, 1, 0, 0) + data[12:] + answer, peer)


def serve_tftp(sock: socket.socket) -> None:
    """Send the file in blocks of 512 from a port of its own (RFC 1350)."""
    while True:
        _, peer = sock.recvfrom(516)
        with socket.socket(sock.family, socket.SOCK_DGRAM) as data:
            data.settimeout(5)
            for number, at in enumerate(range(0, 8192 + 1, 512), 1):
                data.sendto(struct.pack("!HH", 3, number) + _DUMP[at : min(at + 512, 8192)], peer)
                data.recvfrom(516)


DATAGRAMS = {"dns": serve_dns, "tftp": serve_tftp, "echo": serve_echo}
STREAMS: dict[str, type[socketserver.BaseRequestHandler]] = {"ftp": Ftp, "lines": Lines}


def main(kind: str, port: int) -> None:
    """Serve until the end of the process."""
    threads = []
    for family in (socket.AF_INET, socket.AF_INET6):
        if kind in STREAMS:
            server = _Server(listen(socket.SOCK_STREAM, family, port), STREAMS[kind])
            threads.append(threading.Thread(target=server.serve_forever))
        else:
            sock = listen(socket.SOCK_DGRAM, family, port)
            threads.append(threading.Thread(target=DATAGRAMS[kind], args=(sock,)))
    for thread in threads:
        thread.start()
    print("ready", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
