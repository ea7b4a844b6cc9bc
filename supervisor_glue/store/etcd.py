# SPDX-License-Identifier: Apache-2.0
"""The store in etcd, where there are several API servers. etcd is the Supervisor's own: all its keys are.

A watch outlives its connection: it knows the revision that it has seen, and asks anew from there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, suppress
from typing import Any, Final, NoReturn

from aetcd import rpc

from dfw.logs import get_logger
from supervisor_glue.store.choice import EtcdTls
from supervisor_glue.store.etcd_client import EtcdClient, RefusedError
from supervisor_glue.store.records import (
    Batch,
    CompactedError,
    Condition,
    Event,
    FutureError,
    LeaseError,
    Operation,
    Outcome,
    Put,
    Range,
    Record,
    StoreError,
    UnavailableError,
    key_check,
    prefix_end,
    transaction_check,
)

_PAGE: Final = 256  # records that are asked for at a time
_PAUSE_SHORTEST, _PAUSE_LONGEST = 0.05, 1.0  # before a lost watch is asked for anew
_ALL: Final = b"\0"  # as a range's begin and end: every key


class EtcdStore:
    """See protocol.py. What cannot be reached raises UnavailableError: whether a write was done is then not known."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client

    @classmethod
    async def open(cls, endpoints: Sequence[str], tls: EtcdTls | None = None) -> EtcdStore:
        """The store that these members keep. Raises StoreError, also where none answers; OSError, ValueError."""
        store = cls(EtcdClient(endpoints, tls))
        try:
            await store._header(patient=True)
        except BaseException:
            await store.close()
            raise
        return store

    async def close(self) -> None:
        """See protocol.py."""
        await self._client.close()

    async def revision(self) -> int:
        """See protocol.py."""
        return int((await self._header()).revision)

    async def _header(self, *, patient: bool = False) -> Any:
        """As a majority of the members knows it now."""
        asked = rpc.RangeRequest(key=_ALL, count_only=True)
        return (await self._client.call(self._client.kv.Range, asked, patient=patient)).header

    async def get(self, key: str, *, revision: int = 0) -> Record | None:
        """See protocol.py."""
        key_check(key)
        found = await self._range(rpc.RangeRequest(key=key.encode(), revision=revision))
        return _record(found.kvs[0]) if found.kvs else None

    async def range(self, prefix: str, *, after: str = "", limit: int = 0, revision: int = 0) -> Range:
        """See protocol.py."""
        start, end = max(prefix, f"{after}\0" if after else "").encode(), prefix_end(prefix).encode()
        found: list[Record] = []
        at = revision
        while True:
            step = min(limit - len(found), _PAGE) if limit else _PAGE
            page = await self._range(rpc.RangeRequest(key=start, range_end=end, limit=step, revision=at))
            at = at or page.header.revision
            found += map(_record, page.kvs)
            remaining = page.count - len(page.kvs)
            if not remaining or len(found) == limit:
                return Range(tuple(found), at, remaining)
            start = page.kvs[-1].key + b"\0"

    async def _range(self, asked: Any) -> Any:
        try:
            return await self._client.call(self._client.kv.Range, asked)
        except RefusedError as error:
            await self._refused(error, asked.revision)

    async def _refused(self, error: RefusedError, revision: int) -> NoReturn:
        """Raises what the refusal of a revision means."""
        if "compacted" in error.told:
            raise CompactedError(await self._compacted()) from None
        if "future revision" in error.told:
            raise FutureError(revision, await self.revision()) from None
        raise error

    async def _compacted(self) -> int:
        """What was before this revision is forgotten, where something is: etcd tells a watch that would begin there."""
        try:
            async with asyncio.timeout(10), aclosing(self._client.watch(key=_ALL, start_revision=1)) as answers:
                async for _ in answers:
                    pass
        except CompactedError as error:
            return error.compacted
        except TimeoutError:
            pass
        raise UnavailableError("etcd does not say what it has forgotten")

    async def commit(self, conditions: Sequence[Condition], operations: Sequence[Operation]) -> Outcome:
        """See protocol.py."""
        transaction_check(conditions, operations)
        asked = rpc.TxnRequest(
            compare=[
                rpc.Compare(
                    result=rpc.Compare.EQUAL,
                    target=rpc.Compare.MOD,
                    key=condition.key.encode(),
                    mod_revision=condition.revision,
                )
                for condition in conditions
            ],
            success=[_operation(operation) for operation in operations],
            failure=[
                rpc.RequestOp(request_range=rpc.RangeRequest(key=condition.key.encode())) for condition in conditions
            ],
        )
        try:
            done = await self._client.call(self._client.kv.Txn, asked)
        except RefusedError as error:
            if "lease not found" in error.told:
                raise LeaseError(await self._lease_missing(operations)) from None
            raise
        revision = done.header.revision
        if not done.succeeded:
            there = (answer.response_range.kvs for answer in done.responses)
            return Outcome(False, revision, tuple(_record(kvs[0]) if kvs else None for kvs in there))
        answers = zip(operations, done.responses, strict=True)
        return Outcome(True, revision, tuple(_done(operation, answer, revision) for operation, answer in answers))

    async def _lease_missing(self, operations: Sequence[Operation]) -> int:
        leases = [operation.lease for operation in operations if isinstance(operation, Put) and operation.lease]
        for lease in leases[:-1]:
            asked = rpc.LeaseTimeToLiveRequest(ID=lease)
            if (await self._client.call(self._client.lease.LeaseTimeToLive, asked)).TTL <= 0:
                return lease
        return leases[-1]

    async def watch(self, prefix: str, after: int, *, progress: bool = False) -> AsyncIterator[Batch]:
        """See protocol.py. With `progress` all keys are watched: each revision changes one at least, so that what is
        read says how far the store has gone; etcd's own notes of it overtake events before version 3.4.25
        (https://github.com/etcd-io/etcd/issues/15220)."""
        key_check(prefix)
        at, known, pause = after, 0, 0.0
        start = prefix.encode()
        keys = (_ALL, _ALL) if progress else (start, prefix_end(prefix).encode())
        while not self._client.ending.is_set():
            try:
                if pause:
                    await self._behind_check(known)
                # From one revision earlier: etcd lets a watch begin at the very revision that it has compacted, where
                # deletions are forgotten.
                asked = {"key": keys[0], "range_end": keys[1], "start_revision": max(at, 1), "prev_kv": True}
                async with aclosing(self._client.watch(**asked)) as answers:
                    async for answer in answers:
                        pause = 0.0
                        changes = [change for change in answer.events if change.kv.mod_revision > at]
                        if not changes:
                            continue
                        if any(map(_is_torn, changes)):
                            await self._forgotten_check(at)
                        at = known = changes[-1].kv.mod_revision
                        events = [_event(change) for change in changes if change.kv.key.startswith(start)]
                        events.sort(key=lambda event: (event.revision, event.key))
                        if events or progress:
                            yield Batch(tuple(events), at)
            except UnavailableError as error:
                if not pause:
                    get_logger("store").warning("watch.lost", revision=at, error=str(error))
                pause = min(max(2 * pause, _PAUSE_SHORTEST), _PAUSE_LONGEST)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._client.ending.wait(), pause)

    async def _behind_check(self, known: int) -> None:
        """Raises StoreError where etcd has lost what it had told: it was restored, or is another one."""
        revision = await self.revision()
        if revision < known:
            raise StoreError(f"etcd was at revision {known}, and is at {revision} now: this is not the same data")

    async def _forgotten_check(self, at: int) -> NoReturn:
        """A previous value is not there. Raises CompactedError where that is why, else UnavailableError."""
        compacted = await self._compacted()
        if at < compacted:
            raise CompactedError(compacted)
        raise UnavailableError("etcd did not tell a previous value")

    async def compact(self, revision: int) -> None:
        """See protocol.py."""
        try:
            await self._client.call(self._client.kv.Compact, rpc.CompactionRequest(revision=revision))
        except RefusedError as error:
            if "compacted" not in error.told:  # else it was done before
                await self._refused(error, revision)

    async def lease(self, seconds: float) -> int:
        """See protocol.py. etcd's leases have whole seconds, two or more."""
        if not 0 < seconds < 1e9:
            raise ValueError(f"a lease of {seconds} s")
        asked = rpc.LeaseGrantRequest(TTL=math.ceil(seconds))
        return int((await self._client.call(self._client.lease.LeaseGrant, asked)).ID)

    async def lease_renew(self, lease: int) -> None:
        """See protocol.py."""
        if await self._client.renew(lease) <= 0:
            raise LeaseError(lease)

    async def lease_end(self, lease: int) -> None:
        """See protocol.py."""
        try:
            await self._client.call(self._client.lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))
        except RefusedError as error:
            if "lease not found" in error.told:
                raise LeaseError(lease) from None
            raise


def _operation(operation: Operation) -> Any:
    key = operation.key.encode()
    if isinstance(operation, Put):
        put = rpc.PutRequest(key=key, value=operation.value, lease=operation.lease, prev_kv=True)
        return rpc.RequestOp(request_put=put)
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))


def _done(operation: Operation, answer: Any, revision: int) -> Record | None:
    """What there is after an operation."""
    if not isinstance(operation, Put):
        return None
    created, version = revision, 1
    if answer.response_put.HasField("prev_kv"):
        before = answer.response_put.prev_kv
        created, version = before.create_revision, before.version + 1
    return Record(operation.key, operation.value, created, revision, version, operation.lease)


def _record(kv: Any) -> Record:
    return Record(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


def _is_torn(change: Any) -> bool:
    """Whether a previous value was there and is not told: etcd reads it when it sends, and leaves it out where it was
    compacted meanwhile."""
    return not change.HasField("prev_kv") and (change.type == rpc.Event.DELETE or change.kv.version > 1)


def _event(change: Any) -> Event:
    record = None if change.type == rpc.Event.DELETE else _record(change.kv)
    before = _record(change.prev_kv) if change.HasField("prev_kv") else None
    return Event(change.kv.mod_revision, change.kv.key.decode(), record, before)
