# SPDX-License-Identifier: Apache-2.0
"""What all controllers stand on: views that follow a server, queues, one leader, an end that leaves nothing running."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from random import Random
from typing import Any, ClassVar

from supervisor_glue.api.client import Client
from supervisor_glue.api.status import ApiError, error_gone, error_internal
from supervisor_glue.controllers.controller import Controller, Triggers
from supervisor_glue.controllers.informer import Informer, Views
from supervisor_glue.controllers.leader import Leader, LeaderOptions
from supervisor_glue.controllers.objects import name_of, object_made
from supervisor_glue.controllers.queue import WorkQueue
from supervisor_glue.controllers.resources import GATEWAYS, LEASES, NAMESPACES, SEGMENTS
from tests.support.api_twin import ApiTwin
from tests.support.controlling import running, until_async
from tests.support.patience import PATIENCE


def run(work: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


async def no_sleep(seconds: float) -> None:
    await asyncio.sleep(0)


def test_a_view_is_what_the_server_has_whatever_happens_between_them() -> None:
    """Watches that break, revisions that are forgotten, a server that answers 500: the view and what handlers saw are
    the server's objects in the end."""

    async def body() -> None:
        random = Random(11)
        server = ApiTwin()
        broken: list[Exception] = []
        server.fail = lambda verb, resource: broken.pop() if broken and verb in ("list", "watch", "watching") else None
        informer = Informer(server, GATEWAYS, sleep=no_sleep)
        told: dict[str, Any] = {}

        def changed(old: Any, new: Any) -> None:
            name = name_of(new or old)
            assert told.get(name) == old  # no change is left out, none comes twice
            told[name] = new

        informer.handle(changed)
        task = asyncio.create_task(informer.run())
        for step in range(400):
            name = f"g{random.randrange(8)}"
            there = server.objects.get((GATEWAYS, "", name))
            if there is None:
                await server.create(GATEWAYS, object_made(GATEWAYS, name, spec={"tier": 1}))
            elif random.random() < 0.5:
                await server.delete(GATEWAYS, name)
            else:
                await server.patch(GATEWAYS, name, {"spec": {"step": step}})
            if random.random() < 0.1:
                broken.append(random.choice([error_internal("no"), ConnectionError("cut"), error_gone("old")]))
                if isinstance(broken[-1], ApiError) and broken[-1].code == 410:
                    server.forgotten = server.revision
                await server.wake()
            if random.random() < 0.3:
                await asyncio.sleep(0)
        await until_async(lambda: not broken and informer.revision == str(server.revision), "the view is behind")
        here = {name: item for (_, _, name), item in server.objects.items()}
        assert dict(informer.items) == here
        assert {name: item for name, item in told.items() if item is not None} == here
        task.cancel()

    run(body)


def test_a_queue_has_each_key_once_and_nobody_works_on_one_key_twice_at_once() -> None:
    async def body() -> None:
        queue = WorkQueue()
        for key in "aab":
            queue.add(key)
        assert len(queue) == 2 and await queue.get() == "a"
        queue.add("a")  # changed while it is looked at
        assert await queue.get() == "b"
        queue.done("b")
        getting = asyncio.ensure_future(queue.get())
        await asyncio.sleep(0)
        assert not getting.done()
        queue.done("a")
        assert await getting == "a"
        queue.done("a")
        assert queue.is_idle

    run(body)


def test_what_fails_comes_again_later_and_later() -> None:
    async def body() -> None:
        queue = WorkQueue(first_retry=0.001, longest_retry=0.004)
        assert [queue.add_failed("a") for _ in range(4)] == [0.001, 0.002, 0.004, 0.004]
        assert await queue.get() == "a"
        queue.done("a")
        queue.forget("a")
        assert queue.add_failed("a") == 0.001
        queue.add_after("a", 1000.0)  # sooner was asked for
        assert await queue.get() == "a"
        queue.done("a")
        assert queue.is_idle

    run(body)


class Copies(Controller):
    """A segment for each gateway; every other attempt fails."""

    name: ClassVar[str] = "copies"

    def __init__(self, client: Client, views: Views) -> None:
        super().__init__(client, views)
        self.queue = WorkQueue(0.0001, 0.001)
        self.attempts = 0

    def triggers(self) -> Triggers:
        return {GATEWAYS: lambda item: [name_of(item)], SEGMENTS: lambda item: [name_of(item)]}

    async def reconcile(self, key: str) -> float | None:
        self.attempts += 1
        if self.attempts % 2:
            raise (ConnectionError("cut") if self.attempts % 4 == 1 else ValueError("nobody thought of this"))
        gateway, segment = self.views[GATEWAYS].get(key), self.views[SEGMENTS].get(key)
        if gateway is not None and segment is None:
            await self.created(SEGMENTS, object_made(SEGMENTS, key))
        elif gateway is None and segment is not None:
            await self.deleted(SEGMENTS, segment)
        return None


def test_controllers_get_there_although_things_fail_and_end_cleanly() -> None:
    async def body() -> None:
        before = asyncio.all_tasks()
        server = ApiTwin()
        random = Random(5)
        async with running(server, lambda client, views: [Copies(client, views)]) as settled:
            for _ in range(150):
                name = f"g{random.randrange(10)}"
                if (GATEWAYS, "", name) in server.objects:
                    await server.delete(GATEWAYS, name)
                else:
                    await server.create(GATEWAYS, object_made(GATEWAYS, name))
                if random.random() < 0.2:
                    await asyncio.sleep(0.001)
            await settled()
            of = {kind: {name for (r, _, name) in server.objects if r == kind} for kind in (GATEWAYS, SEGMENTS)}
            assert of[GATEWAYS] == of[SEGMENTS] and of[GATEWAYS]
        assert asyncio.all_tasks() == before

    run(body)


def test_one_leads_and_another_takes_over_when_it_goes_or_falls_silent() -> None:
    async def body() -> None:
        server = ApiTwin()
        await server.create(NAMESPACES, object_made(NAMESPACES, "kube-system"))
        leading: list[str] = []
        most, seconds = 0, 0.0

        def is_at_least(revision: int) -> bool:
            return server.revision >= revision

        def candidate(name: str, client: Client) -> asyncio.Task[None]:
            async def work() -> None:
                nonlocal most
                leading.append(name)
                most = max(most, len(leading))
                try:
                    await asyncio.Event().wait()
                finally:
                    leading.remove(name)

            options = LeaderOptions(name, lease=600.0, renew=400.0, retry=0.002)
            return asyncio.create_task(Leader(client, options, lambda: seconds).lead(work))

        cut = Cut(server)
        tasks = {"a": candidate("a", cut)}
        await until_async(lambda: leading == ["a"], "nobody leads")
        tasks["b"] = candidate("b", server)
        for _ in range(20):
            seconds += 100.0  # b has seen a's lease for as long as it lasts, but a renews it
            renewals = [server.revision + number for number in (1, 2)]
            for renewed in renewals:
                await until_async(partial(is_at_least, renewed), "a does not renew")
            assert leading == ["a"]
        cut.is_cut = True  # a can't renew: it stops by itself, and b begins after a's lease
        seconds += 500.0
        await until_async(lambda: not leading, "a does not stop")

        def has_taken_over() -> bool:
            nonlocal seconds
            seconds += 10.0
            return leading == ["b"]

        await until_async(has_taken_over, "b does not take over")
        cut.is_cut = False
        tasks["b"].cancel()  # as TERM does: gives the lease up, a needs not wait for it
        await asyncio.gather(tasks["b"], return_exceptions=True)
        await until_async(lambda: leading == ["a"], "a does not take over")
        assert most == 1
        lease = server.objects[LEASES, "kube-system", "palisade-controllers"]
        assert lease["spec"]["holderIdentity"] == "a" and lease["spec"]["leaseTransitions"] >= 2
        tasks["a"].cancel()
        await asyncio.gather(tasks["a"], return_exceptions=True)
        assert server.objects[LEASES, "kube-system", "palisade-controllers"]["spec"]["holderIdentity"] == ""

    run(body)


def test_who_stood_still_leads_on_where_nobody_else_does() -> None:
    """A large compile takes longer than a lease is renewed for: what was begun is not thrown away for it."""

    async def body() -> None:
        server = ApiTwin()
        await server.create(NAMESPACES, object_made(NAMESPACES, "kube-system"))
        seconds, begun, ended = 0.0, 0, asyncio.Event()

        async def work() -> None:
            nonlocal begun
            begun += 1
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        options = LeaderOptions("a", lease=600.0, renew=400.0, retry=0.002)
        leading = asyncio.create_task(Leader(server, options, lambda: seconds).lead(work))
        await until_async(lambda: begun == 1, "it does not lead")
        for _ in range(5):
            seconds += 10_000.0
            renewed = server.revision + 2
            await until_async(lambda renewed=renewed: server.revision >= renewed, "it does not renew")
            assert begun == 1
        lease = server.objects[LEASES, "kube-system", "palisade-controllers"]
        seconds += 10_000.0
        await server.update(LEASES, {**lease, "spec": {**lease["spec"], "holderIdentity": "b"}})
        await until_async(ended.is_set, "it works on although another leads")
        leading.cancel()
        await asyncio.gather(leading, return_exceptions=True)

    run(body)


class Cut:
    """A client whose connection can be cut."""

    def __init__(self, server: ApiTwin) -> None:
        self.is_cut, self._server = False, server

    def __getattr__(self, verb: str) -> Any:
        if self.is_cut:
            raise ConnectionError("cut")
        return getattr(self._server, verb)
