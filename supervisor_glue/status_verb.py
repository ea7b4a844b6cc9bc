# SPDX-License-Identifier: Apache-2.0
"""`palisade supervisor status`: what the control plane says of itself and its hosts."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfw.cli import DONE
from dfw.output import emit, output_option, render_table
from overlay.which_agents import lab_option
from supervisor_glue.calling import calling, config_of, kubeconfig_option

if TYPE_CHECKING:
    from supervisor_glue.auth.kubeconfig import Kubeconfig

_HOST_COLUMNS = ("host", "tep", "joined", "ready", "realized")


@click.command
@kubeconfig_option
@lab_option
@output_option
def status(kubeconfig: Path | None, lab: str | None, output: str) -> int:
    """Show the server, the Supervisors that are enabled, and how its hosts are.

    \b
    Examples:
      palisade supervisor status
      palisade supervisor status --kubeconfig admin.kubeconfig -o json
    """
    config = config_of(kubeconfig, lab)
    with calling():
        data = asyncio.run(read_status(config))
    emit(data, output, render_status)
    return DONE


async def read_status(config: Kubeconfig) -> dict[str, Any]:
    """The answer of `supervisor status -o json`. Raises ApiError, ConnectionError."""
    from supervisor_glue.api.http_client import HttpClient
    from supervisor_glue.controllers.resources import HOST_STATUSES, HOSTS, NAMESPACES, NODES, PODS
    from supervisor_glue.enabled import SUPERVISORS

    async with HttpClient(config, "palisade-status") as client:
        version = await client.request("GET", "/version")
        collections = (SUPERVISORS, HOSTS, NODES, HOST_STATUSES, NAMESPACES, PODS)
        lists = [(await client.list(resource)).items for resource in collections]
    return summary(config.server, version.get("gitVersion", ""), *lists)


def summary(
    server: str,
    version: str,
    supervisors: Sequence[dict[str, Any]],
    hosts: Sequence[dict[str, Any]],
    nodes: Sequence[dict[str, Any]],
    statuses: Sequence[dict[str, Any]],
    namespaces: Sequence[dict[str, Any]],
    pods: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """From the objects that there are. Pure."""
    from supervisor_glue.auth.approval import JOINED

    ready = {item["metadata"]["name"]: _ready(item) for item in nodes}
    realized = {item["metadata"]["name"]: (item.get("status") or {}).get("realizedRevision") for item in statuses}
    return {
        "server": server,
        "version": version,
        "supervisors": [
            {
                "name": item["metadata"]["name"],
                "profile": (item.get("spec") or {}).get("profile", "vsphere7"),
                "control_plane": (item.get("status") or {}).get("controlPlane") or [],
            }
            for item in supervisors
        ],
        "hosts": [
            {
                "name": item["metadata"]["name"],
                "tep": (item.get("spec") or {}).get("tep"),
                "joined": JOINED in (item["metadata"].get("annotations") or {}),
                "ready": ready.get(item["metadata"]["name"], False),
                "realized_revision": realized.get(item["metadata"]["name"]),
            }
            for item in hosts
        ],
        "namespaces": len(namespaces),
        "pods": dict(sorted(Counter((item.get("status") or {}).get("phase", "Unknown") for item in pods).items())),
    }


def _ready(node: dict[str, Any]) -> bool:
    conditions = (node.get("status") or {}).get("conditions") or ()
    return any(entry["type"] == "Ready" and entry["status"] == "True" for entry in conditions)


def render_status(data: dict[str, Any]) -> str:
    """For people."""
    pods = ", ".join(f"{count} {phase}" for phase, count in data["pods"].items()) or "none"
    lines = [f"{data['server']}, {data['version']}", f"Namespaces: {data['namespaces']}; pods: {pods}"]
    for item in data["supervisors"]:
        nodes = ", ".join(f"{node['name']} on {node['host']}" for node in item["control_plane"]) or "no nodes placed"
        lines.append(f"Supervisor {item['name']} (profile {item['profile']}): {nodes}")
    if not data["hosts"]:
        return "\n".join([*lines, "no hosts: palisade supervisor token create"])
    rows = [
        (
            host["name"],
            host["tep"],
            *("yes" if host[key] else "no" for key in ("joined", "ready")),
            host["realized_revision"],
        )
        for host in data["hosts"]
    ]
    return "\n".join([*lines, "", render_table(_HOST_COLUMNS, rows, {4})])
