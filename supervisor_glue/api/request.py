# SPDX-License-Identifier: Apache-2.0
"""What a request asks for: its path and query, as k8s.io/apiserver's RequestInfo reads them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from supervisor_glue.api.kinds import BY_NAME, PODS, Kind
from supervisor_glue.api.status import Cause, error_bad_request, error_invalid, error_method, error_no_such_path

_VERBS = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


@dataclass(frozen=True, slots=True)
class Target:
    """Of a request under /api or /apis. `verb`: as roles name it."""

    verb: str
    kind: Kind
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    rest: str = ""  # of a path after `proxy` and the like: nothing here has one


@dataclass(frozen=True, slots=True)
class Options:
    """A request's query, read."""

    labels: str = ""
    fields: str = ""
    revision: str = ""
    match: str = ""  # resourceVersionMatch
    limit: int = 0
    continued: str = ""
    watch: bool = False
    bookmarks: bool = False
    initial: bool = False  # sendInitialEvents
    timeout: float = 0.0
    dry_run: bool = False
    manager: str = ""
    force: bool = False
    validation: str = ""
    grace: int | None = None
    propagation: str = ""
    pretty: bool = False
    given: Mapping[str, str] = field(default_factory=dict)


def target_of(method: str, path: str, watch: bool) -> Target | None:
    """None: no resource's path. Raises ApiError 404 for a resource that is not served, 405 for a verb that it lacks."""
    parts = [part for part in path.split("/") if part]
    if len(parts) >= 3 and parts[0] == "api":
        group, version, rest = "", parts[1], parts[2:]
    elif len(parts) >= 4 and parts[0] == "apis":
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return None
    namespace = ""
    if rest[0] == "namespaces" and len(rest) >= 3 and not (len(rest) == 3 and rest[2] in ("status", "finalize")):
        namespace, rest = rest[1], rest[2:]
    kind = BY_NAME.get((group, version, rest[0]))
    if kind is None or (namespace and not kind.namespaced):
        raise error_no_such_path()
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if len(rest) > 3:
        raise error_no_such_path()
    if name and kind.namespaced and not namespace:
        raise error_no_such_path()
    verb = _VERBS.get(method, "")
    if not name:
        verb = {"get": "watch" if watch else "list", "delete": "deletecollection"}.get(verb, verb)
    elif verb == "get" and watch:
        verb = "watch"
    allowed: tuple[str, ...] = kind.verbs
    if subresource:
        part = kind.subresource(subresource)
        if part is None and (kind is PODS and subresource == "portforward"):
            raise error_bad_request("port-forward is not served here: pods are reached by their own addresses")
        if part is None:
            raise error_no_such_path()
        allowed = part.verbs
    elif (name and verb == "create") or (not name and verb in ("update", "patch")):
        allowed = ()
    if verb not in allowed or (verb == "create" and kind.namespaced and not namespace):
        raise error_method(method)
    return Target(verb, kind, namespace, name, subresource)


def options_of(query: Mapping[str, str], *, changes: bool) -> Options:
    """Raises ApiError 400 or 422. `changes`: the request is one that may change something."""
    dry = query.get("dryRun", "")
    if dry not in ("", "All"):
        raise _invalid("dryRun", f'Unsupported value: "{dry}": supported values: "All"', "FieldValueNotSupported")
    validation = query.get("fieldValidation", "")
    if validation not in ("", "Strict", "Warn", "Ignore"):
        told = f'Invalid value: "{validation}": fieldValidation parameter must be one of Strict, Warn, Ignore'
        raise _invalid("fieldValidation", told, "FieldValueInvalid")
    match = query.get("resourceVersionMatch", "")
    revision = query.get("resourceVersion", "")
    if revision and not re.fullmatch(r"\d{1,18}", revision):
        raise error_bad_request(f'Invalid value: "{revision}": resourceVersion must be a number')
    initial = _flag(query, "sendInitialEvents")
    watch = _flag(query, "watch")
    if match not in ("", "Exact", "NotOlderThan"):
        told = f'Unsupported value: "{match}": supported values: "Exact", "NotOlderThan", ""'
        raise _invalid("resourceVersionMatch", told, "FieldValueNotSupported")
    if match and not revision and not watch:
        raise _invalid(
            "resourceVersionMatch",
            "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
            "FieldValueForbidden",
        )
    if match == "Exact" and revision == "0":
        raise _invalid(
            "resourceVersionMatch",
            'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
            "FieldValueForbidden",
        )
    if watch and match and "sendInitialEvents" not in query:
        raise _invalid(
            "resourceVersionMatch",
            "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
            "FieldValueForbidden",
        )
    if watch and "sendInitialEvents" in query and match != "NotOlderThan":
        raise _invalid(
            "resourceVersionMatch",
            "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            "FieldValueForbidden",
        )
    manager = query.get("fieldManager", "")
    if len(manager) > 128 or not manager.isprintable():
        raise _invalid(
            "fieldManager", f"Invalid value: {manager!r}: at most 128 printable characters", "FieldValueInvalid"
        )
    return Options(
        labels=query.get("labelSelector", ""),
        fields=query.get("fieldSelector", ""),
        revision=revision,
        match=match,
        limit=_number(query, "limit") or 0,
        continued=query.get("continue", ""),
        watch=watch,
        bookmarks=_flag(query, "allowWatchBookmarks"),
        initial=initial,
        timeout=float(_number(query, "timeoutSeconds") or 0),
        dry_run=changes and dry == "All",
        manager=manager,
        force=_flag(query, "force"),
        validation=validation,
        grace=_number(query, "gracePeriodSeconds"),
        propagation=query.get("propagationPolicy", ""),
        pretty=_flag(query, "pretty"),
        given=query,
    )


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("1", "true", "t")


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not re.fullmatch(r"-?\d{1,18}", text):
        raise error_bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax ({name})')
    return max(0, int(text))


def _invalid(where: str, told: str, reason: str) -> Exception:
    return error_invalid("ListOptions", "meta.k8s.io", "", [Cause(reason, told, where)])
