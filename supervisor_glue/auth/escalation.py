# SPDX-License-Identifier: Apache-2.0
"""Nobody gives what he has not: whoever writes a role or a binding holds every permission in it, or the verb `escalate`
on the role, or `bind` on the role that the binding names
(https://kubernetes.io/docs/reference/access-authn-authz/rbac/#privilege-escalation-prevention-and-bootstrapping).

The meanings and sentences are those of Kubernetes' registry/rbac: `policybased` and `escalation_check.go`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from supervisor_glue.api.status import Cause, Object, error_forbidden, error_invalid, error_not_found
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.rbac import GROUP, Rbac, binding_role
from supervisor_glue.auth.rules import Rule, quoted, rule_text, rules_compact, rules_cover, rules_read
from supervisor_glue.auth.user import MASTERS, User

_EVERYTHING: Final = (Rule(("*",), ("*",), ("*",)), Rule(("*",), paths=("*",)))
_PLURALS: Final = {
    "Role": "roles",
    "ClusterRole": "clusterroles",
    "RoleBinding": "rolebindings",
    "ClusterRoleBinding": "clusterrolebindings",
}
_COLLECTED: Final = ("ownerReferences", "finalizers", "managedFields", "resourceVersion", "generation")


def escalation_check(rbac: Rbac, user: User, item: Object, old: Object | None = None) -> None:
    """A role or binding as it is to be stored (`old`: as it is). Kinds that are none of RBAC's pass.

    Raises ApiError 403, and 404 where a binding names a role that is not there.
    """
    kind = item.get("kind", "")
    if kind not in _PLURALS or MASTERS in user.groups or (old is not None and _is_collection_only(item, old)):
        return
    try:
        if kind in ("Role", "ClusterRole"):
            _role_check(rbac, user, item)
        else:
            _binding_check(rbac, user, item)
    except (KeyError, TypeError, AttributeError):
        cause = Cause("FieldValueInvalid", "Invalid value: rules, roleRef and subjects must be whole", "")
        raise error_invalid(kind, GROUP, item["metadata"].get("name", ""), [cause]) from None


def _role_check(rbac: Rbac, user: User, item: Object) -> None:
    namespace, name = item["metadata"].get("namespace", ""), item["metadata"].get("name", "")
    plural = _PLURALS[item["kind"]]
    if rbac.allows(Attributes(user, "escalate", GROUP, "v1", plural, namespace=namespace, name=name)):
        return
    _holding_check(rbac, user, item, rules_read(item.get("rules")))
    if item.get("aggregationRule") and rules_cover(rbac.rules(user, ""), _EVERYTHING):
        why = "must have cluster-admin privileges to use the aggregationRule"
        raise error_forbidden(plural, GROUP, name, why)


def _binding_check(rbac: Rbac, user: User, item: Object) -> None:
    role = binding_role(item)
    plural = _PLURALS[item["roleRef"]["kind"]]
    namespace = item["metadata"].get("namespace", "")
    if rbac.allows(Attributes(user, "bind", GROUP, "v1", plural, namespace=namespace, name=role.name)):
        return
    rules = rbac.role_rules(role)
    if rules is None:
        raise error_not_found(plural, GROUP, role.name)
    _holding_check(rbac, user, item, rules)


def _holding_check(rbac: Rbac, user: User, item: Object, rules: Iterable[Rule]) -> None:
    namespace, name = item["metadata"].get("namespace", ""), item["metadata"].get("name", "")
    missing = rules_cover(rbac.rules(user, namespace), rules)
    if missing:
        lines = "\n".join(sorted(rule_text(rule) for rule in rules_compact(missing)))
        why = (
            f'user "{user.name}" (groups={quoted(user.groups)}) is attempting to grant RBAC permissions not currently '
            f"held:\n{lines}"
        )
        raise error_forbidden(_PLURALS[item["kind"]], GROUP, name, why)


def _is_collection_only(item: Object, old: Object) -> bool:
    """Nothing changes but what the garbage collector needs to delete it."""

    def kept(side: Object) -> Object:
        metadata = {key: value for key, value in side["metadata"].items() if key not in _COLLECTED}
        return {**side, "metadata": metadata}

    return kept(item) == kept(old)
