# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: what they time, the generators of what they run on, and the verb `bench`."""

from __future__ import annotations

import signal
from functools import partial
from typing import Any

import click

from dfw.output import emit, output_option
from dfw.verb_group import BenchGroup

DONE, NO, BAD_INPUT, LACKING = 0, 1, 2, 3
_KINDS = ("hit", "allowed", "refused", "setup", "fragment")
_RUNS = click.option("--runs", type=click.IntRange(1, 100), default=5, show_default=True)
_BATCH = click.option("--batch", type=click.IntRange(1, 256), default=32, show_default=True, help="Packets a burst.")
_LONG_BATCH = click.option(
    "--batch", type=click.IntRange(1, 256), default=128, show_default=True, help="Packets handed in together."
)


@click.group(cls=BenchGroup)
@click.pass_context
def bench(ctx: click.Context) -> None:
    """Measure the packet core on this machine, verdicts checked in the same run.

    \b
    Examples:
      palisade bench conntrack --connections 100000 -o json
      palisade bench classify --synthetic fw --count 10000
    """
    if ctx.invoked_subcommand in bench.commands:
        # Minutes pass in the packet core, where Python hears of no signal, and there is nothing to clean up.
        ctx.call_on_close(partial(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.SIG_DFL)))


def _shown(result: dict[str, Any], output: str) -> int:
    emit(result, output)
    return DONE if result["verified"] else NO


def _packet_options(function: Any) -> Any:
    options = (
        click.option("--connections", type=click.IntRange(1, 1_000_000), default=100_000, show_default=True),
        click.option("--bytes", "size", type=click.IntRange(64, 1514), default=64, show_default=True),
        click.option("--checksum", type=click.Choice(["off", "on"]), default="off", show_default=True),
        click.option("--family", type=click.Choice(["4", "6"]), default="4", show_default=True),
        click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True),
        click.option("--pattern", type=click.Choice(["random", "grid"]), default="random", show_default=True),
        click.option("--pages", type=click.Choice(["4k", "huge"]), default="4k", show_default=True),
        _LONG_BATCH,
        _RUNS,
        output_option,
    )
    for option in reversed(options):
        function = option(function)
    return function


def _packets(name: str, output: str, given: dict[str, Any]) -> int:
    from dfw.bench.machine import LackingError
    from dfw.bench.packets import PacketBench, bench_packets
    from dfw.core import CoreError

    chosen = PacketBench(
        connections=given["connections"],
        size=given["size"],
        family=int(given["family"]),
        batch=given["batch"],
        workers=given["workers"],
        grid=given["pattern"] == "grid",
        checksum=given["checksum"] == "on",
        huge_pages=given["pages"] == "huge",
        both=name == "pipeline",
        rules=given.get("rules", 1),
        runs=given["runs"],
    )
    try:
        return _shown(bench_packets(name, chosen), output)
    except (CoreError, LackingError, MemoryError) as error:
        click.echo(f"palisade bench: {error}", err=True)
        return LACKING


@bench.command
@_packet_options
def conntrack(output: str, **given: Any) -> int:
    """Established packets over many connections: parse, look up, window test and update, counters, timer."""
    return _packets("conntrack", output, given)


@bench.command
@click.option("--rules", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Of every filter.")
@_packet_options
def pipeline(output: str, **given: Any) -> int:
    """The firewall at both vNICs: two connections a packet. `hosts` (IPv4, one worker): the same through two whole
    hosts, with spoofguard, routing and Geneve, out of the one and into the other."""
    return _packets("pipeline", output, given)


@bench.command
@click.option("--rules", type=click.IntRange(1, 60_000), default=1000, show_default=True)
@click.option("--connections", type=click.IntRange(1000), default=500_000, show_default=True, help="New ones a run.")
@_BATCH
@_RUNS
@output_option
def setup(rules: int, connections: int, batch: int, runs: int, output: str) -> int:
    """New connections at steady state: SYN, SYN+ACK, ACK, first matches spread over the rules."""
    from dfw.bench.packets import bench_setup

    return _shown(bench_setup(rules, batch, connections, runs), output)


@bench.command
@click.option("--rules", metavar="FILE", help="ClassBench rules; with --trace.")
@click.option("--trace", metavar="FILE", help="ClassBench headers.")
@click.option("--synthetic", type=click.Choice(["acl", "fw", "ipc"]), help="A generated family instead of files.")
@click.option("--count", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Rules to generate.")
@click.option("--headers", type=click.IntRange(1, 10_000_000), default=1_000_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@_RUNS
@output_option
def classify(output: str, **given: Any) -> int:
    """First match over rules: look-ups, build, one rule and one member changed."""
    if (given["rules"] is None) != (given["trace"] is None) or (given["rules"] is None) == (given["synthetic"] is None):
        raise click.UsageError("give --rules and --trace, or --synthetic")
    from dfw.bench.lookups import bench_classify

    return _shown(bench_classify(**given), output)


@bench.command
@click.option(
    "--seconds", type=click.FloatRange(0), default=600.0, show_default=True, help="Of searching, for all kinds."
)
@click.option("--connections", type=click.IntRange(1000, 4_000_000), default=100_000, show_default=True)
@click.option("--rules", type=click.IntRange(1, 50_000), default=1000, show_default=True, help="In every rule set.")
@click.option("--packets", type=click.IntRange(512, 1_000_000), default=8192, show_default=True, help="Timed in a row.")
@click.option("--kind", "kinds", type=click.Choice(_KINDS), multiple=True, help="Only this kind; may be repeated.")
@click.option("--seed", type=int, default=1, show_default=True)
@_RUNS
@output_option
def adversary(output: str, kinds: tuple[str, ...], **given: Any) -> int:
    """Search for the packets and rules that cost most, beside benign ones of the same kind."""
    from dfw.bench.adversary import bench_adversary
    from dfw.core import CoreError

    try:
        return _shown(bench_adversary(kinds=kinds or _KINDS, **given), output)
    except (CoreError, MemoryError) as error:
        click.echo(f"palisade bench: {error}", err=True)
        return LACKING


@bench.command
@click.option("--packets", type=click.IntRange(1000, 100_000_000), default=4_000_000, show_default=True)
@click.option(
    "--bytes", "size", type=click.IntRange(96, 9000), default=128, show_default=True, help="Frames with data."
)
@click.option("--outputs", is_flag=True, help="With --verdicts and --flows.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@_RUNS
@output_option
def replay(output: str, **given: Any) -> int:
    """The whole command `palisade replay` over a large generated capture from warm disk, beside reading the file."""
    from dfw.bench.replays import ReplayBench, bench_replay

    return _shown(bench_replay(ReplayBench(**given)), output)


@bench.command
@click.option("--connections", type=click.IntRange(1000, 4_000_000), default=100_000, show_default=True)
@click.option("--rules", type=click.IntRange(1, 50_000), default=1000, show_default=True)
@click.option(
    "--packets", type=click.IntRange(1000, 2_000_000), default=200_000, show_default=True, help="Of each flood."
)
@click.option("--seed", type=int, default=1, show_default=True)
@_RUNS
@output_option
def attack(output: str, **given: Any) -> int:
    """Floods of 90 % of the packets: established connections lose nothing, and how fast the rest is dealt with."""
    from dfw.bench.floods import bench_attack
    from dfw.core import CoreError

    try:
        return _shown(bench_attack(**given), output)
    except (CoreError, MemoryError) as error:
        click.echo(f"palisade bench: {error}", err=True)
        return LACKING


@bench.command
@click.option("--namespaces", type=click.IntRange(1, 100_000), default=25_000, show_default=True)
@click.option("--policies", type=click.IntRange(0, 1_000_000), default=75_000, show_default=True)
@click.option("--pods", type=click.IntRange(1, 1_000_000), default=100_000, show_default=True)
@click.option("--hostile", is_flag=True, help="A tenth of the policies look at all namespaces, at half of all pods.")
@click.option("--verify", type=click.IntRange(0), default=2000, show_default=True, help="vNICs compiled one by one.")
@click.option("--seed", type=int, default=1, show_default=True)
@_RUNS
@output_option
def scale(output: str, **given: Any) -> int:
    """Compile a large cluster's policies from decoded objects; one pod's and one rule's change; peak memory."""
    from dfw.bench.scale import ScaleBench, bench_scale

    return _shown(bench_scale(ScaleBench(**given)), output)
