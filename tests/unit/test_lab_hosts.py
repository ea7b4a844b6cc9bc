# SPDX-License-Identifier: Apache-2.0
"""A lab with a Supervisor whose hosts change: where pods are placed, and what `lab probe` can try."""

from __future__ import annotations

import asyncio
from pathlib import Path

from dfw.load import load
from dfw.matrix import ports_parse
from overlay.lab_probe import not_here, probe_lab
from overlay.lab_view import LabView
from overlay.progress import Steps
from supervisor_glue.controllers.resources import NODES
from supervisor_glue.lab_supervisor import place_on
from tests.support.api_twin import ApiTwin
from tests.support.lab_command import SMALL


def test_no_pod_is_placed_on_a_host_that_is_gone_until_it_is_back() -> None:
    async def closed(twin: ApiTwin) -> set[str]:
        nodes = (await twin.list(NODES)).items
        return {item["metadata"]["name"] for item in nodes if item.get("spec", {}).get("unschedulable")}

    async def ask() -> None:
        twin = ApiTwin()
        for name in ("a", "b", "c", "closed-by-somebody"):
            await twin.create(NODES, {"metadata": {"name": name}, "spec": {"unschedulable": name.startswith("closed")}})
        await place_on(twin, set(), {"a", "b"})
        assert await closed(twin) == {"closed-by-somebody"}
        await place_on(twin, {"a", "b", "closed-by-somebody"}, {"b", "c", "closed-by-somebody"})
        assert await closed(twin) == {"a", "closed-by-somebody"}
        await place_on(twin, {"b", "c", "closed-by-somebody"}, {"a", "b", "closed-by-somebody"})
        assert await closed(twin) == {"c", "closed-by-somebody"}

    asyncio.run(ask())


def test_what_runs_on_no_host_of_the_lab_is_not_tried(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(SMALL)
    view = LabView(load([str(tmp_path / "lab.yaml")]).world, {}, {})
    assert not_here(view) == ["one", "two"]
    assert probe_lab(view, ports_parse("tcp/80"), family="any", timeout=1.0, steps=Steps(True)) == []
