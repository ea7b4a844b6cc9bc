# SPDX-License-Identifier: Apache-2.0
"""Standard input and terminals of containers, with real kubectl: run -i, run -it, attach -i, attach -it."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from overlay import linux
from overlay.console import terminal_size
from tests.support.attached import begun, given_until_full, pod_runs
from tests.support.control_plane import PATIENCE, ControlPlane
from tests.support.kubectl import Kubectl, kubectl_path
from tests.support.patience import until
from tests.support.spherelet import Spherelet, bind, host_alone, read
from tests.support.spherelet_pods import is_ready, namespace_made, put_made, shell

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns]
HOST = "esx-1"
ECHO = 'while read word; do echo "got $word"; done; echo end; sleep 0.2; exit 4'
MUCH = 32 << 20


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ControlPlane, Spherelet]]:
    with host_alone(tmp_path_factory.mktemp("host"), HOST) as found:
        yield found


@pytest.fixture
def kubectl(host: tuple[ControlPlane, Spherelet], tmp_path: Path) -> Kubectl:
    return Kubectl("1.37", kubectl_path("1.37"), host[0].kubeconfig, tmp_path)


def echo(kubectl: Kubectl, script: str = ECHO, **more: object) -> str:
    """The pod `echo` runs; its Namespace. `more`: fields of its container."""
    return pod_runs(kubectl, HOST, "echo", script, **more)


class Screen:
    """A terminal of a test's own, with kubectl on it."""

    def __init__(self) -> None:
        self.ours, self.theirs = os.openpty()
        os.set_blocking(self.ours, False)
        self.shown = ""

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def shows(self, text: str) -> None:
        """Wait for it."""

        def seen() -> bool:
            try:
                self.shown += os.read(self.ours, 65536).decode()
            except BlockingIOError:
                pass
            return text in self.shown

        until(seen, f"{text!r} is not shown")

    def close(self) -> None:
        os.close(self.ours)
        os.close(self.theirs)


@pytest.fixture
def screen() -> Iterator[Screen]:
    made = Screen()
    yield made
    made.close()


def line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    return process.stdout.readline()


def write(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(text)
    process.stdin.flush()


def logged(kubectl: Kubectl, namespace: str) -> str:
    return kubectl("logs", "-n", namespace, "echo").out


def ended(kubectl: Kubectl, namespace: str) -> Callable[[], int | None]:
    """Its exit code, once it has ended."""

    def found() -> int | None:
        (status,) = read(kubectl, namespace, "echo")["status"]["containerStatuses"]
        code = status["state"].get("terminated", {}).get("exitCode")
        return None if code is None else int(code)

    return found


def test_run_with_input_gives_output_and_exit_code_and_is_gone(kubectl: Kubectl) -> None:
    namespace = namespace_made(kubectl)
    command = ["run", "echo", "-i", "--rm", "--image=host", "--restart=Never", "-n", namespace, "--command", "--"]
    with begun(kubectl, *command, "/bin/sh", "-c", ECHO) as running:
        until(lambda: kubectl("get", "pod", "echo", "-n", namespace, code=None).code == 0, "no pod")
        bind(kubectl, namespace, "echo", HOST)
        out, err = running.communicate(b"one\ntwo\n", timeout=PATIENCE)
    assert [word for word in out.decode().splitlines() if not word.startswith("pod ")] == ["got one", "got two", "end"]
    assert running.returncode == 4, err
    assert kubectl("get", "pod", "echo", "-n", namespace, code=None).code != 0


def test_run_hears_who_ends_at_once(kubectl: Kubectl) -> None:
    """From its beginning, where it attaches before; or by its log, where it has ended. (1.37 asks for the log before it
    attaches, and for all of the last second again where it could not.)"""
    namespace = namespace_made(kubectl)
    older = replace(kubectl, version="1.31", path=kubectl_path("1.31"))
    for name, how in (("first", ("-i",)), ("second", ("--attach",)), ("third", ("-it", "--leave-stdin-open"))):
        command = ["run", name, *how, "--image=host", "--restart=Never", "-n", namespace, "--command", "--"]
        with begun(older, *command, "/bin/echo", "at once") as running:
            until(lambda name=name: kubectl("get", "pod", name, "-n", namespace, code=None).code == 0, "no pod")  # type: ignore[misc]
            bind(kubectl, namespace, name, HOST)
            assert running.wait(PATIENCE) == 0
            out, err = running.communicate()
        assert out.splitlines() == [b"at once"], err
        assert b"has no standard input" not in err


def test_a_terminal_with_its_size_and_job_control(kubectl: Kubectl, screen: Screen) -> None:
    namespace = namespace_made(kubectl)
    terminal_size(screen.theirs, 33, 77)
    command = ["run", "echo", "-it", "--rm", "--image=host", "--restart=Never", "-n", namespace, "--command", "--"]
    with begun(kubectl, *command, "/bin/sh", terminal=screen.theirs) as running:
        until(lambda: kubectl("get", "pod", "echo", "-n", namespace, code=None).code == 0, "no pod")
        bind(kubectl, namespace, "echo", HOST)
        screen.shows("press")  # ...try pressing enter
        screen.type('test -t 0 && test -t 1 && test -t 2 && echo "all $((1 + 1)) are, $TERM"\n')
        screen.shows("all 2 are, xterm")
        screen.type('until [ "$(stty size)" = "33 77" ]; do sleep 0.05; done; echo "size $(stty size)"\n')
        screen.shows("size 33 77")
        screen.type("sh -c 'trap \"echo interrupt$((1 + 1)); exit\" INT; echo re$((1 + 1))ady; sleep 1000'\n")
        screen.shows("re2ady")
        screen.type("\x03")
        screen.shows("interrupt2")
        screen.type("exit 5\n")
        screen.shows("deleted")
        assert running.wait(PATIENCE) == 5


def test_input_stays_open_between_attachments(kubectl: Kubectl, host: tuple[ControlPlane, Spherelet]) -> None:
    """Also over the Spherelet's death, who does not hold it."""
    namespace = echo(kubectl, stdin=True)
    for number, word in enumerate((b"one", b"two", b"three")):
        if number == 2:
            host[1].kill()
            host[1].start()
            until(lambda: kubectl("logs", "-n", namespace, "echo", code=None).code == 0, "the host does not come back")
        with begun(kubectl, "attach", "-i", "-q", "-n", namespace, "echo") as attached:
            write(attached, word + b"\n")
            assert line(attached) == b"got " + word + b"\n"
            _, err = attached.communicate(timeout=PATIENCE)  # no more input: the attachment ends, as containerd has it
            assert attached.returncode == 0, err
    assert logged(kubectl, namespace) == "got one\ngot two\ngot three\n"
    assert ended(kubectl, namespace)() is None


def test_the_first_attachment_closes_input_that_is_there_once(kubectl: Kubectl) -> None:
    namespace = echo(kubectl, stdin=True, stdinOnce=True)
    with (
        begun(kubectl, "attach", "-q", "-n", namespace, "echo") as hearing,
        begun(kubectl, "attach", "-i", "-q", "-n", namespace, "echo") as attached,
    ):
        assert hearing.stdout is not None
        while not select.select([hearing.stdout], [], [], 0.1)[0]:  # it attaches when it likes
            write(attached, b"one\n")
            assert line(attached) == b"got one\n"
        out, _ = attached.communicate(timeout=PATIENCE)
        assert out == b"end\n" and hearing.stdout.read().splitlines()[-1] == b"end"
        assert hearing.wait(PATIENCE) == 0
    assert until(ended(kubectl, namespace), "it does not end") == 4


def test_a_terminal_outlives_the_spherelet(
    kubectl: Kubectl, host: tuple[ControlPlane, Spherelet], screen: Screen
) -> None:
    namespace = echo(kubectl, f"test -t 0 && {{ {ECHO}; }}", stdin=True, tty=True)
    running = host[1]
    running.kill()
    running.start()
    until(lambda: kubectl("logs", "-n", namespace, "echo", code=None).code == 0, "the host does not come back")
    with begun(kubectl, "attach", "-it", "-n", namespace, "echo", terminal=screen.theirs) as attached:
        screen.shows("press")
        screen.type("again\n")
        screen.shows("got again")
        screen.type("\x04")  # end of transmission: for the command
        screen.shows("end")
        assert attached.wait(PATIENCE) == 0
    assert until(ended(kubectl, namespace), "it does not end") == 4
    assert logged(kubectl, namespace) == "again\ngot again\nend\n"


@pytest.mark.parametrize("tty", [False, True], ids=["pipe", "terminal"])
def test_another_user_may_open_its_input(kubectl: Kubectl, tty: bool) -> None:
    script = 'read word </dev/stdin; echo "got $word" >/dev/stdout; exit 4'
    script = f"[ $(id -u) = 1234 ] && {{ {'echo seen >/dev/tty;' if tty else ''} {script}; }}"
    namespace = echo(kubectl, script, stdin=True, tty=tty, securityContext={"runAsUser": 1234})
    kubectl("attach", "-i", "-q", "-n", namespace, "echo", given="one\n")
    assert until(ended(kubectl, namespace), "it does not end") == 4, logged(kubectl, namespace)
    assert logged(kubectl, namespace).endswith("got one\n")


def test_what_a_container_does_not_read_waits_at_its_sender(kubectl: Kubectl) -> None:
    """And arrives when it reads."""
    namespace = echo(kubectl, "while [ ! -e /tmp/read ]; do sleep 0.05; done; wc -c", stdin=True, stdinOnce=True)
    with begun(kubectl, "attach", "-i", "-q", "-n", namespace, "echo") as attached:
        given = given_until_full(attached, MUCH)
        assert given < MUCH
        kubectl("exec", "-n", namespace, "echo", "--", "touch", "/tmp/read")
        assert attached.stdin is not None
        attached.stdin.close()
        assert int(line(attached)) == given


def test_who_does_not_hear_holds_up_no_terminal(kubectl: Kubectl) -> None:
    """One attached client reads nothing; the container says 8 MiB and ends."""
    script = "read word; head -c 8388608 /dev/zero | tr '\\0' x; exit 4"
    namespace = echo(kubectl, script, stdin=True, tty=True)
    with begun(kubectl, "attach", "-i", "-q", "-n", namespace, "echo") as attached:
        write(attached, b"begin\n")
        assert until(ended(kubectl, namespace), "it is held up") == 4
    assert len(kubectl("logs", "-n", namespace, "echo").out) > 8 << 20


@pytest.mark.parametrize("has_input", [False, True], ids=["shell", "console"])
def test_a_command_ends_with_who_waits_for_it(kubectl: Kubectl, has_input: bool) -> None:
    """It ran on beside the one that took its place."""
    namespace = namespace_made(kubectl)
    spec = {"containers": [shell("exec sleep 1000", stdin=has_input, securityContext={"runAsUser": 1234})]}
    put = put_made(kubectl, namespace, HOST)
    uid = put("echo", spec | {"terminationGracePeriodSeconds": 0}, is_ready)["metadata"]["uid"]

    def begun() -> list[linux.Process]:
        return sorted(linux.processes_marked(f"PALISADE_CONTAINER={uid}/main/1"), key=lambda item: item.start)

    until(lambda: len(begun()) == 2, "it does not begin")
    waiter, command = begun()
    linux.process_signal(waiter, signal.SIGKILL)
    until(lambda: any(linux.processes_marked(f"PALISADE_CONTAINER={uid}/main/2")), "it is not begun again")
    assert not linux.process_lives(command)


def test_an_init_container_and_a_restart_have_input_too(kubectl: Kubectl) -> None:
    namespace = namespace_made(kubectl)
    once = {"stdin": True, "stdinOnce": True}
    spec = {
        "initContainers": [{**shell("read word; test $word = go", **once), "name": "first"}],
        "containers": [shell(f"{ECHO}; exit 1", **once)],
        "terminationGracePeriodSeconds": 0,
    }
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "echo"}, "spec": spec}
    kubectl("create", "-n", namespace, "-f", "-", given=json.dumps(pod))
    bind(kubectl, namespace, "echo", HOST)

    def running(kind: str, starts: int) -> bool:
        found = read(kubectl, namespace, "echo")["status"].get(kind) or [{}]
        return "running" in found[0].get("state", {}) and found[0]["restartCount"] == starts

    until(lambda: running("initContainerStatuses", 0), "its first container does not run")
    kubectl("attach", "-i", "-q", "-n", namespace, "echo", "-c", "first", given="go\n")
    for start in range(2):
        until(lambda start=start: running("containerStatuses", start), f"start {start} is not there")  # type: ignore[misc]
        out = kubectl("attach", "-i", "-q", "-n", namespace, "echo", "-c", "main", given=f"word {start}\n").out
        assert out == f"got word {start}\nend\n"
