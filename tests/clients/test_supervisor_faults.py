# SPDX-License-Identifier: Apache-2.0
"""The API, controllers, Spherelets and packet agents are killed at random moments, clocks jump, a host's Spherelet is
cut off, while clients write and watch, pods talk and policies change: nothing that was acknowledged is lost, nothing is
half made, pods do not notice, and what was asked for last is in force."""

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
from supervisor_glue.controllers.namespace_plan import gateway_name, segment_name
from supervisor_glue.controllers.objects import condition_of, name_of, namespace_of, object_made, spec_of, status_of
from supervisor_glue.controllers.resources import (
    ALLOCATIONS,
    CONFIG_MAPS,
    GATEWAYS,
    HOST_STATUSES,
    IN_NAMESPACES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    PORTS,
    SEGMENTS,
    SERVICE_ACCOUNTS,
)
from tests.support.killing import HOSTS, Pieces, supervisor_in_pieces
from tests.support.patience import PATIENCE
from tests.support.pods_talk import NAMESPACE, PLACES, Talk, only, policy, talkers_make
from tests.support.supervisor_lab import supervisor_lab
from tests.support.writing import Watcher, Writer, asked, history_check, persistent

pytestmark = [
    pytest.mark.needs_root,
    pytest.mark.needs_netns,
    pytest.mark.needs_mount,
    pytest.mark.needs_tun,
    pytest.mark.long,
]
KILLS = 200
CUT_SECONDS = 60.0  # a Node is silent after 40
JUMPS = (3600.0, -240.0, 86400.0, 0.0)  # certificates are backdated by 5 minutes
CLIENTS = 2


def test_nothing_that_was_acknowledged_is_lost(tmp_path: Path) -> None:
    with supervisor_lab() as lab:
        talkers_make(lab)
        talk = Talk(lab)
        try:
            with supervisor_in_pieces(lab, tmp_path) as pieces:
                try:
                    asyncio.run(_live(pieces, talk, Random(5)))
                    assert {name: piece.stop() for name, piece in pieces.of.items()} == dict.fromkeys(pieces.of, 0)
                except BaseException as error:
                    error.add_note(pieces.told())
                    raise
        finally:
            talk.close()


async def _live(pieces: Pieces, talk: Talk, random: Random) -> None:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(HttpClient.of_file(pieces.lab.kubectl.kubeconfig, f"test-{number}"))
            for number in range(2 * CLIENTS + 1)
        ]
        client = clients[-1]
        await persistent(lambda: client.create(NAMESPACES, object_made(NAMESPACES, "faults")))
        await pieces.line_begin()
        stack.push_async_callback(pieces.line.close)
        before = await _talkers(client)

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
        writing += [asyncio.create_task(spaces.run(ended)), asyncio.create_task(_policies(client, Random(9), ended))]
        try:
            await _faults(pieces, talk, random, writers, [*writing, *following])
            ended.set()
            await asyncio.gather(*writing)
            last = max(int((await client.list(CONFIG_MAPS, "faults")).revision), 1)
            await _until(lambda: _so(all(_caught_up(watcher, writers) for watcher in watchers)), f"behind {last}")
            for watcher in watchers:
                history_check(watcher, writers)
            await spaces.check()
            await _until(lambda: _are_ready(client), "the hosts are not ready again")
            assert await _talkers(client) == before
            await _other_way(client, talk)
            assert not any(status_of(item).get("problems") for item in (await client.list(HOST_STATUSES)).items)
        finally:
            for task in (*writing, *following):
                task.cancel()
            await asyncio.gather(*writing, *following, return_exceptions=True)


async def _faults(
    pieces: Pieces, talk: Talk, random: Random, writers: list[Writer], running: list[asyncio.Task[None]]
) -> None:
    """Kills at random moments, every now and then while what was killed before is still starting."""
    names = [*pieces.names, "api"]
    killed = number = 0
    while killed < KILLS:
        if number % len(names) == 0:
            random.shuffle(names)
        wanted, echoed = _written(writers) + random.choice((0, 1, 20)), talk.echoed + random.choice((0, 0, 2))
        await _until(lambda wanted=wanted: _so(_written(writers) >= wanted), "nobody writes")  # type: ignore[misc]
        await _until(lambda echoed=echoed: _so(talk.echoed >= echoed or talk.errors), "no packet comes through")  # type: ignore[misc]
        await asyncio.sleep(random.uniform(0, 0.5))
        killed += pieces.kill(names[number % len(names)])
        pieces.jump(random.choice(JUMPS))
        if killed == KILLS // 2 and pieces.line.whole.is_set():
            pieces.line.whole.clear()
            asyncio.get_running_loop().call_later(CUT_SECONDS, pieces.line.whole.set)
        for task in running:
            if task.done():
                task.result()
        assert not talk.errors, talk.errors
        number += 1
    pieces.jump(0)
    await pieces.line.whole.wait()
    wanted, echoed = _written(writers) + 1, talk.echoed + 2
    await _until(lambda: _so(_written(writers) >= wanted), "nobody writes any more")
    await _until(lambda: _so(talk.echoed >= echoed or talk.errors), "no packet comes through any more")
    assert not talk.errors, talk.errors
    assert talk.tried
    assert not any(piece.by_itself for piece in pieces.of.values()), {
        name: piece.by_itself for name, piece in pieces.of.items()
    }
    print(f"{killed} kills, {_written(writers)} writes, {talk.echoed} answers, the slowest after {talk.longest:.1f} s")


async def _policies(client: HttpClient, random: Random, ended: asyncio.Event) -> None:
    """What concerns a host of those who talk changes all the while, and nothing for whom they talk to."""
    made = policy("changes", {"podSelector": {"matchLabels": {"app": "stranger"}}, "policyTypes": ["Ingress"]})
    while not ended.is_set():
        await asked(lambda: client.create(NETWORK_POLICIES, made, NAMESPACE), 409)
        await asyncio.sleep(random.uniform(0.1, 1.5))
        await asked(lambda: client.delete(NETWORK_POLICIES, "changes", NAMESPACE), 404)
        await asyncio.sleep(random.uniform(0.1, 1.5))


async def _other_way(client: HttpClient, talk: Talk) -> None:
    """What is asked for last is in force: the one who was denied comes through, the one who was not does not."""
    talk.end()
    assert not talk.errors, talk.errors
    assert talk.connects("client", PATIENCE)
    spec = only("stranger")["spec"]
    made = await client.patch(NETWORK_POLICIES, "only", {"spec": spec}, NAMESPACE)

    async def in_force() -> bool:
        item = await client.get(NETWORK_POLICIES, "only", NAMESPACE)
        found = condition_of(item, "Realized")
        generation = made["metadata"]["generation"]
        return bool(found and found["status"] == "True" and found.get("observedGeneration") == generation)

    await _until(in_force, "the last policy is not in force")
    assert talk.connects("stranger", PATIENCE) and not talk.connects("client")


def _written(writers: list[Writer]) -> int:
    return sum(len(writer.acknowledged) for writer in writers)


def _caught_up(watcher: Watcher, writers: list[Writer]) -> bool:
    there = {write.key: write.value for _, write in watcher.seen}
    wanted = {
        key: "" if item is None else item["data"]["value"] for writer in writers for key, item in writer.known.items()
    }
    return all(there.get(key, "") == value for key, value in wanted.items())


async def _talkers(client: HttpClient) -> dict[str, tuple[str, int, list[Any]]]:
    """Those who talk: uids, how often they were started again, their processes."""
    pods = (await persistent(lambda: client.list(PODS, NAMESPACE))).items
    assert {name_of(pod) for pod in pods} == PLACES.keys()
    found = {}
    for pod in pods:
        uid = str(pod["metadata"]["uid"])
        processes = sorted(linux.processes_marked(f"PALISADE_CONTAINER={uid}/main/1"))
        assert processes
        found[name_of(pod)] = (uid, int(status_of(pod)["containerStatuses"][0]["restartCount"]), processes)
    return found


def _pod(name: str) -> dict[str, Any]:
    container = {"name": "main", "image": "host", "command": ["sleep", "100000"]}
    return object_made(PODS, name, "faults", spec={"containers": [container], "terminationGracePeriodSeconds": 0})


async def _are_ready(client: HttpClient) -> bool:
    nodes = (await persistent(lambda: client.list(NODES))).items
    ready = [condition_of(node, "Ready") for node in nodes]
    return len(nodes) == len(HOSTS) and all(found is not None and found["status"] == "True" for found in ready)


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
            await asked(lambda name=name: self.client.create(NAMESPACES, object_made(NAMESPACES, name)), 409)
            self.there.append(name)
            if number % 4 == 1:
                made = _pod("p")
                made["metadata"]["namespace"] = name
                await asked(lambda made=made, name=name: self.client.create(PODS, made, name), 409)
            if self.random.random() < 0.7:
                going = self.there.pop(self.random.randrange(len(self.there)))
                await asked(lambda going=going: self.client.delete(NAMESPACES, going), 404, 409)
                self.gone.append(going)
            await asyncio.sleep(self.random.uniform(0.1, 0.8))

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
            found = {str(spec_of(item).get("namespace") or "") for item in await self._list(resource)}
            left |= found - there - {""}  # the control plane's leg has a Port and a block
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
