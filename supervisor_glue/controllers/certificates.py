# SPDX-License-Identifier: Apache-2.0
"""Certificates of hosts that join and renew, and of users whose request somebody has approved; join tokens that expire.

The only controllers that need more than the API: the CA's key.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from supervisor_glue.api.client import Client
from supervisor_glue.api.status import Object
from supervisor_glue.auth.approval import (
    AUTOMATIC,
    JOINED,
    REQUESTS,
    Approve,
    Refuse,
    Remove,
    Sign,
    Wait,
    is_renewal,
    plan_request,
    request_certificate,
    request_host,
    with_certificate,
    with_condition,
)
from supervisor_glue.auth.pki import Authority
from supervisor_glue.auth.signing import LONGEST
from supervisor_glue.auth.tokens import JOIN_NAMESPACE, JOIN_TYPE, join_expiry
from supervisor_glue.controllers.controller import Controller, NotThereError, Now, Triggers, there
from supervisor_glue.controllers.informer import Views
from supervisor_glue.controllers.objects import annotations_of, name_of, object_key, object_made, uid_of
from supervisor_glue.controllers.resources import HOSTS, SECRETS


class CertificateController(Controller):
    """Approves what hosts ask for themselves, signs what is approved, and takes away what is old."""

    name: ClassVar[str] = "certificates"

    def __init__(
        self,
        client: Client,
        views: Views,
        authority: Authority,
        now: Now = time.time,
        longest: timedelta = LONGEST,
    ) -> None:
        super().__init__(client, views, now)
        self.authority, self.longest = authority, longest

    def triggers(self) -> Triggers:
        return {REQUESTS: lambda item: (name_of(item),)}

    async def reconcile(self, key: str) -> float | None:
        item = self.views[REQUESTS].get(key)
        if item is None:
            return None
        now, name = datetime.fromtimestamp(self.now(), UTC), request_host(item)
        host = await self._host(name) if name else None
        step = plan_request(item, host, now)
        if isinstance(step, Wait):
            return step.seconds
        if isinstance(step, Remove):
            await self.deleted(REQUESTS, item)
        elif isinstance(step, Approve):
            approved = with_condition(item, "Approved", AUTOMATIC, step.message, now)
            await self.client.update(REQUESTS, approved, "approval")
        elif isinstance(step, Refuse):
            kind, part = ("Denied", "approval") if step.denied else ("Failed", "status")
            await self.client.update(REQUESTS, with_condition(item, kind, step.reason, step.message, now), part)
            self.log.warning("refused", request=key, reason=step.reason)
        else:
            await self._sign(item, step, host, now)
        return None

    async def _sign(self, item: Object, step: Sign, host: Object | None, now: datetime) -> None:
        uid = ""
        if step.host:
            if host is None:
                host = await self._host_made(step.host)
            uid = uid_of(host)
            if not is_renewal(item, step.host):
                # Before the certificate is given away: nobody else can join as this host from here on.
                annotations = {**annotations_of(host), JOINED: name_of(item)}
                await self.client.update(HOSTS, {**host, "metadata": {**host["metadata"], "annotations": annotations}})
        signed = request_certificate(self.authority, item, now, uid, self.longest)
        await self.client.update(REQUESTS, with_certificate(item, signed), "status")
        self.log.info("signed", request=name_of(item), host=step.host or None)

    async def _host(self, name: str) -> Object | None:
        """As it is, not as a view has it: a certificate is given away by it."""
        with suppress(NotThereError):
            return await there(self.client.get(HOSTS, name))
        return None

    async def _host_made(self, name: str) -> Object:
        made = await self.created(HOSTS, object_made(HOSTS, name, spec={}))
        return made if made is not None else await self.client.get(HOSTS, name)


class JoinTokenController(Controller):
    """Deletes join tokens that have expired."""

    name: ClassVar[str] = "join-tokens"
    workers: ClassVar[int] = 1

    def triggers(self) -> Triggers:
        return {SECRETS: self._keys}

    @staticmethod
    def _keys(item: Object) -> Iterable[str]:
        return (object_key(item),) if item.get("type") == JOIN_TYPE else ()

    async def reconcile(self, key: str) -> float | None:
        item = self.views[SECRETS].get(key)
        if item is None or item["metadata"].get("namespace") != JOIN_NAMESPACE:
            return None
        expiry = join_expiry(item)
        if expiry is None:
            return None
        left = expiry.timestamp() - self.now()
        if left <= 0:
            await self.deleted(SECRETS, item)
            return None
        return left
