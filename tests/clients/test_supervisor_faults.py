# SPDX-License-Identifier: Apache-2.0
"""The API, controllers and a host's Spherelet are killed at random moments, clocks jump, the host is cut off, while
clients write and watch: nothing that was acknowledged is lost, nothing is half made, and pods do not notice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest

from overlay import linux
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.status import ApiError
from supervisor_glue.controllers.namespace_plan import gateway_name, segment_name
from supervisor_glue.controllers.objects import condition_of, name_of, namespace_of, object_made, spec_of, status_of
from supervisor_glue.controllers.resources import (
    ALLOCATIONS,
    CONFIG_MAPS,
    GATEWAYS,
    IN_NAMESPACES,
    NAMESPACES,
    NODES,
    PODS,
    PORTS,
    SEGMENTS,
    SERVICE_ACCOUNTS,
)
from tests.support.killing import HOST, Pieces, host_begin, supervisor_in_pieces
from tests.support.patience import PATIENCE
from tests.support.writing import Watcher, Writer, history_check, persistent

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns]
KILLS = 200
CUT_SECONDS = 60.0  # a Node is silent after 40
JUMPS = (3600.0, -240.0, 86400.0, 0.0)  # certificates are backdated by 5 minutes
CLIENTS = 2


@pytest.mark.long
def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    random = Random(5)
    with supervisor_in_pieces(tmp_path) as pieces:
        try:
            asyncio.run(_live(pieces, tmp_path, random))
            assert {name: piece.stop() for name, piece in pieces.of.items()} == dict.fromkeys(pieces.of, 0)
        except BaseException as error:
            error.add_note(pieces.told())
            raise


async def _live(pieces: Pieces, folder: Path, random: Random) -> None:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(HttpClient.of_file(pieces.kubeconfig, f"test-{number}"))
            for number in range(2 * CLIENTS + 1)
        ]
        client = clients[-1]
        await client.create(NAMESPACES, object_made(NAMESPACES, "faults"))
        await host_begin(pieces, client, folder)
        stack.push_async_callback(pieces.line.close)
        stays = await _stays(client)

        watchers = [
            Watcher(each, CONFIG_MAPS, "faults", Random(number)) for number, each in enumerate(clients[:CLIENTS])
        ]
        following = [asyncio.create_task(watcher.run()) for watcher in watchers]
        await _until(lambda: _so(all(watcher.begun for watcher in watchers)), "no list")
        ended = asyncio.Event()
        writers = [
            Writer(each, "faults", Random(number), tuple(f"w{number}-{key}" for key in range(4)))
            for number, each in enumerate(clients[CLIENTS:-1])
        ]
        writing = [asyncio.create_task(writer.run(ended)) for writer in writers]
        spaces = Spaces(client, Random(7))
        writing.append(asyncio.create_task(spaces.run(ended)))
        try:
            await _faults(pieces, random, writers, [*writing, *following])
            ended.set()
            await asyncio.gather(*writing)
            last = max(int((await client.list(CONFIG_MAPS, "faults")).revision), 1)
            await _until(lambda: _so(all(_caught_up(watcher, writers) for watcher in watchers)), f"behind {last}")
            for watcher in watchers:
                history_check(watcher, writers)
            await spaces.check()
            await _until(lambda: _is_ready(client), "the host is not ready again")
            pod = await client.get(PODS, "stays", "faults")
            assert (pod["metadata"]["uid"], _processes(stays[0])) == stays
            assert status_of(pod)["containerStatuses"][0]["restartCount"] == 0
        finally:
            for task in (*writing, *following):
                task.cancel()
            await asyncio.gather(*writing, *following, return_exceptions=True)


async def _faults(pieces: Pieces, random: Random, writers: list[Writer], running: list[asyncio.Task[None]]) -> None:
    """Kills at random moments, every now and then while what was killed before is still starting."""
    names = [*pieces.of, "api"]
    for number in range(KILLS):
        if number % len(names) == 0:
            random.shuffle(names)
        wanted = _written(writers) + random.choice((0, 1, 20))
        await _until(lambda wanted=wanted: _so(_written(writers) >= wanted), "nobody writes")  # type: ignore[misc]
        await asyncio.sleep(random.uniform(0, 0.5))
        pieces.kill(names[number % len(names)])
        pieces.jump(random.choice(JUMPS))
        if number == KILLS // 2:
            pieces.line.whole.clear()
            asyncio.get_running_loop().call_later(CUT_SECONDS, pieces.line.whole.set)
        for task in running:
            if task.done():
                task.result()
    pieces.jump(0)
    await pieces.line.whole.wait()
    wanted = _written(writers) + 1
    await _until(lambda: _so(_written(writers) >= wanted), "nobody writes any more")


def _written(writers: list[Writer]) -> int:
    return sum(len(writer.acknowledged) for writer in writers)


def _caught_up(watcher: Watcher, writers: list[Writer]) -> bool:
    there = {write.key: write.value for _, write in watcher.seen}
    wanted = {
        key: "" if item is None else item["data"]["value"] for writer in writers for key, item in writer.known.items()
    }
    return all(there.get(key, "") == value for key, value in wanted.items())


async def _stays(client: HttpClient) -> tuple[str, list[Any]]:
    """A pod that runs all the while: its uid, and its processes."""
    await client.create(PODS, _pod("stays"), "faults")

    async def runs() -> Any:
        pod = await persistent(lambda: client.get(PODS, "stays", "faults"))
        return status_of(pod).get("phase") == "Running" and pod

    pod = await _until(runs, "the pod does not run")
    uid = str(pod["metadata"]["uid"])
    return uid, _processes(uid)


def _pod(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": "host", "command": ["sleep", "100000"]}
    return object_made(PODS, name, "faults", spec={"containers": [container], "terminationGracePeriodSeconds": 0})


def _processes(uid: str) -> list[Any]:
    found = sorted(linux.processes_marked(f"PALISADE_CONTAINER={uid}/main/1"))
    assert found
    return found


async def _is_ready(client: HttpClient) -> bool:
    ready = condition_of(await persistent(lambda: client.get(NODES, HOST)), "Ready")
    return ready is not None and ready["status"] == "True"


class Spaces:
    """Makes Namespaces, with a pod in some, and deletes some of them."""

    def __init__(self, client: HttpClient, random: Random) -> None:
        self.client, self.random = client, random
        self.there: list[str] = []
        self.gone: list[str] = []

    async def run(self, ended: asyncio.Event) -> None:
        number = 0
        while not ended.is_set():
            name, number = f"space-{number}", number + 1
            await self._asked(lambda name=name: self.client.create(NAMESPACES, object_made(NAMESPACES, name)), 409)
            self.there.append(name)
            if number % 4 == 1:
                made = _pod("p")
                made["metadata"]["namespace"] = name
                await self._asked(lambda made=made, name=name: self.client.create(PODS, made, name), 409)
            if self.random.random() < 0.7:
                going = self.there.pop(self.random.randrange(len(self.there)))
                await self._asked(lambda going=going: self.client.delete(NAMESPACES, going), 404, 409)
                self.gone.append(going)
            await asyncio.sleep(self.random.uniform(0.1, 0.8))

    @staticmethod
    async def _asked(work: Callable[[], Awaitable[Any]], *done: int) -> None:
        """Until it is done: who asks again is told that it is."""
        try:
            await persistent(work)
        except ApiError as error:
            assert error.code in done, error

    async def check(self) -> None:
        """Of each that is there everything is, of each that was deleted nothing."""
        assert self.gone
        await _until(self._is_whole, "a Namespace is half made")
        await _until(self._is_away, "something is left of a Namespace")

    async def _is_whole(self) -> bool:
        names = {
            resource: {(namespace_of(item), name_of(item)) for item in (await self._list(resource))}
            for resource in (GATEWAYS, SEGMENTS, SERVICE_ACCOUNTS, CONFIG_MAPS)
        }
        return all(
            ("", gateway_name(name)) in names[GATEWAYS]
            and ("", segment_name(name, 0)) in names[SEGMENTS]
            and (name, "default") in names[SERVICE_ACCOUNTS]
            and (name, "kube-root-ca.crt") in names[CONFIG_MAPS]
            for name in self.there
        )

    async def _is_away(self) -> bool:
        left: set[str] = {name_of(item) for item in await self._list(NAMESPACES)} & set(self.gone)
        for resource in IN_NAMESPACES:
            left |= {namespace_of(item) for item in await self._list(resource)} & set(self.gone)
        there = {name_of(item) for item in await self._list(NAMESPACES)}
        for resource in (ALLOCATIONS, PORTS):
            left |= {str(spec_of(item).get("namespace")) for item in await self._list(resource)} - there - {"None"}
        for resource, named in ((GATEWAYS, gateway_name), (SEGMENTS, lambda name: segment_name(name, 0))):
            left |= {name_of(item) for item in await self._list(resource)} & {named(name) for name in self.gone}
        return not left

    async def _list(self, resource: Any) -> Any:
        return (await persistent(lambda: self.client.list(resource))).items


async def _so(value: bool) -> bool:
    return value


async def _until(is_so: Callable[[], Awaitable[Any]], what: str) -> Any:
    end = asyncio.get_running_loop().time() + PATIENCE
    while not (found := await is_so()):
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.2)
    return found
