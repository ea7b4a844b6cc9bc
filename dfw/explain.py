# SPDX-License-Identifier: Apache-2.0
"""`palisade explain`: the verdict on a packet, and why."""

from __future__ import annotations

import sys
from typing import Any

import click

from dfw.output import emit, output_option

DONE, NO, BAD_INPUT = 0, 1, 2


@click.command(
    epilog="""\b
Examples:
  palisade explain --policy policy.yaml --inventory inventory.yaml --from web-1 --to db-1 --proto tcp --dport 443
  palisade explain --policy all.yaml --from any --to group:db --dport 3306
  palisade explain --policy all.yaml --from 192.0.2.7 --to web-1 --proto icmp --icmp-type 8 -o json"""
)
@click.option(
    "--policy", "policies", multiple=True, required=True, metavar="F", help="Policy file; may be given again."
)
@click.option("--inventory", "inventories", multiple=True, metavar="F", help="Inventory file; may be given again.")
@click.option("--from", "source", required=True, metavar="X", help="vNIC, ns/pod, address, CIDR, group:ID or any.")
@click.option("--to", "destination", required=True, metavar="Y", help="The same.")
@click.option("--proto", default="tcp", show_default=True, metavar="P", help="tcp, udp, sctp, icmp, icmpv6, a number.")
@click.option("--dport", metavar="N", help="Destination port.")
@click.option("--sport", metavar="N", help="Source port (default 49152).")
@click.option("--icmp-type", type=click.IntRange(0, 255), help="Default: echo request.")
@click.option("--icmp-code", type=click.IntRange(0, 255), default=0, show_default=True)
@click.option("--family", type=click.Choice(["4", "6"]), help="Default: IPv4 where both ends have it.")
@click.option("--above", type=click.IntRange(0, 1000), default=3, show_default=True, help="Rules above to explain.")
@click.option("--at", metavar="TIME", help="For schedules: 2026-03-31T09:30 (UTC), or with an offset. Default: now.")
@click.option("--default-action", type=click.Choice(["ALLOW", "DROP", "REJECT"]), help="Of the default section.")
@output_option
def explain(output: str, **given: Any) -> int:
    """Say whether a packet arrives, which rule decided at each vNIC, and why: groups, tags, addresses, services.

    The packet is the first of a connection. It is judged OUT at the sender's vNIC and IN at the receiver's, by the
    model and by the packet core, which must agree. Where X or Y stands for several ends, all pairs are judged and the
    first that does not arrive is explained. Without an inventory one filter on a wire judges. Exit status 1 when it
    does not arrive.
    """
    from dfw.core import CoreError
    from dfw.endpoint import EndpointError
    from dfw.explain_run import PACKET_OPTIONS, explain_pairs, probes_of
    from dfw.explain_text import render_explanation
    from dfw.load import load
    from dfw.model import Action
    from dfw.moment import world_at
    from dfw.oracle import AmbiguousVnicError
    from dfw.probe import DisagreementError

    action = given["default_action"]
    loaded = load((*given["policies"], *given["inventories"]), default_action=Action(action) if action else None)
    try:
        world = world_at(loaded.world, given["at"])
        probes = probes_of(world, **{name: given[name] for name in PACKET_OPTIONS})
        result = explain_pairs(world, probes, loaded.has_inventory, given["above"])
    except (EndpointError, AmbiguousVnicError, CoreError, DisagreementError) as error:
        click.echo(f"palisade explain: {error}", err=True)
        return BAD_INPUT
    for end in (result["from"], result["to"]):
        if end["assumed"]:
            said = f"{end['vnic']} has no address (status.podIP); {end['address']} is assumed"
            click.echo(f"palisade explain: warning: the pod {said}", err=True)
    emit(result, output, lambda data: render_explanation(data, color=sys.stdout.isatty()))
    return DONE if result["allowed"] else NO
