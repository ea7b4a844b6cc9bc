# SPDX-License-Identifier: Apache-2.0
"""The pods of this host: a view of them, and a worker for each."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from dfw.logs import get_logger
from overlay.launcher import Launcher
from overlay.namespace import namespace_exists
from supervisor_glue.api.client import Client
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.events import Recorder
from supervisor_glue.controllers.informer import Informer
from supervisor_glue.controllers.objects import uid_of
from supervisor_glue.controllers.resources import PODS
from supervisor_glue.spherelet.attachments import Attachments
from supervisor_glue.spherelet.logs import LogKeeper
from supervisor_glue.spherelet.records import record_read
from supervisor_glue.spherelet.settings import Settings
from supervisor_glue.spherelet.sources import Sources
from supervisor_glue.spherelet.worker import PodWorker

_THREADS: Final = 16
_AGAIN_SECONDS: Final = 1.0


class Pods:
    """All pods of the host, by uid: one of the same name with another uid is another pod."""

    def __init__(self, client: Client, settings: Settings, attachments: Attachments) -> None:
        self.client, self.settings, self.attachments = client, settings, attachments
        self.view = Informer(client, PODS, fields=f"spec.nodeName={settings.host}")
        self.workers: dict[str, PodWorker] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pod")
        self._sources = Sources(client)
        self._logs = LogKeeper(settings)
        self._launcher = Launcher(settings.mark or "PALISADE_SPHERELET=1")
        self._events = Recorder(client, "spherelet", time.time)
        self.log = get_logger("spherelet")

    async def run(self) -> None:
        """Until cancelled: pods then go on without us."""
        watching = asyncio.create_task(self.view.run())
        try:
            await self.view.synced.wait()
            self.view.handle(self._changed)
            for pod in self._left_behind():
                self.log.info("pod.left-behind", uid=uid_of(pod))
                self._begin(pod).update(None)
            await watching
        finally:
            tasks = [watching, *self._tasks.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._sources.close()
            self._threads.shutdown(wait=True)
            self._launcher.close()

    def _changed(self, old: Object | None, new: Object | None) -> None:
        if old is not None and (new is None or uid_of(new) != uid_of(old)):
            worker = self.workers.get(uid_of(old))
            if worker is not None:
                worker.update(None)
        if new is not None:
            worker = self.workers.get(uid_of(new))
            if worker is None:
                self._begin(new)
            else:
                worker.update(new)

    def _begin(self, pod: Object) -> PodWorker:
        worker = PodWorker(
            self.client,
            self.settings,
            self._sources,
            pod,
            self._threads,
            self._events,
            self.attachments,
            self._logs,
            self._launcher,
        )
        self.workers[worker.uid] = worker
        self._tasks[worker.uid] = asyncio.create_task(self._work(worker))
        return worker

    async def _work(self, worker: PodWorker) -> None:
        """A defect in one pod's worker is told and tried again: it is never the others' trouble."""
        while True:
            try:
                await worker.run()
                break
            except Exception as error:
                self.log.error("pod.worker", uid=worker.uid, error=f"{type(error).__name__}: {error}", exc_info=True)
                await asyncio.sleep(_AGAIN_SECONDS)
        self.workers.pop(worker.uid, None)
        self._tasks.pop(worker.uid, None)

    def _left_behind(self) -> list[Object]:
        """Pods that were started here and have no object any more."""
        folder = self.settings.run / "pods"
        found: list[Object] = []
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name not in self.workers:
                found.append(_remembered(path))
        return found

    def by_name(self, namespace: str, name: str, uid: str) -> PodWorker | None:
        """A pod that is here."""
        pod = self.view.get(name, namespace)
        if pod is None or (uid and uid_of(pod) != uid):
            return None
        return self.workers.get(uid_of(pod))


def read_places(settings: Settings) -> dict[str, str]:
    """Where the vNICs of pods are that were started here before: network namespaces by Port. The packet agent takes
    away the interface of one for which it is told no place, and a pod's worker begins only when the API has told of it.
    Of pods with one name the younger."""
    folder = settings.run / "pods"
    found: list[tuple[float, str, str]] = []
    for path in folder.iterdir() if folder.is_dir() else ():
        known, netns = record_read(path / "pod.json"), settings.namespace(path.name)
        if known is not None and namespace_exists(netns):
            found.append((float(known["started"]), f"{known['namespace']}/{known['name']}", str(netns)))
    return {port: netns for _, port, netns in sorted(found)}


def _remembered(folder: Path) -> Object:
    """A pod as far as its records know it."""
    known = record_read(folder / "pod.json") or {}
    containers = folder / "containers"
    names = sorted(path.name for path in containers.iterdir()) if containers.is_dir() else []
    metadata = {
        "name": str(known.get("name", folder.name)),
        "namespace": str(known.get("namespace", "default")),
        "uid": folder.name,
    }
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": [{"name": name} for name in names]}}
