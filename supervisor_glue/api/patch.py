# SPDX-License-Identifier: Apache-2.0
"""PATCH: JSON patch (RFC 6902), merge patch (RFC 7396), strategic merge patch, with apimachinery's answers to bad ones.

Server-side apply is the fourth kind, in apply.py.
"""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonpatch
from jsonpointer import JsonPointer, JsonPointerException

from supervisor_glue.api.body import Body, body_read
from supervisor_glue.api.decode import (
    IGNORE,
    STRICT,
    WARN,
    Decoded,
    object_shape,
    strict_errors,
    types_invalid,
    warnings_told,
)
from supervisor_glue.api.schema import Node
from supervisor_glue.api.status import (
    ApiError,
    Cause,
    Object,
    error_bad_request,
    error_invalid,
    error_media_type,
)
from supervisor_glue.api.strategic import StrategicError, strategic_merge

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_PATCH = "application/strategic-merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"
MOST_OPERATIONS = 10_000
"""Of a JSON patch, as an API server has it."""
MOST_SHOWN = 10_000
"""Characters of an object in a refusal."""
MOST_COPIED = 3 << 20
"""Bytes that the `copy` operations of one JSON patch may write, as an API server has it."""
_BAD = (jsonpatch.JsonPatchException, JsonPointerException, ValueError, KeyError, IndexError, TypeError, AttributeError)


def patch_types(schema: Node) -> tuple[str, ...]:
    """The kinds of patch that a kind takes: a strategic one needs Kubernetes' own types."""
    strategic = (STRATEGIC_PATCH,) if schema.built_in else ()
    return (JSON_PATCH, MERGE_PATCH, *strategic, APPLY_PATCH)


def patch_apply(schema: Node, current: Object, data: bytes, content_type: str, validation: str = STRICT) -> Decoded:
    """The object after the patch, as it would be stored, with the warnings for `fieldValidation=Warn`; `current` stays.

    Raises ApiError: 415 for a kind of patch that this kind of object does not take, 400 for one that can't be read, 422
    for one that can't be applied or makes something else than an object of the kind, 413 for too many operations.
    """
    media = content_type.partition(";")[0].strip().lower()
    if media not in patch_types(schema) or media == APPLY_PATCH:
        raise error_media_type(content_type, patch_types(schema))
    try:
        body = body_read(data, media)
    except ApiError as error:
        raise error_bad_request(f"error decoding patch: {error.message}") from None
    if media == JSON_PATCH:
        patched = json_patch(current, body.value)
        prefix = "json patch "
    else:
        if not isinstance(body.value, dict):
            raise error_bad_request("error decoding patch: it is not a JSON object")
        patched = merge_patch(current, body.value) if media == MERGE_PATCH else _strategic(schema, current, body.value)
        prefix = ""
    return _decoded(schema, patched, body, prefix, validation)


def json_patch(current: Object, operations: Any) -> Any:
    """RFC 6902. Raises ApiError."""
    if not isinstance(operations, list) or not all(isinstance(item, dict) for item in operations):
        raise error_bad_request("error decoding patch: a JSON patch is a list of operations")
    if len(operations) > MOST_OPERATIONS:
        raise ApiError(
            413,
            "RequestEntityTooLarge",
            f"Request entity is too large: The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, "
            f"got {len(operations)}",
        )
    patched: Any = copy.deepcopy(current)
    copied = 0
    try:
        for operation in operations:
            if operation.get("op") == "copy":
                copied += len(json.dumps(JsonPointer(operation["from"]).resolve(patched)))
                if copied > MOST_COPIED:
                    raise jsonpatch.JsonPatchException("too much is copied")
            patched = jsonpatch.JsonPatch([operation]).apply(patched, in_place=True)
    except (*_BAD, RecursionError):
        raise _cannot() from None
    return patched


def _cannot() -> ApiError:
    """As apimachinery says it of a JSON patch that does not fit, without saying what."""
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request")


def merge_patch(current: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(current) if isinstance(current, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def _strategic(schema: Node, current: Object, patch: Object) -> Object:
    try:
        return strategic_merge(schema, current, patch)
    except StrategicError as error:
        raise error_bad_request(str(error)) from None


def _decoded(schema: Node, patched: Any, body: Body, prefix: str, validation: str) -> Decoded:
    if not isinstance(patched, dict):
        raise _cannot()
    shaped = object_shape(schema, patched)
    if shaped.errors and not schema.built_in:
        raise types_invalid(schema, patched, shaped.errors)
    if shaped.errors:
        raise _invalid(schema, patched, shaped.errors[0].said)
    strict = tuple(prefix + item for item in strict_errors((), body.duplicates)) + strict_errors(shaped.unknown, ())
    if strict and validation not in (WARN, IGNORE):
        raise _invalid(schema, patched, f"strict decoding error: {', '.join(strict)}")
    return Decoded(shaped.value, warnings_told(strict) if validation == WARN else ())


def _invalid(schema: Node, patched: Any, said: str) -> ApiError:
    """With the patched object, as an API server has it; but whoever may patch a Secret may not yet read it."""
    shown = "" if schema.go_type() == "v1.Secret" else json.dumps(patched, separators=(",", ":"))
    text = json.dumps(shown[:MOST_SHOWN])
    return error_invalid("", "", "", [Cause("FieldValueInvalid", f"Invalid value: {text}: {said}", "patch")])
