# SPDX-License-Identifier: Apache-2.0
"""A pod of a lab moves while another one sends to it: `python -m scripts.demo.moving LAB FROM POD HOST`.

One TCP connection of each family, to port 80, from before the migration until after it; what arrives is compared with
what was sent. Beside them an iperf3 transfer over IPv4, which nobody tells of it. Exit status 1 where bytes differ, or
nothing arrives any more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

from overlay import lab_up
from overlay.enter import run_in
from overlay.lab_inputs import inputs_kept
from overlay.lab_migrate import render_migrated
from overlay.lab_record import lab_paths, record_read

BLOCK = 1 << 18
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


class Transfer:
    """An iperf3 transfer between two pods, run as anybody would run it, until it is told to end."""

    def __init__(self, lab: str, source: str, target: str, address: str) -> None:
        self.server = self._iperf3(lab, target, "--server", "--one-off", "--forceflush")
        assert self.server.stdout is not None
        while "listening" not in self.server.stdout.readline():
            if self.server.poll() is not None:
                raise RuntimeError("iperf3 does not listen")
        wanted = ("--time", "600", "--interval", "0.5", "--forceflush", "--fq-rate", "400M")  # there are others here
        self.client = self._iperf3(lab, source, "--client", address, *wanted)
        self.megabytes: list[float] = []  # of each interval
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    @staticmethod
    def _iperf3(lab: str, pod: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dfw", "lab", "exec", "--name", lab, pod, "--", "iperf3", "--port", "80"]
        command += ["--format", "M", *arguments]
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def _read(self) -> None:
        assert self.client.stdout is not None
        for line in self.client.stdout:
            found = re.search(r"sec +([0-9.]+) MBytes", line)
            if found is not None and self.client.poll() is None:
                self.megabytes.append(float(found[1]))

    def wait(self, intervals: int) -> list[float]:
        """MBytes of the next intervals in which something was sent; fewer where it ends, or is silent."""
        start, deadline = len(self.megabytes), time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.client.poll() is None:
            found = [one for one in self.megabytes[start:] if one > 0]
            if len(found) >= intervals:
                return found
            time.sleep(0.02)
        return []

    def end(self) -> None:
        """End both of its ends."""
        for process in (self.client, self.server):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def main(lab: str, sender: str, pod: str, host: str) -> int:
    """Open the connections, move the pod, and say what became of them."""
    paths = lab_paths(lab)
    record = record_read(paths)
    assert record is not None
    source, target = (str(paths.room / record.pods[name].netns) for name in (sender, pod))
    addresses = [str(ip) for ip in inputs_kept(paths, record).world.inventory.ports[pod].ips]
    streams = [Stream(source, target, address) for address in addresses]
    transfer = Transfer(lab, sender, pod, addresses[0])
    try:
        going = transfer.wait(1)
        before = [stream.found for stream in streams]
        begun = time.monotonic()
        moved = lab_up.migrate(paths, pod, host)
        assert moved is not None
        print(*render_migrated(pod, host, moved, time.monotonic() - begun), sep="\n")
        goes_on = transfer.wait(2)  # the first of them may have begun before
    finally:
        transfer.end()
    good = bool(going and goes_on)
    for stream, early in zip(streams, before, strict=True):
        whole = stream.finish()
        good = good and whole and stream.found > early
        counts = f"{early / 1e6:,.0f} MB from {sender} to {stream.address} before it moved"
        counts += f", {(stream.found - early) / 1e6:,.0f} MB since"
        arrived = "arrived" if whole else "DID NOT ARRIVE"
        print(f"  {counts}; all of it {arrived}; longest silence {stream.longest * 1000:.0f} ms")
    state = f"goes on: {goes_on[-1]:.0f} MB in the last half second" if goes_on else "STANDS STILL"
    print(f"  an iperf3 transfer from {sender} to {addresses[0]}, begun before it moved, {state}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
