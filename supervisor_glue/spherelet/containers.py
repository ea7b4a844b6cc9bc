# SPDX-License-Identifier: Apache-2.0
"""A container that runs: its end is seen, its probes are asked, it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol, TypeVar

from overlay import linux
from overlay.linux import Process
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.objects import status_of
from supervisor_glue.spherelet.execute import command_run
from supervisor_glue.spherelet.probes import Prober, probe_once
from supervisor_glue.spherelet.records import ContainerState
from supervisor_glue.spherelet.runtime import PodRuntime, container_signal
from supervisor_glue.spherelet.status import Seen, is_sidecar

_Result = TypeVar("_Result")
PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


class Worker(Protocol):
    """What a container needs of its pod's worker (worker.py). `last`: the pod as it was known last."""

    runtime: PodRuntime
    changed: asyncio.Event
    last: Object
    log: Any

    async def blocking(self, work: Callable[[], _Result]) -> _Result: ...

    async def event(self, pod: Object, kind: str, reason: str, message: str) -> None: ...

    def grace(self, pod: Object) -> float: ...


class Container:
    """A container while its pod's worker lives."""

    def __init__(self, spec: Object, is_init: bool, state: ContainerState, worker: Worker) -> None:
        self.spec, self.is_init, self.state, self.worker = spec, is_init, state, worker
        self.waiting: tuple[str, str] | None = None
        self.holds = dict.fromkeys(PROBES, False)
        self.watcher: asyncio.Task[None] | None = None
        self.probers: list[asyncio.Task[None]] = []
        self.killing: asyncio.Task[None] | None = None

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def started(self) -> bool:
        return self.state.running and (self.holds["startupProbe"] or not self.spec.get("startupProbe"))

    @property
    def ready(self) -> bool:
        """An init container that has done its work is ready too."""
        if self.is_init and not is_sidecar(self.spec):
            return self.state.ended is not None and self.state.ended.code == 0
        return self.started and (self.holds["readinessProbe"] or not self.spec.get("readinessProbe"))

    def seen(self) -> Seen:
        return Seen(self.state, self.started, self.ready, self.waiting)

    def watch(self) -> None:
        """See its end, and probe it."""
        self.watcher = asyncio.create_task(self._until_ended())
        for prober in self.probers:
            prober.cancel()
        self.probers = [
            asyncio.create_task(self._probe(kind, self.spec[kind])) for kind in PROBES if self.spec.get(kind)
        ]

    async def _until_ended(self) -> None:
        state, place = self.state, self.worker.runtime.container(self.name)
        if state.process is not None:
            await process_ended(state.process)
        fifo = place.file(state.starts, "fifo")
        await self.worker.blocking(lambda: self.worker.runtime.logs.finish(fifo))
        ended = await self.worker.blocking(lambda: place.ended_read(state, time.time()))
        state.ended, state.process = ended, None
        await self.worker.blocking(lambda: place.state_write(state))
        self.worker.log.info("container.ended", container=self.name, code=ended.code, reason=ended.reason)
        for prober in self.probers:
            prober.cancel()
        self.worker.changed.set()

    async def _probe(self, kind: str, probe: Object) -> None:
        async def run(command: list[str]) -> tuple[int, bytes]:
            return await command_run(self.worker.runtime, self.name, self.state, command)

        async def ask() -> None:
            address = str(status_of(self.worker.last).get("podIP") or "")
            await probe_once(probe, self.spec, self.worker.runtime.netns, address, run)

        def told(holds: bool, why: str) -> None:
            changes = self.holds[kind] != holds
            self.holds[kind] = holds
            if changes:
                self.worker.changed.set()
            if not holds and kind != "readinessProbe" and (self.killing is None or self.killing.done()):
                self.worker.log.info("container.unhealthy", container=self.name, probe=kind, why=why)
                self.killing = asyncio.create_task(self._unhealthy(kind, why))

        while kind != "startupProbe" and not self.started:
            await asyncio.sleep(0.1)
        prober = Prober(probe, ask, told)
        running = asyncio.create_task(prober.run())
        try:
            while kind == "startupProbe" and not self.holds[kind]:
                await asyncio.sleep(0.1)
            if kind != "startupProbe":
                await running
        finally:
            running.cancel()

    async def _unhealthy(self, kind: str, why: str) -> None:
        word = kind.removesuffix("Probe").capitalize()
        await self.worker.event(self.worker.last, "Warning", "Unhealthy", f"{word} probe failed: {why}")
        await self.stop(self.worker.grace(self.worker.last))

    async def stop(self, grace: float) -> None:
        """TERM, and KILL after a time of grace; returns when it has ended."""
        watcher, process = self.watcher, self.state.process
        if watcher is None or watcher.done() or process is None:
            return
        lifecycle = (self.spec.get("lifecycle") or {}).get("preStop") or {}
        end = time.monotonic() + grace
        if lifecycle.get("exec") and grace > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    command = list(lifecycle["exec"].get("command") or ())
                    await command_run(self.worker.runtime, self.name, self.state, command)
        for number in (signal.SIGTERM, signal.SIGKILL):
            await self.worker.blocking(lambda number=number: container_signal(process, number))  # type: ignore[misc]
            left = max(0.0, end - time.monotonic()) if number == signal.SIGTERM else 5.0
            done, _ = await asyncio.wait({watcher}, timeout=left)
            if done:
                return
        linux.process_signal(process, signal.SIGKILL)
        await asyncio.wait({watcher}, timeout=5)


async def process_ended(process: Process) -> None:
    """Wait for a process that is nobody's child here."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        if not linux.process_lives(process):
            return
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)
