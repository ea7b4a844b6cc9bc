# SPDX-License-Identifier: Apache-2.0
"""Objects that clients send as protobuf (`application/vnd.kubernetes.protobuf`): kubectl from 1.32 on sends what its
`create`, `auth` and `delete` make so, and does not fall back to JSON. Answers are JSON, which it takes.

The envelope: https://kubernetes.io/docs/reference/using-api/api-concepts/#protobuf-encoding. Field numbers are those of
each kind's generated.proto. What is not in the table is refused: a field passed over would be a weaker object.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from supervisor_glue.api.body import body_read
from supervisor_glue.api.protobuf_pod import POD_MESSAGES
from supervisor_glue.api.status import ApiError, Object, error_bad_request

PROTOBUF: Final = "application/vnd.kubernetes.protobuf"
_MAGIC: Final = b"k8s\x00"

# By message: number, name and type of each field. Types: text, whole (64 bits), small (32), flag, bytes, time,
# microtime, port (a number or a name), json (its text), quantity, another message; `[x]` many of them; `{x}` by key;
# `<x>` a message whose fields JSON has beside the others; count and mark: small and flag where Go writes 0 for none.
MESSAGES: Final[dict[str, str]] = {
    "Unknown": "1 typeMeta TypeMeta, 2 raw bytes, 3 contentEncoding text, 4 contentType text",
    "TypeMeta": "1 apiVersion text, 2 kind text",
    "ObjectMeta": (
        "1 name text, 2 generateName text, 3 namespace text, 4 selfLink text, 5 uid text, 6 resourceVersion "
        "text, 7 generation whole, 8 creationTimestamp time, 9 deletionTimestamp time, 10 "
        "deletionGracePeriodSeconds whole, 11 labels {text}, 12 annotations {text}, 13 ownerReferences "
        "[OwnerReference], 14 finalizers [text], 17 managedFields [ManagedFieldsEntry]"
    ),
    "ManagedFieldsEntry": (
        "1 manager text, 2 operation text, 3 apiVersion text, 4 time time, 6 fieldsType text, 7 fieldsV1 json, "
        "8 subresource text"
    ),
    "OwnerReference": (
        "1 kind text, 3 name text, 4 uid text, 5 apiVersion text, 6 controller flag, 7 blockOwnerDeletion flag"
    ),
    "ObjectReference": (
        "1 kind text, 2 namespace text, 3 name text, 4 uid text, 5 apiVersion text, 6 resourceVersion text, 7 "
        "fieldPath text"
    ),
    "LocalObjectReference": "1 name text",
    "LabelSelector": "1 matchLabels {text}, 2 matchExpressions [LabelSelectorRequirement]",
    "LabelSelectorRequirement": "1 key text, 2 operator text, 3 values [text]",
    "Preconditions": "1 uid text, 2 resourceVersion text",
    "DeleteOptions": (
        "1 gracePeriodSeconds whole, 2 preconditions Preconditions, 3 orphanDependents flag, 4 "
        "propagationPolicy text, 5 dryRun [text], 6 ignoreStoreReadErrorWithClusterBreakingPotential flag"
    ),
    "Binding": "1 metadata ObjectMeta, 2 target ObjectReference",
    "Eviction": "1 metadata ObjectMeta, 2 deleteOptions DeleteOptions",
    "Namespace": "1 metadata ObjectMeta, 2 spec NamespaceSpec, 3 status NamespaceStatus",
    "NamespaceSpec": "1 finalizers [text]",
    "NamespaceStatus": "1 phase text",
    "ServiceAccount": (
        "1 metadata ObjectMeta, 2 secrets [ObjectReference], 3 imagePullSecrets [LocalObjectReference], 4 "
        "automountServiceAccountToken flag"
    ),
    "Secret": "1 metadata ObjectMeta, 2 data {bytes}, 3 type text, 4 stringData {text}, 5 immutable flag",
    "ConfigMap": "1 metadata ObjectMeta, 2 data {text}, 3 binaryData {bytes}, 4 immutable flag",
    "Event": (
        "1 metadata ObjectMeta, 2 involvedObject ObjectReference, 3 reason text, 4 message text, 5 source "
        "EventSource, 6 firstTimestamp time, 7 lastTimestamp time, 8 count small, 9 type text, 10 eventTime "
        "microtime, 11 series EventSeries, 12 action text, 13 related ObjectReference, 14 reportingComponent "
        "text, 15 reportingInstance text"
    ),
    "EventSource": "1 component text, 2 host text",
    "EventSeries": "1 count small, 2 lastObservedTime microtime",
    "Lease": "1 metadata ObjectMeta, 2 spec LeaseSpec",
    "LeaseSpec": (
        "1 holderIdentity text, 2 leaseDurationSeconds small, 3 acquireTime microtime, 4 renewTime microtime, "
        "5 leaseTransitions small, 6 strategy text, 7 preferredHolder text"
    ),
    "Role": "1 metadata ObjectMeta, 2 rules [PolicyRule]",
    "ClusterRole": "1 metadata ObjectMeta, 2 rules [PolicyRule], 3 aggregationRule AggregationRule",
    "AggregationRule": "1 clusterRoleSelectors [LabelSelector]",
    "PolicyRule": (
        "1 verbs [text], 2 apiGroups [text], 3 resources [text], 4 resourceNames [text], 5 nonResourceURLs [text]"
    ),
    "RoleBinding": "1 metadata ObjectMeta, 2 subjects [Subject], 3 roleRef RoleRef",
    "ClusterRoleBinding": "1 metadata ObjectMeta, 2 subjects [Subject], 3 roleRef RoleRef",
    "Subject": "1 kind text, 2 apiGroup text, 3 name text, 4 namespace text",
    "RoleRef": "1 apiGroup text, 2 kind text, 3 name text",
    "SelfSubjectAccessReview": "1 metadata ObjectMeta, 2 spec SelfSubjectAccessReviewSpec, 3 status ReviewStatus",
    "SelfSubjectAccessReviewSpec": (
        "1 resourceAttributes ResourceAttributes, 2 nonResourceAttributes NonResourceAttributes"
    ),
    "ReviewStatus": "1 allowed flag, 2 reason text, 3 evaluationError text, 4 denied flag",
    "ResourceAttributes": (
        "1 namespace text, 2 verb text, 3 group text, 4 version text, 5 resource text, 6 subresource text, 7 name text"
    ),
    "NonResourceAttributes": "1 path text, 2 verb text",
    "SelfSubjectRulesReview": "1 metadata ObjectMeta, 2 spec SelfSubjectRulesReviewSpec, 3 status RulesReviewStatus",
    "SelfSubjectRulesReviewSpec": "1 namespace text",
    "RulesReviewStatus": "3 incomplete flag, 4 evaluationError text",
    "SelfSubjectReview": "1 metadata ObjectMeta, 2 status SelfSubjectReviewStatus",
    "SelfSubjectReviewStatus": "1 userInfo UserInfo",
    "UserInfo": "1 username text, 2 uid text, 3 groups [text]",
    "TokenRequest": "1 metadata ObjectMeta, 2 spec TokenRequestSpec, 3 status TokenRequestStatus",
    "TokenRequestSpec": "1 audiences [text], 3 boundObjectRef BoundObjectReference, 4 expirationSeconds whole",
    "TokenRequestStatus": "1 token text, 2 expirationTimestamp time",
    "BoundObjectReference": "1 kind text, 2 apiVersion text, 3 name text, 4 uid text",
    "CertificateSigningRequest": (
        "1 metadata ObjectMeta, 2 spec CertificateSigningRequestSpec, 3 status CertificateSigningRequestStatus"
    ),
    "CertificateSigningRequestSpec": (
        "1 request bytes, 2 username text, 3 uid text, 4 groups [text], 5 usages [text], 7 signerName text, 8 "
        "expirationSeconds small"
    ),
    "CertificateSigningRequestStatus": "1 conditions [CertificateSigningRequestCondition], 2 certificate bytes",
    "CertificateSigningRequestCondition": (
        "1 type text, 2 reason text, 3 message text, 4 lastUpdateTime time, 5 lastTransitionTime time, 6 status text"
    ),
    "NetworkPolicy": "1 metadata ObjectMeta, 2 spec NetworkPolicySpec",
    "NetworkPolicySpec": (
        "1 podSelector LabelSelector, 2 ingress [NetworkPolicyIngressRule], 3 egress "
        "[NetworkPolicyEgressRule], 4 policyTypes [text]"
    ),
    "NetworkPolicyIngressRule": "1 ports [NetworkPolicyPort], 2 from [NetworkPolicyPeer]",
    "NetworkPolicyEgressRule": "1 ports [NetworkPolicyPort], 2 to [NetworkPolicyPeer]",
    "NetworkPolicyPort": "1 protocol text, 2 port port, 3 endPort small",
    "NetworkPolicyPeer": "1 podSelector LabelSelector, 2 namespaceSelector LabelSelector, 3 ipBlock IPBlock",
    "IPBlock": "1 cidr text, 2 except [text]",
    # What stands for the types that JSON writes in one value.
    "Time": "1 seconds whole, 2 nanos small",
    "IntOrString": "1 type whole, 2 intVal small, 3 strVal text",
    "FieldsV1": "1 raw bytes",
    "Quantity": "1 string text",
    **POD_MESSAGES,
}
_STANDING: Final = {
    "time": "Time",
    "microtime": "Time",
    "port": "IntOrString",
    "json": "FieldsV1",
    "quantity": "Quantity",
}
_SCALARS: Final = {
    "text": 9,
    "whole": 3,
    "small": 5,
    "flag": 8,
    "bytes": 12,
    "count": 5,
    "mark": 8,
}  # FieldDescriptorProto.Type
KINDS: Final = frozenset(
    name for name, fields in MESSAGES.items() if "metadata ObjectMeta" in fields or name == "DeleteOptions"
)


@cache
def _fields(message: str) -> Mapping[str, tuple[int, str, str]]:
    """By name: number, type, and how many (`[`, `{` or nothing; `<`: its fields stand for it)."""
    found = {}
    for part in MESSAGES[message].split(","):
        number, name, kind = part.split()
        found[name] = (int(number), kind.strip("[]{}<>"), kind[0] if kind[0] in "[{<" else "")
    return found


@cache
def _class_of(message: str) -> type[Any]:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="kubernetes.proto", package="kubernetes", syntax="proto2")
    for name in MESSAGES:
        made = file.message_type.add(name=name)
        for field, (number, kind, many) in _fields(name).items():
            row = made.field.add(name=field, number=number, label=3 if many in ("[", "{") else 1)
            if many == "{":
                entry = made.nested_type.add(name=f"{field[0].upper()}{field[1:]}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=9)
                held = entry.field.add(name="value", number=2, label=1)
                if kind in _SCALARS:
                    held.type = _SCALARS[kind]  # type: ignore[assignment]
                else:
                    held.type, held.type_name = 11, f".kubernetes.{_STANDING.get(kind, kind)}"  # type: ignore[assignment]
                row.type, row.type_name = 11, f".kubernetes.{name}.{entry.name}"  # type: ignore[assignment]
            elif kind in _SCALARS:
                row.type = _SCALARS[kind]  # type: ignore[assignment]
            else:
                row.type, row.type_name = 11, f".kubernetes.{_STANDING.get(kind, kind)}"  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"kubernetes.{message}"))


def protobuf_read(data: bytes) -> Object:
    """An object as JSON would have it. Raises ApiError: 400 for what cannot be read, 415 for a kind that this form is
    not known of."""
    from google.protobuf.message import DecodeError

    if not data.startswith(_MAGIC):
        raise error_bad_request("provided data does not appear to be a protobuf message, expected prefix 'k8s\\x00'")
    try:
        envelope = _class_of("Unknown").FromString(data[len(_MAGIC) :])
        kind, version = envelope.typeMeta.kind, envelope.typeMeta.apiVersion
        if kind not in KINDS:
            told = f"{kind or 'an object'} cannot be sent as protobuf here: send it as application/json"
            raise ApiError(415, "UnsupportedMediaType", told)
        message = _class_of(kind).FromString(envelope.raw)
    except DecodeError as error:
        raise error_bad_request(f"the protobuf message could not be read: {error}") from None
    return {"kind": kind, "apiVersion": version, **_plain(kind, message, kind)}


def _plain(message: str, value: Any, path: str) -> Object:
    from google.protobuf.unknown_fields import UnknownFieldSet

    unknown: Iterable[Any] = UnknownFieldSet(value)  # type: ignore[assignment]
    for field in unknown:
        raise error_bad_request(
            f"the protobuf message has a field that is not known here: {path}, {field.field_number}"
        )
    found: Object = {}
    for name, (_, kind, many) in _fields(message).items():
        items: Any
        if many == "{":
            items = {key: _single(kind, item, f"{path}.{name}") for key, item in getattr(value, name).items()}
        elif many == "[":
            items = [_single(kind, item, f"{path}.{name}") for item in getattr(value, name)]
        elif value.HasField(name):
            single = _single(kind, getattr(value, name), f"{path}.{name}")
            if many == "<":
                found |= single
            elif single not in ("", None) and not (kind in ("count", "mark") and not single):
                # Go writes its empty text, too, which JSON leaves out.
                found[name] = single
            continue
        else:
            continue
        if items:
            found[name] = items
    return found


def _single(kind: str, value: Any, path: str) -> Any:
    if kind in _SCALARS:
        return _scalar(kind, value)
    if kind == "port":
        return value.strVal if value.type == 1 else value.intVal
    if kind == "quantity":
        return value.string
    if kind == "json":
        return body_read(value.raw).value
    if kind in ("time", "microtime"):
        return _time(value, kind == "microtime")
    return _plain(kind, value, path)


def _scalar(kind: str, value: Any) -> Any:
    return base64.b64encode(value).decode() if kind == "bytes" else value


def _time(value: Any, micro: bool) -> str | None:
    if not value.HasField("seconds"):
        return None
    try:
        moment = datetime.fromtimestamp(value.seconds, UTC)
    except (ValueError, OverflowError, OSError):
        raise error_bad_request(f"{value.seconds} seconds are no time") from None
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{value.nanos // 1000:06d}Z" if micro else text + "Z"
