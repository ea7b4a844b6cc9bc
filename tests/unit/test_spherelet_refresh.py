# SPDX-License-Identifier: Apache-2.0
"""When a pod's volumes are looked at again: when what they show is said to have changed, and nothing is asked for all
the time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from overlay.launcher import Launcher
from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import CONFIG_MAPS, NAMESPACES, PODS, SECRETS
from supervisor_glue.spherelet import sources as sources_module
from supervisor_glue.spherelet.access import VOLUME
from supervisor_glue.spherelet.attachments import Attachments
from supervisor_glue.spherelet.logs import LogKeeper
from supervisor_glue.spherelet.settings import Settings
from supervisor_glue.spherelet.sources import MOST_WATCHED, Sources
from supervisor_glue.spherelet.volumes import LOOK_SECONDS
from supervisor_glue.spherelet.worker import PodWorker
from tests.support.api_twin import ApiTwin
from tests.support.controlling import until_async
from tests.support.patience import PATIENCE


class Held:
    """Sources that have everything, and an account whose pods get its token or not."""

    def __init__(self, token: bool) -> None:
        self.gives = token
        self.followed: list[Any] = []

    def follow(self, user: str, keys: Any, changed: Any) -> None:
        self.followed += keys

    async def automount(self, namespace: str, account: str) -> bool:
        return self.gives

    async def needed(self, kind: str, namespace: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        return {"ca.crt": b"pem", "key": b"value"}

    async def token(self, pod: Any, audience: str, seconds: int) -> str:
        return "token"


NAMED = [{"name": "said", "configMap": {"name": "c"}}]
SHORT = [{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 600}}]}}]


@pytest.mark.parametrize(
    "volumes, token, again",
    [
        ([], True, LOOK_SECONDS),
        ([{"name": "room", "emptyDir": {}}], True, LOOK_SECONDS),
        (NAMED, True, LOOK_SECONDS),
        (NAMED, False, LOOK_SECONDS),
        (SHORT, False, 60.0),
        ([{"name": "room", "emptyDir": {}}], False, None),
        ([], False, None),
    ],
)
def test_when_volumes_are_looked_at_again(
    tmp_path: Path, volumes: list[dict[str, Any]], token: bool, again: float | None
) -> None:
    pod = {
        "metadata": {"name": "a", "namespace": "x", "uid": "u1"},
        "spec": {"containers": [{"name": "main"}], "volumes": volumes},
    }
    settings = Settings("esx-1", tmp_path / "run", tmp_path / "room")
    unused: Any = None
    sources: Any = Held(token)
    logs, launcher = LogKeeper(settings), Launcher("PALISADE_TEST=1")

    async def body() -> tuple[list[float], list[float]]:
        worker = PodWorker(unused, settings, sources, pod, None, unused, Attachments(), logs, launcher)
        worker.runtime.record(pod)
        first, second = list[float](), list[float]()
        assert await worker._volumes(pod, first) and await worker._volumes(pod, second)
        assert (worker.runtime.volumes / VOLUME).is_dir() is token
        assert sources.followed == ([("configMap", "x", "c")] if volumes == NAMED else [])
        return first, second

    first, second = asyncio.run(body())
    assert first == ([] if again is None else [again])
    assert [again is not None and 0 < left <= again for left in second] == ([] if again is None else [True])


def test_a_host_has_so_many_watches_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """100 pods with four volumes each: what is not watched is asked for, and watched when others go."""
    monkeypatch.setattr(sources_module, "ASK_SECONDS", 0.05)

    async def body() -> None:
        server = ApiTwin()
        await server.create(NAMESPACES, object_made(NAMESPACES, "x"))
        keys = [[("configMap" if n % 2 else "secret", "x", f"o-{pod}-{n}") for n in range(4)] for pod in range(100)]
        for kind, _, name in (key for mine in keys for key in mine):
            resource = CONFIG_MAPS if kind == "configMap" else SECRETS
            await server.create(resource, {**object_made(resource, name, "x"), "data": {"k": "YQ=="}}, "x")
        sources, told = Sources(server), list[str]()
        for pod, mine in enumerate(keys):
            sources.follow(f"u{pod}", mine, lambda pod=pod: told.append(f"u{pod}"))  # type: ignore[misc]
        await until_async(lambda: len(told) == 400, "not all of them are there")
        await until_async(lambda: server.watches == MOST_WATCHED, "not as many are watched as may be")
        told.clear()
        for pod in (0, 99):  # of one that is watched, and of one that is not
            for kind, _, name in keys[pod]:
                resource = CONFIG_MAPS if kind == "configMap" else SECRETS
                await server.patch(resource, name, {"data": {"k": "Yg=="}}, "x")
            await until_async(lambda pod=pod: told.count(f"u{pod}") == 4, "a change is not told")  # type: ignore[misc]
            assert await sources.data(*keys[pod][0]) == {"k": b"b"}
        assert set(told) == {"u0", "u99"} and server.watches == MOST_WATCHED
        for pod in range(93):
            sources.leave(f"u{pod}")
        await until_async(lambda: server.watches == 28, "what is left is not watched")
        await sources.close()
        assert not server.watches

    asyncio.run(asyncio.wait_for(body(), PATIENCE))


def test_a_change_reaches_a_pods_files_and_nothing_is_asked_meanwhile(tmp_path: Path) -> None:
    """A ConfigMap that is projected and a Secret that is not there yet, both optional; another Namespace's is none of
    ours."""
    sources: list[dict[str, Any]] = [{"configMap": {"name": "c", "optional": True}}]
    volumes = [
        {"name": "v", "projected": {"sources": sources}},
        {"name": "s", "secret": {"secretName": "s", "optional": True}},
    ]
    spec = {"containers": [{"name": "main"}], "volumes": volumes, "automountServiceAccountToken": False}

    async def body() -> None:
        server = ApiTwin()
        for namespace in ("x", "y"):
            await server.create(NAMESPACES, object_made(NAMESPACES, namespace))
            made = object_made(CONFIG_MAPS, "c", namespace)
            await server.create(CONFIG_MAPS, {**made, "data": {"k": namespace}}, namespace)
        asked: list[tuple[str, Any]] = []
        known = Sources(server)
        unused: Any = None
        settings = Settings("esx-1", tmp_path / "run", tmp_path / "room")
        pod = object_made(PODS, "a", "x", spec=spec)
        pod["metadata"]["uid"] = "u1"
        logs, launcher = LogKeeper(settings), Launcher("PALISADE_TEST=1")
        worker = PodWorker(unused, settings, known, pod, None, unused, Attachments(), logs, launcher)
        worker.runtime.record(pod)
        files = worker.runtime.volumes

        async def look() -> None:
            worker.changed.clear()
            assert await worker._volumes(pod, [])

        async def shows(name: str, text: str) -> None:
            while not (files / name).exists() or (files / name).read_text() != text:
                await worker.changed.wait()
                await look()

        await look()
        await shows("v/k", "x")
        await until_async(lambda: server.watches == 2, "it is not followed")
        await look()
        state = (files / "v" / "..data").readlink()
        server.fail = lambda verb, resource: asked.append((verb, resource))  # type: ignore[func-returns-value]
        await look()
        assert (files / "v" / "..data").readlink() == state and not worker.changed.is_set()
        await server.patch(CONFIG_MAPS, "c", {"data": {"k": "y of y"}}, "y")
        await server.patch(CONFIG_MAPS, "c", {"data": {"k": "changed", "more": "too"}}, "x")
        await shows("v/k", "changed")
        assert (files / "v" / "more").read_text() == "too" and (files / "v" / "..data").readlink() != state
        await server.create(SECRETS, {**object_made(SECRETS, "s", "x"), "data": {"p": "Z2VoZWlt"}}, "x")
        await shows("s/p", "geheim")
        await server.delete(SECRETS, "s", "x")
        while (files / "s" / "p").exists():
            await worker.changed.wait()
            await look()
        assert [verb for verb, _ in asked if verb != "watching"] == ["patch", "patch", "create", "delete"]
        known.leave("u1")
        await until_async(lambda: not server.watches, "it is still followed")
        await known.close()

    asyncio.run(asyncio.wait_for(body(), PATIENCE))
