# SPDX-License-Identifier: Apache-2.0
"""What an administrator may store and nobody thought of: a real API server refuses it or goes on, and a role that
cannot be read gives nobody anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.user import User
from tests.support.served_world import World, with_world

RBAC = "/apis/rbac.authorization.k8s.io/v1"
GROUP = "rbac.authorization.k8s.io"
REFERENCE = {"apiGroup": GROUP, "kind": "ClusterRole", "name": "view"}
REQUESTS = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
SUBJECTS: list[Any] = [
    *(None, "x", [None], [{}], [{"kind": "User"}], [{"kind": "User", "name": None}], [{"kind": "Robot", "name": "a"}]),
    [{"kind": "ServiceAccount", "name": "a"}],
]
REFERENCES: list[Any] = [
    *(
        None,
        {},
        "x",
        {"kind": "Role"},
        {"kind": "Pod", "name": "x"},
        {"name": "x"},
        {"kind": "ClusterRole", "name": None},
    ),
]
RULES: list[Any] = [
    *(None, "x", [None], [{}], [{"verbs": None}], [{"verbs": ["get"], "apiGroups": None, "resources": ["x"]}]),
    *(
        [{"verbs": "get", "apiGroups": [""], "resources": ["x"]}],
        [{"verbs": [1], "apiGroups": [""], "resources": ["x"]}],
    ),
]
SELECTORS: list[Any] = [
    *(None, {}, [None], [{"matchLabels": None}], [{"matchExpressions": [{}]}], [{"matchExpressions": [None]}]),
    [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": None}]}],
]
SPECS: list[Any] = [
    *(
        None,
        {},
        {"request": None, "signerName": None},
        {"request": "eA==", "signerName": "a/b", "usages": ["client auth"]},
    ),
]
VOLUMES: list[Any] = [
    *(None, [None], [{}], [{"name": "v", "secret": None}], [{"name": "v", "secret": {}}]),
    [{"name": "v", "projected": {"sources": [None, {"secret": None}]}}],
]


def cases() -> list[tuple[str, dict[str, Any]]]:
    """Path and object."""
    found: list[tuple[str, dict[str, Any]]] = []
    for kind in ("namespaces/shop/rolebindings", "clusterrolebindings"):
        subjects = [{"kind": "User", "name": "a", "apiGroup": GROUP}]
        found += [(f"{RBAC}/{kind}", {"roleRef": REFERENCE, "subjects": value}) for value in SUBJECTS]
        found += [(f"{RBAC}/{kind}", {"roleRef": value, "subjects": subjects}) for value in REFERENCES]
    for kind in ("namespaces/shop/roles", "clusterroles"):
        found += [(f"{RBAC}/{kind}", {"rules": value}) for value in RULES]
    found += [(f"{RBAC}/clusterroles", {"aggregationRule": {"clusterRoleSelectors": value}}) for value in SELECTORS]
    found += [(REQUESTS, {"spec": value}) for value in SPECS]
    container = {"name": "c", "image": "i", "env": [{"name": "a", "valueFrom": None}], "envFrom": [{}]}
    for value in VOLUMES:
        spec = {"nodeName": "esx-1", "containers": [container], "volumes": value, "imagePullSecrets": [{}, None]}
        found.append(("/api/v1/namespaces/shop/pods", {"spec": spec}))
    token = {"type": "bootstrap.kubernetes.io/token", "data": {"expiration": "////", "token-id": None}}
    found.append(("/api/v1/namespaces/kube-system/secrets", token))
    return found


def test_a_server_goes_on_whatever_is_stored(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        assert world.admin._session is not None
        refused = 0
        for path, body in cases():
            item = {"metadata": {"generateName": "m-"}, **body}
            async with world.admin._session.post(path, json=item) as answer:
                assert answer.status < 500, (path, body, await answer.text())
                refused += answer.status in (400, 403, 404, 422)
                assert answer.status != 201 or path != REQUESTS, body
        assert refused > 20
        await world.admin.request("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "last"}, "rules": []})
        assert world.process.cache.failed is None
        async with world.client("a") as nobody:
            with pytest.raises(Exception, match="forbidden"):
                await nobody.request("GET", "/api/v1/nodes")

    with_world(tmp_path, work)


QUESTIONS: list[Any] = [
    *(None, {}, [], "x", 5, {"verb": None, "resource": None}, {"verb": 5}, {"fieldSelector": {"requirements": [None]}}),
    *({"fieldSelector": {"requirements": [item]}} for item in ({}, {"operator": "In", "values": ["a"]})),
    {"fieldSelector": {"requirements": [{"key": "a", "operator": "In", "values": None}]}},
]
DURATIONS: list[Any] = [None, -1, 0, "x", 1.5, 10**30, True]


def test_a_question_is_answered_or_refused(tmp_path: Path) -> None:
    async def work(world: World) -> None:
        assert world.admin._session is not None
        reviews = "/apis/authorization.k8s.io/v1"
        token = "/api/v1/namespaces/shop/serviceaccounts/robot/token"
        account = {"metadata": {"name": "robot"}}
        await world.admin.request("POST", "/api/v1/namespaces/shop/serviceaccounts", account)
        asked: list[tuple[str, Any]] = [(token, {"spec": {"expirationSeconds": value}}) for value in DURATIONS]
        for kind in ("selfsubjectaccessreviews", "subjectaccessreviews", "namespaces/shop/localsubjectaccessreviews"):
            for value in QUESTIONS:
                specs = [{"user": "x", key: value} for key in ("resourceAttributes", "nonResourceAttributes", "extra")]
                asked += [(f"{reviews}/{kind}", {"spec": spec}) for spec in (*specs, value)]
        for value in QUESTIONS:
            asked += [(token, {"spec": value}), (f"{reviews}/selfsubjectrulesreviews", {"spec": value})]
        made = await world.admin.request("POST", token, {"spec": {"audiences": None, "expirationSeconds": None}})
        assert made["status"]["token"] and made["spec"]["expirationSeconds"] == 3600  # as kubectl sends it
        for path, body in asked:
            async with world.admin._session.post(path, json=body) as answer:
                assert answer.status in (201, 400, 422), (path, body, await answer.text())

    with_world(tmp_path, work)


def test_a_role_that_cannot_be_read_is_forgotten_until_it_can() -> None:
    authorizer = Authorizer()
    rule = {"verbs": ["get"], "apiGroups": [""], "resources": ["x"]}
    role = {"kind": "ClusterRole", "metadata": {"name": "r"}, "rules": [rule]}
    binding: dict[str, Any] = {
        "kind": "ClusterRoleBinding",
        "metadata": {"name": "b"},
        "roleRef": {"kind": "ClusterRole", "name": "r"},
        "subjects": [{"kind": "User", "name": "a"}],
    }
    asked = Attributes(User("a"), "get", resource="x")
    for good, bad in (
        (role, {**role, "rules": [None]}),
        (role, {**role, "aggregationRule": {"clusterRoleSelectors": [{"matchExpressions": [{}]}]}}),
        (binding, {**binding, "roleRef": None}),
        (binding, {**binding, "subjects": [{}]}),
    ):
        authorizer.put(role)
        authorizer.put(binding)
        assert authorizer.decide(asked) is None
        authorizer.put(bad)
        assert authorizer.decide(asked) is not None
        authorizer.put(good)
        assert authorizer.decide(asked) is None
