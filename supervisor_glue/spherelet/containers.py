# SPDX-License-Identifier: Apache-2.0
"""A container that runs: its end is seen, its probes are asked, it is stopped."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

from overlay import linux
from overlay.linux import Process
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.objects import status_of
from supervisor_glue.spherelet.execute import command_run
from supervisor_glue.spherelet.probes import ProbeError, Prober, handler_run, probe_once
from supervisor_glue.spherelet.records import ContainerState
from supervisor_glue.spherelet.runtime import PodRuntime, container_signal, image_of
from supervisor_glue.spherelet.status import Seen, has_ended, is_sidecar, policy_of

_Result = TypeVar("_Result")
PROBES: Final = ("startupProbe", "readinessProbe", "livenessProbe")


class Worker(Protocol):
    """What a container needs of its pod's worker (worker.py). `last`: the pod as it was known last."""

    runtime: PodRuntime
    changed: asyncio.Event
    last: Object
    log: Any

    async def blocking(self, work: Callable[[], _Result]) -> _Result: ...

    def event(self, pod: Object, kind: str, reason: str, message: str) -> Coroutine[Any, Any, None]: ...

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
        self.beginning: asyncio.Task[None] | None = None
        self.telling: set[asyncio.Task[None]] = set()
        self.keeping = asyncio.Lock()

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    @property
    def started(self) -> bool:
        """It runs, what is done after its start is done, and its startup probe has held."""
        has_begun = self.beginning is None or self.beginning.done()
        return self.state.running and has_begun and (self.holds["startupProbe"] or not self.spec.get("startupProbe"))

    @property
    def ready(self) -> bool:
        """An init container that has done its work is ready too."""
        if self.is_init and not is_sidecar(self.spec):
            return self.state.ended is not None and self.state.ended.code == 0
        return self.started and (self.holds["readinessProbe"] or not self.spec.get("readinessProbe"))

    def seen(self) -> Seen:
        return Seen(self.state, self.started, self.ready, self.waiting)

    def tasks(self) -> list[asyncio.Task[None]]:
        """All that it does."""
        found = (*self.probers, *self.telling, self.watcher, self.killing, self.beginning)
        return [task for task in found if task is not None]

    def begin(self) -> None:
        """It was started just now: see to it, and do what is to be done after its start."""
        hook = (self.spec.get("lifecycle") or {}).get("postStart")
        self.beginning = asyncio.create_task(self._post_start(hook)) if hook else None
        self.watch()

    async def _post_start(self, hook: Object) -> None:
        """A container whose postStart fails is killed."""
        try:
            await self._hook(hook)
        except (ProbeError, OSError, ValueError) as error:
            if self.state.running:
                await self.worker.event(
                    self.worker.last, "Warning", "FailedPostStartHook", f"PostStartHook failed: {error}"
                )
                self.killing = asyncio.create_task(self.stop(self.worker.grace(self.worker.last)))
        self.worker.changed.set()

    async def _hook(self, hook: Object) -> None:
        address = str(status_of(self.worker.last).get("podIP") or "")
        await handler_run(hook, self.spec, self.worker.runtime.netns, address, self._run)

    async def _run(self, command: list[str]) -> tuple[int, bytes]:
        return await command_run(self.worker.runtime, self.name, self.state, command)

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
        ended = await self.worker.blocking(lambda: self.worker.runtime.container_ended(self.spec, state))
        state.ended, state.process = ended, None
        await self._keep()
        self.worker.log.info("container.ended", container=self.name, code=ended.code, reason=ended.reason)
        if ended.reason == "StartError":  # of a root or a command that is not there, found where it was to begin
            self._tell("Failed", f"Error: {ended.message}")
        for prober in self.probers:
            prober.cancel()
        self.worker.changed.set()

    async def _keep(self) -> None:
        """Write its state down; by one at a time, for it may end while it is about to be ended."""
        async with self.keeping:
            place = self.worker.runtime.container(self.name)
            await self.worker.blocking(lambda: place.state_write(self.state))

    def _tell(self, reason: str, message: str) -> None:
        """A warning; whoever is not there to be told does not hold up a probe, or the end that is seen."""
        telling = asyncio.create_task(self.worker.event(self.worker.last, "Warning", reason, message))
        self.telling.add(telling)
        telling.add_done_callback(self.telling.discard)

    async def _probe(self, kind: str, probe: Object) -> None:
        word = kind.removesuffix("Probe").capitalize()

        async def ask() -> None:
            address = str(status_of(self.worker.last).get("podIP") or "")
            await probe_once(probe, self.spec, self.worker.runtime.netns, address, self._run)

        def failed(why: str) -> None:
            if self.state.running and not self._is_ending():
                self._tell("Unhealthy", f"{word} probe failed: {why}")

        def told(holds: bool, why: str) -> None:
            changes = self.holds[kind] != holds
            self.holds[kind] = holds
            if changes:
                self.worker.changed.set()
            if not holds and kind != "readinessProbe" and not self._is_ending():
                self.worker.log.info("container.unhealthy", container=self.name, probe=kind, why=why)
                self.killing = asyncio.create_task(self._unhealthy(word.lower(), probe))

        while kind != "startupProbe" and not self.started:
            await asyncio.sleep(0.1)
        prober = Prober(probe, ask, told, failed)
        running = asyncio.create_task(prober.run())
        try:
            while kind == "startupProbe" and not self.holds[kind]:
                await asyncio.sleep(0.1)
            if kind != "startupProbe":
                await running
        finally:
            running.cancel()

    def _is_ending(self) -> bool:
        return self.killing is not None and not self.killing.done()

    def renew(self, spec: Object) -> None:
        """Take the container as the API has it now. One that runs with another image is started again with the new
        one, whatever its policy, and one that waits for its restart at once, as kubelet does."""
        self.spec, state = spec, self.state
        if not state.again:
            policy = policy_of(self.worker.last, spec, is_init=self.is_init)
            if state.image is None or state.image == image_of(spec) or has_ended(state, policy):
                return
            state.again = True
        if state.running and not self._is_ending():
            self.killing = asyncio.create_task(self._replaced())

    async def _replaced(self) -> None:
        await self._keep()
        told = f"Container {self.name} definition changed, will be restarted"
        await self.worker.event(self.worker.last, "Normal", "Killing", told)
        await self.stop(self.worker.grace(self.worker.last))

    async def _unhealthy(self, word: str, probe: Object) -> None:
        told = f"Container {self.name} failed {word} probe, will be restarted"
        await self.worker.event(self.worker.last, "Normal", "Killing", told)
        own = probe.get("terminationGracePeriodSeconds")
        await self.stop(self.worker.grace(self.worker.last) if own is None else float(own))

    async def stop(self, grace: float) -> None:
        """TERM, and KILL after a time of grace; returns when it has ended."""
        watcher, process = self.watcher, self.state.process
        if watcher is None or watcher.done() or process is None:
            return
        hook = (self.spec.get("lifecycle") or {}).get("preStop")
        end = time.monotonic() + grace
        if hook and grace > 0:
            try:
                async with asyncio.timeout(grace):
                    await self._hook(hook)
            except (ProbeError, OSError, ValueError, TimeoutError) as error:
                told = f"PreStopHook failed: {error or 'it took longer than the time of grace'}"
                await self.worker.event(self.worker.last, "Warning", "FailedPreStopHook", told)
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
