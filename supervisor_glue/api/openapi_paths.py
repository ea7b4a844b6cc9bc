# SPDX-License-Identifier: Apache-2.0
"""OpenAPI v2 path items: what can be done to each kind of the table, as Kubernetes describes its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

from supervisor_glue.api.kinds import BY_KIND, KINDS, Kind, Subresource
from supervisor_glue.api.patch import patch_types
from supervisor_glue.api.schema import schema_of, schemas_loaded

Json: TypeAlias = dict[str, Any]
META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1."
_OBJECT_TYPES: Final = ["application/json", "application/yaml"]
_WATCH_TYPES: Final = [*_OBJECT_TYPES, "application/json;stream=watch"]
_PATH: Final = {
    "name": "name of the {kind}",
    "namespace": "object name and auth scope, such as for teams and projects",
}
_QUERY: Final[dict[str, tuple[str, str]]] = {
    "pretty": ("string", "If 'true', then the output is pretty printed."),
    "dryRun": ("string", "'All': everything is done but storing."),
    "fieldManager": ("string", "Who makes the change, for metadata.managedFields; at most 128 printable characters."),
    "fieldValidation": (
        "string",
        "What is done about unknown and duplicate fields: 'Ignore', 'Warn' (the default) or 'Strict'.",
    ),
    "force": ("boolean", "Of an apply: take fields from others who own them."),
    "gracePeriodSeconds": ("integer", "Seconds before the object is deleted; 0: at once."),
    "orphanDependents": ("boolean", "Deprecated: use propagationPolicy."),
    "propagationPolicy": ("string", "What becomes of dependents: 'Orphan', 'Background' or 'Foreground'."),
    "allowWatchBookmarks": ("boolean", "A watch may send BOOKMARK events."),
    "continue": ("string", "The token with which the last part of a list ended."),
    "fieldSelector": ("string", "Only objects whose fields are so."),
    "labelSelector": ("string", "Only objects whose labels are so."),
    "limit": ("integer", "The most objects in one part of a list."),
    "resourceVersion": ("string", "Of a list: not older than this. Of a watch: what comes after it."),
    "resourceVersionMatch": ("string", "How resourceVersion is meant: 'Exact' or 'NotOlderThan'."),
    "sendInitialEvents": ("boolean", "A watch begins with the objects that there are, and a bookmark."),
    "timeoutSeconds": ("integer", "How long a list or watch may take."),
    "watch": ("boolean", "Send changes as they come, not a list."),
    "container": ("string", "The container; may be left out where there is one."),
    "command": ("string", "What is run, and its arguments."),
    "follow": ("boolean", "Go on as the log grows."),
    "limitBytes": ("integer", "The most bytes of the log."),
    "previous": ("boolean", "The log of the container that ran before this one."),
    "sinceSeconds": ("integer", "Only what is not older than that."),
    "tailLines": ("integer", "Only so many lines of the end."),
    "timestamps": ("boolean", "With the time before each line."),
    "stderr": ("boolean", "Pass standard error on."),
    "stdin": ("boolean", "Pass standard input on."),
    "stdout": ("boolean", "Pass standard output on."),
    "tty": ("boolean", "With a terminal."),
    "request": ("string", "What the host's packet agent is asked, as JSON."),
}
_LISTING: Final = (
    *("allowWatchBookmarks", "continue", "fieldSelector", "labelSelector", "limit", "resourceVersion"),
    *("resourceVersionMatch", "sendInitialEvents", "timeoutSeconds", "watch"),
)
_WRITING: Final = ("dryRun", "fieldManager", "fieldValidation")
_DELETING: Final = ("dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy")
_STREAMING: Final = {
    "log": ("container", "follow", "limitBytes", "previous", "sinceSeconds", "tailLines", "timestamps"),
    "exec": ("command", "container", "stderr", "stdin", "stdout", "tty"),
    "attach": ("container", "stderr", "stdin", "stdout", "tty"),
    "agent": ("request",),
}


def reference(name: str) -> Json:
    return {"$ref": f"#/definitions/{name}"}


def operation_paths() -> dict[str, Json]:
    """Of all kinds, by path."""
    found: dict[str, Json] = {}
    for kind in KINDS:
        found |= _kind_paths(kind)
    return dict(sorted(found.items()))


def _kind_paths(kind: Kind) -> Iterator[tuple[str, Json]]:
    root = f"/apis/{kind.group_version}" if kind.group else f"/api/{kind.version}"
    collection = f"{root}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{root}/{kind.plural}"
    if kind.namespaced and "list" in kind.verbs:
        yield f"{root}/{kind.plural}", _item(kind, {"get": _list(kind, "ForAllNamespaces")}, ())
    scope = ("namespace",) if kind.namespaced else ()
    yield collection, _item(kind, _collection(kind), scope)
    if "get" in kind.verbs:
        yield collection + "/{name}", _item(kind, _single(kind), ("name", *scope))
    for part in kind.subresources:
        yield f"{collection}/{{name}}/{part.name}", _item(kind, _part(kind, part), ("name", *scope))


def _item(kind: Kind, operations: Json, scope: tuple[str, ...]) -> Json:
    inside = [
        {
            "uniqueItems": True,
            "type": "string",
            "description": _PATH[name].format(kind=kind.kind),
            "name": name,
            "in": "path",
            "required": True,
        }
        for name in scope
    ]
    return {**operations, "parameters": [*inside, *_queries("pretty")]}


def _queries(*names: str) -> list[Json]:
    return [
        {
            "uniqueItems": True,
            "type": _QUERY[name][0],
            "description": _QUERY[name][1],
            "name": name,
            "in": "query",
        }
        for name in names
    ]


def _collection(kind: Kind) -> Json:
    found: Json = {}
    if "list" in kind.verbs:
        found["get"] = _list(kind, "")
    if "create" in kind.verbs:
        found["post"] = _write(kind, "post", "create", "create a", kind.kind, (200, 201, 202))
    if "deletecollection" in kind.verbs:
        body = [_body(META + "DeleteOptions", required=False)]
        parameters = [*body, *_queries(*_DELETING, *_LISTING[:-1])]
        answers = _answers((200,), META + "Status")
        found["delete"] = _operation(
            kind, "deletecollection", "deleteCollection", "delete collection of", "", parameters, answers
        )
    return found


def _single(kind: Kind) -> Json:
    own = _definition(kind)
    found: Json = {"get": _operation(kind, "get", "read", "read the specified", "", [], _answers((200,), own))}
    if "update" in kind.verbs:
        found["put"] = _write(kind, "put", "replace", "replace the specified", kind.kind, (200, 201))
    if "delete" in kind.verbs:
        parameters = [_body(META + "DeleteOptions", required=False), *_queries(*_DELETING)]
        answer = own if kind.returned else META + "Status"
        answers = _answers((200, 202), answer)
        found["delete"] = _operation(kind, "delete", "delete", "delete a", "", parameters, answers)
    if "patch" in kind.verbs:
        found["patch"] = _patch(kind, "")
    return found


def _part(kind: Kind, part: Subresource) -> Json:
    suffix = part.name.capitalize()
    if (kind.group, kind.version, kind.kind + suffix) in BY_KIND:  # Host's status, and HostStatus
        suffix = "Own" + suffix
    if part.name in _STREAMING:
        return _stream(kind, part, suffix)
    found: Json = {}
    if "create" in part.verbs:
        found["post"] = _write(kind, "post", "create", f"create {part.name} of a", part.kind, (200, 201, 202), suffix)
        group, _, version = part.group_version.rpartition("/")
        found["post"]["x-kubernetes-group-version-kind"] = {"group": group, "kind": part.kind, "version": version}
    if "get" in part.verbs:
        answers = _answers((200,), _definition(kind))
        found["get"] = _operation(kind, "get", "read", f"read {part.name} of the specified", suffix, [], answers)
    if "update" in part.verbs:
        what = f"replace {part.name} of the specified"
        found["put"] = _write(kind, "put", "replace", what, kind.kind, (200, 201), suffix)
    if "patch" in part.verbs:
        found["patch"] = _patch(kind, suffix)
    return found


def _stream(kind: Kind, part: Subresource, suffix: str) -> Json:
    found: Json = {}
    for verb, method in (("get", "get"), ("create", "post")):
        if verb in part.verbs:
            name = "read" if part.name == "log" else "connect"
            action = "get" if part.name == "log" else "connect"
            answers = {"200": {"description": "OK", "schema": {"type": "string"}}} | _UNAUTHORIZED
            words = f"{'read' if action == 'get' else 'connect to'} {part.name} of the specified"
            operation = _operation(kind, action, name, words, suffix, _queries(*_STREAMING[part.name]), answers)
            operation["produces"] = ["text/plain"] if part.name == "log" else ["*/*"]
            if part.kind:
                operation["x-kubernetes-group-version-kind"] = {"group": "", "kind": part.kind, "version": "v1"}
            if action == "connect":  # by two methods, each with a name
                operation["operationId"] = operation["operationId"].replace(
                    _tag(kind), _tag(kind) + method.capitalize()
                )
            found[method] = operation
    return found


_UNAUTHORIZED: Final[Json] = {"401": {"description": "Unauthorized"}}
_WORDS: Final = {200: "OK", 201: "Created", 202: "Accepted"}


def _answers(codes: tuple[int, ...], definition: str) -> Json:
    found: Json = {str(code): {"description": _WORDS[code], "schema": reference(definition)} for code in codes}
    return found | _UNAUTHORIZED


def _definition(kind: Kind, of: str = "") -> str:
    return schema_of(kind.group, kind.version, of or kind.kind).name


def _body(definition: str, *, required: bool) -> Json:
    found: Json = {"name": "body", "in": "body", "schema": reference(definition)}
    return {**found, "required": True} if required else found


def _list(kind: Kind, suffix: str) -> Json:
    answers = _answers((200,), _definition(kind, kind.list_kind))
    scoped = kind if not suffix else None
    operation = _operation(kind, "list", "list", "list or watch objects of kind", suffix, _queries(*_LISTING), answers)
    if scoped is None:
        operation["operationId"] = f"list{_tag(kind)}{kind.kind}{suffix}"
    return operation | {"produces": _WATCH_TYPES}


def _write(kind: Kind, method: str, name: str, words: str, body: str, codes: tuple[int, ...], suffix: str = "") -> Json:
    definition = _body_definition(kind, body)
    parameters = [_body(definition, required=True), *_queries(*_WRITING)]
    return _operation(kind, method, name, words, suffix, parameters, _answers(codes, definition))


def _body_definition(kind: Kind, body: str) -> str:
    """Of what is sent: the kind itself, or a subresource's own."""
    if body == kind.kind:
        return _definition(kind)
    part = next(item for item in kind.subresources if item.kind == body)
    group, _, version = part.group_version.rpartition("/")
    return str(schemas_loaded()["kinds"][f"{group}/{version}/{body}"])


def _patch(kind: Kind, suffix: str) -> Json:
    parameters = [_body(META + "Patch", required=True), *_queries(*_WRITING, "force")]
    answers = _answers((200, 201), _definition(kind))
    operation = _operation(kind, "patch", "patch", "partially update the specified", suffix, parameters, answers)
    return operation | {"consumes": list(patch_types(schema_of(kind.group, kind.version, kind.kind)))}


def group_tag(group: str) -> str:
    """`core`, `rbacAuthorization`."""
    first, *rest = (group.removesuffix(".k8s.io") or "core").split(".")
    return first + "".join(word.capitalize() for word in rest)


def _tag(kind: Kind) -> str:
    """`CoreV1`, `RbacAuthorizationV1`."""
    group = group_tag(kind.group)
    return group[0].upper() + group[1:] + kind.version.capitalize()


def _operation(
    kind: Kind, action: str, name: str, words: str, suffix: str, parameters: list[Json], answers: Json
) -> Json:
    scope = "Namespaced" if kind.namespaced and suffix != "ForAllNamespaces" else ""
    head, separator, tail = name.partition("Collection")
    return {
        "description": f"{words} {kind.kind}",
        "consumes": ["*/*"],
        "produces": _OBJECT_TYPES,
        "schemes": ["https"],
        "tags": [f"{group_tag(kind.group)}_{kind.version}"],
        "operationId": f"{head}{_tag(kind)}{separator}{tail}{scope}{kind.kind}{suffix}",
        **({"parameters": parameters} if parameters else {}),
        "responses": answers,
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "kind": kind.kind, "version": kind.version},
    }
