# SPDX-License-Identifier: Apache-2.0
"""`palisade trace`: Traceflow, a marked packet through the live data path, with what it met at each stage."""

from __future__ import annotations

import secrets
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import click

from dfw.cli import NO
from dfw.output import emit, output_option, render_table
from overlay.show import read_hosts
from overlay.which_agents import kubeconfig_option, lab_option, lone_agent, run_option, sockets_meant

WAIT_SECONDS: Final = 3.0  # for a packet to be seen at the next host
HOPS: Final = 4  # hosts: one that a workload has left sends on once
LOST: Final = "lost"

Row = dict[str, Any]


@click.command
@click.option("--from", "source", required=True, help="The vNIC that the packet is sent from.")
@click.option("--to", "destination", required=True, help="A vNIC or an address.")
@click.option("--proto", default="tcp", show_default=True, help="tcp, udp, sctp, icmp, icmpv6, or a number.")
@click.option("--dport", help="Destination port.")
@click.option("--sport", help="Source port; default: a dynamic one.")
@click.option("--icmp-type", type=click.IntRange(0, 255), help="Default: an echo request.")
@click.option("--icmp-code", type=click.IntRange(0, 255), default=0)
@click.option("--family", type=click.Choice(["4", "6"]), help="Where both ends have both.")
@lab_option
@run_option
@kubeconfig_option
@output_option
@click.pass_context
def trace(
    ctx: click.Context,
    source: str,
    destination: str,
    proto: str,
    dport: str | None,
    sport: str | None,
    icmp_type: int | None,
    icmp_code: int,
    family: str | None,
    lab: str | None,
    run: Path | None,
    kubeconfig: Path | None,
    output: str,
) -> None:
    """Send a marked packet from a vNIC through the live hosts, and show what each stage did with it.

    It goes through the same tables, filters and tunnel as the workload's own packets, up to the receiver's vNIC, which
    does not get it. It begins no connection, counts at no rule and uses up no budget. Exit status 1 where it does not
    arrive. With one host's agent (`--run`) what becomes of it on another host is not known: `arrived` is null.

    \b
    Examples:
      palisade trace --from web-1 --to app-1 --dport 8443
      palisade trace --from web-1 --to 10.1.3.11 --proto icmp -o json
    """
    packet = _packet(proto, dport, sport, icmp_type, icmp_code)
    sockets = sockets_meant(lab, run, kubeconfig=kubeconfig)
    shown = read_hosts(sockets, {"do": "show", "what": "vnics"})
    vnics = {row["vnic"]: row | {"host": host} for host, answer in shown.items() for row in answer.get("rows", ())}
    if source not in vnics:
        message = f"no host has a vNIC {source!r}; `palisade show vnics` lists them"
        raise click.BadParameter(message, param_hint="--from")
    wanted = family or {1: "4", 58: "6"}.get(packet["proto"])
    target = _target(vnics[source]["ips"], destination, vnics, wanted)
    request = {"do": "trace", "vnic": source, "dst": target, "mark": 1 + secrets.randbelow((1 << 24) - 1), **packet}
    alone = kubeconfig is None and lone_agent(lab, run) is not None
    rows = follow(sockets, str(vnics[source]["host"]), request, alone=alone)
    last = rows[-1]
    arrived: bool | None = last["stage"] == "answered" or (
        last["stage"] == "delivered" and (destination not in vnics or last["vnic"] == destination)
    )
    if last["stage"] == "encapsulated":
        arrived = None
    answer = {"from": source, "to": destination, "dst": target, **packet, "arrived": arrived, "observations": rows}
    emit(answer, output, render_trace)
    if arrived is False:
        ctx.exit(NO)


def follow(sockets: dict[str, Path], host: str, request: dict[str, Any], *, alone: bool = False) -> list[Row]:
    """The observations of a packet, from host to host; `alone`: other hosts are not asked. Raises click.UsageError
    where it cannot be sent."""
    from overlay.ask import AskError, agent_ask

    rows: list[Row] = []
    try:
        found = agent_ask(sockets[host], request)["rows"]
    except AskError as error:
        raise click.UsageError(str(error)) from error
    for _ in range(HOPS):
        rows += [{"host": host} | row for row in found]
        if alone or not found or found[-1]["stage"] != "encapsulated":
            break
        host = str(found[-1]["remote_host"])
        found = _await(sockets.get(host), request["mark"])
        if not found:
            rows.append({"host": host} | dict.fromkeys(rows[-1], None) | {"host": host, "stage": LOST})
            break
    return rows


def _await(path: Path | None, mark: int) -> list[Row]:
    """What the next host has seen, once its part of the way is over."""
    from overlay.ask import AskError, agent_ask
    from overlay.host_trace import is_last

    until = time.monotonic() + WAIT_SECONDS
    rows: list[Row] = []
    while path is not None and time.monotonic() < until:
        try:
            rows = agent_ask(path, {"do": "trace-read", "mark": mark})["rows"]
        except AskError:
            return rows
        if rows and (is_last(rows[-1]) or rows[-1]["stage"] == "encapsulated"):
            break
        time.sleep(0.01)
    return rows


def _packet(proto: str, dport: str | None, sport: str | None, icmp_type: int | None, icmp_code: int) -> dict[str, int]:
    from dfw.endpoint import EndpointError, port_parse, protocol_parse
    from dfw.model import PROTO_ICMP, PROTO_ICMPV6, PROTOCOLS_WITH_PORTS

    try:
        protocol = protocol_parse(proto)
        if protocol in PROTOCOLS_WITH_PORTS:
            if dport is None:
                raise EndpointError(f"{proto} has ports: --dport is missing")
            first = 49152 + secrets.randbelow(16384) if sport is None else port_parse(sport)
            return {"proto": protocol, "sport": first, "dport": port_parse(dport)}
        if dport is not None or sport is not None:
            raise EndpointError(f"{proto} has no ports: leave out --dport and --sport")
    except EndpointError as error:
        raise click.UsageError(str(error)) from error
    if protocol not in (PROTO_ICMP, PROTO_ICMPV6):
        return {"proto": protocol, "sport": 0, "dport": 0}
    echo = 8 if protocol == PROTO_ICMP else 128
    return {"proto": protocol, "sport": echo if icmp_type is None else icmp_type, "dport": icmp_code}


def _target(ips: list[str], destination: str, vnics: dict[str, Row], family: str | None) -> str:
    """The address to send to: the destination's, of a family that the source has too. Raises click.BadParameter."""
    if destination in vnics:
        choices = list(vnics[destination]["ips"])
    else:
        try:
            choices = [str(ip_address(destination))]
        except ValueError:
            message = f"{destination!r} is no address, and no host has a vNIC of that name"
            raise click.BadParameter(message, param_hint="--to") from None
    versions = {ip_address(ip).version for ip in ips} & ({int(family)} if family else {4, 6})
    found = [ip for ip in choices if ip_address(ip).version in versions]
    if not found:
        raise click.BadParameter("both ends have no address of a common family, or not of that one", param_hint="--to")
    return str(min(found, key=lambda ip: ip_address(ip).version))


def render_trace(answer: dict[str, Any]) -> str:
    """For people: one line an observation."""
    cells = [[n, row["host"], row["stage"], *_said(row)] for n, row in enumerate(answer["observations"], 1)]
    end = {True: "arrives", False: "does not arrive", None: "leaves this host"}[answer["arrived"]]
    head = f"{answer['from']} -> {answer['to']} ({answer['dst']}): {end}"
    return f"{head}\n\n{render_table(['n', 'host', 'stage', 'where', 'what'], cells, numbers=(0,))}"


def _said(row: Row) -> tuple[str, str]:
    """Where, and what happened there."""
    vnic, segment, gateway = row["vnic"], row["segment"], row["gateway"]
    stage = row["stage"]
    if stage == "filter":
        return f"{vnic} {row['dir']}", f"{row['verdict']} {row['reason']}, {row['rule_path'] or 'no rule'}"
    if stage == "route":
        return str(gateway), f"{row['route']} {row['route_kind']}" if row["route"] else "no route"
    if stage == "encapsulated":
        return f"{segment} ({row['vni']})", f"to TEP {row['tep']} of {row['remote_host']}"
    if stage == "received":
        return f"{segment} ({row['vni']})", f"from TEP {row['tep']} of {row['remote_host']}"
    if stage == "dropped":
        return "", str(row["reason"])
    if stage == LOST:
        return "", "did not come out of the tunnel within the time that was waited"
    return vnic or segment or "", f"routed by {gateway}" if gateway else ""
