# SPDX-License-Identifier: Apache-2.0
"""A Spherelet's pods in tests: containers to begin with, what is waited for, what was told of them."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from typing import Any

from tests.support.kubectl import Kubectl
from tests.support.patience import until
from tests.support.spherelet import bind, read

Put = Callable[..., dict[str, Any]]


def namespace_made(kubectl: Kubectl) -> str:
    """A new Namespace with what its pods wait for, which the controllers would make."""
    name = f"test-{secrets.token_hex(4)}"
    kubectl("create", "namespace", name)
    kubectl("create", "serviceaccount", "default", "-n", name)
    kubectl("create", "configmap", "kube-root-ca.crt", "-n", name, "--from-literal=ca.crt=a CA")
    return name


def put_made(kubectl: Kubectl, namespace: str, host: str) -> Put:
    """Of a Namespace: makes a pod, binds it to the host, and waits until it says what is expected."""

    def made(name: str, spec: dict[str, Any], wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": name}}, "spec": spec}
        kubectl("create", "-n", namespace, "--validate=false", "-f", "-", given=json.dumps(pod))
        bind(kubectl, namespace, name, host)
        return reaches(kubectl, namespace, name, wanted)

    return made


def reaches(kubectl: Kubectl, namespace: str, name: str, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The pod, once it is as it should be."""

    def found() -> dict[str, Any] | None:
        pod = read(kubectl, namespace, name)
        return pod if wanted(pod) else None

    return until(found, f"pod {name} does not get there: {read(kubectl, namespace, name)['status']}")


def phase(word: str) -> Callable[[dict[str, Any]], bool]:
    """In this phase?"""
    return lambda pod: pod["status"].get("phase") == word


def is_ready(pod: dict[str, Any]) -> bool:
    """Has it the condition Ready?"""
    return any(item["type"] == "Ready" and item["status"] == "True" for item in pod["status"].get("conditions", ()))


def shell(script: str, **more: Any) -> dict[str, Any]:
    """A container that runs a script; `more`: other fields."""
    return {"name": "main", "image": "host", "command": ["/bin/sh", "-c", script], **more}


def events(kubectl: Kubectl, namespace: str, name: str) -> dict[str, tuple[int, str]]:
    """By reason: how often, and the words of the last."""
    items = json.loads(kubectl("get", "events", "-n", namespace, "-o", "json").out)["items"]
    found: dict[str, tuple[int, str]] = {}
    for item in (item for item in items if item["involvedObject"]["name"] == name):
        found[item["reason"]] = (found.get(item["reason"], (0, ""))[0] + item["count"], item["message"])
    return found
