# SPDX-License-Identifier: Apache-2.0
"""A Namespace's posture: a word that means nothing is refused, or a Namespace meant to be isolated would be open."""

from __future__ import annotations

from typing import Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import Cause, Object
from supervisor_glue.api.validate.words import unsupported

ISOLATION: Final = "palisade.internal/isolation"
"""A Namespace's annotation; without it, as the Supervisor says."""
ISOLATED: Final = "isolated"
POSTURES: Final = (ISOLATED, "none")


def namespace_check(kind: Kind, item: Object) -> list[Cause]:
    """Of a new one."""
    said = _said(item)
    if said is None or said in POSTURES:
        return []
    return [unsupported(f"metadata.annotations[{ISOLATION}]", said, POSTURES)]


def namespace_change_check(kind: Kind, old: Object, new: Object) -> list[Cause]:
    """What an earlier version has let through stays, so that such a Namespace can be changed and deleted."""
    return [] if _said(old) == _said(new) else namespace_check(kind, new)


def _said(item: Object) -> str | None:
    said: str | None = (item["metadata"].get("annotations") or {}).get(ISOLATION)
    return said
