# SPDX-License-Identifier: Apache-2.0
"""kubectl that stays, with what it says and is told: exec -i, attach, run -i."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.kubectl import Kubectl
from tests.support.spherelet_pods import is_ready, namespace_made, put_made, shell

SILENCE = 2.0  # seconds in which nothing more is taken: then nothing will be


@contextmanager
def begun(kubectl: Kubectl, *arguments: str, terminal: int = -1) -> Iterator[subprocess.Popen[bytes]]:
    """kubectl, with pipes or on the inner end of a terminal."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(kubectl.home), "KUBECONFIG": str(kubectl.kubeconfig)}
    ends = subprocess.PIPE if terminal < 0 else terminal
    command = [str(kubectl.path), *arguments]
    with subprocess.Popen(command, env=environment, stdin=ends, stdout=ends, stderr=ends, start_new_session=True) as it:
        try:
            yield it
        finally:
            it.kill()


def pod_runs(kubectl: Kubectl, host: str, name: str, script: str, **more: object) -> str:
    """A pod of one container with this script runs; its Namespace. `more`: fields of the container."""
    namespace = namespace_made(kubectl)
    spec = {"containers": [shell(script, **more)], "restartPolicy": "Never", "terminationGracePeriodSeconds": 0}
    put_made(kubectl, namespace, host)(name, spec, is_ready)
    return namespace


def given_until_full(process: subprocess.Popen[bytes], most: int) -> int:
    """How many bytes of input were taken, at most so many, before nothing more was."""
    assert process.stdin is not None
    os.set_blocking(process.stdin.fileno(), False)
    given, since = 0, time.monotonic()
    while given < most and time.monotonic() - since < SILENCE:
        try:
            given += os.write(process.stdin.fileno(), bytes(65536))
            since = time.monotonic()
        except BlockingIOError:
            time.sleep(0.01)
    os.set_blocking(process.stdin.fileno(), True)
    return given
