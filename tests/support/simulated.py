# SPDX-License-Identifier: Apache-2.0
"""A real control plane with hosts that are simulated: how long, how much memory, how many bytes; as JSON.

`python -m tests.support.simulated --hosts 1000 --namespaces 2500 --pods 10000 [--out FILE]`. The control plane is a
process of its own (simulated_control.py), with its own store; what it is to do is said through its API by one client,
and every host has a connection over TLS with a certificate of its own (simulated_hosts.py). Seconds are of a machine
that does both.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from supervisor_glue.api.client import Resource
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.idle import apply_descriptors
from supervisor_glue.auth.kubeconfig import kubeconfig_read
from supervisor_glue.auth.pki import Authority, authority_open
from supervisor_glue.auth.tls import buffers_limit
from supervisor_glue.controllers.objects import condition_of, name_of
from supervisor_glue.controllers.realized import REALIZED
from supervisor_glue.controllers.resources import CLUSTER_NETWORK_POLICIES, NETWORK_POLICIES, PODS
from tests.support.simulated_hosts import SimulatedHost, each, hosts_make
from tests.support.simulated_objects import Load, hosts_load, load_all
from tests.support.simulated_verdict import sizes_of, verdict

ROOM = 1200.0  # seconds a thousand hosts, for what shall take no more than a minute with a thousand
QUIET = 0.4  # seconds in which no host is told anything: a change has come to all
PAUSE_BETWEEN = 1.0  # seconds, between two changes
LOOK = 5.0  # seconds, between two lists of all pods
MOST_CHANGED = 40
COMPARED = 100  # hosts whose every part is compared, where there are more than a thousand
TOLD = (CLUSTER_NETWORK_POLICIES, NETWORK_POLICIES, PODS)
TICK = 30.0  # seconds, between two words on how far it is
UIDS = "uids.json"  # of a store that has been filled: the Hosts' uids


@dataclass
class ControlPlane:
    """The process, on one port for all its lives."""

    folder: Path
    cidr: str
    only_span: bool = False
    port: int = 0
    process: subprocess.Popen[bytes] | None = None

    @property
    def kubeconfig(self) -> Path:
        return self.folder / "kubeconfig"

    @property
    def authority(self) -> Authority:
        return authority_open(self.folder / "data" / "pki", datetime.now(UTC))

    async def start(self) -> None:
        """Returns when the API answers."""
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        self.kubeconfig.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.support.simulated_control", str(self.folder / "data"), str(self.port)]
        command += [str(self.kubeconfig), self.cidr, *["span"] * self.only_span]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stderr=log)
        while not self.kubeconfig.exists() and self.process.poll() is None:
            await asyncio.sleep(0.02)
        assert self.kubeconfig.exists(), (self.folder / "log").read_text()[-2000:]

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None

    def memory(self) -> dict[str, int]:
        """Megabytes: now, and at most."""
        assert self.process is not None
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        found = {line.partition(":")[0]: line.split()[1] for line in lines if line.startswith(("VmRSS", "VmHWM"))}
        return {"now": int(found["VmRSS"]) // 1024, "most": int(found["VmHWM"]) // 1024}

    def cpu(self) -> float:
        """Seconds of processor time."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Run:
    """What all parts of a run use."""

    load: Load
    control: ControlPlane
    client: HttpClient
    uids: dict[str, str]
    hosts: list[SimulatedHost] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    random: random.Random = field(default_factory=lambda: random.Random(1))
    out: Path | None = None  # where the result is written, as far as it is

    @property
    def room(self) -> float:
        """Seconds until what does not come is given up."""
        return ROOM * max(1, self.load.hosts / 1000)

    def compared(self) -> list[SimulatedHost]:
        """Those whose parts are looked at one by one: each has all of its routing domain."""
        return self.hosts if len(self.hosts) <= 1000 else self.random.sample(self.hosts, COMPARED)

    def say(self, key: str, value: Any) -> None:
        self.result[key] = value
        self.tell(f"{key}: {json.dumps(value)}")
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(json.dumps(self.result, indent=2) + "\n")

    def tell(self, what: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)

    async def until(self, is_so: Callable[[], Any], every: float = 0.05) -> None:
        """And say now and then how far it is."""
        begun = told = time.monotonic()
        while not is_so():
            now = time.monotonic()
            assert now < begun + self.room, "it does not come"
            if now - told > TICK and self.control.process is not None:
                told, there = now, sum(host.connected.is_set() for host in self.hosts)
                sent, cpu = sum(host.bytes for host in self.hosts) >> 20, self.control.cpu()
                said = f"{there} hosts have all, {sent} MiB, {cpu:.0f} s of a core, {self.control.memory()}"
                self.tell(f"  {now - begun:.0f} s: {said}")
            await asyncio.sleep(every)


async def quiet(run: Run, since: float, seconds: float = QUIET) -> None:
    """Until some host has been told something since then, and none for a while."""
    await run.until(lambda: time.perf_counter() - max(since, *(host.heard for host in run.hosts)) > seconds, 0.02)


def spread(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)

    def at(part: float) -> float:
        return round(ordered[min(len(ordered) - 1, int(part * len(ordered)))], 1)

    return {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": round(ordered[-1], 1)}


# The parts of a run.


async def ready(run: Run) -> None:
    """The control plane begins with everything in its store; how long until each host has all that concerns it."""
    run.control.stop()
    begun = time.monotonic()
    await run.control.start()
    answers = time.monotonic() - begun
    await each(host.start() for host in run.hosts)
    await run.until(lambda: all(host.connected.is_set() for host in run.hosts))
    run.say(
        "ready",
        {
            "seconds": round(time.monotonic() - begun, 2),
            "api_seconds": round(answers, 2),
            "control_plane_cpu": run.control.cpu(),
            "memory_mb": run.control.memory(),
        },
    )
    await run.until(lambda: all(host.reported for host in run.hosts))
    run.say("reported", {"seconds": round(time.monotonic() - begun, 2), "control_plane_cpu": run.control.cpu()})
    sample = run.random.sample(run.hosts, min(20, len(run.hosts)))
    sizes = sizes_of(sample)
    sent = [host.bytes for host in run.hosts]
    run.say("first_bytes", {"most": max(sent), "mean": sum(sent) // len(sent), **sizes})


async def settled(run: Run) -> None:
    """Until every policy, Namespace and pod says that it is in force: of a new store most do not yet."""
    begun = time.monotonic()
    if not run.control.only_span:
        while left := sum([len(await unrealized(run.client, resource)) for resource in TOLD]):
            run.tell(f"  {left} objects are not in force")
            await asyncio.sleep(LOOK)
    seconds = round(time.monotonic() - begun, 1)
    run.say("settled", {"seconds": seconds, "control_plane_cpu": run.control.cpu(), "memory_mb": run.control.memory()})


async def unrealized(client: HttpClient, resource: Resource) -> list[str]:
    found = (await client.list(resource)).items
    return [name_of(item) for item in found if (condition_of(item, REALIZED) or {}).get("status") != "True"]


async def labels(run: Run, count: int, key: str = "label_ms") -> None:
    """A pod gets another label: until the last host that it concerns has heard."""
    await changes(run, count, key, lambda labels: {"app": "other" if labels.get("app") == "web" else "web"})


async def quarantined(run: Run, count: int) -> None:
    """The same with a label that concerns every host that has pods."""
    is_in = {"quarantine": "yes"}
    await changes(
        run, count, "label_of_all_ms", lambda labels: {"quarantine": "no"} if is_in.items() <= labels.items() else is_in
    )


async def changes(run: Run, count: int, key: str, labels_of: Callable[[dict[str, str]], dict[str, str]]) -> None:
    pods = [(namespace, name) for namespace, names in run.load.pods.items() for name in names]
    taken, told, sent, reported = [], [], [], []
    for _ in range(count):
        namespace, name = run.random.choice(pods)
        labels = labels_of((await run.client.get(PODS, name, namespace))["metadata"]["labels"])
        await asyncio.sleep(PAUSE_BETWEEN)
        for host in run.hosts:
            host.count()
        begun = time.perf_counter()
        made = await run.client.patch(PODS, name, {"metadata": {"labels": labels}}, namespace)
        revision, answered = int(made["metadata"]["resourceVersion"]), time.perf_counter()
        await asyncio.sleep(0)
        await quiet(run, answered)
        heard = [host for host in run.hosts if host.told and host.heard > begun]
        if heard:
            taken.append(1000 * (max(host.heard for host in heard) - begun))
            told.append(len(heard))
            sent += [host.bytes for host in heard]
            await run.until(lambda heard=heard, revision=revision: all(host.reported >= revision for host in heard))  # type: ignore[misc]
            reported.append(time.perf_counter() - begun)
    if not taken:  # nothing was different for any host
        run.say(key, {})
        return
    found = {"changes": len(taken), "hosts": spread(told), "bytes": spread(sent), "reported_seconds": spread(reported)}
    run.say(key, {**spread(taken), **found})


async def cut(run: Run) -> None:
    """All hosts are cut off, something changes, and they come back."""
    await each(host.cut() for host in run.hosts)
    before = {host.name: dict(host.reader.parts) for host in run.compared()}
    for host in run.hosts:
        host.count()
    pods = [(namespace, name) for namespace, names in run.load.pods.items() for name in names]
    for number, (namespace, name) in enumerate(run.random.sample(pods, min(MOST_CHANGED, len(pods)))):
        await run.client.patch(PODS, name, {"metadata": {"labels": {"app": "web" if number % 2 else "db"}}}, namespace)
    namespace = next(iter(run.load.pods))
    if not run.control.only_span:
        late = f"late-{int(time.time())}"  # the store may have seen a run before
        await run.client.create(PODS, run.load.pod(namespace, late), namespace)
        run.load.pods[namespace].append(late)
        await addressed(run)
    begun = time.monotonic()
    await each(host.start() for host in run.hosts)
    await run.until(lambda: all(host.connected.is_set() for host in run.hosts))
    seconds = time.monotonic() - begun
    run.say("cut", {"seconds": round(seconds, 2), **bytes_again(run, before)})


def bytes_again(run: Run, before: dict[str, dict[str, bytes]]) -> dict[str, Any]:
    """What hosts sent and were sent when they came back, against what had changed and how much they knew."""
    worst, sent, allowed = 0.0, [], []
    for host in (host for host in run.hosts if host.name in before):
        was, now = before[host.name], host.reader.parts
        changed = sum(len(part) for key, part in now.items() if was.get(key) != part)
        changed += sum(len(key) for key in was.keys() - now.keys())
        limit = 2 * changed + 64 * len(was)
        sent.append(host.bytes)
        allowed.append(limit)
        worst = max(worst, host.bytes / limit)
    return {"most": max(sent), "allowed_there": allowed[sent.index(max(sent))], "worst_share": round(worst, 3)}


async def leader_change(run: Run) -> None:
    """The control plane is killed; another begins with the same store and nothing else."""
    before = {host.name: dict(host.reader.parts) for host in run.compared()}
    run.control.stop(signal.SIGKILL)
    await run.until(lambda: not any(host.connected.is_set() for host in run.hosts))
    for host in run.hosts:
        host.count()
    begun = time.monotonic()
    await run.control.start()
    await run.until(lambda: all(host.connected.is_set() for host in run.hosts))
    seconds = time.monotonic() - begun
    await quiet(run, time.perf_counter(), 2.0)
    run.say("leader", {"seconds": round(seconds, 2), **bytes_again(run, before), "memory_mb": run.control.memory()})


async def addressed(run: Run) -> None:
    """Until every pod has its address, and its vNIC with it."""
    end = time.monotonic() + 3 * run.room
    while True:
        without = 1
        with suppress(ConnectionError):  # it is busy
            pods = (await run.client.list(PODS)).items
            without = sum(not (item.get("status") or {}).get("podIP") for item in pods)
        if not without:
            return
        assert time.monotonic() < end, f"{without} pods have no address"
        await asyncio.sleep(LOOK)


async def filled(load: Load, folder: Path) -> dict[str, str]:
    """By simulated_direct.py; the Hosts' uids."""
    counts = map(str, (load.hosts, load.namespaces, load.count))
    command = [sys.executable, "-m", "tests.support.simulated_direct", str(folder / "data"), *counts]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    found: dict[str, str] = json.loads(out)
    return found


async def simulate(
    load: Load,
    folder: Path,
    many: int,
    direct: bool,
    short: bool = False,
    fill: bool = False,
    out: Path | None = None,
) -> dict[str, Any]:
    """All parts, one after the other; `short`: without a cut and another leader; `fill`: the store is filled, no more.
    `direct`: the store is filled without the API, and of the controllers those alone run that tell hosts."""
    control = ControlPlane(folder, load.cidr, direct)
    known = folder / UIDS
    uids = json.loads(known.read_text()) if known.exists() else await filled(load, folder) if direct else {}
    await control.start()
    try:
        async with HttpClient.of_file(control.kubeconfig, "palisade-load") as client:
            run = Run(load, control, client, uids, out=out)
            try:
                await (loaded(run) if fill else parts(run, many, short))
            finally:
                for host in run.hosts:
                    await host.cut()
            return run.result
    finally:
        control.stop()


async def loaded(run: Run) -> None:
    """What there is to be is there."""
    load, control, client = run.load, run.control, run.client
    run.say("what", load.counts())
    if run.uids:
        return
    begun = time.monotonic()
    run.uids = await hosts_load(client, load)
    await load_all(client, load)
    run.say("loaded", {"seconds": round(time.monotonic() - begun, 1), "control_plane_cpu": control.cpu()})
    await addressed(run)
    seconds = round(time.monotonic() - begun, 1)
    run.say("addressed", {"seconds": seconds, "control_plane_cpu": control.cpu(), "memory_mb": control.memory()})
    (control.folder / UIDS).write_text(json.dumps(run.uids))


async def parts(run: Run, many: int, short: bool) -> None:
    await loaded(run)
    load, control, client = run.load, run.control, run.client
    server = kubeconfig_read(control.kubeconfig).server
    run.hosts = hosts_make(server, control.authority, run.uids)
    await ready(run)
    await settled(run)
    await labels(run, many)
    await quarantined(run, max(2, many // 5))
    run.say("memory_mb", control.memory())
    if not short:
        await cut(run)
        await leader_change(run)
        await labels(run, max(2, many // 10), "label_after_ms")
    run.say("verdict", await verdict(client, load, run.hosts, run.compared()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", type=int, default=1000)
    parser.add_argument("--namespaces", type=int, default=2500)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--changes", type=int, default=100)
    parser.add_argument("--direct", action="store_true", help="fill the store without the API")
    parser.add_argument("--short", action="store_true", help="without a cut and another leader")
    parser.add_argument("--out", type=Path, help="where the result is written, after each part")
    parser.add_argument("--folder", type=Path, help="which is kept: a store that was filled in it is used again")
    parser.add_argument("--fill", action="store_true", help="fill the store, and nothing else")
    asked = parser.parse_args()
    load = Load(asked.hosts, asked.namespaces, asked.pods)
    buffers_limit()
    apply_descriptors()
    with tempfile.TemporaryDirectory(prefix="palisade-simulated-") as made:
        folder = Path(made) if asked.folder is None else asked.folder
        work = simulate(load, folder, asked.changes, asked.direct, asked.short, asked.fill, asked.out)
        print(json.dumps(asyncio.run(work), indent=2))


if __name__ == "__main__":
    main()
