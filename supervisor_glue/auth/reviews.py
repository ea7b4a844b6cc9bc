# SPDX-License-Identifier: Apache-2.0
"""Questions about authorization, answered: the reviews of authorization.k8s.io/v1. An answer is the object with a
status."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from supervisor_glue.api.status import Cause, Object, error_bad_request, error_invalid
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.rbac import Rbac
from supervisor_glue.auth.rules import rules_compact
from supervisor_glue.auth.user import MASTERS, User

GROUP = "authorization.k8s.io"
Decide = Callable[[Attributes], "str | None"]
"""None: allowed; else why not (it may be empty)."""


def self_access_review(item: Object, user: User, decide: Decide) -> Object:
    """SelfSubjectAccessReview. Raises ApiError 422."""
    spec = item.get("spec") or {}
    return _answered(item, _asked(item, spec, user), decide)


def access_review(item: Object, decide: Decide) -> Object:
    """SubjectAccessReview. Raises ApiError 422."""
    spec = item.get("spec") or {}
    if not spec.get("user") and not spec.get("groups"):
        cause = Cause(
            "FieldValueInvalid", 'Invalid value: "": at least one of user or group must be specified', "spec.user"
        )
        raise error_invalid(item["kind"], GROUP, "", [cause])
    extra = tuple(sorted((key, tuple(values)) for key, values in (spec.get("extra") or {}).items()))
    user = User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""), extra)
    return _answered(item, _asked(item, spec, user), decide)


def local_access_review(item: Object, namespace: str, decide: Decide) -> Object:
    """LocalSubjectAccessReview: about its own namespace. Raises ApiError 400, 422."""
    attributes = (item.get("spec") or {}).get("resourceAttributes") or {}
    if attributes.get("namespace", "") != namespace:
        raise error_bad_request("spec.resourceAttributes.namespace must match the namespace of the request")
    return access_review(item, decide)


def self_rules_review(item: Object, user: User, rbac: Rbac) -> Object:
    """SelfSubjectRulesReview: what the user's roles say, here and everywhere. A host's own part is not among it. Raises
    ApiError 400."""
    namespace = (item.get("spec") or {}).get("namespace", "")
    if not namespace:
        raise error_bad_request("no namespace on request")
    rules = rbac.rules(user, namespace)
    resources = rules_compact(rule for rule in rules if rule.resources)
    paths = [rule for rule in rules if rule.paths]
    status = {
        "resourceRules": [rule.as_object() for rule in resources],
        "nonResourceRules": [{"verbs": list(rule.verbs), "nonResourceURLs": list(rule.paths)} for rule in paths],
        "incomplete": bool(user.host) and MASTERS not in user.groups,
    }
    return {**item, "status": status}


def _asked(item: Object, spec: Mapping[str, Any], user: User) -> Attributes:
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        told = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        cause = Cause("FieldValueInvalid", f"Invalid value: {told}", "spec.resourceAttributes")
        raise error_invalid(item["kind"], GROUP, "", [cause])
    if path is not None:
        return Attributes(user, str(path.get("verb", "")).lower(), path=path.get("path", ""))
    assert resource is not None
    return Attributes(
        user,
        verb=resource.get("verb", ""),
        group=resource.get("group", ""),
        version=resource.get("version", ""),
        resource=resource.get("resource", "") or "*",
        subresource=resource.get("subresource", ""),
        namespace=resource.get("namespace", ""),
        name=resource.get("name", ""),
        fields=_fields(resource.get("fieldSelector") or {}),
    )


def _fields(selector: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    terms = selector.get("requirements") or ()
    return tuple(
        (term["key"], term["values"][0])
        for term in terms
        if term.get("key") and term.get("operator") == "In" and len(term.get("values") or ()) == 1
    )


def _answered(item: Object, asked: Attributes, decide: Decide) -> Object:
    why = decide(asked)
    status: Object = {"allowed": why is None}
    if why:
        status["reason"] = why
    return {**item, "status": status}
