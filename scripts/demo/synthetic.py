# SPDX-License-Identifier: Apache-2.0
"""The shop's traffic without a network: `python -m scripts.demo.synthetic DIRECTORY` writes DIRECTORY/shop.pcap.

The same conversations as clients.py holds, in the same order, with made-up contents: for machines where the demo may
not make namespaces.
"""

from __future__ import annotations

import sys
from ipaddress import ip_address
from pathlib import Path

from scripts.demo import frames
from scripts.demo.clients import LARGE, PAGES, SCANNED
from scripts.demo.files import Packet, write_pcap
from scripts.demo.hosts import Host, read_hosts

_BEGIN = 1_700_000_000 * 10**9  # ns
_STEP = 40_000  # ns between two packets
_SEGMENT = 1400  # bytes of payload

Line = tuple[bool, bytes]  # whether the client speaks; what


class Tape:
    """The packets so far, one step after another."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []
        self.port = 40_000

    def send(self, source: Host, target: Host, six: bool, protocol: int, payload: bytes) -> None:
        """One packet, or its fragments."""
        ends = (source.v6, target.v6) if six else (source.v4, target.v4)
        for packet in frames.packets(*ends, protocol, payload, len(self.packets) & 0xFFFF):
            self.add(source, packet)

    def add(self, source: Host, packet: bytes) -> None:
        """One IP packet."""
        self.packets.append((_BEGIN + len(self.packets) * _STEP, frames.frame(source, packet)))

    def next_port(self) -> int:
        """A port for a new client."""
        self.port += 1
        return self.port

    def talk(self, client: Host, server: Host, six: bool, ports: tuple[int, int], lines: list[Line]) -> None:
        """A whole TCP connection."""
        ends = (client, server)
        names = [host.v6 if six else host.v4 for host in ends]
        seq = [1000 + ports[0], 5000 + ports[1]]

        def segment(who: int, flags: int, data: bytes = b"") -> None:
            """One segment from the client (0) or the server (1)."""
            pair = ports if who == 0 else (ports[1], ports[0])
            ack = 0 if flags == frames.SYN else seq[1 - who]
            made = frames.tcp(names[who], names[1 - who], pair, flags, seq[who], ack, data)
            self.send(ends[who], ends[1 - who], six, frames.TCP, made)
            seq[who] += len(data) + bool(flags & (frames.SYN | frames.FIN))

        segment(0, frames.SYN)
        segment(1, frames.SYN | frames.ACK)
        segment(0, frames.ACK)
        for by_client, data in lines:
            who = 0 if by_client else 1
            for at in range(0, len(data), _SEGMENT):
                segment(who, frames.ACK | frames.PSH, data[at : at + _SEGMENT])
                if at // _SEGMENT % 2:
                    segment(1 - who, frames.ACK)
        segment(1, frames.FIN | frames.ACK)
        segment(0, frames.FIN | frames.ACK)
        segment(1, frames.ACK)

    def ask(self, client: Host, server: Host, six: bool, port: int, data: bytes, answer: bytes) -> None:
        """One datagram there, one back."""
        ports = (self.next_port(), port)
        names = (client.v6, server.v6) if six else (client.v4, server.v4)
        self.send(client, server, six, frames.UDP, frames.udp(*names, ports, data))
        self.send(server, client, six, frames.UDP, frames.udp(*names[::-1], ports[::-1], answer))

    def ping(self, client: Host, server: Host, six: bool) -> None:
        """An echo and its answer."""
        names = (client.v6, server.v6) if six else (client.v4, server.v4)
        ident = self.next_port()
        self.send(client, server, six, *frames.echo(*names, ident, answer=False))
        self.send(server, client, six, *frames.echo(*names[::-1], ident, answer=True))

    def fetch(self, client: Host, server: Host, six: bool, port: int, size: int) -> None:
        """One file over HTTP."""
        lines = [(True, b"GET /page HTTP/1.1\r\nHost: shop\r\n\r\n"), (False, b"HTTP/1.0 200 OK\r\n\r\n" + bytes(size))]
        self.talk(client, server, six, (self.next_port(), port), lines)

    def scan(self, client: Host, server: Host, six: bool) -> None:
        """A port scan: SYNs, and RSTs for an answer."""
        names = (client.v6, server.v6) if six else (client.v4, server.v4)
        for port in SCANNED:
            ports = (self.next_port(), port)
            self.send(client, server, six, frames.TCP, frames.tcp(*names, ports, frames.SYN, 1))
            refusal = frames.tcp(*names[::-1], ports[::-1], frames.RST | frames.ACK, 0, 2)
            self.send(server, client, six, frames.TCP, refusal)

    def ftp(self, client: Host, server: Host, six: bool, passive: bool) -> None:
        """A control connection that announces a data connection, and that connection."""
        ports, own = (self.next_port(), 21), self.next_port()
        if passive:
            host = server.v4.replace(".", ",")
            told = f"229 Extended (|||{own}|)" if six else f"227 Passive ({host},{own >> 8},{own & 255})"
            lines = [(True, b"EPSV\r\n" if six else b"PASV\r\n"), (False, told.encode() + b"\r\n")]
        else:
            host = client.v4.replace(".", ",")
            told = f"EPRT |2|{ip_address(client.v6)}|{own}|" if six else f"PORT {host},{own >> 8},{own & 255}"
            lines = [(True, told.encode() + b"\r\n"), (False, b"200 well\r\n")]
        begin = len(self.packets)
        self.talk(client, server, six, ports, [(False, b"220 demo\r\n"), *lines, (True, b"QUIT\r\n")])
        end = self.packets[begin + 3 + 3 :]  # the handshake and three lines: what is left comes after the transfer
        del self.packets[begin + 3 + 3 :]
        if passive:
            self.talk(client, server, six, (self.next_port(), own), [(False, bytes(65536))])
        else:
            self.talk(server, client, six, (20, own), [(True, bytes(65536))])
        for _, packet in end:
            self.packets.append((_BEGIN + len(self.packets) * _STEP, packet))

    def tftp(self, client: Host, server: Host, six: bool) -> None:
        """A file in blocks, from a port of its own."""
        names = (client.v6, server.v6) if six else (client.v4, server.v4)
        own, transfer = self.next_port(), self.next_port()
        self.send(client, server, six, frames.UDP, frames.udp(*names, (own, 69), b"\0\1config\0octet\0"))
        for number in range(1, 18):
            block = bytes((0, 3, 0, number)) + bytes(512 if number < 17 else 0)
            self.send(server, client, six, frames.UDP, frames.udp(*names[::-1], (transfer, own), block))
            self.send(client, server, six, frames.UDP, frames.udp(*names, (own, transfer), bytes((0, 4, 0, number))))


def main(directory: Path) -> None:
    """Write the capture."""
    hosts, tape = read_hosts(), Tape()
    outside, web, web3, app = (hosts[name] for name in ("outside", "web-1", "web-3", "app-1"))
    db, backup, dns, ops = (hosts[name] for name in ("db-1", "backup-1", "dns-1", "ops-1"))
    for six in (False, True):
        for size in PAGES.values():
            tape.fetch(outside, web, six, 80, size)
        tape.ping(outside, web, six)
        tape.scan(outside, db, six)
    for packet in frames.odd_packets(outside, web):
        tape.add(outside, packet)
    tape.fetch(web, app, False, 8080, LARGE)
    greeting: Line = (False, b"ready\r\n")
    for six in (False, True):
        tape.ask(web, dns, six, 53, bytes(34), bytes(50))
        tape.fetch(web, app, six, 8080, PAGES["page-5"])
        tape.talk(web, db, six, (tape.next_port(), 3306), [greeting, (True, b"select\r\n"), (False, bytes(200))])
        queries: list[Line] = [(True, b"select\r\n"), (False, bytes(200))] * 20
        tape.talk(app, db, six, (tape.next_port(), 3306), [greeting, *queries])
        tape.tftp(app, backup, six)
        for passive in (True, False):
            tape.ftp(db, backup, six, passive)
    tape.fetch(web3, app, False, 8080, PAGES["page-0"])
    tape.talk(ops, web3, False, (tape.next_port(), 22), [greeting, (True, b"ls\r\n"), (False, bytes(200))])
    for six in (False, True):
        for host in (web, app, db):
            tape.ping(ops, host, six)
        tape.ask(ops, backup, six, 9000, bytes(4000), bytes(4000))
    count = write_pcap(directory / "shop.pcap", tape.packets)
    print(f"made {count:,} packets without a network")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
