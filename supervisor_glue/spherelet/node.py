# SPDX-License-Identifier: Apache-2.0
"""The host as a Node, and its Lease: what it has, whether it is well, and that it is there.

Source: https://kubernetes.io/docs/reference/node/node-status/ and /docs/concepts/architecture/leases/.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from dfw import __version__
from dfw.logs import get_logger
from overlay.enter import run_in
from supervisor_glue.api.client import Client
from supervisor_glue.api.conditions import condition_made
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.objects import labels_of, micro_time_text, status_of, time_text
from supervisor_glue.controllers.resources import LEASES, NODES
from supervisor_glue.controllers.schedule import MAXIMUM_PODS
from supervisor_glue.spherelet.settings import Settings

LEASE_SECONDS: Final = 40
RENEW_SECONDS: Final = 10.0
STATUS_SECONDS: Final = 60.0
_LEASES: Final = "kube-node-lease"
_LEAST_MEMORY: Final = 100 * 2**20
_LEAST_DISK: Final = 0.1
_NOT_FOUND: Final = 404
_EXISTS: Final = 409
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def host_address(settings: Settings) -> str:
    """The host's own address: what it was told, or the one from which it would reach others; may be none."""
    if settings.address:
        return settings.address

    def found() -> str:
        import socket

        for family, far in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
            with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((far, 9))  # a datagram's: nothing is sent
                return str(sock.getsockname()[0])
        return ""

    return run_in(str(settings.netns) if settings.netns else None, found)


def node_labels(host: str) -> dict[str, str]:
    machine = _MACHINES.get(platform.machine(), platform.machine())
    return {
        "kubernetes.io/hostname": host,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": machine,
        "beta.kubernetes.io/os": "linux",
        "beta.kubernetes.io/arch": machine,
    }


def memory_read() -> tuple[int, int]:
    """Bytes in all, and available ones."""
    found = {}
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        name, _, rest = line.partition(":")
        found[name] = int(rest.split()[0]) * 1024
    return found["MemTotal"], found.get("MemAvailable", found["MemFree"])


def node_status(node: Object, settings: Settings, now: float) -> Object:
    """The host's part of its Node's status. Raises OSError."""
    total, available = memory_read()
    disk = shutil.disk_usage(settings.run)
    capacity = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{total // 1024}Ki",
        "ephemeral-storage": f"{disk.total // 1024}Ki",
        "pods": str(MAXIMUM_PODS),
    }
    checks = [
        ("MemoryPressure", available < _LEAST_MEMORY, "Memory", "memory available"),
        ("DiskPressure", disk.free < disk.total * _LEAST_DISK and disk.free < 2**30, "Disk", "disk pressure"),
        ("PIDPressure", False, "PID", "PID available"),
    ]
    conditions = []
    for kind, pressed, word, what in checks:
        reason = f"KubeletHas{'Insufficient' if pressed else 'Sufficient'}{word}"
        if word == "Disk":
            reason = "KubeletHasDiskPressure" if pressed else "KubeletHasNoDiskPressure"
        told = (
            f"the host has {'in' if pressed else ''}sufficient {what}"
            if word != "Disk"
            else f"the host has {'' if pressed else 'no '}{what}"
        )
        conditions.append(_condition(node, kind, pressed, reason, told, now))
    conditions.append(_condition(node, "Ready", True, "KubeletReady", "the Spherelet is ready", now))
    ours = {condition["type"] for condition in conditions}
    others = [item for item in status_of(node).get("conditions") or () if item.get("type") not in ours]
    addresses = [{"type": "Hostname", "address": settings.host}]
    if settings.address:
        addresses.insert(0, {"type": "InternalIP", "address": settings.address})
    return {
        "capacity": capacity,
        "allocatable": capacity,
        "addresses": addresses,
        "conditions": [*others, *conditions],
        "nodeInfo": _info(),
    }


def _condition(node: Object, kind: str, holds: bool, reason: str, message: str, now: float) -> Object:
    held = status_of(node).get("conditions") or ()
    made = condition_made(held, kind, "True" if holds else "False", now, reason, message)
    return {**made, "lastHeartbeatTime": time_text(now)}


def _info() -> Object:
    return {
        "machineID": _file("/etc/machine-id"),
        "systemUUID": _file("/etc/machine-id"),
        "bootID": _file("/proc/sys/kernel/random/boot_id"),
        "kernelVersion": platform.release(),
        "osImage": _os_image(),
        "containerRuntimeVersion": f"palisade://{__version__}",
        "kubeletVersion": f"v{__version__}",
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": _MACHINES.get(platform.machine(), platform.machine()),
    }


def _file(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _os_image() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"


class NodeTask:
    """Keeps the Node and the Lease, until cancelled. `known` is set when both are there for the first time."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self.client, self.settings = client, settings
        self.known = asyncio.Event()
        self.log = get_logger("node").bind(host=settings.host)

    async def run(self) -> None:
        last = 0.0
        while True:
            pause = RENEW_SECONDS
            try:
                if not last or time.monotonic() - last >= STATUS_SECONDS:
                    await self._node()
                    last = time.monotonic()
                await self._lease()
                self.known.set()
            except (ApiError, OSError) as error:
                self.log.warning("node.api", error=str(error))
                last, pause = 0.0, 1.0
            await asyncio.sleep(pause)

    async def _node(self) -> None:
        """Make the Node, or bring it up to date."""
        host = self.settings.host
        labels = node_labels(host)
        try:
            node = await self.client.get(NODES, host)
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise
            made: Object = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": host, "labels": labels}}
            made["status"] = node_status(made, self.settings, time.time())
            node = await self.client.create(NODES, made)
        if {key: labels_of(node).get(key) for key in labels} != labels:
            node = await self.client.patch(NODES, host, {"metadata": {"labels": labels}})
        metadata = {"resourceVersion": node["metadata"]["resourceVersion"]}
        status = node_status(node, self.settings, time.time())
        await self.client.patch(NODES, host, {"metadata": metadata, "status": status}, "", "status")

    async def _lease(self) -> None:
        host, now = self.settings.host, micro_time_text(time.time())
        spec = {"holderIdentity": host, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now}
        try:
            await self.client.patch(LEASES, host, {"spec": spec}, _LEASES)
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise
            if self.known.is_set():  # it goes with the Node: that is made anew, before pods here count as nobody's
                await self._node()
            made = {
                "kind": "Lease",
                "apiVersion": "coordination.k8s.io/v1",
                "metadata": {"name": host, "namespace": _LEASES},
                "spec": spec,
            }
            await self.client.create(LEASES, made, _LEASES)
