# SPDX-License-Identifier: Apache-2.0
"""Controllers in processes of their own, and a host that listens to what it is told."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth.kubeconfig import Kubeconfig, kubeconfig_read
from supervisor_glue.auth.pki import authority_open, client_issue
from supervisor_glue.auth.user import NODE
from supervisor_glue.auth.user import NODES as NODES_GROUP
from supervisor_glue.controllers.leader import LEASE_NAME, SYSTEM_NAMESPACE, span_address
from supervisor_glue.controllers.objects import micro_time_text, object_made
from supervisor_glue.controllers.resources import HOST_STATUSES, HOSTS, LEASES, NODES
from supervisor_glue.span_reader import SpanReader, Told
from tests.support.control_plane import PATIENCE, ControlPlane
from tests.support.nodes import node


@dataclass(slots=True)
class Controllers:
    """A running process of them. `address`: where it serves what hosts are told."""

    process: subprocess.Popen[bytes]
    log: Path
    address: str

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """TERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


def controllers_start(plane: ControlPlane, log: Path, lease: float = 3) -> Controllers:
    """Start one; it stands by or leads when this returns."""
    server = kubeconfig_read(plane.kubeconfig).server
    command = [sys.executable, "-m", "dfw", "-v", "supervisor", "controllers", "--server", server]
    command += ["--data", str(plane.data), "--lease", str(lease)]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    end = time.monotonic() + PATIENCE
    while True:
        for line in log.read_text().splitlines():
            if line.startswith("controllers of "):
                return Controllers(process, log, line.rpartition(" ")[2])
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"the controllers did not start:\n{log.read_text()[-4000:]}")
        time.sleep(0.02)


@contextmanager
def controllers_apart(plane: ControlPlane, folder: Path, count: int) -> Iterator[list[Controllers]]:
    """Several for a `with`."""
    running: list[Controllers] = []
    try:
        for number in range(count):
            running.append(controllers_start(plane, folder / f"controllers-{number}.log"))
        yield running
    finally:
        for one in running:
            if one.process.poll() is None:
                one.kill()


async def leading_address(client: HttpClient) -> str:
    """Where the leader serves; empty: nobody leads."""
    try:
        return span_address(await client.get(LEASES, LEASE_NAME, SYSTEM_NAMESPACE))
    except ApiError as error:
        assert error.code == 404
        return ""


async def host_make(client: HttpClient, name: str, tep: str) -> str:
    """A host that is ready, without anybody who keeps it so; its uid."""
    made = await client.create(HOSTS, object_made(HOSTS, name, spec={"tep": tep}))
    there = node(name)
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
    await client.create(NODES, there)
    await client.patch(NODES, name, {"status": {**there["status"], "conditions": [ready]}}, subresource="status")
    spec = {"holderIdentity": name, "leaseDurationSeconds": 3600, "renewTime": micro_time_text(time.time())}
    await client.create(LEASES, object_made(LEASES, name, "kube-node-lease", spec=spec), "kube-node-lease")
    await client.create(HOST_STATUSES, object_made(HOST_STATUSES, name))
    return str(made["metadata"]["uid"])


def host_config(data: Path, admin: Kubeconfig, name: str, uid: str) -> Kubeconfig:
    """As joining gives it. `data`: the Supervisor's directory."""
    now = datetime.now(UTC)
    authority = authority_open(data / "pki", now)
    identity = client_issue(authority, NODE + name, (NODES_GROUP,), now=now, uid=uid)
    return Kubeconfig(admin.server, admin.authority, NODE + name, identity)


@dataclass(slots=True)
class Listener:
    """A host: what it knows, and every change that it was told, a list for each time that it had to ask anew."""

    config: Kubeconfig
    reader: SpanReader = field(default_factory=SpanReader)
    told: list[list[Told]] = field(default_factory=list)

    async def run(self) -> None:
        """Until cancelled."""
        async with HttpClient(self.config, "test-host") as client:
            while True:
                changes: list[Told] = []
                try:
                    async with aclosing(self.reader.watch(client)) as lines:  # type: ignore[type-var]
                        async for change in lines:
                            if not changes:
                                self.told.append(changes)
                            changes.append(change)
                except (ApiError, ConnectionError):
                    pass
                await asyncio.sleep(0.05)
