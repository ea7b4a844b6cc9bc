# SPDX-License-Identifier: Apache-2.0
"""A request's body -> an object of the kind that its path names, whatever it is written in."""

from __future__ import annotations

from typing import Final

from supervisor_glue.api.body import Body, body_read
from supervisor_glue.api.decode import Decoded, object_decode
from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.protobuf import PROTOBUF, protobuf_read
from supervisor_glue.api.schema import schema_of
from supervisor_glue.api.status import Object, error_bad_request, error_media_type

MEDIA: Final = ("application/json", "application/yaml", PROTOBUF)
_YAML: Final = ("application/yaml", "application/x-yaml", "text/yaml")


def object_read(kind: Kind, data: bytes, media: str, validation: str) -> Decoded:
    """Raises ApiError 400, 415. `validation`: Strict, Warn (also empty, as Kubernetes since 1.27), Ignore."""
    body = typed(kind.group_version, kind.kind, value_read(data, media))
    schema = schema_of(kind.group, kind.version, kind.kind)
    return object_decode(schema, kind.kind, kind.version, body, validation or "Warn")


def typed(group_version: str, kind: str, body: Body) -> Body:
    """With apiVersion and kind, which may be left out but not be others'. Raises ApiError 400."""
    value = body.value
    if not isinstance(value, dict):
        raise error_bad_request("the body of the request is no object")
    version, named = value.get("apiVersion"), value.get("kind")
    if version not in (None, "", group_version):
        raise error_bad_request(
            f"the API version in the data ({version}) does not match the expected API version ({group_version})"
        )
    if named not in (None, "", kind):
        raise error_bad_request(f"the kind in the data ({named}) does not match the expected kind ({kind})")
    rest = {key: item for key, item in value.items() if key not in ("kind", "apiVersion")}
    metadata = rest.pop("metadata", None)
    head: Object = {"kind": kind, "apiVersion": group_version, "metadata": {} if metadata is None else metadata}
    return Body(head | rest, body.duplicates)


def options_read(data: bytes, media: str) -> Object:
    """DeleteOptions and the like: an empty body is none. Raises ApiError 400, 415."""
    if not data.strip():
        return {}
    value = value_read(data, media).value
    if not isinstance(value, dict):
        raise error_bad_request("the body of the request is no object")
    return value


def value_read(data: bytes, media: str) -> Body:
    """What was sent. Raises ApiError 400, 415."""
    main = media.partition(";")[0].strip().lower() or "application/json"
    if main == PROTOBUF:
        return Body(protobuf_read(data), ())
    if main != "application/json" and main not in _YAML:
        raise error_media_type(main, MEDIA)
    return body_read(data, main)
