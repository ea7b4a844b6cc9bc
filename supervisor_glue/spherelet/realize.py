# SPDX-License-Identifier: Apache-2.0
"""From what the Supervisor computes for this host to the packet agent, and back what is in force.

The agent is told as ever, by its file and its socket: it may end, begin and be upgraded by itself, and what is in force
stays. HostStatus is written at once, but for a stream of changes: then once a second.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from dfw.logs import get_logger
from overlay.ask import AskError, agent_ask
from overlay.hoststate import HostState, StateError, state_write
from overlay.span_parts import parts_assemble
from supervisor_glue.api.client import Resource
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.kinds import OURS
from supervisor_glue.api.metadata import time_text
from supervisor_glue.api.status import ApiError
from supervisor_glue.controllers.objects import status_of
from supervisor_glue.pace import Pace
from supervisor_glue.span_reader import SpanReader, Told
from supervisor_glue.spherelet.attachments import Attachments

HOST_STATUSES: Final = Resource(OURS, "v1alpha1", "hoststatuses")
REPORTS: Final = Pace(seconds=1.0, burst=2)
ASK_SECONDS: Final = 30.0
LOOK_SECONDS: Final = 2.0  # how often an agent that has not realized what it was told is asked again
_PAUSES: Final = (0.05, 0.2, 1.0, 3.0)


@dataclass(slots=True)
class Report:
    """What the agent said last."""

    revision: int = 0
    error: str = ""
    problems: dict[str, str] = field(default_factory=dict)


class Realizer:
    """One host's. `desired`, `socket`: of its packet agent."""

    def __init__(self, client: HttpClient, host: str, desired: Path, socket: Path, attachments: Attachments) -> None:
        self.client, self.host, self.desired, self.socket = client, host, desired, socket
        self.attachments = attachments
        self.wanted: HostState | None = None
        self.report = Report()
        self.log = get_logger("realize").bind(host=host)
        self._reader = SpanReader()
        self._refused = ""  # why what the Supervisor told last is not wanted
        self._told: HostState | None = None
        self._due = asyncio.Event()
        self._next = 0.0  # of REPORTS

    async def run(self) -> None:
        """Until cancelled."""
        tasks = [asyncio.create_task(work()) for work in (self._watch, self._tell, self._reporting)]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _watch(self) -> None:
        failed = 0
        while True:
            try:
                async for told in self._reader.watch(self.client):
                    failed = 0
                    self._take(told)
            except (ApiError, ConnectionError) as error:
                self.log.warning("supervisor.away", error=str(error))
            await asyncio.sleep(_PAUSES[min(failed, len(_PAUSES) - 1)])
            failed += 1

    def _take(self, told: Told) -> None:
        if told.changed or self.wanted is None:
            try:
                self.wanted = parts_assemble(self.host, self._reader.parts, told.revision)
            except StateError as error:  # the old rules stay, and so does what is said of them
                self._refused = self.report.error = str(error)
                self.log.error("refused", revision=told.revision, error=str(error))
                self._due.set()
                return
            self._refused = ""
        elif self._refused:
            return
        else:
            self.wanted = msgspec.structs.replace(self.wanted, revision=told.revision)
        self.attachments.changed.set()

    async def _tell(self) -> None:
        """Have the agent do what is wanted, until it has."""
        while True:
            with suppress(TimeoutError):
                wait = None if self._is_realized() else LOOK_SECONDS
                await asyncio.wait_for(self.attachments.changed.wait(), wait)
            self.attachments.changed.clear()
            if self.wanted is None:
                continue
            await self._ask(state_attached(self.wanted, self.attachments))

    def _is_realized(self) -> bool:
        return self.wanted is None or (
            self.report.revision >= self.wanted.revision and not self.report.error and not self.report.problems
        )

    async def _ask(self, state: HostState) -> None:
        def told() -> dict[str, Any]:
            if state != self._told:
                # The agent keeps what it has put in force over a power failure, and after one we tell it anew.
                state_write(self.desired, state, durable=False)
                self._told = state
            return agent_ask(self.socket, {"do": "apply"}, ASK_SECONDS)

        try:
            status = await asyncio.to_thread(told)
        except AskError as error:
            self.log.warning("agent.away", error=str(error))
            return
        said = Report(
            int(status.get("revision_realized") or 0),
            str(status.get("error") or self._refused),
            dict(status.get("problems") or {}),
        )
        if said != self.report:
            self.report = said
            self._due.set()
        if said.revision >= state.revision and not status.get("error"):
            there = ((vnic.name, vnic.netns) for vnic in state.vnics if vnic.netns and vnic.name not in said.problems)
            self.attachments.done(there)
        self.log.info("told", revision=state.revision, realized=said.revision, vnics=len(state.vnics))

    async def _reporting(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            left = REPORTS.left(self._next, time.monotonic())
            if left > 0:
                await asyncio.sleep(left)
                self._due.clear()
            try:
                await self._write()
            except (ApiError, ConnectionError) as error:
                self.log.warning("status.failed", error=str(error))
                self._due.set()
                await asyncio.sleep(REPORTS.seconds)

    async def _write(self) -> None:
        self._next = REPORTS.after(self._next, time.monotonic())
        status: dict[str, Any] = {
            "realizedRevision": self.report.revision,
            "error": self.report.error,
            "problems": dict(list(self.report.problems.items())[:10]),
            "reported": time_text(time.time()),
        }
        try:
            kept = await self.client.patch(HOST_STATUSES, self.host, {"status": status}, subresource="status")
        except ApiError as error:
            if error.code != 404:
                raise
            version = f"{HOST_STATUSES.group}/{HOST_STATUSES.version}"
            item = {"apiVersion": version, "kind": "HostStatus", "metadata": {"name": self.host}}
            with suppress(ApiError):
                await self.client.create(HOST_STATUSES, item)
            kept = await self.client.patch(HOST_STATUSES, self.host, {"status": status}, subresource="status")
        # A patch of {} takes nothing away: what stands there from before (an earlier Spherelet's, too) must be named.
        solved = dict.fromkeys((status_of(kept).get("problems") or {}).keys() - status["problems"].keys())
        if solved:
            patch = {"status": {"problems": solved}}
            await self.client.patch(HOST_STATUSES, self.host, patch, subresource="status")


def state_attached(state: HostState, attachments: Attachments) -> HostState:
    """A host's state with the places of its vNICs, which only the host knows."""
    paths = attachments.paths
    vnics = tuple(msgspec.structs.replace(vnic, netns=paths.get(vnic.name)) for vnic in state.vnics)
    return msgspec.structs.replace(state, vnics=vnics)
