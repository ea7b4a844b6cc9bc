# SPDX-License-Identifier: Apache-2.0
"""What becomes of a CertificateSigningRequest: approved, signed, refused, or left to a person. Pure.

https://kubernetes.io/docs/reference/access-authn-authz/certificate-signing-requests/
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

from supervisor_glue.api.client import Resource
from supervisor_glue.api.conditions import condition_made
from supervisor_glue.api.status import Object
from supervisor_glue.auth.pki import Authority
from supervisor_glue.auth.signing import (
    LONGEST,
    SIGNER_CLIENT,
    SIGNER_HOST,
    SIGNERS,
    Request,
    SigningError,
    request_read,
    request_sign,
    usages_check,
)
from supervisor_glue.auth.user import BOOTSTRAP, BOOTSTRAPPERS, FRONT_PROXY, MASTERS, NODE, NODES

REQUESTS: Final = Resource("certificates.k8s.io", "v1", "certificatesigningrequests")
JOINED: Final = "palisade.internal/joined"
"""A Host's annotation: the CertificateSigningRequest by which it has joined."""
FOR_HOST: Final = f"{BOOTSTRAPPERS}:host:"
"""Groups of join tokens that are for one host only, which may have joined before."""
AUTOMATIC: Final = "AutoApproved"
"""The reason of an approval that no person gave."""
_RESERVED: Final = frozenset((MASTERS, NODES, FRONT_PROXY))
"""Groups in which nobody comes by asking."""
KEPT_DONE: Final = timedelta(hours=1)
KEPT_WAITING: Final = timedelta(hours=24)
"""As Kubernetes' csrcleaner has them."""


@dataclass(frozen=True, slots=True)
class Approve:
    """It is right: by whom it is asked says so."""

    message: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """It cannot be signed: the condition Failed (`denied`: Denied), and why."""

    reason: str
    message: str
    denied: bool = False


@dataclass(frozen=True, slots=True)
class Sign:
    """It is approved. `host`: whose it will be, empty: no host's."""

    host: str


@dataclass(frozen=True, slots=True)
class Remove:
    """It is old."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing is to be done, but perhaps after so many seconds."""

    seconds: float


Step: TypeAlias = Approve | Refuse | Sign | Remove | Wait


def plan_request(item: Object, host: Object | None, now: datetime) -> Step:
    """The next step. `host`: the Host whose certificate it would be (`request_host`), None where there is none yet."""
    age = now - _time(item, now)
    conditions = {entry["type"]: entry for entry in (item.get("status") or {}).get("conditions") or ()}
    is_done = bool((item.get("status") or {}).get("certificate")) or not {"Denied", "Failed"}.isdisjoint(conditions)
    kept = KEPT_DONE if is_done else KEPT_WAITING
    if age >= kept:
        return Remove()
    if is_done or item["spec"].get("signerName") not in SIGNERS:
        return Wait((kept - age).total_seconds())
    try:
        request = _checked(item)
    except SigningError as error:
        return Refuse("SignerValidationFailure", str(error))
    of_host = item["spec"].get("signerName") == SIGNER_HOST
    step = _host_step(item, request, host, kept - age) if of_host else Wait((kept - age).total_seconds())
    approved = conditions.get("Approved")
    if approved is None:
        return step
    if approved.get("reason") == AUTOMATIC and isinstance(step, Refuse):  # another has joined meanwhile
        return replace(step, denied=False)
    return Sign(request.host if of_host else "")


def _host_step(item: Object, request: Request, host: Object | None, left: timedelta) -> Step:
    user, groups = item["spec"].get("username", ""), item["spec"].get("groups") or ()
    if user == NODE + request.host and NODES in groups:
        if host is None:
            return Refuse("HostDeleted", f"there is no Host {request.host!r} any more", denied=True)
        return Approve("a host renews its own certificate")
    if user.startswith(BOOTSTRAP) and BOOTSTRAPPERS in groups:
        meant = [group.removeprefix(FOR_HOST) for group in groups if group.startswith(FOR_HOST)]
        if meant and request.host not in meant:
            return Refuse("OtherHost", f"the join token is for {', '.join(meant)}", denied=True)
        joined = ((host or {}).get("metadata", {}).get("annotations") or {}).get(JOINED, "")
        if joined and joined != item["metadata"]["name"] and not meant:
            why = f"the host {request.host!r} has joined already; delete the Host, or make a token with --host"
            return Refuse("AlreadyJoined", why, denied=True)
        return Approve("a host joins by a token")
    return Wait(left.total_seconds())


def request_host(item: Object) -> str:
    """Whose certificate would be signed; empty: no host's, or nothing that can be signed."""
    try:
        return request_read(_pem(item)).host if item["spec"].get("signerName") == SIGNER_HOST else ""
    except SigningError:
        return ""


def is_renewal(item: Object, host: str) -> bool:
    """Whether a host asks that has joined, and not somebody for it."""
    return bool(item["spec"].get("username", "") == NODE + host)


def request_certificate(
    authority: Authority, item: Object, now: datetime, uid: str = "", longest: timedelta = LONGEST
) -> bytes:
    """The certificate (PEM) that an approved request gets. `uid`: of its Host; `longest`: how long it is valid at most.
    Raises SigningError."""
    seconds = item["spec"].get("expirationSeconds")
    return request_sign(authority, _checked(item), now=now, seconds=seconds, uid=uid, longest=longest)


def _checked(item: Object) -> Request:
    request = request_read(_pem(item))
    usages_check(item["spec"].get("usages") or ())
    signer = item["spec"].get("signerName")
    if signer == SIGNER_HOST and not request.host:
        raise SigningError(f"the subject must be {NODE}NAME in the organization {NODES} and in no other")
    if signer == SIGNER_CLIENT and not _RESERVED.isdisjoint(request.groups):
        raise SigningError(f"{signer} signs nothing for the groups {', '.join(sorted(_RESERVED))}")
    return request


def _pem(item: Object) -> bytes:
    try:
        return b64decode(item["spec"].get("request", ""), validate=True)
    except (ValueError, TypeError):
        raise SigningError("spec.request is no certificate request in PEM") from None


def _time(item: Object, now: datetime) -> datetime:
    try:
        return datetime.fromisoformat(item["metadata"]["creationTimestamp"]).astimezone(UTC)
    except (KeyError, ValueError, TypeError):
        return now


def request_object(name: str, pem: bytes, signer: str, *, seconds: int | None = None, generate: bool = False) -> Object:
    """A CertificateSigningRequest to create. `generate`: the server finds the rest of its name."""
    spec: Object = {
        "request": b64encode(pem).decode("ascii"),
        "signerName": signer,
        "usages": ["digital signature", "client auth"],
    }
    if seconds is not None:
        spec["expirationSeconds"] = seconds
    metadata = {"generateName": name} if generate else {"name": name}
    return {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": metadata,
        "spec": spec,
    }


def request_outcome(item: Object) -> bytes | None:
    """The certificate (PEM) that was signed; None: not yet. Raises SigningError: it was refused."""
    status = item.get("status") or {}
    for condition in status.get("conditions") or ():
        if condition["type"] in ("Denied", "Failed"):
            raise SigningError(condition.get("message") or condition.get("reason") or condition["type"])
    text = status.get("certificate")
    return b64decode(text) if text else None


def with_condition(item: Object, kind: str, reason: str, message: str, now: datetime) -> Object:
    """The request with one more condition, for `approval` (Approved, Denied) or `status` (Failed)."""
    made = condition_made((), kind, "True", now.timestamp(), reason, message)
    condition = {**made, "lastUpdateTime": made["lastTransitionTime"]}
    status = item.get("status") or {}
    return {**item, "status": {**status, "conditions": [*(status.get("conditions") or ()), condition]}}


def with_certificate(item: Object, pem: bytes) -> Object:
    """The request with its certificate, for `status`."""
    return {**item, "status": {**(item.get("status") or {}), "certificate": b64encode(pem).decode("ascii")}}
