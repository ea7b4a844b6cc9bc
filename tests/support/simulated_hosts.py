# SPDX-License-Identifier: Apache-2.0
"""Hosts without a data path: each comes with its own certificate, is told what hosts are told, and says that it is in
force."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext, suppress
from datetime import UTC, datetime
from typing import Any

from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.metadata import time_text
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.auth.pki import Authority, client_issue
from supervisor_glue.controllers.resources import HOST_STATUSES
from supervisor_glue.span_reader import Told
from supervisor_glue.spherelet.realize import REPORTS
from tests.support.simulated_reader import Shared, SharingReader

PAUSE = 0.2  # seconds, between two tries to reach the control plane
AGENT_SECONDS = 0.05  # that a packet agent takes at least to put in force what it is told
CROWD = 5000  # hosts from which on none keeps a second connection: their descriptors are one process', too
REPORTING = 2000  # of them that report at a time
OPENING = 50  # connections that are being opened at a time, in all hosts of a process


class SimulatedHost:
    """One host. `heard`: when it was last told parts; `bytes`: what it was sent, and sent itself, since `count`;
    `reported`: the revision that the API server took last."""

    def __init__(
        self,
        name: str,
        client: HttpClient,
        shared: Shared,
        opening: asyncio.Semaphore,
        reporting: AbstractAsyncContextManager[Any],
    ) -> None:
        self.name = name
        self.reader = SharingReader(shared)
        self.client, self._reporting = client, reporting
        self.revision, self.bytes, self.heard, self.told, self.reported = 0, 0, 0.0, 0, 0
        self.connected = asyncio.Event()
        self._opening = opening
        self._tasks: list[asyncio.Task[None]] = []
        self._due = asyncio.Event()

    async def start(self) -> None:
        await self.client.__aenter__()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._report())]

    async def cut(self) -> None:
        """Its connections are gone, until `start`. What it knows stays."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.__aexit__(None, None, None)
        self.connected.clear()

    def count(self) -> None:
        """Count bytes from nothing."""
        self.bytes = self.told = 0

    async def _watch(self) -> None:
        while True:
            with suppress(ApiError, ConnectionError):
                async with aclosing(self._opened()) as changes:  # type: ignore[type-var]
                    async for told in changes:
                        self._take(told)
                        del told  # the names of all parts
            self.connected.clear()
            await asyncio.sleep(PAUSE)

    async def _opened(self) -> Any:
        """As `watch` of the reader; so many hosts of one process open their connections one after the other."""
        async with self._opening:
            changes = self.reader.watch(self.client)
            first = [await anext(changes)]
        yield first.pop()
        async for told in changes:
            yield told

    def _take(self, told: Told) -> None:
        self.bytes += told.size
        if told.changed:
            self.heard = time.perf_counter()
            self.told += 1
        self.revision = told.revision
        self.connected.set()
        self._due.set()

    async def _report(self) -> None:
        """As often as Realizer does."""
        due = 0.0
        while True:
            await self._due.wait()
            await asyncio.sleep(max(AGENT_SECONDS, REPORTS.left(due, time.monotonic())))
            self._due.clear()
            due, revision = REPORTS.after(due, time.monotonic()), self.revision
            status = {"realizedRevision": revision, "error": "", "problems": {}, "reported": time_text(time.time())}
            try:
                async with self._reporting:
                    await self.client.patch(HOST_STATUSES, self.name, {"status": status}, subresource="status")
                self.reported = revision
            except (ApiError, ConnectionError):
                self._due.set()
                await asyncio.sleep(REPORTS.seconds)


class ClosingClient(HttpClient):
    """Keeps no connection that nobody uses."""

    async def __aenter__(self) -> HttpClient:
        await super().__aenter__()
        assert self._session is not None and self._session.connector is not None
        self._session.connector._force_close = True
        return self


def hosts_make(server: str, authority: Authority, uids: dict[str, str]) -> list[SimulatedHost]:
    """Hosts of these names, with certificates that hold their Hosts' uids."""
    shared = Shared()
    opening = asyncio.Semaphore(OPENING)
    is_crowd = len(uids) > CROWD
    reporting = asyncio.Semaphore(REPORTING) if is_crowd else nullcontext()
    now, found = datetime.now(UTC), []
    for name, uid in uids.items():
        user = f"system:node:{name}"
        identity = client_issue(authority, user, ("system:nodes",), now=now, uid=uid)
        config = Kubeconfig(server, authority.pem, user, identity)
        client = (ClosingClient if is_crowd else HttpClient)(config, "palisade-simulated")
        found.append(SimulatedHost(name, client, shared, opening, reporting))
    return found


async def each(work: Iterable[Any], at_a_time: int = 64) -> None:
    """Await all of these, so many at a time."""
    room = asyncio.Semaphore(at_a_time)

    async def one(item: Any) -> None:
        async with room:
            await item

    async with asyncio.TaskGroup() as group:
        for item in work:
            group.create_task(one(item))
