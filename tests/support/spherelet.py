# SPDX-License-Identifier: Apache-2.0
"""A Spherelet of a test's own: a process with a certificate of its host, a run directory and a room."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from overlay import linux
from overlay.cgroup import apply_groups_end, groups_named, read_hierarchies
from overlay.namespace import apply_room_end, mounts_end
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.auth.kubeconfig import Kubeconfig, kubeconfig_read, kubeconfig_write
from supervisor_glue.auth.pki import authority_open, client_issue
from supervisor_glue.auth.user import NODE, NODES
from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import HOSTS
from tests.support.control_plane import PATIENCE, ControlPlane, control_plane
from tests.support.kubectl import Kubectl


@dataclass(slots=True)
class Spherelet:
    """A running one."""

    folder: Path
    host: str
    process: subprocess.Popen[bytes]
    command: list[str]

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def room(self) -> Path:
        return self.folder / "room"

    @property
    def mark(self) -> str:
        return f"PALISADE_TEST={self.folder}"

    def kill(self) -> None:
        """At once, as if the machine had done it."""
        self.process.kill()
        self.process.wait()

    def start(self) -> None:
        """Again."""
        with (self.folder / "log").open("ab") as out:
            self.process = subprocess.Popen(self.command, stdout=out, stderr=out)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def told(self) -> str:
        return (self.folder / "log").read_text()


def host_kubeconfig(plane: ControlPlane, host: str, path: Path) -> None:
    """A host's own, as joining gives it."""
    admin = kubeconfig_read(plane.kubeconfig)
    made = asyncio.run(_host_make(admin, host))
    authority = authority_open(plane.data / "pki", datetime.now(UTC))
    identity = client_issue(authority, NODE + host, (NODES,), now=datetime.now(UTC), uid=made["metadata"]["uid"])
    kubeconfig_write(path, Kubeconfig(admin.server, admin.authority, NODE + host, identity))


async def _host_make(admin: Kubeconfig, host: str) -> dict[str, Any]:
    async with HttpClient(admin, "test") as client:
        return await client.create(HOSTS, object_made(HOSTS, host, spec={}))


@contextmanager
def spherelet(
    plane: ControlPlane, folder: Path, host: str, *more: str, joined: Path | None = None
) -> Iterator[Spherelet]:
    """One for a `with`: its pods and names have gone afterwards. `joined`: the kubeconfig by which it has joined; None:
    one is made."""
    folder.mkdir(parents=True, exist_ok=True)
    kubeconfig = joined or folder / "kubeconfig"
    if joined is None:
        host_kubeconfig(plane, host, kubeconfig)
    command = [sys.executable, "-m", "dfw", "-v", "spherelet", "run", "--host", host, "--kubeconfig", str(kubeconfig)]
    command += ["--run", str(folder / "run"), "--room", str(folder / "room"), "--mark", f"PALISADE_TEST={folder}"]
    command += ["--address", "127.0.0.1", *more]
    with (folder / "log").open("ab") as out:
        running = Spherelet(folder, host, subprocess.Popen(command, stdout=out, stderr=out), command)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.kill()
        for process in linux.processes_marked(running.mark):
            linux.process_signal(process, signal.SIGKILL)
        apply_room_end(running.room)
        mounts_end(running.run)
        pods = [path.name for path in (running.run / "pods").glob("*")]
        apply_groups_end([group for uid in pods for group in groups_named(f"palisade-{uid}-", read_hierarchies())])


@contextmanager
def host_alone(folder: Path, host: str) -> Iterator[tuple[ControlPlane, Spherelet]]:
    """An API server without controllers, and a host: pods are bound by the test, and wait for no network."""
    with (
        control_plane(folder / "plane", "--no-controllers") as plane,
        spherelet(plane, folder / host, host, "--no-network") as running,
    ):
        yield plane, running


def bind(kubectl: Kubectl, namespace: str, pod: str, host: str) -> None:
    """What the scheduler does."""
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": pod, "namespace": namespace},
        "target": {"apiVersion": "v1", "kind": "Node", "name": host},
    }
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/binding"
    kubectl("create", "--raw", path, "-f", "-", given=json.dumps(binding))


def read(kubectl: Kubectl, namespace: str, pod: str) -> dict[str, Any]:
    """A pod as the API has it."""
    found: dict[str, Any] = json.loads(kubectl("get", "pod", pod, "-n", namespace, "-o", "json").out)
    return found
