# SPDX-License-Identifier: Apache-2.0
"""The ClusterRoles and bindings that every Supervisor has, and how they are brought up to date at its start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any, Final, NamedTuple

import yaml

from supervisor_glue.api.status import Object
from supervisor_glue.auth.rbac import GROUP, Rbac
from supervisor_glue.auth.rules import rules_cover, rules_read

AUTOUPDATE: Final = "rbac.authorization.kubernetes.io/autoupdate"
_LABELS: Final = {"kubernetes.io/bootstrapping": "rbac-defaults"}


class Changes(NamedTuple):
    """What is to be written."""

    create: tuple[Object, ...]
    update: tuple[Object, ...]


def default_roles() -> tuple[Object, ...]:
    """The default ClusterRoles (those that aggregate with their rules filled in) and ClusterRoleBindings."""
    return deepcopy(_default_roles())


@cache
def _default_roles() -> tuple[Object, ...]:
    data = yaml.safe_load((files(__package__) / "default_roles.yaml").read_text(encoding="utf-8"))
    roles = [_role(name, spec) for name, spec in data["clusterRoles"].items()]
    rules = dict(Rbac(roles).aggregated())
    for role in roles:
        if role["metadata"]["name"] in rules:
            role["rules"] = [rule.as_object() for rule in rules[role["metadata"]["name"]]]
    bindings = [_binding(name, role, groups) for name, (role, groups) in data["clusterRoleBindings"].items()]
    return (*roles, *bindings)


def _metadata(name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    return {"name": name, "labels": {**_LABELS, **labels}, "annotations": {AUTOUPDATE: "true"}}


def _role(name: str, spec: Mapping[str, Any]) -> Object:
    role: Object = {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ClusterRole",
        "metadata": _metadata(name, spec.get("labels", {})),
        "rules": spec.get("rules", []),
    }
    if "aggregationRule" in spec:
        role["aggregationRule"] = spec["aggregationRule"]
    return role


def _binding(name: str, role: str, groups: Iterable[str]) -> Object:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": _metadata(name, {}),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": GROUP, "kind": "Group", "name": group} for group in groups],
    }


def plan_defaults(held: Mapping[tuple[str, str], Object]) -> Changes:
    """What is missing of the defaults (`held`: objects by kind and name). What was added to one stays, what was taken
    from one is put back, unless its annotation autoupdate is "false"."""
    create, update = [], []
    for wanted in default_roles():
        found = held.get((wanted["kind"], wanted["metadata"]["name"]))
        if found is None:
            create.append(wanted)
        elif (found["metadata"].get("annotations") or {}).get(AUTOUPDATE) != "false":
            whole = _completed(found, wanted)
            if whole != found:
                update.append(whole)
    return Changes(tuple(create), tuple(update))


def _completed(found: Object, wanted: Object) -> Object:
    whole = deepcopy(found)
    metadata = whole["metadata"]
    metadata["labels"] = {**(metadata.get("labels") or {}), **wanted["metadata"]["labels"]}
    metadata["annotations"] = {**wanted["metadata"]["annotations"], **(metadata.get("annotations") or {})}
    if wanted["kind"] == "ClusterRole":
        if "aggregationRule" in wanted:
            whole.setdefault("aggregationRule", wanted["aggregationRule"])
            return whole
        missing = rules_cover(rules_read(found.get("rules")), rules_read(wanted["rules"]))
        whole["rules"] = [*(found.get("rules") or []), *(rule.as_object() for rule in missing)]
        return whole
    subjects = list(found.get("subjects") or [])
    whole["subjects"] = subjects + [subject for subject in wanted["subjects"] if subject not in subjects]
    return whole


def plan_aggregated(rbac: Rbac, held: Iterable[Object]) -> tuple[Object, ...]:
    """The ClusterRoles with an aggregationRule whose rules are to be shown anew."""
    shown = {name: [rule.as_object() for rule in rules] for name, rules in rbac.aggregated()}
    changed = []
    for role in held:
        rules = shown.get(role["metadata"]["name"])
        if role["kind"] == "ClusterRole" and rules is not None and rules_read(rules) != rules_read(role.get("rules")):
            changed.append({**role, "rules": rules})
    return tuple(changed)
