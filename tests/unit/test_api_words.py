# SPDX-License-Identifier: Apache-2.0
"""Selectors, paths and queries, bodies as protobuf, ages, and the API's words for what is wrong."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from supervisor_glue.api.kinds import BY_NAME, NAMESPACES, PODS
from supervisor_glue.api.protobuf import KINDS, MESSAGES, protobuf_read
from supervisor_glue.api.request import options_of, target_of
from supervisor_glue.api.selectors import selector_parse
from supervisor_glue.api.status import ApiError
from supervisor_glue.api.strategy import strategy_of
from supervisor_glue.api.tables import duration_text
from tests.support.kubectl import kubectl_path

POLICIES = BY_NAME["networking.k8s.io", "v1", "networkpolicies"]
ROLES = BY_NAME["rbac.authorization.k8s.io", "v1", "roles"]
SECRETS = BY_NAME["", "v1", "secrets"]
DATA = Path(__file__).resolve().parent.parent.parent.parent / "shared" / "data"


@pytest.mark.parametrize(
    ("text", "labels", "wanted"),
    [
        ("app=a", {"app": "a"}, True),
        ("app==a", {"app": "b"}, False),
        ("app!=a", {}, True),
        ("app", {"app": ""}, True),
        ("!app", {"app": "x"}, False),
        ("app in (a, b)", {"app": "b"}, True),
        ("app notin (a,b)", {}, True),
        ("app in (a,)", {"app": ""}, True),
        ("x.y/app=a,app!=b", {"x.y/app": "a", "app": "c"}, True),
        ("n>3,n<10", {"n": "5"}, True),
        ("n>3", {"n": "x"}, False),
        (" a = b , c ", {"a": "b", "c": "d"}, True),
        ("a=", {"a": ""}, True),
    ],
)
def test_label_selectors(text: str, labels: dict[str, str], wanted: bool) -> None:
    assert selector_parse(PODS, text, "").matches({"metadata": {"labels": labels}}) is wanted


@pytest.mark.parametrize(
    "text", ["a in", "a in (", "a in (b", "=b", "a,,b", "a b", "a=(b)", "-a=b", "a>b", "a=b,", "(", "!"]
)
def test_wrong_selectors_are_refused(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        selector_parse(PODS, text, "")
    assert caught.value.code == 400


@given(st.text(alphabet="ab=!,()<> in/.-", max_size=30))
def test_any_selector_is_read_or_refused(text: str) -> None:
    try:
        selector_parse(PODS, text, "").matches({"metadata": {}})
    except ApiError as error:
        assert error.code == 400


def test_field_selectors() -> None:
    pod = {"metadata": {"name": "a", "namespace": "x"}, "spec": {"nodeName": "esx-1"}, "status": {"phase": "Running"}}
    for text, wanted in (
        ("spec.nodeName=esx-1", True),
        ("spec.nodeName!=esx-1", False),
        ("metadata.name=a,status.phase=Running", True),
        ("status.podIP=", True),
        ("spec.hostNetwork=false", True),
    ):
        assert selector_parse(PODS, "", text).matches(pod) is wanted, text
    with pytest.raises(ApiError, match=r"field label not supported: spec\.image"):
        selector_parse(PODS, "", "spec.image=x")
    with pytest.raises(ApiError, match="field label not supported"):
        selector_parse(NAMESPACES, "", "metadata.namespace=x")


@pytest.mark.parametrize(
    ("method", "path", "watch", "wanted"),
    [
        ("GET", "/api/v1/pods", False, ("list", "pods", "", "", "")),
        ("GET", "/api/v1/pods", True, ("watch", "pods", "", "", "")),
        ("GET", "/api/v1/namespaces/x/pods/a", False, ("get", "pods", "x", "a", "")),
        ("GET", "/api/v1/namespaces/x/pods/a", True, ("watch", "pods", "x", "a", "")),
        ("GET", "/api/v1/namespaces/x/pods/a/log", False, ("get", "pods", "x", "a", "log")),
        ("PUT", "/api/v1/namespaces/x/finalize", False, ("update", "namespaces", "", "x", "finalize")),
        ("PATCH", "/api/v1/namespaces/x/status", False, ("patch", "namespaces", "", "x", "status")),
        ("GET", "/api/v1/namespaces/x", False, ("get", "namespaces", "", "x", "")),
        ("DELETE", "/api/v1/namespaces/x/pods", False, ("deletecollection", "pods", "x", "", "")),
        (
            "POST",
            "/apis/networking.k8s.io/v1/namespaces/x/networkpolicies",
            False,
            ("create", "networkpolicies", "x", "", ""),
        ),
    ],
)
def test_paths(method: str, path: str, watch: bool, wanted: tuple[str, ...]) -> None:
    target = target_of(method, path, watch)
    assert target is not None
    assert (target.verb, target.kind.plural, target.namespace, target.name, target.subresource) == wanted


@pytest.mark.parametrize(
    ("method", "path", "code"),
    [
        ("GET", "/api/v1/unknown", 404),
        ("GET", "/apis/apps/v1/deployments", 404),
        ("GET", "/api/v1/pods/a", 404),
        ("GET", "/api/v1/namespaces/x/nodes", 404),
        ("GET", "/api/v1/namespaces/x/pods/a/unknown", 404),
        ("GET", "/api/v1/namespaces/x/pods/a/log/more", 404),
        ("POST", "/api/v1/pods", 405),
        ("PUT", "/api/v1/namespaces/x/pods", 405),
        ("POST", "/api/v1/namespaces/x/pods/a", 405),
        ("DELETE", "/api/v1/namespaces", 405),
        ("OPTIONS", "/api/v1/pods", 405),
    ],
)
def test_paths_that_are_not_served(method: str, path: str, code: int) -> None:
    with pytest.raises(ApiError) as caught:
        target_of(method, path, False)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "x"},
        {"resourceVersion": "abc"},
        {"dryRun": "Some"},
        {"fieldValidation": "Maybe"},
        {"resourceVersionMatch": "Exact"},
        {"resourceVersionMatch": "Other", "resourceVersion": "1"},
        {"watch": "true", "sendInitialEvents": "true"},
        {"watch": "true", "resourceVersionMatch": "NotOlderThan"},
        {"fieldManager": "x" * 129},
    ],
)
def test_wrong_queries_are_refused(query: dict[str, str]) -> None:
    with pytest.raises(ApiError) as caught:
        options_of(query, changes=True)
    assert caught.value.code in (400, 422)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (-1, "0s"), (119, "119s"), (120, "2m"), (150, "2m30s"), (599, "9m59s"), (600, "10m"),
        (3 * 3600 - 1, "179m"), (3 * 3600, "3h"), (3 * 3600 + 60, "3h1m"), (8 * 3600, "8h"),
        (48 * 3600, "2d"), (50 * 3600, "2d2h"),
        (9 * 86400, "9d"), (730 * 86400, "2y"), (-5, "<invalid>"),
    ],
)  # fmt: skip
def test_ages(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# ---- protobuf -----------------------------------------------------------------------------------------------------


@pytest.mark.needs_shared_data("kubectl-traces")
def test_recorded_protobuf_bodies() -> None:
    bodies = {
        row["request"].partition("?")[0]: protobuf_read(bytes.fromhex(row["hex"]))
        for row in json.loads((DATA / "kubectl-traces" / "protobuf-bodies.json").read_text())
    }
    namespace = bodies["POST /api/v1/namespaces"]
    assert (namespace["kind"], namespace["metadata"]["name"]) == ("Namespace", "demo2")
    review = bodies["POST /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"]
    assert review["spec"]["resourceAttributes"] == {
        "namespace": "demo",
        "verb": "create",
        "group": "networking.k8s.io",
        "resource": "networkpolicies",
    }


def envelope(kind: str, raw: bytes) -> bytes:
    meta = b"\x0a\x02v1\x12" + bytes([len(kind)]) + kind.encode()
    return b"k8s\x00\x0a" + bytes([len(meta)]) + meta + b"\x12" + bytes([len(raw)]) + raw


def test_a_field_that_is_not_known_is_refused() -> None:
    with pytest.raises(ApiError, match="a field that is not known here: Namespace, 9"):
        protobuf_read(envelope("Namespace", b"\x4a\x01x"))
    with pytest.raises(ApiError) as caught:
        protobuf_read(envelope("Node", b""))
    assert caught.value.code == 415


@pytest.mark.parametrize("version", ["1.27", "1.33"])
def test_field_numbers_are_kubectls(version: str) -> None:
    """Older kubectls hold the descriptors of all messages that they send (a gzip file each)."""
    program = kubectl_path(version).read_bytes()
    known: dict[str, list[dict[int, str]]] = {}
    for found in re.finditer(re.escape(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"), program):
        try:
            raw = zlib.decompressobj(31).decompress(program[found.start() : found.start() + (1 << 21)])
            file = descriptor_pb2.FileDescriptorProto.FromString(raw)
        except (zlib.error, DecodeError):
            continue
        for message in file.message_type:
            known.setdefault(message.name, []).append({field.number: field.name for field in message.field})
    assert len(known) > 500
    others = {"ReviewStatus", "RulesReviewStatus", "FieldsV1"}  # ours, or spelt otherwise
    later = {"SleepAction", "AppArmorProfile", "PodResourceClaim", "ResourceHealth", "ResourceStatus", "HostIP"}
    later |= {"ContainerUser", "LinuxContainerUser", "VolumeMountStatus", "PodResourceClaimStatus"}
    for name, text in MESSAGES.items():
        ours = {int(part.split()[0]): part.split()[1] for part in text.split(",")}
        if name in others or (version == "1.27" and name in later):
            continue
        assert any(
            all(theirs.get(number, field).lower() == field.lower() for number, field in ours.items())
            and (version == "1.27" or ours.keys() <= theirs.keys())
            for theirs in known[name]
        ), (name, ours, known[name])


@given(st.sampled_from(sorted(KINDS)), st.binary(max_size=100))
def test_any_bytes_are_read_or_refused(kind: str, raw: bytes) -> None:
    for data in (envelope(kind, raw), raw, b"k8s\x00" + raw):
        try:
            protobuf_read(data)
        except ApiError as error:
            assert error.code in (400, 415)


# ---- what is wrong with an object ------------------------------------------------------------------------------------


def told(kind: Any, **rest: Any) -> list[str]:
    metadata = {"name": "a", **({"namespace": "x"} if kind.namespaced else {}), **rest.pop("metadata", {})}
    item = {"metadata": metadata, **rest}
    return [f"{cause.field}: {cause.message}" for cause in strategy_of(kind).validate(item)]


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        ({"from": [{}]}, "spec.ingress[0].from[0]: Required value: must specify a peer"),
        (
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]},
            "spec.ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer",
        ),
        (
            {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]},
            'spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`',
        ),
        ({"from": [{"ipBlock": {}}]}, "spec.ingress[0].from[0].ipBlock.cidr: Required value"),
        (
            {"ports": [{"protocol": "ICMP"}]},
            'spec.ingress[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"',
        ),
        (
            {"ports": [{"protocol": "TCP", "port": 0}]},
            "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            {"ports": [{"protocol": "TCP", "port": 80, "endPort": 79}]},
            "spec.ingress[0].ports[0].endPort: Invalid value: 79: must be greater than or equal to `port`",
        ),
        (
            {"ports": [{"protocol": "TCP", "port": "http", "endPort": 90}]},
            "spec.ingress[0].ports[0].endPort: Forbidden: may not be specified when `port` is non-numeric",
        ),
        (
            {"ports": [{"protocol": "TCP", "endPort": 90}]},
            "spec.ingress[0].ports[0].endPort: Forbidden: may not be specified when `port` is not specified",
        ),
        (
            {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "In"}]}}]},
            "spec.ingress[0].from[0].podSelector.matchExpressions[0].values: Required value: must be specified when"
            " `operator` is 'In' or 'NotIn'",
        ),
        (
            {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}}]},
            "spec.ingress[0].from[0].podSelector.matchExpressions[0].values: Forbidden: may not be specified when"
            " `operator` is 'Exists' or 'DoesNotExist'",
        ),
        (
            {"from": [{"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like"}]}}]},
            'spec.ingress[0].from[0].podSelector.matchExpressions[0].operator: Invalid value: "Like": not a valid'
            " selector operator",
        ),
    ],
)  # fmt: skip
def test_network_policies(rule: dict[str, Any], wanted: str) -> None:
    assert told(POLICIES, spec={"podSelector": {}, "ingress": [rule]}) == [wanted]


def test_host_bits_are_accepted() -> None:
    rule = {
        "from": [
            {"ipBlock": {"cidr": "10.1.2.3/8", "except": ["10.9.9.9/16"]}},
            {"ipBlock": {"cidr": "2001:db8::1/64"}},
        ]
    }
    assert told(POLICIES, spec={"podSelector": {}, "ingress": [rule]}) == []


@pytest.mark.parametrize(
    ("container", "wanted"),
    [
        ({"name": "c"}, "spec.containers[0].image: Required value"),
        ({"image": "host"}, "spec.containers[0].name: Required value"),
        (
            {"name": "c", "image": "host", "volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            'spec.containers[0].volumeMounts[0].name: Not found: "v"',
        ),
        (
            {"name": "c", "image": "host", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "500m"}}},
            'spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of'
            " 500m",
        ),
        (
            {"name": "c", "image": "host", "readinessProbe": {}},
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
        ),
    ],
)
def test_pods(container: dict[str, Any], wanted: str) -> None:
    assert wanted in told(
        PODS, spec={"containers": [container], "restartPolicy": "Always", "dnsPolicy": "ClusterFirst"}
    )


def test_names_and_labels() -> None:
    assert any(
        "a lowercase RFC 1123 label must consist of" in text for text in told(NAMESPACES, metadata={"name": "A.b"})
    )
    assert told(NAMESPACES, metadata={"name": ""}) == [
        "metadata.name: Required value: name or generateName is required"
    ]
    (wrong,) = told(SECRETS, metadata={"labels": {"a": "-"}})
    assert wrong.startswith('metadata.labels: Invalid value: "-": a valid label must be an empty string or consist of')


def test_roles_and_secrets() -> None:
    assert told(ROLES, rules=[{"verbs": [], "resources": ["pods"], "apiGroups": [""]}]) == [
        "rules[0].verbs: Required value: verbs must contain at least one value"
    ]
    assert told(ROLES, rules=[{"verbs": ["get"], "nonResourceURLs": ["/x"]}]) == [
        'rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs'
    ]
    assert told(SECRETS, data={"a b": ""})[0].startswith('data[a b]: Invalid value: "a b": a valid config key must')
    assert told(SECRETS, type="kubernetes.io/tls", data={}) == [
        "data[tls.crt]: Required value",
        "data[tls.key]: Required value",
    ]


@pytest.mark.parametrize(("said", "refused"), [("isolated", False), ("none", False), ("yes", True), ("Isolated", True)])
def test_a_namespace_that_was_meant_to_be_isolated_is_not_open(said: str, refused: bool) -> None:
    """A word that means nothing was taken for none."""
    where = "metadata.annotations[palisade.internal/isolation]"
    told = [f'{where}: Unsupported value: "{said}": supported values: "isolated", "none"'] if refused else []
    plain: dict[str, Any] = {"metadata": {"name": "shop"}}
    item = {"metadata": {"name": "shop", "annotations": {"palisade.internal/isolation": said}}}
    strategy = strategy_of(NAMESPACES)
    for found in (strategy.validate(item), strategy.validate_change(plain, item, "")):
        assert [f"{cause.field}: {cause.message}" for cause in found] == told
    again = {"metadata": {**item["metadata"], "labels": {"a": "b"}}}  # as an earlier version has let it through
    assert strategy.validate_change(item, again, "") == []
