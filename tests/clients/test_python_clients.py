# SPDX-License-Identifier: Apache-2.0
"""Clients that we did not write: Python's kubernetes, kr8s, and an operator written with kopf."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.control_plane import PATIENCE, ControlPlane

POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "labels": {"app": "web"}},
    "spec": {"containers": [{"name": "main", "image": "host", "command": ["sleep", "1000"]}]},
}


@pytest.fixture
def core(plane: ControlPlane) -> Iterator[Any]:
    kubernetes = pytest.importorskip("kubernetes", reason="needs kubernetes: Python's client")
    with kubernetes.config.new_client_from_config(str(plane.kubeconfig)) as client:
        yield kubernetes.client.CoreV1Api(client)


@pytest.fixture
def namespace(core: Any) -> Iterator[str]:
    name = f"test-{secrets.token_hex(4)}"
    core.create_namespace({"metadata": {"name": name}})
    yield name
    core.delete_namespace(name)


def test_the_python_client(core: Any, namespace: str) -> None:
    kubernetes = pytest.importorskip("kubernetes")
    made = core.create_namespaced_pod(namespace, POD)
    assert made.status.phase == "Pending" and made.spec.restart_policy == "Always"
    core.patch_namespaced_pod("web", namespace, {"metadata": {"labels": {"x": "1"}}})
    (found,) = core.list_namespaced_pod(namespace, label_selector="x=1").items
    assert found.metadata.uid == made.metadata.uid
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "a"}, "data": {"k": "v"}})
    core.replace_namespaced_config_map("a", namespace, {"metadata": {"name": "a"}, "data": {"k": "w"}})
    assert core.read_namespaced_config_map("a", namespace).data == {"k": "w"}
    networking = kubernetes.client.NetworkingV1Api(core.api_client)
    policy = {"metadata": {"name": "none"}, "spec": {"podSelector": {}, "policyTypes": ["Ingress"]}}
    assert networking.create_namespaced_network_policy(namespace, policy).spec.policy_types == ["Ingress"]
    with pytest.raises(kubernetes.client.ApiException) as caught:
        core.create_namespaced_pod(namespace, POD)
    assert (caught.value.status, json.loads(caught.value.body)["reason"]) == (409, "AlreadyExists")
    core.delete_namespaced_pod("web", namespace)
    with pytest.raises(kubernetes.client.ApiException) as caught:
        core.read_namespaced_pod("web", namespace)
    assert caught.value.status == 404


def test_the_python_clients_watch(core: Any, namespace: str) -> None:
    kubernetes = pytest.importorskip("kubernetes")
    seen: list[tuple[str, str]] = []
    ready = core.list_namespaced_config_map(namespace, label_selector="of=test").metadata.resource_version

    def watch() -> None:
        for event in kubernetes.watch.Watch().stream(
            core.list_namespaced_config_map,
            namespace,
            label_selector="of=test",
            resource_version=ready,
            timeout_seconds=int(PATIENCE),
        ):
            seen.append((event["type"], event["object"].data["k"]))
            if event["type"] == "DELETED":
                return

    watching = threading.Thread(target=watch)
    watching.start()
    item = {"metadata": {"name": "a", "labels": {"of": "test"}}, "data": {"k": "1"}}
    core.create_namespaced_config_map(namespace, item)
    core.patch_namespaced_config_map("a", namespace, {"data": {"k": "2"}})
    core.delete_namespaced_config_map("a", namespace)
    watching.join(PATIENCE)
    assert seen == [("ADDED", "1"), ("MODIFIED", "2"), ("DELETED", "2")]


def test_the_python_clients_dynamic_side(core: Any, namespace: str) -> None:
    """Discovery, server-side apply and a custom kind."""
    dynamic = pytest.importorskip("kubernetes.dynamic")
    client = dynamic.DynamicClient(core.api_client)
    policies = client.resources.get(api_version="networking.k8s.io/v1", kind="NetworkPolicy")
    body = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "none", "namespace": namespace},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    }
    applied = client.server_side_apply(policies, body=body, field_manager="test", namespace=namespace)
    assert applied.metadata.managedFields[0].manager == "test"
    segments = client.resources.get(api_version="palisade.internal/v1alpha1", kind="Segment")
    assert isinstance(segments.get().items, list)


def test_kr8s(plane: ControlPlane, namespace: str) -> None:
    kr8s = pytest.importorskip("kr8s", reason="needs kr8s: another client")

    async def work() -> None:
        api = await kr8s.asyncio.api(kubeconfig=str(plane.kubeconfig))
        from kr8s.asyncio.objects import Pod

        metadata: dict[str, Any] = {**POD["metadata"], "namespace": namespace}  # type: ignore[dict-item]
        pod = await Pod({**POD, "metadata": metadata}, api=api)
        await pod.create()
        await pod.label({"x": "1"})
        found = [item async for item in api.get("pods", namespace=namespace, label_selector={"x": "1"})]
        assert [item.name for item in found] == ["web"]
        await pod.delete()
        assert not await pod.exists()

    asyncio.run(work())


OPERATOR = """
import kopf

@kopf.on.create("configmaps", labels={"operated": "yes"})
def made(name, namespace, patch, **_):
    patch.metadata.annotations["seen"] = name

@kopf.on.delete("configmaps", labels={"operated": "yes"})
def gone(**_):
    pass
"""


def test_an_operator_of_kopf(plane: ControlPlane, core: Any, namespace: str, tmp_path: Path) -> None:
    pytest.importorskip("kopf", reason="needs kopf: operators")
    code = tmp_path / "operator.py"
    code.write_text(OPERATOR)
    command = [sys.executable, "-m", "kopf", "run", "--standalone", "-n", namespace, str(code)]
    log = tmp_path / "log"
    environment = {"KUBECONFIG": str(plane.kubeconfig), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    with log.open("wb") as out:
        operator = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
    try:
        item = {"metadata": {"name": "a", "labels": {"operated": "yes"}}, "data": {}}
        core.create_namespaced_config_map(namespace, item)
        wait(
            lambda: (core.read_namespaced_config_map("a", namespace).metadata.annotations or {}).get("seen") == "a", log
        )
        core.delete_namespaced_config_map("a", namespace)  # its finalizer is taken away by the operator
        wait(lambda: "a" not in [m.metadata.name for m in core.list_namespaced_config_map(namespace).items], log)
    finally:
        operator.terminate()
        operator.wait(PATIENCE)


def wait(is_so: Any, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
