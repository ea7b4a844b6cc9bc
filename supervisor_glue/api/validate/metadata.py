# SPDX-License-Identifier: Apache-2.0
"""metadata: names, labels, annotations, finalizers (k8s.io/apimachinery/pkg/api/validation/objectmeta.go)."""

from __future__ import annotations

from typing import Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import Cause, Object
from supervisor_glue.api.validate.words import (
    forbidden,
    invalid,
    label_wrong,
    qualified_wrong,
    required,
    subdomain_wrong,
    too_long,
    value_wrong,
)

MOST_ANNOTATIONS: Final = 256 * 1024  # bytes
_LABEL_NAMES: Final = ("Namespace",)
_PATH_NAMES: Final = ("Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding")
_STANDARD_FINALIZERS: Final = ("kubernetes", "orphan", "foregroundDeletion")


def metadata_check(kind: Kind, item: Object) -> list[Cause]:
    metadata = item["metadata"]
    found = []
    name = metadata.get("name") or ""
    base = metadata.get("generateName") or ""
    if base and (not name or name.startswith(base)):
        found += [invalid("metadata.generateName", base, why) for why in _name_wrong(kind, base.rstrip("-") or base)]
    if not name:
        found.append(required("metadata.name", "name or generateName is required"))
    elif not found:
        found += [invalid("metadata.name", name, why) for why in _name_wrong(kind, name)]
    if kind.namespaced and not metadata.get("namespace"):
        found.append(required("metadata.namespace"))
    for key, value in (metadata.get("labels") or {}).items():
        found += [invalid("metadata.labels", key, why) for why in qualified_wrong(key)]
        found += [invalid("metadata.labels", value, why) for why in value_wrong(value or "")]
    size = 0
    for key, value in (metadata.get("annotations") or {}).items():
        found += [invalid("metadata.annotations", key, why) for why in qualified_wrong(key.lower())]
        size += len(key) + len((value or "").encode())
    if size > MOST_ANNOTATIONS:
        found.append(too_long("metadata.annotations", MOST_ANNOTATIONS))
    for finalizer in metadata.get("finalizers") or ():
        found += [invalid("metadata.finalizers", finalizer, why) for why in qualified_wrong(finalizer)]
        if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            why = "name is neither a standard finalizer name nor is it fully qualified"
            found.append(invalid("metadata.finalizers", finalizer, why))
    for place, owner in enumerate(metadata.get("ownerReferences") or ()):
        at = f"metadata.ownerReferences[{place}]"
        for field in ("apiVersion", "kind", "name", "uid"):
            if not owner.get(field):
                found.append(invalid(f"{at}.{field}", owner.get(field) or "", "must not be empty"))
    if sum(1 for owner in metadata.get("ownerReferences") or () if owner.get("controller")) > 1:
        why = "Only one reference can have Controller set to true"
        found.append(invalid("metadata.ownerReferences", [], why))
    return found


def metadata_change_check(kind: Kind, old: Object, new: Object) -> list[Cause]:
    """What may not change: an object that is being deleted gets no new finalizer."""
    if "deletionTimestamp" not in old["metadata"]:
        return []
    before = set(old["metadata"].get("finalizers") or ())
    added = [name for name in new["metadata"].get("finalizers") or () if name not in before]
    if not added:
        return []
    why = f"no new finalizers can be added if the object is being deleted, found new finalizers {added}"
    return [forbidden("metadata.finalizers", why)]


def _name_wrong(kind: Kind, name: str) -> list[str]:
    if kind.kind in _PATH_NAMES:
        if name in (".", ".."):
            return [f"may not be '{name}'"]
        return [f"may not contain '{sign}'" for sign in "/%" if sign in name]
    return label_wrong(name) if kind.kind in _LABEL_NAMES else subdomain_wrong(name)
