# SPDX-License-Identifier: Apache-2.0
"""Controllers run against a server until nothing is left to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from supervisor_glue.api.client import Client
from supervisor_glue.controllers.controller import Controller, controllers_run
from supervisor_glue.controllers.informer import Views
from tests.support.api_twin import ApiTwin
from tests.support.patience import PATIENCE

Make = Callable[[Client, Views], Sequence[Controller]]


async def until_async(is_so: Callable[[], Any], what: str) -> Any:
    """What `is_so` returns, once that is true."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not (found := is_so()):
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.002)
    return found


@asynccontextmanager
async def running(server: ApiTwin, make: Make) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Controllers at work; gives what waits until they have nothing to do (but for what they look at again later)."""
    views = Views(server)
    controllers = make(server, views)
    task = asyncio.create_task(controllers_run(views, controllers))

    async def settled() -> None:
        end = asyncio.get_running_loop().time() + PATIENCE
        calm = 0
        while calm < 5:
            assert asyncio.get_running_loop().time() < end, [(c.name, list(c.queue._dirty)) for c in controllers]
            if task.done():
                task.result()
            before = server.revision
            await asyncio.sleep(0.001)
            seen = all(v.synced.is_set() and _is_current(server, v) for v in views.of.values())
            quiet = all(c.queue.is_quiet and not c.queue._failures and not c.aside_tasks for c in controllers)
            calm = calm + 1 if seen and quiet and before == server.revision else 0

    try:
        yield settled
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _is_current(server: ApiTwin, view: Any) -> bool:
    mine = (happened.revision for happened in reversed(server.log) if happened.key[0] == view.resource)
    return int(view.revision or 0) >= next(mine, 0)


def names(server: ApiTwin, *resources: Any) -> list[str]:
    return sorted(name for (resource, _, name) in server.objects if resource in resources)


def one(items: Iterable[Any]) -> Any:
    found = list(items)
    assert len(found) == 1, found
    return found[0]
