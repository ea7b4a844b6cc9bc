# SPDX-License-Identifier: Apache-2.0
"""A pod of a lab moves while another one sends to it: `python -m scripts.demo.moving LAB FROM POD HOST`.

One TCP connection of each family, to port 80, from before the migration until after it; what arrives is compared with
what was sent. Exit status 1 where it differs, or nothing arrives any more.
"""

from __future__ import annotations

import hashlib
import socket
import sys
import threading
import time

from overlay import lab_up
from overlay.enter import run_in
from overlay.lab_inputs import inputs_kept
from overlay.lab_migrate import render_migrated
from overlay.lab_record import lab_paths, record_read

BLOCK = 1 << 18
SECONDS = 0.7  # before the migration, and after it
PATIENCE = 20.0


class Stream:
    """A connection between two namespaces, its two ends ours, and what went through."""

    def __init__(self, source: str, target: str, address: str) -> None:
        self.address = address
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with run_in(target, lambda: socket.create_server((address, 80), family=family)) as server:
            self.sender = run_in(source, lambda: socket.socket(family))
            self.sender.settimeout(PATIENCE)
            self.sender.connect((address, 80))
            self.receiver = server.accept()[0]
        self.receiver.settimeout(PATIENCE)
        self.ending = threading.Event()
        self.said, self.heard = hashlib.blake2b(), hashlib.blake2b()
        self.sent = self.found = 0
        self.longest = 0.0
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]
        for thread in self.threads:
            thread.start()

    def _send(self) -> None:
        number = 0
        while not self.ending.is_set():
            block = number.to_bytes(8, "big") * (BLOCK // 8)
            self.sender.sendall(block)
            self.said.update(block)
            self.sent += len(block)
            number += 1
            time.sleep(0.002)  # there are others on this machine
        self.sender.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        last = time.monotonic()
        while data := self.receiver.recv(BLOCK):
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last), now
            self.heard.update(data)
            self.found += len(data)

    def finish(self) -> bool:
        """Did all that was sent arrive as it was sent?"""
        self.ending.set()
        for thread in self.threads:
            thread.join(PATIENCE)
        return self.found == self.sent and self.heard.digest() == self.said.digest()


def main(lab: str, sender: str, pod: str, host: str) -> int:
    """Open the connections, move the pod, and say what became of them."""
    paths = lab_paths(lab)
    record = record_read(paths)
    assert record is not None
    source, target = (str(paths.room / record.pods[name].netns) for name in (sender, pod))
    addresses = [str(ip) for ip in inputs_kept(paths, record).world.inventory.ports[pod].ips]
    streams = [Stream(source, target, address) for address in addresses]
    time.sleep(SECONDS)
    before = [stream.found for stream in streams]
    begun = time.monotonic()
    moved = lab_up.migrate(paths, pod, host)
    assert moved is not None
    print(*render_migrated(pod, host, moved, time.monotonic() - begun), sep="\n")
    time.sleep(SECONDS)
    good = True
    for stream, early in zip(streams, before, strict=True):
        whole = stream.finish()
        good = good and whole and stream.found > early
        counts = f"{early / 1e6:,.0f} MB from {sender} to {stream.address} before it moved"
        counts += f", {(stream.found - early) / 1e6:,.0f} MB since"
        arrived = "arrived" if whole else "DID NOT ARRIVE"
        print(f"  {counts}; all of it {arrived}; longest silence {stream.longest * 1000:.0f} ms")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
