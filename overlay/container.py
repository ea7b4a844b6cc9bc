# SPDX-License-Identifier: Apache-2.0
"""`python -m overlay.container SPECIFICATION`: becomes a container's command, inside the pod's namespaces.

Who starts it (overlay/launch.py, by way of WAITER) has entered the pod's network, pid, uts and mount namespaces. It
gives itself a mount namespace, a root, fewer capabilities and a user, and then the command takes its place. What fails
before is told in the file `error` of the specification, and ends with the exit code 128. Standard library only.

With `--join PID [--terminal] COMMAND…` after the specification a further command runs in the container whose process
PID is (a number of the host's).
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import termios
from pathlib import Path
from typing import Final, NoReturn, NotRequired, TypedDict

from overlay import linux, privilege
from overlay.container_root import Mount, root_build
from overlay.launch import pod_join

FAILED: Final = 128
"""The exit code of a container that could not begin, as container runtimes have it."""

# Runs a container's command and writes its exit code to a file; what the command left running ends with it. It is a
# shell, because one waits beside every container, however long that lives, and a Python would take 8 MB each time. It
# never has another child: who kills the container's command looks for that among them.
WAITER: Final = """\
code=$1; shift
"$@" &
child=$!
wait $child; ended=$?
kill -KILL -$child 2>/dev/null
echo $ended >"$code"
"""
CAPABILITIES: Final = frozenset({0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31})
"""What a container has that asks for nothing: container runtimes' usual set (chown, dac_override, fowner, fsetid, kill,
setgid, setuid, setpcap, net_bind_service, net_raw, sys_chroot, mknod, audit_write, setfcap)."""
_DEATH_SIGNAL, _NO_NEW_PRIVILEGES = 1, 38  # PR_SET_PDEATHSIG, PR_SET_NO_NEW_PRIVS


class ContainerSpec(TypedDict):
    """`stage`: an empty folder where its root is put together; `capabilities`: None: all that we have; `user`, `group`:
    numbers; `gains`: whether a command may get more than it has (setuid programs); `read_only`: also /tmp and the like;
    `error`: a file for what goes wrong before the command runs. `input`, `input_once`, `terminal`: stdin, stdinOnce and
    tty of a container (overlay/console.py), none where they are missing."""

    root: str
    stage: str
    hidden: list[str]
    mounts: list[Mount]
    command: list[str]
    environment: dict[str, str]
    directory: str
    capabilities: list[int] | None
    user: int
    group: int
    groups: list[int]
    gains: bool
    read_only: bool
    error: str
    input: NotRequired[bool]
    input_once: NotRequired[bool]
    terminal: NotRequired[bool]


def main(arguments: list[str]) -> int:
    """Become the command; returns only where that is impossible, or for a joined one: its exit code."""
    spec: ContainerSpec = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    if arguments[1:2] == ["--join"]:
        return _joined(spec, int(arguments[2]), arguments[3:])
    error = os.open(spec["error"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    step = "its session"
    try:
        session_begin(is_terminal=spec.get("terminal", False))
        step = "its file system"
        linux.unshare(linux.CLONE_NEWNS)
        root_build(
            spec["stage"],
            spec["root"],
            spec["hidden"],
            spec["mounts"],
            directory=spec["directory"],
            read_only=spec["read_only"],
            devices=spec["capabilities"] is None,
        )
        linux.root_change(spec["stage"])
        step = "its command"
        command_become(spec, spec["command"], is_terminal=spec.get("terminal", False))
    except BaseException as problem:
        why = getattr(problem, "strerror", None) if step == "its command" else None
        os.write(error, (f"exec {spec['command'][0]}: {why}" if why else f"{step}: {problem}").encode())
    return FAILED


def session_begin(*, is_terminal: bool) -> None:
    """A session of our own; the terminal that is our input is its own too. Raises OSError."""
    os.setsid()
    if is_terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def command_become(spec: ContainerSpec, command: list[str], *, is_terminal: bool) -> NoReturn:
    """Give up what the container has not, and run; on a terminal that is an xterm, as container runtimes have it.
    Raises OSError."""
    os.chdir(spec["directory"])
    os.umask(0o022)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.setgroups(spec["groups"])
    os.setresgid(spec["group"], spec["group"], spec["group"])
    if spec["capabilities"] is not None:
        privilege.bounding_drop(spec["capabilities"])
    if spec["user"]:
        os.setresuid(spec["user"], spec["user"], spec["user"])
    elif spec["capabilities"] is not None:
        privilege.privileges_drop(spec["capabilities"])
    if not spec["gains"]:
        linux.process_control(_NO_NEW_PRIVILEGES, 1)
    # Who waits for it is all that knows of it. Only now: another user or other capabilities undo this.
    linux.process_control(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() == 1:  # the pod's first process: who waited has ended before
        os._exit(FAILED)
    os.execvpe(command[0], command, ({"TERM": "xterm"} if is_terminal else {}) | spec["environment"])


def _joined(spec: ContainerSpec, pid: int, arguments: list[str]) -> int:
    """A further command in a container. This process waits for it: only a child is in the pod's pid namespace."""
    terminal = arguments[:1] == ["--terminal"]
    command = arguments[terminal:]
    network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(network, linux.CLONE_NEWNET)
        pod_join(pid)
    except OSError as error:
        print(f"cannot enter the container: {error}", file=sys.stderr)
        return FAILED
    child = os.fork()
    if child == 0:
        try:
            session_begin(is_terminal=terminal)
            command_become(spec, command, is_terminal=terminal)
        except FileNotFoundError:
            os.write(2, f"{command[0]}: no such file or directory\n".encode())
            os._exit(127)
        except BaseException as error:
            os.write(2, f"{command[0]}: {error}\n".encode())
        os._exit(126)
    for descriptor in (0, 1, 2):
        os.close(descriptor)
    return exit_code(os.waitpid(child, 0)[1])


def exit_code(status: int) -> int:
    """As shells have it: of a signal's, 128 more than its number."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
