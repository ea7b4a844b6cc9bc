# SPDX-License-Identifier: Apache-2.0
"""Refusals: what an API server answers instead of an object.

Source: https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/status/ and the messages of
k8s.io/apimachinery/pkg/api/errors, which clients show as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object as JSON has it."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong with an object, at a field (`spec.containers[0].name`)."""

    reason: str
    message: str
    field: str


class ApiError(Exception):
    """The request is refused: HTTP status, machine-readable reason, a sentence."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: Mapping[str, Any] | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details, self._has_details = dict(details or {}), details is not None
        self.retry_after = retry_after
        if retry_after is not None:
            self.details["retryAfterSeconds"] = retry_after

    def status(self) -> Object:
        """The answer's body."""
        body: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        }
        if self.details or self._has_details:  # kubectl debug ends in a panic where a 404 has none
            body["details"] = self.details
        return body


def resource_name(plural: str, group: str) -> str:
    """As messages name a resource: `pods`, `networkpolicies.networking.k8s.io`."""
    return f"{plural}.{group}" if group else plural


def error_not_found(plural: str, group: str, name: str) -> ApiError:
    return ApiError(
        404,
        "NotFound",
        f'{resource_name(plural, group)} "{name}" not found',
        details=_details(name, group, plural),
    )


def error_no_such_path() -> ApiError:
    return ApiError(404, "NotFound", "the server could not find the requested resource", details={})


def error_exists(plural: str, group: str, name: str) -> ApiError:
    return ApiError(
        409,
        "AlreadyExists",
        f'{resource_name(plural, group)} "{name}" already exists',
        details=_details(name, group, plural),
    )


def error_conflict(plural: str, group: str, name: str, why: str) -> ApiError:
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource_name(plural, group)} "{name}": {why}',
        details=_details(name, group, plural),
    )


CHANGED_MEANWHILE = "the object has been modified; please apply your changes to the latest version and try again"


def error_invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """All that is wrong at once, as apimachinery's NewInvalid words it."""
    lines = [f"{cause.field}: {cause.message}" for cause in causes]
    told = lines[0] if len(lines) == 1 else f"[{', '.join(lines)}]"
    qualified = f"{kind}.{group}" if group else kind
    return ApiError(
        422,
        "Invalid",
        f'{qualified} "{name}" is invalid: {told}',
        details=_details(name, group, kind)
        | {"causes": [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]},
    )


def error_forbidden(plural: str, group: str, name: str, why: str) -> ApiError:
    named = f' "{name}"' if name else ""
    return ApiError(
        403,
        "Forbidden",
        f"{resource_name(plural, group)}{named} is forbidden: {why}",
        details=_details(name, group, plural),
    )


def error_bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def error_unauthorized() -> ApiError:
    return ApiError(401, "Unauthorized", "Unauthorized")


def error_gone(message: str) -> ApiError:
    """The revision asked for is forgotten: the client lists anew."""
    return ApiError(410, "Expired", message)


def error_too_large(asked: int, revision: int) -> ApiError:
    """The client names a revision that has not been reached."""
    told = f"Too large resource version: {asked}, current: {revision}"
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    return ApiError(504, "Timeout", f"Timeout: {told}", details={"causes": causes}, retry_after=1)


def error_media_type(given: str, known: Sequence[str]) -> ApiError:
    return ApiError(
        415,
        "UnsupportedMediaType",
        f"the body of the request was in an unknown format - accepted media types include: {', '.join(known)}"
        + (f" (got {json.dumps(given)})" if given and given not in known else ""),
    )


def error_method(method: str) -> ApiError:
    return ApiError(
        405, "MethodNotAllowed", f"the server does not allow this method on the requested resource ({method})"
    )


def error_internal(message: str) -> ApiError:
    return ApiError(500, "InternalError", f"Internal error occurred: {message}")


def error_unavailable(message: str) -> ApiError:
    """Not now: the client asks again."""
    return ApiError(503, "ServiceUnavailable", message, retry_after=1)


def error_too_many(message: str, retry_after: int = 1) -> ApiError:
    return ApiError(429, "TooManyRequests", message, retry_after=retry_after)


def _details(name: str, group: str, kind: str) -> dict[str, Any]:
    return {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}


def why_unanswered(error: BaseException) -> str:
    """Why a request has no answer, in the words of the system where they are its: aiohttp's own show a TLS context as
    an object in memory."""
    system = getattr(error, "os_error", None)
    return (getattr(system, "strerror", None) or str(error)) or type(error).__name__
