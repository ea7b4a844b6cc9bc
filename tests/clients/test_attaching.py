# SPDX-License-Identifier: Apache-2.0
"""What is typed, and who hears: attach, and commands, on a host of their own."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.attached import begun, given_until_full, pod_runs
from tests.support.control_plane import PATIENCE, ControlPlane
from tests.support.kubectl import Kubectl, kubectl_path
from tests.support.patience import until
from tests.support.spherelet import host_alone

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns]
HOST = "esx-1"
SAYS = "while [ ! -e /tmp/end ]; do echo tick; sleep 0.05; done; echo last"


MANY = 64 << 20


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with host_alone(tmp_path_factory.mktemp("host"), HOST) as (plane, _):
        yield plane


@pytest.fixture
def kubectl(plane: ControlPlane, tmp_path: Path) -> Kubectl:
    return Kubectl("1.37", kubectl_path("1.37"), plane.kubeconfig, tmp_path)


def talker(kubectl: Kubectl, script: str, **more: Any) -> str:
    """A pod of this name runs; its Namespace. `more`: fields of its container."""
    return pod_runs(kubectl, HOST, "talker", script, **more)


def test_attaching_hears_what_is_said_and_that_nothing_typed_arrives(kubectl: Kubectl) -> None:
    namespace = talker(kubectl, SAYS)
    with begun(kubectl, "attach", "-i", "-n", namespace, "talker") as attached:
        assert attached.stdout is not None and attached.stdout.readline() == b"tick\n"
        kubectl("exec", "-n", namespace, "talker", "--", "touch", "/tmp/end")
        out, err = attached.communicate(timeout=PATIENCE)
    assert out.endswith(b"last\n") and attached.returncode == 0
    assert b"This container has no standard input" in err


def test_what_a_command_does_not_read_is_not_taken(kubectl: Kubectl) -> None:
    """It filled the Spherelet's memory. What was taken arrives when the command reads."""
    namespace = talker(kubectl, "sleep 1000")
    script = "while [ ! -e /tmp/read ]; do sleep 0.05; done; wc -c"
    with begun(kubectl, "exec", "-i", "-n", namespace, "talker", "--", "sh", "-c", script) as running:
        given = given_until_full(running, MANY)
        assert given < MANY
        kubectl("exec", "-n", namespace, "talker", "--", "touch", "/tmp/read")
        assert running.stdin is not None and running.stdout is not None
        running.stdin.close()
        assert int(running.stdout.read()) == given


def test_files_are_copied_both_ways(kubectl: Kubectl, tmp_path: Path) -> None:
    """kubectl cp: tar in the container, over exec."""
    namespace = talker(kubectl, "sleep 1000")
    there = tmp_path / "there"
    (there / "below").mkdir(parents=True)
    (there / "below" / "a word").write_text("text")
    (there / "much").write_bytes(os.urandom(8 << 20))
    kubectl("cp", "-n", namespace, str(there), "talker:/tmp/there")
    assert kubectl("exec", "-n", namespace, "talker", "--", "cat", "/tmp/there/below/a word").out == "text"
    kubectl("cp", "-n", namespace, "talker:/tmp/there", str(tmp_path / "back"))
    assert (tmp_path / "back" / "much").read_bytes() == (there / "much").read_bytes()
    assert (tmp_path / "back" / "below" / "a word").read_text() == "text"


def test_a_command_ends_with_its_client(kubectl: Kubectl) -> None:
    """Also one that neither reads nor says anything, with as much on its way as may be, and of another user."""
    namespace = talker(kubectl, "sleep 1000", securityContext={"runAsUser": 1234})
    with begun(kubectl, "exec", "-i", "-n", namespace, "talker", "--", "sleep", "77") as running:
        assert running.stdin is not None
        os.set_blocking(running.stdin.fileno(), False)
        since = time.monotonic()
        while time.monotonic() - since < 1.0:
            try:
                os.write(running.stdin.fileno(), bytes(65536))
                since = time.monotonic()
            except BlockingIOError:
                time.sleep(0.01)
        commands = kubectl("exec", "-n", namespace, "talker", "--", "ps", "-eo", "args").out
        assert "sleep 77" in commands
        running.kill()
    until(
        lambda: "sleep 77" not in kubectl("exec", "-n", namespace, "talker", "--", "ps", "-eo", "args").out,
        "it goes on without its client",
    )


def test_open_terminals_hold_up_nothing(kubectl: Kubectl, plane: ControlPlane) -> None:
    """Each had a thread of the few that a process has for all that takes a while."""
    kubernetes = pytest.importorskip("kubernetes", reason="needs kubernetes: Python's client")
    from kubernetes.stream import stream

    namespace = talker(kubectl, "echo hello; exec sleep 1000")
    threads = min(32, (os.cpu_count() or 1) + 4)
    with kubernetes.config.new_client_from_config(str(plane.kubeconfig)) as client:
        core = kubernetes.client.CoreV1Api(client)
        asked: dict[str, Any] = {"stdin": True, "stdout": True, "tty": True, "_preload_content": False}
        opened = [
            stream(core.connect_get_namespaced_pod_exec, "talker", namespace, command=["cat"], **asked)
            for _ in range(threads + 1)
        ]
        try:
            assert kubectl("logs", "-n", namespace, "talker", "--tail=1", "--request-timeout=20s").out == "hello\n"
            for number, terminal in enumerate(opened):
                terminal.write_stdin(f"word {number}\n")
                said, end = "", time.monotonic() + PATIENCE
                while said.count(f"word {number}") < 2:  # its echo, and what cat says
                    assert time.monotonic() < end, said
                    terminal.update(timeout=1)
                    said += terminal.read_stdout() if terminal.peek_stdout() else ""
        finally:
            for terminal in opened:
                terminal.close()
