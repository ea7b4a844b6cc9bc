# SPDX-License-Identifier: Apache-2.0
"""What a user writes, looked at once more when it is known: an authorizer sees no bodies.

A host writes its own part only, nobody grants what he has not, and a request for a certificate says who made it.
"""

from __future__ import annotations

from base64 import b64decode
from dataclasses import replace
from typing import Final

from supervisor_glue.api.status import Cause, Object, error_forbidden, error_invalid
from supervisor_glue.auth.approval import REQUESTS
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.authenticate import user_info
from supervisor_glue.auth.authorize import Authorizer
from supervisor_glue.auth.escalation import escalation_check
from supervisor_glue.auth.node import node_admit
from supervisor_glue.auth.signing import SigningError, request_read
from supervisor_glue.auth.user import User

_ASKED_BY: Final = ("username", "uid", "groups", "extra")


def admitted(authorizer: Authorizer, asked: Attributes, item: Object, old: Object | None = None) -> Object:
    """An object as it is to be stored (`old`: as it is), for a create, update or patch that is allowed: itself, or
    completed with what only the server knows. Raises ApiError 403, 404."""
    if old is None and asked.verb != "create":  # an update or an apply of what is not there makes it
        authorizer.check(replace(asked, verb="create"))
    node_admit(authorizer.nodes, asked.user, asked, item, old)
    escalation_check(authorizer.rbac, asked.user, item, old)
    if (asked.group, asked.resource) == (REQUESTS.group, REQUESTS.plural):
        return _request_admitted(authorizer, asked, item, old)
    return item


def _request_admitted(authorizer: Authorizer, asked: Attributes, item: Object, old: Object | None) -> Object:
    """A CertificateSigningRequest: `spec` says for ever who asks; who approves or signs may do so for the signer."""
    if old is None:
        _request_check(item)
        spec = {key: value for key, value in item["spec"].items() if key not in _ASKED_BY}
        return {**item, "spec": {**spec, **user_info(asked.user)}}
    signer = (old.get("spec") or {}).get("signerName", "")
    verb = {"approval": "approve", "status": "sign"}.get(asked.subresource)
    if verb is not None and item.get("status") != old.get("status") and not _may(authorizer, asked.user, verb, signer):
        why = f'user not permitted to {verb} requests with signerName "{signer}"'
        raise error_forbidden(REQUESTS.plural, REQUESTS.group, old["metadata"]["name"], why)
    return {**item, "spec": old.get("spec") or {}}


def _request_check(item: Object) -> None:
    """What a signer needs is there. Raises ApiError 422."""
    spec = item.get("spec") or {}
    causes = [
        Cause("FieldValueRequired", "Required value", f"spec.{name}")
        for name in ("request", "signerName", "usages")
        if not spec.get(name)
    ]
    if spec.get("request"):
        try:
            request_read(b64decode(spec["request"], validate=True))
        except (SigningError, ValueError, TypeError) as error:
            told = (
                f"Invalid value: {error if isinstance(error, SigningError) else 'it is no certificate request in PEM'}"
            )
            causes.append(Cause("FieldValueInvalid", told, "spec.request"))
    if causes:
        name = (item.get("metadata") or {}).get("name", "")
        raise error_invalid("CertificateSigningRequest", REQUESTS.group, name, causes)


def _may(authorizer: Authorizer, user: User, verb: str, signer: str) -> bool:
    """The verb on this signer, or on all of its domain."""
    names = (signer, f"{signer.partition('/')[0]}/*")
    return any(
        authorizer.decide(Attributes(user, verb, REQUESTS.group, "*", "signers", name=name)) is None for name in names
    )
