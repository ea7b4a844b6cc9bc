# SPDX-License-Identifier: Apache-2.0
"""Nodes and pods for the scheduler's tests."""

from __future__ import annotations

from typing import Any

from supervisor_glue.controllers.objects import object_made
from supervisor_glue.controllers.resources import NODES, PODS

HOST = "kubernetes.io/hostname"


def node(name: str, cpu: str = "4", memory: str = "8Gi", *, pods: int = 110, **spec: Any) -> dict[str, Any]:
    labels = {HOST: name, **spec.pop("labels", {})}
    made = object_made(NODES, name, spec=spec, labels=labels)
    made["status"] = {"capacity": {"cpu": cpu, "memory": memory, "pods": str(pods)}}
    return made


def pod(
    name: str, namespace: str = "shop", cpu: str = "0", memory: str = "0", *, labels: Any = None, **spec: Any
) -> dict[str, Any]:
    container = {"name": "main", "resources": {"requests": {"cpu": cpu, "memory": memory}}}
    made = object_made(PODS, name, namespace, spec={"containers": [container], **spec}, labels=labels or {})
    made["metadata"]["uid"] = f"{namespace}/{name}"
    return made
