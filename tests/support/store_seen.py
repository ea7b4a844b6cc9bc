# SPDX-License-Identifier: Apache-2.0
"""A store's watch, read to a revision."""

from __future__ import annotations

from contextlib import aclosing

from supervisor_glue.store import Event, Store


async def seen(store: Store, prefix: str, after: int, until: int) -> list[Event]:
    """All that a watch sees up to a revision; it is never ahead of itself."""
    found: list[Event] = []
    async with aclosing(store.watch(prefix, after, progress=True)) as batches:  # type: ignore[type-var]
        at = after
        while at < until:
            batch = await anext(batches)
            assert batch.revision > at and all(at < event.revision <= batch.revision for event in batch.events)
            found += batch.events
            at = batch.revision
    return found
