# SPDX-License-Identifier: Apache-2.0
"""A Spherelet's process, from its start to TERM. Its pods go on without it."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dfw.logs import get_logger
from overlay.agent_base import SOCKET
from overlay.cgroup import read_hierarchies
from overlay.namespace import apply_room
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.auth.joining import host_renewals
from supervisor_glue.auth.kubeconfig import Kubeconfig, kubeconfig_read
from supervisor_glue.ending import ending_signals
from supervisor_glue.spherelet.attachments import Attachments
from supervisor_glue.spherelet.node import NodeTask, host_address
from supervisor_glue.spherelet.pods import Pods, read_places
from supervisor_glue.spherelet.realize import Realizer
from supervisor_glue.spherelet.settings import Settings
from supervisor_glue.spherelet.tunnel import TunnelEnd


async def spherelet_serve(settings: Settings, kubeconfig: Path) -> None:
    """Until TERM or INT. The certificate in the kubeconfig is renewed there. Raises KubeconfigError; OSError where the
    run directory or the room cannot be made, or another has it."""
    config = kubeconfig_read(kubeconfig)
    ended = ending_signals()
    settings.run.mkdir(parents=True, exist_ok=True, mode=0o711)
    with _locked(settings.run / "lock"):
        await _serve(settings, config, kubeconfig, ended)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Two that start and end the same pods would each undo what the other does. It goes with the process."""
    held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another Spherelet has {path.parent}") from None
        yield
    finally:
        os.close(held)


async def _serve(settings: Settings, config: Kubeconfig, kubeconfig: Path, ended: asyncio.Event) -> None:
    apply_room(settings.room, "palisade-pods")
    settings = replace(settings, address=host_address(settings), hierarchies=read_hierarchies())
    log = get_logger("spherelet").bind(host=settings.host)
    log.info("spherelet.starting", address=settings.address, run=str(settings.run))
    async with HttpClient(config, "palisade-spherelet") as client:
        attachments = Attachments()
        for port, netns in (*read_places(settings).items(), *settings.attached):
            attachments.put(port, netns)
        pods = Pods(client, settings, attachments)
        tasks = [
            asyncio.create_task(NodeTask(client, settings).run(), name="node"),
            asyncio.create_task(pods.run(), name="pods"),
            asyncio.create_task(TunnelEnd(client, pods).run(), name="tunnel"),
        ]
        if config.identity is not None:
            tasks.append(asyncio.create_task(renewing(client, kubeconfig), name="certificate"))
        if settings.agent is not None and settings.desired is not None:
            realizer = Realizer(client, settings.host, settings.desired, settings.agent / SOCKET, attachments)
            tasks.append(asyncio.create_task(realizer.run(), name="realizer"))
        waiting = asyncio.create_task(ended.wait())
        try:
            done, _ = await asyncio.wait({waiting, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # but for the signal none ends by itself
        finally:
            for task in (waiting, *tasks):
                task.cancel()
            await asyncio.gather(waiting, *tasks, return_exceptions=True)
    log.info("spherelet.stopped")


async def renewing(client: HttpClient, kubeconfig: Path) -> None:
    """Keep the host's certificate young, until cancelled."""
    log = get_logger("spherelet")

    def failed(error: Exception) -> None:
        log.warning("certificate.not-renewed", error=f"{type(error).__name__}: {error}")

    await host_renewals(client, kubeconfig, client.renew, failed=failed)
