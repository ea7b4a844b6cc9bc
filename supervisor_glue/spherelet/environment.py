# SPDX-License-Identifier: Apache-2.0
"""A container's environment and command: references, and what a pod says of itself.

Source: https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/ and
https://kubernetes.io/docs/concepts/workloads/pods/downward-api/.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Final

from supervisor_glue.api.status import Object
from supervisor_glue.controllers.objects import annotations_of, labels_of, name_of, namespace_of, spec_of, status_of
from supervisor_glue.controllers.objects import uid_of as pod_uid
from supervisor_glue.controllers.quantity import milli
from supervisor_glue.spherelet.access import api_environment
from supervisor_glue.spherelet.sources import MissingError, Sources

_REFERENCE: Final = re.compile(r"\$(\$|\(([^()]*)\))")
_ENTRY: Final = re.compile(r"metadata\.(labels|annotations)\['(.*)'\]")
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def expanded(text: str, known: Mapping[str, str]) -> str:
    """`$(NAME)` becomes its value where it has one; `$$` is a `$`."""

    def value(found: re.Match[str]) -> str:
        if found[1] == "$":
            return "$"
        return known.get(found[2], found[0])

    return _REFERENCE.sub(value, text)


async def environment_of(pod: Object, container: Object, sources: Sources) -> dict[str, str]:
    """All variables of a container, in order: later ones may refer to earlier ones.

    Raises MissingError, ApiError, ConnectionError.
    """
    found = {"PATH": _PATH, "HOME": "/", "HOSTNAME": pod_hostname(pod), **await api_environment(sources)}
    namespace = namespace_of(pod)
    for source in container.get("envFrom") or ():
        for kind, field in (("configMap", "configMapRef"), ("secret", "secretRef")):
            reference = source.get(field)
            if reference:
                optional = bool(reference.get("optional"))
                data = await sources.needed(kind, namespace, reference["name"], optional=optional)
                prefix = source.get("prefix") or ""
                found |= {prefix + key: _text(value) for key, value in data.items()}
    for variable in container.get("env") or ():
        origin = variable.get("valueFrom")
        if origin:
            value = await _value(pod, container, origin, sources)
            if value is not None:
                found[variable["name"]] = value
        else:
            found[variable["name"]] = expanded(variable.get("value") or "", found)
    return found


async def _value(pod: Object, container: Object, origin: Object, sources: Sources) -> str | None:
    if origin.get("fieldRef"):
        return field_value(pod, origin["fieldRef"]["fieldPath"])
    if origin.get("resourceFieldRef"):
        return resource_value(pod, container, origin["resourceFieldRef"])
    for kind, field in (("configMap", "configMapKeyRef"), ("secret", "secretKeyRef")):
        reference = origin.get(field)
        if reference:
            optional = bool(reference.get("optional"))
            data = await sources.needed(kind, namespace_of(pod), reference["name"], optional=optional)
            if reference["key"] in data:
                return _text(data[reference["key"]])
            if optional:
                return None
            told = f"couldn't find key {reference['key']} in {kind} {namespace_of(pod)}/{reference['name']}"
            raise MissingError(told)
    raise MissingError("a variable's valueFrom names no source that is known here")


def field_value(pod: Object, path: str) -> str:
    """A field of a pod as text. Raises MissingError."""
    entry = _ENTRY.fullmatch(path)
    if entry:
        return (labels_of(pod) if entry[1] == "labels" else annotations_of(pod)).get(entry[2], "")
    spec, status = spec_of(pod), status_of(pod)
    match path:
        case "metadata.name":
            return name_of(pod)
        case "metadata.namespace":
            return namespace_of(pod)
        case "metadata.uid":
            return pod_uid(pod)
        case "metadata.labels":
            return _lines(labels_of(pod))
        case "metadata.annotations":
            return _lines(annotations_of(pod))
        case "spec.nodeName":
            return str(spec.get("nodeName", ""))
        case "spec.serviceAccountName":
            return str(spec.get("serviceAccountName", ""))
        case "status.hostIP" | "status.hostIPs":
            return str(status.get("hostIP", ""))
        case "status.podIP":
            return str(status.get("podIP", ""))
        case "status.podIPs":
            return ",".join(item["ip"] for item in status.get("podIPs") or ())
    raise MissingError(f"field {path} of a pod cannot be referred to")


def resource_value(pod: Object, container: Object, reference: Object) -> str:
    """A container's request or limit, rounded up, in units of `divisor`. Raises MissingError."""
    named = reference.get("containerName")
    if named:
        spec = spec_of(pod)
        known = [*(spec.get("containers") or ()), *(spec.get("initContainers") or ())]
        container = next((item for item in known if item["name"] == named), {})
    kind, _, name = reference["resource"].partition(".")
    found = (container.get("resources") or {}).get(kind) or {}
    value = found.get(name, _of_host(name) if kind == "limits" else 0)
    try:
        divisor = milli(reference.get("divisor") or 1) or 1000
        return str(-(-milli(value) // divisor))
    except ValueError as error:
        raise MissingError(str(error)) from None


def _of_host(resource: str) -> int:
    """What a container has that has no limit: all that its host has."""
    if resource == "cpu":
        return os.cpu_count() or 1
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if resource == "memory" else 0


def supported_check(pod: Object, container: Object) -> None:
    """What is asked of a container's host and is not done here is said, and not left out. Raises MissingError."""
    spec = spec_of(pod)
    fields = [name for name in ("hostPID", "hostIPC") if spec.get(name)]
    fields += [
        f"{name}.grpc" for name in ("livenessProbe", "readinessProbe", "startupProbe") if _is_grpc(container, name)
    ]
    fields += ["volumeDevices"] if container.get("volumeDevices") else []
    if fields:
        raise MissingError(f"{', '.join(fields)}: not supported here")
    context = {**(spec.get("securityContext") or {}), **(container.get("securityContext") or {})}
    if context.get("runAsNonRoot") and not context.get("runAsUser"):
        told = "container's runAsUser breaks non-root policy" if context.get("runAsUser") == 0 else _AS_ROOT
        raise MissingError(told)


_AS_ROOT: Final = "container has runAsNonRoot and image will run as root"


def _is_grpc(container: Object, probe: str) -> bool:
    return (container.get(probe) or {}).get("grpc") is not None


def command_of(container: Object, environment: Mapping[str, str]) -> list[str]:
    """What a container runs; empty: nothing, it sleeps. There are no images, so none has an entry point of its own."""
    words = [*(container.get("command") or ()), *(container.get("args") or ())]
    return [expanded(word, environment) for word in words]


def pod_hostname(pod: Object) -> str:
    """RFC 1123: at most 63 characters."""
    return str(spec_of(pod).get("hostname") or name_of(pod))[:63].rstrip("-.")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _lines(values: Mapping[str, Any]) -> str:
    quoted = {
        key: str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for key, value in values.items()
    }
    return "".join(f'{key}="{value}"\n' for key, value in sorted(quoted.items()))
