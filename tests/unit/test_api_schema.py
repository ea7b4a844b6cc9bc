# SPDX-License-Identifier: Apache-2.0
"""Kinds' schemas, and what an API server says about objects that don't fit them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from supervisor_glue.api.body import MOST_DEPTH, body_read
from supervisor_glue.api.decode import IGNORE, STRICT, WARN, object_decode, object_shape
from supervisor_glue.api.quantity import quantity_canonical
from supervisor_glue.api.schema import ListType, Sort, schema_of, schemas_loaded
from supervisor_glue.api.status import ApiError

POD = schema_of("", "v1", "Pod")
POLICY = schema_of("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy")


def refusal(data: object, validation: str = STRICT) -> ApiError:
    with pytest.raises(ApiError) as caught:
        object_decode(POD, "Pod", "v1", body_read(json.dumps(data).encode()), validation)
    return caught.value


def test_every_kind_resolves() -> None:
    for kind, name in schemas_loaded()["kinds"].items():
        node = schema_of(*kind.split("/"))
        assert node.name == name
        assert node.sort in (Sort.STRUCT, Sort.ANY)
        if "metadata" in node.fields and not kind.endswith("List"):
            assert "labels" in node.fields["metadata"].fields or kind == "/v1/Status"


def test_lists_and_maps_are_merged_as_kubernetes_says() -> None:
    spec = POD.fields["spec"]
    containers = spec.fields["containers"]
    assert (containers.list_type, containers.keys, containers.patch_key) == (ListType.MAP, ("name",), "name")
    ports = containers.values.fields["ports"]
    assert (ports.keys, ports.patch_key) == (("containerPort", "protocol"), "containerPort")
    assert ports.values.fields["protocol"].default == "TCP"
    assert spec.fields["volumes"].patch_strategies == {"merge", "retainKeys"}
    assert POD.fields["metadata"].fields["finalizers"].list_type is ListType.SET
    network = schema_of("networking.k8s.io", "v1", "NetworkPolicy").fields["spec"]
    assert network.fields["podSelector"].atomic
    assert network.fields["ingress"].list_type is ListType.ATOMIC
    assert network.fields["ingress"].values.fields["ports"].values.fields["port"].sort is Sort.INT_OR_STRING
    assert schema_of("", "v1", "Secret").fields["data"].values.sort is Sort.BYTES
    assert not POLICY.built_in
    assert POLICY.fields["metadata"].built_in


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"spec": {"containers": {"a": 1}}},
            "object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        ({"spec": {"hostNetwork": "x"}}, "string into Go struct field PodSpec.spec.hostNetwork of type bool"),
        ({"metadata": {"labels": {"a": 1}}}, "number into Go struct field ObjectMeta.metadata.labels of type string"),
        ({"spec": 3}, "number into Go struct field Pod.spec of type v1.PodSpec"),
        (
            {"spec": {"containers": [{"ports": [{"containerPort": 1.5}]}]}},
            "number 1.5 into Go struct field ContainerPort.spec.containers.ports.containerPort of type int32",
        ),
        ([], "array into Go value of type v1.Pod"),
    ],
)
def test_a_wrong_type_is_refused_in_gos_words(data: object, said: str) -> None:
    error = refusal(data)
    assert (error.code, error.reason) == (400, "BadRequest")
    assert error.message == f'Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal {said}'


def test_wrong_types_of_a_custom_kind_are_all_named() -> None:
    body = body_read(b'{"metadata":{"name":"x"},"spec":{"priority":"a","subject":[]}}')
    with pytest.raises(ApiError) as caught:
        object_decode(POLICY, "ClusterNetworkPolicy", "v1alpha2", body)
    assert caught.value.code == 422
    assert [cause["field"] for cause in caught.value.details["causes"]] == ["spec.priority", "spec.subject"]
    assert 'spec.priority in body must be of type integer: "string"' in caught.value.message


def test_unknown_and_duplicate_fields() -> None:
    containers = b'"containers":[{"name":"c","image":"i","imagePullPlicy":2}]'
    body = body_read(b'{"metadata":{"name":"x","name":"y"},"spec":{"foo":1,' + containers + b"}}")
    said = (
        'unknown field "spec.foo"',
        'unknown field "spec.containers[0].imagePullPlicy"',
        'duplicate field "metadata.name"',
    )
    with pytest.raises(ApiError) as caught:
        object_decode(POD, "Pod", "v1", body, STRICT)
    assert caught.value.message.endswith("strict decoding error: " + ", ".join(said))
    warned = object_decode(POD, "Pod", "v1", body, WARN)
    assert warned.warnings == said
    assert warned.object == {
        "metadata": {"name": "y"},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    }
    assert object_decode(POD, "Pod", "v1", body, IGNORE) == (warned.object, ())


def test_warnings_fit_into_headers() -> None:
    item = {"metadata": {"name": "x"}, 'a\n\x7f"': 1, **{f"field{number:04d}" + "x" * 300: 1 for number in range(1000)}}
    told = object_decode(POD, "Pod", "v1", body_read(json.dumps(item).encode()), WARN).warnings
    assert told[0] == r'unknown field "a\n\x7f\""'
    assert len(told) == 16
    assert all(len(text) <= 256 for text in told)
    error = refusal(item)
    assert error.message.count("unknown field") == 100


def test_what_is_stored_is_what_go_would_write() -> None:
    written = {
        "metadata": {"name": "a", "creationTimestamp": None, "labels": {}, "annotations": {"x": None}},
        "spec": {
            "containers": [{"name": "c", "env": None, "resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}],
            "volumes": [],
            "securityContext": {},
        },
    }
    assert object_shape(POD, written).value == {
        "metadata": {"name": "a", "annotations": {"x": ""}},
        "spec": {
            "containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}],
            "securityContext": {},
        },
    }
    role = {"metadata": {"name": "r"}, "rules": []}
    assert object_shape(schema_of("rbac.authorization.k8s.io", "v1", "Role"), role).value == role
    policy: dict[str, Any] = {"metadata": {"name": "p"}, "spec": {"ingress": []}}
    assert object_shape(POLICY, policy).value == policy
    own = {"metadata": {"name": "s"}, "spec": {"anything": {"goes": [None]}}}
    assert object_shape(schema_of("palisade.internal", "v1alpha1", "Supervisor"), own).value == own


def test_our_own_kinds_have_the_inventorys_fields() -> None:
    from dfw.inventory import KINDS

    for kind, (_, fields) in KINDS.items():
        spec = schema_of("palisade.internal", "v1alpha1", kind).fields["spec"]
        assert set(spec.fields) == set(fields) - {"name"}


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        *(("0.5", "500m"), ("1024Mi", "1Gi"), ("1000", "1k"), ("1500m", "1500m"), ("1.5Gi", "1536Mi"), ("100", "100")),
        *(("0", "0"), ("0Gi", "0"), ("1e3", "1e3"), ("0.1Ki", "102400m"), ("-1", "-1"), ("1000m", "1"), (".5", "500m")),
    ],
)
def test_quantities(written: str, stored: str) -> None:
    assert quantity_canonical(written) == stored
    assert quantity_canonical(stored) == stored


@pytest.mark.parametrize("written", ["", "x", "1.2.3", "1 Gi", "1gi", "--1", "1" * 200, "1e9999", "१"])
def test_no_quantities(written: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        quantity_canonical(written)


@pytest.mark.parametrize(
    ("data", "media"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b'{"a": NaN}', "application/json"),
        (b"[" * 5000, "application/json"),
        (b"[" * (MOST_DEPTH + 2) + b"]" * (MOST_DEPTH + 2), "application/json"),
        (b"1" * 5000, "application/json"),
        (b"a: [", "application/yaml"),
        (b"a: !!python/object:os.system x", "application/yaml"),
        (b"a: .nan", "application/yaml"),
        (b"a: &a [*a]", "application/yaml"),
        (
            b"a: &a [x, x, x, x, x, x, x, x, x, x]\n"
            + b"".join(b"%c: &%c [%s]\n" % (98 + n, 98 + n, b", ".join([b"*%c" % (97 + n)] * 10)) for n in range(9)),
            "application/yaml",
        ),
        (b"[" * 5000, "application/apply-patch+yaml"),
        (b"a: 1\n---\nb: 2\n", "application/yaml"),
    ],
)
def test_a_body_that_is_none_is_a_bad_request(data: bytes, media: str) -> None:
    with pytest.raises(ApiError) as caught:
        body_read(data, media)
    assert caught.value.code == 400


def test_bodies() -> None:
    assert body_read(b"a: yes\nb: 010\n1: {c: 1}\na: 2\n", "application/yaml") == (
        {"a": 2, "b": 10, "1": {"c": 1}},
        ("a",),
    )
    assert body_read(b'{"a": "\\ud800"}').value == {"a": "\ufffd"}
    assert body_read(b'{"a": "\xff"}').value == {"a": "\ufffd"}
    assert body_read(b"{a: 1, a: 2}", "application/apply-patch+yaml") == ({"a": 2}, ("a",))
