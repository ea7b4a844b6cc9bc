# SPDX-License-Identifier: Apache-2.0
"""Whether this server can do its work: `/livez`, `/readyz`, `/healthz`, in Kubernetes' words
(https://kubernetes.io/docs/reference/using-api/health-checks/)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from aiohttp import web

from supervisor_glue.api.watch_cache import WatchCache
from supervisor_glue.store import StoreError

STORE_SECONDS: Final = 2.0  # as kube-apiserver waits for etcd
KEPT_SECONDS: Final = 1.0
"""Whoever may not say who he is may ask: the store is asked so often at most."""
_CHECKS: Final[Mapping[str, Sequence[str]]] = {
    "/livez": ("ping", "cache"),
    "/healthz": ("ping", "store", "cache"),
    "/readyz": ("ping", "store", "cache", "shutdown"),
}


class Health:
    """Of one server. `closing`: whether it ends."""

    def __init__(self, cache: WatchCache, closing: Callable[[], bool]) -> None:
        self._cache, self._closing = cache, closing
        self._asked: asyncio.Task[str] | None = None
        self._since = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        """200 and `ok`; 500 and which check failed. `?verbose`: all of them; `?exclude=NAME`: without that one."""
        what = request.path.removeprefix("/")
        left_out = set(request.query.getall("exclude", ()))
        failed = {name: await self._failure(name) for name in _CHECKS[request.path] if name not in left_out}
        is_well = not any(failed.values())
        if is_well and "verbose" not in request.query:
            return web.Response(text="ok")
        lines = [f"[-]{name} failed: {why}" if why else f"[+]{name} ok" for name, why in failed.items()]
        lines += [f"[+]{name} excluded: ok" for name in sorted(left_out.intersection(_CHECKS[request.path]))]
        lines.append(f"{what} check {'passed' if is_well else 'failed'}")
        return web.Response(status=200 if is_well else 500, text="\n".join(lines) + "\n")

    async def _failure(self, name: str) -> str:
        """Why a check fails, in words that anybody may read; empty: it holds."""
        if name == "store":
            return await self._store()
        if name == "cache":
            return "the store has failed" if self._cache.failed is not None else ""
        return "the server ends" if name == "shutdown" and self._closing() else ""

    async def _store(self) -> str:
        if self._asked is None or (self._asked.done() and time.monotonic() - self._since > KEPT_SECONDS):
            self._since, self._asked = time.monotonic(), asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)

    async def _ask(self) -> str:
        try:
            async with asyncio.timeout(STORE_SECONDS):
                await self._cache.store.revision()
        except TimeoutError:
            return f"the store has not answered for {STORE_SECONDS:.0f} s"
        except (StoreError, OSError):
            return "the store cannot be reached"
        return ""
