# SPDX-License-Identifier: Apache-2.0
"""A lab with a Supervisor for a test, and real kubectl on it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from dfw import cli
from overlay.lab_record import LabPaths, LabRecord, lab_paths, record_read
from overlay.lab_view import LabView, lab_view
from supervisor_glue.api.client import Resource
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.lab_supervisor import supervisor_paths
from tests.support.kubectl import Kubectl, kubectl_path
from tests.support.leftovers import list_leftovers

PATIENCE = 90.0
Objects = Iterable[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class SupervisorLab:
    """One that runs."""

    paths: LabPaths
    kubectl: Kubectl

    @property
    def record(self) -> LabRecord:
        found = record_read(self.paths)
        assert found is not None
        return found

    def view(self) -> LabView:
        """What `lab probe` sees."""
        return lab_view(self.paths, self.record)

    def apply(self, objects: Objects) -> None:
        """By kubectl."""
        self.kubectl("apply", "-f", "-", given=_list(objects))

    def delete(self, objects: Objects) -> None:
        """By kubectl; the objects are not there any more when it returns, but for what their finalizers do."""
        self.kubectl("delete", "--wait=false", "-f", "-", given=_list(objects))

    def reaches(self, resource: Resource, wanted: Callable[[list[dict[str, Any]]], object]) -> list[dict[str, Any]]:
        """All objects of a kind, once they are as they should be."""

        async def ask() -> list[dict[str, Any]]:
            async with HttpClient.of_file(self.kubectl.kubeconfig, "test") as client:
                end = time.monotonic() + PATIENCE
                while True:
                    items = (await client.list(resource)).items
                    if wanted(items):
                        return items
                    assert time.monotonic() < end, f"{resource.plural} do not get there: {items}"
                    await asyncio.sleep(0.02)

        return asyncio.run(ask())


def holds(item: Mapping[str, Any], condition: str) -> bool:
    """Whether a condition of an object is true."""
    conditions = (item.get("status") or {}).get("conditions") or ()
    return any(entry["type"] == condition and entry["status"] == "True" for entry in conditions)


def _list(objects: Objects) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})


@contextmanager
def supervisor_lab(version: str = "1.37") -> Iterator[SupervisorLab]:
    """The built-in example's two hosts under a Supervisor; nothing is left of it afterwards."""
    program = kubectl_path(version)
    place = Path(tempfile.mkdtemp(prefix="pal-", dir="/tmp"))
    with mock.patch.dict(os.environ, {"PALISADE_RUN": str(place / "run")}):
        before = list_leftovers(place / "run")
        try:
            assert cli.run(["lab", "up", "--supervisor", "-q"]) == 0
            paths = lab_paths("lab")
            yield SupervisorLab(paths, Kubectl(version, program, supervisor_paths(paths).kubeconfig, place))
        finally:
            cli.run(["lab", "down", "--all", "-q"])
            after = list_leftovers(place / "run")
            shutil.rmtree(place)
    assert after == before
