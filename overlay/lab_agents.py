# SPDX-License-Identifier: Apache-2.0
"""A lab's hosts' agents: their processes, what they are told (desired.json), and what they say of themselves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from dfw.model import GENEVE, NFTABLES, VXLAN, PolicySet
from overlay.ask import AskError, agent_ask
from overlay.hoststate import HostState, StateError, state_read, state_write
from overlay.kernel_tunnels import geneve_lack
from overlay.lab_plan import LabPlan, world_encapsulated
from overlay.lab_record import LabPaths, LabRecord
from overlay.launch import Launch
from overlay.linux import Process, process_lives
from overlay.pod import importing
from overlay.service_router import service_attachments
from overlay.span import resolve_span
from overlay.underlay import TEP_WIRE

AGENT: Final = (sys.executable, "-m", "dfw", "-v", "agent", "run")
READY_SECONDS: Final = 60.0  # for all of a lab's agents together, on a busy machine
ASK_SECONDS: Final = 5.0
_LOG_LINES: Final = 15
_AT_ONCE: Final = 32  # hosts that are told, and waited for, at a time


class AgentError(RuntimeError):
    """An agent did not do as it was told: which, and its last words."""


def agent_launch(paths: LabPaths, host: str, enforcer: str) -> Launch:
    """The launch of a host's agent, inside the host's network namespace."""
    folder = paths.host(host)
    name, _, value = paths.mark.partition("=")
    command = [*AGENT, "--host", host, "--desired", str(folder / "desired.json")]
    command += ["--run", str(folder / "run"), "--netns", str(paths.host_netns(host)), "--underlay", TEP_WIRE]
    command += ["--enforcer", enforcer]
    return Launch(
        key=host,
        netns=str(paths.host_netns(host)),
        hostname=None,
        hidden=[],
        command=command,
        environment={**importing(os.environ), "OPENBLAS_NUM_THREADS": "1", name: value},
        log=str(folder / "run" / "agent.log"),
        cgroups=[],
    )


def agent_status(paths: LabPaths, host: str) -> dict[str, Any] | None:
    """What a host's agent says of itself; None where none answers."""
    try:
        return agent_ask(paths.socket(host), {"do": "status"}, ASK_SECONDS)
    except AskError:
        return None


def agent_tell(paths: LabPaths, host: str) -> dict[str, Any]:
    """Have a host's agent look at what it is told, now. Returns its status; empty where none answers."""
    try:
        return agent_ask(paths.socket(host), {"do": "apply"}, READY_SECONDS)
    except AskError:
        return {}


def desired_states(paths: LabPaths, record: LabRecord, world: PolicySet) -> dict[str, HostState]:
    """What every host needs as of the record's revision. Raises UnsupportedError."""
    attachments = {name: str(paths.room / pod.netns) for name, pod in record.pods.items()}
    attachments |= service_attachments(paths.room, world.inventory)
    return resolve_span(_encapsulated(world), record.revision, attachments, underlay_mtu=record.mtu)


def plan_states(paths: LabPaths, plan: LabPlan, world: PolicySet, revision: int) -> dict[str, HostState]:
    """What every host of a lab will need once it is as planned. Raises UnsupportedError."""
    attachments = {pod.name: str(paths.room / pod.netns) for pod in plan.pods}
    attachments |= service_attachments(paths.room, world.inventory)
    return resolve_span(_encapsulated(world), revision, attachments, underlay_mtu=plan.underlay.mtu)


def _encapsulated(world: PolicySet) -> PolicySet:
    """Kernels that forward speak Geneve with each other and with the core, where this one has it."""
    if all(host.enforcer != NFTABLES for host in world.inventory.hosts.values()):
        return world
    return world_encapsulated(world, VXLAN if geneve_lack() else GENEVE)


def desired_read(paths: LabPaths, host: str) -> HostState | None:
    """What a host is told now; None where it is told nothing that can be read."""
    try:
        return state_read(paths.host(host) / "desired.json")
    except (OSError, StateError):
        return None


def desired_write(paths: LabPaths, states: Mapping[str, HostState]) -> None:
    """Tell these hosts. Raises OSError."""
    for host, state in states.items():
        folder = paths.host(host)
        (folder / "run").mkdir(parents=True, exist_ok=True)
        state_write(folder / "desired.json", state, durable=False)  # a lab does not outlive the machine


def wait_realized(
    paths: LabPaths, agents: Mapping[str, Process], revision: int, told: Callable[[str], None], seconds: float
) -> None:
    """Until every agent says that everything up to the revision is in force, and every card is there.

    Raises AgentError: one ended, refused, or took too long.
    """
    deadline = time.monotonic() + seconds
    waiting = dict(agents)
    while waiting:
        with ThreadPoolExecutor(min(_AT_ONCE, len(waiting))) as pool:  # none of them waits for another's
            statuses = dict(zip(waiting, pool.map(lambda host: agent_tell(paths, host), waiting), strict=True))
        for host, process in list(waiting.items()):
            status = statuses[host]
            problems = status.get("problems") or {}
            if int(status.get("revision_realized") or 0) >= revision and not problems:
                del waiting[host]
                told(host)
            elif not process_lives(process):
                raise AgentError(f"the agent of host {host} ended:\n{agent_log(paths, host)}")
            elif status.get("error") and status.get("revision_wanted") == revision:
                raise AgentError(f"host {host} refused revision {revision}: {status['error']}")
            elif time.monotonic() > deadline:
                said = "\n".join(f"{name}: {text}" for name, text in problems.items()) or agent_log(paths, host)
                raise AgentError(f"host {host} has not realized revision {revision}; its agent says:\n{said}")
        if waiting:
            time.sleep(0.02)


def agent_log(paths: LabPaths, host: str) -> str:
    """The last lines of an agent's log."""
    try:
        text = (paths.host(host) / "run" / "agent.log").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return "\n".join(text.splitlines()[-_LOG_LINES:])
