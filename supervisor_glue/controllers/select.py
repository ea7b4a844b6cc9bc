# SPDX-License-Identifier: Apache-2.0
"""Selectors of pods and nodes, as the scheduler's plugins evaluate them. Pure.

https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def label_selects(selector: Mapping[str, Any] | None, labels: Mapping[str, str]) -> bool:
    """A LabelSelector: None selects nothing, an empty one everything."""
    if selector is None:
        return False
    wanted = selector.get("matchLabels") or {}
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        requirement_holds(item, labels) for item in selector.get("matchExpressions") or ()
    )


def requirement_holds(item: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """One requirement of a label or node selector; an operator that is none holds for nobody."""
    key = item["key"]
    values: Sequence[str] = item.get("values") or ()
    actual = labels.get(key)
    match item.get("operator"):
        case "In":
            return actual in values
        case "NotIn":
            return actual not in values
        case "Exists":
            return actual is not None
        case "DoesNotExist":
            return actual is None
        case "Gt" | "Lt" as operator:
            try:
                number, bound = int(actual or ""), int(values[0])
            except (ValueError, IndexError):
                return False
            return number > bound if operator == "Gt" else number < bound
    return False


def node_term_selects(term: Mapping[str, Any], name: str, labels: Mapping[str, str]) -> bool:
    """One nodeSelectorTerm: all its expressions; an empty one selects nothing."""
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(requirement_holds(item, labels) for item in expressions) and all(
        requirement_holds(item, {"metadata.name": name}) for item in fields
    )


def tolerates(tolerations: Iterable[Mapping[str, Any]], taint: Mapping[str, Any]) -> bool:
    """Whether one of them tolerates the taint."""
    for item in tolerations:
        if item.get("effect") and item["effect"] != taint.get("effect"):
            continue
        if item.get("key") and item["key"] != taint.get("key"):
            continue
        operator = item.get("operator") or "Equal"
        if operator == "Exists" or (item.get("key") and (item.get("value") or "") == (taint.get("value") or "")):
            return True
    return False
