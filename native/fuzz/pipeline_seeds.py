# SPDX-License-Identifier: Apache-2.0
"""First corpus of fuzz_pipeline: short conversations in the target's own operations (see its packet_build).

`pipeline_seeds.py DIR` writes one file a case.
"""

from __future__ import annotations

import random
import sys

from seed_files import seeds_write

BUILD = 0x60
SYN, SYNACK, ACK, PSH, FIN, RST, RSTACK, NONE = range(8)
FTP, SSH, TELNET, HTTP, DNS, TFTP, HIGH, HIGHER = range(8)


def tcp(
    src: int,
    dst: int,
    sport: int,
    dport: int,
    flags: int,
    seq: int = 0,
    ack: int = 0,
    *,
    six: bool = False,
    said: int = 0,
) -> bytes:
    """One segment between hosts 1-4; seq and ack count from the builder's base."""
    return bytes(
        [BUILD, six | (src - 1) << 1 | (dst - 1) << 3, sport | dport << 3, said, flags, seq & 255, ack & 255, 0x40, 0]
    )


def udp(src: int, dst: int, sport: int, dport: int, said: int = 0, *, six: bool = False) -> bytes:
    """One datagram."""
    return bytes([BUILD, six | (src - 1) << 1 | (dst - 1) << 3 | 4 << 5, sport | dport << 3, said, 0])


def handshake(client: int, server: int, port: int, *, six: bool = False) -> bytes:
    """SYN, SYN+ACK, ACK."""
    return (
        tcp(client, server, HIGH, port, SYN, six=six)
        + tcp(server, client, port, HIGH, SYNACK, 50, 1, six=six)
        + tcp(client, server, HIGH, port, ACK, 1, 51, six=six)
    )


def piece(src: int, dst: int, at: int, size: int, number: int = 0) -> bytes:
    """A fragment: offset at * 152, size * 8 bytes."""
    return bytes([BUILD, (src - 1) << 1 | (dst - 1) << 3 | 7 << 5, HIGH | DNS << 3, 0, at | number << 3, size])


def later(ticks: int) -> bytes:
    """Time goes by."""
    return bytes([0x10, ticks >> 8, ticks & 255])


def commit(policy: int, number: int = 0) -> bytes:
    """Another policy for a filter."""
    return bytes([0x20 | number, policy])


def cases() -> dict[str, bytes]:
    """Every case by name."""
    close = tcp(1, 2, HIGH, HTTP, FIN, 1, 51) + tcp(2, 1, HTTP, HIGH, FIN, 51, 2) + tcp(1, 2, HIGH, HTTP, ACK, 2, 52)
    rng = random.Random(7)
    shapes = {
        "open-close": handshake(1, 2, HTTP) + close,
        "reopen": handshake(1, 2, HTTP) + close + handshake(1, 2, HTTP),
        "six": handshake(1, 2, SSH, six=True),
        "reset": handshake(1, 2, SSH) + tcp(2, 1, SSH, HIGH, RST, 51),
        "simultaneous": tcp(1, 2, HIGH, HIGHER, SYN)
        + tcp(2, 1, HIGHER, HIGH, SYN, 50)
        + tcp(1, 2, HIGH, HIGHER, SYNACK, 0, 51)
        + tcp(2, 1, HIGHER, HIGH, SYNACK, 50, 1),
        "ftp": handshake(1, 2, FTP)
        + tcp(1, 2, HIGH, FTP, PSH, 1, 51, said=1)
        + tcp(2, 1, HIGHER, HIGH, SYN)
        + later(7000)
        + tcp(2, 1, HIGHER, HIGH, ACK),
        "tftp": udp(1, 2, HIGH, TFTP, 5) + udp(2, 1, HIGHER, HIGH, 6) + udp(1, 2, HIGH, HIGHER, 6),
        "policy": handshake(1, 2, SSH)
        + commit(1)
        + tcp(1, 2, HIGH, SSH, PSH, 1, 51, said=6)
        + commit(7)
        + handshake(1, 2, SSH),
        "fragments": piece(1, 2, 0, 19) + piece(1, 2, 2, 19) + piece(1, 2, 1, 19) + piece(1, 2, 3, 19),
        "overlap": piece(1, 2, 0, 30) + piece(1, 2, 1, 19) + piece(1, 2, 2, 19),
        "full": b"".join(udp(1 + i % 4, 1 + i // 4 % 4, i % 8, i // 3 % 8) for i in range(40)),
        "leap": udp(1, 2, HIGH, DNS) + bytes([0x1F, 0xFF, 0xFF]) + udp(2, 1, DNS, HIGH) + later(65535),
        "reject": b"".join(tcp(1, 2, HIGH, TELNET, SYN, i) for i in range(12)),
        # Found by the fuzzer: TCP and UDP with the same two ends, whose hashes agree in the bits of an index line.
        "kinds": bytes.fromhex("9393930100618000042c2c93939393a37bc00000a37b"),
        "two-filters": bytes([0x30, 0x04]) + handshake(1, 2, HTTP) + close,
    }
    for i in range(24):
        shapes[f"mixed-{i}"] = b"".join(rng.choice(list(shapes.values())) for _ in range(4))
    return shapes


if __name__ == "__main__":
    sys.exit(seeds_write(sys.argv, {name: data[:4096] for name, data in cases().items()}))
