# SPDX-License-Identifier: Apache-2.0
"""RBAC (https://kubernetes.io/docs/reference/access-authn-authz/rbac/): who is bound to which roles, indexed by
subject, and kept as objects come and go.

A question costs a look-up for each of the user's groups, and one for each role that is bound to them where it is asked.
A binding holds its role's name only, so that a changed role is one entry replaced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from supervisor_glue.api.status import Object
from supervisor_glue.auth.attributes import Attributes
from supervisor_glue.auth.rules import Permissions, Rule, rules_read
from supervisor_glue.auth.user import ACCOUNT, MASTERS, User

GROUP: Final = "rbac.authorization.k8s.io"
KINDS: Final = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")

Subject: TypeAlias = "tuple[str, str]"
"""`("User", name)` or `("Group", name)`; a ServiceAccount is a User."""


class RoleKey(NamedTuple):
    """A Role of a namespace; with an empty one a ClusterRole."""

    namespace: str
    name: str


class BindingKey(NamedTuple):
    """A RoleBinding of a namespace; with an empty one a ClusterRoleBinding."""

    namespace: str
    name: str


class _Role(NamedTuple):
    labels: Mapping[str, str]
    own: tuple[Rule, ...]
    selectors: tuple[Mapping[str, Any], ...] | None  # of an aggregationRule; None: it has none


class _Binding(NamedTuple):
    role: RoleKey
    subjects: tuple[Subject, ...]


class Rbac:
    """All roles and bindings. Objects are dicts as the API has them; `put` and `forget` follow the watch."""

    def __init__(self, objects: Iterable[Object] = ()) -> None:
        self._roles: dict[RoleKey, _Role] = {}
        self._permissions: dict[RoleKey, Permissions] = {}
        self._aggregated: set[RoleKey] = set()
        self._bindings: dict[BindingKey, _Binding] = {}
        self._bound: dict[Subject, dict[str, dict[BindingKey, RoleKey]]] = {}
        for item in objects:
            self.put(item)

    def put(self, item: Object) -> None:
        """An object was added or changed. Kinds that are none of RBAC's are ignored."""
        kind, namespace, name = item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]
        if kind in ("Role", "ClusterRole"):
            self._role_put(RoleKey(namespace if kind == "Role" else "", name), item)
        elif kind in ("RoleBinding", "ClusterRoleBinding"):
            key = BindingKey(namespace if kind == "RoleBinding" else "", name)
            self._binding_forget(key)
            self._binding_put(key, binding_role(item), binding_subjects(item))

    def forget(self, kind: str, namespace: str, name: str) -> None:
        """An object was deleted."""
        if kind in ("Role", "ClusterRole"):
            key = RoleKey(namespace if kind == "Role" else "", name)
            self._roles.pop(key, None)
            self._permissions.pop(key, None)
            self._aggregated.discard(key)
            self._aggregate(key)
        elif kind in ("RoleBinding", "ClusterRoleBinding"):
            self._binding_forget(BindingKey(namespace if kind == "RoleBinding" else "", name))

    def allows(self, asked: Attributes) -> bool:
        """Whether a role that is bound to the user, here or everywhere, allows it."""
        user = asked.user
        if MASTERS in user.groups:
            return True
        if not asked.resource:
            return any(role.allows_path(asked.verb, asked.path) for role in self._of(user, ""))
        verb, group, resource, subresource, name = (
            asked.verb,
            asked.group,
            asked.resource,
            asked.subresource,
            asked.name,
        )
        return any(role.allows(verb, group, resource, subresource, name) for role in self._of(user, asked.namespace))

    def rules(self, user: User, namespace: str) -> tuple[Rule, ...]:
        """All rules that the user has in a namespace (empty: everywhere)."""
        if MASTERS in user.groups:
            return (Rule(("*",), ("*",), ("*",)), Rule(("*",), paths=("*",)))
        return tuple(dict.fromkeys(rule for role in self._of(user, namespace) for rule in role.rules))

    def role_rules(self, key: RoleKey) -> tuple[Rule, ...] | None:
        """The rules of a role, its aggregated ones too; None: there is no such role."""
        found = self._permissions.get(key)
        return None if found is None else found.rules

    def aggregated(self) -> Iterator[tuple[str, tuple[Rule, ...]]]:
        """Every ClusterRole with an aggregationRule, and the rules that it is to show."""
        for key in sorted(self._aggregated):
            yield key.name, self._permissions[key].rules

    def _of(self, user: User, namespace: str) -> Iterator[Permissions]:
        for subject in (("User", user.name), *(("Group", group) for group in user.groups)):
            bound = self._bound.get(subject)
            if bound is None:
                continue
            for place in ("", namespace) if namespace else ("",):
                for role in bound.get(place, {}).values():
                    found = self._permissions.get(role)
                    if found is not None:
                        yield found

    def _role_put(self, key: RoleKey, item: Object) -> None:
        aggregation = None if key.namespace else item.get("aggregationRule")
        selectors = None if aggregation is None else tuple(aggregation.get("clusterRoleSelectors") or ())
        role = _Role(item["metadata"].get("labels") or {}, rules_read(item.get("rules")), selectors)
        self._roles[key] = role
        if selectors is None:
            self._aggregated.discard(key)
            self._permissions[key] = Permissions(role.own)
        else:
            self._aggregated.add(key)
        self._aggregate(key)

    def _aggregate(self, changed: RoleKey) -> None:
        """Makes the aggregated roles anew after one role has changed. Nested ones (edit is of admin) until nothing
        changes."""
        if changed.namespace or not self._aggregated:
            return
        for _ in range(len(self._aggregated)):
            before = {key: self._permissions.get(key) for key in self._aggregated}
            for key in self._aggregated:
                rules = tuple(dict.fromkeys(self._selected(key)))
                held = self._permissions.get(key)
                if held is None or held.rules != rules:
                    self._permissions[key] = Permissions(rules)
            if all(self._permissions[key] is held for key, held in before.items()):
                break

    def _selected(self, key: RoleKey) -> Iterator[Rule]:
        selectors = self._roles[key].selectors or ()
        for other, role in sorted(self._roles.items()):
            if other != key and not other.namespace and any(labels_match(one, role.labels) for one in selectors):
                found = self._permissions.get(other)
                yield from found.rules if found is not None else ()

    def _binding_put(self, key: BindingKey, role: RoleKey, subjects: tuple[Subject, ...]) -> None:
        self._bindings[key] = _Binding(role, subjects)
        for subject in subjects:
            self._bound.setdefault(subject, {}).setdefault(key.namespace, {})[key] = role

    def _binding_forget(self, key: BindingKey) -> None:
        binding = self._bindings.pop(key, None)
        for subject in binding.subjects if binding else ():
            places = self._bound[subject]
            places[key.namespace].pop(key, None)
            if not places[key.namespace]:
                del places[key.namespace]
            if not places:
                del self._bound[subject]


def binding_role(item: Object) -> RoleKey:
    """What a binding's roleRef names."""
    reference = item["roleRef"]
    namespace = item["metadata"].get("namespace", "") if reference["kind"] == "Role" else ""
    return RoleKey(namespace, reference["name"])


def binding_subjects(item: Object) -> tuple[Subject, ...]:
    """Whom a binding names, each once."""
    found: dict[Subject, None] = {}
    for subject in item.get("subjects") or ():
        kind, name = subject["kind"], subject["name"]
        if kind == "ServiceAccount":
            namespace = subject.get("namespace") or item["metadata"].get("namespace", "")
            kind, name = "User", f"{ACCOUNT}{namespace}:{name}"
        found[kind, name] = None
    return tuple(found)


def labels_match(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """A LabelSelector of meta/v1: all of it holds; an empty one selects everything."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for term in selector.get("matchExpressions") or ():
        value, operator, values = labels.get(term["key"]), term["operator"], term.get("values") or ()
        holds = {
            "In": value is not None and value in values,
            "NotIn": value is None or value not in values,
            "Exists": value is not None,
            "DoesNotExist": value is None,
        }.get(operator, False)
        if not holds:
            return False
    return True
