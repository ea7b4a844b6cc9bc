# SPDX-License-Identifier: Apache-2.0
"""Bringing a lab up, changing it, taking it down. What is made stands in the record before anything depends on it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from dfw.doctor import CAP_NET_ADMIN, CAP_SYS_ADMIN, read_capability, read_file
from dfw.errors import EnvironmentLacksError
from overlay import linux
from overlay.cgroup import apply_groups, apply_groups_end, groups_named, plan_groups, read_hierarchies
from overlay.hoststate import HostState
from overlay.lab_agents import READY_SECONDS, AgentError, agent_launch, desired_write, wait_realized
from overlay.lab_plan import Changes, LabPlan, PodPlan
from overlay.lab_record import HostRecord, LabPaths, LabRecord, PodRecord, folder_remove, labs_list, record_write
from overlay.linux import Process, process_lives
from overlay.namespace import (
    apply_namespace,
    apply_namespace_end,
    apply_room,
    apply_room_end,
    mounts_end,
    namespace_exists,
    namespace_ids,
)
from overlay.pod import apply_end, apply_launches, plan_pod, pod_hash
from overlay.progress import Steps
from overlay.underlay import UNDERLAY, apply_bridges, apply_bridges_end, apply_interfaces, apply_interfaces_end

POD_PATIENCE: Final = 1.0  # seconds that processes have to end by themselves
_ROUNDS: Final = 20


class PodError(RuntimeError):
    """A pod's command cannot be run: a sentence that says which, and why."""


def read_lacks() -> EnvironmentLacksError | None:
    """What a lab needs that this process has not: the first of it."""
    for bit, name in ((CAP_SYS_ADMIN, "CAP_SYS_ADMIN"), (CAP_NET_ADMIN, "CAP_NET_ADMIN")):
        if read_capability(bit) is None:
            return EnvironmentLacksError(f"no {name}", "run as root, in a container with --privileged")
    if read_file("/dev/net/tun") is None:
        return EnvironmentLacksError("no /dev/net/tun", "modprobe tun, or give the container --device /dev/net/tun")
    return None


def read_ipv6() -> bool:
    """Whether this machine speaks IPv6: the kernel has it, and it is not switched off for all."""
    try:
        return Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


def record_verify(paths: LabPaths, record: LabRecord) -> None:
    """Strike out what the record has and the machine has not: ended processes, namespaces that are gone."""
    record.namespaces = [name for name in record.namespaces if namespace_exists(paths.room / name)]
    there = set(record.namespaces)
    if UNDERLAY not in there:
        record.bridges, record.interfaces = {}, {}
    record.interfaces = {key: item for key, item in record.interfaces.items() if item.namespace in there}
    for pod in record.pods.values():
        if pod.process is not None and not process_lives(pod.process):
            pod.process = None
    for host in record.hosts.values():
        if host.agent is not None and not process_lives(host.agent):
            host.agent = None


def apply_changes(
    paths: LabPaths,
    record: LabRecord,
    plan: LabPlan,
    changes: Changes,
    states: Mapping[str, HostState],
    steps: Steps,
) -> None:
    """Make the lab as planned. `record` has been verified, and follows. `states`: what the hosts are told, as of the
    record's next revision.

    Raises OSError, AgentError, PodError; what was made until then stands in the record.
    """
    _take_away(paths, record, plan, changes, steps)
    _lay_out(paths, record, plan, changes, steps)
    if changes.intent:
        record.revision += 1
        record.intent = ""  # interrupted from here on, the hosts are told again
        record_write(paths, record)
        alone = {host: state for host, state in states.items() if not (paths.host(host) / "spherelet").is_dir()}
        desired_write(paths, alone)  # others are told by their Supervisor, and would lose their vNICs until then
        record.intent = plan.intent
    _start_agents(paths, record, plan, changes.new_hosts, steps)
    _start_pods(paths, record, changes.new_pods, steps)
    for name in (name for name in changes.old_namespaces if name not in plan.namespaces):
        apply_namespace_end(paths.room / name)
        record.namespaces.remove(name)
    record_write(paths, record)


def _take_away(paths: LabPaths, record: LabRecord, plan: LabPlan, changes: Changes, steps: Steps) -> None:
    pods = [record.pods[name] for name in changes.old_pods]
    agents = [record.hosts[name].agent for name in changes.old_hosts]
    with steps.step("stopping", len(pods) + len(agents)):
        ending = [process for process in (*(pod.process for pod in pods), *agents) if process is not None]
        ending += _inhabitants(paths, changes.old_hosts)
        ending += _orphans(paths, record, changes.new_hosts)
        apply_end(ending, POD_PATIENCE)
        apply_groups_end([Path(group) for pod in pods for group in pod.groups])
    for name in changes.old_pods:
        del record.pods[name]
    for name in changes.old_hosts:
        del record.hosts[name]
    if UNDERLAY in record.namespaces:
        apply_interfaces_end(paths.room, changes.old_interfaces)
        apply_bridges_end(paths.room, changes.old_bridges)
    for item in changes.old_interfaces:
        record.interfaces.pop(item.key, None)
    for bridge in changes.old_bridges:
        record.bridges.pop(bridge, None)
    for name in set(changes.old_namespaces) & set(changes.new_namespaces):
        apply_namespace_end(paths.room / name)
        record.namespaces.remove(name)
    record_write(paths, record)


def _orphans(paths: LabPaths, record: LabRecord, hosts: Iterable[str]) -> list[Process]:
    """What a killed agent left behind and its successor would stumble over; not the holder of TAP descriptors."""
    alone = [name for name in hosts if name in record.hosts and record.hosts[name].agent is None]
    return [process for process in _inhabitants(paths, alone) if b"agent" in _command(process)]


def _command(process: Process) -> list[bytes]:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def _inhabitants(paths: LabPaths, hosts: Iterable[str]) -> list[Process]:
    """Processes of the lab that live in these hosts' namespaces: agents, and the holders of TAP descriptors."""
    inodes = {os.stat(path).st_ino for path in map(paths.host_netns, hosts) if namespace_exists(path)}
    return [process for process in linux.processes_marked(paths.mark) if _netns_of(process.pid) in inodes]


def _netns_of(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None


def _lay_out(paths: LabPaths, record: LabRecord, plan: LabPlan, changes: Changes, steps: Steps) -> None:
    record.mtu = plan.underlay.mtu
    for folder in (paths.logs, *(paths.host(name) / "run" for name in plan.hosts)):
        folder.mkdir(parents=True, exist_ok=True)
    apply_room(paths.room, f"pal-{paths.name}")
    record.namespaces += changes.new_namespaces
    record_write(paths, record)
    with steps.step("namespaces", len(changes.new_namespaces)) as step:
        for name in changes.new_namespaces:
            apply_namespace_end(paths.room / name)  # of which the record knows nothing
            apply_namespace(paths.room / name)
            step.advance()
    if changes.new_bridges:
        apply_bridges(paths.room, changes.new_bridges, record.mtu)
        record.bridges.update((item.name, item) for item in changes.new_bridges)
    with steps.step("wires", len(changes.new_interfaces)) as step:
        apply_interfaces(paths.room, changes.new_interfaces, record.mtu, step.advance)
    record.interfaces.update((item.key, item) for item in changes.new_interfaces)
    for pod in changes.new_pods:
        record.pods.setdefault(pod.name, PodRecord(pod.host, pod.netns, pod.spec))
    record_write(paths, record)


def _start_agents(paths: LabPaths, record: LabRecord, plan: LabPlan, hosts: Sequence[str], steps: Steps) -> None:
    """Start agents, and wait until every host, these and the others, has realized the revision."""
    launches = [agent_launch(paths, host, plan.enforcer(host)) for host in hosts]
    with steps.step("agents", len(hosts)) as step:
        for started in apply_launches(launches, paths.mark):
            if started.process is None:
                raise AgentError(f"the agent of host {started.key} does not start: {started.error}")
            record.hosts[started.key] = HostRecord(started.process, plan.enforcer(started.key))
            step.advance()
        record_write(paths, record)
    agents = {name: host.agent for name, host in record.hosts.items() if host.agent is not None}
    with steps.step("hosts that have realized what they are told", len(agents)) as step:
        wait_realized(paths, agents, record.revision, step.advance, READY_SECONDS)


def _start_pods(paths: LabPaths, record: LabRecord, pods: Sequence[PodPlan], steps: Steps) -> None:
    hierarchies = read_hierarchies()
    launches = []
    for pod in pods:
        known = record.pods[pod.name]
        wanted, known.unlimited = plan_groups(group_name(paths, pod.name), pod.spec.limits, hierarchies)
        known.groups = [str(group) for group in apply_groups(wanted, pod.spec.limits)]
        log = paths.logs / f"{pod_hash(pod.name)}.log"
        netns = paths.room / pod.netns
        launches.append(plan_pod(pod.name, pod.spec, netns, [paths.room], log, map(Path, known.groups), paths.mark))
    record_write(paths, record)
    with steps.step("pods", len(pods)) as step:
        for started in apply_launches(launches, paths.mark):
            if started.process is None:
                record_write(paths, record)
                raise PodError(f"the pod {started.key} does not start: {started.error}")
            record.pods[started.key].process = started.process
            step.advance()


def group_name(paths: LabPaths, pod: str) -> str:
    """The name of a pod's control group."""
    return f"pal-{paths.name}-{pod.replace('/', ':')}"


def apply_down(paths: LabPaths, record: LabRecord | None, steps: Steps) -> list[str]:
    """Take everything of a lab away, whatever there is left of it and of its record. Its directory goes last.

    Returns sentences about processes of others that live in its namespaces: they are not ours to end.
    """
    recorded = [] if record is None else [pod.process for pod in record.pods.values()]
    recorded += [] if record is None else [host.agent for host in record.hosts.values()]
    ending = {process for process in recorded if process is not None and process_lives(process)}
    with steps.step("processes", len(ending)):
        for _ in range(_ROUNDS):  # a process may have started another while it was being ended
            ending |= {process for process in linux.processes_marked(paths.mark) if process.pid != os.getpid()}
            if not ending:
                break
            apply_end(ending, POD_PATIENCE)
            ending = set()
    remaining = apply_groups_end(_groups(paths, record))
    notes = [f"the control group {group} cannot be removed" for group in remaining]
    notes += _strangers(paths)
    with steps.step("namespaces", len(namespace_ids(paths.room))):
        apply_room_end(paths.room)
        mounts_end(paths.folder)
    folder_remove(paths)
    return notes


def _groups(paths: LabPaths, record: LabRecord | None) -> list[Path]:
    """The lab's control groups; where its record was lost, by their names, but none that may be another lab's. Those of
    a Supervisor's pods have their uids in their names."""
    found = read_hierarchies()
    pods = [path.name for path in paths.folder.glob("hosts/*/spherelet/pods/*")]
    supervised = [group for uid in pods for group in groups_named(f"palisade-{uid}-", found)]
    if record is not None:
        return supervised + [Path(group) for pod in record.pods.values() for group in pod.groups]
    others = tuple(group_name(other, "") for other in labs_list() if other.name.startswith(f"{paths.name}-"))
    own = groups_named(group_name(paths, ""), found)
    return supervised + [group for group in own if not (others and group.name.startswith(others))]


def _strangers(paths: LabPaths) -> list[str]:
    rooms = namespace_ids(paths.room)
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")) if rooms else ():
        inode = _netns_of(int(name))
        if inode in rooms and linux.process_start(int(name)) is not None:
            found.append(f"process {name} is not the lab's and lives in its namespace {rooms[inode]}: left alone")
    return found
