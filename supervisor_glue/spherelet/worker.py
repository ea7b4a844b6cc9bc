# SPDX-License-Identifier: Apache-2.0
"""One pod of this host, from its binding to its end: what is to be done next, done, and told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from dfw.logs import get_logger
from overlay.launcher import Launcher
from overlay.linux import Process
from supervisor_glue.api.client import Client
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.events import Recorder
from supervisor_glue.controllers.objects import (
    is_deleted,
    name_of,
    namespace_of,
    object_key,
    spec_of,
    status_of,
    uid_of,
)
from supervisor_glue.controllers.resources import PODS
from supervisor_glue.spherelet.access import access_mounted, access_volume
from supervisor_glue.spherelet.attachments import Attachments
from supervisor_glue.spherelet.containers import PROBES, Container
from supervisor_glue.spherelet.environment import command_of, environment_of, supported_check
from supervisor_glue.spherelet.kept_volumes import KeptVolumes
from supervisor_glue.spherelet.logs import LogKeeper
from supervisor_glue.spherelet.names import apply_names
from supervisor_glue.spherelet.network import VnicWait
from supervisor_glue.spherelet.records import Ended
from supervisor_glue.spherelet.runtime import PodRuntime, StartError
from supervisor_glue.spherelet.settings import Settings
from supervisor_glue.spherelet.sources import MissingError, Sources
from supervisor_glue.spherelet.status import failures_next, is_sidecar, pod_status, policy_of, start_in
from supervisor_glue.spherelet.volumes import (
    apply_empties,
    limited_empties,
    mounts_of,
    read_exceeded,
)

_Result = TypeVar("_Result")
RETRY_SECONDS: Final = 2.0
MEASURE_SECONDS: Final = 10.0
"""So often what emptyDirs hold is looked at, as kubelet does; at first more often."""
FORCED_GRACE: Final = 1.0
"""Seconds that the containers of a pod get whose object is not there any more."""
_SILENT_SECONDS: Final = 0.4
"""The status of a pod that can't start yet is not written before that: most start sooner, and one write is enough."""
_GONE: Final = (404, 409)


class PodWorker:
    """`pod`: the object as the API has it; None once it has no object. `changed` is set when that changes."""

    def __init__(
        self,
        client: Client,
        settings: Settings,
        sources: Sources,
        pod: Object,
        threads: Any,
        events: Recorder,
        attachments: Attachments,
        logs: LogKeeper,
        launcher: Launcher,
    ) -> None:
        self.client, self.settings, self.sources, self.events = client, settings, sources, events
        self.attachments, self.port = attachments, object_key(pod)  # as the inventory calls its vNIC
        self.pod: Object | None = pod
        self.last = pod
        self.uid = uid_of(pod)
        self.runtime = PodRuntime(settings, logs, launcher, pod)
        self.changed = asyncio.Event()
        self.containers: dict[str, Container] = {}
        self.log = get_logger("spherelet").bind(pod=f"{namespace_of(pod)}/{name_of(pod)}")
        self._threads = threads
        self._vnic = VnicWait(self.port, self.runtime.netns, attachments, settings.agent is not None, self.blocking)
        self._is_networked = self.runtime.is_host_network or not settings.network
        self._kept = KeptVolumes(sources, self.uid, self.runtime.volumes, self.blocking, self.changed.set)
        self._eviction, self._measure_at, self._measure_pause = "", 0.0, 0.5
        self._told: tuple[str, str] = ("", "")

    # ---- life ---------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until the pod has gone from here. Cancelled, it leaves the pod as it is."""
        try:
            while True:
                self.changed.clear()
                pause: float | None = RETRY_SECONDS
                try:
                    if self.pod is None or is_deleted(self.pod):
                        await self._end()
                        return
                    pause = await self._sync(self.pod)
                except (ApiError, ConnectionError) as error:
                    self.log.info("pod.api", error=str(error))
                except (OSError, RuntimeError, StartError) as error:
                    self.log.warning("pod.failed", error=f"{type(error).__name__}: {error}")
                    await self._tell("FailedCreatePodSandBox", str(error))
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self.changed.wait()
        finally:
            self._vnic.close()
            self._kept.close()
            for container in self.containers.values():
                for task in container.tasks():
                    task.cancel()

    def update(self, pod: Object | None) -> None:
        """The API says so."""
        self.pod = pod
        self.last = pod or self.last
        self.changed.set()

    async def blocking(self, work: Callable[[], _Result]) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _sync(self, pod: Object) -> float | None:
        """Do what can be done now; seconds until there is more to do, or None."""
        if not self.containers:
            await self.blocking(lambda: self.runtime.record(pod))
            await self._adopt(pod)
        if status_of(pod).get("phase") in ("Succeeded", "Failed"):
            await self._sandbox_stop()
            return None
        sandbox = await self.blocking(self.runtime.sandbox)
        pauses: list[float] = []
        initialized = not spec_of(pod).get("initContainers")
        if not self.runtime.is_host_network:
            if sandbox is None:
                await self.blocking(self.runtime.network_start)
            # The agent sets it up while processes start.
            self.attachments.put(self.port, str(self.runtime.netns), self.changed.set)
        if sandbox is None:
            await self.blocking(lambda: apply_empties(pod, self.runtime.volumes))
            sandbox = await self.blocking(lambda: self.runtime.sandbox_start(pod))
        if await self._evicted(pod, pauses):
            return None
        for item in (*(spec_of(pod).get("initContainers") or ()), *spec_of(pod)["containers"]):
            if not self.containers[item["name"]].is_init or is_sidecar(item):
                self.containers[item["name"]].renew(item)  # of a container that is there, its image may change
        has_volumes = await self._volumes(pod, pauses)  # while others see to its address and its vNIC
        if await self._networked(pod, pauses) and has_volumes:
            is_done = self._is_done(pod)
            if is_done:
                await self._besides_stop(self.grace(pod))
            initialized = is_done or await self._init(pod, sandbox, pauses)
            if initialized and not is_done:
                for container in self.containers.values():
                    if not container.is_init:
                        await self._container(pod, sandbox, container, pauses)
        left = self.runtime.started() + _SILENT_SECONDS - time.time()
        if not self._is_networked and 0 < left <= _SILENT_SECONDS:
            pauses.append(left)
        else:
            await self._report(pod, initialized)
        return min(pauses, default=None)

    async def _sandbox_stop(self) -> None:
        """The agent first lets go of the vNIC. A younger pod of the same name may have the Port already."""
        if self.attachments.paths.get(self.port) == str(self.runtime.netns):
            self.attachments.remove(self.port)
        await self.blocking(self.runtime.sandbox_stop)

    async def _adopt(self, pod: Object) -> None:
        """Find again what was started before this process began, and watch it."""
        spec = spec_of(pod)
        for is_init, items in ((True, spec.get("initContainers") or ()), (False, spec.get("containers") or ())):
            for item in items:
                state = await self.blocking(self.runtime.container(item["name"]).state_read)
                container = self.containers[item["name"]] = Container(item, is_init, state, self)
                if state.running:
                    container.watch()

    # ---- steps --------------------------------------------------------------------------------------------------

    async def _networked(self, pod: Object, pauses: list[float]) -> bool:
        """Whether the pod has its vNIC with addresses and routes, and the API knows its address."""
        if self._is_networked:
            return True
        if not status_of(pod).get("podIP"):
            return False  # the vnics controller's word for it calls us
        if not await self._vnic.is_there(time.time() - self.runtime.started(), pauses):
            return False
        self._vnic.close()
        self._is_networked = True
        return True

    async def _volumes(self, pod: Object, pauses: list[float]) -> bool:
        """Whether all volumes are there, as the objects behind them are now."""
        try:
            await self._kept.sync(self._known(pod), pauses)
        except MissingError as error:
            pauses.append(RETRY_SECONDS)
            await self._tell("FailedMount", str(error))
            return self._kept.are_there  # what runs keeps what it has
        return True

    async def _evicted(self, pod: Object, pauses: list[float]) -> bool:
        """Whether an emptyDir holds more than it may: the pod ends then, as kubelet ends it, and stays so."""
        limits = limited_empties(pod)
        if not limits:
            return False
        left = self._measure_at - time.monotonic()
        if left > 0 and not self._eviction:
            pauses.append(left)
            return False
        if not self._eviction:
            self._eviction = await self.blocking(lambda: read_exceeded(limits, self.runtime.volumes))
            self._measure_pause = min(2 * self._measure_pause, MEASURE_SECONDS)
            self._measure_at = time.monotonic() + self._measure_pause
            pauses.append(self._measure_pause)
            if not self._eviction:
                return False
            self.log.info("pod.evicted", why=self._eviction)
            await self.event(pod, "Warning", "Evicted", self._eviction)
        await asyncio.gather(*(container.stop(FORCED_GRACE) for container in self.containers.values()))
        await self._report(self.pod or pod, True, self._eviction)
        return True

    async def _init(self, pod: Object, sandbox: Process, pauses: list[float]) -> bool:
        """Init containers, one after the other: whether all have done their work."""
        spec = spec_of(pod)
        running = any(not item.is_init and item.state.starts for item in self.containers.values())
        for item in spec.get("initContainers") or ():
            container = self.containers[item["name"]]
            if is_sidecar(item):
                await self._container(pod, sandbox, container, pauses)
                if not container.started and not running:
                    return False
                continue
            if container.state.ended is not None and container.state.ended.code == 0:
                continue
            if running:
                continue  # its work was done: its record was lost
            await self._container(pod, sandbox, container, pauses)
            return False
        return True

    def _is_done(self, pod: Object) -> bool:
        """Whether all containers that are no sidecars have ended for good."""
        main = [container for container in self.containers.values() if not container.is_init]
        return bool(main) and all(
            container.state.ended is not None
            and start_in(container.state, policy_of(pod, container.spec, is_init=False), time.time()) is None
            for container in main
        )

    async def _besides_stop(self, grace: float) -> None:
        """Those that stay beside the others end after them, the last one first."""
        end = time.monotonic() + grace
        for container in reversed(self.containers.values()):
            if is_sidecar(container.spec):
                await container.stop(max(0.0, end - time.monotonic()))

    async def _container(self, pod: Object, sandbox: Process, container: Container, pauses: list[float]) -> None:
        """Start it where that is its turn."""
        policy = policy_of(pod, container.spec, is_init=container.is_init)
        pause = start_in(container.state, policy, time.time())
        if pause is None:
            container.waiting = None
            return
        if pause > 0:
            pauses.append(pause)
            told = f"back-off {pause:.0f}s restarting failed container={container.name} pod={name_of(pod)}"
            if container.waiting is None or container.waiting[0] != "CrashLoopBackOff":
                container.waiting = ("CrashLoopBackOff", told)
                await self.event(pod, "Warning", "BackOff", f"Back-off restarting failed container {container.name}")
            return
        try:
            supported_check(pod, container.spec)
            environment = await environment_of(self._known(pod), container.spec, self.sources)
            of_volumes = mounts_of(*self._accessing(pod, container.spec), self.runtime.volumes, environment)
            mounts = await self.blocking(lambda: apply_names(pod, container.spec, of_volumes, self.runtime.folder))
        except MissingError as error:
            container.waiting = ("CreateContainerConfigError", str(error))
            pauses.append(RETRY_SECONDS)
            await self._tell("Failed", f"Error: {error}")
            return
        state, command = container.state, command_of(container.spec, environment)
        state.failures, state.again = failures_next(state), False
        container.holds = dict.fromkeys(PROBES, False)
        try:
            await self.blocking(
                lambda: self.runtime.container_start(sandbox, pod, container.spec, state, command, environment, mounts)
            )
        except (StartError, OSError, ValueError) as error:
            state.ended = Ended(128, "StartError", state.started, time.time(), str(error))
            await self.blocking(lambda: self.runtime.container(container.name).state_write(state))
            await self.event(pod, "Warning", "Failed", f"Error: {error}")
            self.changed.set()
            return
        container.waiting = None
        self.log.info("container.started", container=container.name, starts=state.starts)
        container.begin()
        await self.event(pod, "Normal", "Started", f"Started container {container.name}")
        missing = self.runtime.limits_missing(container.spec)
        if missing:
            what = " and ".join(missing)
            told = f"This host has no control groups for {what}: container {container.name} is not limited"
            await self.event(pod, "Warning", "LimitNotEnforced", told)

    def _accessing(self, pod: Object, container: Object) -> tuple[Object, Object]:
        """Both with what containers reach the API by, where they do."""
        if not self._kept.has_access:
            return pod, container
        volumes = [*(spec_of(pod).get("volumes") or ()), access_volume()]
        return {**pod, "spec": {**spec_of(pod), "volumes": volumes}}, access_mounted(container)

    def _known(self, pod: Object) -> Object:
        """The pod with what its host knows, whether or not that is told already."""
        host = self.settings.address
        own: Object = {"hostIP": host} if host else {}
        if self.runtime.is_host_network and host:
            own |= {"podIP": host, "podIPs": [{"ip": host}]}
        return {**pod, "status": {**status_of(pod), **own}}

    def grace(self, pod: Object) -> float:
        deleted = pod["metadata"].get("deletionGracePeriodSeconds")
        period = deleted if deleted is not None else spec_of(pod).get("terminationGracePeriodSeconds")
        return 30.0 if period is None else float(period)

    # ---- the end ------------------------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Stop the pod, remove what is its, and let the object go."""
        pod = self.pod
        if not self.containers and (self.runtime.folder / "pod.json").exists():
            await self._adopt(self.last)
        grace = FORCED_GRACE if pod is None else self.grace(pod)
        main = [container for container in self.containers.values() if not is_sidecar(container.spec)]
        end = time.monotonic() + grace
        await asyncio.gather(*(container.stop(grace) for container in main))
        await self._besides_stop(max(0.0, end - time.monotonic()))
        await self._sandbox_stop()
        if pod is not None:
            await self._goodbye(pod)
        while True:
            try:
                if (self.runtime.folder).exists():
                    await self.blocking(self.runtime.remove)
                break
            except OSError as error:
                self.log.warning("pod.not-removed", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
        while self.pod is not None:
            try:
                await self._delete(self.pod)
                break
            except (ApiError, ConnectionError) as error:
                if isinstance(error, ApiError) and error.code in _GONE:
                    break
                await asyncio.sleep(RETRY_SECONDS)
        self.log.info("pod.gone")

    async def _goodbye(self, pod: Object) -> None:
        """How the containers ended, for those who look before the object goes."""
        if not self.containers:
            return
        with suppress(ApiError, ConnectionError):
            await self._report(self.pod or pod, True)

    async def _delete(self, pod: Object) -> None:
        await self.client.delete(PODS, name_of(pod), namespace_of(pod), uid=self.uid, grace=0)

    # ---- telling ------------------------------------------------------------------------------------------------

    async def _report(self, pod: Object, initialized: bool, evicted: str = "") -> None:
        """Write the pod's status where it is another than the API has."""
        seen = {name: container.seen() for name, container in self.containers.items()}
        started, now = self.runtime.started(), time.time()
        status = pod_status(pod, seen, initialized, self._is_networked, started, now, self.settings.address, evicted)
        old = status_of(pod)
        if all(old.get(key) == value for key, value in status.items() if value is not None):
            return
        metadata = {"uid": self.uid, "resourceVersion": pod["metadata"]["resourceVersion"]}
        try:
            found = await self.client.patch(
                PODS, name_of(pod), {"metadata": metadata, "status": status}, namespace_of(pod), "status"
            )
        except ApiError as error:
            if error.code in _GONE:
                return  # another state of the object is on its way to us
            raise
        if self.pod is pod:
            self.pod = self.last = found
        if status["phase"] in ("Succeeded", "Failed"):
            self.changed.set()

    async def _tell(self, reason: str, message: str) -> None:
        """An Event, once for each trouble."""
        if self._told != (reason, message) and self.pod is not None:
            self._told = (reason, message)
            await self.event(self.pod, "Warning", reason, message)

    async def event(self, pod: Object, kind: str, reason: str, message: str) -> None:
        with suppress(OSError):
            await self.events.record(PODS, pod, kind, reason, message)
