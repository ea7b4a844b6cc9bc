# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI documents: what kubectl validates and explains with, and others generate clients from.

`/openapi/v2` is one document, as JSON or as gnostic's protobuf message (which kubectl before 1.30 asks for);
`/openapi/v3` an index by group and version, each with a hash, and a document for each
(https://kubernetes.io/docs/concepts/overview/kubernetes-api/#openapi-interface-definition). Each is made when it is
first asked for, and kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import dfw
from supervisor_glue.api.kinds import groups
from supervisor_glue.api.openapi_paths import META, Json, group_tag, operation_paths, reference
from supervisor_glue.api.schema import schemas_loaded

JSON: Final = "application/json"
PROTOBUF: Final = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf"
_PROTOBUF_READABLE: Final = PROTOBUF.replace("@", ".")  # with an @ in it, Go cannot read a media type
_V3_PREFIX: Final = "/openapi/v3/"
_NOT_IN_V2: Final = frozenset(("oneOf", "anyOf", "allOf", "not", "nullable"))
_V2_FORMATS: Final[dict[str, Json]] = {
    "int-or-string": {"type": "string", "format": "int-or-string"},
    "quantity": {"type": "string"},
    "micro-time": {"type": "string", "format": "date-time"},
}
_V3_FORMATS: Final[dict[str, Json]] = {
    "int-or-string": {"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]},
    "quantity": {"oneOf": [{"type": "string"}, {"type": "number"}]},
    "micro-time": {"type": "string", "format": "date-time"},
}


def openapi_document(path: str, accept: str) -> tuple[bytes, str, str] | None:
    """The body, its media type and its hash; None: nothing lies at that path."""
    path = path.rstrip("/")
    if path == "/openapi/v2":
        if PROTOBUF in accept or _PROTOBUF_READABLE in accept:
            return _kept("v2.pb"), _PROTOBUF_READABLE, _hash("v2.pb")
        return _kept("v2"), JSON, _hash("v2")
    if path == "/openapi/v3":
        return _kept("v3"), JSON, _hash("v3")
    name = path.removeprefix(_V3_PREFIX)
    return (_kept(name), JSON, _hash(name)) if name in _v3_names() else None


@cache
def _kept(name: str) -> bytes:
    if name == "v2":
        return _written(document_v2())
    if name == "v2.pb":
        from supervisor_glue.api.openapi_protobuf import document_message

        return document_message(document_v2()).SerializeToString(deterministic=True)
    if name == "v3":
        paths = {name: {"serverRelativeURL": f"{_V3_PREFIX}{name}?hash={_hash(name)}"} for name in _v3_names()}
        return _written({"paths": paths})
    return _written(document_v3(name))


@cache
def _hash(name: str) -> str:
    return hashlib.sha512(_kept(name)).hexdigest().upper()


def _written(document: Json) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


@cache
def _v3_names() -> tuple[str, ...]:
    versions = [f"apis/{group}/{version}" for group, many in groups().items() for version in many]
    return ("api", "api/v1", "apis", *(f"apis/{group}" for group in groups()), *sorted(versions), "version")


def document_v2() -> Json:
    """OpenAPI 2.0 of everything."""
    definitions = schemas_loaded()["definitions"]
    return {
        "swagger": "2.0",
        "info": _info(),
        "paths": {**_discovery_paths(), **operation_paths()},
        "definitions": {name: schema_v2(schema) for name, schema in definitions.items()} | _EXTRA,
        "securityDefinitions": {
            "BearerToken": {
                "description": "Bearer Token authentication",
                "type": "apiKey",
                "name": "authorization",
                "in": "header",
            }
        },
        "security": [{"BearerToken": []}],
    }


def document_v3(name: str) -> Json:
    """OpenAPI 3.0 of one group and version (`apis/networking.k8s.io/v1`), or of a path of discovery (`apis`)."""
    every = {**_discovery_paths(), **operation_paths()}
    root = f"/{name}/"
    whole = name.count("/") == (1 if name.startswith("api/") else 2)
    paths = {path: path_v3(item) for path, item in every.items() if path == root or (whole and path.startswith(root))}
    schemas = _components(paths)
    return {
        "openapi": "3.0.0",
        "info": _info(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey",
                    "description": "Bearer Token authentication",
                    "name": "authorization",
                    "in": "header",
                }
            },
        },
        "security": [{"BearerToken": []}],
    }


def _info() -> Json:
    return {"title": "Palisade", "version": f"v{schemas_loaded()['kubernetes']}.0+palisade.{dfw.__version__}"}


_VERSION: Final = "io.k8s.apimachinery.pkg.version.Info"
_EXTRA: Final[Json] = {
    _VERSION: {
        "description": "Info contains versioning information.",
        "type": "object",
        "properties": {
            key: {"type": "string"}
            for key in (
                *("buildDate", "compiler", "gitCommit", "gitTreeState", "gitVersion", "goVersion", "major", "minor"),
                "platform",
            )
        },
    }
}


def _discovery_paths() -> Json:
    """What a client begins with."""
    found: Json = {"/api/": ("core", "getCoreAPIVersions", META + "APIVersions", "get available API versions")}
    found["/api/v1/"] = ("core_v1", "getCoreV1APIResources", META + "APIResourceList", "get available resources")
    found["/apis/"] = ("apis", "getAPIVersions", META + "APIGroupList", "get available API groups")
    for group, versions in groups().items():
        tag = group_tag(group)
        words = tag[0].upper() + tag[1:]
        found[f"/apis/{group}/"] = (tag, f"get{words}APIGroup", META + "APIGroup", "get information of a group")
        for version in versions:
            operation = f"get{words}{version.capitalize()}APIResources"
            told = (f"{tag}_{version}", operation, META + "APIResourceList", "get available resources")
            found[f"/apis/{group}/{version}/"] = told
    found["/version/"] = ("version", "getCodeVersion", _VERSION, "get the version of the API")
    return {path: {"get": _discovery(*told)} for path, told in found.items()}


def _discovery(tag: str, operation: str, definition: str, words: str) -> Json:
    return {
        "description": words,
        "consumes": [JSON],
        "produces": [JSON],
        "schemes": ["https"],
        "tags": [tag],
        "operationId": operation,
        "responses": {
            "200": {"description": "OK", "schema": reference(definition)},
            "401": {"description": "Unauthorized"},
        },
    }


def schema_v2(schema: Any) -> Any:
    """Of the schemas' own form (schema.py), for a v2 document."""
    if isinstance(schema, list):
        return [schema_v2(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _inside(key, value, schema_v2) for key, value in schema.items() if key not in _NOT_IN_V2}
    return _formatted(found, _V2_FORMATS, "#/definitions/")


def schema_v3(schema: Any) -> Any:
    """Of the schemas' own form (schema.py), for a v3 document: beside a reference, v3 has nothing."""
    if isinstance(schema, list):
        return [schema_v3(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _inside(key, value, schema_v3) for key, value in schema.items()}
    found = _formatted(found, _V3_FORMATS, "#/components/schemas/")
    if "$ref" in found and len(found) > 1:
        found["allOf"] = [{"$ref": found.pop("$ref")}]
    return found


def _inside(key: str, value: Any, convert: Any) -> Any:
    """`properties` has schemas by name; a default or an example is no schema."""
    if key == "properties":
        return {name: convert(item) for name, item in value.items()}
    return value if key in ("default", "example", "enum", "description") or key.startswith("x-") else convert(value)


def _formatted(schema: Json, formats: dict[str, Json], prefix: str) -> Json:
    if isinstance(schema.get("$ref"), str):
        schema["$ref"] = prefix + schema["$ref"]
    given = formats.get(schema.get("format", ""))
    if given is not None:
        schema = {key: value for key, value in schema.items() if key not in ("type", "format")} | given
    return schema


def path_v3(item: Json) -> Json:
    """Of a v2 path item."""
    return {
        key: [_parameter_v3(parameter) for parameter in value] if key == "parameters" else _operation_v3(value)
        for key, value in item.items()
    }


def _parameter_v3(parameter: Json) -> Json:
    schema = {key: parameter[key] for key in ("type", "uniqueItems") if key in parameter}
    rest = {key: value for key, value in parameter.items() if key not in schema}
    return {**rest, "schema": schema}


def _operation_v3(operation: Json) -> Json:
    found = {
        key: value for key, value in operation.items() if key not in ("consumes", "produces", "schemes", "parameters")
    }
    parameters = operation.get("parameters", [])
    plain = [_parameter_v3(item) for item in parameters if item["in"] != "body"]
    if plain:
        found["parameters"] = plain
    for body in (item for item in parameters if item["in"] == "body"):
        content = {media: {"schema": _to_components(body["schema"])} for media in operation["consumes"]}
        found["requestBody"] = {"content": content} | ({"required": True} if body.get("required") else {})
    found["responses"] = {
        code: {"description": answer["description"]}
        | (
            {"content": {media: {"schema": _to_components(answer["schema"])} for media in operation["produces"]}}
            if "schema" in answer
            else {}
        )
        for code, answer in operation["responses"].items()
    }
    return found


def _to_components(schema: Json) -> Json:
    if "$ref" in schema:
        return {"$ref": schema["$ref"].replace("#/definitions/", "#/components/schemas/")}
    return schema


def _components(paths: Json) -> Json:
    """The schemas that paths need, and those that these need."""
    definitions = schemas_loaded()["definitions"]
    found: Json = {}
    waiting = [name.rpartition("/")[2] for name in _references(paths)]
    while waiting:
        name = waiting.pop()
        if name not in found:
            raw = definitions[name] if name in definitions else _EXTRA[name]
            found[name] = schema_v3(raw)
            waiting += _references(raw)
    return dict(sorted(found.items()))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inside in value.values():
            yield from _references(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from _references(inside)
