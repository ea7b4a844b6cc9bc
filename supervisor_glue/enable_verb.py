# SPDX-License-Identifier: Apache-2.0
"""`palisade supervisor enable`: prechecks, and then the Supervisor's object with its control plane's places."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dfw.cli import DONE, NO
from dfw.errors import EnvironmentLacksError
from dfw.output import counted, emit, output_option
from overlay.which_agents import lab_option, run_option
from supervisor_glue.calling import calling, config_of, kubeconfig_option

if TYPE_CHECKING:
    from supervisor_glue.auth.kubeconfig import Kubeconfig
    from supervisor_glue.prechecks.compatibility import Report


@click.command
@click.argument("spec", type=click.Path())
@click.option("--check-only", is_flag=True, help="Check, and change nothing.")
@kubeconfig_option
@lab_option
@run_option
@output_option
def enable(spec: str, check_only: bool, kubeconfig: Path | None, lab: str | None, run: Path | None, output: str) -> int:
    """Check everything that a Supervisor needs, all of it at once, and enable it where nothing is in the way.

    \b
    Examples:
      palisade supervisor enable examples/supervisor/supervisor.yaml --check-only
      palisade supervisor enable supervisor.yaml --kubeconfig admin.kubeconfig -o json
    """
    from supervisor_glue.prechecks.compatibility import compatibility
    from supervisor_glue.prechecks.facts import read_facts
    from supervisor_glue.prechecks.spec import spec_load

    wanted = spec_load(spec)
    # --lab says whose hosts, which need not be those of a lab with a Supervisor of its own.
    config = None if check_only else config_of(kubeconfig, lab if kubeconfig is None else None)
    report = compatibility(wanted, read_facts(wanted, _sockets(lab, run)))
    if report.is_compatible and config is not None:
        with calling():
            asyncio.run(_apply(config, report))
    emit(report.as_object(), output, render_report)
    return DONE if report.is_compatible else NO


def _sockets(lab: str | None, run: Path | None) -> dict[str, Path]:
    """No agent at all is what the prechecks say of every host."""
    from overlay.which_agents import sockets_meant

    try:
        return sockets_meant(lab, run)
    except EnvironmentLacksError:
        return {}


async def _apply(config: Kubeconfig, report: Report) -> None:
    """The object as it is asked for, and where its nodes are."""
    from supervisor_glue.api.status import ApiError
    from supervisor_glue.auth.caller import Caller
    from supervisor_glue.enabled import SUPERVISORS

    name, spec = report.spec.name, dict(report.spec.written)
    async with Caller(config) as client:
        item = {
            "apiVersion": "palisade.internal/v1alpha1",
            "kind": "Supervisor",
            "metadata": {"name": name},
            "spec": spec,
        }
        try:
            stored = await client.create(SUPERVISORS, item)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                raise
            stored = await client.update(SUPERVISORS, {**await client.get(SUPERVISORS, name), "spec": spec})
        # A second time, where its nodes are is where they stay, as long as there are as many.
        nodes = (stored.get("status") or {}).get("controlPlane") or []
        if len(nodes) != report.spec.nodes:
            status = {**(stored.get("status") or {}), "controlPlane": [node.as_object() for node in report.nodes]}
            await client.update(SUPERVISORS, {**stored, "status": status}, "status")


def render_report(data: dict[str, Any]) -> str:
    """For people: what is in the way, what is used later, where the nodes go."""
    reasons = data["incompatibility_reasons"]
    verdict = "compatible" if data["compatible"] else f"not compatible, for {counted(len(reasons), 'reason')}"
    lines = [f"Supervisor {data['cluster']} (profile {data['profile']}): {verdict}"]
    lines += [f"  {entry['default_message']} [{entry['id']}]" for entry in reasons]
    if data["used_later"]:
        lines.append("checked now, used later:")
        lines += [f"  {entry['default_message']}" for entry in data["used_later"]]
    if data["control_plane"]:
        lines.append("control plane:")
        lines += [
            f"  {node['name']} on {node['host']}, {node['address']}"
            + (f", floating {node['floating_address']}" if "floating_address" in node else "")
            for node in data["control_plane"]
        ]
    return "\n".join(lines)
