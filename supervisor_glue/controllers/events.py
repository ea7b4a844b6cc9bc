# SPDX-License-Identifier: Apache-2.0
"""Events: what people read in `kubectl describe`. The same one again counts up instead of being told twice."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from dfw.logs import get_logger
from supervisor_glue.api.client import Client, Resource
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.controller import Now
from supervisor_glue.controllers.objects import name_of, namespace_of, time_text, uid_of
from supervisor_glue.controllers.resources import EVENTS, KIND_OF, api_version

_NOT_FOUND: Final = 404
LONGEST_MESSAGE: Final = 1024  # as client-go cuts them
MOST_KNOWN: Final = 4096
"""Events whose counts are remembered, as client-go's correlator does: to count one up again costs one request."""


class Recorder:
    """Writes Events of one source. What can't be written is logged: nothing depends on an Event."""

    def __init__(self, client: Client, source: str, now: Now) -> None:
        self._client, self._source, self._now = client, source, now
        self._log = get_logger("events")
        self._counts: dict[tuple[str, str], int] = {}

    async def record(self, resource: Resource, item: Object, kind: str, reason: str, message: str) -> None:
        """`kind`: Normal or Warning; `reason`: CamelCase."""
        message = message[:LONGEST_MESSAGE]
        namespace = namespace_of(item) or "default"
        digest = sha256("\0".join((uid_of(item), self._source, kind, reason, message)).encode()).hexdigest()[:16]
        name = f"{name_of(item)[:230]}.{digest}"
        now = time_text(self._now())
        try:
            made = self._made(name, namespace, resource, item, kind, reason, message, now)
            count = self._counts.pop((namespace, name), 0) or await self._created(name, namespace, made)
            if count:
                again = {"count": count + 1, "lastTimestamp": now}
                try:
                    await self._client.patch(EVENTS, name, again, namespace)
                except ApiError as error:
                    if error.code != _NOT_FOUND:
                        raise
                    count = 0  # it was too old
                    await self._client.create(EVENTS, made, namespace)
            self._counts[namespace, name] = count + 1
            if len(self._counts) > MOST_KNOWN:
                del self._counts[next(iter(self._counts))]
        except (ApiError, OSError) as error:
            self._log.info("not-recorded", name=name, error=str(error))

    async def _created(self, name: str, namespace: str, made: Object) -> int:
        """0: it is told for the first time; else how often it was told before this process began. A host may not read
        Events, but an answer to what it changes of its own says what they are."""
        try:
            await self._client.create(EVENTS, made, namespace)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            old = await self._client.patch(EVENTS, name, {"lastTimestamp": made["lastTimestamp"]}, namespace)
            return int(old.get("count") or 1)
        return 0

    def _made(
        self,
        name: str,
        namespace: str,
        resource: Resource,
        item: Object,
        kind: str,
        reason: str,
        message: str,
        now: str,
    ) -> Object:
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": {
                "apiVersion": api_version(resource),
                "kind": KIND_OF[resource],
                "name": name_of(item),
                "namespace": namespace_of(item),
                "uid": uid_of(item),
                "resourceVersion": str(item["metadata"].get("resourceVersion", "")),
            },
            "type": kind,
            "reason": reason,
            "message": message,
            "source": {"component": self._source},
            "reportingComponent": self._source,
            "reportingInstance": self._source,
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
