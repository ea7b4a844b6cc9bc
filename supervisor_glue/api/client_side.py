# SPDX-License-Identifier: Apache-2.0
"""From kubectl's client-side apply to server-side apply, without conflicts between the two of the same kubectl.

As k8s.io/apimachinery's lastAppliedManager: what kubectl itself applied last from the client, and nobody has changed
since, is its own to apply from the server
(https://kubernetes.io/docs/reference/using-api/server-side-apply/#migration-between-client-side-and-server-side-apply).
"""

from __future__ import annotations

import json
from typing import Any, Final

from supervisor_glue.api.defaults import object_default
from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.patch import merge_patch
from supervisor_glue.api.status import ApiError, Object

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"
_MANAGER: Final = "kubectl"
_CLIENT_SIDE: Final = 'conflict with "kubectl-client-side-apply"'


def is_own_conflict(kind: Kind, live: Object, manager: str, error: ApiError) -> bool:
    """Whether kubectl only conflicts with what it applied last itself, as it applied it."""
    causes = error.details.get("causes") or []
    if manager != _MANAGER or error.code != 409 or not causes:
        return False
    if not all(cause["message"].startswith(_CLIENT_SIDE) for cause in causes):
        return False
    text = (live["metadata"].get("annotations") or {}).get(LAST_APPLIED)
    try:
        applied = json.loads(text or "")
    except ValueError:
        return False
    if not isinstance(applied, dict) or not isinstance(applied.get("metadata"), dict):
        return False
    applied = without_nulls(applied)
    object_default(kind, applied)
    return bool(merge_patch(live, applied) == live)


def without_nulls(value: Any) -> Any:
    """kubectl writes `creationTimestamp: null`, which means nothing."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value
