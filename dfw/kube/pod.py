# SPDX-License-Identifier: Apache-2.0
"""Pod documents: a workload with one vNIC, its labels, addresses and named ports.

Of a Pod's many fields only those are read that a policy can depend on; the others are the kubelet's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from dfw.fields import Cursor, Field, boolean, choice, listed, mapping, parsed, text
from dfw.inventory import workload_address
from dfw.kube.metadata import Meta, envelope, meta_read, object_name
from dfw.kube.ports import PROTOCOLS, port_name, port_number
from dfw.model import Address, NamedPort

CONTAINER_PORT: Mapping[str, Field] = {
    "containerPort": Field(port_number, required=True),
    "name": Field(port_name),
    "protocol": Field(choice(PROTOCOLS), default=PROTOCOLS["TCP"]),
    "hostPort": Field(port_number),
    "hostIP": Field(text(64, empty=True)),
}
CONTAINER: Mapping[str, Field] = {
    "ports": Field(listed(lambda item: mapping(item, CONTAINER_PORT)), default=()),
    "restartPolicy": Field(text()),
}
SPEC: Mapping[str, Field] = {
    "containers": Field(listed(lambda item: mapping(item, CONTAINER, ignore=_others)), default=()),
    "initContainers": Field(listed(lambda item: mapping(item, CONTAINER, ignore=_others)), default=()),
    "hostNetwork": Field(boolean, default=False),
    "nodeName": Field(object_name),
}
_POD_IP: Mapping[str, Field] = {"ip": Field(parsed(workload_address), required=True)}
STATUS: Mapping[str, Field] = {
    "podIP": Field(parsed(workload_address)),
    "podIPs": Field(listed(lambda item: mapping(item, _POD_IP), maximum=2), default=()),
    "phase": Field(text()),
}
ENDED = frozenset(("Succeeded", "Failed"))


def _others(key: str) -> bool:
    return True


class Pod(NamedTuple):
    """A pod that has a vNIC. `ips` None: its manifest does not say."""

    meta: Meta
    node: str | None
    ips: tuple[Address, ...] | None
    named_ports: tuple[NamedPort, ...]
    cursor: Cursor

    @property
    def name(self) -> str:
        """namespace/name: the name of its vNIC."""
        return f"{self.meta.namespace}/{self.meta.name}"


def pod_read(cursor: Cursor) -> Pod | None:
    """A pod; None where it has no vNIC (hostNetwork, or it has ended), or after reporting what is wrong with it."""
    parts = envelope(cursor)
    if parts is None:
        return None
    meta = meta_read(cursor, parts, namespaced=True)
    spec = mapping(parts["spec"], SPEC, ignore=_others) if parts["spec"] is not None else _defaults(SPEC)
    status = mapping(parts["status"], STATUS, ignore=_others) if parts["status"] is not None else _defaults(STATUS)
    if meta is None or spec is None or status is None or spec["hostNetwork"] or status["phase"] in ENDED:
        return None
    ips = tuple(item["ip"] for item in status["podIPs"] if item["ip"] is not None)
    if status["podIP"] is not None:
        ips = (status["podIP"], *(ip for ip in ips if ip != status["podIP"]))
    return Pod(meta, spec["nodeName"], ips or None, tuple(named_ports(spec)), cursor)


def _defaults(table: Mapping[str, Field]) -> dict[str, Any]:
    return {key: field.default for key, field in table.items()}


def named_ports(spec: Mapping[str, Any]) -> Iterable[NamedPort]:
    """Of the containers and of the init containers that keep running (sidecars). The first of a name counts."""
    running = [item for item in spec["initContainers"] if item["restartPolicy"] == "Always"]
    found: dict[tuple[str, int], NamedPort] = {}
    for container in (*spec["containers"], *running):
        for item in container["ports"]:
            if item["name"] is not None and item["containerPort"] is not None:
                key = item["name"], item["protocol"]
                found.setdefault(key, NamedPort(item["name"], item["protocol"], item["containerPort"]))
    return found.values()
