# SPDX-License-Identifier: Apache-2.0
"""Many controllers in one process: views are kept, what changed is queued, each queue's keys are reconciled."""

from __future__ import annotations

import asyncio
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar, TypeAlias

from dfw.logs import get_logger
from supervisor_glue.api.client import Client, Resource
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.informer import Handler, Views
from supervisor_glue.controllers.objects import is_deleted, name_of, owner_uids, spec_of
from supervisor_glue.controllers.queue import WorkQueue

Triggers: TypeAlias = Mapping[Resource, Callable[[Object], Iterable[str]]]
"""By collection: which keys have to be looked at when an object of it has changed (told as it was and as it is)."""
Now: TypeAlias = Callable[[], float]
"""Seconds since the epoch."""

CONFLICT = 409
NOT_FOUND = 404


class Controller(ABC):
    """What keeps one thing as it shall be."""

    name: ClassVar[str]
    workers: ClassVar[int] = 4

    def __init__(self, client: Client, views: Views, now: Now = time.time) -> None:
        self.client, self.views, self.now = client, views, now
        self.queue = WorkQueue()
        self.log = get_logger(self.name)
        self.aside_tasks: set[asyncio.Task[None]] = set()

    @abstractmethod
    def triggers(self) -> Triggers:
        """What it looks at."""

    @abstractmethod
    async def reconcile(self, key: str) -> float | None:
        """Make it so; seconds after which to look again, None: when something changes. It may find that there is
        nothing to do. Raises ApiError, OSError: it is tried again."""

    def connect(self) -> None:
        """Let the views fill the queue."""
        for resource, keys in self.triggers().items():
            self.views[resource].handle(self._enqueuer(keys))

    def _enqueuer(self, keys: Callable[[Object], Iterable[str]]) -> Handler:
        def changed(old: Object | None, new: Object | None) -> None:
            for item in (old, new):
                if item is not None:
                    for key in keys(item):
                        self.queue.add(key)

        return changed

    async def work(self) -> None:
        """Reconcile what the queue has, until cancelled."""
        while True:
            key = await self.queue.get()
            try:
                again = await self.reconcile(key)
            except asyncio.CancelledError:
                raise
            except ApiError as error:
                pause = self.queue.add_failed(key)
                if error.code not in (CONFLICT, NOT_FOUND):  # those say that a view is behind, which passes
                    self.log.warning("refused", key=key, code=error.code, error=error.message, again=pause)
            except (OSError, TimeoutError) as error:
                self.log.warning("unreachable", key=key, error=str(error), again=self.queue.add_failed(key))
            except Exception as error:
                # One object that nobody thought of must not stop the work on all others.
                pause = self.queue.add_failed(key)
                self.log.error("failed", key=key, error=repr(error), at=_place(error), again=pause)
            else:
                self.queue.forget(key)
                if again is not None:
                    self.queue.add_after(key, again)
            finally:
                self.queue.done(key)

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what nothing waits for beside the rest (an Event); it handles what goes wrong itself."""
        task = asyncio.create_task(work)
        self.aside_tasks.add(task)
        task.add_done_callback(self.aside_tasks.discard)

    # What most of them do.

    async def created(self, resource: Resource, item: Object, namespace: str = "") -> Object | None:
        """Create; None where something of this name is there already."""
        try:
            return await self.client.create(resource, item, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            return None

    async def ensured(self, resource: Resource, wanted: Object) -> None:
        """There, with this spec, and its owner's: what somebody changed is changed back. Raises ApiError where it
        belongs to another: then nothing is made of it until that one is gone."""
        found = self.views[resource].get(name_of(wanted))
        if found is None:
            if await self.created(resource, wanted) is not None:
                return
            found = await self.client.get(resource, name_of(wanted))
        if owner_uids(found) != owner_uids(wanted):
            self.log.warning("belongs-to-another", kind=resource.plural, object=name_of(wanted))
            raise ApiError(CONFLICT, "Conflict", f"{resource.plural} {name_of(wanted)} belongs to another")
        if dict(spec_of(found)) != dict(spec_of(wanted)) and not is_deleted(found):
            await self.client.update(resource, {**found, "spec": wanted["spec"]})

    async def deleted(self, resource: Resource, item: Object) -> None:
        """Delete this very object, unless it is gone or going."""
        meta = item["metadata"]
        if meta.get("deletionTimestamp"):
            return
        with suppress(NotThereError):
            await there(self.client.delete(resource, meta["name"], meta.get("namespace", ""), uid=meta.get("uid", "")))


def _place(error: Exception) -> str:
    """Where it was raised: file and line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{last.filename}:{last.lineno}"


class NotThereError(Exception):
    """What was asked for is gone, or another of its name is there."""


async def there(request: object) -> Object:
    """The answer to a request about an object that may be gone. Raises NotThereError."""
    try:
        return await request  # type: ignore[misc, no-any-return]
    except ApiError as error:
        if error.code == NOT_FOUND or (error.code == CONFLICT and "uid" in error.message.lower()):
            raise NotThereError from error
        raise


async def controllers_run(views: Views, controllers: Sequence[Controller]) -> None:
    """Run them until cancelled; all tasks have ended when it returns."""
    log = get_logger("controllers")
    for controller in controllers:
        controller.connect()
    tasks = [
        asyncio.create_task(informer.run(), name=f"view {resource.plural}") for resource, informer in views.of.items()
    ]
    try:
        await views.synced()
        log.info("synced", views=len(views.of))
        tasks += [
            asyncio.create_task(controller.work(), name=f"{controller.name} {number}")
            for controller in controllers
            for number in range(controller.workers)
        ]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()  # none of them ends by itself
    finally:
        tasks += [task for controller in controllers for task in controller.aside_tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for controller in controllers:
            controller.queue.close()
        log.info("stopped")
