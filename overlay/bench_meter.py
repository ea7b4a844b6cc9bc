# SPDX-License-Identifier: Apache-2.0
"""What `bench lab` measures between two pods, one meter a row; the loads are overlay/bench_load.py's."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from dfw.errors import EnvironmentLacksError
from overlay.bench_fabric import ADDRESSES, DENIED_PORT, Pods
from overlay.bench_load import mac_address
from overlay.enter import run_in
from overlay.pod import importing

LOSS: Final = 0.001  # of small packets: a rate at which more is lost does not count
_PORT: Final = 5201
_TRIALS: Final = 8
_ACCEPTING: Final = 8  # ports; so many source ports more before one is used again
_AT_ONCE: Final = 16


def _command(netns: str, what: str, arguments: tuple[Any, ...]) -> list[str]:
    words = [str(item) if what == "exec" else json.dumps(item) for item in arguments]
    return [sys.executable, "-m", "overlay.bench_load", netns, what, *words]


def load(netns: str, what: str, *arguments: Any, seconds: float = 0.0) -> Any:
    """A load's answer; None where it has none, or took half a minute longer than `seconds`."""
    try:
        done = subprocess.run(
            _command(netns, what, arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + 30,
            env=importing(os.environ),
        )
        return json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        return None


@contextlib.contextmanager
def beside(netns: str, what: str, *arguments: Any, ready: bool = True) -> Iterator[subprocess.Popen[str]]:
    """A load that runs as long as this lasts, from when it says that it is ready."""
    process = subprocess.Popen(
        _command(netns, what, arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=importing(os.environ),
    )
    try:
        if ready:
            assert process.stdout is not None
            process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


class Meter(ABC):
    """A measurement. `figures`: names of what it gives."""

    figures: tuple[str, ...]

    def require(self) -> None:  # noqa: B027 - most need nothing
        """Raises EnvironmentLacksError where a program is missing."""

    @abstractmethod
    def measure(self, pods: Pods, seconds: float) -> dict[str, float]:
        """The figures, as far as there are any."""


class Tcp(Meter):
    """One TCP stream by iperf3, and the processor's time that the whole machine spends on a gigabit of it.

    `congestion`: the sender's congestion control; None: this machine's default."""

    figures = ("tcp_gbps", "cpu_s_per_gb")

    def __init__(self, congestion: str | None = None) -> None:
        self.congestion = congestion

    def require(self) -> None:
        if shutil.which("iperf3") is None:
            raise EnvironmentLacksError("no iperf3", "apt-get install -y --no-install-recommends iperf3")

    def measure(self, pods: Pods, seconds: float) -> dict[str, float]:
        server = ("iperf3", "-s", "-1", "-p", _PORT)
        with beside(pods.receiver, "exec", *server, ready=False):
            for _ in range(50):  # it says nothing when it listens
                if _listens(pods.receiver):
                    break
                time.sleep(0.1)
            before = busy_seconds()
            whole = math.ceil(seconds)  # iperf3 takes no others, and 0 for "until killed"
            client = ("iperf3", "-J", "-c", ADDRESSES[1], "-p", _PORT, "-t", whole, *self._choice())
            told = load(pods.sender, "exec", *client, seconds=whole)
            spent = busy_seconds() - before
        try:
            received = told["end"]["sum_received"]
            bits, rate = float(received["bytes"]) * 8, float(received["bits_per_second"])
        except (TypeError, KeyError):
            return {}
        return {"tcp_gbps": rate / 1e9, "cpu_s_per_gb": spent / (bits / 1e9)} if bits else {}

    def _choice(self) -> tuple[str, ...]:
        return () if self.congestion is None else ("-C", self.congestion)


def read_congestion(which: str = "tcp_congestion_control") -> list[str]:
    """This machine's default congestion control; `tcp_available_congestion_control`: all that it has (tcp(7))."""
    return Path(f"/proc/sys/net/ipv4/{which}").read_text(encoding="ascii").split()


def _listens(netns: str) -> bool:
    """Whether something listens on iperf3's port in a namespace (proc(5), /proc/net/tcp)."""

    def look() -> bool:
        tables = [Path(f"/proc/thread-self/net/{name}").read_text(encoding="ascii") for name in ("tcp", "tcp6")]
        return any(f":{_PORT:04X} " in line and " 0A " in line for table in tables for line in table.splitlines())

    return run_in(netns, look)


def busy_seconds() -> float:
    """Processor seconds of this machine that were not idle, since it was started. What others do with a nice value is
    left out, unless we have one ourselves."""
    fields = [int(word) for word in Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]]
    user, nice, system, _, _, irq, softirq, _ = fields
    return (user + system + irq + softirq + (nice if os.nice(0) > 0 else 0)) / os.sysconf("SC_CLK_TCK")


class Packets(Meter):
    """Frames of 60 bytes received by the application, a second, at the highest rate that loses less than 0.1 %."""

    def __init__(self, figure: str, flows: int) -> None:
        self.figures = (figure,)
        self.flows = flows

    def measure(self, pods: Pods, seconds: float) -> dict[str, float]:
        trial = seconds / (_TRIALS + 1)
        mac = run_in(pods.receiver, lambda: mac_address("eth0")).hex()
        with beside(pods.receiver, "sink", _PORT) as receiver:
            if (load(pods.sender, "prime", ADDRESSES[1], _PORT, self.flows) or {}).get("answered") != self.flows:
                return {}
            _ask(receiver, "sink")

            def attempt(rate: float) -> tuple[float, float]:
                """Packets received a second, and the share that was lost."""
                aim = ("eth0", mac, *ADDRESSES, _PORT, self.flows, rate, trial)
                sent = load(pods.sender, "flood", *aim, seconds=trial)
                time.sleep(0.1)
                received = _ask(receiver, "count")
                if not sent or not sent["sent"]:
                    return 0.0, 1.0
                return received / sent["seconds"], 1 - received / sent["sent"]

            received, lost = attempt(0)
            low, high, best = 0.0, received * 1.25, received if lost < LOSS else None
            for _ in range(_TRIALS):
                middle = (low + high) / 2
                received, lost = attempt(middle)
                if lost < LOSS:
                    low, best = middle, max(best or 0.0, received)
                else:
                    high = middle
        return {self.figures[0]: best} if best else {}


def _ask(receiver: subprocess.Popen[str], word: str) -> int:
    assert receiver.stdin is not None and receiver.stdout is not None
    receiver.stdin.write(word + "\n")
    receiver.stdin.flush()
    return int(json.loads(receiver.stdout.readline())["received"])


class RoundTrip(Meter):
    """UDP round trips of 64 bytes, one after the other."""

    figures = ("rtt_us.p50", "rtt_us.p99")

    def measure(self, pods: Pods, seconds: float) -> dict[str, float]:
        with beside(pods.receiver, "echo", _PORT):
            found = load(pods.sender, "ping", ADDRESSES[1], _PORT, seconds, seconds=seconds) or {}
        return {f"rtt_us.{share}": found[share] for share in ("p50", "p99") if share in found}


class Connections(Meter):
    """TCP connections that are made and closed, a second, sixteen at once."""

    figures = ("connections_per_s",)

    def measure(self, pods: Pods, seconds: float) -> dict[str, float]:
        with beside(pods.receiver, "accept", _PORT, _ACCEPTING):
            aim = (ADDRESSES[1], _PORT, _ACCEPTING, seconds, _AT_ONCE)
            found = load(pods.sender, "connect", *aim, seconds=seconds)
        if not found or not found["connections"] or found["failed"] * 100 > found["connections"]:
            return {}
        return {"connections_per_s": found["connections"] / found["seconds"]}


def rules_are_in_force(pods: Pods) -> bool:
    """Whether the pods reach each other, and the port that the rules refuse is silent."""
    for port, wanted in ((_PORT, "connected"), (DENIED_PORT, "silence")):
        with beside(pods.receiver, "accept", port, 1):
            for _ in range(5):  # the first packets of a new network may be lost to its learning
                found = load(pods.sender, "reach", ADDRESSES[1], port, 0.5)
                if found == {"outcome": wanted}:
                    break
            else:
                return False
    return True


METERS: Final[dict[str, Meter]] = {
    "tcp": Tcp(),
    "pps": Packets("pps_60", 1),
    "pps-1000flows": Packets("pps_60_1000flows", 1000),
    "rtt": RoundTrip(),
    "connections": Connections(),
}
