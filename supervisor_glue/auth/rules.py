# SPDX-License-Identifier: Apache-2.0
"""PolicyRules of RBAC: compiled so that a question is a handful of look-ups, compared, and in words.

The meanings are those of Kubernetes' pkg/apis/rbac/v1/evaluation_helpers.go and component-helpers' rule coverage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

ALL: Final = "*"


@dataclass(frozen=True, slots=True)
class Rule:
    """A PolicyRule."""

    verbs: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    def as_object(self) -> dict[str, list[str]]:
        """As JSON has it."""
        fields = (
            ("verbs", self.verbs),
            ("apiGroups", self.groups),
            ("resources", self.resources),
            ("resourceNames", self.names),
            ("nonResourceURLs", self.paths),
        )
        return {name: list(values) for name, values in fields if values}


def rule_read(item: Mapping[str, Any]) -> Rule:
    """A rule of a Role or ClusterRole."""

    def values(name: str) -> tuple[str, ...]:
        return tuple(item.get(name) or ())

    return Rule(
        values("verbs"), values("apiGroups"), values("resources"), values("resourceNames"), values("nonResourceURLs")
    )


def rules_read(items: Iterable[Mapping[str, Any]] | None) -> tuple[Rule, ...]:
    """All rules of a Role or ClusterRole."""
    return tuple(rule_read(item) for item in items or ())


class Permissions:
    """Rules, compiled. For each (group, resource) the verbs that are allowed on all names, and those on some names."""

    __slots__ = ("_every", "_named", "_paths", "rules")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(rules)
        self._every: dict[tuple[str, str], set[str]] = {}
        self._named: dict[tuple[str, str], dict[str, set[str]]] = {}
        self._paths: dict[str, list[str]] = {}
        for rule in self.rules:
            for verb in rule.verbs:
                self._paths.setdefault(verb, []).extend(rule.paths)
            for key in ((group, resource) for group in rule.groups for resource in rule.resources):
                if not rule.names:
                    self._every.setdefault(key, set()).update(rule.verbs)
                for name in rule.names:
                    self._named.setdefault(key, {}).setdefault(name, set()).update(rule.verbs)

    def allows(self, verb: str, group: str, resource: str, subresource: str, name: str) -> bool:
        """A verb on a resource; `name` is empty where the request names none."""
        if self._every and _finds(self._every, verb, group, resource, subresource):
            return True
        if not self._named or not name:
            return False
        for key in _keys(group, resource, subresource):
            verbs = self._named.get(key, {}).get(name)
            if verbs is not None and (verb in verbs or ALL in verbs):
                return True
        return False

    def allows_path(self, verb: str, path: str) -> bool:
        """A verb on a path that is no resource's."""
        return any(path_matches(pattern, path) for key in (verb, ALL) for pattern in self._paths.get(key, ()))


def _keys(group: str, resource: str, subresource: str) -> Iterable[tuple[str, str]]:
    combined = f"{resource}/{subresource}" if subresource else resource
    for key in (group, ALL):
        yield key, combined
        yield key, ALL
        if subresource:
            yield key, f"*/{subresource}"


def _finds(every: Mapping[tuple[str, str], set[str]], verb: str, group: str, resource: str, subresource: str) -> bool:
    for key in _keys(group, resource, subresource):
        verbs = every.get(key)
        if verbs is not None and (verb in verbs or ALL in verbs):
            return True
    return False


def path_matches(pattern: str, path: str) -> bool:
    """`/healthz`, `/healthz/*`, `*`."""
    return pattern in (ALL, path) or (pattern.endswith(ALL) and path.startswith(pattern[:-1]))


def rules_cover(held: Sequence[Rule], wanted: Iterable[Rule]) -> tuple[Rule, ...]:
    """What of the wanted rules those that are held do not cover, in single permissions; empty: all is covered."""
    single = dict.fromkeys(part for rule in wanted for part in rule_split(rule))
    return tuple(part for part in single if not any(_covers(rule, part) for rule in held))


def rule_split(rule: Rule) -> Iterable[Rule]:
    """A rule's single permissions: one verb on one resource of one group (and one name), or on one path."""
    for verb in rule.verbs:
        for group in rule.groups:
            for resource in rule.resources:
                for name in rule.names or ("",):
                    yield Rule((verb,), (group,), (resource,), (name,) if name else ())
        for path in rule.paths:
            yield Rule((verb,), paths=(path,))


def _covers(held: Rule, part: Rule) -> bool:
    """`part`: a single permission."""
    if ALL not in held.verbs and part.verbs[0] not in held.verbs:
        return False
    if part.paths:
        return any(path_matches(pattern, part.paths[0]) for pattern in held.paths)
    if ALL not in held.groups and part.groups[0] not in held.groups:
        return False
    if held.names and (not part.names or part.names[0] not in held.names):
        return False
    resource = part.resources[0]
    if ALL in held.resources or resource in held.resources:
        return True
    _, slash, subresource = resource.partition("/")
    return bool(slash) and f"*/{subresource}" in held.resources


def rules_compact(rules: Iterable[Rule]) -> tuple[Rule, ...]:
    """Single permissions on one resource, their verbs together."""
    merged: dict[Rule, list[str]] = {}
    for rule in rules:
        key = Rule((), rule.groups, rule.resources, rule.names, rule.paths)
        if rule.paths:
            key = Rule(rule.verbs, paths=rule.paths)
        merged.setdefault(key, []).extend(() if rule.paths else rule.verbs)
    return tuple(
        key if key.paths else Rule(tuple(verbs), key.groups, key.resources, key.names) for key, verbs in merged.items()
    )


def rule_text(rule: Rule) -> str:
    """`{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`."""
    fields = (
        ("APIGroups", rule.groups),
        ("Resources", rule.resources),
        ("NonResourceURLs", rule.paths),
        ("ResourceNames", rule.names),
        ("Verbs", rule.verbs),
    )
    return "{" + ", ".join(f"{name}:{quoted(values)}" for name, values in fields if values) + "}"


def quoted(values: Iterable[str]) -> str:
    """A list of strings as Go's %q prints it."""
    return "[" + " ".join(json.dumps(value, ensure_ascii=False) for value in values) + "]"
