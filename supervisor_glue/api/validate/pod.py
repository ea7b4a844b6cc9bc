# SPDX-License-Identifier: Apache-2.0
"""Pod (k8s.io/kubernetes/pkg/apis/core/validation): the fields that the Spherelet and the scheduler act by."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any, Final

from supervisor_glue.api.kinds import Kind
from supervisor_glue.api.quantity import quantity_value
from supervisor_glue.api.status import Cause, Object
from supervisor_glue.api.validate.words import (
    duplicate,
    environment_wrong,
    forbidden,
    invalid,
    label_wrong,
    not_found,
    objects,
    port_name_wrong,
    port_wrong,
    qualified_wrong,
    required,
    subdomain_wrong,
    unsupported,
    value_wrong,
)

_PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_RESTARTS: Final = ("Always", "OnFailure", "Never")
_DNS: Final = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
_HANDLERS: Final = ("exec", "httpGet", "tcpSocket", "grpc")
_CHANGEABLE: Final = (
    "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
    "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)


def pod_check(kind: Kind, item: Object) -> list[Cause]:
    spec = item.get("spec") or {}
    found: list[Cause] = []
    volumes = _volumes_check(spec, found)
    names: set[str] = set()
    if not spec.get("containers"):
        found.append(required("spec.containers"))
    for field in ("initContainers", "containers"):
        for place, container in enumerate(objects(spec.get(field))):
            _container_check(container, f"spec.{field}[{place}]", volumes, names, found)
            if field == "initContainers" and container.get("restartPolicy") is None:
                for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                    if probe in container:
                        told = "may not be set for init containers without restartPolicy=Always"
                        found.append(forbidden(f"spec.initContainers[{place}].{probe}", told))
    if spec.get("restartPolicy") not in _RESTARTS:
        found.append(unsupported("spec.restartPolicy", spec.get("restartPolicy"), _RESTARTS))
    if spec.get("dnsPolicy") not in _DNS:
        found.append(unsupported("spec.dnsPolicy", spec.get("dnsPolicy"), _DNS))
    for key, value in (spec.get("nodeSelector") or {}).items():
        found += [invalid("spec.nodeSelector", key, why) for why in qualified_wrong(key)]
        found += [invalid("spec.nodeSelector", value, why) for why in value_wrong(value)]
    for field in ("serviceAccountName", "nodeName"):
        if spec.get(field):
            found += [invalid(f"spec.{field}", spec[field], why) for why in subdomain_wrong(spec[field])]
    for field in ("hostname", "subdomain"):
        if spec.get(field):
            found += [invalid(f"spec.{field}", spec[field], why) for why in label_wrong(spec[field])]
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= 2**31 - 1:
        found.append(invalid("spec.activeDeadlineSeconds", deadline, "must be between 1 and 2147483647, inclusive"))
    if spec.get("terminationGracePeriodSeconds", 0) < 0:
        told = "must be greater than or equal to 0"
        found.append(invalid("spec.terminationGracePeriodSeconds", spec["terminationGracePeriodSeconds"], told))
    return found


def _volumes_check(spec: dict[str, Any], found: list[Cause]) -> set[str]:
    names: set[str] = set()
    for place, volume in enumerate(objects(spec.get("volumes"))):
        at = f"spec.volumes[{place}]"
        name = volume.get("name") or ""
        if not name:
            found.append(required(f"{at}.name"))
        else:
            found += [invalid(f"{at}.name", name, why) for why in label_wrong(name)]
        if name in names:
            found.append(duplicate(f"{at}.name", name))
        names.add(name)
        sources = [key for key in volume if key != "name"]
        if len(sources) > 1:
            found += [forbidden(f"{at}.{key}", "may not specify more than 1 volume type") for key in sources[1:]]
        if not sources:
            found.append(required(at, "must specify a volume type"))
        if "configMap" in volume and not (volume["configMap"] or {}).get("name"):
            found.append(required(f"{at}.configMap.name"))
        if "secret" in volume and not (volume["secret"] or {}).get("secretName"):
            found.append(required(f"{at}.secret.secretName"))
    return names


def _container_check(
    container: dict[str, Any], at: str, volumes: set[str], names: set[str], found: list[Cause]
) -> None:
    name = container.get("name") or ""
    if not name:
        found.append(required(f"{at}.name"))
    else:
        found += [invalid(f"{at}.name", name, why) for why in label_wrong(name)]
        if name in names:
            found.append(duplicate(f"{at}.name", name))
        names.add(name)
    image = container.get("image") or ""
    if not image:
        found.append(required(f"{at}.image"))
    elif image != image.strip():
        found.append(invalid(f"{at}.image", image, "must not have leading or trailing whitespace"))
    ports: set[str] = set()
    for place, port in enumerate(objects(container.get("ports"))):
        _port_check(port, f"{at}.ports[{place}]", ports, found)
    for place, variable in enumerate(objects(container.get("env"))):
        where = f"{at}.env[{place}]"
        if not variable.get("name"):
            found.append(required(f"{where}.name"))
        else:
            found += [invalid(f"{where}.name", variable["name"], why) for why in environment_wrong(variable["name"])]
        if variable.get("value") and variable.get("valueFrom"):
            told = "may not be specified when `value` is not empty"
            found.append(invalid(f"{where}.valueFrom", "", told))
    paths: set[str] = set()
    for place, mount in enumerate(objects(container.get("volumeMounts"))):
        where = f"{at}.volumeMounts[{place}]"
        if not mount.get("name"):
            found.append(required(f"{where}.name"))
        elif mount["name"] not in volumes:
            found.append(not_found(f"{where}.name", mount["name"]))
        path = mount.get("mountPath") or ""
        if not path:
            found.append(required(f"{where}.mountPath"))
        elif path in paths:
            found.append(invalid(f"{where}.mountPath", path, "must be unique"))
        paths.add(path)
    _resources_check(container.get("resources") or {}, f"{at}.resources", found)
    for field in ("livenessProbe", "readinessProbe", "startupProbe"):
        if container.get(field) is not None:
            _probe_check(container[field], f"{at}.{field}", field, found)


def _port_check(port: dict[str, Any], at: str, names: set[str], found: list[Cause]) -> None:
    name, number = port.get("name") or "", port.get("containerPort") or 0
    if name:
        found += [invalid(f"{at}.name", name, why) for why in port_name_wrong(name)]
        if name in names:
            found.append(duplicate(f"{at}.name", name))
        names.add(name)
    if not number:
        found.append(required(f"{at}.containerPort"))
    else:
        found += [invalid(f"{at}.containerPort", number, why) for why in port_wrong(number)]
    if port.get("hostPort"):
        found += [invalid(f"{at}.hostPort", port["hostPort"], why) for why in port_wrong(port["hostPort"])]
    if port.get("protocol") not in _PROTOCOLS:
        found.append(unsupported(f"{at}.protocol", port.get("protocol"), _PROTOCOLS))


def _resources_check(resources: dict[str, Any], at: str, found: list[Cause]) -> None:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    read: dict[tuple[str, str], Decimal] = {}
    for field, amounts in (("limits", limits), ("requests", requests)):
        for name, text in amounts.items():
            try:
                amount = read[field, name] = quantity_value(str(text))
            except ValueError as error:
                found.append(invalid(f"{at}.{field}[{name}]", text, str(error)))
                continue
            if amount < 0:
                found.append(invalid(f"{at}.{field}[{name}]", text, "must be greater than or equal to 0"))
    for name, text in requests.items():
        wanted, most = read.get(("requests", name)), read.get(("limits", name))
        if wanted is not None and most is not None and wanted > most:
            told = f"must be less than or equal to {name} limit of {limits[name]}"
            found.append(invalid(f"{at}.requests", text, told))


def _probe_check(probe: dict[str, Any], at: str, field: str, found: list[Cause]) -> None:
    handlers = [name for name in _HANDLERS if probe.get(name) is not None]
    if not handlers:
        found.append(required(at, "must specify a handler type"))
    for name in handlers[1:]:
        found.append(forbidden(f"{at}.{name}", "may not specify more than 1 handler type"))
    for name in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        if probe.get(name, 0) < 0:
            found.append(invalid(f"{at}.{name}", probe[name], "must be greater than or equal to 0"))
    if field != "readinessProbe" and probe.get("successThreshold", 1) != 1:
        found.append(invalid(f"{at}.successThreshold", probe["successThreshold"], "must be 1"))
    for name in ("httpGet", "tcpSocket"):
        port = (probe.get(name) or {}).get("port")
        if name not in handlers:
            continue
        if isinstance(port, int):
            found += [invalid(f"{at}.{name}.port", port, why) for why in port_wrong(port)]
        elif isinstance(port, str):
            found += [invalid(f"{at}.{name}.port", port, why) for why in port_name_wrong(port)]
        else:
            found.append(required(f"{at}.{name}.port"))
    if "exec" in handlers and not probe["exec"].get("command"):
        found.append(required(f"{at}.exec.command"))


def pod_change_check(kind: Kind, old: Object, new: Object) -> list[Cause]:
    """A pod's spec stays as it was made, but for images, a deadline and more tolerations."""
    before, after = copy.deepcopy(old.get("spec") or {}), copy.deepcopy(new.get("spec") or {})
    found = []
    known = before.pop("tolerations", None) or []
    wanted = after.pop("tolerations", None) or []
    if not all(item in wanted for item in known):
        found.append(
            forbidden("spec.tolerations", "existing toleration can not be modified except its tolerationSeconds")
        )
    for spec in (before, after):
        spec.pop("activeDeadlineSeconds", None)
        for field in ("initContainers", "containers"):
            for container in objects(spec.get(field)):
                container.pop("image", None)
    if before.get("terminationGracePeriodSeconds", 0) < 0 and after.get("terminationGracePeriodSeconds") == 1:
        before["terminationGracePeriodSeconds"] = 1
    if before != after:
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        found.append(forbidden("spec", f"{_CHANGEABLE}\n  changed: {', '.join(changed)}"))
    return found
