# SPDX-License-Identifier: Apache-2.0
"""A lab with a Supervisor as `lab probe`, `lab exec`, `lab status` and `lab graph` see it: all from the API's objects.

The policy is put together by the readers of files, not by the controllers' increments: what these make of it is what
`lab probe` holds against it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from dfw.documents import Document, document_of
from dfw.errors import EnvironmentLacksError
from dfw.load import load_documents
from dfw.model import PolicySet
from overlay.lab_agents import desired_read
from overlay.lab_plan import lab_world
from overlay.lab_record import LabPaths, LabRecord
from overlay.lab_view import LabView, PodPlace
from overlay.launcher import Launcher
from supervisor_glue.api.client import Resource
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.leg import LEG
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.controllers.intent import LOOKED_AT
from supervisor_glue.controllers.leg import settings_with_leg
from supervisor_glue.controllers.namespace_plan import is_isolated, needs_address
from supervisor_glue.controllers.objects import annotations_of, name_of, object_key, spec_of, status_of
from supervisor_glue.controllers.postures import posture_policy, system_policies
from supervisor_glue.controllers.resources import KIND_OF, NAMESPACES, PODS, PORTS, api_version
from supervisor_glue.controllers.settings import Settings
from supervisor_glue.controllers.vnics import POD_LABEL
from supervisor_glue.enabled import SUPERVISORS, settings_of
from supervisor_glue.lab_supervisor import MANAGER, supervisor_paths
from supervisor_glue.realized_wait import wait_realized
from supervisor_glue.spherelet.execute import NotRunningError, join_command
from supervisor_glue.spherelet.logs import LogKeeper
from supervisor_glue.spherelet.runtime import PodRuntime
from supervisor_glue.spherelet.settings import Settings as HostSettings

Objects = Mapping[Resource, Sequence[Object]]
_SAID: Final = ("name", "namespace", "labels", "annotations")
"""Of an object's metadata: the rest is the server's own bookkeeping."""


def lab_view(paths: LabPaths, record: LabRecord) -> LabView:
    """Raises EnvironmentLacksError where the control plane does not answer, PolicyError."""
    kubeconfig = supervisor_paths(paths).kubeconfig
    try:
        server, objects = asyncio.run(_read(kubeconfig))
    except (ApiError, OSError) as error:
        raise EnvironmentLacksError(f"the lab's Supervisor does not answer: {error}", "palisade lab up") from None
    wanted = {}
    for host in record.hosts:
        told = desired_read(paths, host)
        wanted[host] = 0 if told is None else told.revision
    placed = [pod for pod in objects[PODS] if spec_of(pod).get("nodeName") in record.hosts]
    pods = {object_key(pod): _place(paths, pod) for pod in placed}
    about = {"server": server, "kubeconfig": str(kubeconfig)}
    return LabView(world_of(objects), pods, wanted, about, partial(_wait, kubeconfig))


def _wait(kubeconfig: Path, what: str | None, seconds: float) -> dict[str, str] | None:
    try:
        return wait_realized(kubeconfig, what, seconds)
    except (ApiError, OSError) as error:
        raise EnvironmentLacksError(f"the lab's Supervisor does not answer: {error}", "palisade lab up") from None


async def _read(kubeconfig: Any) -> tuple[str, Objects]:
    async with HttpClient.of_file(kubeconfig, MANAGER) as client:
        resources = (*LOOKED_AT, SUPERVISORS)
        lists = await asyncio.gather(*(client.list(resource) for resource in resources))
        return client.config.server, {of: found.items for of, found in zip(resources, lists, strict=True)}


def world_of(objects: Objects) -> PolicySet:
    """The policy and inventory that objects say, with postures and the Supervisor's isolation. Raises PolicyError."""
    settings = settings_with_leg(settings_of(objects[SUPERVISORS], Settings()), objects[PORTS])
    world = lab_world(load_documents(list(_documents(objects))).world)
    postures = [posture_policy(name_of(item), settings) for item in objects[NAMESPACES] if is_isolated(item, settings)]
    return replace(world, policies=(*world.policies, *system_policies(settings), *postures))


def _documents(objects: Objects) -> Iterator[Document]:
    for resource in LOOKED_AT:
        for item in _counting(resource, objects[resource]):
            metadata = {key: item["metadata"][key] for key in _SAID if key in item["metadata"]}
            head = {"apiVersion": api_version(resource), "kind": KIND_OF[resource]}
            yield document_of({**item, **head, "metadata": metadata}, f"{KIND_OF[resource]} {object_key(item)}")


def _counting(resource: Resource, items: Iterable[Object]) -> Iterator[Object]:
    """Those that the data path knows: pods with a vNIC, and Ports that are no pod's, nor the control plane's."""
    for item in items:
        if resource == PODS and not (needs_address(item) and status_of(item).get("podIP")):
            continue
        if resource == PORTS and (annotations_of(item).get(POD_LABEL) or name_of(item) == LEG):
            continue
        yield item


def _place(paths: LabPaths, pod: Object) -> PodPlace:
    host = str(spec_of(pod)["nodeName"])
    settings = HostSettings(host, paths.host(host) / "spherelet", paths.room)
    # Which only looks: nothing is started for it.
    runtime = PodRuntime(settings, LogKeeper(settings), Launcher(paths.mark), pod)
    first = str(
        annotations_of(pod).get("kubectl.kubernetes.io/default-container") or spec_of(pod)["containers"][0]["name"]
    )

    def command(words: Sequence[str]) -> list[str]:
        try:
            return ["env", *_importing(), *join_command(runtime, first, runtime.container(first).state_read(), words)]
        except NotRunningError as error:
            raise ValueError(f"pod {object_key(pod)}: {error}") from None

    return PodPlace(host, runtime.netns, runtime.sandbox(), command)


def _importing() -> list[str]:
    """Where the program that enters a container finds itself."""
    from overlay.pod import importing

    return [f"PYTHONPATH={importing({})['PYTHONPATH']}"]
