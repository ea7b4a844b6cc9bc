# SPDX-License-Identifier: Apache-2.0
"""`lab up --supervisor`: a lab's hosts with a control plane, which is the one authority for what runs on them.

The lab has the hosts of the files (or of the built-in example) and nothing else; everything else that the files say is
applied through the API, as a user would. Each host joins by a token, as on a real machine.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Sequence, Set
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from dfw.documents import documents_parse
from dfw.model import Host
from overlay import lab_up
from overlay.lab_agents import AgentError
from overlay.lab_inputs import contents_read, inputs_read
from overlay.lab_record import LabPaths, record_read
from overlay.launch import Launch
from overlay.linux import Process, process_lives, processes_marked
from overlay.namespace import apply_namespace, namespace_exists
from overlay.pod import apply_launches, importing
from overlay.progress import Steps
from supervisor_glue.api.client import Client, Resource
from supervisor_glue.api.http_client import HttpClient
from supervisor_glue.api.kinds import NAMESPACES, NODES, OURS, Kind
from supervisor_glue.api.leg import LEG
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.auth.joining import KUBECONFIG, host_join
from supervisor_glue.auth.kubeconfig import KubeconfigError, kubeconfig_read
from supervisor_glue.auth.pki import certificate_hash
from supervisor_glue.auth.tokens import JOIN_NAMESPACE, join_secret, join_token_make
from supervisor_glue.manifests import manifest_objects, namespaces_missing

READY_SECONDS: Final = 60.0
MANAGER: Final = "palisade-lab"
_TOKEN_LIFE: Final = timedelta(minutes=5)
_SECRETS: Final = Resource("", "v1", "secrets")
_HOSTS: Final = Resource(OURS, "v1alpha1", "hosts")


class SupervisorPaths(NamedTuple):
    """Where a lab's control plane keeps its things."""

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def kubeconfig(self) -> Path:
        """An administrator's."""
        return self.folder / "kubeconfig"

    @property
    def log(self) -> Path:
        return self.folder / "supervisor.log"


class Up(NamedTuple):
    """A lab with a Supervisor. `seconds` by part."""

    kubeconfig: Path
    hosts: tuple[str, ...]
    objects: int
    seconds: dict[str, float]


def supervisor_paths(paths: LabPaths) -> SupervisorPaths:
    return SupervisorPaths(paths.folder / "supervisor")


def up(paths: LabPaths, names: Sequence[str], *, mtu: int, steps: Steps) -> Up:
    """Bring it up, or apply what the files now say to one that is there. Raises as overlay.lab_up.up; AgentError where
    the control plane does not come up, ApiError where it refuses what the files say."""
    hosts, objects = _asked(names)
    known = record_read(paths)
    before = set() if known is None else set(known.hosts)
    begun = time.monotonic()
    with tempfile.NamedTemporaryFile("w", prefix="hosts-", suffix=".yaml") as file:
        yaml.safe_dump(hosts_document(hosts), file)
        file.flush()
        lab_up.up(paths, [file.name], mtu=mtu, dry_run=False, steps=steps)
    seconds = {"hosts": time.monotonic() - begun}
    begun = time.monotonic()
    where = supervisor_paths(paths)
    with steps.shown(), steps.step("control plane", len(hosts) + 1) as step:
        if not _answers(where):
            _start_control_plane(paths, where, hosts[0].name)
        step.advance()
        asyncio.run(_join(paths, where, hosts, before))
    seconds["control plane"] = time.monotonic() - begun
    begun = time.monotonic()
    asyncio.run(_apply(where, objects))
    seconds["objects"] = time.monotonic() - begun
    return Up(where.kubeconfig, tuple(host.name for host in hosts), len(objects), seconds)


def _asked(names: Sequence[str]) -> tuple[list[Host], list[tuple[Kind, Object]]]:
    """The hosts, and the objects to apply; with no file the example's hosts alone. Raises PolicyError."""
    hosts = list(inputs_read(names).world.inventory.hosts.values())
    if not names:
        return hosts, []
    documents = [item for file in contents_read(names) for item in documents_parse(file.data, file.file)]
    objects = [(kind, item) for kind, item in manifest_objects(documents) if kind.kind != "Host"]
    for name in namespaces_missing(objects):
        head: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        objects.insert(0, (NAMESPACES, head))
    return hosts, objects


def hosts_document(hosts: Sequence[Host]) -> dict[str, Any]:
    """An inventory of hosts alone."""
    return {
        "apiVersion": f"{OURS}/v1alpha1",
        "kind": "Inventory",
        "hosts": [{"name": host.name, **host_spec(host)} for host in hosts],
    }


def host_spec(host: Host) -> dict[str, Any]:
    return {
        "tep": str(host.tep),
        "tags": [{"scope": tag.scope, "tag": tag.tag} for tag in host.tags],
        "bfd_interval": host.bfd_interval,
        "bfd_multiple": host.bfd_multiple,
        "enforcer": host.enforcer,
        "encapsulation": host.encapsulation,
    }


def _launch(paths: LabPaths, key: str, command: Sequence[str], log: Path) -> Launch:
    """A process of the lab where the user is: `lab down` ends it by its mark."""
    name, _, value = paths.mark.partition("=")
    return Launch(
        key=key,
        netns="/proc/self/ns/net",
        hostname=None,
        hidden=[],
        command=[sys.executable, "-m", "dfw", "-v", *command],
        environment={**importing(os.environ), "OPENBLAS_NUM_THREADS": "1", name: value},
        log=str(log),
        cgroups=[],
    )


def _start(paths: LabPaths, launch: Launch) -> Process:
    (started,) = apply_launches([launch], paths.mark)
    if started.process is None:
        raise AgentError(f"{launch['key']} does not start: {started.error}")
    return started.process


def leg_netns(paths: LabPaths) -> Path:
    """The control plane's own namespace, in which pods reach the API."""
    return paths.room / "control-plane"


def _start_control_plane(paths: LabPaths, where: SupervisorPaths, host: str) -> None:
    """`host`: at which it has its leg."""
    where.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    listen = _listened(where.kubeconfig)
    where.kubeconfig.unlink(missing_ok=True)
    if not namespace_exists(leg_netns(paths)):
        apply_namespace(leg_netns(paths))
    command = ["supervisor", "up", "--listen", listen, "--data", str(where.data)]
    command += ["--leg", f"{host}={leg_netns(paths)}"]
    command += ["--kubeconfig", str(where.kubeconfig)]
    process = _start(paths, _launch(paths, "the control plane", command, where.log))
    end = time.monotonic() + READY_SECONDS
    while not where.kubeconfig.exists():
        if not process_lives(process) or time.monotonic() > end:
            raise AgentError(f"the control plane does not come up:\n{_last(where.log)}")
        time.sleep(0.02)


def _listened(kubeconfig: Path) -> str:
    """Where it served before: hosts that have joined look for it there."""
    try:
        return kubeconfig_read(kubeconfig).server.removeprefix("https://")
    except (OSError, KubeconfigError):
        return "127.0.0.1:0"


def _last(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]) if log.exists() else ""


def _answers(where: SupervisorPaths) -> bool:
    if not where.kubeconfig.exists():
        return False

    async def ask() -> bool:
        try:
            async with HttpClient.of_file(where.kubeconfig, MANAGER) as client:
                await client.list(NAMESPACES.resource)
                return True
        except (ApiError, ConnectionError):
            return False

    return asyncio.run(ask())


async def _join(paths: LabPaths, where: SupervisorPaths, hosts: Sequence[Host], before: Set[str]) -> None:
    """Every host that has no Spherelet yet becomes one of the Supervisor's. `before`: the lab's hosts until now."""
    async with HttpClient.of_file(where.kubeconfig, MANAGER) as client:
        for host in hosts:
            head = {"apiVersion": f"{OURS}/v1alpha1", "kind": "Host", "metadata": {"name": host.name}}
            await client.apply(_HOSTS, {**head, "spec": host_spec(host)}, MANAGER)
        for host in hosts:
            folder = paths.host(host.name) / "spherelet"
            kubeconfig = folder / KUBECONFIG
            if not kubeconfig.exists():
                token = join_token_make()
                await client.create(_SECRETS, join_secret(token, datetime.now(UTC) + _TOKEN_LIFE), JOIN_NAMESPACE)
                pin = certificate_hash(client.config.authority)
                await host_join(client.config.server, token, pin, host.name, folder)
            more = ["--attach", f"{LEG}={leg_netns(paths)}"] if host is hosts[0] else []
            if not _spherelet_lives(paths, host):
                _start_spherelet(paths, host, kubeconfig, folder, more)
        await _wait_nodes(client, [host.name for host in hosts])
        await place_on(client, before, {host.name for host in hosts})


async def place_on(client: Client, before: Set[str], now: Set[str]) -> None:
    """No pod is placed on a host that is gone, until it is there again; those that were are replaced elsewhere, as a
    silent host's are."""
    nodes = {item["metadata"]["name"] for item in (await client.list(NODES.resource)).items}
    for name in sorted(nodes & (before ^ now)) if before else ():
        await client.patch(NODES.resource, name, {"spec": {"unschedulable": True if name in before else None}})


def _spherelet_lives(paths: LabPaths, host: Host) -> bool:
    wanted = b"\0".join((b"spherelet", b"run", b"--host", host.name.encode(), b""))
    for process in processes_marked(paths.mark):
        with suppress(OSError):
            if wanted in Path(f"/proc/{process.pid}/cmdline").read_bytes():
                return True
    return False


def _start_spherelet(paths: LabPaths, host: Host, kubeconfig: Path, folder: Path, more: Sequence[str]) -> None:
    """Its pods see nothing of the lab: the Supervisor's keys lie there."""
    command = ["spherelet", "run", "--host", host.name, "--kubeconfig", str(kubeconfig), "--run", str(folder)]
    command += [
        "--room",
        str(paths.room),
        "--mark",
        paths.mark,
        "--hide",
        str(paths.folder),
        "--address",
        str(host.tep),
    ]
    told = paths.host(host.name)
    command += ["--netns", str(paths.host_netns(host.name)), *more]
    command += ["--agent", str(told / "run"), "--desired", str(told / "desired.json")]
    _start(paths, _launch(paths, f"the Spherelet of {host.name}", command, folder / "spherelet.log"))


async def _wait_nodes(client: HttpClient, hosts: Sequence[str]) -> None:
    end = time.monotonic() + READY_SECONDS
    while True:
        nodes = (await client.list(NODES.resource)).items
        ready = {
            node["metadata"]["name"]
            for node in nodes
            for condition in (node.get("status") or {}).get("conditions") or ()
            if condition["type"] == "Ready" and condition["status"] == "True"
        }
        missing = sorted(set(hosts) - ready)
        if not missing:
            return
        if time.monotonic() > end:
            raise AgentError(f"these hosts are not ready after {READY_SECONDS:.0f} s: {', '.join(missing)}")
        await asyncio.sleep(0.05)


async def _apply(where: SupervisorPaths, objects: Sequence[tuple[Kind, Object]]) -> None:
    async with HttpClient.of_file(where.kubeconfig, MANAGER) as client:
        for kind, item in objects:
            if kind.namespaced:
                item["metadata"].setdefault("namespace", "default")
            await client.apply(kind.resource, item, MANAGER)
