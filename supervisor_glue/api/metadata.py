# SPDX-License-Identifier: Apache-2.0
"""metadata: what the server sets, what a client may, and when an object has gone.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/.
"""

from __future__ import annotations

import secrets
import uuid
from datetime import UTC, datetime
from typing import Any, Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import Object, error_bad_request, error_conflict

_SUFFIX: Final = "bcdfghjklmnpqrstvwxz2456789"  # as k8s.io/apimachinery's rand.String
_LONGEST_BASE: Final = 63 - 5
SERVERS: Final = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "selfLink",
)
"""Fields that only the server sets."""


def time_text(now: float) -> str:
    """RFC 3339 in whole seconds, as metadata has times."""
    return datetime.fromtimestamp(int(now), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def time_of(text: str) -> float:
    """Seconds since the epoch. Raises ValueError."""
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def metadata_new(kind: Kind, item: Object, namespace: str, now: float) -> None:
    """Set what the server sets of a new object, in place. Raises ApiError 400 where it is meant for elsewhere."""
    metadata = item["metadata"]
    given = metadata.get("namespace")
    if kind.namespaced:
        if given and given != namespace:
            raise error_bad_request(
                f"the namespace of the provided object does not match the namespace sent on the request"
                f" ({given} and {namespace})"
            )
        metadata["namespace"] = namespace
    elif given:
        raise error_bad_request(f"namespace is not allowed on this type ({kind.kind})")
    if not metadata.get("name") and metadata.get("generateName"):
        metadata["name"] = name_generated(metadata["generateName"])
    for name in (*SERVERS, "resourceVersion"):
        metadata.pop(name, None)
    metadata["uid"] = str(uuid.uuid4())
    metadata["creationTimestamp"] = time_text(now)
    if kind.generation:
        metadata["generation"] = 1


def name_generated(base: str) -> str:
    """A name that begins so (metadata.generateName)."""
    return base[:_LONGEST_BASE] + "".join(secrets.choice(_SUFFIX) for _ in range(5))


def metadata_update(kind: Kind, old: Object, new: Object) -> None:
    """Keep what a client does not set, in place. Raises ApiError 409 where another object than the one that is there
    is meant."""
    before, metadata = old["metadata"], new["metadata"]
    if metadata.get("uid") and metadata["uid"] != before["uid"]:
        why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {before['uid']}"
        raise error_conflict(kind.plural, kind.group, before["name"], why)
    for name in (*SERVERS, "namespace", "name"):
        if name in before:
            metadata[name] = before[name]
        else:
            metadata.pop(name, None)
    metadata.setdefault("generateName", before.get("generateName"))
    if metadata["generateName"] is None:
        del metadata["generateName"]


def generation_update(kind: Kind, old: Object, new: Object) -> None:
    """Count a change of what an object says, in place. `new` is filled in as it will be stored."""
    before = old["metadata"].get("generation")
    if kind.generation and before and content(old) != content(new):
        new["metadata"]["generation"] = before + 1


def content(item: Object) -> dict[str, Any]:
    """What an object says, without metadata and status."""
    return {key: value for key, value in item.items() if key not in ("metadata", "status", "apiVersion", "kind")}


def is_gone(kind: Kind, item: Object) -> bool:
    """It is being deleted and nothing keeps it any more."""
    metadata = item["metadata"]
    if "deletionTimestamp" not in metadata or metadata.get("finalizers"):
        return False
    if kind.kind == "Namespace" and (item.get("spec") or {}).get("finalizers"):
        return False
    return not metadata.get("deletionGracePeriodSeconds")
