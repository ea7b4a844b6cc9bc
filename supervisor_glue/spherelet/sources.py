# SPDX-License-Identifier: Apache-2.0
"""ConfigMaps and Secrets that pods of this host use. A host may only read them one by one: those behind volumes, which
follow them, are each watched once for all pods that have them, as kubelet does it; others are asked for when a
container starts. A watch is a connection: there are so many a host and no more, and what is over that is asked for
every minute, as kubelet does where it is told not to watch."""

from __future__ import annotations

import asyncio
import time
from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from supervisor_glue.api.client import Client
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.informer import Informer
from supervisor_glue.controllers.objects import name_of, namespace_of, spec_of, uid_of
from supervisor_glue.controllers.resources import CONFIG_MAPS, SECRETS, SERVICE_ACCOUNTS

REFRESH_SECONDS: Final = 5.0
MOST_WATCHED: Final = 32
"""Objects at a time. Each is 67 kB of an API server: 2.1 GB where 1,000 hosts have so many."""
ASK_SECONDS: Final = 60.0
"""At most so long, and at least half of it, until what is not watched is asked for again."""
_NOT_FOUND: Final = 404
_KINDS: Final = {"configMap": CONFIG_MAPS, "secret": SECRETS}

Key: TypeAlias = "tuple[str, str, str]"
"""`("configMap", namespace, name)`, or of kind `secret`."""


class MissingError(Exception):
    """A pod's container cannot be made as its author wants: a sentence."""


@dataclass(slots=True)
class Followed:
    """An object's view, and whom a change of it concerns: by pod."""

    view: Informer
    task: asyncio.Task[None]
    users: dict[str, Callable[[], None]] = field(default_factory=dict)

    def changed(self, _old: Object | None, _new: Object | None) -> None:
        for tell in list(self.users.values()):
            tell()


class Sources:
    """Data by key: of what is followed as the API last said, of others at most `REFRESH_SECONDS` old."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._followed: dict[Key, Followed] = {}
        self._tokens: dict[tuple[str, str, int], tuple[float, str]] = {}
        self._known: dict[tuple[str, str, str], tuple[float, dict[str, bytes] | None]] = {}
        self._automount: dict[tuple[str, str], tuple[float, bool]] = {}

    def follow(self, user: str, keys: Iterable[Key], changed: Callable[[], None]) -> None:
        """A pod (its uid) has these objects in volumes, until it leaves: `changed` is called when one of them does."""
        for key in keys:
            found = self._followed.get(key)
            if found is None:
                found = self._followed[key] = self._begun(key, {})
            found.users[user] = changed

    def _begun(self, key: Key, users: dict[str, Callable[[], None]]) -> Followed:
        watched = sum(other.view.every is None for other in self._followed.values())
        every = None if watched < MOST_WATCHED else ASK_SECONDS
        kind, namespace, name = key
        fields = f"metadata.name={name}"
        view = Informer(self._client, _KINDS[kind], namespace=namespace, fields=fields, every=every)
        found = Followed(view, asyncio.create_task(view.run()), users)
        view.handle(found.changed)
        return found

    def leave(self, user: str) -> None:
        """A pod has gone. What no other has is not watched any more, and others are instead."""
        room = 0
        for key, found in list(self._followed.items()):
            found.users.pop(user, None)
            if not found.users:
                found.task.cancel()
                del self._followed[key]
                room += found.view.every is None
        for key, found in [item for item in self._followed.items() if item[1].view.every is not None][:room]:
            found.task.cancel()
            del self._followed[key]
            self._followed[key] = self._begun(key, found.users)

    async def close(self) -> None:
        """Nothing is followed any more."""
        tasks = [found.task for found in self._followed.values()]
        self._followed.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def data(self, kind: str, namespace: str, name: str, *, fresh: bool = False) -> dict[str, bytes] | None:
        """What an object holds; None: there is no such object, or no pod here uses it. Raises ApiError,
        ConnectionError."""
        key = (kind, namespace, name)
        followed = self._followed.get(key)
        if followed is not None and followed.view.synced.is_set():
            item = followed.view.get(name, namespace)
            return None if item is None else _data(item)
        now = time.monotonic()
        known = self._known.get(key)
        if known is not None and not fresh and now - known[0] < REFRESH_SECONDS:
            return known[1]
        found: dict[str, bytes] | None
        try:
            found = _data(await self._client.get(_KINDS[kind], name, namespace))
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise
            found = None
        self._known[key] = (now, found)
        if len(self._known) > 10_000:
            self._known = {key: value for key, value in self._known.items() if now - value[0] < REFRESH_SECONDS}
        return found

    async def token(self, pod: Object, audience: str, seconds: int) -> str:
        """A token of the pod's ServiceAccount, another one when four fifths of its life are over. Raises MissingError,
        ApiError, ConnectionError."""
        key, now = (uid_of(pod), audience, seconds), time.monotonic()
        known = self._tokens.get(key)
        if known is not None and now < known[0]:
            return known[1]
        account = str(spec_of(pod).get("serviceAccountName") or "default")
        about = {"kind": "Pod", "apiVersion": "v1", "name": name_of(pod), "uid": uid_of(pod)}
        asked: Object = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": about,
            },
        }
        try:
            made = await self._client.create(
                SERVICE_ACCOUNTS, asked, namespace_of(pod), name=account, subresource="token"
            )
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise
            raise MissingError(f'serviceaccount "{account}" not found') from None
        token = str(made["status"]["token"])
        self._tokens = {other: value for other, value in self._tokens.items() if now < value[0]}
        self._tokens[key] = (now + 0.8 * seconds, token)
        return token

    async def automount(self, namespace: str, account: str) -> bool:
        """Whether a ServiceAccount's pods get its token where they do not say. Raises ApiError, ConnectionError."""
        key, now = (namespace, account), time.monotonic()
        known = self._automount.get(key)
        if known is not None and now - known[0] < REFRESH_SECONDS:
            return known[1]
        try:
            found = await self._client.get(SERVICE_ACCOUNTS, account, namespace)
        except ApiError as error:
            if error.code != _NOT_FOUND:
                raise
            return True  # its token says that it is not there
        self._automount = {other: value for other, value in self._automount.items() if now - value[0] < REFRESH_SECONDS}
        self._automount[key] = (now, found.get("automountServiceAccountToken") is not False)
        return self._automount[key][1]

    async def needed(self, kind: str, namespace: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        """As `data`. Raises MissingError where it has to be there and is not."""
        found = await self.data(kind, namespace, name)
        if found is None:
            found = await self.data(kind, namespace, name, fresh=True)
        if found is None and not optional:
            raise MissingError(f'{kind.lower()} "{name}" not found')
        return found or {}


def _data(item: Object) -> dict[str, bytes]:
    if item.get("kind") == "Secret":
        return {key: b64decode(value) for key, value in (item.get("data") or {}).items()}
    found = {key: value.encode() for key, value in (item.get("data") or {}).items()}
    return found | {key: b64decode(value) for key, value in (item.get("binaryData") or {}).items()}
