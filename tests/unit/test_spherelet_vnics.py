# SPDX-License-Identifier: Apache-2.0
"""When a pod's vNIC is there: its addresses may be seen before its routes, so the packet agent's word counts."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from overlay.hoststate import HostState, VnicState
from overlay.launcher import Launcher
from supervisor_glue.auth.kubeconfig import Kubeconfig
from supervisor_glue.auth.pki import authority_open
from supervisor_glue.controllers.resources import HOST_STATUSES
from supervisor_glue.spherelet import pods as pods_module
from supervisor_glue.spherelet import run as run_module
from supervisor_glue.spherelet.attachments import Attachments
from supervisor_glue.spherelet.logs import LogKeeper
from supervisor_glue.spherelet.realize import Realizer, Report
from supervisor_glue.spherelet.records import record_write
from supervisor_glue.spherelet.settings import Settings
from supervisor_glue.spherelet.worker import PodWorker
from tests.support.api_twin import ApiTwin
from tests.support.patience import PATIENCE

POD: dict[str, Any] = {
    "metadata": {"name": "a", "namespace": "x", "uid": "u1"},
    "spec": {"containers": [{"name": "main"}]},
    "status": {"podIP": "10.0.0.2"},
}


def run(work: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(asyncio.wait_for(work(), PATIENCE))


def worker_make(folder: Path, attachments: Attachments) -> PodWorker:
    settings = Settings("esx-1", folder / "run", folder / "room", agent=folder / "agent")
    unused: Any = None
    logs, launcher = LogKeeper(settings), Launcher("PALISADE_TEST=1")
    return PodWorker(unused, settings, unused, POD, unused, unused, attachments, logs, launcher)


def test_a_pod_waits_for_the_agents_word(tmp_path: Path) -> None:
    async def body() -> None:
        attachments = Attachments()
        worker = worker_make(tmp_path, attachments)
        worker.runtime.record(POD)
        netns, pauses = str(worker.runtime.netns), list[float]()
        attachments.put(worker.port, netns, worker.changed.set)
        assert not await worker._networked(POD, pauses) and pauses  # looks again, should the agent never speak
        attachments.done([(worker.port, "/another"), ("x/other", netns)])
        assert not worker.changed.is_set() and not await worker._networked(POD, [])
        attachments.done([(worker.port, netns)])
        assert worker.changed.is_set() and await worker._networked(POD, [])

    run(body)


def test_another_place_needs_another_word() -> None:
    attachments = Attachments()
    attachments.put("x/a", "/first")
    attachments.done([("x/a", "/first")])
    assert attachments.is_done("x/a", "/first")
    attachments.put("x/a", "/second")
    assert not attachments.is_done("x/a", "/second")
    attachments.done([("x/a", "/second")])
    attachments.remove("x/a")
    attachments.put("x/a", "/second")
    assert not attachments.is_done("x/a", "/second")


@pytest.mark.parametrize("error, realized", [("", 7), ("", 6), ("it does not fit", 7)])
def test_what_the_agent_says_is_taken_by_vnic(tmp_path: Path, error: str, realized: int) -> None:
    async def answered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        said = {"revision_realized": realized, "error": error, "problems": {"x/bad": "no such device"}}
        writer.write(json.dumps(said).encode() + b"\n")
        writer.close()

    async def body() -> None:
        attachments = Attachments()
        names = {"x/good": "/good", "x/bad": "/bad", "x/far": None}
        for name, netns in names.items():
            attachments.put(name, netns or "/far")
        vnics = tuple(
            VnicState(name, "02:00:00:00:00:01", (), 0, 0, (0,) * 11, netns=netns) for name, netns in names.items()
        )
        unused: Any = None
        path = tmp_path / "s"
        realizer = Realizer(unused, "esx-1", tmp_path / "desired.json", path, attachments)
        async with await asyncio.start_unix_server(answered, str(path)):
            await realizer._ask(HostState("esx-1", 7, "172.16.0.1", vnics=vnics))
        done = [name for name, netns in names.items() if attachments.is_done(name, netns or "/far")]
        assert done == (["x/good"] if not error and realized == 7 else [])

    run(body)


def test_what_is_solved_is_reported_no_more(tmp_path: Path) -> None:
    """A patch of {} takes nothing away: the problem of a pod that had gone stood there for the next of its name."""

    async def body() -> None:
        server = ApiTwin()
        for problems in ({"x/a": "no device", "x/b": "no device"}, {"x/b": "still none"}, {}):
            # Another one each time: what was said last may be an earlier Spherelet's.
            client: Any = server
            realizer = Realizer(client, "esx-1", tmp_path / "desired.json", tmp_path / "s", Attachments())
            realizer.report = Report(7, "", problems)
            await realizer._write()
            assert server.objects[HOST_STATUSES, "", "esx-1"]["status"]["problems"] == problems

    run(body)


def test_a_spherelet_that_begins_again_knows_where_vnics_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the API has told it of a pod: the agent would be told no place, and take the interface away."""
    monkeypatch.setattr(pods_module, "namespace_exists", Path.exists)
    monkeypatch.setattr(run_module, "apply_room", lambda room, name: None)
    settings = Settings("esx-1", tmp_path / "run", tmp_path / "room", agent=tmp_path / "a", desired=tmp_path / "d")
    settings.room.mkdir()
    for number, (name, uid) in enumerate((("a", "old"), ("a", "young"), ("b", "never"))):
        settings.folder(uid).mkdir(parents=True)
        known = {"namespace": "x", "name": name, "uid": uid, "started": 100.0 + number}
        record_write(settings.folder(uid) / "pod.json", known)
        if name == "a":
            settings.namespace(uid).touch()
    found: list[dict[str, str]] = []
    ended = asyncio.Event()

    class Ready:
        """Tells the agent at once."""

        def __init__(self, _client: Any, _host: str, _desired: Path, _socket: Path, attachments: Attachments) -> None:
            self.attachments = attachments

        async def run(self) -> None:
            found.append(dict(self.attachments.paths))
            ended.set()
            await asyncio.sleep(PATIENCE)

    monkeypatch.setattr(run_module, "Realizer", Ready)
    authority = authority_open(tmp_path / "pki", datetime.now(UTC))
    config = Kubeconfig("https://127.0.0.1:1", authority.pem, "system:node:esx-1")
    run(lambda: run_module._serve(settings, config, tmp_path / "kubeconfig", ended))
    assert found == [{"x/a": str(settings.namespace("young"))}]
