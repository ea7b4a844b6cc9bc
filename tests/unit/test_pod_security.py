# SPDX-License-Identifier: Apache-2.0
"""What a pod may ask of its host."""

from __future__ import annotations

from typing import Any

import pytest

from supervisor_glue.api.pod_security import ENFORCE, pod_security_check
from supervisor_glue.api.status import ApiError


def made(container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "a"},
        "spec": {"containers": [{"name": "c", "image": "host", **(container or {})}], **spec},
    }


@pytest.mark.parametrize(
    ("pod", "told"),
    [
        (made({"securityContext": {"privileged": True}}), 'privileged (container "c" must not set'),
        (made({"securityContext": {"capabilities": {"add": ["CAP_SYS_ADMIN"]}}}), 'must not include "CAP_SYS_ADMIN"'),
        (made({"ports": [{"containerPort": 80, "hostPort": 80}]}), 'hostPort (container "c"'),
        (made(hostNetwork=True, hostPID=True), "host namespaces (hostNetwork=true, hostPID=true)"),
        (made(volumes=[{"name": "v", "hostPath": {"path": "/"}}]), "hostPath volumes (v)"),
        (made(initContainers=[{"name": "i", "securityContext": {"privileged": True}}]), 'container "i"'),
    ],
)
def test_what_goes_too_far_is_refused(pod: dict[str, Any], told: str) -> None:
    with pytest.raises(ApiError) as caught:
        pod_security_check(pod, {"metadata": {"labels": {}}})
    assert caught.value.code == 403 and told in caught.value.message
    assert caught.value.message.startswith('pods "a" is forbidden: violates PodSecurity "baseline:latest": ')
    pod_security_check(pod, {"metadata": {"labels": {ENFORCE: "privileged"}}})


def test_ordinary_pods_pass() -> None:
    usual = {"capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}, "runAsUser": 1000}
    pod_security_check(made({"securityContext": usual}), None)


def test_everything_is_told_at_once() -> None:
    with pytest.raises(ApiError) as caught:
        pod_security_check(made({"securityContext": {"privileged": True}}, hostIPC=True), None)
    assert "host namespaces" in caught.value.message and "privileged" in caught.value.message
