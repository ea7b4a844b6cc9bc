# SPDX-License-Identifier: Apache-2.0
"""What a store does. tests/unit/test_store.py says it in tests, the same ones for every store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from supervisor_glue.store.records import Batch, Condition, Operation, Outcome, Range, Record


class Store(Protocol):
    """Bytes by key, with one revision for all, for the tasks of one event loop. All methods raise StoreError where the
    store itself fails; what was acknowledged before is not lost."""

    async def revision(self) -> int:
        """Where the store is."""
        ...

    async def get(self, key: str, *, revision: int = 0) -> Record | None:
        """What is at a key, as of `revision` (0: now). Raises CompactedError, FutureError."""
        ...

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> Range:
        """Records whose keys begin with the prefix and come after `after`, at most `limit` (0: all), as of `revision`
        (0: now). Raises CompactedError, FutureError."""
        ...

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> Outcome:
        """Do all the operations if all the conditions hold, at one revision; on disk when it returns. Operations that
        change nothing raise no revision. Raises LeaseError, ValueError."""
        ...

    def watch(self, prefix: str, after: int, *, progress: bool = False) -> AsyncIterator[Batch]:
        """The changes of keys with the prefix at revisions greater than `after`, in order, none left out, none twice,
        for as long as it is read. `progress`: also, without events, that the store has gone on. Raises CompactedError,
        also later, where it has fallen behind what was compacted."""
        ...

    async def compact(self, revision: int) -> None:
        """Forget what was before this revision; what is there at it stays. Raises FutureError."""
        ...

    async def lease(self, seconds: float) -> int:
        """A new lease: keys that are put with it are deleted, in one transaction, so long after it was last renewed."""
        ...

    async def lease_renew(self, lease: int) -> None:
        """Its time begins anew. Raises LeaseError."""
        ...

    async def lease_end(self, lease: int) -> None:
        """It ends now. Raises LeaseError."""
        ...

    async def close(self) -> None:
        """Waits for what is being written; watches end."""
        ...
