# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI documents against the kinds' table, against themselves, and against what an API server answered."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.json_format import MessageToDict

from supervisor_glue.api.kinds import KINDS
from supervisor_glue.api.openapi import PROTOBUF, openapi_document
from supervisor_glue.api.openapi_protobuf import document_message, document_type

METHODS = ("get", "put", "post", "delete", "patch")
CONVERTED = ("oneOf", "anyOf", "allOf", "nullable")


def document(path: str) -> dict[str, Any]:
    found = openapi_document(path, "application/json")
    assert found is not None
    body, media, digest = found
    assert media == "application/json"
    assert len(digest) == 128
    loaded: dict[str, Any] = json.loads(body)
    return loaded


def operations(paths: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in paths.items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inside in value.values():
            yield from references(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from references(inside)


def test_v2_is_whole() -> None:
    whole = document("/openapi/v2")
    assert {name.removeprefix("#/definitions/") for name in references(whole)} <= set(whole["definitions"])
    names = Counter(operation["operationId"] for _, _, operation in operations(whole["paths"]))
    assert names.most_common(1)[0][1] == 1
    for path, item in whole["paths"].items():
        parameters = {parameter["name"] for parameter in item.get("parameters", ()) if parameter["in"] == "path"}
        assert parameters == {part.strip("{}") for part in path.split("/") if part.startswith("{")}
    text = json.dumps(whole["definitions"])
    for word in CONVERTED:
        assert f'"{word}":' not in text
    for word in ("quantity", "micro-time"):
        assert f'"format": "{word}"' not in text


def test_every_kind_has_its_verbs() -> None:
    whole = document("/openapi/v2")
    actions: dict[tuple[str, str, str], set[str]] = {}
    for path, method, operation in operations(whole["paths"]):
        own = operation.get("x-kubernetes-group-version-kind")
        if own:
            actions.setdefault((own["group"], own["version"], own["kind"]), set()).add(operation["x-kubernetes-action"])
        if method == "patch":  # kubectl looks for these to know what the server can do
            assert {"dryRun", "fieldValidation", "force"} <= {item["name"] for item in operation["parameters"]}
            custom = next(kind.custom for kind in KINDS if f"/{kind.group_version}/" in path)
            assert ("application/strategic-merge-patch+json" in operation["consumes"]) is not custom
    words = {"create": "post", "update": "put"}
    for kind in KINDS:
        wanted = {words.get(verb, verb) for verb in kind.verbs} - {"watch"}
        assert wanted <= actions[kind.group, kind.version, kind.kind]


def test_every_version_has_a_v3_document_that_is_whole() -> None:
    index = document("/openapi/v3")["paths"]
    assert {f"apis/{kind.group_version}" if kind.group else "api/v1" for kind in KINDS} <= set(index)
    together: set[str] = set()
    for name, told in index.items():
        path, _, digest = told["serverRelativeURL"].partition("?hash=")
        assert path == f"/openapi/v3/{name}"
        found = openapi_document(path, "")
        assert found is not None
        assert found[2] == digest
        whole = json.loads(found[0])
        wanted = {item.removeprefix("#/components/schemas/") for item in references(whole)}
        assert wanted == set(whole["components"]["schemas"]) & wanted
        assert whole["paths"]
        together |= set(whole["paths"])
        for _, _, operation in operations(whole["paths"]):
            assert not {"consumes", "produces", "schemes"} & set(operation)
            assert all("schema" in item and item["in"] != "body" for item in operation.get("parameters", ()))
        for kind in KINDS:
            if name == (f"apis/{kind.group_version}" if kind.group else "api/v1"):
                gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
                schemas = whole["components"]["schemas"].values()
                assert any(gvk in schema.get("x-kubernetes-group-version-kind", ()) for schema in schemas)
    assert together == set(document("/openapi/v2")["paths"])


def test_there_is_nothing_else() -> None:
    for path in ("/openapi", "/openapi/v4", "/openapi/v3/apis/apps/v1", "/openapi/v3/v2", "/openapi/v3/v2.pb"):
        assert openapi_document(path, "") is None


def test_the_protobuf_document_says_the_same() -> None:
    found = openapi_document("/openapi/v2", f"{PROTOBUF}, application/json")
    assert found is not None
    assert found[1] == PROTOBUF.replace("@", ".")  # which Go can read
    message: Any = document_type()()
    message.ParseFromString(found[0])
    whole = document("/openapi/v2")
    assert [entry.name for entry in message.paths.path] == list(whole["paths"])
    schemas = {entry.name: entry.value for entry in message.definitions.additional_properties}
    assert list(schemas) == list(whole["definitions"])
    policy = schemas["io.k8s.api.networking.v1.NetworkPolicy"]
    extensions = {entry.name: json.loads(entry.value.yaml) for entry in policy.vendor_extension}
    assert extensions["x-kubernetes-group-version-kind"][0]["kind"] == "NetworkPolicy"


def plain(value: Any) -> Any:
    """A message as values: text that is YAML read, pairs of name and value in order of their names."""
    if isinstance(value, dict):
        if set(value) == {"yaml"}:
            return yaml.load(value["yaml"], yaml.CSafeLoader)
        return {key: plain(inside) for key, inside in value.items()}
    if isinstance(value, list):
        found = [plain(inside) for inside in value]
        pairs = all(isinstance(inside, dict) and set(inside) == {"name", "value"} for inside in found)
        return sorted(found, key=lambda pair: str(pair["name"])) if pairs else found
    return value


def test_the_recorded_protobuf_document_is_the_recorded_json_document(shared_data: Path) -> None:
    """Our writer makes of an API server's JSON what the API server makes of it."""
    folder = shared_data / "kube-apiserver-golden"
    data = gzip.decompress((folder / "openapi-v2.pb.gz").read_bytes())
    recorded: Any = document_type()()
    recorded.ParseFromString(data)
    recorded.DiscardUnknownFields()
    assert recorded.ByteSize() == len(data)
    whole = json.loads(gzip.decompress((folder / "openapi-v2.json.gz").read_bytes()))
    keep = [name for name in whole["definitions"] if name.startswith("io.k8s.api.core.v1.P")]
    paths = [path for path in whole["paths"] if "/pods" in path]
    part: dict[str, Any] = {
        **whole,
        "definitions": {name: whole["definitions"][name] for name in keep},
        "paths": {path: whole["paths"][path] for path in paths},
    }
    for field, names in ((recorded.definitions.additional_properties, keep), (recorded.paths.path, paths)):
        kept = [entry for entry in field if entry.name in names]
        del field[:]
        field.extend(kept)
    assert plain(MessageToDict(recorded)) == plain(MessageToDict(document_message(part)))


@pytest.mark.parametrize("what", ["operationId", "x-kubernetes-action", "x-kubernetes-group-version-kind", "tags"])
def test_operations_are_named_as_an_api_server_names_them(shared_data: Path, what: str) -> None:
    data = (shared_data / "kube-apiserver-golden" / "openapi-v2.json.gz").read_bytes()
    recorded = json.loads(gzip.decompress(data))["paths"]
    compared = 0
    for path, method, operation in operations(document("/openapi/v2")["paths"]):
        theirs = recorded.get(path, {}).get(method)
        if theirs is None or path.endswith("/eviction"):  # policy/v1 came later
            continue
        assert operation.get(what) == theirs.get(what), path
        compared += 1
    assert compared > 100
