# SPDX-License-Identifier: Apache-2.0
"""How soon a change at the API is in force: a lab with a Supervisor, on each host a pod that sends 1,000 datagrams a
second, and policies that deny them and allow them again.

Run as a program, as root: `python benchmarks/policy_latency.py [--hosts 10] [--pods 200] [--changes 200] -o json`.
Times are milliseconds from when the client had read the API's 2xx:
- `last_host_ms`: to when the first datagram was sent that the last of the hosts judged by the new rule
- `realized_ms`: to when a watch told that all HostStatuses have reported the change's revision
- `condition_ms`: to when a watch told the object's own condition; `pod_ms`: from a pod's 2xx to its first datagram
- `kubectl_ms`: kubectl's time as a process; `kubectl_to_packet_ms` counts from its start
`verified`: after each change all hosts' datagrams went its way until the next (`stray`: those that did not).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from latency_summary import TICK, Change, given_read, shares, summary  # beside this file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PORT, POD_PORT = 9000, 9001
MESSAGE = struct.Struct("!II")
PATIENCE = 300.0
KUBECTL = Path(sys.prefix) / "bin" / "kubectl"
LACKING = 3
POD_SAYS = (
    "import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
    "while 1:\n s.sendto(b'%s',('%s',%d));time.sleep(.002)\n"
)
DENY = {"podSelector": {"matchLabels": {"role": "visitor"}}, "policyTypes": ["Egress"]}


# ---- the probe: a process of its own ---------------------------------------------------------------------------


def probe(told: dict[str, Any], out: Path) -> None:
    """Send from all namespaces once a tick, note what arrives, until standard input ends."""
    from overlay.namespace import namespace_entered

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it, and wants what it has noted

    def opened(netns: str) -> socket.socket:
        with namespace_entered(Path(netns)):
            return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    server = opened(told["server"])
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    server.bind(("0.0.0.0", PORT))
    senders = [opened(netns) for netns in told["senders"]]
    for sender in senders:
        sender.connect((told["address"], PORT))
    times = array("d")
    arrived = [bytearray() for _ in senders]
    print("sending", flush=True)
    due = time.monotonic()
    while True:
        number = len(times)
        times.append(time.time())
        for host, sender in enumerate(senders):
            arrived[host].append(0)
            try:
                sender.send(MESSAGE.pack(host, number))
            except OSError:
                pass
        try:
            while True:
                host, which = MESSAGE.unpack(server.recv(64))
                arrived[host][which] = 1
        except BlockingIOError:
            pass
        if number % 100 == 0 and _has_ended():
            break
        due = max(due + TICK, time.monotonic() - 5 * TICK)
        time.sleep(max(0.0, due - time.monotonic()))
    with out.open("wb") as file:
        times.tofile(file)
        for flags in arrived:
            file.write(flags)


def _has_ended() -> bool:
    """Whether standard input has: nothing is ever said there."""
    return bool(select.select([0], [], [], 0)[0])


class Probe:
    """The running probe."""

    def __init__(self, server: Path, address: str, senders: Sequence[Path], out: Path) -> None:
        told = {"server": str(server), "address": address, "senders": list(map(str, senders))}
        command = [sys.executable, __file__, "--probe", json.dumps(told), "--out", str(out)]
        self.count, self.out = len(senders), out
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def end(self) -> tuple[array[float], list[bytes]]:
        """When datagrams were sent; by sender, which of them arrived."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(PATIENCE)
        data = self.out.read_bytes()
        ticks = len(data) // (8 + self.count)
        times = array("d", data[: 8 * ticks])
        return times, [data[8 * ticks + host * ticks :][:ticks] for host in range(self.count)]


# ---- the lab ---------------------------------------------------------------------------------------------------


def pod(namespace: str, name: str, host: str, role: str, command: Sequence[str] = ()) -> dict[str, Any]:
    container: dict[str, Any] = {"name": "main", "image": "host"}
    if command:
        container["command"] = list(command)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"role": role}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": host},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    }


def plan_pods(hosts: Sequence[str], pods: int) -> list[dict[str, Any]]:
    """A server, a visitor a host, and all others in Namespaces of ten."""
    found = [pod("shop", "server", hosts[0], "server")]
    found += [pod("guests", f"visitor-{host}", host, "visitor") for host in hosts]
    for number in range(pods - len(found)):
        found.append(pod(f"load-{number // 10}", f"p{number}", hosts[number % len(hosts)], "load"))
    return found


@contextmanager
def lab(hosts: Sequence[str]) -> Iterator[Any]:
    """Hosts under a Supervisor, in a run directory of their own."""
    place = Path(tempfile.mkdtemp(prefix="pal-latency-", dir="/tmp"))
    os.environ["PALISADE_RUN"] = str(place / "run")
    from overlay.lab_record import lab_paths

    inventory = place / "hosts.json"
    rows = [{"name": host, "tep": f"172.16.0.{11 + at}"} for at, host in enumerate(hosts)]
    inventory.write_text(
        json.dumps({"apiVersion": "palisade.internal/v1alpha1", "kind": "Inventory", "hosts": rows}), "utf-8"
    )
    palisade = [sys.executable, "-m", "dfw", "lab"]
    try:
        subprocess.run([*palisade, "up", "--supervisor", "-q", str(inventory)], check=True, stdout=sys.stderr)
        yield lab_paths("lab")
    finally:
        subprocess.run([*palisade, "down", "--all", "-q"], check=False, stdout=sys.stderr)
        shutil.rmtree(place, ignore_errors=True)


# ---- the changes -----------------------------------------------------------------------------------------------


class Watched:
    """HostStatuses and NetworkPolicies as watches tell them, with the time when they did."""

    def __init__(self, client: Any) -> None:
        from supervisor_glue.controllers.informer import Informer
        from supervisor_glue.controllers.resources import HOST_STATUSES, NETWORK_POLICIES

        self.hosts, self.policies = Informer(client, HOST_STATUSES), Informer(client, NETWORK_POLICIES)
        self.changed = asyncio.Event()
        self.revision = 0  # of the policies' last change; the view's own moves on with bookmarks
        self.hosts.handle(lambda old, new: self.changed.set())
        self.policies.handle(self._policy)
        self.tasks = [asyncio.create_task(view.run()) for view in (self.hosts, self.policies)]

    def _policy(self, old: dict[str, Any] | None, new: dict[str, Any] | None) -> None:
        if new is None or old is None:
            self.revision = int(self.policies.revision)
        self.changed.set()

    def realized(self) -> int:
        """The revision that all hosts have reported."""
        return min(int((item.get("status") or {}).get("realizedRevision") or 0) for item in self.hosts)

    async def until(self, is_so: Any) -> float:
        """When that was told."""
        end = time.monotonic() + PATIENCE
        while not is_so():
            self.changed.clear()
            async with asyncio.timeout(max(0.0, end - time.monotonic())):
                await self.changed.wait()
        return time.time()


async def change(client: Any, watched: Watched, way: str, gap: float, kubectl: list[str] | None) -> Change:
    """One change, and what is told of it; returns when it is `gap` seconds old."""
    from supervisor_glue.controllers.resources import NETWORK_POLICIES

    item = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "deny", "namespace": "guests"},
        "spec": DENY,
    }
    asked = time.time()
    if kubectl is not None:
        verb = "apply" if way == "denied" else "delete"
        process = await asyncio.create_subprocess_exec(*kubectl, verb, "-f", "-", stdin=-1, stdout=-3)
        await process.communicate(json.dumps(item).encode())
        if process.returncode:
            raise SystemExit(f"kubectl {verb} ended with {process.returncode}")
    elif way == "denied":
        await client.create(NETWORK_POLICIES, item, "guests")
    else:
        await client.delete(NETWORK_POLICIES, "deny", "guests")
    at = time.time()

    def is_seen() -> bool:
        return (watched.policies.get("deny", "guests") is not None) == (way == "denied")

    await watched.until(is_seen)
    revision = watched.revision
    realized = await watched.until(lambda: watched.realized() >= revision)
    condition = None
    if way == "denied":
        condition = await watched.until(lambda: _holds(watched.policies.get("deny", "guests")))
    await asyncio.sleep(max(0.0, at + gap - time.time()))
    return Change(way, at, asked, realized, condition)


def _holds(item: dict[str, Any] | None) -> bool:
    conditions = ((item or {}).get("status") or {}).get("conditions") or ()
    return any(entry["type"] == "Realized" and entry["status"] == "True" for entry in conditions)


async def pod_created(client: Any, server: socket.socket, number: int, host: str, address: str) -> float:
    """From a pod's 2xx to when its first datagram arrived."""
    from supervisor_glue.controllers.resources import PODS

    name = f"new-{number}"
    says = ["/usr/bin/env", "python3", "-S", "-c", POD_SAYS % (name, address, POD_PORT)]
    await client.create(PODS, pod("shop", name, host, "new", says), "shop")
    begun, end = time.time(), time.monotonic() + PATIENCE
    while True:
        try:
            if server.recv(64) == name.encode():
                break
        except BlockingIOError:
            if time.monotonic() > end:
                raise SystemExit(f"pod {name} is not heard") from None
            await asyncio.sleep(0.001)
    found = time.time() - begun
    await client.delete(PODS, name, "shop")
    await asyncio.sleep(0.5)
    return 1000 * found


# ---- all of it -------------------------------------------------------------------------------------------------------


async def measure(paths: Any, given: argparse.Namespace, hosts: Sequence[str]) -> dict[str, Any]:
    """All of it, on a lab that is up."""
    from overlay.lab_record import record_read
    from overlay.namespace import namespace_entered
    from supervisor_glue.api.http_client import HttpClient
    from supervisor_glue.controllers.resources import NAMESPACES, PODS
    from supervisor_glue.lab_supervisor import supervisor_paths
    from supervisor_glue.lab_view import lab_view

    kubeconfig = supervisor_paths(paths).kubeconfig
    pods = plan_pods(hosts, given.pods)
    async with HttpClient.of_file(kubeconfig, "palisade-bench") as client:
        begun = time.monotonic()
        for name in sorted({item["metadata"]["namespace"] for item in pods}):
            await client.create(NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        for item in pods:
            await client.create(PODS, item, item["metadata"]["namespace"])
        while True:
            there = (await client.list(PODS)).items
            ready = sum(
                entry["type"] == "Ready" and entry["status"] == "True"
                for item in there
                for entry in (item.get("status") or {}).get("conditions") or ()
            )
            if ready == len(pods):
                break
            if time.monotonic() > begun + PATIENCE:
                raise SystemExit(f"{ready} of {len(pods)} pods are ready after {PATIENCE:.0f} s")
            await asyncio.sleep(0.2)
        pods_seconds = time.monotonic() - begun
        print(f"{len(pods)} pods on {len(hosts)} hosts ready in {pods_seconds:.1f} s", file=sys.stderr, flush=True)
        record = record_read(paths)
        assert record is not None
        places = (await asyncio.to_thread(lab_view, paths, record)).pods
        server = places["shop/server"].netns
        (address,) = (item["status"]["podIP"] for item in there if item["metadata"]["name"] == "server")
        senders = [places[f"guests/visitor-{host}"].netns for host in hosts]
        running = Probe(server, address, senders, paths.folder / "probe.bin")
        watched = Watched(client)
        await asyncio.gather(watched.hosts.synced.wait(), watched.policies.synced.wait())
        await asyncio.sleep(2)
        kubectl = [str(KUBECTL), "--kubeconfig", str(kubeconfig)]
        changes, by_kubectl = [], []
        try:
            for number in range(given.changes):
                changes.append(await change(client, watched, ("denied", "allowed")[number % 2], given.gap, None))
            for number in range(given.kubectl):
                by_kubectl.append(await change(client, watched, ("denied", "allowed")[number % 2], given.gap, kubectl))
        finally:
            end = time.time()
            times, arrived = running.end()
            for task in watched.tasks:
                task.cancel()
        with namespace_entered(server):
            heard = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        heard.bind(("0.0.0.0", POD_PORT))
        created = [
            await pod_created(client, heard, number, hosts[number % len(hosts)], address) for number in range(given.new)
        ]
    bound = by_kubectl[0].asked if by_kubectl else end
    found = summary(changes, times, arrived, bound)
    late = sum(b - a > 5 * TICK for a, b in pairwise(times))
    result = {
        "case": f"policy-latency/{len(hosts)} hosts/{len(pods)} pods/{given.changes} changes",
        **found,
        "pod_ms": shares(created),
        "pods_ready_seconds": round(pods_seconds, 1),
        "datagrams": len(times) * len(arrived),
        "late_ticks": late,
        "load": list(os.getloadavg()),
        "verified": not found["stray"] and not found["unseen"],
    }
    if by_kubectl:
        moved = [item._replace(at=item.asked) for item in by_kubectl]
        result["kubectl_ms"] = shares([1000 * (item.at - item.asked) for item in by_kubectl])
        theirs = summary(moved, times, arrived, end)
        result["kubectl_to_packet_ms"] = theirs["last_host_ms"]
        result["verified"] = result["verified"] and not theirs["stray"] and not theirs["unseen"]
    return result


def render(result: dict[str, Any]) -> str:
    """For people."""
    rows = [f"{key:22} {value}" for key, value in result.items() if isinstance(value, dict)]
    return "\n".join([result["case"], *rows, f"verified: {result['verified']}"])


def main() -> int:
    """The command line."""
    given = given_read()
    if given.probe:
        probe(json.loads(given.probe), given.out)
        return 0
    if os.geteuid() != 0 or not os.path.exists("/dev/net/tun"):
        print("this needs root and /dev/net/tun", file=sys.stderr)
        return LACKING
    if given.kubectl and not KUBECTL.exists():
        print(f"this needs {KUBECTL} (or --kubectl 0)", file=sys.stderr)
        return LACKING
    hosts = [f"esx-{number}" for number in range(1, given.hosts + 1)]
    with lab(hosts) as paths:
        result = asyncio.run(measure(paths, given, hosts))
    print(json.dumps(result, indent=2) if given.output == "json" else render(result))
    return 0 if result["verified"] else 1


if __name__ == "__main__":
    sys.exit(main())
