# SPDX-License-Identifier: Apache-2.0
"""A pod's processes: a sandbox that holds its namespaces, and containers in them. Blocking; the pod's worker calls it
in a thread. Everything may be called again after it was cut short."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from overlay import linux
from overlay.cgroup import Limits, apply_groups, apply_groups_end, killed_for_memory, plan_groups
from overlay.container import CAPABILITIES, WAITER, ContainerSpec
from overlay.container_root import Mount
from overlay.launch import Launch
from overlay.launcher import Launcher
from overlay.linux import Process
from overlay.namespace import apply_namespace, apply_namespace_end, namespace_exists
from overlay.pod import SLEEP, apply_end, importing
from supervisor_glue.api.status import Object
from supervisor_glue.controllers.objects import name_of, namespace_of, spec_of, uid_of
from supervisor_glue.controllers.quantity import milli, whole
from supervisor_glue.spherelet.environment import pod_hostname
from supervisor_glue.spherelet.logs import LogKeeper, log_end
from supervisor_glue.spherelet.records import (
    UNKNOWN_CODE,
    ContainerFolder,
    ContainerState,
    Ended,
    process_of,
    record_read,
    record_write,
)
from supervisor_glue.spherelet.settings import Settings
from supervisor_glue.spherelet.volumes import apply_volumes_end

HOST_IMAGE: Final = "host"
MESSAGE_PATH: Final = "/dev/termination-log"
_PATIENCE: Final = 10.0


class StartError(Exception):
    """A process of a pod could not be started: a sentence."""


class PodRuntime:
    """The processes and files of one pod."""

    def __init__(self, settings: Settings, logs: LogKeeper, launcher: Launcher, pod: Object) -> None:
        self.settings, self.logs, self.launcher, self.uid = settings, logs, launcher, uid_of(pod)
        self.folder = settings.folder(self.uid)
        self.is_host_network = bool(spec_of(pod).get("hostNetwork"))

    @property
    def netns(self) -> Path:
        """The network namespace that its containers live in."""
        if self.is_host_network:
            return self.settings.netns or Path("/proc/self/ns/net")
        return self.settings.namespace(self.uid)

    @property
    def volumes(self) -> Path:
        return self.folder / "volumes"

    def container(self, name: str) -> ContainerFolder:
        return ContainerFolder(self.folder / "containers" / name, f"{self.uid}/{name}")

    # ---- sandbox ------------------------------------------------------------------------------------------------

    def record(self, pod: Object) -> None:
        """Write down which pod it is, before anything is made for it. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o711)
        known = {"namespace": namespace_of(pod), "name": name_of(pod), "uid": self.uid}
        if not (self.folder / "pod.json").exists():
            record_write(self.folder / "pod.json", known | {"started": time.time()})

    def started(self) -> float:
        """When the pod was first seen here."""
        found = record_read(self.folder / "pod.json")
        return float(found["started"]) if found else time.time()

    def sandbox(self) -> Process | None:
        """The living sandbox."""
        found = record_read(self.folder / "sandbox.json")
        process = process_of(found["process"]) if found else None
        if found is not None and process is None:
            process = min(linux.processes_marked(f"PALISADE_SANDBOX={self.uid}"), default=None)
        return process if process is not None and linux.process_lives(process) else None

    def network_start(self) -> None:
        """The network namespace, made unless it is there. Raises OSError."""
        if not self.is_host_network and not namespace_exists(self.netns):
            apply_namespace(self.netns)

    def sandbox_start(self, pod: Object) -> Process:
        """The sandbox, started unless it lives. Raises OSError, StartError."""
        running = self.sandbox()
        if running is not None:
            return running
        self.network_start()
        record_write(self.folder / "sandbox.json", {"process": None})
        launch = Launch(
            key=self.uid,
            netns=str(self.netns),
            hostname=pod_hostname(pod),
            hidden=[],
            command=list(SLEEP),
            environment=self._marked({"PATH": os.environ.get("PATH", os.defpath), "PALISADE_SANDBOX": self.uid}),
            log=str(self.folder / "sandbox.log"),
            cgroups=[],
        )
        process = self._launched(launch)
        record_write(self.folder / "sandbox.json", {"process": list(process)})
        return process

    def sandbox_stop(self) -> None:
        """End all processes of the pod, and its network namespace; its files stay. Raises OSError."""
        process = self.sandbox()
        if process is not None and linux.process_signal(process, signal.SIGKILL):
            apply_end([process], _PATIENCE)
        if not self.is_host_network:
            apply_namespace_end(self.settings.namespace(self.uid))
        (self.folder / "sandbox.json").unlink(missing_ok=True)

    def remove(self) -> None:
        """End everything of the pod, and forget it. Raises OSError."""
        self.sandbox_stop()
        apply_namespace_end(self.settings.namespace(self.uid))
        apply_volumes_end(self.volumes)
        containers = self.folder / "containers"
        for name in [path.name for path in containers.iterdir()] if containers.is_dir() else ():
            apply_groups_end(self._groups(name, Limits(1, 1.0)))
        shutil.rmtree(self.folder)

    # ---- containers ---------------------------------------------------------------------------------------------

    def container_start(
        self,
        sandbox: Process,
        pod: Object,
        container: Object,
        state: ContainerState,
        command: list[str],
        environment: dict[str, str],
        mounts: list[Mount],
    ) -> None:
        """Start a container for the next time; the state says so, also where that fails. Raises OSError, StartError."""
        name = container["name"]
        place = self.container(name)
        place.folder.mkdir(parents=True, exist_ok=True)
        stage = place.folder / "root"
        stage.mkdir(exist_ok=True)
        state.last, state.ended, state.process = state.ended or state.last, None, None
        state.starts, state.started = state.starts + 1, time.time()
        state.image = image_of(container)
        number = state.starts
        place.forget(number - 1)
        told = place.file(number, "message")
        told.touch()
        os.chown(told, user_of(pod, container), -1)
        target = str(container.get("terminationMessagePath") or MESSAGE_PATH)
        mounts = [*mounts, Mount(source=str(told), target=target, read_only=False)]
        spec = self._spec(pod, container, place, number, command or list(SLEEP), environment, mounts)
        record_write(place.file(number, "json"), dict(spec))
        place.state_write(state)
        limits = limits_of(container)
        groups = self._groups(name, limits)
        apply_groups_end(groups, 0.0)  # what the start before was killed for is counted in them
        key, _, value = place.mark_of(number).partition("=")
        launch = Launch(
            key=name,
            netns=str(self.netns),
            hostname=None,
            hidden=[],
            command=_waiting(container, place, number),
            environment=self._marked(importing({"PATH": os.environ.get("PATH", os.defpath), key: value})),
            log=str(place.file(number, "fifo")),
            cgroups=[str(group) for group in apply_groups(groups, limits)],
            join=sandbox.pid,
        )
        held = self.logs.begin(place.file(number, "fifo"), spec["user"])
        try:
            state.process = self._launched(launch)
        finally:
            os.close(held)
        place.state_write(state)

    def _spec(
        self,
        pod: Object,
        container: Object,
        place: ContainerFolder,
        number: int,
        command: list[str],
        environment: dict[str, str],
        mounts: list[Mount],
    ) -> ContainerSpec:
        context = {**(spec_of(pod).get("securityContext") or {}), **(container.get("securityContext") or {})}
        key, _, value = place.mark_of(number).partition("=")
        return ContainerSpec(
            root=root_of(container),
            stage=str(place.folder / "root"),
            hidden=[str(path) for path in (self.settings.run, self.settings.room, *self.settings.hide)],
            mounts=mounts,
            command=command,
            environment=self._marked({**environment, key: value}),
            directory=str(container.get("workingDir") or "/"),
            capabilities=capabilities_of(context),
            user=user_of(pod, container),
            group=int(context.get("runAsGroup") or 0),
            groups=groups_of(pod),
            gains=context.get("allowPrivilegeEscalation") is not False,
            read_only=bool(context.get("readOnlyRootFilesystem")),
            error=str(place.file(number, "error")),
            input=bool(container.get("stdin")),
            input_once=bool(container.get("stdinOnce")),
            terminal=bool(container.get("tty")),
        )

    def container_ended(self, container: Object, state: ContainerState) -> Ended:
        """How the current start ended; what it wanted to be known of that; whether it took too much memory."""
        place = self.container(container["name"])
        ended = place.ended_read(state, time.time())
        if ended.code and killed_for_memory(self._groups(container["name"], limits_of(container))):
            ended = replace(ended, code=UNKNOWN_CODE, reason="OOMKilled", message="")
        message = ended.message or place.message_read(state.starts)
        if not message and ended.code and container.get("terminationMessagePolicy") == "FallbackToLogsOnError":
            message = log_end(place.log(state.starts))
        return replace(ended, message=message)

    def limits_missing(self, container: Object) -> list[str]:
        """The limits of a container that this machine has no control group for."""
        return plan_groups("", limits_of(container), self.settings.hierarchies)[1]

    def _groups(self, name: str, limits: Limits) -> list[Path]:
        return plan_groups(f"palisade-{self.uid}-{name}", limits, self.settings.hierarchies)[0]

    def _marked(self, environment: dict[str, str]) -> dict[str, str]:
        name, _, value = self.settings.mark.partition("=")
        return {**environment, name: value} if name else environment

    def _launched(self, launch: Launch) -> Process:
        started = self.launcher.launch(launch)
        if started.process is None:
            raise StartError(started.error)
        return started.process


def image_of(container: Object) -> str:
    """What a container's root comes from: a path, or a word for the host's own."""
    return str(container.get("image") or HOST_IMAGE)


def root_of(container: Object) -> str:
    """The directory that is a container's root."""
    image = image_of(container)
    return image if image.startswith("/") else "/"


def has_console(container: Object) -> bool:
    """Whether a container has standard input or a terminal, whose other end somebody holds."""
    return bool(container.get("stdin") or container.get("tty"))


def _waiting(container: Object, place: ContainerFolder, number: int) -> list[str]:
    """The command that begins a container, and waits for it."""
    spec, told = str(place.file(number, "json")), str(place.file(number, "exit"))
    python = [sys.executable, "-S", "-m"]
    if has_console(container):
        return [*python, "overlay.console", spec, told, str(place.console(number))]
    return ["/bin/sh", "-c", WAITER, "sh", told, *python, "overlay.container", spec]


def user_of(pod: Object, container: Object) -> int:
    """Whose number a container's processes have."""
    context = {**(spec_of(pod).get("securityContext") or {}), **(container.get("securityContext") or {})}
    return int(context.get("runAsUser") or 0)


def container_process(waiter: Process) -> Process | None:
    """The command that a container's shell waits for."""
    try:
        words = Path(f"/proc/{waiter.pid}/task/{waiter.pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return None
    for word in words if linux.process_lives(waiter) else ():
        since = linux.process_start(int(word))
        if since is not None:
            return Process(int(word), since)
    return None


def container_signal(waiter: Process, number: signal.Signals) -> bool:
    """Send a signal to a container's command; False: there is none. Raises PermissionError."""
    process = container_process(waiter)
    return process is not None and linux.process_signal(process, number)


def groups_of(pod: Object) -> list[int]:
    """The further groups of a pod's processes; that of its volumes is one."""
    context = spec_of(pod).get("securityContext") or {}
    own = [context["fsGroup"]] if context.get("fsGroup") is not None else []
    return [int(number) for number in (*own, *(context.get("supplementalGroups") or ()))]


def limits_of(container: Object) -> Limits:
    """Raises ValueError."""
    found = (container.get("resources") or {}).get("limits") or {}
    memory = whole(found["memory"]) if "memory" in found else None
    return Limits(memory, milli(found["cpu"]) / 1000 if "cpu" in found else None)


_NAMES: Final = {
    "CHOWN": 0, "DAC_OVERRIDE": 1, "DAC_READ_SEARCH": 2, "FOWNER": 3, "FSETID": 4, "KILL": 5, "SETGID": 6,
    "SETUID": 7, "SETPCAP": 8, "LINUX_IMMUTABLE": 9, "NET_BIND_SERVICE": 10, "NET_BROADCAST": 11, "NET_ADMIN": 12,
    "NET_RAW": 13, "IPC_LOCK": 14, "IPC_OWNER": 15, "SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_CHROOT": 18,
    "SYS_PTRACE": 19, "SYS_PACCT": 20, "SYS_ADMIN": 21, "SYS_BOOT": 22, "SYS_NICE": 23, "SYS_RESOURCE": 24,
    "SYS_TIME": 25, "SYS_TTY_CONFIG": 26, "MKNOD": 27, "LEASE": 28, "AUDIT_WRITE": 29, "AUDIT_CONTROL": 30,
    "SETFCAP": 31, "MAC_OVERRIDE": 32, "MAC_ADMIN": 33, "SYSLOG": 34, "WAKE_ALARM": 35, "BLOCK_SUSPEND": 36,
    "AUDIT_READ": 37, "PERFMON": 38, "BPF": 39, "CHECKPOINT_RESTORE": 40,
}  # fmt: skip
"""capabilities(7)."""


def capabilities_of(context: dict[str, Any]) -> list[int] | None:
    """Of a securityContext; None: all (privileged)."""
    if context.get("privileged"):
        return None
    asked = context.get("capabilities") or {}

    def numbers(names: Iterable[str]) -> set[int]:
        found = {str(name).upper().removeprefix("CAP_") for name in names}
        return set(_NAMES.values()) if "ALL" in found else {_NAMES[name] for name in found if name in _NAMES}

    return sorted((CAPABILITIES - numbers(asked.get("drop") or ())) | numbers(asked.get("add") or ()))
