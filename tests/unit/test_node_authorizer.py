# SPDX-License-Identifier: Apache-2.0
"""What a host's certificate may do: every verb on every kind is asked, and only its own part is allowed."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from supervisor_glue.api.kinds import KINDS, OURS, SPAN
from supervisor_glue.api.status import ApiError
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.defaults import default_roles
from supervisor_glue.auth.node import node_admit, pod_references
from supervisor_glue.auth.signing import SIGNER_CLIENT, SIGNER_HOST, request_make
from supervisor_glue.auth.user import User

ESX1 = User("system:node:esx-1", ("system:nodes", "system:authenticated"), "h-1")
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")


def pod(name: str, host: str, **spec: Any) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"namespace": "shop", "name": name}, "spec": {"nodeName": host, **spec}}


def secret_volume(name: str) -> list[dict[str, Any]]:
    return [{"name": "v", "secret": {"secretName": name}}]


@pytest.fixture
def authorizer() -> Authorizer:
    made = Authorizer()
    for item in default_roles():
        made.put(item)
    made.put(pod("web", "esx-1", volumes=secret_volume("mine")))
    made.put(pod("db", "esx-2", volumes=secret_volume("theirs")))
    made.put(pod("waiting", ""))
    for host in ("esx-1", "esx-2"):
        request = {"username": f"system:node:{host}"}
        made.put({"kind": "CertificateSigningRequest", "metadata": {"name": f"csr-{host}"}, "spec": request})
    return made


def why(authorizer: Authorizer, verb: str, resource: str, name: str = "", **rest: Any) -> str | None:
    resource, _, subresource = resource.partition("/")
    user = rest.pop("user", ESX1)
    return authorizer.decide(Attributes(user, verb, resource=resource, subresource=subresource, name=name, **rest))


def may(authorizer: Authorizer, verb: str, resource: str, name: str = "", **rest: Any) -> bool:
    return why(authorizer, verb, resource, name, **rest) is None


def test_nothing_of_another_host_is_allowed(authorizer: Authorizer) -> None:
    """Every verb on every kind and subresource of the table, with what is esx-2's or nobody's."""
    names = {"pods": ("db", "waiting", "ghost"), "certificatesigningrequests": ("csr-esx-2", "ghost")}
    for kind in KINDS:
        for subresource in ("", *(item.name for item in kind.subresources)):
            for verb in VERBS:
                for name in names.get(kind.plural, ("esx-2", "theirs", "ghost")):
                    for namespace in ("shop", "kube-system", "kube-node-lease") if kind.namespaced else ("",):
                        question = Attributes(
                            ESX1, verb, kind.group, kind.version, kind.plural, subresource, namespace, name
                        )
                        # A create's name is in its body, and what an Event is about: node_admit sees that. Anybody
                        # may ask about himself.
                        is_about_oneself = kind.kind.startswith("Self")
                        is_made = verb == "create" and kind.plural == "certificatesigningrequests"
                        is_made |= verb in ("create", "update", "patch") and kind.plural == "events"
                        if not is_about_oneself and not (is_made and not subresource):
                            assert authorizer.decide(question) is not None, question


def test_secrets_are_read_one_at_a_time_by_who_runs_their_pods(authorizer: Authorizer) -> None:
    for verb in ("get", "list", "watch"):
        assert may(authorizer, verb, "secrets", "mine", namespace="shop")
        assert not may(authorizer, verb, "secrets", "mine", namespace="other")
        assert not may(authorizer, verb, "secrets", "mine")
        assert not may(authorizer, verb, "secrets", "theirs", namespace="shop")
        assert not may(authorizer, verb, "configmaps", "mine", namespace="shop")
    for verb in VERBS:
        assert may(authorizer, verb, "secrets", "mine", namespace="shop") == (verb in ("get", "list", "watch")), verb
        assert not may(authorizer, verb, "secrets", namespace="shop"), verb
    with pytest.raises(ApiError) as caught:
        authorizer.check(Attributes(ESX1, "get", resource="secrets", namespace="shop", name="theirs"))
    assert caught.value.message == (
        'secrets "theirs" is forbidden: User "system:node:esx-1" cannot get resource "secrets" in API group "" in the '
        "namespace \"shop\": no relationship found between node 'esx-1' and this object"
    )


def test_tokens_are_those_of_its_pods_accounts(authorizer: Authorizer) -> None:
    authorizer.put(pod("api", "esx-1", serviceAccountName="robot"))
    for account, allowed in (("robot", True), ("default", True), ("other", False)):
        assert may(authorizer, "create", "serviceaccounts/token", account, namespace="shop") == allowed
    assert not may(authorizer, "create", "serviceaccounts/token", "robot", namespace="other")
    assert [verb for verb in VERBS if may(authorizer, verb, "serviceaccounts", "robot", namespace="shop")] == ["get"]
    assert not any(may(authorizer, verb, "serviceaccounts", "other", namespace="shop") for verb in VERBS)


def test_where_pods_reach_the_api_is_known_to_hosts(authorizer: Authorizer) -> None:
    for name, namespace, allowed in (("cluster-info", "kube-public", True), ("cluster-info", "shop", False)):
        assert may(authorizer, "get", "configmaps", name, namespace=namespace) == allowed
    assert not may(authorizer, "get", "secrets", "cluster-info", namespace="kube-public")
    read = [verb for verb in VERBS if may(authorizer, verb, "configmaps", "cluster-info", namespace="kube-public")]
    assert read == ["get", "list", "watch"]
    assert may(authorizer, "get", "configmaps", "kube-root-ca.crt", namespace="shop")
    authorizer.put(pod("web", "esx-1", automountServiceAccountToken=False))
    assert not may(authorizer, "get", "configmaps", "kube-root-ca.crt", namespace="shop")


def test_what_a_pod_uses_goes_with_its_last_user(authorizer: Authorizer) -> None:
    def allowed() -> bool:
        return may(authorizer, "get", "secrets", "mine", namespace="shop")

    authorizer.put(pod("web-2", "esx-1", volumes=secret_volume("mine")))
    authorizer.forget("Pod", "shop", "web")
    assert allowed()
    authorizer.put(pod("web-2", "esx-1", volumes=secret_volume("mine")))  # seen once more
    assert allowed()
    authorizer.put(pod("web-2", "esx-1", volumes=[]))
    assert not allowed()
    authorizer.put(pod("web-3", "esx-2", volumes=secret_volume("mine")))
    assert not allowed()
    authorizer.forget("Pod", "shop", "ghost")


def test_the_pods_of_a_host_are_its_own(authorizer: Authorizer) -> None:
    for verb in ("get", "watch", "list", "delete"):
        assert may(authorizer, verb, "pods", "web", namespace="shop")
    for verb in ("get", "update", "patch"):
        assert may(authorizer, verb, "pods/status", "web", namespace="shop")
    for verb in ("create", "update", "patch", "deletecollection"):
        assert not may(authorizer, verb, "pods", "web", namespace="shop")
    for part in ("exec", "log", "attach", "binding", "eviction"):
        assert not any(may(authorizer, verb, f"pods/{part}", "web", namespace="shop") for verb in VERBS)
    for verb in ("list", "watch"):
        assert may(authorizer, verb, "pods", fields=(("spec.nodeName", "esx-1"),))
        for fields in ((), (("spec.nodeName", "esx-2"),), (("metadata.namespace", "shop"),)):
            assert why(authorizer, verb, "pods", fields=fields) == (
                "can only list/watch pods with spec.nodeName field selector"
            )


def test_a_hosts_own_objects(authorizer: Authorizer) -> None:
    for resource, group in (("nodes", ""), ("nodes/status", ""), ("hoststatuses", OURS), ("hoststatuses/status", OURS)):
        for verb in ("get", "update", "patch"):
            assert may(authorizer, verb, resource, "esx-1", group=group)
            assert not may(authorizer, verb, resource, "esx-2", group=group)
        assert not may(authorizer, "list", resource, group=group)
        assert not may(authorizer, "delete", resource, "esx-1", group=group)
    assert may(authorizer, "create", "nodes") and may(authorizer, "create", "hoststatuses", group=OURS)
    for verb in ("get", "list", "watch"):
        assert may(authorizer, verb, "hosts", "esx-1", group=OURS)
    for verb in ("create", "update", "patch", "delete"):
        assert not may(authorizer, verb, "hosts", "esx-1", group=OURS)
    assert may(authorizer, "patch", "hosts/status", "esx-1", group=OURS)
    lease = {"group": "coordination.k8s.io", "namespace": "kube-node-lease"}
    for verb in ("get", "update", "patch", "delete"):
        assert may(authorizer, verb, "leases", "esx-1", **lease)
        assert not may(authorizer, verb, "leases", "esx-2", **lease)
    assert may(authorizer, "create", "leases", **lease)
    assert not may(authorizer, "get", "leases", "esx-1", group="coordination.k8s.io", namespace="kube-system")


def test_the_span_is_read(authorizer: Authorizer) -> None:
    for verb in VERBS:
        assert may(authorizer, verb, "hostpolicies", group=SPAN) == (verb in ("get", "list", "watch"))
    jane = User("jane", ("system:authenticated",))
    assert not may(authorizer, "list", "hostpolicies", group=SPAN, user=jane)


def test_requests_are_read_by_who_made_them(authorizer: Authorizer) -> None:
    def asks(verb: str, name: str = "") -> bool:
        return may(authorizer, verb, "certificatesigningrequests", name, group="certificates.k8s.io")

    assert asks("create") and asks("get", "csr-esx-1") and asks("watch", "csr-esx-1")
    assert not asks("get", "csr-esx-2") and not asks("list") and not asks("delete", "csr-esx-1")
    assert not may(
        authorizer, "update", "certificatesigningrequests/approval", "csr-esx-1", group="certificates.k8s.io"
    )
    authorizer.forget("CertificateSigningRequest", "", "csr-esx-1")
    assert not asks("get", "csr-esx-1")


# Bodies.


def _admitted(authorizer: Authorizer, group: str, resource: str, item: Any, old: Any = None, user: User = ESX1) -> bool:
    try:
        node_admit(authorizer.nodes, user, Attributes(user, "create", group, resource=resource), item, old)
    except ApiError as error:
        assert error.code == 403
        return False
    return True


@pytest.mark.parametrize(
    ("group", "resource"), [("", "nodes"), (OURS, "hoststatuses"), ("coordination.k8s.io", "leases")]
)
def test_what_a_host_makes_has_its_name(authorizer: Authorizer, group: str, resource: str) -> None:
    assert _admitted(authorizer, group, resource, {"metadata": {"name": "esx-1"}})
    for metadata in ({"name": "esx-2"}, {"generateName": "esx-1"}, {}):
        assert not _admitted(authorizer, group, resource, {"metadata": metadata})
    assert _admitted(authorizer, group, resource, {"metadata": {"name": "esx-2"}}, user=User("jane"))


def test_a_host_does_not_lift_its_own_restrictions(authorizer: Authorizer) -> None:
    taint = [{"key": "drained", "effect": "NoSchedule"}]
    old = {"metadata": {"name": "esx-1", "labels": {"a": "b"}}, "spec": {"taints": taint}}
    assert _admitted(authorizer, "", "nodes", {**old, "metadata": {"name": "esx-1", "labels": {"a": "c"}}}, old)
    assert not _admitted(authorizer, "", "nodes", {**old, "spec": {}}, old)
    labels = {"a": "b", "secure.node-restriction.kubernetes.io/zone": "1"}
    assert not _admitted(authorizer, "", "nodes", {**old, "metadata": {"name": "esx-1", "labels": labels}}, old)


def test_events_are_about_itself(authorizer: Authorizer) -> None:
    def event(**values: str) -> dict[str, Any]:
        return {"metadata": {"name": "e"}, "involvedObject": values}

    def about(**values: str) -> bool:
        return _admitted(authorizer, "", "events", event(**values))

    assert about(kind="Node", name="esx-1") and about(kind="Pod", namespace="shop", name="web")
    assert not about(kind="Node", name="esx-2") and not about(kind="Pod", namespace="shop", name="db")
    assert not about(kind="Namespace", name="shop") and not about()
    assert not about(kind="Pod", namespace="shop", name="ghost")
    own, other = event(kind="Node", name="esx-1"), event(kind="Node", name="esx-2")
    assert _admitted(authorizer, "", "events", own, own)
    assert not _admitted(authorizer, "", "events", own, other) and not _admitted(authorizer, "", "events", other, own)


def test_a_host_asks_for_its_own_certificate(authorizer: Authorizer) -> None:
    key = ec.generate_private_key(ec.SECP256R1())

    def asks(user: str, groups: list[str], signer: str = SIGNER_HOST) -> bool:
        request = b64encode(request_make(key, user, groups)).decode()
        item = {"metadata": {"generateName": "csr-"}, "spec": {"request": request, "signerName": signer}}
        return _admitted(authorizer, "certificates.k8s.io", "certificatesigningrequests", item)

    assert asks("system:node:esx-1", ["system:nodes"])
    assert not asks("system:node:esx-2", ["system:nodes"]) and not asks("system:node:esx-1", ["system:masters"])
    assert not asks("system:node:esx-1", ["system:nodes"], SIGNER_CLIENT)
    item = {"spec": {"request": "%", "signerName": SIGNER_HOST}}
    assert not _admitted(authorizer, "certificates.k8s.io", "certificatesigningrequests", item)


def test_every_place_where_a_pod_names_a_secret_or_config_map() -> None:
    container = {
        "env": [
            {"valueFrom": {"secretKeyRef": {"name": "s1", "key": "k"}}},
            {"valueFrom": {"configMapKeyRef": {"name": "c1", "key": "k"}}},
            {"name": "plain", "value": "x"},
        ],
        "envFrom": [{"secretRef": {"name": "s2"}}, {"configMapRef": {"name": "c2"}}],
    }
    sources = [{"secret": {"name": "s3"}}, {"configMap": {"name": "c3"}}, {"downwardAPI": {}}]
    item = pod(
        "web",
        "esx-1",
        containers=[container],
        initContainers=[{"envFrom": [{"secretRef": {"name": "s4"}}]}],
        volumes=[
            *secret_volume("s5"),
            {"configMap": {"name": "c5"}},
            {"projected": {"sources": sources}},
            {"emptyDir": {}},
        ],
        imagePullSecrets=[{"name": "s6"}],
    )
    named = {(resource, name) for resource, _, name in pod_references(item)} - {("serviceaccounts", "default")}
    assert named == {("secrets", f"s{number}") for number in range(1, 7)} | {
        ("configmaps", f"c{number}") for number in (1, 2, 3, 5)
    } | {("configmaps", "kube-root-ca.crt")}
