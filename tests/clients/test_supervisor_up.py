# SPDX-License-Identifier: Apache-2.0
"""`palisade supervisor up`: it starts, it ends, and what was acknowledged is there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from dfw import cli
from supervisor_glue.auth.kubeconfig import kubeconfig_read
from supervisor_glue.auth.tls import client_context
from tests.support.control_plane import PATIENCE, control_plane, control_plane_start
from tests.support.kubectl import Kubectl, kubectl_path


def test_it_ends_when_it_is_told(tmp_path: Path) -> None:
    """With a watch open, and within 10 s."""
    with control_plane(tmp_path) as plane:
        kubectl = Kubectl("1.37", kubectl_path("1.37"), plane.kubeconfig, tmp_path)
        kubectl("create", "namespace", "x")
        command = [str(kubectl.path), "--kubeconfig", str(plane.kubeconfig), "get", "namespaces", "--watch-only"]
        watching = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        begun = time.monotonic()
        assert plane.stop() == 0
        assert time.monotonic() - begun < 10  # what the contract says
        watching.terminate()
        watching.wait(PATIENCE)


def test_what_was_acknowledged_is_there_after_kill(tmp_path: Path) -> None:
    acknowledged = []
    for round_ in range(3):
        plane = control_plane_start(tmp_path)
        try:
            kubectl = Kubectl("1.37", kubectl_path("1.37"), plane.kubeconfig, tmp_path)
            for number in range(3):
                name = f"n{round_}-{number}"
                kubectl("create", "namespace", name)
                acknowledged.append(name)
        finally:
            plane.process.send_signal(signal.SIGKILL)
            plane.process.wait()
    with control_plane(tmp_path) as plane:
        kubectl = Kubectl("1.37", kubectl_path("1.37"), plane.kubeconfig, tmp_path)
        there = kubectl("get", "namespaces", "-o", "name").out.split()
    assert {f"namespace/{name}" for name in acknowledged} <= set(there)


def test_ready_without_credentials_and_nothing_else(tmp_path: Path) -> None:
    with control_plane(tmp_path) as plane:
        config = kubeconfig_read(plane.kubeconfig)
        context = client_context(config.authority)
        for path in ("/readyz", "/livez", "/healthz"):
            assert urllib.request.urlopen(config.server + path, context=context).read() == b"ok"
        for path in ("/api/v1/namespaces", "/version", "/openapi/v2", "/apis", "/", "/metrics"):
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(config.server + path, context=context)
            assert caught.value.code == 401, path


@pytest.mark.parametrize(
    ("listen", "wrong"),
    [("127.0.0.1", "is no ADDRESS:PORT"), ("host:1", "is no address"), ("127.0.0.1:70000", "is no ADDRESS:PORT")],
)
def test_wrong_addresses_are_told(tmp_path: Path, listen: str, wrong: str) -> None:
    command = [sys.executable, "-m", "dfw", "supervisor", "up", "--listen", listen, "--data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 2 and wrong in done.stderr


@pytest.mark.parametrize(
    ("option", "value", "wrong"),
    [
        ("--store", "etcd=nowhere", "'nowhere' is no ADDRESS:PORT"),
        ("--store", "etcd=1.2.3.4:0", "'1.2.3.4:0' is no ADDRESS:PORT"),
        ("--leg", "esx-1", "'esx-1' is no HOST=NETNS"),
        ("--certificate-life", "soon", "'soon' is no duration"),
    ],
)
def test_wrong_options_are_told_by_name(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], option: str, value: str, wrong: str
) -> None:
    assert cli.run(["supervisor", "up", "--data", str(tmp_path / "data"), option, value]) == 2
    told = capfd.readouterr().err
    assert option in told and wrong in told and not (tmp_path / "data").exists()


def test_a_leg_that_is_not_there_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["supervisor", "up", "--listen", "127.0.0.1:0", "--data", str(tmp_path), "--leg", "h=/nowhere/ns"]
    assert cli.run(command) == 3
    assert "No such file" in (told := capfd.readouterr().err) and "a network namespace that is there: --leg h=" in told


def test_a_second_one_on_the_same_data_is_refused(tmp_path: Path) -> None:
    with control_plane(tmp_path) as plane:
        command = [
            sys.executable,
            "-m",
            "dfw",
            "supervisor",
            "up",
            "--listen",
            "127.0.0.1:0",
            "--data",
            str(plane.data),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
        assert done.returncode == 3, done.stderr
