# SPDX-License-Identifier: Apache-2.0
"""`lab graph`: gateways, segments, pods and hosts as text, as a graph in DOT, and as SVG by graphviz."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator

from dfw.errors import EnvironmentLacksError
from dfw.model import Inventory, PolicySet, Port, Segment
from overlay.service_router import service_routers


def graph_text(name: str, world: PolicySet) -> str:
    """A tree: Tier-0, Tier-1, segments, pods, each pod with its addresses and its host; then the hosts."""
    inventory = world.inventory
    lines = [f"lab {name}"]
    for gateway in inventory.gateways.values():
        if gateway.uplink_gateway is None:
            lines += _gateway_lines(inventory, gateway.name, 0)
    for segment in inventory.segments.values():
        if segment.gateway is None:
            lines += _segment_lines(inventory, segment, 0)
    lines.append("hosts")
    for host in inventory.hosts.values():
        pods = [port.name for port in inventory if port.host == host.name]
        lines.append(f"  {host.name}, TEP {host.tep}: {', '.join(pods) or 'no pods'}")
    return "\n".join(lines)


def _gateway_lines(inventory: Inventory, name: str, depth: int) -> Iterator[str]:
    gateway = inventory.gateways[name]
    edge = _edge(inventory, name)
    yield f"{'  ' * depth}Tier-{gateway.tier} {name}" + (f", to the outside by {edge}" if edge else "")
    for below in inventory.gateways.values():
        if below.uplink_gateway == name:
            yield from _gateway_lines(inventory, below.name, depth + 1)
    for segment in inventory.segments.values():
        if segment.gateway == name:
            yield from _segment_lines(inventory, segment, depth + 1)


def _edge(inventory: Inventory, gateway: str) -> str | None:
    """The Edge host that carries a gateway's service router."""
    return next((item.host for item in service_routers(inventory) if item.gateway == gateway), None)


def _segment_lines(inventory: Inventory, segment: Segment, depth: int) -> Iterator[str]:
    subnets = ", ".join(map(str, segment.subnets))
    yield f"{'  ' * depth}segment {segment.name}, VNI {segment.vni}" + (f", {subnets}" if subnets else "")
    for port in _ports_of(inventory, segment):
        yield f"{'  ' * (depth + 1)}{port.name} on {port.host}: {', '.join(map(str, port.ips))}"


def _ports_of(inventory: Inventory, segment: Segment) -> Iterable[Port]:
    return (port for port in inventory if port.segment == segment.name)


def graph_dot(name: str, world: PolicySet) -> str:
    """The same in graphviz's language: a box for each host with its pods, lines to segments and gateways."""
    inventory = world.inventory
    lines = [f"graph {_quoted(f'lab {name}')} {{"]
    lines.append("  rankdir=TB; node [fontname=sans, fontsize=10]; edge [color=gray40];")
    for gateway in inventory.gateways.values():
        shape = "octagon" if gateway.tier == 0 else "hexagon"
        label = _quoted(f"Tier-{gateway.tier}\n{gateway.name}")
        look = f"shape={shape}, style=filled, fillcolor=lightsteelblue"
        lines.append(f"  {_quoted(gateway.path)} [{look}, label={label}];")
        if gateway.uplink_gateway is not None:
            above = inventory.gateways[gateway.uplink_gateway].path
            lines.append(f"  {_quoted(above)} -- {_quoted(gateway.path)};")
    for segment in inventory.segments.values():
        label = _quoted("\n".join([f"{segment.name}, VNI {segment.vni}", *map(str, segment.subnets)]))
        look = 'shape=box, style="filled,rounded", fillcolor=wheat'
        lines.append(f"  {_quoted(segment.path)} [{look}, label={label}];")
        if segment.gateway is not None:
            lines.append(f"  {_quoted(inventory.gateways[segment.gateway].path)} -- {_quoted(segment.path)};")
    for number, host in enumerate(inventory.hosts.values()):
        lines += [
            f"  subgraph cluster_{number} {{",
            f"    label={_quoted(f'{host.name}, TEP {host.tep}')}; fontname=sans; fontsize=10; color=gray60;",
        ]
        for port in inventory:
            if port.host == host.name:
                label = _quoted("\n".join([port.name, *map(str, port.ips)]))
                lines.append(f"    {_quoted(port.path)} [shape=box, label={label}];")
        for item in service_routers(inventory):
            if item.host == host.name:
                label = _quoted(f"service router\n{item.gateway}")
                lines.append(f"    {_quoted(item.port.path)} [shape=octagon, label={label}];")
        lines.append("  }")
    lines += [f"  {_quoted(inventory.segment_of(port).path)} -- {_quoted(port.path)};" for port in inventory]
    routers = service_routers(inventory)
    if routers:
        lines.append("  outside [shape=ellipse, style=dashed];")
    for item in routers:
        lines.append(f"  {_quoted(inventory.gateways[item.gateway].path)} -- {_quoted(item.port.path)} -- outside;")
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    """A DOT string. Labels' line ends stay line ends."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def graph_svg(dot: str) -> str:
    """SVG of a graph in DOT. Raises EnvironmentLacksError without graphviz."""
    try:
        done = subprocess.run(["dot", "-Tsvg"], input=dot, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        raise EnvironmentLacksError("no command dot", "apt-get install -y --no-install-recommends graphviz") from None
    return done.stdout.rstrip("\n")
