# SPDX-License-Identifier: Apache-2.0
"""What controllers are told by the Supervisor that is enabled, and that they begin anew when it changes."""

from __future__ import annotations

import asyncio
from dataclasses import fields
from typing import Any

import pytest
import yaml

from dfw.documents import document_of
from dfw.load import load_documents
from dfw.model import Host, Tag, address_parse, prefix_parse
from supervisor_glue.api.leg import LEG
from supervisor_glue.controllers.leg import settings_with_leg
from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import PORTS
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.enabled import SUPERVISORS, enabled_work, settings_of
from supervisor_glue.lab_supervisor import hosts_document
from tests.conftest import ROOT
from tests.support.api_twin import ApiTwin
from tests.support.controlling import until_async

BASE = Settings()


def supervisor(**changed: Any) -> dict[str, Any]:
    item: dict[str, Any] = yaml.safe_load((ROOT / "examples" / "supervisor" / "supervisor.yaml").read_text("utf-8"))
    item["spec"] |= changed
    return item


def test_the_spec_says_what_controllers_do() -> None:
    found = settings_of([supervisor(default_isolation="isolated", pod_cidrs=["10.1.0.0/16"])], BASE)
    assert found.pod_cidrs == (prefix_parse("10.1.0.0/16"),)
    assert found.egress_cidrs == (prefix_parse("192.0.2.96/27"),)
    assert (found.namespace_prefix, found.tier0, found.isolated) == (28, "t0-supervisor", True)
    assert found.protected == (prefix_parse("10.0.0.0/24"),) and found.silence == BASE.silence
    assert settings_of([], BASE) == BASE


def test_what_cannot_be_read_is_left_out() -> None:
    bad = supervisor(pod_cidrs="everything")
    bad["metadata"]["name"] = "a"
    good = supervisor(pod_cidrs=["10.2.0.0/16"])
    assert settings_of([good, bad], BASE).pod_cidrs == (prefix_parse("10.2.0.0/16"),)
    assert settings_of([bad], BASE) == BASE


def test_controllers_begin_anew_with_other_settings_and_only_then() -> None:
    server = ApiTwin()
    begun: list[Settings] = []
    ended: list[Settings] = []

    async def work(settings: Settings) -> None:
        begun.append(settings)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(settings)

    async def run() -> None:
        task = asyncio.create_task(enabled_work(server, BASE, work))
        await until_async(lambda: begun == [BASE], "the work does not begin")
        made = await server.create(SUPERVISORS, supervisor())
        await until_async(lambda: len(begun) == 2, "the Supervisor is not seen")
        assert ended == [BASE] and begun[1] == settings_of([supervisor()], BASE)
        await server.update(SUPERVISORS, {**made, "status": {"controlPlane": []}}, "status")
        await server.patch(SUPERVISORS, "supervisor", {"spec": {"default_isolation": "isolated"}})
        await until_async(lambda: len(begun) == 3, "the change is not seen")
        assert begun[2].isolated and len(ended) == 2
        await server.create(PORTS, object_made(PORTS, "other", spec={"ips": ["10.0.0.9"]}))
        await server.create(PORTS, object_made(PORTS, LEG, spec={"host": "h1"}))
        await server.patch(PORTS, LEG, {"spec": {"ips": ["10.0.0.2"]}})
        await until_async(lambda: len(begun) == 4, "where pods reach the API is not seen")
        assert begun[3] == settings_with_leg(begun[2], [server.objects[PORTS, "", LEG]]) and begun[3].api
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(ended) == 4

    asyncio.run(run())


def test_work_that_fails_is_told() -> None:
    async def work(settings: Settings) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        asyncio.run(enabled_work(ApiTwin(), BASE, work))


def test_a_labs_hosts_are_what_their_file_says() -> None:
    """All of it: what is left out here would be as if nobody had said it."""
    tags, tep = (Tag("role", "edge"),), address_parse("172.16.0.1")
    said = Host("h", tep, tags, 500, 5, enforcer="nftables", encapsulation="geneve")
    assert not [item for item in fields(Host) if item.compare and getattr(said, item.name) == item.default]
    read = load_documents([document_of(hosts_document([said]), "hosts")]).world.inventory.hosts
    assert read == {"h": said}
