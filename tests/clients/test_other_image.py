# SPDX-License-Identifier: Apache-2.0
"""`kubectl set image`: a container begins again with the other image, as kubelet has it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from supervisor_glue.spherelet.status import FIRST_PAUSE
from tests.support.control_plane import ControlPlane
from tests.support.kubectl import Kubectl, kubectl_path
from tests.support.patience import until
from tests.support.spherelet import Spherelet, host_alone, read
from tests.support.spherelet_pods import events, namespace_made, phase, put_made, reaches, shell

pytestmark = [pytest.mark.needs_root, pytest.mark.needs_netns]
HOST = "esx-1"
STAYS = {"restartPolicy": "Never", "containers": [shell("trap 'exit 1' TERM; sleep 1000 & wait")]}
Host = tuple[ControlPlane, Spherelet]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    with host_alone(tmp_path_factory.mktemp("host"), HOST) as found:
        yield found


@pytest.fixture
def kubectl(host: Host, tmp_path: Path) -> Kubectl:
    return Kubectl("1.37", kubectl_path("1.37"), host[0].kubeconfig, tmp_path)


def image_set(kubectl: Kubectl, namespace: str, name: str, image: str) -> None:
    kubectl("set", "image", f"pod/{name}", f"main={image}", "-n", namespace)


def runs(kubectl: Kubectl, namespace: str, name: str, starts: int) -> dict[str, Any]:
    """Its container's status, once it runs for the so many-th time; meanwhile the pod must not count as ended."""

    def is_there(pod: dict[str, Any]) -> bool:
        (status,) = pod["status"]["containerStatuses"]
        assert pod["status"]["phase"] == "Running", pod["status"]
        return status["restartCount"] == starts - 1 and "running" in status["state"]

    return dict(reaches(kubectl, namespace, name, is_there)["status"]["containerStatuses"][0])


def test_what_runs_begins_again_whatever_its_policy(kubectl: Kubectl, host: Host) -> None:
    namespace, spherelet = namespace_made(kubectl), host[1]
    put_made(kubectl, namespace, HOST)("stays", STAYS, phase("Running"))
    image_set(kubectl, namespace, "stays", "of-another-name")
    told = runs(kubectl, namespace, "stays", 2)
    assert told["image"] == "of-another-name" and told["lastState"]["terminated"]["exitCode"] == 1
    until(lambda: "Killing" in events(kubectl, namespace, "stays"), "no Event")
    assert events(kubectl, namespace, "stays")["Killing"] == (1, "Container main definition changed, will be restarted")
    spherelet.kill()
    image_set(kubectl, namespace, "stays", "host")
    spherelet.start()
    assert runs(kubectl, namespace, "stays", 3)["image"] == "host"  # changed while nobody looked


def test_what_waits_for_its_restart_begins_at_once(kubectl: Kubectl) -> None:
    namespace = namespace_made(kubectl)

    def backs_off(pod: dict[str, Any]) -> bool:
        (status,) = pod["status"].get("containerStatuses") or [{}]
        return status.get("restartCount") == 1 and "waiting" in status["state"]

    spec = {"containers": [{**shell("exec sleep 1000"), "image": "/no/such/root"}]}
    put_made(kubectl, namespace, HOST)("crash", spec, backs_off)
    image_set(kubectl, namespace, "crash", "host")
    told = runs(kubectl, namespace, "crash", 3)
    ended = datetime.fromisoformat(told["lastState"]["terminated"]["finishedAt"])
    begun = datetime.fromisoformat(told["state"]["running"]["startedAt"])
    assert begun - ended < timedelta(seconds=FIRST_PAUSE)  # which it was to wait, at least


def test_what_has_ended_stays_so(kubectl: Kubectl) -> None:
    namespace = namespace_made(kubectl)
    two = [shell("exit 3"), {**shell("exec sleep 1000"), "name": "beside"}]

    def is_half_done(pod: dict[str, Any]) -> bool:
        states = {item["name"]: item["state"] for item in pod["status"].get("containerStatuses", ())}
        return "terminated" in states.get("main", {}) and "running" in states.get("beside", {})

    put_made(kubectl, namespace, HOST)("half", {"restartPolicy": "Never", "containers": two}, is_half_done)
    image_set(kubectl, namespace, "half", "of-another-name")
    kubectl("set", "image", "pod/half", "beside=of-another-name", "-n", namespace)

    def counts(pod: dict[str, Any]) -> dict[str, int]:
        return {item["name"]: item["restartCount"] for item in pod["status"]["containerStatuses"]}

    ended = reaches(kubectl, namespace, "half", lambda pod: counts(pod)["beside"] == 1)
    assert counts(ended)["main"] == 0
    assert read(kubectl, namespace, "half")["status"]["phase"] == "Running"
