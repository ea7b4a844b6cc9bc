# SPDX-License-Identifier: Apache-2.0
"""Seeds for fuzz_host: frames between vNICs, through gateways and Geneve, in the operations that fuzz_host.c reads."""

from __future__ import annotations

import random
import sys

from seed_files import seeds_write

TCP, UDP, PING, PIECE, ARP, ND, ERROR, LONG = (kind << 1 for kind in range(8))
ALL, GATEWAY = 0, 7


def frame(kind: int, source: int, target: int, how: int, v6: int = 0, op: int | None = None) -> bytes:
    """One frame from host `source` (1 to 6) to a host, everybody or the gateway; from its vNIC, unless `op` says."""
    return bytes([source - 1 if op is None else op, kind | v6, source - 1 | target << 3, how])


def cases() -> dict[str, bytes]:
    """A seed for each way through the host, and mixtures of them."""
    rng = random.Random(7)
    shapes: dict[str, bytes] = {}
    for v6 in (0, 1):
        for name, source, target in (("here", 1, 2), ("there", 1, 5), ("routed", 1, GATEWAY)):
            how = 3 if target == GATEWAY else 0
            handshake = frame(TCP, source, target, how | 4, v6) + frame(TCP, source, target, how, v6)
            shapes[f"tcp-{name}-{v6}"] = handshake
            shapes[f"reject-{name}-{v6}"] = bytes([0xF1, 1, 0xF0, 1]) + frame(TCP, source, target, how | 5, v6) * 3
            shapes[f"pieces-{name}-{v6}"] = b"".join(
                frame(PIECE, source, target, (how & ~3) | i, v6) for i in (0, 2, 1, 3)
            )
            shapes[f"long-{name}-{v6}"] = b"".join(frame(LONG, source, target, how + i, v6) for i in (0, 32, 64, 96))
            shapes[f"error-{name}-{v6}"] = frame(UDP, source, target, how, v6) + frame(
                ERROR, target % 6 + 1, source, how, v6
            )
        shapes[f"ping-{v6}"] = frame(PING, 1, GATEWAY, 0x80, v6) * 2
        shapes[f"hops-{v6}"] = bytes([0, UDP | v6 | 16, 0 | GATEWAY << 3, 0x53])
        shapes[f"all-{v6}"] = frame(UDP, 1, ALL, 0, v6) + frame(PIECE, 1, ALL, 0, v6) + frame(PIECE, 1, ALL, 1, v6)
        # A piece through a tunnel in a vNIC's name, then a piece of the vNIC's own, and time.
        spoofed = frame(PIECE, 1, ALL, 0, v6, op=4) + bytes([0])
        shapes[f"spoofed-pieces-{v6}"] = spoofed + frame(PIECE, 1, ALL, 1, v6) + bytes([0xF8, 255])
        shapes[f"uplink-{v6}"] = bytes([4, TCP | v6, 4 | 1 << 3, 4, 3]) + bytes([4, UDP | v6, 4 | ALL << 3, 0, 0])
        shapes[f"onward-{v6}"] = bytes([0xE9, 7]) + bytes([4, UDP | v6, 4 | 1 << 3, 0, 0]) * 2
    shapes["arp"] = frame(ARP, 1, ALL, 0x80) + frame(ARP, 1, ALL, 2) + frame(ARP, 1, 2, 1)
    shapes["nd"] = frame(ND, 1, ALL, 0x80, 1) + frame(ND, 1, 2, 0, 1) + frame(ND, 1, 2, 1, 1) + frame(ND, 1, 2, 4, 1)
    shapes["timeout"] = frame(PIECE, 1, 2, 0) + bytes([0xF8, 255]) + frame(PIECE, 1, 2, 1)
    for i in range(24):
        shapes[f"mixed-{i}"] = b"".join(rng.choice(list(shapes.values())) for _ in range(6))
    return shapes


if __name__ == "__main__":
    sys.exit(seeds_write(sys.argv, {name: data[:4096] for name, data in cases().items()}))
