# SPDX-License-Identifier: Apache-2.0
"""Which of several processes leads: the one whose name is in a Lease that it keeps renewing.

As client-go's leaderelection: a holder is believed for as long as its Lease's duration since *we* last saw it change,
so that clocks need not agree; a leader that could not renew in time stops before another can begin.
https://kubernetes.io/docs/concepts/architecture/leases/
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from dfw.logs import get_logger
from supervisor_glue.api.client import Client
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.objects import annotations_of, micro_time_text, object_made
from supervisor_glue.controllers.resources import LEASES

SYSTEM_NAMESPACE: Final = "kube-system"
LEASE_NAME: Final = "palisade-controllers"
SPAN_AT: Final = "palisade.internal/span"
"""A Lease's annotation: where its holder says what hosts are told. It is another's, or nobody's, from the moment the
Lease is."""


_LAST_TRY: Final = 0.8  # of the time between the end of renewing and that of the lease


@dataclass(frozen=True, slots=True)
class LeaderOptions:
    """`identity`: of this process, another for each; `address`: the URL at which it serves the span. Seconds: `lease`
    how long a silent leader is believed, `renew` how long a leader tries to renew before it gives up (less than
    `lease`), `retry` between tries."""

    identity: str
    address: str = ""
    lease: float = 15.0
    renew: float = 10.0
    retry: float = 2.0
    namespace: str = SYSTEM_NAMESPACE
    name: str = LEASE_NAME


class Leader:
    """One candidate. `clock`: seconds, monotonic."""

    def __init__(self, client: Client, options: LeaderOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._options, self._clock = client, options, clock
        self._log = get_logger("leader").bind(identity=options.identity)
        self._seen: tuple[str, float] = ("", 0.0)  # the lease's revision, and when we first saw it
        self._is_others = False

    async def lead(self, work: Callable[[], Awaitable[None]]) -> None:
        """Wait until this process leads, then do the work; it is cancelled when the lease is lost, and begun again when
        it is held again. Returns when the work does. Cancelled: the lease is given up."""
        while True:
            while not await self._held():
                await asyncio.sleep(self._options.retry)
            self._log.info("leading")
            working = asyncio.ensure_future(work())
            renewing = asyncio.create_task(self._renew())
            try:
                await asyncio.wait((working, renewing), return_when=asyncio.FIRST_COMPLETED)
            finally:
                is_done = working.done()
                for task in (working, renewing):
                    task.cancel()
                await asyncio.gather(working, renewing, return_exceptions=True)
                await self._give_up()
            if is_done:
                working.result()
                return
            self._log.warning("lease-lost")

    async def _renew(self) -> None:
        """Returns when the lease is lost: another has it, or it could not be renewed in time. A process that stood
        still (a large compile, a machine that is busy) tries once more: who else leads, the Lease says."""
        options = self._options
        held = self._clock()
        while True:
            await asyncio.sleep(max(0.0, min(options.retry, held + options.renew - self._clock())))
            began = self._clock()
            left = held + options.renew - began
            with suppress(TimeoutError):
                async with asyncio.timeout(left if left > 0 else (options.lease - options.renew) * _LAST_TRY):
                    if await self._held():
                        held = began
                        continue
            if self._is_others or left <= 0:
                return

    async def _held(self) -> bool:
        """Take or renew the lease. False: another has it, or nobody answers."""
        options = self._options
        self._is_others = False
        try:
            try:
                lease = await self._client.get(LEASES, options.name, options.namespace)
            except ApiError as error:
                if error.code != 404:
                    raise
                made = object_made(LEASES, options.name, options.namespace)
                await self._client.create(LEASES, self._taken(made, None), options.namespace)
                return True
            holder = (lease.get("spec") or {}).get("holderIdentity") or ""
            if holder not in ("", options.identity) and not self._is_silent(lease):
                self._is_others = True
                return False
            await self._client.update(LEASES, self._taken(lease, lease))
        except ApiError as error:
            if error.code != 409:
                self._log.warning("refused", code=error.code, error=error.message)
            return False
        except OSError as error:
            self._log.warning("unreachable", error=str(error))
            return False
        return True

    def _is_silent(self, lease: Object) -> bool:
        revision, now = str(lease["metadata"]["resourceVersion"]), self._clock()
        if self._seen[0] != revision:
            self._seen = (revision, now)
        seconds = float((lease.get("spec") or {}).get("leaseDurationSeconds") or self._options.lease)
        return now - self._seen[1] > seconds

    def _taken(self, item: Object, lease: Object | None) -> Object:
        """The Lease as this process holds it."""
        annotations = {**annotations_of(item), SPAN_AT: self._options.address}
        return {**item, "metadata": {**item["metadata"], "annotations": annotations}, "spec": self._spec(lease)}

    def _spec(self, lease: Object | None) -> dict[str, Any]:
        now = micro_time_text(time.time())
        old: dict[str, Any] = {} if lease is None else lease.get("spec") or {}
        mine = old.get("holderIdentity") == self._options.identity
        return {
            "holderIdentity": self._options.identity,
            "leaseDurationSeconds": max(1, round(self._options.lease)),
            "acquireTime": old.get("acquireTime", now) if mine else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (not mine and lease is not None),
        }

    async def _give_up(self) -> None:
        """Let another begin at once. What cannot be said in time is found out by silence."""
        options = self._options
        try:
            async with asyncio.timeout(min(2.0, options.renew)):
                lease = await self._client.get(LEASES, options.name, options.namespace)
                spec = lease.get("spec") or {}
                if spec.get("holderIdentity") == options.identity:
                    given = {**spec, "holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._client.update(LEASES, {**lease, "spec": given})
        except (ApiError, OSError, TimeoutError) as error:
            self._log.info("lease-kept", error=str(error))


def span_address(lease: Object | None) -> str:
    """Where the holder of a Lease serves the span; empty: nobody does."""
    if lease is None or not (lease.get("spec") or {}).get("holderIdentity"):
        return ""
    return annotations_of(lease).get(SPAN_AT, "")
