# SPDX-License-Identifier: Apache-2.0
"""Roles and their bindings (k8s.io/kubernetes/pkg/apis/rbac/validation)."""

from __future__ import annotations

from typing import Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import Cause, Object
from supervisor_glue.api.validate.words import forbidden, invalid, label_wrong, objects, required, unsupported

_RBAC: Final = "rbac.authorization.k8s.io"


def role_check(kind: Kind, item: Object) -> list[Cause]:
    found = []
    for place, rule in enumerate(objects(item.get("rules"))):
        at = f"rules[{place}]"
        if not rule.get("verbs"):
            found.append(required(f"{at}.verbs", "verbs must contain at least one value"))
        if rule.get("nonResourceURLs"):
            if kind.namespaced:
                told = "namespaced rules cannot apply to non-resource URLs"
                found.append(invalid(f"{at}.nonResourceURLs", rule["nonResourceURLs"], told))
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                told = "rules cannot apply to both regular resources and non-resource URLs"
                found.append(invalid(f"{at}.nonResourceURLs", rule["nonResourceURLs"], told))
            continue
        if not rule.get("apiGroups"):
            found.append(required(f"{at}.apiGroups", "resource rules must supply at least one api group"))
        if not rule.get("resources"):
            found.append(required(f"{at}.resources", "resource rules must supply at least one resource"))
    return found


def binding_check(kind: Kind, item: Object) -> list[Cause]:
    reference = item.get("roleRef") or {}
    found = []
    if reference.get("apiGroup") != _RBAC:
        found.append(unsupported("roleRef.apiGroup", reference.get("apiGroup") or "", (_RBAC,)))
    kinds = ("Role", "ClusterRole") if kind.namespaced else ("ClusterRole",)
    if reference.get("kind") not in kinds:
        found.append(unsupported("roleRef.kind", reference.get("kind") or "", kinds))
    if not reference.get("name"):
        found.append(required("roleRef.name"))
    for place, subject in enumerate(objects(item.get("subjects"))):
        at = f"subjects[{place}]"
        if not subject.get("name"):
            found.append(required(f"{at}.name"))
        match subject.get("kind"):
            case "ServiceAccount":
                found += [
                    invalid(f"{at}.name", subject["name"], why) for why in label_wrong(subject.get("name") or "x")
                ]
                if subject.get("apiGroup"):
                    found.append(unsupported(f"{at}.apiGroup", subject["apiGroup"], ("",)))
                if not subject.get("namespace") and not kind.namespaced:
                    found.append(required(f"{at}.namespace"))
            case "User" | "Group":
                if subject.get("apiGroup") != _RBAC:
                    found.append(unsupported(f"{at}.apiGroup", subject.get("apiGroup") or "", (_RBAC,)))
                if subject.get("namespace"):
                    found.append(forbidden(f"{at}.namespace", "namespace is only for a ServiceAccount"))
            case other:
                found.append(unsupported(f"{at}.kind", other or "", ("ServiceAccount", "User", "Group")))
    return found


def access_change_check(kind: Kind, old: Object, new: Object) -> list[Cause]:
    """A binding keeps its role: who may bind one must not turn it into another."""
    if old.get("roleRef") == new.get("roleRef"):
        return []
    return [invalid("roleRef", new.get("roleRef"), "cannot change roleRef")]
