# SPDX-License-Identifier: Apache-2.0
"""`palisade replay`: captured packets through a policy."""

from __future__ import annotations

import errno
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from dfw.output import FULL, emit, error_text, output_option, outputs_check, stdin_check
from dfw.replay_summary import render_summary

DONE, BAD_INPUT, LACKING = 0, 2, 3
OUTPUTS = ("verdicts", "flows", "allowed", "dropped", "generated", "log")


@click.command(
    epilog="""\b
Examples:
  palisade replay cap.pcap --policy policy.yaml
  palisade replay cap.pcap --policy policy.yaml --inventory inventory.yaml --verdicts v.jsonl --flows f.csv
  palisade replay big.pcapng.gz --policy policy.yaml --tap --repeat 5 -o json"""
)
@click.argument("captures", nargs=-1, required=True, metavar="CAPTURE...")
@click.option(
    "--policy", "policies", multiple=True, required=True, metavar="F", help="Policy file; may be given again."
)
@click.option("--inventory", "inventories", multiple=True, metavar="F", help="Inventory file; may be given again.")
@click.option("--tap", is_flag=True, help="One filter on a wire judges every packet once (default without inventory).")
@click.option("--vantage", type=click.Choice(["vnics", "tap"]), help="vnics: OUT at the sender, IN at the receiver.")
@click.option("--backend", type=click.Choice(["native", "oracle", "nftables"]), default="native", show_default=True)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--batch", type=click.IntRange(1, 256), default=32, show_default=True, help="Packets a burst.")
@click.option("--repeat", type=click.IntRange(1, 1000), default=1, show_default=True, help="Runs, for timing.")
@click.option("--clock", type=click.Choice(["capture", "stopped"]), default="capture", show_default=True)
@click.option("--speed", type=click.Choice(["max", "real"]), default="max", show_default=True)
@click.option("--checksums", type=click.Choice(["ignore", "verify"]), default="ignore", show_default=True)
@click.option("--decap", is_flag=True, help="Judge the packets inside Geneve and VXLAN.")
@click.option("--live-sanity", is_flag=True, help="Refuse source addresses that no live workload may have.")
@click.option("--live-limits", is_flag=True, help="With the budgets of live vNICs: unanswered connections, misses.")
@click.option("--each", is_flag=True, help="Clear connections and clock between files.")
@click.option("--default-action", type=click.Choice(["ALLOW", "DROP", "REJECT"]), help="Of the default section.")
@click.option("--capacity", type=click.IntRange(1, 1 << 28), default=1 << 20, show_default=True, help="Connections.")
@click.option("--verdicts", metavar="F", help="One JSON line a judgement.")
@click.option("--flows", metavar="F", help="One record a connection: .jsonl, .csv or .parquet.")
@click.option("--allowed", metavar="F", help="The packets that passed, pcapng with comments.")
@click.option("--dropped", metavar="F", help="The packets that did not, pcapng with comments.")
@click.option("--generated", metavar="F", help="RST and ICMP that REJECT would have sent, pcapng.")
@click.option("--log", metavar="F", help="The firewall log: logged rules' first packets, refusals, and ends of flows.")
@click.option("--log-format", type=click.Choice(["dfwpktlogs", "json"]), default="dfwpktlogs", show_default=True)
@output_option
def replay(output: str, **given: Any) -> int:
    """Judge captured packets by a policy: which rule decided what, what was dropped and why, and how fast.

    Reads pcap and pcapng, plain, gzip or zstd; `-` is standard input. A capture that cannot be read does not stop the
    others: it is named, and the exit status is 2.
    """
    started = time.monotonic()
    from dfw.core import CoreError
    from dfw.errors import UnsupportedError
    from dfw.flows import check_format
    from dfw.load import load
    from dfw.model import Action
    from dfw.replay_run import RunOptions, run_native

    check_format(given["flows"])
    read = (*given["captures"], *given["policies"], *given["inventories"])
    stdin_check(*read)
    outputs_check({f"--{name}": given[name] for name in OUTPUTS}, read)
    action = given["default_action"]
    loaded = load((*given["policies"], *given["inventories"]), default_action=Action(action) if action else None)
    has_inventory = loaded.has_inventory
    if given["vantage"] == "vnics" and not has_inventory:
        raise click.UsageError("--vantage vnics needs an inventory (--inventory F)")
    if given["tap"] and given["vantage"] == "vnics":
        raise click.UsageError("--tap and --vantage vnics exclude each other")
    vnics = has_inventory and not given["tap"] and given["vantage"] != "tap"
    if not has_inventory:
        from dfw.replay_notes import inventory_lacks

        for note in inventory_lacks(loaded.world):
            click.echo(note, err=True)
    options = RunOptions(
        vnics=vnics,
        stopped=given["clock"] == "stopped",
        realtime=given["speed"] == "real",
        verify=given["checksums"] == "verify",
        **{
            name: given[name]
            for name in ("workers", "batch", "repeat", "decap", "live_sanity", "live_limits", "each", "capacity")
        },
        **{name: given[name] for name in (*OUTPUTS, "log_format")},
    )
    try:
        with _progress(sys.stderr.isatty()) as told:
            if given["backend"] == "native":
                result = run_native(loaded.world, given["captures"], options, told)
            elif given["backend"] == "oracle":
                from dfw.replay_oracle import run_oracle

                result = run_oracle(loaded.world, given["captures"], options, told)
            else:
                from dfw.replay_nftables import run_nftables

                result = run_nftables(loaded.world, given["captures"], options, told)
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        click.echo(f"palisade replay: {error_text(error)}", err=True)
        return LACKING if error.errno in FULL else BAD_INPUT
    except (UnsupportedError, CoreError) as error:
        click.echo(f"palisade replay: {error}", err=True)
        return BAD_INPUT
    result.seconds = time.monotonic() - started
    for capture in result.captures:
        for text in filter(None, (capture.warning, capture.error)):
            click.echo(f"{capture.file}: {text}", err=True)
    written = [given[name] for name in OUTPUTS]
    if "-" not in written or output != "table":
        emit(result.as_json(), output, render_summary)
    return BAD_INPUT if result.failed else DONE


@contextmanager
def _progress(shown: bool) -> Iterator[Any]:
    """A counter on stderr while packets are judged; nothing where stderr is no terminal."""
    if not shown:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} packets judged"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("replay", total=None)
        yield lambda count: progress.update(task, completed=count)
