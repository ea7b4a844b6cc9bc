# SPDX-License-Identifier: Apache-2.0
"""`python -m overlay.launch`: starts processes in namespaces, pods and agents alike.

Reads one JSON list of launches from stdin; writes one JSON line for each: {"key", "pid", "start"}, or {"key", "error"}.
With --serve it reads them line by line, and answers each, until stdin ends (overlay/launcher.py).
A program of its own, because only a process with one thread can fork safely, and so that what it starts belongs to
nobody when it ends. Standard library only: it starts in the time of an empty Python.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import sys
from collections import deque
from typing import Any, Final, NamedTuple, NotRequired, TypedDict

from overlay import linux

SERVE: Final = "--serve"
_AT_ONCE: Final = 8


class Launch(TypedDict):
    """One process to start.

    `hostname` not None: a pod, that is, its own pid, mount and uts namespaces; its command is the first process, and
    when that ends, all of them end. `hidden`: mounts that it shall not see. `cgroups`: directories whose member it
    becomes. `log`: where its output goes, a file or a pipe. `join`: a pod's first process, whose pid, mount and
    uts namespaces it shares instead of getting its own.
    """

    key: str
    netns: str
    hostname: str | None
    hidden: list[str]
    command: list[str]
    environment: dict[str, str]
    log: str
    cgroups: list[str]
    join: NotRequired[int]


class Begun(NamedTuple):
    """A launch under way: its child, and where that tells what became of it."""

    key: str
    child: int
    reading: int


def main() -> int:
    """Start everything on stdin, a few at once: the kernel waits longer for each than it works."""
    if sys.argv[1:] == [SERVE]:
        return serve()
    waiting: deque[Begun] = deque()
    for launch in json.load(sys.stdin):
        waiting.append(begin(launch))
        if len(waiting) == _AT_ONCE:
            _tell(waiting.popleft())
    while waiting:
        _tell(waiting.popleft())
    return 0


def serve() -> int:
    """Start what is on stdin line by line. Who asked may be gone when it has started."""
    for line in sys.stdin:
        try:
            _tell(begin(json.loads(line)))
        except BrokenPipeError:
            break
    return 0


def _tell(begun: Begun) -> None:
    os.write(1, json.dumps({"key": begun.key, **finish(begun)}).encode() + b"\n")


def begin(launch: Launch) -> Begun:
    """Begin to start one process, a grandchild of this one."""
    reading, writing = os.pipe()  # closed by exec, so that the end of it means: started
    child = os.fork()
    if child == 0:
        step = "pipe"
        try:
            os.close(reading)
            step = "its namespaces"
            _prepare(launch)
            step = "fork"
            _grandchild(launch, writing)
        except BaseException as error:
            _say(writing, {"error": f"{step}: {error}"})
        os._exit(1)
    os.close(writing)
    return Begun(launch["key"], child, reading)


def finish(begun: Begun) -> dict[str, Any]:
    """Its pid and start time, or why it could not be started."""
    with os.fdopen(begun.reading, "rb") as file:
        told = file.read()
    os.waitpid(begun.child, 0)
    answer: dict[str, Any] = {}
    for line in told.splitlines():
        answer.update(json.loads(line))
    if "error" in answer or "pid" not in answer:
        return {"error": answer.get("error", "it ended before it began")}
    since = linux.process_start(answer["pid"])
    return {"error": "it ended at once"} if since is None else {"pid": answer["pid"], "start": since}


def _say(descriptor: int, message: dict[str, Any]) -> None:
    os.write(descriptor, json.dumps(message).encode() + b"\n")


def _prepare(launch: Launch) -> None:
    for directory in launch["cgroups"]:
        with open(os.path.join(directory, "cgroup.procs"), "w", encoding="ascii") as file:
            file.write("0\n")
    descriptor = os.open(launch["netns"], os.O_RDONLY | os.O_CLOEXEC)
    linux.setns(descriptor, linux.CLONE_NEWNET)
    os.close(descriptor)
    os.setsid()
    if "join" in launch:
        pod_join(launch["join"])
    elif launch["hostname"] is not None:
        linux.unshare(linux.CLONE_NEWPID | linux.CLONE_NEWNS | linux.CLONE_NEWUTS)


def pod_join(pid: int) -> None:
    """Share a pod's namespaces but the network's: its uts and mounts at once, its processes from the next fork on.

    Raises OSError.
    """
    names = (("uts", linux.CLONE_NEWUTS), ("pid", linux.CLONE_NEWPID), ("mnt", linux.CLONE_NEWNS))
    opened = [(os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind) for name, kind in names]
    for descriptor, kind in opened:
        linux.setns(descriptor, kind)
        os.close(descriptor)


def _grandchild(launch: Launch, writing: int) -> None:
    process = os.fork()
    if process:
        _say(writing, {"pid": process})
        os._exit(0)
    try:
        if launch["hostname"] is not None and "join" not in launch:
            _furnish(launch["hostname"], launch["hidden"])
        os.chdir("/")
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        log = _log_open(launch["log"])
        os.dup2(log, 1)
        os.dup2(log, 2)
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT):  # Python's own settings
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.execvpe(launch["command"][0], launch["command"], launch["environment"])
    except BaseException as error:
        _say(writing, {"error": f"{launch['command'][0]}: {getattr(error, 'strerror', None) or error}"})
    os._exit(1)


def _log_open(path: str) -> int:
    """A file, or a pipe: that is held at both ends, so that nobody who writes ends when its reader does."""
    if os.path.exists(path) and stat.S_ISFIFO(os.stat(path).st_mode):
        return os.open(path, os.O_RDWR)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)


def _furnish(hostname: str, hidden: list[str]) -> None:
    """The namespaces of a pod from within: its name, its /proc and /sys, and no view of the lab's names."""
    socket.sethostname(hostname)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    for path in hidden:
        if os.path.ismount(path):
            linux.umount(path, linux.MNT_DETACH)
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("proc", "/proc", "proc", flags)
    try:
        linux.mount("sysfs", "/sys", "sysfs", flags | linux.MS_RDONLY)
    except OSError:
        pass  # in some containers sysfs can't be mounted; only /sys/class/net is then another namespace's


if __name__ == "__main__":
    sys.exit(main())
