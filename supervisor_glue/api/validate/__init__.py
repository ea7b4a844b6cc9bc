# SPDX-License-Identifier: Apache-2.0
"""What is wrong with an object whose fields have the right types: in the API's own words.

Source: k8s.io/kubernetes/pkg/apis/*/validation and k8s.io/apimachinery/pkg/api/validation, by behaviour.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import Cause, Object
from supervisor_glue.api.validate.access import access_change_check, binding_check, role_check
from supervisor_glue.api.validate.data import data_change_check, data_check
from supervisor_glue.api.validate.metadata import metadata_change_check, metadata_check
from supervisor_glue.api.validate.namespace import namespace_change_check, namespace_check
from supervisor_glue.api.validate.network_policy import network_policy_check
from supervisor_glue.api.validate.pod import pod_change_check, pod_check

_RBAC: Final = "rbac.authorization.k8s.io"
_NEW: Final[dict[tuple[str, str], Callable[[Kind, Object], list[Cause]]]] = {
    ("", "Pod"): pod_check,
    ("", "Secret"): data_check,
    ("", "ConfigMap"): data_check,
    ("networking.k8s.io", "NetworkPolicy"): network_policy_check,
    (_RBAC, "Role"): role_check,
    (_RBAC, "ClusterRole"): role_check,
    (_RBAC, "RoleBinding"): binding_check,
    (_RBAC, "ClusterRoleBinding"): binding_check,
}
_FIRST: Final = {("", "Namespace"): namespace_check}
"""Of new objects alone."""
_CHANGED: Final[dict[tuple[str, str], Callable[[Kind, Object, Object], list[Cause]]]] = {
    ("", "Namespace"): namespace_change_check,
    ("", "Pod"): pod_change_check,
    ("", "Secret"): data_change_check,
    ("", "ConfigMap"): data_change_check,
    (_RBAC, "RoleBinding"): access_change_check,
    (_RBAC, "ClusterRoleBinding"): access_change_check,
}


def validate_new(kind: Kind, item: Object) -> list[Cause]:
    """All that is wrong, in the order of the fields."""
    own = _NEW.get((kind.group, kind.kind)) or _FIRST.get((kind.group, kind.kind))
    return metadata_check(kind, item) + (own(kind, item) if own is not None else [])


def validate_change(kind: Kind, old: Object, new: Object, subresource: str) -> list[Cause]:
    """As `validate_new`, and what may not change."""
    found = metadata_check(kind, new) + metadata_change_check(kind, old, new)
    if subresource:
        return found
    own, changed = _NEW.get((kind.group, kind.kind)), _CHANGED.get((kind.group, kind.kind))
    if own is not None:
        found += own(kind, new)
    if changed is not None:
        found += changed(kind, old, new)
    return found
