# SPDX-License-Identifier: Apache-2.0
"""A channel to etcd's members, and what its errors mean. The messages and stubs are aetcd's; its client above them has
neither revisions nor previous values, so that they are used as they are.

Source: https://etcd.io/docs/v3.5/learning/api/ and api/v3rpc/rpctypes/error.go there.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Final

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would write to standard error about each lost connection
import grpc
from aetcd import rpc

from supervisor_glue.store.choice import EtcdTls, target_of
from supervisor_glue.store.records import CompactedError, FullError, StoreError, UnavailableError

SECONDS = 10.0
"""Until a call is given up; etcd itself gives up after seven."""
_METADATA: Final = (("hasleader", "true"),)  # a member that is cut off from the others says so, watches included
_OPTIONS: Final = (
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.enable_retries", 0),  # whoever writes decides: a write may have been done
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A member that has gone without a word is left after nine seconds; etcd allows a ping each five.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)


class RefusedError(StoreError):
    """etcd will not do it, now or later; `told` is its sentence."""

    def __init__(self, told: str) -> None:
        super().__init__(f"etcd: {told}")
        self.told = told


class EtcdClient:
    """Calls to etcd, each to the next of its members that answers. For one event loop."""

    def __init__(self, endpoints: Sequence[str], tls: EtcdTls | None = None) -> None:
        """`endpoints`: ADDRESS:PORT each, or one `unix:PATH` or NAME:PORT. Raises OSError, ValueError."""
        target = target_of(endpoints)
        if tls is None:
            self._channel = rpc.insecure_channel(target, options=_OPTIONS)
        else:
            here = (("grpc.default_authority", "localhost"),) if target.startswith("unix:") else ()
            self._channel = rpc.secure_channel(target, credentials_of(tls), options=(*_OPTIONS, *here))
        self.kv, self.lease, self._watch = (make(self._channel) for make in (rpc.KVStub, rpc.LeaseStub, rpc.WatchStub))
        self.ending = asyncio.Event()
        self._calls: set[asyncio.Future[Any]] = set()
        self._watches: set[Any] = set()

    async def call(self, method: Callable[..., Awaitable[Any]], request: Any, *, patient: bool = False) -> Any:
        """etcd's answer. `patient`: it may not be there yet. Raises RefusedError, UnavailableError, FullError."""
        if self.ending.is_set():
            raise StoreError("the store is closed")
        calling: asyncio.Future[Any] = asyncio.ensure_future(
            method(request, timeout=SECONDS, metadata=_METADATA, wait_for_ready=patient)
        )
        self._calls.add(calling)
        try:
            return await calling
        except rpc.AioRpcError as error:
            raise error_of(error) from None
        finally:
            self._calls.discard(calling)

    async def renew(self, lease: int) -> int:
        """How many seconds a lease has from now on: 0 where it is not there. Raises as `call`."""

        async def once(request: Any, **given: Any) -> Any:
            given.pop("wait_for_ready")
            stream = self.lease.LeaseKeepAlive(**given)
            try:
                await stream.write(request)
                return await stream.read()
            finally:
                stream.cancel()

        return int((await self.call(once, rpc.LeaseKeepAliveRequest(ID=lease))).TTL)

    async def watch(self, **asked: Any) -> AsyncGenerator[Any, None]:
        """The answers to one WatchCreateRequest, from the one that says that it is made. Ends where the client does.
        Raises CompactedError, UnavailableError (it must be asked anew), RefusedError."""
        if self.ending.is_set():
            return
        stream = self._watch.Watch(metadata=_METADATA)
        self._watches.add(stream)
        try:
            await stream.write(rpc.WatchRequest(create_request=rpc.WatchCreateRequest(**asked)))
            while (answer := await stream.read()) is not grpc.aio.EOF:
                if answer.compact_revision:
                    raise CompactedError(answer.compact_revision)
                if answer.canceled:
                    raise UnavailableError(f"etcd: the watch was ended: {answer.cancel_reason}")
                yield answer
            raise UnavailableError("etcd: the watch was ended")
        except rpc.AioRpcError as error:
            raise error_of(error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.ending.is_set() or (task is not None and task.cancelling()):
                raise  # it is the task that was cancelled, not its stream
        except asyncio.InvalidStateError:  # it was lost while it was asked
            raise UnavailableError("etcd: the watch was ended") from None
        finally:
            self._watches.discard(stream)
            stream.cancel()

    async def close(self) -> None:
        """What is being asked is waited for; watches end."""
        self.ending.set()
        if self._calls:
            await asyncio.wait(self._calls)
        for stream in tuple(self._watches):
            stream.cancel()
        await self._channel.close()


def credentials_of(tls: EtcdTls) -> Any:
    """As gRPC has them. Raises OSError."""
    held = [None if path is None else path.read_bytes() for path in (tls.authority, tls.key, tls.certificate)]
    return grpc.ssl_channel_credentials(*held)


def error_of(error: Any) -> StoreError:
    """What a call's failure means."""
    code, told = error.code(), error.details() or error.code().name
    if code is rpc.StatusCode.RESOURCE_EXHAUSTED and "space exceeded" in told:
        return FullError(f"etcd has no room: {told}")
    if code in _FINAL:
        return RefusedError(told)
    return UnavailableError(f"etcd cannot be reached, or did not answer: {told}")


_FINAL: Final = frozenset(
    {
        rpc.StatusCode.INVALID_ARGUMENT,
        rpc.StatusCode.NOT_FOUND,
        rpc.StatusCode.OUT_OF_RANGE,
        rpc.StatusCode.PERMISSION_DENIED,
        rpc.StatusCode.UNAUTHENTICATED,
        rpc.StatusCode.UNIMPLEMENTED,
        rpc.StatusCode.FAILED_PRECONDITION,
    }
)
