# SPDX-License-Identifier: Apache-2.0
"""What a host's certificate may do: its own part and nothing else.

After Kubernetes' node authorizer and its NodeRestriction admission
(https://kubernetes.io/docs/reference/access-authn-authz/node/). An authorizer sees no bodies, so that what is written
is looked at once more by `node_admit`, when it is known.

| of | a host may |
|---|---|
| Node, Host, HostStatus, Lease of its name | read; write its Node, Lease (kube-node-lease), HostStatus, Host's status |
| pods bound to it | get; list and watch by `spec.nodeName`; delete; write the status |
| ConfigMaps and Secrets that these pods use | get; list and watch by `metadata.name` |
| ServiceAccounts of these pods | get, create tokens |
| ConfigMap kube-public/cluster-info | get: where pods reach the API |
| span.palisade.internal | list and watch: it is served its own part only, whatever it asks |
| Events | create, change, about its Node, Host and pods |
| CertificateSigningRequests | create for itself; read those that it made |
"""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from collections.abc import Iterator
from typing import Final, TypeAlias

from supervisor_glue.api.kinds import OURS, SPAN
from supervisor_glue.api.status import Object, error_forbidden
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.signing import SIGNER_HOST, SigningError, request_read
from supervisor_glue.auth.user import NODE, User

LEASES: Final = "kube-node-lease"
PUBLIC: Final = "kube-public"
CLUSTER_INFO: Final = "cluster-info"
"""The ConfigMap that says where pods reach the API."""
ROOT_CA: Final = "kube-root-ca.crt"
"""The ConfigMap of each Namespace by which its pods know the API."""
_READ: Final = frozenset({"get", "list", "watch"})
_WRITE: Final = frozenset({"update", "patch"})

Reference: TypeAlias = "tuple[str, str, str]"
"""`("secrets", namespace, name)`."""
PodKey: TypeAlias = "tuple[str, str]"


class NodeAuthorizer:
    """What belongs to which host, as pods and requests come and go. A question costs a few look-ups."""

    def __init__(self) -> None:
        self._pods: dict[PodKey, tuple[str, frozenset[Reference]]] = {}
        self._used: dict[str, Counter[Reference]] = {}
        self._requests: dict[str, str] = {}

    def put(self, item: Object) -> None:
        """A Pod or CertificateSigningRequest was added or changed; other kinds are ignored."""
        metadata = item["metadata"]
        if item["kind"] == "Pod":
            key = (metadata["namespace"], metadata["name"])
            self._pod_forget(key)
            host = (item.get("spec") or {}).get("nodeName", "")
            if host:
                references = frozenset(pod_references(item))
                self._pods[key] = (host, references)
                self._used.setdefault(host, Counter()).update(references)
        elif item["kind"] == "CertificateSigningRequest":
            self._requests[metadata["name"]] = (item.get("spec") or {}).get("username", "")

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """An object was deleted."""
        if kind == "Pod":
            self._pod_forget((namespace, name))
        elif kind == "CertificateSigningRequest":
            self._requests.pop(name, None)

    def _pod_forget(self, key: PodKey) -> None:
        found = self._pods.pop(key, None)
        if found is not None:
            host, references = found
            used = self._used.get(host, Counter())
            used.subtract(references)
            for reference in references:
                if used[reference] <= 0:
                    del used[reference]
            if not used:
                self._used.pop(host, None)

    def host_of(self, namespace: str, name: str) -> str:
        """The host that a pod is bound to; empty: there is no such pod, or it is bound to none."""
        return self._pods.get((namespace, name), ("", frozenset()))[0]

    def decide(self, asked: Attributes) -> str | None:
        """None: it is the host's own. Else why it is not (empty: nothing of this kind is any host's)."""
        host = asked.user.host
        decision = _RESOURCES.get((asked.group, asked.resource))
        if asked.group == SPAN:
            return None if asked.verb in _READ and not asked.subresource else ""
        return "" if decision is None else decision(self, host, asked)

    def _own(self, host: str, asked: Attributes) -> str | None:
        """Node and HostStatus: an object of the host's name. A create names none; `node_admit` sees what it makes."""
        if asked.subresource not in ("", "status"):
            return ""
        if asked.verb == "create" and not asked.subresource and asked.name in ("", host):
            return None
        if asked.verb not in _READ | _WRITE:
            return ""
        return None if asked.name == host else _not_own(host, asked)

    def _host(self, host: str, asked: Attributes) -> str | None:
        if asked.subresource == "status":
            is_kind = asked.verb in _WRITE or asked.verb == "get"
        else:
            is_kind = not asked.subresource and asked.verb in _READ
        if not is_kind:
            return ""
        return None if asked.name == host else _not_own(host, asked)

    def _lease(self, host: str, asked: Attributes) -> str | None:
        if asked.namespace != LEASES:
            return f'can only access leases in the "{LEASES}" system namespace'
        if asked.verb == "create" and asked.name in ("", host):
            return None
        if asked.verb not in {"get", "update", "patch", "delete"} or asked.subresource:
            return ""
        return None if asked.name == host else "can only access node lease with the same name as the requesting node"

    def _pod(self, host: str, asked: Attributes) -> str | None:
        if asked.subresource == "status":
            is_kind = asked.verb in _WRITE or asked.verb == "get"
        else:
            is_kind = not asked.subresource and asked.verb in _READ | {"delete"}
        if not is_kind:
            return ""
        if asked.name:
            return None if self.host_of(asked.namespace, asked.name) == host else _unrelated(host)
        if asked.verb in ("list", "watch") and ("spec.nodeName", host) in asked.fields:
            return None
        return "can only list/watch pods with spec.nodeName field selector"

    def _used_by_pods(self, host: str, asked: Attributes) -> str | None:
        if asked.verb not in _READ or asked.subresource or not asked.name or not asked.namespace:
            return "can only get, or list and watch one by its name, resources of this type"
        reference = (asked.resource, asked.namespace, asked.name)
        is_used = reference in self._used.get(host, ()) or reference == ("configmaps", PUBLIC, CLUSTER_INFO)
        return None if is_used else _unrelated(host)

    def _account(self, host: str, asked: Attributes) -> str | None:
        if (asked.verb, asked.subresource) not in {("create", "token"), ("get", "")} or not asked.name:
            return ""
        reference = (asked.resource, asked.namespace, asked.name)
        return None if reference in self._used.get(host, ()) else _unrelated(host)

    def _event(self, _host: str, asked: Attributes) -> str | None:
        """What an Event is about only `node_admit` sees, as it was and as it is to be."""
        return None if asked.verb in _WRITE | {"create"} and not asked.subresource else ""

    def _request(self, host: str, asked: Attributes) -> str | None:
        if asked.subresource:
            return ""
        if asked.verb == "create":
            return None
        if asked.verb not in _READ:
            return ""
        return None if asked.name and self._requests.get(asked.name) == NODE + host else _unrelated(host)


_RESOURCES: Final = {
    ("", "nodes"): NodeAuthorizer._own,
    (OURS, "hoststatuses"): NodeAuthorizer._own,
    (OURS, "hosts"): NodeAuthorizer._host,
    ("coordination.k8s.io", "leases"): NodeAuthorizer._lease,
    ("", "pods"): NodeAuthorizer._pod,
    ("", "configmaps"): NodeAuthorizer._used_by_pods,
    ("", "secrets"): NodeAuthorizer._used_by_pods,
    ("", "serviceaccounts"): NodeAuthorizer._account,
    ("", "events"): NodeAuthorizer._event,
    ("certificates.k8s.io", "certificatesigningrequests"): NodeAuthorizer._request,
}


def node_admit(nodes: NodeAuthorizer, user: User, asked: Attributes, item: Object, old: Object | None = None) -> None:
    """What a host writes, as it is to be stored: for everybody else this says nothing. Raises ApiError 403."""
    host = user.host
    if not host:
        return
    why = _content_problem(nodes, host, asked, item, old)
    if why:
        name = item.get("metadata", {}).get("name", "") or asked.name
        raise error_forbidden(asked.resource, asked.group, name, why)


def _content_problem(nodes: NodeAuthorizer, host: str, asked: Attributes, item: Object, old: Object | None) -> str:
    key = (asked.group, asked.resource)
    metadata = item.get("metadata") or {}
    if key in {("", "nodes"), (OURS, "hoststatuses"), ("coordination.k8s.io", "leases")}:
        if metadata.get("name") != host:
            return f'node "{host}" is not allowed to modify {asked.resource} of node "{metadata.get("name", "")}"'
        if key == ("", "nodes") and old is not None and _taints(item) != _taints(old):
            return f'is not allowed to modify taints: node "{host}"'
        if key == ("", "nodes") and _reserved(item) != _reserved(old or {}):
            return f'node "{host}" is not allowed to modify labels with the prefix node-restriction.kubernetes.io/'
    if key == ("", "events"):
        for event in (item, old or item):
            if not _is_about(nodes, host, event.get("involvedObject") or event.get("regarding") or {}):
                return f'node "{host}" can only write events about itself and its pods'
    if key == ("certificates.k8s.io", "certificatesigningrequests"):
        return _request_problem(host, item)
    return ""


def _request_problem(host: str, item: Object) -> str:
    spec = item.get("spec") or {}
    try:
        request = request_read(b64decode(spec.get("request", ""), validate=True))
    except (SigningError, ValueError, TypeError):
        return "spec.request is no certificate request"
    if spec.get("signerName") != SIGNER_HOST or request.host != host:
        return f'node "{host}" can only create requests for its own certificate, by the signer {SIGNER_HOST}'
    return ""


def _is_about(nodes: NodeAuthorizer, host: str, about: Object) -> bool:
    kind, name = about.get("kind"), about.get("name", "")
    if kind in ("Node", "Host", "HostStatus"):
        return bool(name == host)
    return kind == "Pod" and nodes.host_of(about.get("namespace", ""), name) == host


def _taints(item: Object) -> object:
    return (item.get("spec") or {}).get("taints") or []


def _reserved(item: Object) -> dict[str, str]:
    labels = (item.get("metadata") or {}).get("labels") or {}
    return {key: value for key, value in labels.items() if "node-restriction.kubernetes.io/" in key}


def _not_own(host: str, asked: Attributes) -> str:
    if asked.name:
        return f"node '{host}' cannot access another node's {asked.resource}"
    return f"node '{host}' can only access {asked.resource} with its own name"


def _unrelated(host: str) -> str:
    return f"no relationship found between node '{host}' and this object"


def pod_references(pod: Object) -> Iterator[Reference]:
    """The ConfigMaps and Secrets that a pod's containers and volumes need, and its ServiceAccount."""
    namespace, spec = pod["metadata"]["namespace"], pod.get("spec") or {}
    yield "serviceaccounts", namespace, spec.get("serviceAccountName") or "default"
    if spec.get("automountServiceAccountToken") is not False:
        yield "configmaps", namespace, ROOT_CA
    for volume in spec.get("volumes") or ():
        projected = (volume.get("projected") or {}).get("sources") or ()
        for source in (volume, *projected):
            yield from _named(namespace, "configmaps", source.get("configMap"))
            yield from _named(namespace, "secrets", source.get("secret"))
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(key) or ():
            for variable in container.get("env") or ():
                source = variable.get("valueFrom") or {}
                yield from _named(namespace, "configmaps", source.get("configMapKeyRef"))
                yield from _named(namespace, "secrets", source.get("secretKeyRef"))
            for source in container.get("envFrom") or ():
                yield from _named(namespace, "configmaps", source.get("configMapRef"))
                yield from _named(namespace, "secrets", source.get("secretRef"))
    for reference in spec.get("imagePullSecrets") or ():
        yield from _named(namespace, "secrets", reference)


def _named(namespace: str, resource: str, source: Object | None) -> Iterator[Reference]:
    name = (source or {}).get("name") or (source or {}).get("secretName")
    if name:
        yield resource, namespace, name
