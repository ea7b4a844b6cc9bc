# SPDX-License-Identifier: Apache-2.0
"""Lists: all at once, or in pages that are all of one revision
(https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks)."""

from __future__ import annotations

import base64
import binascii
import json
from typing import NamedTuple

from supervisor_glue.api.kinds import STORED, Kind
from supervisor_glue.api.request import Options
from supervisor_glue.api.selectors import Selector
from supervisor_glue.api.status import Object, error_bad_request, error_gone, error_too_large
from supervisor_glue.api.watch_cache import Entry, WatchCache, entry_of
from supervisor_glue.store import CompactedError, FutureError

_STEP = 500
"""Records that are read at once while a page with a selector is filled."""
_FORGOTTEN = (
    "The provided continue parameter is too old to display a consistent list result. You can start a new list without"
    " the continue parameter."
)


class Page(NamedTuple):
    entries: list[Entry]
    metadata: Object


class Listing:
    def __init__(self, cache: WatchCache) -> None:
        self.cache = cache
        self._kinds = {kind.prefix: kind for kind in STORED}

    async def page(self, kind: Kind, namespace: str, selector: Selector, options: Options) -> Page:
        """Raises ApiError 400, 410, 504."""
        if options.continued:
            if options.revision not in ("", "0"):
                raise error_bad_request("specifying resource version is not allowed when using continue")
            revision, after = continue_read(options.continued, prefix_of(kind, namespace))
            return await self._old(kind, namespace, selector, revision, after, options.limit)
        if options.match == "Exact":
            return await self._old(kind, namespace, selector, int(options.revision), "", options.limit)
        if options.revision in ("", "0"):
            await self.cache.fresh()
        else:
            await self.cache.wait_bounded(int(options.revision))
        entries = self.cache.list(kind, namespace, selector)
        metadata: Object = {"resourceVersion": str(self.cache.revision)}
        if options.limit and len(entries) > options.limit:
            last = entries[options.limit - 1]
            metadata["continue"] = continue_written(self.cache.revision, kind.key(last.namespace, last.name))
            if not selector:
                metadata["remainingItemCount"] = len(entries) - options.limit
            entries = entries[: options.limit]
        return Page(entries, metadata)

    async def _old(self, kind: Kind, namespace: str, selector: Selector, revision: int, after: str, limit: int) -> Page:
        """As of a revision, from the store."""
        prefix = prefix_of(kind, namespace)
        found: list[Entry] = []
        while True:
            step = (max(limit - len(found), 1) if not selector else _STEP) if limit else 0
            try:
                part = await self.cache.store.range(prefix, after=after, limit=step, revision=revision)
            except CompactedError:
                raise error_gone(_FORGOTTEN) from None
            except FutureError as error:
                raise error_too_large(revision, error.revision) from None
            for place, record in enumerate(part.records):
                after = record.key
                entry = entry_of(self._kinds, record.key, record.value, record.revision)
                if entry is not None and entry.matches(selector):
                    found.append(entry)
                if limit and len(found) == limit:
                    remaining = part.remaining + len(part.records) - place - 1
                    return Page(found, self._metadata(revision, after, remaining, bool(selector)))
            if not part.remaining:
                return Page(found, {"resourceVersion": str(revision)})

    @staticmethod
    def _metadata(revision: int, after: str, remaining: int, selected: bool) -> Object:
        metadata: Object = {"resourceVersion": str(revision)}
        if remaining:
            metadata["continue"] = continue_written(revision, after)
            if not selected:
                metadata["remainingItemCount"] = remaining
        return metadata


def prefix_of(kind: Kind, namespace: str) -> str:
    return f"{kind.prefix}{namespace}/" if namespace else kind.prefix


def continue_written(revision: int, key: str) -> str:
    """Where a list goes on: a word that only we read."""
    text = json.dumps({"v": "meta.k8s.io/v1", "rv": revision, "start": key}, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def continue_read(text: str, prefix: str) -> tuple[int, str]:
    """Revision and key. Raises ApiError 400."""
    try:
        value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        revision, key = value["rv"], value["start"]
        if not isinstance(revision, int) or revision <= 0 or not isinstance(key, str) or not key.startswith(prefix):
            raise ValueError(text)
        if not key.isascii() or "\0" in key:
            raise ValueError(text)
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise error_bad_request("continue key is not valid") from None
    return revision, key
