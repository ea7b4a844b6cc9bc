# SPDX-License-Identifier: Apache-2.0
"""A watch as it goes over the wire: one JSON event a line, or one a WebSocket message."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.media import Form, encode
from supervisor_glue.api.selectors import Selector
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.api.tables import partial, table_document
from supervisor_glue.api.watch_cache import WatchCache, WatchEvent

INITIAL_END: Final = "k8s.io/initial-events-end"
PROGRESS: Final = 30.0  # seconds between bookmarks


def watch_lines(
    cache: WatchCache,
    kind: Kind,
    namespace: str,
    selector: Selector,
    after: int | None,
    form: Form,
    clock: Callable[[], float],
    *,
    include: str = "",
    bookmarks: bool = False,
    initial: bool = False,
    seconds: float = 0.0,
) -> AsyncGenerator[bytes, None]:
    """Events as lines of JSON, for at most `seconds`. An error in the middle is an event of type ERROR. Raises
    ApiError."""
    events = cache.watch(kind, namespace, selector, after, initial=initial, progress=PROGRESS, seconds=seconds)
    return _lines(events, _Writer(kind, form, clock, include), bookmarks)


async def _lines(
    events: AsyncGenerator[WatchEvent, None], writer: _Writer, bookmarks: bool
) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        try:
            async for event in events:
                line = writer.line(event, bookmarks)
                if line:
                    yield line
        except ApiError as error:
            yield encode({"type": "ERROR", "object": error.status()}) + b"\n"


class _Writer:
    def __init__(self, kind: Kind, form: Form, clock: Callable[[], float], include: str) -> None:
        self.kind, self.form, self.clock, self.include = kind, form, clock, include
        self.headers = True

    def line(self, event: WatchEvent, bookmarks: bool) -> bytes:
        if event.entry is None:
            if not bookmarks:
                return b""
            return encode({"type": "BOOKMARK", "object": self._bookmark(event)}) + b"\n"
        if not self.form.shape:
            return b'{"type":"' + event.type.encode() + b'","object":' + event.entry.body + b"}\n"
        item = event.entry.item
        if self.form.shape == "Table":
            shown = table_document(
                self.kind,
                [item],
                {"resourceVersion": str(event.revision)},
                self.clock(),
                include=self.include,
                headers=self.headers,
            )
            self.headers = False
        else:
            shown = partial(item)
        return encode({"type": event.type, "object": shown}) + b"\n"

    def _bookmark(self, event: WatchEvent) -> Object:
        metadata: Object = {"resourceVersion": str(event.revision), "creationTimestamp": None}
        if event.type == "INITIAL":
            metadata["annotations"] = {INITIAL_END: "true"}
        if self.form.shape == "Table":
            return {
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "columnDefinitions": [],
                "rows": [],
            }
        if self.form.shape:
            return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
        return {"kind": self.kind.kind, "apiVersion": self.kind.group_version, "metadata": metadata}
