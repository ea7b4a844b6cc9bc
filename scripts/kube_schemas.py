# SPDX-License-Identifier: Apache-2.0
"""The structural schemas of the kinds that the Supervisor serves, as one file that is installed with it.

`python -m scripts.kube_schemas` writes supervisor_glue/api/schemas/kinds.json from

- Kubernetes' own OpenAPI definitions as the package kubernetes-validate has them (Apache-2.0, descriptions included);
- the CustomResourceDefinitions of network-policy-api's ClusterNetworkPolicy and of nsx-operator's SecurityPolicy (both
  Apache-2.0), from the folders given;
- our own kinds, supervisor_glue/api/schemas/palisade.yaml.

The file: `definitions` by name, each an OpenAPI v2 schema whose `$ref` is a name; `kinds`: group/version/Kind -> name.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "supervisor_glue" / "api" / "schemas" / "kinds.json"
OWN = ROOT / "supervisor_glue" / "api" / "schemas" / "palisade.yaml"
KUBERNETES = "1.37"
SERVED = {
    "": ["Namespace", "Pod", "Node", "ServiceAccount", "Secret", "ConfigMap", "Event", "Binding"],
    "coordination.k8s.io": ["Lease"],
    "networking.k8s.io": ["NetworkPolicy"],
    "rbac.authorization.k8s.io": ["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"],
    "authorization.k8s.io": [
        *("SelfSubjectAccessReview", "SubjectAccessReview", "LocalSubjectAccessReview", "SelfSubjectRulesReview"),
    ],
    "authentication.k8s.io": ["TokenReview", "TokenRequest", "SelfSubjectReview"],
    "certificates.k8s.io": ["CertificateSigningRequest"],
    "policy": ["Eviction"],
}
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
META_KINDS = (
    "Status",
    "DeleteOptions",
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
    "APIVersions",
    "Patch",
    "WatchEvent",
)
OBJECT_META, LIST_META = META + "ObjectMeta", META + "ListMeta"
OWN_GROUP, OWN_PREFIX = "palisade.internal", "internal.palisade.v1alpha1."
FORMATS = {
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": {"type": "string", "format": "int-or-string"},
    "io.k8s.apimachinery.pkg.api.resource.Quantity": {"type": "string", "format": "quantity"},
    META + "MicroTime": {"type": "string", "format": "micro-time"},
}
"""What JSON Schema says with oneOf, or not at all."""
DEFAULTS = {("io.k8s.api.core.v1.ContainerPort", "protocol"): "TCP"}
"""Of keys of associative lists: an element without it is the one with the default. Other defaults are the server's."""


def schema_plain(value: Any) -> Any:
    """Without what JSON Schema adds: null as a type, `enum` of apiVersion and kind, the prefix of references."""
    if isinstance(value, list):
        return [schema_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: schema_plain(item) for key, item in value.items()}
    if isinstance(value.get("type"), list):
        found["type"] = next(item for item in value["type"] if item != "null")
    if isinstance(value.get("$ref"), str):
        found["$ref"] = value["$ref"].removeprefix("#/$defs/")
    if isinstance(value.get("enum"), list):
        found["enum"] = [item for item in value["enum"] if item is not None]
    return found


def definitions_kubernetes() -> dict[str, Any]:
    """Kubernetes' definitions by name."""
    folder = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES}.0-local"
    raw = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    found = {}
    for name, definition in raw.items():
        plain = schema_plain(definition)
        if name in FORMATS:
            plain = {**{key: plain[key] for key in ("description",) if key in plain}, **FORMATS[name]}
        for key, field in plain.get("properties", {}).items():
            if key in ("apiVersion", "kind"):
                field.pop("enum", None)
            if (name, key) in DEFAULTS:
                field["default"] = DEFAULTS[name, key]
        found[name] = plain
    return found


def definitions_crd(folder: Path, group: str, prefix: str) -> dict[str, Any]:
    """Of a CustomResourceDefinition: the kind and its list. `group`: what it is served under."""
    crd = yaml.safe_load(folder.read_text(encoding="utf-8"))["spec"]
    version, kind = crd["versions"][0], crd["names"]["kind"]
    schema = crd_plain(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"$ref": OBJECT_META}
    status = schema["properties"].setdefault("status", {"$ref": OWN_PREFIX + "Status"})
    if "$ref" not in status:  # the Supervisor adds to it what `palisade wait` reads
        status["x-kubernetes-preserve-unknown-fields"] = True
        conditions = status.get("properties", {}).get("conditions")
        if conditions is not None and "x-kubernetes-list-type" not in conditions:
            conditions |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
    return dict(with_list(prefix + kind, schema, group, version["name"], kind))


def crd_plain(value: Any) -> Any:
    """A v3 schema with what v2 has for it."""
    if isinstance(value, list):
        return [crd_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: crd_plain(item) for key, item in value.items()}
    if value.get("x-kubernetes-int-or-string") is True:
        for key in ("anyOf", "x-kubernetes-int-or-string"):
            found.pop(key, None)
        found |= {"type": "string", "format": "int-or-string"}
    return found


def with_list(
    name: str, schema: dict[str, Any], group: str, version: str, kind: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """A kind's definition and its list's."""
    own = {"group": group, "version": version}
    yield name, {**schema, "x-kubernetes-group-version-kind": [{**own, "kind": kind}]}
    envelope = {key: {"type": "string"} for key in ("apiVersion", "kind")}
    yield (
        name + "List",
        {
            "description": f"A list of {kind}.",
            "type": "object",
            "required": ["items"],
            "properties": {
                **envelope,
                "metadata": {"$ref": LIST_META},
                "items": {"type": "array", "items": {"$ref": name}},
            },
            "x-kubernetes-group-version-kind": [{**own, "kind": kind + "List"}],
        },
    )


def definitions_own() -> dict[str, Any]:
    """Our own kinds and what they consist of."""
    own = yaml.safe_load(OWN.read_text(encoding="utf-8"))
    found: dict[str, Any] = dict(own["definitions"])
    for kind, parts in own["kinds"].items():
        properties: dict[str, Any] = {
            "apiVersion": {"type": "string", "description": f"{OWN_GROUP}/v1alpha1"},
            "kind": {"type": "string", "description": kind},
            "metadata": {"$ref": OBJECT_META},
        }
        properties |= {key: {"$ref": OWN_PREFIX + parts[key]} for key in ("spec", "status") if key in parts}
        schema = {"description": parts["description"], "type": "object", "properties": properties}
        found |= with_list(OWN_PREFIX + kind, schema, OWN_GROUP, "v1alpha1", kind)
    return found


def references(value: Any) -> Iterator[str]:
    """The definitions that a schema names."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def closure(every: dict[str, Any], roots: list[str]) -> dict[str, Any]:
    """The definitions that are needed, by name."""
    found: dict[str, Any] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = every[name]
            waiting += references(every[name])
    return dict(sorted(found.items()))


def schemas(policy_crd: Path, security_crd: Path) -> dict[str, Any]:
    """The file's content."""
    every = definitions_kubernetes() | definitions_own()
    every |= definitions_crd(policy_crd, "policy.networking.k8s.io", "io.k8s.networking.policy.v1alpha2.")
    security = definitions_crd(security_crd, "crd.nsx.vmware.com", "com.vmware.nsx.crd.v1alpha1.")
    every |= security
    # Our API gives a status also to kinds that have none in Kubernetes, and says in every status how far the hosts are.
    realized = every[OWN_PREFIX + "Status"]["properties"]
    every["io.k8s.api.networking.v1.NetworkPolicy"]["properties"]["status"] = {"$ref": OWN_PREFIX + "Status"}
    for name in ("NamespaceStatus", "PodStatus", "NodeStatus"):
        own = every["io.k8s.api.core.v1." + name]["properties"]
        every["io.k8s.api.core.v1." + name]["properties"] = {**realized, **own}
    roots = [META + kind for kind in META_KINDS]
    served = {(group, kind) for group, kinds in SERVED.items() for kind in kinds}
    served |= {(group, kind + "List") for group, kind in served}
    for name, definition in every.items():
        for gvk in definition.get("x-kubernetes-group-version-kind", ()):
            ours = gvk["group"] in (OWN_GROUP, "policy.networking.k8s.io", "crd.nsx.vmware.com")
            if ours or (gvk["version"] == "v1" and (gvk["group"], gvk["kind"]) in served and name.count("meta") == 0):
                roots.append(name)
    definitions = closure(every, roots)
    for name in definitions:
        if name.startswith(META):  # named for every group; once is enough
            definitions[name].pop("x-kubernetes-group-version-kind", None)
    kinds = {f"/v1/{kind}": META + kind for kind in META_KINDS}
    for name, definition in definitions.items():
        for gvk in definition.get("x-kubernetes-group-version-kind", ()):
            kinds["{group}/{version}/{kind}".format(**gvk)] = name
    return {"kubernetes": KUBERNETES, "kinds": dict(sorted(kinds.items())), "definitions": definitions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--policy-crd", type=Path, required=True, help="ClusterNetworkPolicy's CustomResourceDefinition"
    )
    parser.add_argument("--security-crd", type=Path, required=True, help="SecurityPolicy's CustomResourceDefinition")
    given = parser.parse_args()
    content = schemas(given.policy_crd, given.security_crd)
    TARGET.write_text(json.dumps(content, separators=(",", ":"), sort_keys=False) + "\n", encoding="utf-8")
    print(f"{TARGET.relative_to(ROOT)}: {len(content['definitions'])} definitions, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main()
