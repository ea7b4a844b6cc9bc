# SPDX-License-Identifier: Apache-2.0
"""RBAC as its documentation says it, slowly: every binding, every rule, every time. Nothing of the production code is
used."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def roles_of(objects: list[Object], user: str, groups: list[str], namespace: str) -> list[Object]:
    """The roles that are bound to a user where a request is made."""
    found = []
    for binding in objects:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        where = binding["metadata"].get("namespace") if binding["kind"] == "RoleBinding" else None
        if where is not None and where != namespace:
            continue
        for subject in binding.get("subjects", []):
            kind, name = subject["kind"], subject["name"]
            is_meant = (
                (kind == "User" and name == user)
                or (kind == "Group" and name in groups)
                or (kind == "ServiceAccount" and f"system:serviceaccount:{subject['namespace']}:{name}" == user)
            )
            if is_meant:
                found += [
                    role
                    for role in objects
                    if role["kind"] == binding["roleRef"]["kind"]
                    and role["metadata"]["name"] == binding["roleRef"]["name"]
                    and (role["kind"] == "ClusterRole" or role["metadata"]["namespace"] == where)
                ]
                break
    return found


def rules_of(objects: list[Object], role: Object) -> list[Object]:
    """A role's rules; an aggregated one's from those that it selects (one level)."""
    if role["kind"] == "Role" or "aggregationRule" not in role:
        return list(role.get("rules", []))
    wanted = role["aggregationRule"]["clusterRoleSelectors"]
    return [
        rule
        for other in objects
        if other["kind"] == "ClusterRole" and "aggregationRule" not in other
        for selector in wanted
        if selector["matchLabels"].items() <= other["metadata"].get("labels", {}).items()
        for rule in other.get("rules", [])
    ]


def rule_allows(rule: Object, verb: str, group: str, resource: str, subresource: str, name: str) -> bool:
    """One PolicyRule about a resource."""
    combined = resource + ("/" + subresource if subresource else "")
    resources = rule.get("resources", [])
    return (
        any(held in ("*", verb) for held in rule["verbs"])
        and any(held in ("*", group) for held in rule.get("apiGroups", []))
        and any(held in ("*", combined) or (subresource and held == f"*/{subresource}") for held in resources)
        and (not rule.get("resourceNames") or name in rule["resourceNames"])
    )


def allows(
    objects: list[Object],
    user: str,
    groups: list[str],
    verb: str,
    group: str,
    resource: str,
    subresource: str,
    namespace: str,
    name: str,
) -> bool:
    """Whether a request for a resource is allowed."""
    return any(
        rule_allows(rule, verb, group, resource, subresource, name)
        for role in roles_of(objects, user, groups, namespace)
        for rule in rules_of(objects, role)
    )


def allows_path(objects: list[Object], user: str, groups: list[str], verb: str, path: str) -> bool:
    """Whether a request for a path is allowed."""
    for role in roles_of(objects, user, groups, ""):
        for rule in rules_of(objects, role):
            for held in rule.get("nonResourceURLs", []):
                is_path = held in ("*", path) or (held.endswith("*") and path.startswith(held[:-1]))
                if is_path and any(word in ("*", verb) for word in rule["verbs"]):
                    return True
    return False
