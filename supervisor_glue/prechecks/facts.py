# SPDX-License-Identifier: Apache-2.0
"""What there is: asked of hosts' agents at their local sockets, all hosts at once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path as FilePath
from typing import Any, Final

from dfw import __version__
from dfw.model import AddressRange, prefix_parse
from overlay.ask import AskError, agent_ask
from overlay.hoststate import ROUTE_CONNECTED
from overlay.path_mtu import MOST
from supervisor_glue.api.leg import LEG
from supervisor_glue.controllers.namespace_plan import segment_name
from supervisor_glue.prechecks.compatibility import Facts, HostFacts, Path, measured_with
from supervisor_glue.prechecks.spec import SupervisorSpec

STATUS_SECONDS: Final = 10.0
MEASURE_SECONDS: Final = 120.0
_NAMESPACE_SEGMENT: Final = segment_name("", 0).partition("--")[0] + "-"
_TOGETHER: Final = 32  # agents that are asked at a time


def read_facts(spec: SupervisorSpec, sockets: Mapping[str, FilePath]) -> Facts:
    """Facts of the hosts that the spec names. `sockets`: the agents' sockets, by host. What an agent refuses or does
    not answer is a fact, too. Ways are measured by all at once: hosts that share no segment get to know each other for
    that, and both ends have to."""
    known = [name for name in spec.hosts if name in sockets]
    with ThreadPoolExecutor(_TOGETHER) as pool:  # more than are measured with each other: who measures waits for them
        statuses = dict(zip(known, pool.map(lambda name: _status(sockets[name]), known), strict=True))
        teps = {name: str(status.get("tep") or "") for name, status in statuses.items()}

        def measure(name: str) -> tuple[HostFacts, list[tuple[str, AddressRange]]]:
            near = measured_with(spec.hosts, name)
            others = [{"host": other, "ip": tep} for other, tep in teps.items() if tep and other in near]
            return _host(sockets[name], spec.mtu, statuses[name], others)

        found = dict(zip(known, pool.map(measure, known), strict=True))
    segments = {segment for _, ranges in found.values() for segment in ranges if not is_own(spec, *segment)}
    return Facts(__version__, {name: facts for name, (facts, _) in found.items()}, tuple(sorted(segments, key=str)))


def _status(socket: FilePath) -> dict[str, Any]:
    try:
        return agent_ask(socket, {"do": "status"}, STATUS_SECONDS)
    except AskError as error:
        return {"problem": _sentence(str(error))}


def _host(
    socket: FilePath, mtu: int, status: dict[str, Any], others: list[dict[str, str]]
) -> tuple[HostFacts, list[tuple[str, AddressRange]]]:
    if "problem" in status:
        return HostFacts(status["problem"]), []
    try:
        request = {"do": "paths", "mtu": min(mtu, MOST), "teps": others}
        measured = agent_ask(socket, request, MEASURE_SECONDS)
        gateways = agent_ask(socket, {"do": "show", "what": "gateways"}, STATUS_SECONDS)["rows"]
    except (AskError, KeyError) as error:
        return HostFacts(_sentence(str(error))), []
    problem = f"its agent reports: {status['error']}" if status.get("error") else ""
    paths = tuple(Path(row["host"], row["tep"], _said(row["problem"], mtu)) for row in measured["rows"])
    facts = HostFacts(problem, measured["version"], status.get("tep") or "", int(status.get("vnics", 0)), paths)
    return facts, _segments(gateways)


def _said(problem: str, mtu: int) -> str:
    """The core measures up to a size; more than that is not known to arrive, and is not said to."""
    return problem or (f"{mtu} bytes are more than can be measured ({MOST})" if mtu > MOST else "")


def _segments(rows: list[dict[str, Any]]) -> list[tuple[str, AddressRange]]:
    """Prefixes of the segments that are there."""
    return [(str(row["target"]), prefix_parse(row["prefix"])) for row in rows if row["kind"] == ROUTE_CONNECTED]


def is_own(spec: SupervisorSpec, name: str, subnet: AddressRange) -> bool:
    """A segment that this Supervisor made, for a Namespace or its API, lies in the Pod CIDR by intention."""
    return (name == LEG or name.startswith(_NAMESPACE_SEGMENT)) and any(
        cidr.family is subnet.family and cidr.first <= subnet.first and subnet.last <= cidr.last
        for cidr in spec.pod_cidrs
    )


def _sentence(text: str) -> str:
    return text.rstrip(".").replace("\n", " ")
