# SPDX-License-Identifier: Apache-2.0
"""Pods: the one run time for workloads. A pod is a command in net, pid, mount and uts namespaces of its own.

There are no images: a pod's command is one of this machine's programs, and sees its files. A pod without a command
sleeps. Its first process is the command itself, as a container's is; when that ends, all its processes end.
"""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

from dfw.errors import EnvironmentLacksError
from overlay import linux
from overlay.cgroup import NO_LIMITS, Limits
from overlay.launch import Launch
from overlay.linux import Process

# Sleeps, ends at SIGTERM, and buries orphans.
SLEEP: Final = ("/bin/sh", "-c", 'trap "exit 0" TERM INT; sleep infinity & wait')
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class PodSpec:
    """What a pod runs. `commands`: of its containers that have one; `environment`: of all of them, in order."""

    commands: tuple[tuple[str, ...], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    hostname: str | None = None
    limits: Limits = NO_LIMITS

    @property
    def command(self) -> tuple[str, ...]:
        """The first process: the only container's command, or a shell that runs several."""
        if not self.commands:
            return SLEEP
        if len(self.commands) == 1:
            return self.commands[0]
        started = "".join(f"{shlex.join(command)} & " for command in self.commands)
        return ("/bin/sh", "-c", f'trap "exit 0" TERM INT; {started}wait')


class Started(NamedTuple):
    """What became of a launch: a process, or why there is none."""

    key: str
    process: Process | None
    error: str = ""


def pod_hash(name: str) -> str:
    """Ten characters for names that have to be short, the same for the same pod."""
    return sha256(name.encode()).hexdigest()[:10]


def pod_hostname(name: str, spec: PodSpec) -> str:
    """Its host name: the manifest's, or the pod's own without its namespace, at most 63 characters (RFC 1123)."""
    return (spec.hostname or name.rpartition("/")[2])[:63].rstrip("-.")


def pod_environment(spec: PodSpec, mark: str) -> dict[str, str]:
    """What a pod's command finds in its environment. `mark`: NAME=VALUE by which its processes are known."""
    name, _, value = mark.partition("=")
    language = os.environ.get("LANG", "C.UTF-8")
    return {"PATH": _PATH, "HOME": "/", "LANG": language, **dict(spec.environment), name: value}


def plan_pod(
    name: str, spec: PodSpec, netns: Path, hidden: Iterable[Path], log: Path, groups: Iterable[Path], mark: str
) -> Launch:
    """The launch of a pod."""
    return Launch(
        key=name,
        netns=str(netns),
        hostname=pod_hostname(name, spec),
        hidden=[str(path) for path in hidden],
        command=list(spec.command),
        environment=pod_environment(spec, mark),
        log=str(log),
        cgroups=[str(path) for path in groups],
    )


def apply_launches(launches: Sequence[Launch], mark: str) -> Iterator[Started]:
    """Start processes, in order, each told as soon as it runs. They are nobody's children."""
    if not launches:
        return
    name, _, value = mark.partition("=")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "overlay.launch"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**importing(os.environ), name: value},
        start_new_session=True,  # Ctrl-C is for us: what it has started would be told to nobody
    )
    assert launcher.stdin is not None and launcher.stdout is not None
    try:
        launcher.stdin.write(json.dumps(launches))
        launcher.stdin.close()
        for line in launcher.stdout:
            told = json.loads(line)
            process = Process(told["pid"], told["start"]) if "pid" in told else None
            yield Started(told["key"], process, told.get("error", ""))
        if launcher.wait() != 0:
            raise RuntimeError(f"the launcher ended with {launcher.returncode}")
    finally:
        launcher.kill()
        launcher.wait()
        launcher.stdout.close()


def importing(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which another Python finds this package, whatever the working directory is."""
    found = str(Path(__file__).resolve().parent.parent)
    paths = [found, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return {**environment, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def apply_end(processes: Iterable[Process], patience: float) -> None:
    """Ask processes to end; those that have not after `patience` seconds are killed. Returns when all have ended.

    A process is told from another with its number by when it started. Raises PermissionError.
    """
    waiting = [process for process in processes if linux.process_signal(process, signal.SIGTERM)]
    waiting = _outlived(waiting, patience)
    killed = [process for process in waiting if linux.process_signal(process, signal.SIGKILL)]
    stuck = _outlived(killed, 10.0)
    if stuck:
        raise RuntimeError(f"processes {', '.join(str(process.pid) for process in stuck)} do not end")


def _outlived(processes: Iterable[Process], patience: float) -> list[Process]:
    """Those that are still there after `patience` seconds."""
    deadline = time.monotonic() + patience
    poll = select.poll()
    known: dict[int, Process] = {}
    try:
        for process in processes:
            try:
                descriptor = os.pidfd_open(process.pid)
            except ProcessLookupError:
                continue
            known[descriptor] = process
            poll.register(descriptor, select.POLLIN)
        while known and (left := deadline - time.monotonic()) > 0:
            for descriptor, _ in poll.poll(left * 1000):
                poll.unregister(descriptor)
                os.close(descriptor)
                del known[descriptor]
        return [process for process in known.values() if linux.process_lives(process)]
    finally:
        for descriptor in known:
            os.close(descriptor)


def pod_exec_command(process: Process, command: Sequence[str]) -> list[str]:
    """The command line that runs a command in a pod's namespaces (nsenter(1) of util-linux)."""
    return ["nsenter", f"--target={process.pid}", "--net", "--pid", "--mount", "--uts", "--wd=/", "--", *command]


def exec_become(command: Sequence[str]) -> None:
    """Become a command line such as pod_exec_command's. Raises EnvironmentLacksError without nsenter; else does not
    return."""
    try:
        os.execvp(command[0], list(command))
    except FileNotFoundError:
        raise EnvironmentLacksError(
            f"no command {command[0]}", "apt-get install -y --no-install-recommends util-linux"
        ) from None
