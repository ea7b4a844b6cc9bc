# SPDX-License-Identifier: Apache-2.0
"""Capture what comes in through some interfaces: `python -m scripts.demo.capture FILE INTERFACE...`, until SIGTERM.

A raw AF_PACKET socket (packet(7)) on all interfaces, so that packets stand in one order; what goes out is left away, so
that each packet is there once. Prints "ready" when it listens, and at the end "PACKETS LOST".
"""

from __future__ import annotations

import signal
import socket
import struct
import sys
from pathlib import Path

from scripts.demo.files import Packet, write_pcap

_ETH_P_ALL = 3
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_OUTGOING = 263, 6, 4
_ROOM = 256 << 20  # bytes that may wait in the socket


def main(path: Path, names: list[str]) -> None:
    """Capture until SIGTERM, then write the file."""
    wanted = frozenset(names)
    packets: list[Packet] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL)) as sock:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _ROOM)
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        # After the signal, reading goes on until nothing is left.
        signal.signal(signal.SIGTERM, lambda *_: sock.setblocking(False))
        print("ready", flush=True)
        while True:
            try:
                frame, extra, _, address = sock.recvmsg(65536, 128)
            except BlockingIOError:
                break
            if address[2] != _PACKET_OUTGOING and address[0] in wanted:
                seconds, nanoseconds = struct.unpack("qq", extra[0][2][:16])
                packets.append((seconds * 10**9 + nanoseconds, frame))
        _, lost = struct.unpack("II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
    print(write_pcap(path, packets), lost, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
