# SPDX-License-Identifier: Apache-2.0
"""ConfigMaps and Secrets that pods of this host use. A host may only get them one by one, so they are asked for again
after a while instead of being watched."""

from __future__ import annotations

import time
from base64 import b64decode
from typing import Final

from supervisor_glue.api.client import Client
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.resources import CONFIG_MAPS, SECRETS

REFRESH_SECONDS: Final = 5.0
_NOT_FOUND: Final = 404
_KINDS: Final = {"configMap": CONFIG_MAPS, "secret": SECRETS}


class MissingError(Exception):
    """A pod's container cannot be made as its author wants: a sentence."""


class Sources:
    """Data by `(kind, namespace, name)`, kind `configMap` or `secret`; at most `REFRESH_SECONDS` old."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[tuple[str, str, str], tuple[float, dict[str, bytes] | None]] = {}

    async def data(self, kind: str, namespace: str, name: str, *, fresh: bool = False) -> dict[str, bytes] | None:
        """What an object holds; None: there is no such object, or no pod here uses it. Raises ApiError,
        ConnectionError."""
        key = (kind, namespace, name)
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
