# SPDX-License-Identifier: Apache-2.0
"""What a client accepts, and how an answer is written for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.status import ApiError, Object
from supervisor_glue.api.tables import partial, table_document
from supervisor_glue.api.watch_cache import Entry

JSON: Final = "application/json"
YAML: Final = "application/yaml"
encode = msgspec.json.Encoder().encode


class Form(NamedTuple):
    """How an answer is to look. `shape`: empty (the object itself), Table, PartialObjectMetadata (of an object),
    PartialObjectMetadataList, or APIGroupDiscoveryList."""

    yaml: bool = False
    shape: str = ""
    version: str = ""


_SHAPES: Final = {
    ("Table", "meta.k8s.io"): ("v1", "v1beta1"),
    ("PartialObjectMetadata", "meta.k8s.io"): ("v1", "v1beta1"),
    ("PartialObjectMetadataList", "meta.k8s.io"): ("v1", "v1beta1"),
    ("APIGroupDiscoveryList", "apidiscovery.k8s.io"): ("v2", "v2beta1"),
}
_PLAIN: Final = {
    JSON: False,
    "application/*": False,
    "*/*": False,
    YAML: True,
    "application/x-yaml": True,
    "text/yaml": True,
}


def form_of(accept: str) -> Form:
    """The first form that the client accepts and we have. Raises ApiError 406."""
    if not accept:
        return Form()
    for item in accept.split(","):
        media, *rest = (part.strip() for part in item.split(";"))
        options = dict(part.split("=", 1) for part in rest if "=" in part)
        media = media.lower()
        if media not in _PLAIN or options.get("q") in ("0", "0.0"):
            continue
        if "as" not in options:
            return Form(_PLAIN[media])
        shape = options["as"]
        version = options.get("v", "")
        if version in _SHAPES.get((shape, options.get("g", "")), ()):
            return Form(_PLAIN[media], shape, version)
    raise ApiError(
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json, application/yaml",
    )


def object_written(kind: Kind, entry: Entry | Object, form: Form, now: float, include: str = "") -> bytes:
    """One object."""
    item = entry.item if isinstance(entry, Entry) else entry
    if form.shape == "Table":
        revision = item["metadata"].get("resourceVersion", "")
        return written(table_document(kind, [item], {"resourceVersion": revision}, now, include=include), form)
    if form.shape == "PartialObjectMetadata":
        return written(partial(item), form)
    if isinstance(entry, Entry) and not form.yaml:
        return entry.body
    return written(item, form)


def list_written(
    kind: Kind, entries: Iterable[Entry], metadata: Object, form: Form, now: float, include: str = ""
) -> bytes:
    """A list."""
    if form.shape == "Table":
        shown = (entry.item for entry in entries)
        return written(table_document(kind, shown, metadata, now, include=include), form)
    if form.shape == "PartialObjectMetadataList":
        document: Object = {
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "items": [partial(entry.item) for entry in entries],
        }
        return written(document, form)
    if form.yaml:
        items = [entry.item for entry in entries]
        head = {"kind": kind.list_kind, "apiVersion": kind.group_version, "metadata": metadata}
        return written(head | {"items": items}, form)
    # Built-in kinds' items do not say what they are, custom ones' do. Their JSON is there already.
    bodies = [entry.body if kind.custom else b"{" + entry.rest for entry in entries]
    head_bytes = f'{{"kind":"{kind.list_kind}","apiVersion":"{kind.group_version}","metadata":'.encode()
    return head_bytes + encode(metadata) + b',"items":[' + b",".join(bodies) + b"]}"


def written(document: Any, form: Form) -> bytes:
    if form.yaml:
        import yaml

        text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
        return text.encode()
    return encode(document)


def media_type(form: Form) -> str:
    """Of an answer in this form."""
    return YAML if form.yaml else JSON
