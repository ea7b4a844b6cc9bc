# SPDX-License-Identifier: Apache-2.0
"""OpenAPI v2 as gnostic's protobuf message, which kubectl up to 1.29 asks for.

The message types are made here from their field numbers (github.com/google/gnostic, openapiv2/OpenAPIv2.proto), as far
as Kubernetes' documents use them. What is any JSON there is text (`Any.yaml`), and JSON is YAML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

Json: TypeAlias = Mapping[str, Any]
_PACKAGE: Final = "openapi.v2"
_NAMED: Final = "name:1 value:2:"
_QUERY: Final = "required:1b in:2 description:3 name:4 allow_empty_value:5b type:6 format:7 unique_items:20b"
_PATH: Final = "required:1b in:2 description:3 name:4 type:5 format:6 unique_items:19b"
_TYPES: Final = {
    "Any": "yaml:2",
    "NamedAny": _NAMED + "Any",
    "NamedSchema": _NAMED + "Schema",
    "NamedPathItem": _NAMED + "PathItem",
    "NamedResponseValue": _NAMED + "ResponseValue",
    "NamedSecurityDefinitionsItem": _NAMED + "SecurityDefinitionsItem",
    "NamedStringArray": _NAMED + "StringArray",
    "StringArray": "value:1*",
    "Info": "title:1 version:2 description:3",
    "Document": "swagger:1 info:2:Info schemes:5* consumes:6* produces:7* paths:8:Paths definitions:9:Definitions "
    "security:12*:SecurityRequirement security_definitions:13:SecurityDefinitions vendor_extension:16*:NamedAny",
    "Paths": "vendor_extension:1*:NamedAny path:2*:NamedPathItem",
    "PathItem": "get:2:Operation put:3:Operation post:4:Operation delete:5:Operation options:6:Operation "
    "head:7:Operation patch:8:Operation parameters:9*:ParametersItem vendor_extension:10*:NamedAny",
    "Operation": "tags:1* summary:2 description:3 operation_id:5 produces:6* consumes:7* parameters:8*:ParametersItem "
    "responses:9:Responses schemes:10* deprecated:11b security:12*:SecurityRequirement vendor_extension:13*:NamedAny",
    "ParametersItem": "parameter:1:Parameter",
    "Parameter": "body_parameter:1:BodyParameter non_body_parameter:2:NonBodyParameter",
    "BodyParameter": "description:1 name:2 in:3 required:4b schema:5:Schema vendor_extension:6*:NamedAny",
    "NonBodyParameter": "query_parameter_sub_schema:3:QueryParameter path_parameter_sub_schema:4:PathParameter",
    "QueryParameter": _QUERY,
    "PathParameter": _PATH,
    "Responses": "response_code:1*:NamedResponseValue vendor_extension:2*:NamedAny",
    "ResponseValue": "response:1:Response",
    "Response": "description:1 schema:2:SchemaItem",
    "SchemaItem": "schema:1:Schema",
    "Definitions": "additional_properties:1*:NamedSchema",
    "Properties": "additional_properties:1*:NamedSchema",
    "Schema": "_ref:1 format:2 title:3 description:4 default:5:Any multiple_of:6d maximum:7d exclusive_maximum:8b "
    "minimum:9d exclusive_minimum:10b max_length:11i min_length:12i pattern:13 max_items:14i min_items:15i "
    "unique_items:16b max_properties:17i min_properties:18i required:19* enum:20*:Any "
    "additional_properties:21:AdditionalPropertiesItem type:22:TypeItem items:23:ItemsItem all_of:24*:Schema "
    "properties:25:Properties read_only:27b example:30:Any vendor_extension:31*:NamedAny",
    "AdditionalPropertiesItem": "schema:1:Schema boolean:2b",
    "TypeItem": "value:1*",
    "ItemsItem": "schema:1*:Schema",
    "SecurityRequirement": "additional_properties:1*:NamedStringArray",
    "SecurityDefinitions": "additional_properties:1*:NamedSecurityDefinitionsItem",
    "SecurityDefinitionsItem": "api_key_security:2:ApiKeySecurity",
    "ApiKeySecurity": "type:1 name:2 in:3 description:4 vendor_extension:5*:NamedAny",
}
"""`NAME:NUMBER`, then `b`, `i`, `d` for bool, int64, double; `*` repeated; `:TYPE` of a message."""
_FIELD: Final = descriptor_pb2.FieldDescriptorProto
_SCALARS: Final = {"": _FIELD.TYPE_STRING, "b": _FIELD.TYPE_BOOL, "i": _FIELD.TYPE_INT64, "d": _FIELD.TYPE_DOUBLE}
_METHODS: Final = ("get", "put", "post", "delete", "options", "head", "patch")
_NUMBERS: Final = ("multipleOf", "maximum", "minimum")
_COUNTS: Final = ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties")
_FLAGS: Final = ("exclusiveMaximum", "exclusiveMinimum", "uniqueItems", "readOnly")
_WORDS: Final = ("format", "title", "description", "pattern")


@cache
def document_type() -> type[Message]:
    """The class of `Document`."""
    file = descriptor_pb2.FileDescriptorProto(name="palisade/openapi_v2.proto", package=_PACKAGE, syntax="proto3")
    for name, fields in _TYPES.items():
        message = file.message_type.add(name=name)
        for field in fields.split():
            _add_field(message, field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found: type[Message] = message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Document"))
    return found


def _add_field(message: descriptor_pb2.DescriptorProto, told: str) -> None:
    name, number, *of = told.split(":")
    repeated = number.endswith("*")
    digits = number.rstrip("*bid")
    field = message.field.add(name=name, number=int(digits))
    field.label = _FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL
    if of:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{of[0]}"
    else:
        field.type = _SCALARS[number.rstrip("*").removeprefix(digits)]


def document_message(document: Json) -> Message:
    """An OpenAPI v2 document as that message."""
    found: Any = document_type()()
    found.swagger = document["swagger"]
    for key, value in document["info"].items():
        setattr(found.info, key, value)
    for path, item in document["paths"].items():
        _path_item(found.paths.path.add(name=path).value, item)
    for name, schema in document["definitions"].items():
        _schema(found.definitions.additional_properties.add(name=name).value, schema)
    for name, scheme in document.get("securityDefinitions", {}).items():
        key_scheme = found.security_definitions.additional_properties.add(name=name).value.api_key_security
        for key, value in scheme.items():
            setattr(key_scheme, key, value)
    _security(found.security, document.get("security", ()))
    return found  # type: ignore[no-any-return]


def _security(target: Any, requirements: Any) -> None:
    for requirement in requirements:
        added = target.add()
        for name, scopes in requirement.items():
            entry = added.additional_properties.add(name=name)
            entry.value.SetInParent()
            entry.value.value.extend(scopes)


def _path_item(target: Any, item: Json) -> None:
    for method in _METHODS:
        if method in item:
            _operation(getattr(target, method), item[method])
    _parameters(target.parameters, item.get("parameters", ()))


def _operation(target: Any, operation: Json) -> None:
    for key in ("tags", "produces", "consumes", "schemes"):
        getattr(target, key).extend(operation.get(key, ()))
    target.description = operation.get("description", "")
    target.operation_id = operation.get("operationId", "")
    target.deprecated = operation.get("deprecated", False)
    _parameters(target.parameters, operation.get("parameters", ()))
    for code, answer in operation["responses"].items():
        response = target.responses.response_code.add(name=code).value.response
        response.description = answer["description"]
        if "schema" in answer:
            _schema(response.schema.schema, answer["schema"])
    _extensions(target.vendor_extension, operation)


def _parameters(target: Any, parameters: Any) -> None:
    for parameter in parameters:
        place = target.add().parameter
        if parameter["in"] == "body":
            body = place.body_parameter
            _copy(body, parameter, ("description", "name", "in", "required"))
            _schema(body.schema, parameter["schema"])
        else:
            plain = getattr(place.non_body_parameter, f"{parameter['in']}_parameter_sub_schema")
            _copy(plain, parameter, ("required", "in", "description", "name", "type", "format"))
            plain.unique_items = parameter.get("uniqueItems", False)


def _copy(target: Any, source: Json, names: tuple[str, ...]) -> None:
    for name in names:
        if name in source:
            setattr(target, name, source[name])


def _schema(target: Any, schema: Json) -> None:
    if "$ref" in schema:
        setattr(target, "_ref", schema["$ref"])  # noqa: B010 (the field's name begins so)
    for key in (*_WORDS, *_FLAGS):
        if key in schema:
            setattr(target, _snake(key), schema[key])
    for key in _NUMBERS:
        if key in schema:
            setattr(target, _snake(key), float(schema[key]))
    for key in _COUNTS:
        if key in schema:
            setattr(target, _snake(key), int(schema[key]))
    for key in ("default", "example"):
        if key in schema:
            getattr(target, key).yaml = _yaml(schema[key])
    target.required.extend(schema.get("required", ()))
    for value in schema.get("enum", ()):
        target.enum.add(yaml=_yaml(value))
    if "type" in schema:
        target.type.value.append(schema["type"])
    if "items" in schema:
        _schema(target.items.schema.add(), schema["items"])
    more = schema.get("additionalProperties")
    if isinstance(more, bool):
        target.additional_properties.boolean = more
    elif more is not None:
        target.additional_properties.schema.SetInParent()
        _schema(target.additional_properties.schema, more)
    if "properties" in schema:
        target.properties.SetInParent()
        for name, inside in schema["properties"].items():
            entry = target.properties.additional_properties.add(name=name)
            entry.value.SetInParent()
            _schema(entry.value, inside)
    _extensions(target.vendor_extension, schema)


def _snake(key: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in key)


def _extensions(target: Any, source: Json) -> None:
    for key, value in source.items():
        if key.startswith("x-"):
            target.add(name=key).value.yaml = _yaml(value)


def _yaml(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n"
