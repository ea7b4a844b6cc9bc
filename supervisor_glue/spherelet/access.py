# SPDX-License-Identifier: Apache-2.0
"""How a pod's containers reach the API: where it is, and as whom.

As kubelet and Kubernetes' admission of ServiceAccounts do it, so that any client's in-cluster configuration works
(https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/). The volume is made here, and does not stand in
the pod's spec.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import yaml

from supervisor_glue.api.status import Object
from supervisor_glue.auth.node import CLUSTER_INFO, PUBLIC, ROOT_CA
from supervisor_glue.controllers.objects import namespace_of, spec_of
from supervisor_glue.spherelet.sources import Sources

VOLUME: Final = "kube-api-access.pod"  # no name that a volume of the spec may have
PLACE: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
_TOKEN_SECONDS: Final = 3607  # as Kubernetes asks


async def api_environment(sources: Sources) -> dict[str, str]:
    """The variables of the service `kubernetes`, as kubelet gives them; none where pods do not reach the API. Raises
    ApiError, ConnectionError."""
    data = await sources.data("configMap", PUBLIC, CLUSTER_INFO)
    return api_variables(data.get("kubeconfig", b"")) if data else {}


def api_variables(kubeconfig: bytes) -> dict[str, str]:
    """The same, of what `cluster-info` says."""
    try:
        server = urlsplit(yaml.safe_load(kubeconfig)["clusters"][0]["cluster"]["server"])
        host, port = server.hostname, server.port
    except (yaml.YAMLError, LookupError, TypeError, ValueError):
        return {}
    if not host or not port:
        return {}
    url = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    one = f"KUBERNETES_PORT_{port}_TCP"
    return {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": str(port),
        "KUBERNETES_SERVICE_PORT_HTTPS": str(port),
        "KUBERNETES_PORT": url,
        one: url,
        f"{one}_PROTO": "tcp",
        f"{one}_PORT": str(port),
        f"{one}_ADDR": host,
    }


async def access_given(pod: Object, sources: Sources) -> bool:
    """Whether a pod's containers get its ServiceAccount's token: as the pod says, else as the account does. Raises
    ApiError, ConnectionError."""
    said = spec_of(pod).get("automountServiceAccountToken")
    if said is None:
        account = str(spec_of(pod).get("serviceAccountName") or "default")
        said = await sources.automount(namespace_of(pod), account)
    return bool(said)


def access_volume() -> Object:
    """Token, CA and Namespace: what Kubernetes' admission adds to a pod's volumes."""
    namespace = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
    root = {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}
    sources: list[Mapping[str, Any]] = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": _TOKEN_SECONDS}},
        {"configMap": root},
        {"downwardAPI": {"items": [namespace]}},
    ]
    return {"name": VOLUME, "projected": {"sources": sources}}


def access_mounted(container: Object) -> Object:
    """A container with that volume, unless it has something else there."""
    mounts = container.get("volumeMounts") or []
    if any(str(mount["mountPath"]).rstrip("/") == PLACE for mount in mounts):
        return container
    return {**container, "volumeMounts": [*mounts, {"name": VOLUME, "mountPath": PLACE, "readOnly": True}]}
