# SPDX-License-Identifier: Apache-2.0
"""How often a pod's volumes are looked at again: what nearly every pod has must not be asked for all the time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from overlay.launcher import Launcher
from supervisor_glue.spherelet.access import ACCESS_SECONDS, VOLUME
from supervisor_glue.spherelet.attachments import Attachments
from supervisor_glue.spherelet.logs import LogKeeper
from supervisor_glue.spherelet.settings import Settings
from supervisor_glue.spherelet.sources import REFRESH_SECONDS
from supervisor_glue.spherelet.worker import PodWorker


class Held:
    """Sources that have everything, and an account whose pods get its token or not."""

    def __init__(self, token: bool) -> None:
        self.gives = token

    async def automount(self, namespace: str, account: str) -> bool:
        return self.gives

    async def needed(self, kind: str, namespace: str, name: str, *, optional: bool = False) -> dict[str, bytes]:
        return {"ca.crt": b"pem", "key": b"value"}

    async def token(self, pod: Any, audience: str, seconds: int) -> str:
        return "token"


@pytest.mark.parametrize(
    "volumes, token, again",
    [
        ([], True, ACCESS_SECONDS),
        ([{"name": "room", "emptyDir": {}}], True, ACCESS_SECONDS),
        ([{"name": "said", "configMap": {"name": "c"}}], True, REFRESH_SECONDS),
        ([{"name": "said", "configMap": {"name": "c"}}], False, REFRESH_SECONDS),
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
        return first, second

    first, second = asyncio.run(body())
    assert first == ([] if again is None else [again])
    assert [again is not None and 0 < left <= again for left in second] == ([] if again is None else [True])
