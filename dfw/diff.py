# SPDX-License-Identifier: Apache-2.0
"""`palisade diff`: the traffic that newly passes or is newly refused."""

from __future__ import annotations

from typing import Any

import click

from dfw.output import emit, output_option, stdin_check

DONE, NO, BAD_INPUT = 0, 1, 2


class _Files(click.Command):
    """`--to` takes all files that follow it: `diff OLD… --to NEW…`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Write `--to a b` as `--to a --to b`."""
        spread: list[str] = []
        after = False
        for at, item in enumerate(args):
            if item == "--to":
                after = True
                if at + 1 == len(args) or (args[at + 1].startswith("-") and args[at + 1] != "-"):
                    spread.append(item)
            elif after and (item == "-" or not item.startswith("-")):
                spread += ("--to", item)
            else:
                after = False
                spread.append(item)
        return super().parse_args(ctx, spread)


@click.command(
    cls=_Files,
    epilog="""\b
Examples:
  palisade diff policy.yaml --to changed.yaml --inventory inventory.yaml
  palisade diff old/*.yaml --to new/*.yaml -o json
  palisade diff policy.yaml --to changed.yaml --inventory inventory.yaml --flows flows.jsonl --flows cap.pcap""",
)
@click.argument("old", nargs=-1, required=True, metavar="OLD...")
@click.option("--to", "new", multiple=True, required=True, metavar="NEW...", help="The files of the changed policy.")
@click.option("--inventory", "inventories", multiple=True, metavar="F", help="Inventory of both; may be given again.")
@click.option(
    "--flows",
    "flows",
    multiple=True,
    metavar="F",
    help="Flow records (.jsonl, .csv, .parquet) or a capture: which recorded flows change. May be given again.",
)
@click.option("--at", metavar="TIME", help="For schedules: 2026-03-31T09:30 (UTC), or with an offset. Default: now.")
@click.option("--default-action", type=click.Choice(["ALLOW", "DROP", "REJECT"]), help="Of the default section.")
@output_option
def diff(output: str, **given: Any) -> int:
    """Say what a change of policy does to traffic: what newly passes, and what is newly refused.

    Exact, for all packets: as few sets of packets as joining them gives, each with a sample that the packet core judged
    under both policies, and with the rules that decide. OLD and NEW may bring inventories of their own; --inventory is
    for both. Without an inventory one filter on a wire judges. Exit status 1 when anything differs.
    """
    from dfw.core import CoreError
    from dfw.diff_run import diff_worlds, render_diff
    from dfw.endpoint import EndpointError
    from dfw.errors import UnsupportedError
    from dfw.load import load
    from dfw.model import Action
    from dfw.moment import world_at
    from dfw.oracle import AmbiguousVnicError
    from dfw.probe import DisagreementError

    stdin_check(*given["old"], *given["new"], *given["inventories"], *given["inventories"])
    action = Action(given["default_action"]) if given["default_action"] else None
    sides = [load((*files, *given["inventories"]), default_action=action) for files in (given["old"], given["new"])]
    try:
        old, new = (world_at(loaded.world, given["at"]) for loaded in sides)
        tap = not all(loaded.world.inventory.ports for loaded in sides)
        if tap and any(loaded.world.inventory.ports for loaded in sides):
            raise EndpointError("only one side has an inventory with ports; give one for both with --inventory")
        result = diff_worlds(old, new, tap)
        if given["flows"]:
            from dfw.diff_flows import flows_compare

            result["flows"] = flows_compare(old, new, tap, given["flows"])
            result["equal"] = result["equal"] and not result["flows"]["changed"]
    except (EndpointError, AmbiguousVnicError, CoreError, DisagreementError, UnsupportedError) as error:
        click.echo(f"palisade diff: {error}", err=True)
        return BAD_INPUT
    emit(result, output, render_diff)
    return DONE if result["equal"] else NO
