# SPDX-License-Identifier: Apache-2.0
"""`kubectl attach`, on a host of its own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.support.control_plane import PATIENCE, control_plane
from tests.support.kubectl import Kubectl, kubectl_path
from tests.support.spherelet import spherelet
from tests.support.spherelet_pods import is_ready, namespace_made, put_made, shell

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns]
HOST = "esx-1"
SAYS = "while [ ! -e /tmp/end ]; do echo tick; sleep 0.05; done; echo last"


def test_attaching_hears_what_is_said_and_that_nothing_typed_arrives(tmp_path: Path) -> None:
    with (
        control_plane(tmp_path / "plane", "--no-controllers") as plane,
        spherelet(plane, tmp_path / HOST, HOST, "--no-network"),
    ):
        kubectl = Kubectl("1.37", kubectl_path("1.37"), plane.kubeconfig, tmp_path)
        namespace = namespace_made(kubectl)
        pod = {"containers": [shell(SAYS)], "restartPolicy": "Never"}
        put_made(kubectl, namespace, HOST)("talker", pod, is_ready)
        environment = {"PATH": os.environ["PATH"], "HOME": str(kubectl.home), "KUBECONFIG": str(kubectl.kubeconfig)}
        command = [str(kubectl.path), "attach", "-i", "-n", namespace, "talker"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as attached:
            assert attached.stdout is not None and attached.stdout.readline() == "tick\n"
            kubectl("exec", "-n", namespace, "talker", "--", "touch", "/tmp/end")
            out, err = attached.communicate(timeout=PATIENCE)
        assert out.endswith("last\n") and attached.returncode == 0
        assert "A container here has no standard input" in err
