# SPDX-License-Identifier: Apache-2.0
"""ConfigMap and Secret (k8s.io/kubernetes/pkg/apis/core/validation)."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import Cause, Object
from supervisor_glue.api.validate.words import forbidden, invalid, key_wrong, required, too_long

MOST: Final = 1024 * 1024  # bytes
_NEEDED: Final = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


def data_check(kind: Kind, item: Object) -> list[Cause]:
    found = []
    size = 0
    seen = set(item.get("data") or ())
    for field in ("data", "binaryData"):
        for key, value in (item.get(field) or {}).items():
            found += [invalid(f"{field}[{key}]", key, why) for why in key_wrong(key)]
            if field == "binaryData" and key in seen:
                found.append(invalid(f"binaryData[{key}]", key, "duplicate of key present in data"))
            encoded = kind.kind == "Secret" or field == "binaryData"
            size += _size(value or "") if encoded else len((value or "").encode())
    if size > MOST:
        found.append(too_long("data" if kind.kind == "Secret" else "", MOST))
    if kind.kind == "Secret":
        for key in _NEEDED.get(item.get("type") or "", ()):
            if key not in (item.get("data") or {}):
                found.append(required(f"data[{key}]"))
    return found


def data_change_check(kind: Kind, old: Object, new: Object) -> list[Cause]:
    found = []
    if kind.kind == "Secret" and old.get("type") != new.get("type"):
        found.append(invalid("type", new.get("type"), "field is immutable"))
    if old.get("immutable"):
        if not new.get("immutable"):
            found.append(forbidden("immutable", "field is immutable when `immutable` is set"))
        for field in ("data", "binaryData"):
            if (old.get(field) or {}) != (new.get(field) or {}):
                found.append(forbidden(field, "field is immutable when `immutable` is set"))
    return found


def _size(text: str) -> int:
    try:
        return len(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError):
        return len(text)
