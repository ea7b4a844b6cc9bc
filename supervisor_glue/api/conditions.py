# SPDX-License-Identifier: Apache-2.0
"""Conditions of objects' statuses. Pure.

https://kubernetes.io/docs/reference/using-api/api-concepts/ and k8s.io/apimachinery/pkg/apis/meta/v1.Condition.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from supervisor_glue.api.metadata import time_text
from supervisor_glue.api.status import Object

Conditions = Iterable[Mapping[str, Any]]


def condition_in(held: Conditions, kind: str) -> Mapping[str, Any] | None:
    """The one of a type, if there is one."""
    return next((condition for condition in held if condition.get("type") == kind), None)


def condition_made(
    held: Conditions, kind: str, status: str, now: float, reason: str | None = None, message: str | None = None
) -> Object:
    """A condition as it is to be. `held`: those of the object; the time of transition changes with the status only.
    None: the field is left out."""
    old = condition_in(held, kind) or {}
    since = old.get("lastTransitionTime") if old.get("status") == status else None
    said = {name: value for name, value in (("reason", reason), ("message", message)) if value is not None}
    return {"type": kind, "status": status, **said, "lastTransitionTime": since or time_text(now)}


def conditions_with(held: Conditions, made: Mapping[str, Any]) -> list[Object]:
    """The conditions with this one, in the place of the one of its type."""
    kind = made["type"]
    found = [dict(made) if condition.get("type") == kind else dict(condition) for condition in held]
    return found if any(condition.get("type") == kind for condition in found) else [*found, dict(made)]
