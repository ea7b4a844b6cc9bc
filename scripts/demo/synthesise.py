# SPDX-License-Identifier: Apache-2.0
"""The demo's packets where no network can be had: the shop's machines, their packets written down."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator

from dfw.load import load

SYN, ACK, FIN, PSH = 2, 16, 1, 8


def _sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Wire:
    """Ethernet frames between machines of the inventory."""

    def __init__(self, inventory: str) -> None:
        self.ports = {port.name: port for port in load([inventory]).world.inventory}

    def ip(self, source: str, destination: str, protocol: int, payload: bytes) -> bytes:
        """A frame with an IPv4 packet; the transport checksum is filled in for TCP and UDP."""
        a, b = self.ports[source], self.ports[destination]
        src, dst = (next(ip.packed for ip in port.ips if len(ip.packed) == 4) for port in (a, b))
        if protocol in (6, 17):
            at = 16 if protocol == 6 else 6
            pseudo = src + dst + struct.pack("!BBH", 0, protocol, len(payload))
            payload = payload[:at] + struct.pack("!H", _sum(pseudo + payload)) + payload[at + 2 :]
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0) + src + dst
        head = head[:10] + struct.pack("!H", _sum(head)) + head[12:]
        macs = (bytes.fromhex(port.mac.replace(":", "")) for port in (b, a))
        return b"".join(macs) + b"\x08\x00" + head + payload

    def tcp(
        self, source: str, destination: str, ports: tuple[int, int], seq: int, ack: int, flags: int, data: bytes = b""
    ) -> bytes:
        """A frame with a TCP segment."""
        return self.ip(
            source, destination, 6, struct.pack("!HHIIBBHHH", *ports, seq, ack, 0x50, flags, 65000, 0, 0) + data
        )

    def conversation(self, client: str, server: str, port: int, number: int) -> Iterator[bytes]:
        """A TCP connection: opened, a question, an answer, closed."""
        there, back = (40000 + number, port), (port, 40000 + number)
        yield self.tcp(client, server, there, 100, 0, SYN)
        yield self.tcp(server, client, back, 500, 101, SYN | ACK)
        yield self.tcp(client, server, there, 101, 501, ACK)
        yield self.tcp(client, server, there, 101, 501, ACK | PSH, b"GET /")
        yield self.tcp(server, client, back, 501, 106, ACK | PSH, b"hello" * 200)
        yield self.tcp(client, server, there, 106, 1501, ACK | FIN)
        yield self.tcp(server, client, back, 1501, 107, ACK | FIN)
        yield self.tcp(client, server, there, 107, 1502, ACK)

    def packets(self) -> Iterator[bytes]:
        """All of them."""
        for number in range(500):
            yield from self.conversation("ops-1", "web-1", 80, number)
            yield from self.conversation("web-1", "app-1", 8080, number)
            yield from self.conversation("app-1", "db-1", 3306, number)
            yield self.tcp("web-2", "db-1", (40000 + number, 3306), 1, 0, SYN)
            yield self.tcp("web-3", "app-1", (40000 + number, 8080), 1, 0, SYN)
            for source, destination, ports in (("web-1", "dns-1", (41000, 53)), ("dns-1", "web-1", (53, 41000))):
                yield self.ip(source, destination, 17, struct.pack("!HHHH", *ports, 12, 0) + b"name")
            for source, destination, kind in (("ops-1", "db-1", 8), ("db-1", "ops-1", 0)):
                echo = struct.pack("!BBHHH", kind, 0, 0, number, 1)
                yield self.ip(source, destination, 1, echo[:2] + struct.pack("!H", _sum(echo)) + echo[4:])


def main(inventory: str, path: str) -> None:
    """Writes the capture, a packet each 100 microseconds."""
    with open(path, "wb") as out:
        out.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for number, frame in enumerate(Wire(inventory).packets()):
            out.write(
                struct.pack("=IIII", 1_700_000_000 + number // 10000, number % 10000 * 100, len(frame), len(frame))
            )
            out.write(frame)


if __name__ == "__main__":
    main(*sys.argv[1:])
